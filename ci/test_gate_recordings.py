"""What people bring as recordings is read right, or refused in one line that names the file and what to do.

A table of faults: each is made in a small folder of recordings, and has one outcome that must hold.
"""

from __future__ import annotations

import io
import os
import shutil
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import wfdb
from conftest import ecg, header, mat_bytes
from fuzz_recordings import fuzz, sources
from hypothesis import given
from hypothesis import strategies as st

from ecgnb.__main__ import main
from ecgnb.constants import FS
from ecgnb.data.archive import LARGEST
from ecgnb.data.audit import audit
from ecgnb.data.dataset import Dataset, load_data
from ecgnb.data.download import find_archive
from ecgnb.data.records import MAT_TYPES, check_header, manifest, read_mat
from ecgnb.errors import EcgnbError
from ecgnb.evaluation.engine import describe

SIGNALS = {f"X{i}": (ecg() * i // 5 + i).astype(np.int16) for i in range(1, 5)}
LABELS = dict(zip(SIGNALS, "ANO~", strict=True))
Damage = Callable[[Path], object]


def make(folder: Path) -> Path:
    """A folder of recordings of one's own, as README asks for it: four for validation, the same for training."""
    for part in ("validation", "training"):
        (folder / part).mkdir(parents=True)
        for name, signal in SIGNALS.items():
            (folder / part / f"{name}.mat").write_bytes(mat_bytes(signal))
            (folder / part / f"{name}.hea").write_text(header(name))
        (folder / part / "RECORDS").write_text("".join(f"{name}\n" for name in SIGNALS))
        (folder / part / "REFERENCE.csv").write_text("".join(f"{n},{label}\n" for n, label in LABELS.items()))
    shutil.copy(folder / "training" / "REFERENCE.csv", folder / "REFERENCE-v3.csv")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ECGNB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_right(dataset: Dataset, missing: tuple[str, ...] = ()) -> None:
    """All recordings that are not missing, with the right signal and label, once each."""
    expected = [name for name in SIGNALS if name not in missing]
    assert sorted(dataset.names) == expected
    for name, signal, y in zip(dataset.names, dataset.signals, dataset.y, strict=True):
        assert (signal == SIGNALS[name]).all() and dataset.classes[y] == LABELS[name]


def assert_one_line(text: str, folder: Path, *words: str) -> None:
    assert text.strip().isprintable() and str(folder) in text and len(text) < 600
    for word in words:
        assert word in text, text


# ---- faults of one recording: X2 of the validation set ----


def mat(values: object) -> Damage:
    content = values if isinstance(values, bytes) else mat_bytes(np.asarray(values))
    return lambda part: (part / "X2.mat").write_bytes(content)


def hea(text: str | bytes) -> Damage:
    return lambda part: (part / "X2.hea").write_bytes(text if isinstance(text, bytes) else text.encode())


def both(values: np.ndarray) -> Damage:
    return lambda part: (mat(values)(part), hea(header("X2", length=str(len(values))))(part))


def saved(value: object, version: str = "5", name: str = "val") -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, {name: value}, format=version)
    return file.getvalue()


def v4(kind: int, rows: int, columns: int, is_complex: int = 0, letters: int = 4, order: str = "<") -> bytes:
    return struct.pack(f"{order}5i", kind, rows, columns, is_complex, letters) + b"val\0"


GOOD = SIGNALS["X2"]
GAP = np.where(np.arange(9000) // 300 == 12, -32768, GOOD).astype(np.int16)
STILL = np.where(np.arange(9000) // 300 == 12, 77, GOOD).astype(np.int16)
LATE = np.concatenate([np.zeros(9000), ecg()]).astype(np.int16)
V5 = saved(GOOD[None])

RECORDINGS: dict[str, tuple[Damage, tuple[str, ...]]] = {  # fault -> (damage, words of the error; none: right)
    "truncated": (mat(mat_bytes(GOOD)[:5000]), ("X2.mat", "truncated")),
    "truncated in its head": (mat(mat_bytes(GOOD)[:10]), ("X2.mat", "truncated")),
    "bytes too many": (mat(mat_bytes(GOOD) + b"0"), ("X2.mat", "truncated or not")),
    "empty": (mat(b""), ("X2.mat", "truncated")),
    "another format": (mat(b"RIFF this is no MATLAB file"), ("X2.mat", "not a MATLAB v4")),
    "another name": (mat(mat_bytes(GOOD, "ecg")), ("X2.mat", "`val`", "ecg")),
    "twice val": (mat(mat_bytes(GOOD) * 2), ("X2.mat", "twice")),
    "another variable beside it": (mat(mat_bytes(ecg(), "fs") + mat_bytes(GOOD)), ()),
    "v5": (mat(V5), ("X2.mat", "MATLAB v5", "-v4")),
    "v5, a byte changed": (mat(V5[:140] + b"\xff" + V5[141:]), ("X2.mat", "-v4")),
    "v5, compressed": (mat(saved({"a": 1}) + b"x"), ("X2.mat", "-v4")),
    "v7.3": (mat(b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n"), ("X2.mat", "v7.3", "-v4")),
    "HDF5": (mat(b"\x89HDF\r\n\x1a\n" + bytes(600)), ("X2.mat", "v7.3", "-v4")),
    "text": (mat(saved("hello", "4")), ("X2.mat", "text")),
    "complex": (mat(saved(GOOD[None] * 1j, "4")), ("X2.mat", "complex")),
    "sparse": (mat(saved(scipy.sparse.csc_array(GOOD[None].astype(float)), "4")), ("X2.mat", "sparse")),
    "doubles": (mat(GOOD.astype(float)), ()),
    "singles": (mat(GOOD.astype(np.float32)), ()),
    "int32": (mat(GOOD.astype(np.int32)), ()),
    "big-endian": (mat(v4(1030, 1, 9000, order=">") + GOOD.astype(">i2").tobytes()), ()),
    "int16 of another machine": (mat(v4(2030, 1, 9000) + GOOD.tobytes()), ("X2.mat", "v4")),
    "9000 leads": (mat(v4(30, 9000, 1) + GOOD.tobytes()), ("X2.mat", "(9000, 1)", "one lead")),
    "two leads": (mat(v4(30, 2, 4500) + GOOD.tobytes()), ("X2.mat", "(2, 4500)")),
    "more samples than there are": (mat(v4(30, 1, 2**31 - 1) + GOOD.tobytes()), ("X2.mat", "truncated")),
    "2 to the 62 samples": (mat(v4(0, 2**31 - 1, 2**31 - 1) + GOOD.tobytes()), ("X2.mat", "truncated")),
    "fewer than none": (mat(v4(30, -1, -9000) + GOOD.tobytes()), ("X2.mat", "v4")),
    "a name without end": (mat(v4(30, 1, 9000, letters=2**31 - 1) + GOOD.tobytes()), ("X2.mat", "v4")),
    "NaN": (mat(np.where(np.arange(9000) == 5, np.nan, GOOD)), ("X2.mat", "NaN", "leave")),
    "infinite": (mat(np.where(np.arange(9000) == 5, np.inf, GOOD)), ("X2.mat", "infinite")),
    "millivolts": (mat(GOOD / 1000), ("X2.mat", "does not hold int16", "rescale")),
    "too large": (mat(GOOD * 1e6), ("X2.mat", "does not hold int16")),
    "flat": (mat(np.zeros(9000, np.int16)), ("X2.mat", "flat for 30.0 s")),
    "flat over its window": (both(LATE), ("X2.mat", "flat for 30.0 s from 0.0 s")),
    "flat for a second": (mat(STILL), ("X2.mat", "flat for 1.0 s from 12.0 s")),
    "missing samples": (mat(GAP), ("X2.mat", "300 missing samples", "12.0 s")),
    "one missing sample": (mat(np.where(np.arange(9000) == 900, -32768, GOOD)), ("1 missing samples", "3.0 s")),
    "short": (mat(ecg(8.9)), ("X2.mat", "shorter than 9 s")),
    "another length": (mat(ecg(20)), ("X2.hea", "length is 9000", "6000 samples")),
    "a folder": (lambda part: ((part / "X2.mat").unlink(), (part / "X2.mat").mkdir()), ("X2.mat", "absent")),
    "a pipe": (lambda part: ((part / "X2.mat").unlink(), os.mkfifo(part / "X2.mat")), ("X2.mat", "not a file")),
    "no .mat": (lambda part: (part / "X2.mat").unlink(), ("X2.mat", "listed but absent")),
    "8 GB": (lambda part: os.truncate(part / "X2.mat", 8 * 2**30), ("X2.mat", "8589934592 bytes")),
    "capitals": (lambda part: [(part / f"X2.{e}").rename(part / f"X2.{e.upper()}") for e in ("mat", "hea")], ()),
    "no header": (lambda part: (part / "X2.hea").unlink(), ("X2.hea", "missing", "X2 1 300 9000")),
    "header of another": (hea(header("X3")), ("X2.hea", "header of X3")),
    "header empty": (hea(""), ("X2.hea", "cannot be read")),
    "header of one line": (hea("X2 1 300 9000\n"), ("X2.hea", "cannot be read")),
    "header of one word": (hea("nonsense"), ("X2.hea", "cannot be read")),
    "header not plain text": (hea(bytes(range(256))), ("X2.hea", "not plain text")),
    "header in UTF-16": (hea(header("X2").encode("utf-16")), ()),
    "header in UTF-16 without a mark": (hea(header("X2").encode("utf-16-le")), ("X2.hea", "UTF-8")),
    "header with a byte-order mark": (hea(header("X2").encode("utf-8-sig")), ()),
    "header with comments": (hea(f"# of a patient\n\n{header('X2')}# Age: 55\n"), ()),
    "header with old line ends": (hea(header("X2").replace("\r\n", "\r")), ()),
    "header of two signals": (
        hea("X2 2 300 9000\nX2.mat 16+24 1000/mV\nX2.mat 16+24 1000/mV\n"),
        ("X2.hea", "2 signals"),
    ),
    "a signal too many": (hea(header("X2") + "X2.mat 16+24 1000/mV\n"), ("X2.hea", "1 signals in 2 lines")),
    "segments": (hea("X2/2 1 300 9000\nX2.mat 16+24 1000/mV\n"), ("X2.hea", "header of X2/2")),
    "another format of samples": (hea("X2 1 300 9000\nX2.mat 212 1000/mV\n"), ("X2.hea", "format 212")),
    "two samples a frame": (hea("X2 1 300 9000\nX2.mat 16x2+24 1000/mV\n"), ("X2.hea", "format 16x2+24")),
    "a number that is none": (hea(header("X2", rest="16 0 0 zero")), ("X2.hea", "zero")),
    "check sum": (hea(header("X2", rest=f"16 0 0 {int(GOOD.sum()) % 65536} 0 ECG")), ()),
    "check sum, signed": (hea(header("X2", rest=f"16 0 0 {int(GOOD.sum(dtype=np.int16))} 0 ECG")), ()),
    "wrong check sum": (hea(header("X2", rest="16 0 0 4711 0 ECG")), ("X2.hea", "check sum 4711")),
    "wrong length": (hea(header("X2", length="8999")), ("X2.hea", "length is 8999", "9000 samples")),
    "no length": (hea("X2 1 300\nX2.mat 16 1000\n"), ()),
    "baseline": (hea(header("X2", gain="1000(512)/mV")), ("X2.hea", "baseline is 512", "subtract")),
    "baseline by zero level": (hea(header("X2", rest="12 512 0 0 0 ECG")), ("X2.hea", "baseline is 512")),
    "baseline 0 at another zero level": (hea(header("X2", gain="1000(0)/mV", rest="12 512 0 0 0 ECG")), ()),
    **{
        f"rate {fs!r}": (hea(header("X2", fs=fs)), words)
        for fs, words in {
            "300/300": (),
            "300.0/1(0)": (),
            "3e2": (),
            "500": ("X2.hea", "sampling rate is '500'", "resample"),
            "300Hz": ("X2.hea", "'300Hz'", "correct"),
            "300,0": ("X2.hea", "'300,0'"),
            "-300": ("X2.hea", "'-300'"),
            "nan": ("X2.hea", "'nan'"),
            "0": ("X2.hea", "'0'"),
        }.items()
    },
    "no rate": (hea("X2 1\nX2.mat 16+24 1000/mV\n"), ("X2.hea", "not given", "300")),
    **{
        f"gain {gain!r}": (hea(header("X2", gain=gain)), words)
        for gain, words in {
            "1000": (),
            "1000.0(0)/mV": (),
            "1e3/mV": (),
            "1/uV": (),
            "1000000/V": (),
            "1000/uV": ("X2.hea", "'1000/uV'", "rescale"),
            "1000/V": ("X2.hea", "'1000/V'"),
            "1000/MV": ("X2.hea", "'1000/MV'"),
            "1000/mmHg": ("X2.hea", "'1000/mmHg'"),
            "200/mV": ("X2.hea", "'200/mV'", "rescale"),
            "-1000/mV": ("X2.hea", "'-1000/mV'"),
            "0/mV": ("X2.hea", "'0/mV'"),
            "1000mV": ("X2.hea", "'1000mV'"),
            "1e999/mV": ("X2.hea", "'1e999/mV'"),
        }.items()
    },
    "no gain": (hea("X2 1 300 9000\nX2.mat 16+24\n"), ("X2.hea", "not given (200/mV")),
}


@pytest.mark.parametrize("fault", RECORDINGS)
def test_a_bad_recording_is_named_or_skipped_and_counted(tmp_path, cache, capsys, fault):
    damage, words = RECORDINGS[fault]
    folder = make(tmp_path / "mine")
    damage(folder / "validation")
    before = {} if fault in ("a pipe", "8 GB") else contents(folder)
    if not words:
        assert_right(load_data("validation", data=str(folder)))
        return
    status = main(["data", "--data", str(folder)])
    printed = capsys.readouterr()
    assert status == 2 and printed.out == ""
    assert_one_line(printed.err, folder, "ecgnb: ", *words)

    left = load_data("validation", data=str(folder), bad="skip")
    assert_right(left, missing=("X2",))
    assert len(left.skipped) == 1 and words[0] in left.skipped[0] and left.title.endswith("bad recordings skipped: 1")
    assert describe(left, seed=1, model="none").data.endswith("bad recordings skipped: 1")
    assert not list(cache.rglob("*.npy")), "a set with gaps must not be cached"
    assert not before or contents(folder) == before


# ---- faults of the folder, of RECORDS, of labels ----


def copied(to: str, *files: str) -> Damage:
    def copy(folder: Path) -> None:
        (folder / to).mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(folder / file, folder / to)

    return copy


def sorted_into_folders(folder: Path, *, lists: bool) -> None:
    """PhysioNet's unpacked layout: A00/X1 …, with paths in RECORDS, or a RECORDS in each folder."""
    part = folder / "validation"
    for i, name in enumerate(SIGNALS):
        (part / f"A0{i % 2}").mkdir(exist_ok=True)
        for end in ("mat", "hea"):
            (part / f"{name}.{end}").rename(part / f"A0{i % 2}" / f"{name}.{end}")
    paths = [f"A0{i % 2}/{name}" for i, name in enumerate(SIGNALS)]
    if lists:
        (part / "RECORDS").unlink()
        for sub in ("A00", "A01"):
            (part / sub / "RECORDS").write_text("\n".join(p[4:] for p in paths if p.startswith(sub)))
    else:
        (part / "RECORDS").write_text("\n".join(paths))


def other_x1(folder: Path) -> None:
    """A second X1 with another signal, in a folder that sorts behind."""
    copied("validation/old", "validation/X1.hea")(folder)
    (folder / "validation" / "old" / "X1.mat").write_bytes(mat_bytes(SIGNALS["X4"]))


def listed(text: str | bytes) -> Damage:
    content = text if isinstance(text, bytes) else text.encode()
    return lambda folder: (folder / "validation" / "RECORDS").write_bytes(content)


def labelled(text: str | bytes) -> Damage:
    content = text if isinstance(text, bytes) else text.encode()
    return lambda folder: (folder / "REFERENCE-v3.csv").write_bytes(content)


def zipped(change: Callable[[zipfile.ZipFile], object] = bool, top: str = "sample2017/") -> Damage:
    """The validation folder as a zip, with something added to it."""

    def pack(folder: Path) -> None:
        with zipfile.ZipFile(folder / "sample2017.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted((folder / "validation").iterdir()):
                archive.write(path, top + path.name)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # zipfile warns of a second file of one name
                change(archive)
        shutil.rmtree(folder / "validation")

    return pack


def member(offset: int, value: bytes) -> Damage:
    """The zip with bytes of X2.mat's entry in its directory replaced."""

    def patch(folder: Path) -> None:
        zipped()(folder)
        path = folder / "sample2017.zip"
        content = bytearray(path.read_bytes())
        at = content.rindex(b"sample2017/X2.mat") - 46
        content[at + offset : at + offset + len(value)] = value
        path.write_bytes(content)

    return patch


def then(*damages: Damage) -> Damage:
    return lambda folder: [damage(folder) for damage in damages]


def unlisted(folder: Path) -> None:
    (folder / "validation" / "RECORDS").unlink()


TABLE = "".join(f"{name},{label}\n" for name, label in LABELS.items())
LISTED = "".join(f"{name}\n" for name in SIGNALS)

FOLDERS: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "as it should be": (lambda folder: None, ()),
    "no RECORDS": (unlisted, ()),
    "sub-folders, one RECORDS": (lambda folder: sorted_into_folders(folder, lists=False), ()),
    "sub-folders, a RECORDS each": (lambda folder: sorted_into_folders(folder, lists=True), ()),
    "sub-folders, no RECORDS": (then(lambda f: sorted_into_folders(f, lists=False), unlisted), ()),
    "sub-folders, RECORDS without paths": (
        then(lambda f: sorted_into_folders(f, lists=False), listed(LISTED)),
        ("RECORDS does not name A00/X1.mat",),
    ),
    "RECORDS leads elsewhere": (listed("A00/X1\nX2\nX3\nX4\n"), ("does not name X1.mat, but A00/X1.mat",)),
    "RECORDS leads outside": (listed("../training/X1\nX2\nX3\nX4\n"), ("does not name X1.mat",)),
    "a copy in old": (copied("validation/old", "validation/X1.mat", "validation/X1.hea"), ("old/X1.mat, but X1.mat",)),
    "another X1 in old": (other_x1, ("old/X1.mat, but X1.mat",)),
    "another X1 in old, without RECORDS": (then(other_x1, unlisted), ("X1.mat and old/X1.mat", "same name")),
    "a .mat alone in backup": (copied("validation/backup", "validation/X1.mat"), ()),
    "old with its own RECORDS": (
        then(other_x1, copied("validation/old", "validation/RECORDS")),
        ("X1.mat and old/X1.mat", "same name"),
    ),
    "RECORDS names one thrice": (listed(LISTED + "X1\nX1\n"), ("RECORDS names X1 in lines 1 and 5",)),
    "RECORDS leaves half out": (listed("X1\nX2\n"), ("RECORDS does not name X3.mat", "2 such")),
    "RECORDS names one that is not there": (listed(LISTED + "X9\n"), ("X9.mat is listed but absent",)),
    "RECORDS with blank lines, CRLF, BOM": (listed(b"\xef\xbb\xbf" + LISTED.replace("\n", "\r\n \r\n").encode()), ()),
    "RECORDS in UTF-16": (listed(LISTED.encode("utf-16")), ()),
    "RECORDS not plain text": (listed(b"X1\n\xff\n"), ("RECORDS is not plain text",)),
    "RECORDS empty, no recording": (
        lambda f: (shutil.rmtree(f / "validation"), (f / "validation").mkdir(), listed("")(f)),
        ("neither RECORDS nor a single .mat",),
    ),
    "macOS": (
        lambda f: [(f / "validation" / n).write_bytes(b"\0\5\26\7") for n in ("._X1.mat", "._X1.hea", "._RECORDS")],
        (),
    ),
    "two cases of one name": (
        lambda f: shutil.copy(f / "validation" / "X2.mat", f / "validation" / "X2.MAT"),
        ("two files X2.mat",),
    ),
    "two label tables": (copied("validation/old", "validation/REFERENCE.csv"), ()),
    "no folder": (lambda f: shutil.rmtree(f / "validation"), ("holds none of", "validation")),
    "zip": (zipped(), ()),
    "zip without a folder": (zipped(top=""), ()),
    "zip of Windows": (zipped(top="sample2017\\validation\\"), ()),
    "zip of macOS": (
        zipped(lambda z: [z.writestr(f"__MACOSX/sample2017/._X1.{e}", b"\0\5\26\7") for e in ("mat", "hea")]),
        (),
    ),
    "zip with one name twice": (
        zipped(lambda z: z.writestr("sample2017/X1.mat", mat_bytes(SIGNALS["X4"]))),
        ("two files sample2017/X1.mat",),
    ),
    "zip with a second X1": (
        zipped(lambda z: [z.writestr(f"X1.{e}", b"?") for e in ("mat", "hea")]),
        ("does not name X1.mat, but sample2017/X1.mat",),
    ),
    "zip that leads outside": (zipped(lambda z: z.writestr("../../evil.mat", b"")), ("'../../evil.mat'", "outside")),
    "zip from the root": (zipped(lambda z: z.writestr("/etc/evil.hea", b"")), ("'/etc/evil.hea'", "outside")),
    "zip with a password": (member(8, b"\1\0"), ("X2.mat is encrypted",)),
    "zip in LZMA": (member(10, b"\x0e\0"), ("X2.mat is compressed", "deflate")),
    "zip in an unknown way": (member(10, b"\x61\0"), ("X2.mat is compressed", "deflate")),
    "zip with 4 GB": (member(24, b"\xf0\xff\xff\xff"), ("X2.mat has 4294967280 bytes",)),
    "zip that says less than it holds": (member(24, struct.pack("<I", 9000)), ("X2.mat cannot be read",)),
    "zip that says more than it holds": (member(24, struct.pack("<I", 90000)), ("X2.mat cannot be read",)),
    "zip with a wrong check sum": (member(16, b"0000"), ("X2.mat cannot be read", "CRC")),
    "zip entry elsewhere": (member(42, b"\0\0\0\0"), ("X2.mat cannot be read",)),
    "half a zip": (
        lambda f: (zipped()(f), os.truncate(f / "sample2017.zip", 1000)),
        ("sample2017.zip: not a readable zip",),
    ),
    "labels beside the recordings alone": (lambda f: (f / "REFERENCE-v3.csv").unlink(), ()),
    "no labels": (
        lambda f: ((f / "REFERENCE-v3.csv").unlink(), (f / "validation" / "REFERENCE.csv").unlink()),
        ("holds neither REFERENCE-v3.csv nor validation/REFERENCE.csv", "record,label"),
    ),
    "labels beside the recordings": (
        lambda f: [
            shutil.copy(f / "REFERENCE-v3.csv", f / "training"),
            (f / "REFERENCE-v3.csv").rename(f / "validation" / "REFERENCE-v3.csv"),
        ],
        (),
    ),
    "labels with BOM": (labelled(TABLE.encode("utf-8-sig")), ()),
    "labels in UTF-16": (labelled(TABLE.encode("utf-16")), ()),
    "labels in UTF-16 without a mark": (
        labelled(TABLE.encode("utf-16-be")),
        ("REFERENCE-v3.csv is not plain text", "UTF-8"),
    ),
    "labels in Latin-1": (labelled(b"# \xe9\n" + TABLE.encode()), ("REFERENCE-v3.csv is not plain text", "UTF-8")),
    "labels with blank lines": (labelled(TABLE.replace("\n", "\r\n") + "\r\n \n"), ()),
    "labels with a heading": (labelled("Record,Label\n" + TABLE), ()),
    "labels with another heading": (labelled("name,class\n" + TABLE), ("REFERENCE-v3.csv, line 1", "record,label")),
    "labels in quotes": (labelled(TABLE.replace("X2,N", '"X2", "N"')), ()),
    "labels by path": (labelled(TABLE.replace("X", "A00/X")), ()),
    "labels of others, too": (labelled(TABLE + "Y1,A\n"), ()),
    "a label twice": (labelled(TABLE + "X1,A\n"), ()),
    "labels that contradict": (labelled(TABLE + "X1,N\n"), ("REFERENCE-v3.csv, line 5", "X1 is N here and A above")),
    "labels that contradict by path": (labelled(TABLE + "old/X1,N\n"), ("line 5", "X1 is N here and A above")),
    "a foreign label": (labelled(TABLE.replace("X2,N", "X2,Q")), ("REFERENCE-v3.csv, line 2", "A N O ~")),
    "a column too few": (labelled(TABLE.replace("X2,N", "X2")), ("REFERENCE-v3.csv, line 2",)),
    "a column too many": (labelled(TABLE.replace("X2,N", "X2,N,3")), ("REFERENCE-v3.csv, line 2",)),
    "semicolons": (labelled(TABLE.replace(",", ";")), ("REFERENCE-v3.csv, line 1", "record,label")),
    "a label without a name": (labelled(TABLE + ",N\n"), ("REFERENCE-v3.csv, line 5",)),
    "a label missing": (labelled(TABLE.replace("X2,N\n", "")), ("X2 has no label v3", "REFERENCE-v3.csv")),
    "a label first, called record": (labelled("record1,A\n" + TABLE), ()),
}


@pytest.mark.parametrize("fault", FOLDERS)
def test_a_folder_is_read_right_or_refused(tmp_path, capsys, fault):
    damage, words = FOLDERS[fault]
    folder = make(tmp_path / "mine")
    damage(folder)
    before = contents(folder)
    if not words:
        assert_right(load_data("validation", data=str(folder)))
        assert main(["data", "--data", str(folder)]) == 0
        return
    assert main(["evaluate", "baseline", "--data", str(folder)]) == 2
    printed = capsys.readouterr()
    assert_one_line(printed.err, folder, "ecgnb: ", *words)
    assert printed.out == "" and contents(folder) == before


def test_skip_leaves_out_bad_members_of_a_zip_and_recordings_without_a_label(tmp_path, capsys):
    folder = make(tmp_path / "mine")
    member(16, b"0000")(folder)
    labelled(TABLE.replace("X4,~\n", ""))(folder)
    left = load_data("validation", data=str(folder), bad="skip")
    assert_right(left, missing=("X2", "X4"))
    assert len(left.skipped) == 2 and "X4 has no label v3" in left.skipped[1]
    assert main(["data", "--data", str(folder), "--bad", "skip"]) == 0
    shown = capsys.readouterr().out
    assert "Bad recordings, skipped" in shown and "CRC" in shown and "X4 has no label v3" in shown


def test_all_bad_is_an_error_also_when_they_are_skipped(tmp_path):
    folder = make(tmp_path / "mine")
    for path in (folder / "validation").glob("*.hea"):
        path.unlink()
    with pytest.raises(EcgnbError, match=r"not one readable recording; first: .*X1\.hea is missing"):
        load_data("validation", data=str(folder), bad="skip")


def test_a_fold_without_recordings_is_named(tmp_path):
    folder = make(tmp_path / "mine")
    with pytest.raises(EcgnbError, match=r"training: none of its 4 recordings is in split 'dev'"):
        load_data("dev", data=str(folder))


@pytest.mark.parametrize(("version", "file"), [("v0", "REFERENCE-v0.csv"), ("v2", "REFERENCE-v2.csv")])
def test_physionets_unpacked_layout_has_its_own_names_of_label_files(tmp_path, version, file):
    folder = make(tmp_path / "mine")
    for part in ("training", "validation"):
        (folder / part / file).write_text(TABLE.replace("X1,A", "X1,O"))
    changed = load_data("validation", data=str(folder), labels=version)
    assert [changed.classes[y] for y in changed.y] == ["O", "N", "O", "~"]
    copied("training/old", f"training/{file}")(folder)
    with pytest.raises(EcgnbError, match=rf"holds .*{file} and .*{file}; keep one"):
        load_data("train", protocol="original", labels=version, data=str(folder))


def test_labels_that_are_not_there_are_named(tmp_path):
    with pytest.raises(EcgnbError, match=r"holds no REFERENCE-v0\.csv or REFERENCE-original\.csv with labels v0"):
        load_data("train", protocol="original", labels="v0", data=str(make(tmp_path / "mine")))


def test_a_folder_needs_no_label_file_of_the_challenge(tmp_path):
    folder = make(tmp_path / "mine")
    (folder / "REFERENCE-v3.csv").unlink()
    for split, protocol in (("validation", "leakfree"), ("train", "original")):
        found = load_data(split, protocol=protocol, data=str(folder))
        assert_right(found)
        assert found.labels == "REFERENCE.csv" and found.title.endswith(f"{split}, labels REFERENCE.csv")


# ---- formats, against the libraries that define them ----


@given(st.sampled_from(sorted(MAT_TYPES)), st.sampled_from("<>"), st.integers(0, 3), st.integers(0, 40), st.data())
def test_v4_files_are_read_as_scipy_reads_them(precision, order, rows, columns, data):
    dtype = np.dtype(order + MAT_TYPES[precision])
    size = rows * columns * dtype.itemsize
    content = v4((order == ">") * 1000 + precision * 10, rows, columns, order=order)
    content += data.draw(st.binary(min_size=size, max_size=size))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = scipy.io.loadmat(io.BytesIO(content))["val"]
    np.testing.assert_array_equal(read_mat(content, "file"), expected)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_matrix_or_one_line(content):
    for start in (b"", v4(30, 1, 8), V5[:140]):
        try:
            assert read_mat(start + content, "file").ndim == 2
        except EcgnbError as error:
            assert str(error).startswith("file") and len(str(error).splitlines()) == 1


words = st.sampled_from(
    ["", " ", "1", "2", "300", "300.0", "3e2", "300Hz", "300/300(0)", "9000", "8999", "0", "-1", "X2"]
)
gains = st.sampled_from(
    ["1000", "1e3/mV", "1000.0(0)/mV", "1/uV", "1000000/V", "1000/uV", "200", "1000(5)/mV", "1000/V"]
)


@given(words, words, words, gains, st.sampled_from(["16", "16+24", "212", "16x2"]), st.lists(words, max_size=5))
def test_what_is_accepted_of_a_header_wfdb_reads_alike(signals, rate, length, gain, form, rest):
    text = f"X2 {signals} {rate} {length}\nX2.mat {form} {gain} {' '.join(rest)} \n"
    try:
        check_header(text, "X2", GOOD, "file")
    except EcgnbError as error:
        assert str(error).startswith("file") and len(str(error).splitlines()) == 1
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "X2.hea").write_text(text)
        read = wfdb.rdheader(f"{folder}/X2")
    assert read.n_sig == 1 and read.fs == 300 and read.sig_len in (None, 0, 9000) and read.baseline == [0]
    assert read.adc_gain[0] * {"mV": 1, "uV": 1000, "V": 0.001}[read.units[0]] == 1000


# ---- provenance ----


def test_recordings_of_ones_own_are_called_by_their_folder_and_digest(tmp_path):
    folder = make(tmp_path / "clinic")
    first = load_data("validation", data=str(folder))
    assert first.title.startswith('own recordings ("clinic" ') and "CinC" not in first.title
    assert describe(first, seed=1, model="none").data == first.source
    (folder / "validation" / "X1.mat").write_bytes(mat_bytes(SIGNALS["X1"][::-1].copy()))
    assert load_data("validation", data=str(folder)).source != first.source
    tables = audit(str(folder), full=False)
    assert tables["Recordings by class and label version"]["all"].tolist() == [4, 4], "the challenge's were counted"


@pytest.mark.real
def test_published_recordings_are_known_by_their_digests(tmp_path, monkeypatch, validation):
    monkeypatch.setenv("ECGNB_MIRROR", os.environ.get("ECGNB_MIRROR", ""))
    assert validation.title == "CinC 2017, validation, labels v3"
    assert validation.source == "PhysioNet/CinC Challenge 2017" and not validation.skipped
    folder, archive = make(tmp_path / "part"), find_archive("validation")
    shutil.rmtree(folder / "validation")
    (folder / "validation").mkdir()
    names = validation.names[:3].tolist()
    for name in names:
        (folder / "validation" / f"{name}.mat").write_bytes(archive.read(f"{archive.records[name]}.mat"))
    labelled("".join(f"{name},N\n" for name in [*names, "X1"]))(folder)
    part = load_data("validation", data=str(folder))  # without headers: their samples are known
    assert part.title.startswith('CinC 2017 (3 recordings; labels from "part" ')
    copied("validation", "training/X1.mat", "training/X1.hea")(folder)
    mixed = load_data("validation", data=str(folder))
    assert mixed.title.startswith('own recordings ("part" ') and "3 of 4 from CinC 2017" in mixed.title
    (folder / "validation" / "A00001.hea").write_text(header("A00001", gain="1000/uV"))
    with pytest.raises(EcgnbError, match=r"A00001\.hea: gain is '1000/uV'"):
        load_data("validation", data=str(folder))


def test_a_recording_with_a_published_name_and_other_samples_is_refused(tmp_path):
    folder = make(tmp_path / "mine")
    for end in ("mat", "hea"):
        (folder / "validation" / f"X1.{end}").rename(folder / "validation" / f"A00001.{end}")
    listed(LISTED.replace("X1", "A00001"))(folder)
    with pytest.raises(EcgnbError, match=r"differs from the published A00001; .* rename"):
        load_data("validation", data=str(folder))
    assert manifest()["A00001"][0] == 9000


# ---- everything mutated ----


@pytest.fixture(scope="session")
def whole_recordings() -> list:
    """Of the demo set, and of the challenge where it can be had; from the usual cache."""
    return sources()


def test_mutated_recordings_never_crash_and_never_change_a_number_in_silence(whole_recordings, tmp_path):
    (tmp_path / "fuzz").mkdir()
    counts, faults = fuzz(whole_recordings, 300, 1, tmp_path / "fuzz")
    assert not faults, faults
    assert sum(counts.values()) == 300 and len({kind for kind, _ in counts}) == 6


def test_a_day_of_one_lead_is_not_too_large():
    assert 24 * 3600 * FS * 2 < LARGEST
