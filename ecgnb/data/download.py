"""Where the Challenge 2017 files come from: a local mirror, the cache, or PhysioNet.

Archives are read in place. Nothing is ever unpacked, so no member of a hostile archive can be
written anywhere.
"""

from __future__ import annotations

import os
import zipfile
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from ecgnb.errors import EcgnbError

PHYSIONET = "https://physionet.org/files/challenge-2017/1.0.0/"
LABELS_V3 = "REFERENCE-v3.csv"
LABELS_V3_SHA256 = "ae517e474b0bc89a7517ad876b5b4dadc6c94f680d0665c04746db9432df855b"

# First the zip that PhysioNet serves, then the unpacked layouts people keep on disk.
LAYOUTS = {
    "training": ("training2017.zip", "training2017", "training_data", "training"),
    "validation": ("sample2017.zip", "sample2017", "validation_data", "validation"),
}
CONNECT_SECONDS = 10  # no answer within this time counts as "no network"


class NoRecordings(EcgnbError):
    """The recordings are neither in a mirror, nor cached, nor to be reached."""


class Archive:
    """Read-only view of a zip file or folder: base file name -> bytes.

    Folders are searched at any depth, so `training_data/` and PhysioNet's `training/A00/…` read alike. What it
    holds is listed only when it is asked for: 17,000 entries take longer than mapping the cached arrays.
    """

    def __init__(self, path: Path):
        self.path = path
        if not path.is_dir() and not zipfile.is_zipfile(path):
            raise EcgnbError(f"{path}: not a readable zip file; delete it and run again")

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError) as error:
            raise EcgnbError(f"{self.path}: not a readable zip file ({error}); delete it and run again") from error

    @cached_property
    def _members(self) -> dict[str, Path | str]:
        """Base name -> where that file lies."""
        if self.path.is_dir():
            return {p.name: p for p in sorted(self.path.rglob("*")) if p.is_file()}
        return {name.rpartition("/")[2]: name for name in self._zip.namelist() if name[-1] != "/"}

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str) -> bytes:
        """Bytes of the file called `name`, in whichever folder of the archive it lies."""
        if name not in self._members:
            raise EcgnbError(f"{self.path}: holds no {name}; is the download or the copy complete?")
        try:
            where = self._members[name]
            return where.read_bytes() if isinstance(where, Path) else self._zip.read(where)
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise EcgnbError(f"{self.path}: {name} cannot be read ({error}); delete the file and run again") from error

    def records(self) -> list[str]:
        """Record names in the order of the archive's RECORDS file (or sorted .mat names)."""
        if "RECORDS" in self:
            # PhysioNet's own RECORDS has paths such as A00/A00001 in some layouts.
            lines = self.read("RECORDS").decode().split()
            return [PurePosixPath(line).name for line in lines]
        names = sorted(PurePosixPath(m).stem for m in self._members if m.endswith(".mat"))
        if not names:
            raise EcgnbError(f"{self.path}: holds neither RECORDS nor a single .mat file")
        return names


def cache_dir() -> Path:
    """Folder for downloads and array caches: `ECGNB_CACHE`, else the system's cache folder."""
    place = os.environ.get("ECGNB_CACHE")
    if not place:
        import pooch

        place = pooch.os_cache("ecgnb")
    path = Path(place)
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
        raise EcgnbError(f"{folder}: holds none of {', '.join(LAYOUTS[split])}")
    return Archive(_download(LAYOUTS[split][0]))


def find_labels_v3(folder: Path | None = None) -> Path:
    """The file of final labels (v3): in `folder`, else in the mirror, else fetched."""
    place = folder or _mirror()
    if isinstance(place, Path) and (place / LABELS_V3).exists():
        return place / LABELS_V3
    return _download(LABELS_V3, sha256=LABELS_V3_SHA256)


def _mirror() -> Path | str:
    """`ECGNB_MIRROR` as a folder or a base URL; PhysioNet when it is not set."""
    mirror = os.environ.get("ECGNB_MIRROR", "")
    if not mirror:
        return PHYSIONET
    if mirror.startswith(("http://", "https://")):
        return mirror.rstrip("/") + "/"
    if not Path(mirror).is_dir():
        raise EcgnbError(f"ECGNB_MIRROR={mirror}: no such folder; unset it or name an existing one")
    return Path(mirror).resolve()


def _download(name: str, sha256: str | None = None) -> Path:
    """Path of `name` in the cache, fetched first if need be; a broken download is never kept.

    pooch downloads to a temporary name and renames. The zips have no published digest (each recording
    is verified against the manifest instead), so their own check sums are tested here.
    """
    target = cache_dir() / "files" / name
    if target.exists():
        return target
    import pooch  # here, so that whoever has the recordings does not wait for it
    import requests

    mirror = _mirror()
    base = mirror if isinstance(mirror, str) else PHYSIONET
    try:
        requests.head(base + name, timeout=CONNECT_SECONDS, allow_redirects=True)
        fetcher = pooch.create(target.parent, base, registry={name: sha256}, retry_if_failed=3)
        http = pooch.HTTPDownloader(progressbar=True, timeout=CONNECT_SECONDS)
        fetcher.fetch(name, downloader=http, processor=_whole_zip)
    except (requests.RequestException, ValueError) as error:
        target.unlink(missing_ok=True)
        reason = str(error).splitlines()[0][:160]
        raise NoRecordings(
            f"{base}{name} cannot be fetched ({reason}). Set ECGNB_MIRROR to a folder that holds "
            f'{name}, or use DATA="demo" for the synthetic set.'
        ) from error
    return target


def _whole_zip(path: str, action: str, _: Any) -> str:
    """pooch processor: accept a fresh zip only if every member's check sum holds."""
    if action != "fetch" and path.endswith(".zip"):
        try:
            broken = zipfile.ZipFile(path).testzip()
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is not a zip file") from error
        if broken:
            raise ValueError(f"{path} is damaged at {broken}")
    return path
