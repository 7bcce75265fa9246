"""Reading recordings: bytes in, checked int16 samples out.

Format (PhysioNet/CinC Challenge 2017): MATLAB v4 `.mat` with `val` (1 x samples, int16), a WFDB `.hea`
header beside it, 300 samples per second, 1000 units per mV.
"""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import scipy.io
from tqdm import tqdm

from ecgnb.constants import CLASSES, FS, UNITS_PER_MV
from ecgnb.data.download import Archive, cache_dir
from ecgnb.errors import EcgnbError
from ecgnb.files import has_arrays, load_arrays, save_arrays
from ecgnb.progress import bar

SHORTEST = 9 * FS  # the challenge's shortest recordings last 9 s
CACHE_FORMAT = 2  # raise when the cached arrays change, here or in `dataset.windows`


class BadRecording(EcgnbError):
    """A recording that must not reach the network."""


@dataclass(frozen=True)
class Recordings:
    """Recordings of unequal length in one flat array.

    names : (n,) str; samples : (sum of lengths,) int16, in 1/1000 mV; starts : (n + 1,) int64;
    digests : (n,) str, of each recording's samples; skipped : one line for each recording left out, with the
    reason; cache : where arrays made of these recordings are kept (None if any was left out).
    """

    names: np.ndarray
    samples: np.ndarray
    starts: np.ndarray
    digests: np.ndarray
    skipped: tuple[str, ...] = ()
    cache: Path | None = None

    def __len__(self) -> int:
        return len(self.names)

    def signal(self, i: int) -> np.ndarray:
        """Samples of recording `i`: (length,) int16, a view."""
        return self.samples[self.starts[i] : self.starts[i + 1]]


def digest(samples: np.ndarray) -> str:
    """First 128 bits of the SHA-256 of little-endian int16 samples, in hexadecimal."""
    return hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()[:32]


@cache
def manifest() -> dict[str, tuple[int, str]]:
    """record -> (samples, digest) of all 8,528 training recordings; ships with the package."""
    lines = (files("ecgnb.data") / "manifest.csv").read_text().splitlines()
    return {row["record"]: (int(row["samples"]), row["digest"]) for row in csv.DictReader(lines)}


def read_recording(archive: Archive, name: str) -> np.ndarray:
    """Checked samples of one recording: (length,) int16, in 1/1000 mV.

    Raises BadRecording for a truncated or foreign `.mat`, a missing `val`, another sampling rate or gain,
    NaN, a flat line, fewer than 9 s, or samples that differ from the manifest.
    """
    where = f"{archive.path}: {name}.mat"
    if f"{name}.mat" not in archive:
        raise BadRecording(f"{where} is listed but absent; fetch the data again or skip it")
    try:
        val = scipy.io.loadmat(io.BytesIO(archive.read(f"{name}.mat")))["val"]
    except KeyError:
        raise BadRecording(f"{where} has no variable `val`; is it a Challenge 2017 file?") from None
    except Exception as error:  # scipy raises many kinds for bytes that are not MATLAB's
        raise BadRecording(f"{where} is truncated or not a MATLAB file ({error})") from error
    if f"{name}.hea" in archive:
        _check_header(archive.read(f"{name}.hea").decode(errors="replace"), where)
    if val.ndim != 2 or val.shape[0] != 1:
        raise BadRecording(f"{where} has shape {val.shape}, expected (1, samples)")
    values = val[0]
    if not np.isfinite(values).all():
        raise BadRecording(f"{where} holds NaN or infinite samples")
    samples = values.astype(np.int16)
    if (samples != values).any():
        raise BadRecording(f"{where} does not hold int16 samples in 1/1000 mV")
    if len(samples) < SHORTEST:
        raise BadRecording(f"{where} lasts {len(samples) / FS:.1f} s, shorter than 9 s")
    if samples.min() == samples.max():
        raise BadRecording(f"{where} is a flat line")
    if name in manifest() and manifest()[name] != (len(samples), digest(samples)):
        raise BadRecording(f"{where} differs from the published recording; fetch it again")
    return samples


def _check_header(text: str, where: str) -> None:
    """Refuse another sampling rate or gain than the challenge's."""
    record_line, signal_line = [*text.splitlines(), "", ""][:2]
    fields, signal = record_line.split(), signal_line.split()
    if len(fields) < 3 or len(signal) < 3:
        raise BadRecording(f"{where}: its .hea header cannot be read")
    if float(fields[2].split("/")[0]) != FS:
        raise BadRecording(f"{where} is sampled at {fields[2]} Hz, expected {FS}; resample it first")
    if signal[2].split("/")[0].split("(")[0] != str(UNITS_PER_MV):
        raise BadRecording(f"{where} has gain {signal[2]}, expected {UNITS_PER_MV}/mV; rescale it")


def read_recordings(archive: Archive, bad: str = "error") -> Recordings:
    """All recordings of an archive, in the order of RECORDS; read and checked once, then mapped from the cache.

    bad : "error" stops at the first bad recording; "skip" lists it in `skipped` and warns with the count.
    """
    if bad not in ("error", "skip"):
        raise EcgnbError(f'bad={bad!r}: expected "error" or "skip"')
    place = cache_dir() / "arrays" / _cache_key(archive)
    names = ("names", "samples", "starts", "digests")
    if not has_arrays(place, names):
        recordings = _read_all(archive, bad)
        if recordings.skipped:
            tqdm.write(
                f"{archive.path}: skipped {len(recordings.skipped)} of {len(archive.records())}; "
                f"first: {recordings.skipped[0]}"
            )
            return recordings
        save_arrays(place, {name: getattr(recordings, name) for name in names})
    stored = load_arrays(place, names)
    return Recordings(stored["names"], stored["samples"], stored["starts"], stored["digests"], cache=place)


def _read_all(archive: Archive, bad: str) -> Recordings:
    """Every recording of an archive, from the archive itself."""
    names, readable, signals, skipped = archive.records(), [], [], []
    text = f"reading {archive.path.name}" if len(names) >= 500 else ""
    for name in bar(text, names, unit="rec"):
        try:
            signals.append(read_recording(archive, name))
            readable.append(name)
        except BadRecording as error:
            if bad == "error":
                raise
            skipped.append(str(error))
    if not readable:
        raise EcgnbError(f"{archive.path}: not one readable recording")
    starts = np.concatenate([[0], np.cumsum([len(s) for s in signals])])
    digests = np.array([digest(s) for s in signals])
    return Recordings(np.array(readable), np.concatenate(signals), starts, digests, tuple(skipped))


def _cache_key(archive: Archive) -> str:
    """Changes when the archive's place, content (sizes and times) or format does."""
    stamps = [archive.path] if archive.path.is_file() else archive.path.rglob("*")
    stats = sorted((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in stamps if p.is_file())
    text = repr((CACHE_FORMAT, str(archive.path.resolve()), stats))
    return f"{archive.path.stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def read_labels(text: str, where: str) -> dict[str, str]:
    """record -> label letter from the text of a REFERENCE file (`name,label`, no header)."""
    labels = {}
    for number, row in enumerate(csv.reader(text.splitlines()), start=1):
        if len(row) != 2 or row[1] not in CLASSES:
            raise EcgnbError(f"{where}, line {number}: {','.join(row)!r} is not `record,label` (A N O ~)")
        labels[row[0]] = row[1]
    return labels
