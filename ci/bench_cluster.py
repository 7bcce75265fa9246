"""The case "cluster" of `ci/bench.py`, its table in ci/CLUSTER.md, and the clock of all cases."""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MAXRSS_GIB = 2**30 if sys.platform == "darwin" else 2**20  # macOS counts bytes, others KiB
MILLION, CORES = 1_000_000, 64  # of the table


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What `work` returns, and its cost: time, processor time, the process's peak memory until then."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, {
        "seconds": time.perf_counter() - wall,
        "processor_seconds": time.process_time() - processor,
        "memory_gib": peak_memory(),
    }


def peak_memory() -> float:
    """Peak resident memory of this process, GiB."""
    try:  # Linux; there ru_maxrss of a child begins with its parent's
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MAXRSS_GIB


def cluster_case(workers: int, size: Any, data: str) -> dict[str, Any]:
    """Time the suite "quick" on validation by Dask workers of one thread, and training on one of them.

    workers : 0 for this process, with a batch on each core, as the command does without --cluster. The start of the
    workers is timed by itself. memory_gib : of the largest worker; total : digest of all predictions;
    training_seconds : for a recording.
    """
    from distributed import Client

    from ecgnb.data.dataset import load_data
    from ecgnb.evaluation.engine import evaluate
    from ecgnb.evaluation.named import named_model
    from ecgnb.evaluation.suites import suite
    from ecgnb.evaluation.workers import HERE, Cluster, local_cluster
    from ecgnb.models.devices import one_core_a_batch

    if not workers:
        one_core_a_batch()
    dataset = load_data("validation", data=data)
    if size.evaluated:
        dataset = dataset.of_class("A").take(np.arange(size.evaluated))
    model, surrogate = named_model("baseline"), named_model("adaptive")

    def evaluated(by: Any) -> dict[str, Any]:
        report, cost = timed(lambda: evaluate(model, dataset, suite("quick"), surrogate=surrogate, workers=by))
        predictions = json.dumps({key: one.predictions for key, one in report.conditions.items()})
        total = hashlib.sha256(predictions.encode()).hexdigest()
        return cost | {"recordings": report.about.class_counts["A"], "total": total}

    if not workers:
        return evaluated(HERE)
    began = time.perf_counter()
    with local_cluster(workers, threads=1) as local, Client(local) as client:
        client.run(_warm_up)
        started = time.perf_counter() - began
        found = evaluated(Cluster(client))
        found["memory_gib"] = max(client.run(peak_memory).values())
        trained = client.submit(training_seconds).result()
    return found | {"startup_seconds": started, "training_seconds": trained}


def _warm_up() -> None:
    import ecgnb.models.keras_classifier  # noqa: F401


def training_seconds(recordings: int = 96, batch: int = 32) -> float:
    """Seconds for a recording of a pass of the baseline's training; a batch before it compiles."""
    import keras

    from ecgnb.models import network
    from ecgnb.progress import bar
    from ecgnb.training.step import fit_function

    model = network.build(dropout=0.2)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-3), loss)
    x = np.random.default_rng(0).standard_normal((recordings, *model.input_shape[1:]), np.float32)
    y = np.eye(model.output_shape[1], dtype=np.float32)[np.arange(recordings) % 4]
    fit, weights = fit_function(model, batch, copies=1), np.ones(recordings, np.float32)
    fit(x[:batch], y[:batch], weights[:batch], bar(""))
    return timed(lambda: fit(x, y, weights, bar("")))[1]["seconds"] / recordings


def million(folder: Path) -> str:
    """What a million recordings cost at the speed in cluster.json, as Markdown."""
    numbers = json.loads((folder / "cluster.json").read_text())
    about = numbers["about"]
    sides = numbers["cases"]["cluster"]
    two, one = sides["two_workers"], sides["one_worker"]
    costs = {
        "an AF recording, suite quick": one["seconds"] / one["recordings"],
        "a recording, a pass of training": one["training_seconds"],
    }
    rows = [f"| {name} | {cost:.2g} s | {_hours(cost)} | {_hours(cost / CORES)} |" for name, cost in costs.items()]
    table = [f"| what | one core, measured | a million, one core | a million, {CORES} cores |"]
    table += ["| --- | --- | --- | --- |", *rows]
    words = (
        f"From `figures/cluster.json`: {about['data']}, validation, {one['recordings']} AF; {about['cores']} cores; "
        f"TensorFlow {about['versions']['tensorflow']}; medians of {about['runs']} runs of commit {about['commit']}.",
        f"One worker of one thread took {one['seconds']:.0f} s for an evaluation; two took {two['seconds']:.0f} s "
        f"({one['ratio']:.2f} times as fast), with the same predictions.",
        f"A worker took up to {max(one['memory_gib'], two['memory_gib']):.1f} GiB.",
        "The last column assumes that more cores scale as two do; nobody has measured that.",
    )
    if plain := sides.get("this_process"):
        words = (*words, f"Without a cluster, one process on all cores took {plain['seconds']:.0f} s.")
    return "\n".join([*table, "", *words])


def _hours(seconds: float) -> str:
    """Hours that a million of something take, to two digits where there are few."""
    hours = MILLION * seconds / 3600
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.2g} h"
