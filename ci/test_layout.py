"""The package as a house: rooms import one way, light ones load nothing heavy, and the public names are there."""

from __future__ import annotations

import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import ecgnb

PACKAGE = ROOT / "ecgnb"
ORDER = (  # each imports only those before it
    ("errors", "constants", "values", "files", "progress", "metrics", "quiet"),
    ("data",),
    ("models",),
    ("attacks",),
    ("training",),
    ("evaluation",),
    ("report",),
    ("notebook", "explore", "art"),
    ("__main__",),
)
HEAVY = ("tensorflow", "keras", "requests", "IPython", "matplotlib", "wfdb", "jinja2")
FILES = sorted(PACKAGE.rglob("*.py"))


def room(module: str) -> int:
    """The place in ORDER of a module such as ecgnb.data.records."""
    name = module.split(".")[1]
    return next(i for i, names in enumerate(ORDER) if name in names)


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ecgnb"):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {m for m in inner if is_module(m)}
            found |= modules or {node.module}
    return found


def is_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path))
def test_imports_run_one_way(path):
    module = module_of(path)
    if module == "ecgnb":
        return
    upwards = [other for other in imported(path) if room(other) > room(module)]
    assert not upwards, f"{module} imports {upwards}"


def test_no_two_modules_import_each_other():
    graph = {module_of(path): imported(path) for path in FILES}

    def reaches(start: str, goal: str, seen: set[str]) -> bool:
        if start == goal and seen:
            return True
        return any(reaches(other, goal, seen | {other}) for other in graph.get(start, ()) if other not in seen)

    circles = [module for module in graph if reaches(module, module, set())]
    assert not circles


@pytest.mark.parametrize(
    "modules",
    [
        "ecgnb",
        "ecgnb.metrics ecgnb.attacks ecgnb.data.dataset ecgnb.models.classifier",
        "ecgnb.evaluation.suites ecgnb.evaluation.schema ecgnb.evaluation.engine",
        "ecgnb.report.tables ecgnb.report.runs ecgnb.training.configuration",
    ],
)
def test_modules_that_need_nothing_heavy_load_nothing_heavy(modules):
    script = f"import sys, {', '.join(modules.split())}; print(*(m for m in {HEAVY} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_public_names_are_few_and_load():
    assert 10 <= len(ecgnb.__all__) <= 15
    for name in ecgnb.__all__:
        assert getattr(ecgnb, name).__doc__, name
    assert set(ecgnb.__all__) <= set(dir(ecgnb))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ecgnb.nothing
    rooms = [names[0] for names in ORDER if (PACKAGE / names[0]).is_dir()]
    assert all(f"`{name}`" in ecgnb.__doc__ for name in rooms)


@pytest.mark.parametrize("module", [module_of(path) for path in FILES if ">>> " in path.read_text()])
def test_examples_in_docstrings_hold(module):
    found = doctest.testmod(importlib.import_module(module), extraglobs={"np": importlib.import_module("numpy")})
    assert found.attempted and not found.failed
