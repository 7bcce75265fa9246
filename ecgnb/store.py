"""Results that took long to make, kept as files, so that an interrupted evaluation goes on where it stopped."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ecgnb.files import write_atomically


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 of arrays: their shapes, types and bytes."""
    total = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        total.update(f"{array.shape} {array.dtype}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


# The modules that decide what an attack finds.
DECIDING = (
    *("attacks", "controls", "filters", "geometry", "gradients", "losses"),
    *("robustness", "smoothing", "threats"),
)


@functools.cache
def code_digest() -> str:
    """SHA-256 of the code that decides results: comments, docstrings and layout do not count."""
    total = hashlib.sha256()
    for module in DECIDING:
        tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                node.body = node.body[ast.get_docstring(node) is not None :]
        total.update(ast.dump(tree).encode())
    return total.hexdigest()


def cached(
    folder: Path, name: str, key: dict, make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What `make` returns, from `folder` if it was made before for the same key.

    key : everything that decides the result, besides this package's code, which is added; it names the file, so
    that nothing is ever taken for something else. name : the readable part of the file's name.
    """
    path = file_of(folder, name, key)
    if not path.exists():
        arrays = make()

        def write(target: Path) -> None:
            with target.open("wb") as file:
                np.savez_compressed(file, **arrays)

        write_atomically(path, write)
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def file_of(folder: Path, name: str, key: dict) -> Path:
    """The file in which `cached` keeps a result."""
    text = json.dumps(key | {"code": code_digest()}, sort_keys=True, ensure_ascii=False)
    plain = "".join(c if c.isalnum() or c in "-+" else "_" for c in name)
    return folder / f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.npz"
