"""Recordings: every bad one is refused in one line, every layout is read, nothing is written outside."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import ecg, header, mat_bytes

from ecgnb.data.audit import as_text, audit
from ecgnb.data.dataset import window, windows
from ecgnb.data.download import Archive, find_archive
from ecgnb.data.records import BadRecording, manifest, read_labels, read_recording, read_recordings
from ecgnb.errors import EcgnbError


def write(folder, name="X00001", mat=None, hea=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.mat").write_bytes(mat_bytes(ecg()) if mat is None else mat)
    (folder / f"{name}.hea").write_text(header(name) if hea is None else hea)
    (folder / "RECORDS").write_text(f"{name}\n")
    return Archive(folder)


nan = np.where(np.arange(9000) == 5, np.nan, ecg())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"mat": mat_bytes(ecg())[:5000]}, "truncated or not a MATLAB file"),
        ({"mat": b"RIFF this is no MATLAB file"}, "truncated or not a MATLAB file"),
        ({"mat": b""}, "truncated or not a MATLAB file"),
        ({"mat": mat_bytes(ecg(), "ecg")}, "no variable `val`"),
        ({"mat": mat_bytes(nan)}, "NaN"),
        ({"mat": mat_bytes(ecg() + 0.5)}, "does not hold int16"),
        ({"mat": mat_bytes(np.zeros(9000, np.int16))}, "flat line"),
        ({"mat": mat_bytes(ecg(8.9))}, "shorter than 9 s"),
        ({"hea": header("X00001", fs=500)}, "sampled at 500 Hz"),
        ({"hea": header("X00001", gain="200/mV")}, "gain 200/mV"),
        ({"hea": "nonsense"}, "header cannot be read"),
        ({"name": "A00001"}, "differs from the published recording"),
    ],
)
def test_a_bad_recording_is_one_clear_error_or_a_counted_skip(tmp_path, files, message, monkeypatch):
    monkeypatch.setenv("ECGNB_CACHE", str(tmp_path / "cache"))
    archive = write(tmp_path / "data", **files)
    with pytest.raises(BadRecording, match=message) as caught:
        read_recordings(archive)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)

    good = "X00002"
    (tmp_path / "data" / f"{good}.mat").write_bytes(mat_bytes(ecg()))
    (tmp_path / "data" / "RECORDS").write_text(f"{archive.records()[0]}\n{good}\n")
    kept = read_recordings(Archive(tmp_path / "data"), bad="skip")
    assert list(kept.names) == [good] and len(kept.skipped) == 1
    assert not list((tmp_path / "cache").rglob("*.npy")), "a set with gaps must not be cached"


def test_a_record_listed_but_absent_is_named(tmp_path):
    archive = write(tmp_path)
    (tmp_path / "RECORDS").write_text("X00001\nX00009\n")
    with pytest.raises(BadRecording, match=r"X00009\.mat is listed but absent"):
        read_recordings(archive)


@pytest.mark.parametrize("row", ["X1,Q", "X1", "X1,A,N"])
def test_a_foreign_label_names_file_and_line(row):
    with pytest.raises(EcgnbError, match=r"REFERENCE\.csv, line 2"):
        read_labels(f"X0,A\n{row}\n", "REFERENCE.csv")


def test_a_flat_window_never_becomes_nan():
    with pytest.raises(EcgnbError, match="flat"):
        window(np.concatenate([np.zeros(9000), ecg()]).astype(np.int16))


def test_a_hostile_archive_writes_nothing(tmp_path):
    path = tmp_path / "inside" / "training2017.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../evil.mat", mat_bytes(ecg()))
        archive.writestr("/etc/evil.hea", header("evil"))
    before = sorted(tmp_path.rglob("*"))
    assert len(read_recording(Archive(path), "evil")) == 9000
    assert sorted(tmp_path.rglob("*")) == before


def test_a_broken_zip_is_one_line(tmp_path):
    (tmp_path / "sample2017.zip").write_bytes(b"PK\x03\x04 half a download")
    with pytest.raises(EcgnbError, match="not a readable zip"):
        find_archive("validation", tmp_path)


@pytest.mark.parametrize("layout", ["training_data", "training/A00"])
def test_unpacked_layouts_are_read(tmp_path, layout):
    write(tmp_path / layout)
    archive = find_archive("training", tmp_path)
    assert archive.records() == ["X00001"]
    assert len(read_recording(archive, "X00001")) == 9000


def test_the_second_read_comes_from_the_array_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGNB_CACHE", str(tmp_path / "cache"))
    archive = write(tmp_path / "data")
    first = read_recordings(archive)
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 4
    made = windows(first)
    for again in ("ecgnb.data.records.read_recording", "ecgnb.data.dataset.window"):
        monkeypatch.setattr(again, lambda *_: pytest.fail("made again"))
    second = read_recordings(archive)
    assert (second.samples == first.samples).all() and (second.digests == first.digests).all()
    for name, array in windows(second).items():
        assert (array == made[name]).all() and not array.flags.writeable, name


def test_a_changed_recording_is_not_taken_from_the_array_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGNB_CACHE", str(tmp_path / "cache"))
    first = read_recordings(write(tmp_path / "data"))
    second = read_recordings(write(tmp_path / "data", mat=mat_bytes(ecg(20))))
    assert len(first.samples) == 9000 and len(second.samples) == 6000
    assert windows(second)["lengths"].tolist() == [6000]


def test_without_network_or_mirror_the_demo_set_steps_in_loudly(tmp_path):
    """Decided within 15 s, by a real failed connection (to a port that nobody listens on)."""
    script = (
        "import time; t = time.monotonic(); from ecgnb.data.dataset import load_data;"
        "d = load_data('validation'); assert time.monotonic() - t < 60; print(d.title)"
    )
    environment = {"ECGNB_MIRROR": "http://127.0.0.1:9", "ECGNB_CACHE": str(tmp_path), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "NO RECORDINGS" in done.stdout and "DEMO (SYNTHETIC), validation" in done.stdout


def test_the_manifest_covers_all_recordings():
    assert len(manifest()) == 8528
    assert manifest()["A00001"][0] == 9000


@pytest.mark.real
def test_the_audit_finds_leak_duplicates_and_label_versions():
    text = as_text(audit("physionet"))
    rows = {" ".join(line.split()) for line in text.splitlines()}
    assert "v0 771 5154 2557 46 8528" in rows
    assert "v2 738 5050 2456 284 8528" in rows
    assert "v3 758 5076 2415 279 8528" in rows
    assert "byte-identical to a training recording 300" in rows
    assert "of these, under the same name 300" in rows
    assert "A00227 = A01176 N N" in rows and "A02656 = A03123 N N" in rows


@pytest.mark.real
def test_the_quick_audit_sees_the_same_leak_without_the_large_download(monkeypatch):
    full = audit("physionet")

    def only_validation(split, folder=None):
        assert split == "validation", "the quick audit must not need the training archive"
        return find_archive(split, folder)

    monkeypatch.setattr("ecgnb.data.audit.find_archive", only_validation)
    quick = audit("physionet", full=False)
    for title in list(quick)[1:]:
        assert quick[title].equals(full[title]), title
