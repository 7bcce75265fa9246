"""Several hosts train what one does; a cluster finds what one process does, also when a worker is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, small_network

from ecgnb import cluster, data, robustness
from ecgnb import model as network
from ecgnb.__main__ import main
from ecgnb.attacks import pgd, random_points, square
from ecgnb.errors import EcgnbError
from ecgnb.gradients import InputGradient
from ecgnb.robustness import BUDGETS, Attack, Subject, cascade, run, run_minimum, suite
from ecgnb.threats import Threat

TINY = ["--data", "demo", "--per-class", "5", "--batch-size", "7", "--steps", "2", "--epochs", "2"]

UNIVERSAL = "universal, of other recordings"  # the one attack that is not cut in chunks

HOST = """
import shutil, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import small_network
from ecgnb import devices, model as network, training
from ecgnb.__main__ import main

network.build = small_network
folder, host, start = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]

def after_epoch(row, *_):
    if devices.chief() and row["epoch"] == 1 and not (folder / "broken").exists():
        shutil.copytree(folder / "whole", folder / "broken")  # what a run killed here leaves behind

def write(path, *_):
    raise AssertionError(f"host 1 writes {path}")

training._print_epoch = after_epoch
if host == 1:
    training.write_atomically = network.write_atomically = write
train = ["train", "adaptive", "--start", start, *sys.argv[5:]]
assert main([*train, str(folder / "whole")]) == 0
assert main([*train, str(folder / "broken")]) == 0
assert main([*train, str(folder / "other"), "--seed", str(host)]) == 2
assert devices.together().num_replicas_in_sync == 2 and devices.chief() == (host == 0)
"""


def free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def two_hosts(script: str, *arguments: str) -> list[str]:
    """Run a script on two "hosts", processes that know each other by TF_CONFIG; its error output on each."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    hosts = []
    for i in range(2):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": i}}
        command = [sys.executable, "-c", script, arguments[0], arguments[1], str(i), *arguments[2:]]
        environment = os.environ | {"TF_CONFIG": json.dumps(config), "TQDM_DISABLE": "1"}
        pipe = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        hosts.append(subprocess.Popen(command, env=environment, **pipe))
    try:
        errors = [host.communicate(timeout=300)[1] for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0], "\n".join(e[-2000:] for e in errors)
    return errors


def test_two_hosts_train_the_weights_of_one_and_resume(tmp_path, monkeypatch):
    """Batches of 7, so that no two shares are alike. Only a bias that batch-norm takes away again is left to chance."""
    keras.utils.set_random_seed(3)
    start = tmp_path / "start.keras"
    small_network(dropout=0).save(start)
    errors = two_hosts(HOST, str(ROOT / "ci"), str(tmp_path), str(start), *TINY)
    assert all("the hosts in TF_CONFIG do not agree; give all the same" in e for e in errors)
    assert not (tmp_path / "other" / "checkpoint-0001.keras").exists()

    monkeypatch.setattr(network, "build", small_network)
    assert main(["train", "adaptive", "--start", str(start), *TINY, str(tmp_path / "one")]) == 0
    one, whole, broken = (
        keras.models.load_model(tmp_path / name / "checkpoint-0002.keras")
        for name in ("one", "whole", "broken")
    )
    for a, b in zip(whole.get_weights(), broken.get_weights(), strict=True):
        assert np.array_equal(a, b)
    moved = zip(keras.models.load_model(start).get_weights(), one.get_weights(), strict=True)
    assert all(np.abs(a - b).max() > 1e-4 for a, b in moved)
    weights = [
        {
            f"{type(layer).__name__} {w.name}": np.array(w)
            for layer in model.layers
            for w in layer.weights
        }
        for model in (one, whole)
    ]
    for found in weights:  # batch-norm subtracts its mean, and with it the bias before it
        found["BatchNormalization moving_mean"] -= found.pop("Conv1D bias")
    for name, expected in weights[0].items():
        assert np.allclose(weights[1][name], expected, rtol=0, atol=1e-6), name
    histories = [pd.read_csv(tmp_path / name / "history.csv") for name in ("one", "whole")]
    assert np.allclose(*histories, rtol=0, atol=1e-5) and len(histories[0]) == 2
    logits = [network.load(tmp_path / name / "kept.keras")(data_row()) for name in ("one", "whole")]
    assert np.allclose(*logits, atol=1e-5)


def data_row() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, 9000, 1)).astype(np.float32)


