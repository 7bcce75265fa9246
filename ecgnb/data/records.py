"""Reading recordings: bytes in, checked int16 samples out.

Format (PhysioNet/CinC Challenge 2017): MATLAB v4 `.mat` with `val` (1 x samples, int16), a WFDB `.hea`
header beside it, 300 samples per second, 1000 units per mV.
"""

from __future__ import annotations

import csv
import hashlib
import re
import struct
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ecgnb.constants import CLASSES, FS, UNITS_PER_MV
from ecgnb.data.archive import Archive, decode
from ecgnb.data.download import cache_dir
from ecgnb.errors import EcgnbError
from ecgnb.files import has_arrays, load_arrays, save_arrays
from ecgnb.progress import bar

SHORTEST = 9 * FS  # the challenge's shortest recordings last 9 s
LONGEST_FLAT = FS  # samples; the challenge's longest flat part has 91
NO_SAMPLE = -32768  # WFDB's mark of a sample that was not recorded
CACHE_FORMAT = 3  # raise when the cached arrays change, here or in `dataset.windows`

MAT_TYPES = {0: "f8", 1: "f4", 2: "i4", 3: "i2", 4: "u2", 5: "u1"}
SAVE_V4 = "save it with save(…, '-v4') or scipy.io.savemat(…, format='4')"

