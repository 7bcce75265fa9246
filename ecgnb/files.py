"""Writing files so that nobody ever finds half of one, and knowing a damaged one when it is read."""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import re
import secrets
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path

import numpy as np

from ecgnb.errors import EcgnbError

TEMPORARY = re.compile(r"\.[0-9a-f]{16}-.")  # how the names of half-written files begin
WRITABLE = "see that it can be written and that the disk has room, then run the same command again"
SEAL_BYTES = 4


@contextmanager
def file_errors(path: Path, remedy: str = WRITABLE) -> Iterator[None]:
    """Turn what the system says of a file into one line that names it and the remedy."""
    try:
        yield
    except OSError as error:
        raise EcgnbError(f"{path}: {error.strerror or error}; {remedy}") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary name in the folder of `path`, then rename; the folder is made.

    The temporary name keeps the ending, by which NumPy and Keras choose the format. It is random, since processes
    in different containers may have the same number. Raises EcgnbError if the disk is full, or the folder cannot be
    written.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}-{path.name}")
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy_once(path.parent)
        try:
            write(temporary)
            temporary.replace(path)
        finally:
            with suppress(OSError):  # or it would hide what went wrong
                temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically; what an ASCII locale could not decode, such as a path, becomes itself again."""
    write_atomically(path, lambda target: target.write_text(text, "utf-8", "surrogateescape"))


def write_json(path: Path, numbers: dict) -> None:
    """Write numbers as JSON in their order, so that the same numbers make the same file."""
    write_text(path, json.dumps(_plain(numbers), indent=1, ensure_ascii=False) + "\n")


def remove_half_written(folder: Path, age: float = 0) -> None:
    """Remove what `write_atomically` left in a folder when it was killed, if it is older than `age`, seconds."""
    for path in folder.glob(".*"):
        with suppress(OSError):  # another process removed it, or may and this one may not
            if TEMPORARY.match(path.name) and time.time() - path.stat().st_mtime >= age:
                path.unlink()


_tidy_once = cache(partial(remove_half_written, age=86400))  # nothing takes a day to write


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made, for this process alone; EcgnbError if another one holds it.

    The system ends the lock with the process, however that ends.
    """
    with file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a", encoding="utf-8")
    with file:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise EcgnbError(f"{folder}: in use by another process; wait for it, or name another folder") from None
            raise EcgnbError(f"{folder}: cannot be locked ({error.strerror}); name one on another disk") from error
        yield


def write_sealed(path: Path, write: Callable[[Path], object]) -> None:
    """As `write_atomically`, with a check sum at the end of the file, for `sealed`."""

    def write_and_seal(target: Path) -> None:
        write(target)
        with target.open("r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            file.seek(0, 2)
            file.write(_seal(path, memoryview(content)))

    write_atomically(path, write_and_seal)


def sealed(path: Path) -> memoryview | None:
    """The content of a file of `write_sealed`, mapped; None if it is absent, damaged, or bears another's name.

    A check of 300 MB takes a quarter of a second; SHA-256 takes three times as long on older processors.
    """
    try:
        with path.open("rb") as file:
            whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError):  # ValueError: it is empty
        return None
    content, seal = whole[:-SEAL_BYTES], whole[-SEAL_BYTES:]
    return content if seal == _seal(path, content) else None


def _seal(path: Path, content: memoryview) -> bytes:
    return zlib.crc32(content, zlib.crc32(path.name.encode("utf-8", "surrogateescape"))).to_bytes(SEAL_BYTES, "big")


def save_arrays(stem: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write each array to a file of its own, named after `stem`, for `load_arrays`."""
    for name, array in arrays.items():
        write_sealed(_array_path(stem, name), partial(_save_array, array))


def has_arrays(stem: Path, names: Sequence[str]) -> bool:
    """Whether `save_arrays` wrote all of these, and none is damaged."""
    return all(sealed(_array_path(stem, name)) is not None for name in names)


def load_arrays(stem: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """What `save_arrays` wrote.

    The arrays are read-only and mapped: what is never looked at takes no memory.
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


def file_digest(path: Path) -> str:
    """SHA-256 of a file; "" if there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


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
