"""What is written down: damaged, half-written, foreign or locked files, downloads and disks that fail.

Each fault has the outcome that must hold: the right numbers, or one line that names the file and the remedy.
`python ci/fuzz_files.py --kills 50` is the longer version of the last test.
"""

from __future__ import annotations

import functools
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import fuzz_files
import keras
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, ecg, header, mat_bytes, small_network
from test_sweep import made_up_report

from ecgnb import files
from ecgnb.data import download
from ecgnb.data.dataset import load_data
from ecgnb.errors import EcgnbError
from ecgnb.evaluation import workers
from ecgnb.evaluation.cache import cached
from ecgnb.models import network
from ecgnb.report import figures, style
from ecgnb.report.page import page
from ecgnb.training import loop
from ecgnb.training.configuration import TrainingConfig
from ecgnb.training.selection import first_of_each_class


def flip(at: float) -> Callable[[bytes], bytes]:
    """One bit, at a share of the file's length."""

    def flipped(content: bytes) -> bytes:
        place = int(at * (len(content) - 1))
        return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]

    return flipped


FAULTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "one byte": lambda content: content[:1],
    "half": lambda content: content[: len(content) // 2],
    "a byte short": lambda content: content[:-1],
    "a byte long": lambda content: content + b"\0",
    "text": lambda _: b"no array\n",
    "zeros": lambda content: bytes(len(content)),
    "twice": lambda content: content * 2,
    "without seal": lambda content: content[:-4],
    "a pickle": lambda _: b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x08",
    **{f"flipped at {at:.2f}": flip(at) for at in (0, 0.01, 0.05, 0.3, 0.5, 0.7, 0.9, 0.99, 1)},
}


