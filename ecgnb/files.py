"""Writing files so that nobody ever finds half of one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
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
        write_atomically(_array_path(stem, name), partial(_save_array, array))


def has_arrays(stem: Path, names: Sequence[str]) -> bool:
    """Whether `save_arrays` wrote all of these."""
    return all(_array_path(stem, name).exists() for name in names)


def load_arrays(stem: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """What `save_arrays` wrote.

    The arrays are read-only and mapped, not read: what is never looked at takes neither time nor memory.
    """
    return {name: np.asarray(np.load(_array_path(stem, name), mmap_mode="r")) for name in names}


def _save_array(array: np.ndarray, path: Path) -> None:
    np.save(path, array)


def _array_path(stem: Path, name: str) -> Path:
    return stem.with_name(f"{stem.name}-{name}.npy")


def array_digest(*arrays: np.ndarray) -> str:
    """SHA-256 of arrays: their shapes, types and bytes."""
    total = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        total.update(f"{array.shape} {array.dtype}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


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
