"""Writing files so that nobody ever finds half of one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary name in the folder of `path`, then rename; the folder is made.

    The temporary name keeps the ending, by which NumPy and Keras choose the format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, numbers: dict) -> None:
    """Write numbers as JSON in their order, so that the same numbers make the same file."""
    text = json.dumps(_plain(numbers), indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"))


def save_arrays(stem: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write each array to a file of its own, named after `stem`, for `load_arrays`."""
    for name, array in arrays.items():
        path = stem.with_name(f"{stem.name}-{name}.npy")
        write_atomically(path, lambda target, array=array: np.save(target, array))


def load_arrays(stem: Path, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """What `save_arrays` wrote, or None if any of it is missing.

    The arrays are read-only and mapped, not read: what is never looked at takes neither time nor memory.
    """
    paths = {name: stem.with_name(f"{stem.name}-{name}.npy") for name in names}
    if not all(path.exists() for path in paths.values()):
        return None
    return {name: np.asarray(np.load(path, mmap_mode="r")) for name, path in paths.items()}


def _plain(value: object) -> object:
    """`value` as JSON knows it: NumPy made plain, NaN and infinities None."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
