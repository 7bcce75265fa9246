"""Where the files of PhysioNet come from, the challenge's and noise records: a local mirror, the cache, or PhysioNet."""

from __future__ import annotations

import os
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import platformdirs

from ecgnb.data.archive import Archive
from ecgnb.errors import EcgnbError
from ecgnb.files import file_digest, file_errors, write_atomically, write_text
from ecgnb.progress import bar

PHYSIONET = "https://physionet.org/files/challenge-2017/1.0.0/"
NSTDB = "https://physionet.org/files/nstdb/1.0.0/"  # MIT-BIH Noise Stress Test Database
NSTDB_FILES = [f"{record}.{ending}" for record in ("em", "ma", "bw") for ending in ("hea", "dat")]
LABELS_V3 = "REFERENCE-v3.csv"
LABELS_V3_SHA256 = "ae517e474b0bc89a7517ad876b5b4dadc6c94f680d0665c04746db9432df855b"

# First the zip that PhysioNet serves, then the unpacked layouts people keep on disk.
LAYOUTS = {
    "training": ("training2017.zip", "training2017", "training_data", "training"),
    "validation": ("sample2017.zip", "sample2017", "validation_data", "validation"),
}
CONNECT_SECONDS = 10  # no answer within this time counts as "no network"
PATIENCE_SECONDS, SLOWEST = 60, 10_000  # a download may take so long, and a second for so many bytes


class NoRecordings(EcgnbError):
    """The recordings are neither in a mirror, nor cached, nor to be reached."""


def cache_dir() -> Path:
    """Folder for downloads and array caches: `ECGNB_CACHE`, else the system's cache folder."""
    path = Path(os.environ.get("ECGNB_CACHE") or platformdirs.user_cache_dir("ecgnb"))
    with file_errors(path, "ECGNB_CACHE names another folder"):
        path.mkdir(parents=True, exist_ok=True)
    return path


def find_archive(split: str, folder: Path | None = None) -> Archive:
    """The archive of `split` ("training" or "validation"): in `folder`, else in the mirror, else fetched."""
    place = folder or _mirror()
    if isinstance(place, Path):
        for name in LAYOUTS[split]:
            if (place / name).exists():
                return Archive(place / name)
    if folder:
        raise EcgnbError(
            f"{folder}: holds none of {', '.join(LAYOUTS[split])}, nor labels.csv, the table of a folder of WFDB records"
        )
    return Archive(_download(LAYOUTS[split][0]))


def find_labels_v3(split: str, folder: Path | None = None) -> Path:
    """The file of final labels (v3): in `folder` or its folder of that split, else in the mirror, else fetched.

    For a folder of one's own nothing is fetched: PhysioNet's labels are not those of its recordings. There
    REFERENCE.csv in the folder of the split will do.
    """
    place = folder or _mirror()
    if isinstance(place, Path):
        for path in (place / LABELS_V3, *(place / name / LABELS_V3 for name in LAYOUTS[split])):
            if path.is_file():
                return path
    if folder:
        inside = [folder / name / "REFERENCE.csv" for name in LAYOUTS[split][1:]]
        for path in inside:
            if path.is_file():
                return path
        raise EcgnbError(
            f"{folder}: holds neither {LABELS_V3} nor {inside[-1].relative_to(folder)}; write one: a line "
            "`record,label` (A N O ~) for each recording"
        )
    return _download(LABELS_V3, sha256=LABELS_V3_SHA256)


def find_nstdb(folder: Path | None = None) -> Path:
    """The folder of the NSTDB's noise records: `folder`, else `nstdb` in the mirror, else fetched (6 MB)."""
    mirror = _mirror()
    place = folder or (mirror / "nstdb" if isinstance(mirror, Path) else None)
    missing = [name for name in NSTDB_FILES if place and not (place / name).is_file()]
    if place and not missing:
        return place
    if folder:
        raise EcgnbError(f"{folder}: holds no {missing[0]}; put the files of {NSTDB} there, or name another folder")
    for name in NSTDB_FILES:
        path = _download(f"nstdb/{name}", physionet=NSTDB)
    return path.parent


def _mirror() -> Path | str:
    """`ECGNB_MIRROR` as a folder or a base URL; PhysioNet when it is not set."""
    mirror = os.environ.get("ECGNB_MIRROR", "")
    if not mirror:
        return PHYSIONET
    if mirror.startswith(("http://", "https://")):
        return mirror.rstrip("/") + "/"
    if not Path(mirror).is_dir():
        raise EcgnbError(f"ECGNB_MIRROR={_shown(mirror)}: no such folder; unset it or name an existing one")
    return Path(mirror).resolve()


