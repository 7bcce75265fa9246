"""A cluster finds what one process does, also when a worker is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import small_network

from ecgnb.__main__ import main
from ecgnb.attacks import Threat, random_points, square
from ecgnb.data import dataset as data
from ecgnb.errors import EcgnbError
from ecgnb.evaluation import run, workers
from ecgnb.evaluation.minimal import run_minimal
from ecgnb.evaluation.named import from_keras
from ecgnb.evaluation.run import EvaluatedModel, Execution, cascade, chunks, run_attacks
from ecgnb.evaluation.suites import BUDGETS, Attack, attack_suite, random_pgd
from ecgnb.evaluation.workers import HERE
from ecgnb.models import devices

TINY = replace(
    BUDGETS["quick"], pgd_steps=3, apgd_steps=3, queries=3, smooth_steps=3, passes=1, minimal_steps=2, draws=5
)


def small_model(seed: int) -> keras.Model:
    """A small network that predicts AF for most recordings, so that there is something to attack."""
    keras.utils.set_random_seed(seed)
    model = small_network(dropout=0)
    *others, bias = model.get_weights()
    model.set_weights([*others, bias + np.float32([0.5, 0, 0, 0])])
    return model


@pytest.fixture(scope="module")
def model():
    return from_keras(small_model(1), "small")


@pytest.fixture(scope="module")
def problem(demo_train):
    """Twenty AF recordings at an ε at which the attack succeeds on some."""
    return Threat(epsilon=0.01).on(demo_train.of_class("A").take(np.arange(20)))


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(run, "LARGEST", 8)


@pytest.fixture(scope="module")
def dask():
    """Two worker processes."""
    pytest.importorskip("distributed", reason="pip install .[cluster]")
    with workers.workers("local:2") as two:
        yield two


def test_a_recording_is_attacked_alike_alone_and_among_others(model, problem):
    rows = np.array([5, 2])
    part = problem.rows(rows)
    assert np.array_equal(random_points(part, 7, 1), random_points(problem, 7, 1)[rows])
    assert not np.allclose(random_points(part, 7, 1), random_points(part, 7, 2))
    assert not np.allclose(*(one - part.x[i] for i, one in enumerate(random_points(part, 7, 1))))
    for attack in (random_pgd(3, 2), Attack("Square", square, {"queries": 5})):
        among_others, alone = (attack(model.classifier, p, seed=3) for p in (problem, part))
        assert np.allclose(among_others.logits[rows], alone.logits, atol=1e-4)


def test_chunks_are_as_equal_as_can_be_and_none_is_lost(problem, small_chunks):
    parts = chunks(problem)
    assert [len(part) for part in parts] == [7, 7, 6]
    assert np.array_equal(np.concatenate([part.x for part in parts]), problem.x)
    assert [len(part) for part in chunks(problem.rows(np.arange(0)))] == [0]


def everything(model: EvaluatedModel, problem, how: Execution) -> dict[str, np.ndarray]:
    """All kinds of work that an evaluation sends to workers: attacks, one that is joint, a cascade, minimal ε."""
    attacks = {key: attack_suite(TINY)[key] for key in ("pgd20", "square", "universal")}
    found = {
        f"{key}, {part}": array
        for key, result in run_attacks(attacks, model, problem, how).items()
        for part, array in vars(result).items()
    }
    wide = problem.resized(np.full(len(problem), 1.0))
    minimal = run_minimal(model, wide, problem.x, how, steps=4)
    success, predicted = cascade({"pgd20": attacks["pgd20"]}, model, problem, how)
    found |= {"success": success, "predicted": predicted}
    return found | {"minimal, radius": minimal.radius, "minimal, x": minimal.x}


def cores() -> set[int]:
    """Those that this process may use, as far as the system says."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


