"""The repository itself: one list of packages, one table, no recording, no stray file."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from update_readme import PAGES, with_tables


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def project_lines(section: str) -> list[str]:
    """Requirement strings of one list in pyproject.toml (tomllib is not in Python 3.10)."""
    text = (ROOT / "pyproject.toml").read_text()
    body = re.search(rf"^{section} = \[\n(.*?)^\]", text, re.S | re.M).group(1)
    return re.findall(r'^\s*"([^"]+)"', body, re.M)


def test_environment_yml_equals_pyproject():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(d for d in conda["dependencies"] if isinstance(d, dict))["pip"]
    assert pip[:-1] == project_lines("dependencies") + project_lines("test")
    assert pip[-1] == "--editable ."
    requires = re.search(r'requires-python = "(.+)"', (ROOT / "pyproject.toml").read_text()).group(1)
    assert f"python{requires}" in conda["dependencies"]


@pytest.mark.parametrize(
    ("lock", "sections"),
    [("requirements", ("dependencies", "test")), ("extras", ("peers", "bench", "cluster", "site", "browser"))],
)
def test_a_lock_pins_every_dependency_with_the_digests_of_its_files(lock, sections):
    entries = re.split(r"\n(?=\w)", (ROOT / "ci" / f"{lock}.lock").read_text("utf-8"))[1:]
    assert all(re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry, re.S) for entry in entries)
    pinned = {entry.partition("==")[0] for entry in entries}
    for requirement in (r for section in sections for r in project_lines(section)):
        assert re.match(r"[A-Za-z0-9-]+", requirement).group().lower() in pinned
    wanted = [
        line
        for line in re.findall(
            r"pip install(.*)",
            "".join((ROOT / "ci" / name).read_text("utf-8") for name in ("env.sh", "test", "bench", "site")),
        )
        if f"{lock}.lock" in line
    ]
    assert wanted and all("--require-hashes" in line for line in wanted)


def test_the_top_level_is_what_was_asked_for():
    top = {Path(name).parts[0] for name in tracked()}
    asked = {"notebooks", "ecgnb", "figures", "models", "ci", "environment.yml", "README.md"}
    demanded = {"pyproject.toml", "LICENSE", "CITATION.cff"}
    assert asked <= top
    assert all(name in asked | demanded or name.startswith(".") for name in top)


def test_no_recording_is_tracked():
    assert not [name for name in tracked() if name.endswith((".mat", ".hea", ".zip"))]


def test_models_are_small_enough_to_ship():
    sizes = [(ROOT / name).stat().st_size for name in tracked() if name.endswith(".keras")]
    assert len(sizes) >= 3 and max(sizes) < 4e6 and sum(sizes) < 40e6


@pytest.mark.parametrize("page", PAGES)
def test_the_numbers_of_a_page_come_from_the_json(page):
    text = (ROOT / page).read_text("utf-8")
    assert with_tables(text, PAGES[page], ROOT / "figures") == text
    assert all(f"<!-- {name} -->" in text for name in PAGES[page])


def test_the_front_page_is_short():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert len(readme.split()) <= 1200
    blocks = re.findall(r"```\w*\n(.*?)```", readme, re.S)
    assert max(len(line) for block in blocks for line in block.splitlines()) <= 90


def test_notebooks_hold_no_path_of_the_machine_they_ran_on():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert str(ROOT) not in path.read_text()