def _download(name: str, sha256: str | None = None, physionet: str = PHYSIONET) -> Path:
    """Path of `name` in the cache, fetched first if it is not there whole.

    name : as a mirror and the cache have it; PhysioNet has it, without a folder, at the address `physionet`.
    Only what passed the test gets its name. The zips have no published digest (each recording is verified against
    the manifest instead), so their own check sums are tested. The test is noted beside the file, since it takes
    a second, with the size and the time of the file that it belongs to.
    """
    target = cache_dir() / "files" / name
    note = target.with_name(f"{target.name}.tested")
    if note.exists() and note.read_text("utf-8") == _stamp(target):
        return target
    if not target.exists() or _fault(target, sha256):
        mirror = _mirror()
        is_own = isinstance(mirror, str) and mirror != PHYSIONET
        url = f"{mirror}{name}" if is_own else f"{physionet}{target.name}"
        try:
            _fetch(url, target, sha256)
        except _Broken:
            _fetch(url, target, sha256, last=True)
    write_text(note, _stamp(target))
    return target


class _Broken(Exception):
    """A download that came, but not whole; worth another try."""


def _fetch(url: str, target: Path, sha256: str | None, last: bool = False) -> None:
    """Fetch a file; it gets its name only if it passes the test. Raises NoRecordings, or _Broken before the last try."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            for piece in _received(url):
                file.write(piece)
        fault = _fault(temporary, sha256)
        if fault:
            raise _Broken(f"what came is {fault}")

    try:
        write_atomically(target, write)
    except _Broken as error:
        if not last:
            raise
        raise _unfetched(url, str(error)) from None


def _received(url: str) -> Iterator[bytes]:
    """A URL's content, as it comes. Raises NoRecordings if there is none, _Broken if it ends early or hardly flows."""
    import requests  # here, so that whoever has the recordings does not wait for it
    import urllib3

    try:
        answer = requests.get(url, stream=True, timeout=CONNECT_SECONDS, headers={"Accept-Encoding": "identity"})
    except (requests.ConnectionError, requests.Timeout) as error:
        cause = getattr(error.args[0] if error.args else None, "reason", error)  # without the retries around it
        reason = str(cause).partition(": ")[2] or str(cause)
        raise _unfetched(url, reason) from None  # or a traceback would show a password
    except (requests.RequestException, ValueError):  # which may quote a password in part
        raise _unfetched(url, "no valid address, or too many redirections") from None
    with answer:
        if not answer.ok:
            raise _unfetched(url, f"HTTP {answer.status_code} {answer.reason}")
        begun, got = time.monotonic(), 0
        text = f"fetching {PurePosixPath(url).name}"
        with bar(text, total=answer.raw.length_remaining, unit="B", unit_scale=True) as progress:
            while True:
                try:
                    piece = answer.raw.read1(1 << 16)  # what has come, without waiting for more
                except (OSError, urllib3.exceptions.HTTPError) as error:
                    raise _Broken(str(error)) from None
                if not piece:
                    break
                got += len(piece)
                progress.update(len(piece))
                yield piece
                if time.monotonic() - begun > PATIENCE_SECONDS + got / SLOWEST:
                    raise _unfetched(url, f"only {got} bytes in {time.monotonic() - begun:.0f} s")


def _unfetched(url: str, reason: str) -> NoRecordings:
    reason = reason.splitlines()[0][:160] if reason else "no reason given"
    name, instead = PurePosixPath(url).name, 'use DATA="demo" for the synthetic set'
    if name in NSTDB_FILES:
        name, instead = f"nstdb/{name}", "go on without NSTDB: then noise is synthetic"
    return NoRecordings(
        f"{_shown(url)} cannot be fetched ({_shown(reason)}). Set ECGNB_MIRROR to a folder that holds {name}, or "
        f"{instead}."
    )


def _shown(text: str) -> str:
    """A text without the user and the password of the URLs in it."""
    return re.sub("//.*@", "//", text)


def _stamp(path: Path) -> str:
    """What changes when a file does; "" if there is none."""
    return f"{path.stat().st_size} bytes, {path.stat().st_mtime_ns}" if path.is_file() else ""


def _fault(path: Path, sha256: str | None) -> str:
    """What is wrong with a downloaded file, or nothing.

    It has the published digest if that is known; else it is a zip of recordings, whole, or a WFDB file.
    """
    if sha256:
        return "" if file_digest(path) == sha256 else "not the published file"
    if path.suffix == ".hea":
        return "" if re.match(rb"\w+ 2 360", path.read_bytes()) else "no header of two leads at 360 Hz"
    if path.suffix == ".dat":
        return "" if path.stat().st_size else "empty"
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith(".mat") for name in archive.namelist()):
                return "a zip without recordings"
            broken = archive.testzip()
            return f"damaged at {broken}" if broken else ""
    except Exception as error:  # zipfile raises many kinds for bytes that are no zip
        return f"no zip file ({error})"
