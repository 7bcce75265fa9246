"""Recordings: read once, then mapped; the manifest, the audit, the demo set without a network."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from conftest import ecg, mat_bytes

from ecgnb.data.archive import Archive
from ecgnb.data.audit import as_text, audit
from ecgnb.data.dataset import window, windows
from ecgnb.data.download import find_archive
from ecgnb.data.records import manifest, read_recordings
from ecgnb.errors import EcgnbError


def write(folder, seconds=30):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "X00001.mat").write_bytes(mat_bytes(ecg(seconds)))
    (folder / "X00001.hea").write_text("X00001 1 300\nX00001.mat 16+24 1000/mV\n")
    return Archive(folder)


def test_a_flat_window_never_becomes_nan():
    with pytest.raises(EcgnbError, match="flat"):
        window(np.concatenate([np.zeros(9000), ecg()]).astype(np.int16))


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
    second = read_recordings(write(tmp_path / "data", seconds=20))
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