def error_of(action: Callable[[], object]) -> str:
    """The one line by which an action is refused."""
    with pytest.raises(EcgnbError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- caches ----


@pytest.fixture
def few(tmp_path, monkeypatch) -> Callable[[], dict[str, np.ndarray]]:
    """Loads a data set of two recordings, by a cache of its own."""
    folder = tmp_path / "data" / "validation"
    folder.mkdir(parents=True)
    for name, seconds in {"X00001": 30, "X00002": 12}.items():
        (folder / f"{name}.mat").write_bytes(mat_bytes(ecg(seconds)))
        (folder / f"{name}.hea").write_text(header(name).replace("9000", str(300 * seconds)))
    (folder / "RECORDS").write_text("X00001\nX00002\n")
    (folder.parent / "REFERENCE-v3.csv").write_text("X00001,A\nX00002,N\n")
    monkeypatch.setenv("ECGNB_CACHE", str(tmp_path / "cache"))

    def load() -> dict[str, np.ndarray]:
        dataset = load_data("validation", data=str(folder.parent))
        arrays = {key: np.array(getattr(dataset, key)) for key in ("x", "y", "names", "lengths", "mean_mv", "sd_mv")}
        return arrays | {f"signal {i}": np.array(signal) for i, signal in enumerate(dataset.signals)}

    return load


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_arrays_are_made_again(few, fault, tmp_path):
    expected = few()
    stored = sorted((tmp_path / "cache" / "arrays").glob("*.npy"))
    assert len(stored) >= 8
    for path in stored:
        whole = path.read_bytes()
        path.write_bytes(FAULTS[fault](whole))
        found = few()
        assert all(np.array_equal(expected[key], found[key]) for key in expected), path.name
        assert path.read_bytes() == whole


def test_an_array_under_anothers_name_is_made_again(few, tmp_path):
    expected = few()
    lengths, means = (next((tmp_path / "cache" / "arrays").glob(f"*-{name}.npy")) for name in ("lengths", "mean_mv"))
    shutil.copy(means, lengths)
    assert np.array_equal(few()["lengths"], expected["lengths"])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_result_is_made_again_by_the_workers(fault, tmp_path):
    """And only that one."""
    items, made = [1, 2, 3], []

    def double(item: int) -> dict[str, np.ndarray]:
        made.append(item)
        return {"x": np.full(100, 2.0 * item), "success": np.array([True])}

    def results() -> list[float]:
        entries = [("doubled", {"item": item}) for item in items]
        return [one["x"][99] for one in workers.map_cached(workers.HERE, double, items, entries, tmp_path)]

    assert results() == [2, 4, 6] == results() and made == items
    path = sorted(tmp_path.iterdir())[1]
    whole = path.read_bytes()
    path.write_bytes(FAULTS[fault](whole))
    assert results() == [2, 4, 6] and len(made) == 4
    np.savez(io.BytesIO(files.sealed(path)))


def test_a_result_under_anothers_name_is_made_again(tmp_path):
    for i in range(2):
        cached(tmp_path, "x", {"i": i}, lambda i=i: {"x": np.array(i)})
    one, other = tmp_path.iterdir()
    shutil.copy(one, other)
    assert [int(cached(tmp_path, "x", {"i": i}, lambda i=i: {"x": np.array(i)})["x"]) for i in range(2)] == [0, 1]


def test_temporary_names_never_collide_and_are_removed_when_old(tmp_path):
    """Two processes of one number, as in two containers, write one file at the same time."""
    path, seen = tmp_path / "x.npy", []

    def write(target: Path) -> None:
        if not seen:
            seen.append(target)
            files.write_atomically(path, write)
        seen.append(target)
        assert target.suffix == ".npy" and target.parent == tmp_path
        target.write_text("whole")

    files.write_atomically(path, write)
    assert len(set(seen)) == 2 and contents(tmp_path) == {"x.npy": b"whole"}
    new, old, foreign = (tmp_path / f".{name}" for name in ("0123456789abcdef-new", "0123456789abcdef-old", "kept"))
    for left in (new, old, foreign):
        left.touch()
    os.utime(old, (time.time() - 100_000,) * 2)
    files._tidy_once.cache_clear()
    files.write_text(path, "whole")
    assert new.exists() and foreign.exists() and not old.exists()


# ---- run folders ----


@pytest.fixture(scope="module")
def trained(demo_train, demo_dev, tmp_path_factory):
    """train(folder, …) trains two epochs of a small network; its result; and what a kill at each moment leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "build", small_network)
        keras.utils.set_random_seed(8)
        base = {
            "config": TrainingConfig("static", 2, per_class=6, batch_size=8, steps=1),
            "train_set": first_of_each_class(demo_train, 6),
            "dev_set": first_of_each_class(demo_dev, 4),
            "start": small_network(),
        }

        def train(folder: Path, **changes: object) -> tuple[list, bytes]:
            model, _ = loop.train(folder=folder, **base | changes)
            last = keras.models.load_model(folder / "checkpoint-0002.keras")
            arrays = [np.array(v) for v in (*model.weights, *last.weights, *last.optimizer.variables)]
            return arrays, (folder / "history.csv").read_bytes()

        place, states = tmp_path_factory.mktemp("run"), {}
        before_each = {name: getattr(Path, name) for name in ("replace", "unlink")}

        def noting(name: str) -> Callable:
            def operation(path: Path, *given: object, **settings: object) -> object:
                if path.exists() and path.is_relative_to(place / "unbroken"):
                    seen = tuple(sorted((p.name, p.stat().st_mtime_ns) for p in path.parent.glob("[!.]*")))
                    if seen not in states:
                        states[seen] = shutil.copytree(place / "unbroken", place / f"killed-{len(states)}")
                return before_each[name](path, *given, **settings)

            return operation

        with pytest.MonkeyPatch.context() as watching:
            for name in before_each:
                watching.setattr(Path, name, noting(name))
            result = train(place / "unbroken")
        yield train, base, result, list(states.values())


def same(one: tuple, other: tuple) -> bool:
    return one[1] == other[1] and all(np.array_equal(a, b) for a, b in zip(one[0], other[0], strict=True))


def test_a_run_killed_between_any_two_writes_goes_on_to_the_same_end(trained):
    train, _, result, states = trained
    assert len(states) >= 8 and any((s / "checkpoint-0001.keras").exists() for s in states)
    for state in states:
        assert same(train(state), result), state.name
        left = {
            "config.json",
            "selected.keras",
            "history.csv",
            "checkpoint-0002.keras",
            "checkpoint-0002.json",
            ".lock",
        }
        assert {p.name for p in state.iterdir()} == left


REFUSED = "damaged|cannot be read|other settings"
RUN_FAULTS = [
    *[("history.csv", fault, "") for fault in ("empty", "half", "a byte short", "flipped at 0.50", "text")],
    *[("checkpoint-0002.keras", fault, "checkpoint-0002.keras: damaged") for fault in FAULTS],
    *[
        ("checkpoint-0002.json", fault, "checkpoint-0002.keras: damaged")
        for fault in ("empty", "half", "flipped at 0.30")
    ],
    *[("selected.keras", fault, "selected.keras: damaged") for fault in ("empty", "half", "flipped at 0.50")],
    *[("config.json", fault, REFUSED) for fault in ("empty", "half", "text", "flipped at 0.30", "zeros")],
]


@pytest.mark.parametrize(("name", "fault", "message"), RUN_FAULTS)
def test_a_damaged_file_of_a_run_is_made_again_or_named(trained, tmp_path, monkeypatch, name, fault, message):
    train, _, result, states = trained
    folder = Path(shutil.copytree(states[0].parent / "unbroken", tmp_path / "run"))
    selected = [row["criterion"] for row in json.loads((folder / "checkpoint-0002.json").read_text())["history"]]
    if selected[-1] == max(selected) and name == "selected.keras":
        message = ""  # the checkpoint is the selected epoch: it can be made again
    (folder / name).write_bytes(FAULTS[fault]((folder / name).read_bytes()))
    before = contents(folder)
    if message:
        error = error_of(lambda: train(folder))
        assert any(words in error for words in message.split("|")) and "--fresh" in error and str(folder) in error
        assert contents(folder) == before
    else:
        assert same(train(folder), result)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (lambda base: {"train_set": base["train_set"].take(np.roll(np.arange(24), 1))}, "training recordings"),
        (lambda base: {"dev_set": base["dev_set"].take(np.arange(len(base["dev_set"]))[::-1])}, "dev recordings"),
        (lambda base: {"start": small_network()}, "start model"),
        (lambda base: {"train_set": base["train_set"].take(np.arange(23))}, "recordings, training recordings"),
        (lambda base: {"config": TrainingConfig("static", 3, per_class=6, batch_size=8, steps=1)}, "epochs"),
    ],
)
def test_a_run_does_not_go_on_with_other_recordings_start_or_settings(trained, changed, named):
    train, base, _, states = trained
    folder = states[0].parent / "unbroken"
    before = contents(folder)
    assert f"made with other settings ({named})" in error_of(lambda: train(folder, **changed(base)))
    assert contents(folder) == before


def test_two_trainings_do_not_share_a_folder_and_a_killed_one_does_not_lock_it(trained, tmp_path):
    train, *_ = trained
    script = "import sys, time; from pathlib import Path; from ecgnb.files import locked\n"
    script += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert error_of(lambda: train(tmp_path)).startswith(f"{tmp_path}: in use by another process")
        holder.send_signal(signal.SIGKILL)
    with files.locked(tmp_path):
        pass


# ---- downloads ----


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)
    return file.getvalue()


GOOD = zipped(A00001_mat=mat_bytes(ecg()))


def reset(request) -> None:
    fuzz_files.slowly(GOOD[:100], request, 1, 0)
    request.connection.shutdown(2)


def partly(request) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(GOOD)))
    request.end_headers()
    request.wfile.write(GOOD[:500])


def reply(content: bytes) -> Callable:
    return functools.partial(fuzz_files.slowly, content, pieces=1, pause=0)


WHOLE = reply(GOOD)
ANSWERS: dict[str, tuple[list[Callable], str]] = {  # what the server answers in turn, and what is said at last
    "whole": ([WHOLE], ""),
    "truncated, then whole": ([partly, WHOLE], ""),
    "truncated": ([partly, partly], "IncompleteRead(500 bytes read"),
    "reset, then whole": ([reset, WHOLE], ""),
    "a page in place of a zip, then whole": ([reply(b"<html>log in</html>"), WHOLE], ""),
    "a page in place of a zip": ([reply(b"<html>log in</html>")] * 2, "what came is no zip file"),
    "another zip": ([reply(zipped(readme_txt=b"x"))] * 2, "what came is a zip without recordings"),
    "damaged": ([reply(flip(0.4)(GOOD))] * 2, "what came is "),
    "nothing": ([reply(b"")] * 2, "what came is no zip file"),
    "not there": ([lambda request: request.send_error(404)], "HTTP 404"),
    "broken": ([lambda request: request.send_error(500)], "HTTP 500"),
    "a drip": ([functools.partial(fuzz_files.slowly, GOOD, pieces=5000, pause=0.05)], "bytes in"),
}


@pytest.mark.parametrize("cached_copy", [None, GOOD[:5000], b"PK"], ids=["absent", "half", "foreign"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_download_is_whole_or_not_there(answer, cached_copy, tmp_path, monkeypatch):
    answers, message = ANSWERS[answer]
    monkeypatch.setenv("ECGNB_CACHE", str(tmp_path))
    monkeypatch.setattr(download, "PATIENCE_SECONDS", 0.3)
    target, asked = tmp_path / "files" / "sample2017.zip", []
    if cached_copy is not None:
        target.parent.mkdir()
        target.write_bytes(cached_copy)

    def serve(request) -> None:
        asked.append(request.path)
        answers[len(asked) - 1](request)

    with fuzz_files.served(serve) as url:
        monkeypatch.setenv("ECGNB_MIRROR", url.replace("//", "//user:s3cret@"))
        if message:
            error = error_of(lambda: download.find_archive("validation"))
            assert message in error and url in error and "s3cret" not in error and "Set ECGNB_MIRROR" in error
            assert not target.exists() or target.read_bytes() == cached_copy
        else:
            for _ in range(2):
                assert download.find_archive("validation").path.read_bytes() == GOOD
    assert len(asked) == len(answers)
    assert {p.name for p in target.parent.iterdir()} <= {target.name, f"{target.name}.tested"}


@pytest.mark.parametrize("mirror", ["ftp://user:s3cret@host/x", "http://user:s3/cret@host", "http://user:s3cret@[::"])
def test_a_password_is_never_shown(mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("ECGNB_CACHE", str(tmp_path))
    monkeypatch.setenv("ECGNB_MIRROR", mirror)
    with pytest.raises(EcgnbError) as caught:
        download.find_archive("validation")
    assert "s3" not in "".join(map(str, (caught.value, caught.value.__cause__))) and caught.value.__cause__ is None


def test_labels_that_are_not_the_published_ones_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGNB_CACHE", str(tmp_path))
    with fuzz_files.served(reply(b"A00001,N\n")) as url:
        monkeypatch.setenv("ECGNB_MIRROR", url)
        assert "not the published file" in error_of(lambda: download.find_labels_v3("validation"))
    assert not list((tmp_path / "files").iterdir())


# ---- disks and locales ----

WRITERS: dict[str, Callable[[Path], object]] = {
    "numbers": lambda path: files.write_json(path, {"x": list(range(9999))}),
    "arrays": lambda path: files.save_arrays(path, {"x": np.zeros(9999)}),
    "a result": lambda path: cached(path, "x", {}, lambda: {"x": np.random.default_rng(0).random(9999)}),
    "a figure": lambda path: style.save(style.new_figure(4, 3, "title", "subtitle"), path, {}),
    "a model": lambda path: files.write_atomically(path.with_suffix(".keras"), small_network().save),
    "a run": lambda path: write_locked(path),
}


def write_locked(folder: Path) -> None:
    with files.locked(folder):
        files.write_text(folder / "x", "x" * 9999)


@contextmanager
def full_disk():
    """No file may grow beyond some bytes; the system's error is that of a full disk in all but its number."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_named_and_the_same_call_goes_on(writer, tmp_path):
    path = tmp_path / "folder" / "name"
    with full_disk():
        error = error_of(lambda: WRITERS[writer](path))
    assert str(path.parent) in error and "the disk has room" in error
    assert all(not content for content in contents(tmp_path).values())  # the lock's file
    WRITERS[writer](path)
    assert any(contents(tmp_path).values())


@pytest.mark.parametrize("place", ["a file", "/proc/nowhere"])
@pytest.mark.parametrize("writer", WRITERS)
def test_where_no_folder_can_be_is_named(writer, place, tmp_path):
    if place == "a file":
        (tmp_path / "file").write_text("kept")
        place = str(tmp_path / "file")
    assert place in error_of(lambda: WRITERS[writer](Path(place) / "x" / "y"))
    assert contents(tmp_path) in ({}, {"file": b"kept"})


def test_a_cache_that_cannot_be_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ECGNB_CACHE", str(tmp_path / "file" / "x"))
    assert "ECGNB_CACHE names another folder" in error_of(download.cache_dir)


def test_an_ascii_locale_reads_and_writes_the_same(few, tmp_path):
    """Also names that the locale cannot decode; what the terminal cannot show is escaped."""
    folder = tmp_path / "données"
    shutil.copytree(tmp_path / "data", folder)
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; from pathlib import Path; from ecgnb.files import write_json; from ecgnb.__main__ import main\n"
        "write_json(Path(sys.argv[1]) / 'numbers.json', {'name': sys.argv[1], 'ε': '±'})\n"
        "assert main(['results', sys.argv[1]]) == 2\n"
        "print('ε', sys.argv[1])",
        "utf-8",
    )
    command = [sys.executable, str(script), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert b"Traceback" not in done.stderr and done.returncode == 0, done.stderr.decode()[-500:]
    assert done.stdout.startswith(b"\\u03b5 ") and b"baseline_attacked.json: cannot be read" in done.stderr
    assert json.loads((folder / "numbers.json").read_text("utf-8")) == {"name": str(folder), "ε": "±"}


def test_a_name_with_dollars_is_no_formula():
    """A broken formula would raise as the figure is drawn, a whole one be set in italics."""
    names = {"a$b_1$", "$\\frac$", "x_1^2"}
    curve = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0], "criterion": [0.1, 0.2]})
    figure = figures.learning_curves(dict.fromkeys(names, curve), "$\\frac$", dict.fromkeys(names, 1))
    assert style.png(figure)


def test_a_name_with_tags_is_escaped():
    report = made_up_report()
    html = page(replace(report, about=replace(report.about, model="<script>alert(1)</script> $\\frac$")))
    assert "<script>" not in html and "&lt;script&gt;" in html


# ---- kill −9 ----


@pytest.mark.nightly
@pytest.mark.parametrize("job", ["caching", "evaluating", "downloading"])
def test_what_is_killed_at_random_moments_ends_as_if_it_had_not_been(job, demo_train, tmp_path):
    assert fuzz_files.fuzz(job, kills=2, place=tmp_path) >= 1
