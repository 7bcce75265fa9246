"""Results that took long to make, stored as files, so that an interrupted evaluation goes on where it stopped."""

from __future__ import annotations

import ast
import functools
import hashlib
import io
import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ecgnb.files import sealed, write_sealed

PACKAGE = Path(__file__).parents[1]
# What decides the examples that an attack finds …
SEARCHES = (
    "attacks/*.py",
    "models/classifier.py",
    "models/keras_classifier.py",
    "evaluation/minimal.py",
    "evaluation/certification.py",
)
# … and what decides the numbers of a report besides.
NUMBERS = (
    *SEARCHES,
    "metrics.py",
    "data/arrays.py",
    "data/dataset.py",
    "data/own.py",
    "evaluation/checks.py",
    "evaluation/engine.py",
    "evaluation/run.py",
    "evaluation/signals.py",
    "evaluation/suites.py",
)
_ONE_AT_A_TIME = threading.Lock()  # Python 3.11 fails if two threads parse side by side


@functools.cache
def code_digest(modules: tuple[str, ...] = SEARCHES) -> str:
    """SHA-256 of the code that decides results: comments, docstrings, imports and layout do not count."""
    total = hashlib.sha256()
    for path in sorted(path for pattern in modules for path in PACKAGE.glob(pattern)):
        with _ONE_AT_A_TIME:
            tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                body = node.body[ast.get_docstring(node) is not None :]
                node.body = [n for n in body if not isinstance(n, ast.Import | ast.ImportFrom)]
        total.update(f"{path.relative_to(PACKAGE).as_posix()} {ast.dump(tree)}".encode())
    return total.hexdigest()


def cached(folder: Path, name: str, key: dict, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What `make` returns, from `folder` if it was made before for the same key, and its file is whole.

    key : everything that decides the result, besides this package's code, which is added; it names the file, so
    that nothing is ever taken for something else. name : the readable part of the file's name.
    """
    found = stored(folder, name, key)
    if found is not None:
        return found
    arrays = {part: np.asarray(array) for part, array in make().items()}

    def write(target: Path) -> None:
        with target.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    write_sealed(file_of(folder, name, key), write)
    return arrays


def stored(folder: Path, name: str, key: dict) -> dict[str, np.ndarray] | None:
    """A result of `cached`, or None if it was not made yet, or its file is damaged."""
    content = sealed(file_of(folder, name, key))
    return None if content is None else dict(np.load(io.BytesIO(content), allow_pickle=False))


def file_of(folder: Path, name: str, key: dict) -> Path:
    """The file in which `cached` stores a result."""
    text = json.dumps(key | {"code": code_digest()}, sort_keys=True, ensure_ascii=False)
    plain = "".join(c if c.isalnum() or c in "-+" else "_" for c in name)
    return folder / f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.npz"
