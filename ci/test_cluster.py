"""A cluster finds what one process does, also when a worker is killed."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import small_network

from ecgnb.__main__ import main
from ecgnb.attacks.search import pgd, random_points, square
from ecgnb.attacks.threats import Threat
from ecgnb.data import dataset as data
from ecgnb.errors import EcgnbError
from ecgnb.evaluation import suites as robustness
from ecgnb.evaluation import workers as cluster
from ecgnb.evaluation.suites import (
    BUDGETS,
    Attack,
    EvaluatedModel,
    cascade,
    run,
    run_minimum,
    suite,
)
from ecgnb.models.classifier import KerasClassifier

UNIVERSAL = "universal, of other recordings"  # the one attack that is not cut in chunks


def small_subject(name: str, seed: int) -> EvaluatedModel:
    """A small network that reads most recordings as AF, so that there is something to attack."""
    keras.utils.set_random_seed(seed)
    model = small_network(dropout=0)
    *others, bias = model.get_weights()
    model.set_weights([*others, bias + np.float32([0.5, 0, 0, 0])])
    return EvaluatedModel(name, KerasClassifier(model), name)


@pytest.fixture(scope="module")
def evaluated():
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


def test_a_recording_is_attacked_alike_alone_and_in_company(evaluated, posed):
    rows = np.array([5, 2])
    part = posed.rows(rows)
    assert np.array_equal(random_points(part, 7, 1), random_points(posed, 7, 1)[rows])
    assert not np.allclose(random_points(part, 7, 1), random_points(part, 7, 2))
    assert not np.allclose(*(one - part.x[i] for i, one in enumerate(random_points(part, 7, 1))))
    for attack in (
        Attack(pgd, dict(steps=3, restarts=2, random_start=True)),
        Attack(square, dict(queries=5)),
    ):
        company, alone = (attack(evaluated.classifier, p, seed=3) for p in (posed, part))
        assert np.allclose(company.logits[rows], alone.logits, atol=1e-4)


def test_chunks_are_as_equal_as_can_be_and_none_is_lost(posed):
    parts = robustness.chunks(posed)
    assert [len(part) for part in parts] == [7, 7, 6]
    assert np.array_equal(np.concatenate([part.x for part in parts]), posed.x)
    assert [len(part) for part in robustness.chunks(posed.rows(np.arange(0)))] == [0]


def evaluated(evaluated, posed, folder, workers) -> dict[str, np.ndarray]:
    """All that an evaluation sends to workers: attacks, a cascade, a search for the smallest ε."""
    attacks = suite(replace(BUDGETS["quick"], queries=10, smooth_steps=5, passes=1))
    attacks = {name: attacks[name] for name in ("PGD", "APGD-CE", "Square", UNIVERSAL)}
    found = {
        f"{name}, {part}": array
        for name, result in run(attacks, evaluated, posed, folder, 1, workers=workers).items()
        for part, array in vars(result).items()
    }
    wide = posed.resized(np.full(len(posed), 1.0))
    least = run_minimum(evaluated, wide, posed.x, folder, 4, None, workers=workers)
    some = {"PGD": attacks["PGD"], "APGD-CE": attacks["APGD-CE"]}
    turned = cascade(some, evaluated, posed, folder, 1, workers=workers)
    return found | {"smallest": least.radius, "smallest x": least.x, "turned": turned}


def cores() -> set[int]:
    """That this process may use, as far as the system says."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def test_a_killed_worker_costs_time_and_not_results(dask, evaluated, posed, tmp_path):
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
    found = evaluated(evaluated, posed, tmp_path / "dask", workers)
    assert workers.killed not in dask.client.run(os.getpid).values()
    if len(cores()) >= 2:  # one for each, also for the worker that took over
        kept_to = [frozenset(own) for own in dask.client.run(cores).values()]
        assert len(kept_to) == len(set(kept_to)) == 2 and {len(c) for c in kept_to} == {1}
    expected = evaluated(evaluated, posed, tmp_path / "here", cluster.HERE)
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

    again = evaluated(evaluated, posed, tmp_path / "dask", Idle())
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
        small_subject(name, seed).classifier.__reduce__()[1][0].save(paths[-1])
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
