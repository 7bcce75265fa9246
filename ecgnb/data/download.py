"""Where the Challenge 2017 files come from: a local mirror, the cache, or PhysioNet."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

from ecgnb.data.archive import Archive
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


def find_labels_v3(split: str, folder: Path | None = None) -> Path:
    """The file of final labels (v3): in `folder` or its folder of that split, else in the mirror, else fetched.

    For a folder of one's own nothing is fetched: PhysioNet's labels are not those of its recordings.
    """
    place = folder or _mirror()
    if isinstance(place, Path):
        for path in (place / LABELS_V3, *(place / name / LABELS_V3 for name in LAYOUTS[split])):
            if path.is_file():
                return path
    if folder:
        raise EcgnbError(f"{folder}: holds no {LABELS_V3}; write it: a line `record,label` (A N O ~) a recording")
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