@pytest.mark.nightly
def test_a_killed_worker_costs_time_and_not_results(dask, model, problem, tmp_path, small_chunks):
    """The first result that comes back kills a busy worker: all results are there, to the last bit."""

    class Killing:
        killed, processes = None, dask.processes

        def map(self, function, items, *, done=None, **settings):
            def kill_once(i, result):
                done(i, result)
                busy = [a for a, tasks in dask.client.processing().items() if tasks]
                if not self.killed and busy:
                    self.killed = dask.client.run(os.getpid)[busy[0]]
                    os.kill(self.killed, signal.SIGKILL)

            return dask.map(function, items, done=kill_once, **settings)

    killing = Killing()
    found = everything(model, problem, Execution(tmp_path / "dask", 1, workers=killing))
    dask.client.wait_for_workers(2, timeout=300)  # the one that takes over may start late
    assert killing.killed not in dask.client.run(os.getpid).values()
    if len(cores()) >= 2:  # one for each, also for the worker that took over
        pinned = [frozenset(own) for own in dask.client.run(cores).values()]
        assert len(pinned) == len(set(pinned)) == 2 and {len(c) for c in pinned} == {1}
    expected = everything(model, problem, Execution(tmp_path / "here", 1))
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        assert array.dtype == found[name].dtype
        assert np.array_equal(array, found[name], equal_nan=array.dtype.kind == "f"), name
    assert 0 < expected["pgd20, success"].sum() < len(problem)
    names = [sorted(p.name for p in (tmp_path / f).iterdir()) for f in ("here", "dask")]
    assert names[0] == names[1] and len(names[0]) == 2 * 3 + 1 + 3 + 3

    class Idle:
        processes = 1

        def map(self, function, items, **_):
            assert not items

    again = everything(model, problem, Execution(tmp_path / "dask", 1, workers=Idle()))
    assert all(np.array_equal(again[name], found[name], equal_nan=True) for name in found)


@pytest.mark.nightly
def test_the_command_writes_the_same_report_on_a_cluster(dask, tmp_path, monkeypatch, capsys):
    """`--cluster` with the address of a scheduler, whose TLS certificates Dask's configuration names: byte for byte."""
    load_all = data.load_data

    def load_few(*split, **settings):
        dataset = load_all(*split, **settings)
        return dataset.take(np.argsort(dataset.y, kind="stable")[[0, 1, 2, -20, -1]])

    from dask import config

    tls = dask.client.security
    settings = config.config["distributed"]["comm"]["tls"]
    monkeypatch.setitem(settings, "ca-file", tls.tls_ca_file)
    monkeypatch.setitem(settings, "client", {"cert": tls.tls_client_cert, "key": tls.tls_client_key})
    monkeypatch.setattr(data, "load_data", load_few)
    monkeypatch.setitem(BUDGETS, "standard", TINY)
    paths = [str(tmp_path / f"{name}.keras") for name in ("one", "two")]
    for seed, path in enumerate(paths, 1):
        small_model(seed).save(path)
    for where, cluster in (("here", ""), ("dask", dask.client.scheduler.address)):
        shared = ["--data", "demo", "--out", str(tmp_path / where), "--cluster", cluster]
        evaluate = ["evaluate", paths[0], "--surrogate", paths[1], "--suite", "standard"]
        assert main([*evaluate, *shared]) == 0
        assert main(["transfer", *paths, *shared]) == 0
        assert ("Dask dashboard: http" in capsys.readouterr().out) == bool(cluster)
    here, there = (sorted((tmp_path / w).glob("*.json")) for w in ("here", "dask"))
    assert [p.name for p in here] == ["one-validation-standard.json", "transfer-validation.json"]
    assert [p.read_bytes() for p in here] == [p.read_bytes() for p in there]
    stored = [sorted((tmp_path / w / "cache").glob("*certificate*")) for w in ("here", "dask")]
    assert stored[0] and [p.read_bytes() for p in stored[0]] == [p.read_bytes() for p in stored[1]]


def test_nobody_connects_without_the_certificates(dask):
    """Whoever connects to a scheduler or a worker runs code as its user, and all users can reach a loopback port."""
    from distributed.comm import connect
    from distributed.security import Security

    async def greet(address: str, security: Security) -> None:
        comm = await connect(address, timeout=2, **security.get_connection_args("client"))
        await comm.write({"op": "identity", "reply": True})
        assert "type" in await comm.read() and comm.abort() is None

    def reach(address: str, security: Security) -> None:
        with ThreadPoolExecutor(1) as thread:  # a browser test may have left an event loop in this one
            thread.submit(lambda: asyncio.run(greet(address, security))).result()

    scheduler, *others = [dask.client.scheduler.address, *dask.client.scheduler_info()["workers"]]
    others += list(dask.client.run(lambda dask_worker: dask_worker.nanny).values())
    assert len(others) == 4
    for address in (scheduler, *others):
        assert address.startswith("tls://")
        reach(address, dask.client.security)
        for foreign in (Security(), Security.temporary()):
            for way in (address, address.replace("tls://", "tcp://")):
                with pytest.raises((OSError, TypeError, RuntimeError)):
                    reach(way, foreign)