@pytest.mark.parametrize("text", ["half a fi", "[]", '{"cluster": {"worker": 3}}'])
def test_a_tf_config_that_is_none_is_named(text, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TF_CONFIG", text)
    assert main(["train", "baseline", str(tmp_path), "--data", "demo"]) == 2
    assert "TF_CONFIG is not what TensorFlow documents" in capsys.readouterr().err


# ---- evaluations ----


def small_subject(name: str, seed: int) -> Subject:
    """A small network that reads most recordings as AF, so that there is something to attack."""
    keras.utils.set_random_seed(seed)
    model = small_network(dropout=0)
    *others, bias = model.get_weights()
    model.set_weights([*others, bias + np.float32([0.5, 0, 0, 0])])
    return Subject(name, InputGradient(model), name)


@pytest.fixture(scope="module")
def subject():
    return small_subject("small", 1)


@pytest.fixture(scope="module")
def posed(demo_train):
    """Twenty AF recordings, three chunks, at an ε that turns some."""
    return replace(Threat(), epsilon=0.01).on(demo_train.of_class("A").take(np.arange(20)))


@pytest.fixture(scope="module")
def dask():
    """Two worker processes."""
    pytest.importorskip("distributed", reason="pip install .[cluster]")
    with cluster.workers("local:2") as workers:
        yield workers


def test_a_recording_is_attacked_alike_alone_and_in_company(subject, posed):
    rows = np.array([5, 2])
    part = posed.rows(rows)
    assert np.array_equal(random_points(part, 7, 1), random_points(posed, 7, 1)[rows])
    assert not np.allclose(random_points(part, 7, 1), random_points(part, 7, 2))
    assert not np.allclose(*(one - part.x[i] for i, one in enumerate(random_points(part, 7, 1))))
    for attack in (
        Attack(pgd, dict(steps=3, restarts=2, random_start=True)),
        Attack(square, dict(queries=5)),
    ):
        company, alone = (attack(subject.victim, p, seed=3) for p in (posed, part))
        assert np.allclose(company.logits[rows], alone.logits, atol=1e-4)


def test_chunks_are_as_equal_as_can_be_and_none_is_lost(posed):
    parts = robustness.chunks(posed)
    assert [len(part) for part in parts] == [7, 7, 6]
    assert np.array_equal(np.concatenate([part.x for part in parts]), posed.x)
    assert [len(part) for part in robustness.chunks(posed.rows(np.arange(0)))] == [0]


def evaluated(subject, posed, folder, workers) -> dict[str, np.ndarray]:
    """All that an evaluation sends to workers: attacks, a cascade, a search for the smallest ε."""
    attacks = suite(replace(BUDGETS["quick"], queries=10, smooth_steps=5, passes=1))
    attacks = {name: attacks[name] for name in ("PGD", "APGD-CE", "Square", UNIVERSAL)}
    found = {
        f"{name}, {part}": array
        for name, result in run(attacks, subject, posed, folder, 1, workers=workers).items()
        for part, array in vars(result).items()
    }
    wide = posed.resized(np.full(len(posed), 1.0))
    least = run_minimum(subject, wide, posed.x, folder, 4, None, workers=workers)
    some = {"PGD": attacks["PGD"], "APGD-CE": attacks["APGD-CE"]}
    turned = cascade(some, subject, posed, folder, 1, workers=workers)
    return found | {"smallest": least.radius, "smallest x": least.x, "turned": turned}


def cores() -> set[int]:
    """That this process may use, as far as the system says."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def test_a_killed_worker_costs_time_and_not_results(dask, subject, posed, tmp_path):
    """The first result that comes back kills a worker that is at work: all are found, to the last bit."""

    class Murderous:
        killed = None

        def map(self, function, items, *, done=None, **settings):
            def kill_once(i, result):
                done(i, result)
                busy = [a for a, tasks in dask.client.processing().items() if tasks]
                if not self.killed and busy:
                    self.killed = dask.client.run(os.getpid)[busy[0]]
                    os.kill(self.killed, signal.SIGKILL)

            return dask.map(function, items, done=kill_once, **settings)

    workers = Murderous()
    found = evaluated(subject, posed, tmp_path / "dask", workers)
    assert workers.killed not in dask.client.run(os.getpid).values()
    if len(cores()) >= 2:  # one for each, also for the worker that took over
        kept_to = [frozenset(own) for own in dask.client.run(cores).values()]
        assert len(kept_to) == len(set(kept_to)) == 2 and {len(c) for c in kept_to} == {1}
    expected = evaluated(subject, posed, tmp_path / "here", cluster.HERE)
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        assert array.dtype == found[name].dtype
        assert np.array_equal(array, found[name], equal_nan=array.dtype.kind == "f"), name
    assert 0 < expected["PGD, success"].sum() < len(posed)
    names = [sorted(p.name for p in (tmp_path / f).iterdir()) for f in ("here", "dask")]
    assert names[0] == names[1] and len(names[0]) == 3 * 3 + 1 + 3 + 3

    class Idle:
        def map(self, function, items, **_):
            assert not items

    again = evaluated(subject, posed, tmp_path / "dask", Idle())
    assert all(np.array_equal(again[name], found[name], equal_nan=True) for name in found)


def test_the_command_writes_the_same_report_on_a_cluster(dask, tmp_path, monkeypatch, capsys):
    """`--cluster` with the address of a scheduler: JSON and certificates, byte for byte."""
    whole = data.load

    def few(*what, **how):
        dataset = whole(*what, **how)
        return dataset.take(np.argsort(dataset.y, kind="stable")[[0, 1, 2, -20, -1]])

    monkeypatch.setattr(data, "load", few)
    tiny = replace(BUDGETS["quick"], apgd_steps=3, queries=3, draws=5, minimum_steps=2)
    monkeypatch.setitem(BUDGETS, "standard", tiny)
    paths = []
    for name, seed in (("one", 1), ("two", 2)):
        paths.append(str(tmp_path / f"{name}.keras"))
        small_subject(name, seed).victim.__reduce__()[1][0].save(paths[-1])
    address = dask.client.scheduler.address
    command = ["evaluate", paths[0], "--surrogate", paths[1], "--data", "demo"]
    for where, option in (("here", []), ("dask", ["--cluster", address])):
        out = ["--budget", "standard", "--out", str(tmp_path / where), *option]
        assert main([*command, *out]) == 0
        assert main(["transfer", *paths, "--data", "demo", *out[2:]]) == 0
        assert ("Dask dashboard: http" in capsys.readouterr().out) == (where == "dask")
    here, there = (sorted((tmp_path / w).glob("*.json")) for w in ("here", "dask"))
    assert [p.name for p in here] == ["one-validation-standard.json", "transfer-validation.json"]
    assert [p.read_bytes() for p in here] == [p.read_bytes() for p in there]
    certificates = [list((tmp_path / w / "cache").glob("*certificate*")) for w in ("here", "dask")]
    assert len(certificates[0]) == 1
    assert certificates[0][0].read_bytes() == certificates[1][0].read_bytes()


def odd(item: int) -> int:
    if item % 2 == 0:
        raise EcgnbError(f"{item} is even")
    return item


def test_an_error_on_a_worker_is_the_callers(dask):
    for workers in (cluster.HERE, dask):
        assert workers.map(odd, [3, 1, 5]) == [3, 1, 5]
        with pytest.raises(EcgnbError, match="4 is even"):
            workers.map(odd, [1, 4])


def test_independent_parts_give_the_same_together(dask):
    def parts(workers):
        return {n: lambda n=n: workers.map(odd, [n, 3], shared=()) for n in (5, 1)}

    def wrong(workers):
        return {"right": lambda: workers.map(odd, [1]), "wrong": lambda: workers.map(odd, [4])}

    for workers in (cluster.HERE, dask):
        assert list(workers.together(parts(workers)).items()) == [(5, [5, 3]), (1, [1, 3])]
        with pytest.raises(EcgnbError, match="4 is even"):
            workers.together(wrong(workers))


def test_parts_named_first_are_preferred_and_so_is_all_they_ask_for(dask):
    urgency = cluster._urgency.get
    inner = {"x": urgency, "y": urgency}
    found = dask.together({"a": lambda: dask.together(inner), "b": urgency})
    assert found == {"a": {"x": 0, "y": 0}, "b": -1} and urgency() is None


def test_a_worker_with_other_code_is_refused(dask):
    with pytest.raises(EcgnbError, match="other code"):
        dask.client.submit(cluster._checked, "another digest", odd, 1).result()


@pytest.mark.parametrize("where", ["tcp://127.0.0.1:1", "local:0", "locally"])
def test_a_cluster_that_is_none_is_named(where, monkeypatch, capsys):
    pytest.importorskip("distributed", reason="pip install .[cluster]")
    monkeypatch.setattr(cluster, "PATIENCE", "1s")
    assert main(["evaluate", "baseline", "--data", "demo", "--cluster", where]) == 2
    assert f"--cluster {where}: no Dask scheduler answers" in capsys.readouterr().err


def test_without_dask_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(EcgnbError, match=r"pip install 'ecgnb\[cluster\]'"),
        cluster.workers("local"),
    ):
        pass