NUMBER = r"[0-9]{1,9}(?:\.[0-9]{0,9})?(?:[eE][+-]?[0-9]{1,2})?"
RATE = re.compile(rf"({NUMBER})(?:/{NUMBER}(?:\(-?{NUMBER}\))?)?")  # Hz/counter frequency(counter)
GAIN = re.compile(rf"({NUMBER})(?:\((-?[0-9]{{1,9}})\))?(?:/(\S+))?")  # units per unit(baseline)/unit
WHOLE = re.compile(r"-?[0-9]{1,9}")
PER_MV = {"mV": 1.0, "uV": 1000.0, "µV": 1000.0, "V": 0.001}


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

    Raises EcgnbError for a `.mat` that is not MATLAB v4 with one row `val` of int16 values, a header that is
    missing or says otherwise (rate, units, baseline, length, check sum), fewer than 9 s, samples marked as
    missing, a flat part of 1 s, or samples that differ from the published recording of that name. Published
    recordings need no header.
    """
    stem = archive.records[name]
    where, header = f"{archive.path}: {stem}.mat", f"{stem}.hea"
    if f"{stem}.mat" not in archive:
        raise EcgnbError(f"{where} is listed but absent; fetch the data again or take it off RECORDS")
    samples = _as_int16(read_mat(archive.read(f"{stem}.mat"), where), where)
    is_published = name in manifest()
    if is_published and manifest()[name] != (len(samples), digest(samples)):
        raise EcgnbError(
            f"{where} differs from the published {name}; fetch it again, or rename a recording of your own"
        )
    if header in archive:
        check_header(archive.text(header), name, samples, f"{archive.path}: {header}")
    elif not is_published:
        raise EcgnbError(
            f"{archive.path}: {header} is missing, so rate and units are unknown; if they are the challenge's, write "
            f"two lines into it: {name} 1 {FS} {len(samples)} | {name}.mat 16+24 {UNITS_PER_MV}/mV"
        )
    if not is_published:
        _check_samples(samples, where)
    return samples


def read_mat(content: bytes, where: str) -> np.ndarray:
    """Variable `val` of a MATLAB v4 file: (rows, columns), of the stored type.

    A variable is five int32 (type, rows, columns, complex or not, length of the name), the name, the values by
    columns. The type in decimal is MOPT: M 0 little-endian or 1 big-endian, O 0, P of `MAT_TYPES`, T 0 numbers.
    Source: MathWorks, MAT-File Format, level 4. Nothing but these fixed sizes is followed, and only within bounds.
    """
    if content.startswith((b"MATLAB", b"\x89HDF")):
        version = "7.3" if content.startswith((b"MATLAB 7", b"\x89HDF")) else "5"
        raise EcgnbError(f"{where} is a MATLAB v{version} file, and only v4 is read; {SAVE_V4}")
    found: dict[bytes, np.ndarray] = {}
    at = 0
    while at < len(content) or not found:
        if len(content) - at < 20:
            raise _not_v4(where)
        order = ">" if content[at] == 0 and content[at + 1 : at + 4] != b"\0\0\0" else "<"
        kind, rows, columns, is_complex, letters = struct.unpack_from(f"{order}5i", content, at)
        machine, precision, sort = kind // 1000, kind // 10 % 100, kind % 10
        known = machine == (order == ">") and precision in MAT_TYPES and sort in (0, 1, 2) and is_complex in (0, 1)
        if not known or min(rows, columns) < 0 or not 1 <= letters <= 64:
            raise _not_v4(where)
        dtype = np.dtype(order + MAT_TYPES[precision])
        start = at + 20 + letters
        at = start + rows * columns * dtype.itemsize * (1 + is_complex)
        if at > len(content):
            raise _not_v4(where)
        name = content[start - letters : start].rstrip(b"\0")
        if name in found:
            raise EcgnbError(f"{where} holds `{name.decode(errors='replace')}` twice; {SAVE_V4}")
        if name == b"val" and (sort or is_complex):
            what = "complex" if is_complex else ("", "text", "sparse")[sort]
            raise EcgnbError(f"{where}: `val` is {what}, expected plain integers; {SAVE_V4}")
        found[name] = np.frombuffer(content, dtype, rows * columns, start).reshape(columns, rows).T
    if b"val" not in found:
        names = ", ".join(name.decode(errors="replace") for name in found) or "nothing"
        raise EcgnbError(f"{where} has no variable `val` (it holds {names[:60]!r}); name the samples so")
    return found[b"val"]


def _not_v4(where: str) -> EcgnbError:
    return EcgnbError(f"{where} is truncated or not a MATLAB v4 file; fetch it again, or {SAVE_V4}")


def _as_int16(val: np.ndarray, where: str) -> np.ndarray:
    """(length,) int16 from one row of integers of any type."""
    if val.shape[0] != 1:
        raise EcgnbError(f"{where} has shape {val.shape}, expected (1, samples): one lead in one row")
    values = val[0]
    if not np.isfinite(values).all():
        raise EcgnbError(f"{where} holds NaN or infinite samples; cut them out or leave the recording out")
    with np.errstate(invalid="ignore"):  # too large for int16: told in the next line
        samples = values.astype(np.int16)
    if (samples != values).any():
        raise EcgnbError(f"{where} does not hold int16 samples in 1/1000 mV; rescale and round it")
    if len(samples) < SHORTEST:
        raise EcgnbError(f"{where} lasts {len(samples) / FS:.1f} s, shorter than 9 s; leave it out")
    return samples


def check_header(text: str, name: str, samples: np.ndarray, where: str) -> None:
    """Refuse a WFDB header that does not say: this recording, one signal, 300 Hz, 1000 units per mV, baseline 0.

    Length and check sum are compared with the samples where they are given (not 0). `wfdb` itself reads on over
    much that it does not understand (`300Hz`), so its parser is no check.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    record, signal = ([*lines, "", ""][i].split(None, most) for i, most in ((0, -1), (1, 8)))
    if not 2 <= len(record) <= 6 or len(signal) < 2:
        raise EcgnbError(f"{where} cannot be read: expected a line for the record and one for its signal; write both")
    if record[0] != name or signal[0].lower() != f"{name}.mat".lower():
        raise EcgnbError(f"{where} is the header of {record[0][:40]}, {signal[0][:40]}; put the right one there")
    if record[1] != "1" or len(lines) != 2:
        raise EcgnbError(f"{where} tells of {record[1]} signals in {len(lines) - 1} lines, expected 1; save one lead")
    rate = RATE.fullmatch(record[2]) if len(record) > 2 else None
    if not rate or float(rate[1]) != FS:
        given = repr(record[2][:40]) if len(record) > 2 else "not given (250 Hz by WFDB's rules)"
        raise EcgnbError(f"{where}: sampling rate is {given}, expected {FS}; correct it, or resample the recording")
    gain = GAIN.fullmatch(signal[2]) if len(signal) > 2 else None
    if not gain or float(gain[1]) * PER_MV.get(gain[3] or "mV", 0) != UNITS_PER_MV:
        given = repr(signal[2][:40]) if len(signal) > 2 else "not given (200/mV by WFDB's rules)"
        raise EcgnbError(f"{where}: gain is {given}, expected {UNITS_PER_MV}/mV; correct it, or rescale the samples")
    numbers = [*record[3:4], *signal[3:8]]
    if not re.fullmatch(r"16(\+[0-9]{1,9})?", signal[1]) or not all(WHOLE.fullmatch(n) for n in numbers):
        raise EcgnbError(
            f"{where}: format {signal[1]}, numbers {' '.join(numbers)[:80]}: expected format 16 and whole numbers; "
            "correct it"
        )
    length = int((record[3:4] or ["0"])[0])
    _, zero, _, checksum, _ = (int(n) for n in [*signal[3:8], *"00000"][:5])
    if length not in (0, len(samples)):
        raise EcgnbError(f"{where}: length is {length}, but the .mat file has {len(samples)} samples; fetch it again")
    baseline = int(gain[2] or zero)
    if baseline:
        raise EcgnbError(f"{where}: baseline is {baseline}, expected 0; subtract it from the samples, and write 0")
    if checksum and (int(samples.sum(dtype=np.int64)) - checksum) % 65536:
        raise EcgnbError(f"{where}: check sum {checksum} is not that of the samples; fetch the recording again")


