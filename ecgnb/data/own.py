"""Recordings of one's own: from arrays, from an `.npz` file, or from a folder of WFDB records with a label table.

Nothing is guessed that a number depends on: units and sampling rate are said, or the reading stops.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from scipy import signal

from ecgnb.data.archive import decode
from ecgnb.data.arrays import Dataset
from ecgnb.errors import EcgnbError
from ecgnb.files import array_digest
from ecgnb.progress import bar

PER_MV = {"mV": 1.0, "µV": 1000.0, "μV": 1000.0, "uV": 1000.0, "V": 0.001}  # µ is one of two characters
STANDARDISE = ("recording", "lead", "none")
TABLE = "labels.csv"
FOLDS = ("train", "dev", "test", "validation")
NEEDED = ("x", "labels", "fs", "unit")  # keys of an .npz file; `labels` may be called `y`
OPTIONAL = ("names", "classes", "leads", "lengths", "fold", "standardise", "labels_source", "r_peak_lead")
FEWEST = 10  # recordings that are worth an evaluation: of fewer, an interval says nothing
Standardise = str | tuple[Any, Any]
Scale = Callable[[np.ndarray], tuple[Any, Any]]  # (length, leads) mV -> its mean and SD


@dataclass(frozen=True)
class Reading:
    """How recordings of one's own are read from a file or folder; what is None is as the file has it.

    table : the label table of a folder (labels.csv in it); leads : names of those to take, in that order; resample,
    samples, standardise, r_peak_lead : as in `dataset_from_arrays`.
    """

    table: Path | None = None
    leads: tuple[str, ...] | None = None
    resample: float | None = None
    samples: int | None = None
    standardise: Standardise | None = None
    r_peak_lead: str | None = None


AS_IT_IS = Reading()


def dataset_from_arrays(
    x: np.ndarray | Sequence[np.ndarray],
    labels: np.ndarray | Sequence[Any],
    *,
    unit: str,
    fs: float | Sequence[float],
    classes: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    name: str = "arrays",
    standardise: Standardise | None = None,
    leads: Sequence[str] | None = None,
    lengths: Sequence[int] | None = None,
    labels_source: str = "as given",
    resample: float | None = None,
    samples: int | None = None,
    r_peak_lead: str = "",
    split: str = "validation",
) -> Dataset:
    """A data set from arrays.

    x : (n, samples, leads), or n arrays (length, leads) of several lengths, or either without an axis of leads
    labels : n class symbols, or n indices into `classes`
    unit : "mV", "µV", "V", or "z": in the units of the model already, so that millivolts are not known
    fs : sampling rate, Hz, or n of them to be resampled; classes : symbols, in the order of the model's outputs (by
        default in alphabetical order)
    names : n names of recordings; name : of the data set, as it stands on figures and reports
    standardise : how mV become z-units, in which ε is measured: "recording" (each by its own mean and SD, the default),
        "lead" (each lead of each recording by its own), "none" (x stays in mV), or fixed (mean, SD) in mV, each a number
        or one for each lead. Not for unit "z"
    leads : their names; lengths : n, true samples, if x is padded already; labels_source : whose labels these are
    resample : sampling rate in Hz to bring them to, by SciPy's `resample_poly`; samples : length to cut or zero-pad to
    r_peak_lead : name of the lead that R-peaks are looked for in (lead II, or the first)
    Raises EcgnbError, in one line, for what does not fit together.
    """
    pieces = _recordings(x, lengths, name)
    n, n_leads = len(pieces), pieces[0].shape[1]
    y, symbols = class_numbers(labels, n, classes, name)
    if unit not in (*PER_MV, "z"):
        raise EcgnbError(f'{name}: unit={unit!r}: expected "mV", "µV", "V" or "z" (in the units of the model already)')
    given = [str(one) for one in names] if names is not None else [f"{i:0{len(str(n))}}" for i in range(1, n + 1)]
    if len(given) != n or len(set(given)) < n:
        raise EcgnbError(f"{name}: {n} recordings need {n} different names, got {len(set(given))}")
    leads = tuple(map(str, leads if leads is not None else _default_leads(n_leads)))
    if len(set(leads)) != n_leads or r_peak_lead not in ("", *leads):
        named = f"{', '.join(leads)[:80]}; R-peaks in {r_peak_lead or 'any'}"
        raise EcgnbError(f"{name}: {n_leads} leads need {n_leads} different names, got {named}")
    rates = _rates(fs, n, name)
    digest = array_digest(*pieces, np.array(given), y, rates, np.array([unit, *symbols, *leads]))
    signals = tuple(piece.astype(np.float32) for piece in pieces)
    said, several = [digest[:8]], sorted(set(rates.tolist()))
    if unit != "z":
        pieces = [piece / PER_MV[unit] for piece in pieces]
    if resample is not None and several != [resample]:
        _rates(resample, 1, name)
        pieces = [resampled(piece, rate, resample) for piece, rate in zip(pieces, rates, strict=True)]
        said.append(f"resampled from {', '.join(f'{rate:g}' for rate in several)} to {resample:g} Hz")
        several = [float(resample)]
    if len(several) > 1:
        listed = ", ".join(f"{rate:g}" for rate in several[:4])
        raise EcgnbError(f"{name}: recordings at several rates ({listed} Hz); say which to resample them to, in Hz")
    kind, scale = _standardisation(standardise, unit, n_leads, name)
    if unit != "z" and kind != "recording":
        said.append({"lead": "standardised by lead", "none": "not standardised"}.get(kind, "fixed mean and SD"))
    if samples is not None and samples < 2:
        raise EcgnbError(f"{name}: {samples=}: expected 2 or more")
    pieces = [piece[:samples] for piece in pieces]
    scales = [scale(piece) for piece in pieces]
    for one, (_, sd) in zip(given, scales, strict=True):
        if not np.all(np.asarray(sd) > 0):
            which = f" in lead {leads[int(np.argmin(sd))]}" if np.ndim(sd) else ""
            raise EcgnbError(f"{name}: recording {one} is flat{which} and has no z-score; leave it out")
    found = np.zeros((n, samples or max(map(len, pieces)), n_leads), np.float32)
    for i, (piece, (mean, sd)) in enumerate(zip(pieces, scales, strict=True)):
        found[i, : len(piece)] = (piece - mean) / sd
    mv_known = np.nan if unit == "z" else 1.0
    return Dataset(
        x=found,
        y=y,
        names=np.array(given),
        lengths=np.array([len(piece) for piece in pieces], np.int64),
        mean_mv=np.array([mean for mean, _ in scales], np.float64) * mv_known,
        sd_mv=np.array([sd for _, sd in scales], np.float64) * mv_known,
        signals=signals,
        split=split,
        protocol="own",
        labels=labels_source,
        source=f'own recordings ("{name}" {", ".join(said)})',
        classes=symbols,
        fs=several[0],
        leads=leads,
        standardise=kind,
        r_peak_lead=r_peak_lead,
    )


# ---- files and folders ----


def is_own(data: str, reading: Reading = AS_IT_IS) -> bool:
    """Whether `load_own` reads a DATA setting: an `.npz` file, or a folder with a label table."""
    return data.endswith(".npz") or reading.table is not None or (Path(data) / TABLE).is_file()


def load_own(path: Path, split: str = "validation", reading: Reading = AS_IT_IS, bad: str = "error") -> Dataset:
    """Recordings of one's own from a file or folder, as a data set.

    An `.npz` file has the keys x, labels (or y), fs and unit; if need be also names, classes, leads, lengths, fold,
    standardise, labels_source and r_peak_lead: all as in `dataset_from_arrays`. A folder has WFDB records (`.hea` with
    `.dat` or `.mat`, of any rate and leads) and labels.csv with a line `record,label` each; a record is its path from
    the folder, without ending. A third column, or the key `fold`, says of each recording in which split it is: "train",
    "dev", "test" or "validation". Without it all are "validation".
    bad : "skip" leaves out records of a folder that cannot be read, and lists them in `Dataset.skipped`.
    Raises EcgnbError for anything else, in one line that names the file, and for fewer than ten recordings.
    """
    name = path.resolve().name
    skipped: list[str] = []
    if path.suffix == ".npz":
        given = _read_npz(path)
    else:
        given, skipped = _read_folder(path, reading, bad)
    n, fold = len(given["labels"]), given.pop("fold", None)
    if fold is None:
        if split != "validation":
            raise EcgnbError(
                f"{path}: does not say which recordings are in split {split!r}; give each a fold: {', '.join(FOLDS)}"
            )
        fold = ["validation"] * n
    unknown = sorted({str(one) for one in fold} - set(FOLDS))
    if unknown or len(fold) != n:
        what = repr(unknown[0]) if unknown else f"{len(fold)} for {n} recordings"
        raise EcgnbError(f"{path}: fold: {what}; expected one of {', '.join(FOLDS)} for each recording")
    keep = [i for i, one in enumerate(fold) if one == split]
    if len(keep) < FEWEST:
        raise EcgnbError(f"{path}: {len(keep)} recordings in split {split}; an evaluation needs {FEWEST} or more")
    if len(given["x"]) != n:
        raise EcgnbError(f"{path}: x has {len(given['x'])} recordings, labels {n}; give one label a recording")
    y, classes = class_numbers(given.pop("labels"), n, given.pop("classes", None), str(path))
    if reading.leads is not None and path.suffix == ".npz":
        given["x"], given["leads"] = _chosen(given["x"], given.get("leads"), reading.leads, str(path)), reading.leads
    for key in ("x", "names", "lengths", "fs"):
        if isinstance(given.get(key), (list, np.ndarray)):
            given[key] = [given[key][i] for i in keep]
    asked = {key: getattr(reading, key) for key in ("resample", "samples", "standardise", "r_peak_lead")}
    given |= {key: value for key, value in asked.items() if value is not None}
    dataset = dataset_from_arrays(**given, labels=y[keep], classes=classes, name=name, split=split)
    return replace(dataset, skipped=tuple(skipped))


def _read_npz(path: Path) -> dict[str, Any]:
    """Arguments of `dataset_from_arrays`, and "fold", from an .npz file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            given = {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise EcgnbError(f"{path}: no such file") from None
    except Exception as error:  # zipfile and NumPy raise many kinds for bytes that are no arrays
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise EcgnbError(
            f"{path}: cannot be read as an .npz file of plain arrays ({reason}); write it with np.savez"
        ) from None
    if "y" in given:
        given["labels"] = given.pop("y")
    missing = [key for key in NEEDED if key not in given or (key in ("x", "labels") and not given[key].ndim)]
    unknown = [key for key in given if key not in (*NEEDED, *OPTIONAL)]
    if missing or unknown:
        what = f"has no {missing[0]}" if missing else f"has an unknown key {unknown[0]!r}"
        raise EcgnbError(f"{path}: {what}; needed keys are {', '.join(NEEDED)}; possible are {', '.join(OPTIONAL)}")
    return {key: value.item() if value.ndim == 0 else value for key, value in given.items()}


def read_table(path: Path) -> tuple[list[str], list[str], list[str] | None]:
    """Records, labels and, if there is a third column, folds of a label table: `record,label` or `record,label,fold`.

    A first row that begins with "record," is a heading. Raises EcgnbError that names the line.
    """
    try:
        text = decode(path.read_bytes(), str(path))
    except OSError as error:
        raise EcgnbError(f"{path}: no label table ({error.strerror}); write a line `record,label` for each") from None
    rows: dict[str, list[str]] = {}
    for number, row in enumerate(csv.reader(text.splitlines()), start=1):
        row = [cell.strip() for cell in row]
        if not any(row) or (number == 1 and row[0].lower() == "record"):
            continue
        if len(row) not in (2, 3) or not all(row):
            raise EcgnbError(f"{path}, line {number}: {','.join(row)[:80]!r} is not `record,label` or with a fold")
        if PurePosixPath(row[0]).is_absolute() or ".." in PurePosixPath(row[0]).parts or ":" in row[0]:
            raise EcgnbError(f"{path}, line {number}: {row[0][:80]!r} lies outside the folder; move the record there")
        if row[0] in rows:
            raise EcgnbError(f"{path}, line {number}: {row[0]} has a label above; keep one")
        rows[row[0]] = row
    if len({len(row) for row in rows.values()}) != 1:
        raise EcgnbError(f"{path}: " + ("some lines have a fold, some none; give all one" if rows else "has no line"))
    columns = [list(column) for column in zip(*rows.values(), strict=True)]
    return columns[0], columns[1], columns[2] if len(columns) == 3 else None


def _read_folder(folder: Path, reading: Reading, bad: str) -> tuple[dict[str, Any], list[str]]:
    """Arguments of `dataset_from_arrays`, and "fold", from a folder of WFDB records; one line for each skipped."""
    table = reading.table or folder / TABLE
    names, labels, fold = read_table(table)
    wanted, read, skipped, rates = reading.leads, [], [], []
    for i, name in enumerate(bar(f"reading {folder.name}" * (len(names) >= 500), names, unit="rec")):
        try:
            piece, rate, wanted = read_record(folder, name, wanted)
        except EcgnbError as error:
            if bad == "error":
                raise
            skipped.append(str(error))
            continue
        read.append((i, piece))
        rates.append(rate)
    if not read:
        raise EcgnbError(f"{folder}: not one readable record; first: {skipped[0]}")
    index = [i for i, _ in read]
    given = {
        "x": [piece for _, piece in read],
        "labels": [labels[i] for i in index],
        "names": [names[i] for i in index],
        "fold": [fold[i] for i in index] if fold else None,
        "fs": rates,
        "unit": "mV",
        "leads": wanted,
        "classes": sorted(set(labels)),
        "labels_source": table.name,
    }
    return given, skipped


def read_record(
    folder: Path, name: str, wanted: tuple[str, ...] | None = None
) -> tuple[np.ndarray, float, tuple[str, ...]]:
    """One WFDB record: (length, leads) mV, its rate in Hz, the names of its leads; wanted : of those to take.

    Raises EcgnbError, in one line, for a record that cannot be read whole.
    """
    import wfdb  # here, because it takes two seconds to import

    header = folder / f"{name}.hea"
    if not header.is_file():
        raise EcgnbError(
            f"{header}: no such header; it is named in the label table: put it there or take it off the table"
        )
    try:
        head = wfdb.rdheader(str(header.with_suffix("")))
        files, leads, units = list(head.file_name or []), list(head.sig_name or []), list(head.units or [])
    except Exception as error:  # wfdb raises many kinds for headers that it cannot parse
        raise EcgnbError(f"{header}: cannot be read as a WFDB header ({str(error)[:80]!r}); write it anew") from None
    if not leads or isinstance(head, wfdb.MultiRecord):
        raise EcgnbError(f"{header}: has no signals, or several segments; write each as a record of its own")
    for file in set(files):
        if not (header.parent / file).is_file():  # a name with a slash is no name to wfdb
            raise EcgnbError(f"{header}: its signals are in {file!r}, which is not beside it; put that file there")
    wanted = wanted or tuple(leads)
    index = [_place(lead, leads, str(header)) for lead in wanted]
    for i in index:
        if units[i] not in PER_MV:
            raise EcgnbError(f"{header}: lead {leads[i]} is in {units[i]!r}, expected mV, uV or V; leave that lead out")
    try:
        found = wfdb.rdrecord(str(header.with_suffix("")), channels=index, return_res=64)
    except Exception as error:  # and for signals that do not fit their header
        raise EcgnbError(
            f"{header}: its signals cannot be read ({str(error)[:80]!r}); fetch or write it again"
        ) from None
    order = [list(found.sig_name).index(leads[i]) for i in index]
    mv = found.p_signal[:, order] / [PER_MV[units[i]] for i in index]
    if not np.isfinite(mv).all():
        raise EcgnbError(f"{header}: {np.count_nonzero(~np.isfinite(mv))} samples are missing; leave the record out")
    return mv, float(found.fs), wanted


# ---- parts ----


def class_numbers(labels: Any, n: int, classes: Sequence[str] | None, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels, n class symbols or indices into `classes`, as (n,) int64 and the symbols of the classes."""
    found = np.asarray(labels)
    if found.shape != (n,):
        raise EcgnbError(
            f"{where}: labels have shape {found.shape}, expected ({n},): one class for each recording; of several labels "
            "choose one, as two classes"
        )
    numeric = found.dtype.kind in "iufb"
    if numeric and not (np.isfinite(found).all() and (found == found.astype(np.int64)).all() and (found >= 0).all()):
        raise EcgnbError(
            f"{where}: labels are numbers, but not all of them whole and 0 or more; give indices or symbols"
        )
    if classes is None:
        present = [str(i) for i in range(int(found.max()) + 1)] if numeric else sorted({str(one) for one in found})
    else:
        present = [str(one) for one in classes]
    if len(present) < 2 or len(set(present)) < len(present) or not set(present).isdisjoint(("", "?")):
        raise EcgnbError(
            f"{where}: classes are {', '.join(map(repr, present))[:80]}; expected two or more, all different"
        )
    names = [present[i] if i < len(present) else str(i) for i in found.astype(int)] if numeric else found.astype(str)
    for i, label in enumerate(names):
        if label not in present:
            raise EcgnbError(f"{where}: label {str(label)!r} of recording {i + 1} is none of {', '.join(present)[:80]}")
    return np.array([present.index(label) for label in names], np.int64), tuple(present)


def _recordings(x: Any, lengths: Sequence[int] | None, where: str) -> list[np.ndarray]:
    """n arrays (length, leads) float64, each checked."""
    try:
        pieces = [np.asarray(one, np.float64) for one in x]
    except (TypeError, ValueError):
        raise EcgnbError(f"{where}: x is no array of numbers; expected (n, samples, leads)") from None
    if not pieces:
        raise EcgnbError(f"{where}: x holds no recordings")
    pieces = [one[:, None] if one.ndim == 1 else one for one in pieces]
    for i, one in enumerate(pieces, start=1):
        if one.ndim != 2 or one.shape[1] != pieces[0].shape[1] or len(one) < 2:
            expected = f"(samples, {pieces[0].shape[-1]})" if pieces[0].ndim == 2 else "(samples, leads)"
            raise EcgnbError(f"{where}: recording {i} has shape {one.shape}, expected {expected}")
        if one.shape[0] < one.shape[1]:
            raise EcgnbError(f"{where}: recording {i} has {one.shape[1]} leads of {len(one)} samples; transpose x")
        if not np.isfinite(one).all():
            raise EcgnbError(f"{where}: recording {i} holds NaN or infinite samples; cut them out or leave it out")
    if lengths is None:
        return pieces
    if len(lengths) != len(pieces) or not all(2 <= k <= len(p) for k, p in zip(lengths, pieces, strict=False)):
        raise EcgnbError(f"{where}: lengths do not fit x; expected one for each recording, no longer than it")
    return [piece[: int(length)] for piece, length in zip(pieces, lengths, strict=True)]


def _rates(fs: Any, n: int, where: str) -> np.ndarray:
    """(n,) sampling rates, Hz."""
    try:
        rates = np.broadcast_to(np.asarray(fs, np.float64), (n,))
    except (TypeError, ValueError):
        rates = np.zeros(1)
    if not (np.isfinite(rates) & (rates > 0)).all():
        raise EcgnbError(f"{where}: fs={fs!r}: expected a sampling rate in Hz, such as 500")
    return rates


def _default_leads(n: int) -> tuple[str, ...]:
    return ("ECG",) if n == 1 else tuple(f"lead {i}" for i in range(1, n + 1))


def _place(lead: str, leads: Sequence[str], where: str) -> int:
    """Which of `leads` has that name; capitals do not count unless there are two such."""
    same = [i for i, one in enumerate(leads) if one == lead] or [
        i for i, one in enumerate(leads) if one.lower() == lead.lower()
    ]
    if len(same) != 1:
        raise EcgnbError(f"{where}: has {len(same)} leads {lead!r}, expected one; it has {', '.join(leads)[:80]}")
    return same[0]


def _chosen(x: Any, leads: Sequence[str] | None, wanted: Sequence[str], where: str) -> list[np.ndarray]:
    """Recordings, each (samples, leads), with some of their leads."""
    if leads is None:
        raise EcgnbError(f"{where}: does not name its leads, so none can be chosen; add the key leads")
    index = [_place(lead, [str(one) for one in leads], where) for lead in wanted]
    return [np.asarray(one)[:, index] for one in x]


def resampled(piece: np.ndarray, fs: float, to: float) -> np.ndarray:
    """(length, leads) at another rate; beyond its ends a line is assumed, so that an offset makes no step there."""
    ratio = Fraction(to / fs).limit_denominator(1000)
    return signal.resample_poly(piece, ratio.numerator, ratio.denominator, axis=0, padtype="line")


def _standardisation(given: Standardise | None, unit: str, n_leads: int, where: str) -> tuple[str, Scale]:
    """("recording", "lead", "none" or "fixed", the function that gives a recording's mean and SD)."""
    if unit == "z":
        if given not in (None, "none"):
            raise EcgnbError(
                f'{where}: standardise={given!r}, and unit "z" says that this was done; give mV, or neither'
            )
        return "none", lambda piece: (0.0, 1.0)
    if isinstance(given, tuple | list | np.ndarray):
        try:
            mean, sd = (np.asarray(part, np.float64) for part in given)
            mean, sd = (np.broadcast_to(part, (n_leads,)) if np.ndim(part) else part for part in (mean, sd))
        except (TypeError, ValueError):
            mean, sd = np.zeros(1), np.zeros(1)
        if not (np.isfinite(mean).all() and np.isfinite(sd).all() and (sd > 0).all()):
            raise EcgnbError(f"{where}: standardise={given!r}: expected (mean, SD) in mV, numbers or one for each lead")
        if np.ndim(mean) or np.ndim(sd):
            mean, sd = np.broadcast_to(mean, (n_leads,)), np.broadcast_to(sd, (n_leads,))
        return "fixed", lambda piece: (mean, sd)
    scales: dict[str, Scale] = {
        "recording": lambda piece: (piece.mean(), piece.std()),
        "lead": lambda piece: (piece.mean(axis=0), piece.std(axis=0)),
        "none": lambda piece: (0.0, 1.0),
    }
    kind = given or "recording"
    if kind not in scales:
        raise EcgnbError(f"{where}: standardise={given!r}: expected {', '.join(STANDARDISE)} or (mean, SD) in mV")
    return kind, scales[kind]
