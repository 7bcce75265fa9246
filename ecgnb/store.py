"""Results that took long to make, kept as files, so that an interrupted evaluation goes on where it stopped."""

from __future__ import annotations

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


def cached(
    folder: Path, name: str, key: dict, make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What `make` returns, from `folder` if it was made before for the same key.

    key : everything that decides the result; it names the file, so that nothing is ever taken for something
    else. name : the readable part of the file's name.
    """
    text = json.dumps(key, sort_keys=True, ensure_ascii=False)
    plain = "".join(c if c.isalnum() or c in "-+" else "_" for c in name)
    path = folder / f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.npz"
    if not path.exists():
        arrays = make()

        def write(target: Path) -> None:
            with target.open("wb") as file:
                np.savez_compressed(file, **arrays)

        write_atomically(path, write)
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)