def _check_samples(samples: np.ndarray, where: str) -> None:
    """Refuse what a z-score would hide: missing samples, and a part that is flat for a second or more."""
    missing = np.flatnonzero(samples == NO_SAMPLE)
    if len(missing):
        raise EcgnbError(
            f"{where} has {len(missing)} missing samples ({NO_SAMPLE}), the first at {missing[0] / FS:.1f} s; "
            "cut them out or leave the recording out"
        )
    starts = np.concatenate([[0], np.flatnonzero(np.diff(samples)) + 1])
    lengths = np.diff(starts, append=len(samples))
    longest = lengths.argmax()
    if lengths[longest] >= LONGEST_FLAT:
        raise EcgnbError(
            f"{where} is flat for {lengths[longest] / FS:.1f} s from {starts[longest] / FS:.1f} s on; cut that out or "
            "leave the recording out"
        )


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
                f"{archive.path}: skipped {len(recordings.skipped)} of {len(archive.records)}; "
                f"first: {recordings.skipped[0]}"
            )
            return recordings
        save_arrays(place, {name: getattr(recordings, name) for name in names})
    stored = load_arrays(place, names)
    return Recordings(stored["names"], stored["samples"], stored["starts"], stored["digests"], cache=place)


def _read_all(archive: Archive, bad: str) -> Recordings:
    """Every recording of an archive, from the archive itself."""
    names, readable, signals, skipped = list(archive.records), [], [], []
    text = f"reading {archive.path.name}" if len(names) >= 500 else ""
    for name in bar(text, names, unit="rec"):
        try:
            signals.append(read_recording(archive, name))
            readable.append(name)
        except EcgnbError as error:
            if bad == "error":
                raise
            skipped.append(str(error))
    if not readable:
        raise EcgnbError(f"{archive.path}: not one readable recording; first: {skipped[0]}")
    starts = np.concatenate([[0], np.cumsum([len(s) for s in signals])])
    # Of published recordings the digest is known, and was compared.
    digests = [manifest()[n][1] if n in manifest() else digest(s) for n, s in zip(readable, signals, strict=True)]
    return Recordings(np.array(readable), np.concatenate(signals), starts, np.array(digests), tuple(skipped))


def _cache_key(archive: Archive) -> str:
    """Changes when the archive's place, content (sizes and times) or format does."""
    stamps = [archive.path] if archive.path.is_file() else archive.path.rglob("*")
    stats = sorted((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in stamps if p.is_file())
    text = repr((CACHE_FORMAT, str(archive.path.resolve()), stats))
    return f"{archive.path.stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def read_labels(content: bytes, where: str) -> dict[str, str]:
    """record -> label letter from a REFERENCE file: `record,label`, in UTF-8 or UTF-16.

    A record may be a path; its last part counts. A first row that begins with "record" is a heading.
    """
    labels: dict[str, str] = {}
    text = decode(content, where).replace('"', "")
    for number, line in enumerate(text.splitlines(), start=1):
        path, _, label = line.partition(",")
        name, label = path.rpartition("/")[2].strip(), label.strip()
        if label not in CLASSES or not name:
            if not line.strip() or (number == 1 and name.lower().startswith("record")):
                continue
            raise EcgnbError(f"{where}, line {number}: {line[:80]!r} is not `record,label` (A N O ~)")
        if labels.setdefault(name, label) != label:
            raise EcgnbError(f"{where}, line {number}: {name} is {label} here and {labels[name]} above; keep one")
    return labels