@pytest.mark.slow
def test_a_batch_on_each_core_gives_the_same_results(model, problem, tmp_path, small_chunks, monkeypatch):
    one = everything(model, problem, Execution(tmp_path / "one", 1))
    monkeypatch.setattr(devices, "_cores", 2)
    two = everything(model, problem, Execution(tmp_path / "two", 1))
    for name, array in one.items():
        assert np.array_equal(array, two[name], equal_nan=array.dtype.kind == "f"), name
    x = problem.x[:5]
    assert np.allclose(model.classifier.logits(x), small_logits(model, x), atol=1e-5)


def small_logits(model: EvaluatedModel, x: np.ndarray) -> np.ndarray:
    return np.concatenate([model.classifier.logits(one[None]) for one in x])


def test_after_an_error_what_other_cores_compute_stops_at_its_next_batch(model, problem, monkeypatch):
    monkeypatch.setattr(devices, "_cores", 2)
    batches = []

    def endless_or_wrong(wrong: bool):
        if wrong:
            while not batches:
                time.sleep(0.01)
            raise EcgnbError("wrong")
        try:
            while True:
                model.classifier.logits(problem.x[:1])
                batches.append("one more")
        except devices.Stopped:
            batches.append("stopped")
            raise

    with pytest.raises(EcgnbError, match="wrong"):
        HERE.run_all({"part": lambda: HERE.map(endless_or_wrong, [False, True])})
    end = time.monotonic() + 30
    while batches[-1] != "stopped":
        assert time.monotonic() < end
        time.sleep(0.01)


def odd(item: int) -> int:
    if item % 2 == 0:
        raise EcgnbError(f"{item} is even")
    return item


@pytest.fixture(params=["here", "cores", "dask"])
def computing(request, monkeypatch):
    """All that may do the work: this process, a thread for each of two cores, two processes."""
    if request.param == "dask":
        return request.getfixturevalue("dask")
    monkeypatch.setattr(devices, "_cores", 2 if request.param == "cores" else 1)
    return HERE


def test_an_error_on_a_worker_is_the_callers(computing):
    assert computing.map(odd, [3, 1, 5]) == [3, 1, 5]
    with pytest.raises(EcgnbError, match="4 is even"):
        computing.map(odd, [1, 4])


def test_independent_parts_run_side_by_side_with_the_same_results(computing):
    parts = {n: lambda c=computing, n=n: c.map(odd, [n, 3]) for n in (5, 1)}
    assert list(computing.run_all(parts).items()) == [(5, [5, 3]), (1, [1, 3])]
    assert computing.run_all({}) == {}
    wrong = {n: lambda c=computing, n=n: c.map(odd, [n]) for n in (1, 4)}
    with pytest.raises(EcgnbError, match="4 is even"):
        computing.run_all(wrong)


def test_parts_named_first_have_priority_in_all_that_they_ask_for(dask):
    priority = workers._priority.get
    inner = {"x": priority, "y": priority}
    found = dask.run_all({"a": lambda: dask.run_all(inner), "b": priority})
    assert found == {"a": {"x": 0, "y": 0}, "b": -1} and priority() is None


def test_a_worker_with_other_code_is_refused(dask):
    with pytest.raises(EcgnbError, match="other code"):
        dask.client.submit(workers._checked, "another digest", odd, 1).result()


@pytest.mark.parametrize("where", ["tcp://127.0.0.1:1", "tls://127.0.0.1:1"])
def test_a_scheduler_that_does_not_answer_is_named(where, monkeypatch):
    pytest.importorskip("distributed", reason="pip install .[cluster]")
    monkeypatch.setattr(workers, "TIMEOUT", "1s")
    message = f"--cluster {where}: no Dask scheduler answers"
    with pytest.raises(EcgnbError, match=message), workers.workers(where):
        pass


def test_without_dask_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(EcgnbError, match=r"pip install 'ecgnb\[cluster\]'"), workers.workers("local"):
        pass
