"""Time one evaluation by one Dask worker of one thread, and by two; run this on an idle machine.

Both run in turn, several times; all reports must be the same. To publish:
python ci/bench_cluster.py --out figures && python ci/update_readme.py
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from bench import ROOT, commit, cores
from bench_sides import ONE_HOT, peak_memory

from ecgnb.data.dataset import WINDOW, Dataset, load_data
from ecgnb.errors import EcgnbError
from ecgnb.evaluation.engine import evaluate, named_model
from ecgnb.evaluation.run import EvaluatedModel
from ecgnb.evaluation.schema import as_json
from ecgnb.evaluation.suites import suite
from ecgnb.evaluation.workers import Cluster, local_cluster
from ecgnb.files import write_json
from ecgnb.progress import bar

SUITE = "quick"
LEAST = 1.7  # claimed: how many times as fast two workers are as one
MILLION, CORES = 1_000_000, 64


def bench_cluster(
    dataset: Dataset, model: EvaluatedModel, surrogate: EvaluatedModel, runs: int = 3
) -> dict[str, Any]:
    """What cluster.json holds: median times, largest memory, and seconds of a core for a recording."""
    sides: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    reports = []
    for _ in bar("one worker, then two", range(runs), unit="turn"):
        for workers, costs in sides.items():
            cost, report = _evaluation(dataset, model, surrogate, workers)
            costs.append(cost)
            reports.append(report)
    if any(as_json(report) != as_json(reports[0]) for report in reports):
        raise EcgnbError("bench: one worker and two, or two runs, made different reports")
    about = reports[0].about
    one, two = (_summarise(costs) for costs in sides.values())
    trained = [cost["training"] for costs in sides.values() for cost in costs]
    return {
        "about": asdict(about) | {"commit": commit(), "cores": cores(), "runs": runs},
        "one_worker": one,
        "two_workers": two,
        "speedup": one["seconds"] / two["seconds"],
        "core_seconds": {
            "evaluation": one["seconds"] / about.class_counts["A"],
            "training": float(np.median(trained)),
        },
    }


def _evaluation(
    dataset: Dataset, model: EvaluatedModel, surrogate: EvaluatedModel, workers: int
) -> tuple[dict[str, float], Any]:
    """The cost of an evaluation by so many workers, and its report. Their start is timed by itself."""
    from distributed import Client

    began = time.perf_counter()
    with local_cluster(workers, threads=1) as local, Client(local) as client:
        client.run(_import_engine)
        ready = time.perf_counter()
        report = evaluate(
            model, dataset, suite(SUITE), surrogate=surrogate, workers=Cluster(client)
        )
        return {
            "seconds": time.perf_counter() - ready,
            "startup_seconds": ready - began,
            "memory_gib": max(client.run(peak_memory).values()),
            "training": client.submit(_training).result(),
        }, report


def _summarise(costs: list[dict[str, float]]) -> dict[str, Any]:
    seconds = [cost["seconds"] for cost in costs]
    return {
        "seconds": float(np.median(seconds)),
        "all_seconds": seconds,
        "startup_seconds": float(np.median([cost["startup_seconds"] for cost in costs])),
        "memory_gib": max(cost["memory_gib"] for cost in costs),
    }


def _import_engine() -> None:
    import ecgnb.evaluation.engine
    import ecgnb.models.keras_classifier  # noqa: F401


def _training(recordings: int = 96, batch: int = 32) -> float:
    """Seconds for a recording of a pass of the baseline's training; the first batch compiles."""
    import keras

    from ecgnb.models import network

    model = network.build(dropout=0.2)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-3), loss)
    x = np.random.default_rng(0).normal(size=(recordings, WINDOW, 1)).astype(np.float32)
    y = ONE_HOT[np.arange(recordings) % len(ONE_HOT)]
    model.fit(x[:batch], y[:batch], batch_size=batch, verbose=0)
    began = time.perf_counter()
    model.fit(x, y, batch_size=batch, verbose=0)
    return (time.perf_counter() - began) / recordings


def million(folder: Path) -> str:
    """What a million recordings cost at the speed in cluster.json, as Markdown."""
    found = json.loads((folder / "cluster.json").read_text())
    about, one, two = found["about"], found["one_worker"], found["two_workers"]
    names = {
        "evaluation": f"an AF recording, evaluated (suite {about['suite']})",
        "training": "a recording, a pass of training",
    }
    rows = [
        f"| {names[what]} | {seconds:.2g} s | {_hours(seconds)} | {_hours(seconds / CORES)} |"
        for what, seconds in found["core_seconds"].items()
    ]
    return f"""| what | one core, measured | a million, one core | a million, {CORES} cores |
|---|---|---|---|
{chr(10).join(rows)}

From `figures/cluster.json` ({about["data"]}, {about["split"]}, {about["class_counts"]["A"]} AF; {about["cores"]} cores; TensorFlow \
{about["versions"]["tensorflow"]}; medians of {about["runs"]} runs of commit {about["commit"]}). One worker of one thread took {one["seconds"]:.0f} s \
for an evaluation; two took {two["seconds"]:.0f} s ({found["speedup"]:.2f} times as fast), with the same report. A worker took up to \
{two["memory_gib"]:.1f} GiB. The last column assumes that more cores scale as two do; nobody has measured that."""


def _hours(seconds: float) -> str:
    """Hours that a million of something take, to two digits where there are few."""
    hours = MILLION * seconds / 3600
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.2g} h"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="physionet", help="physionet or a folder (physionet)")
    parser.add_argument("--recordings", type=int, default=0, help="few AF recordings, no claim")
    parser.add_argument("--runs", type=int, default=3, help="of each (3)")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "bench", help="(out/bench)")
    options = parser.parse_args()
    dataset = load_data("validation", data=options.data)
    if options.recordings:
        dataset = dataset.of_class("A").take(np.arange(options.recordings))
    models = named_model("baseline"), named_model("adaptive")
    found = bench_cluster(dataset, *models, runs=options.runs)
    write_json(options.out / "cluster.json", found)
    print(million(options.out))
    if not options.recordings and found["speedup"] < LEAST:
        print(f"DOES NOT HOLD: {found['speedup']:.2f}, claimed ≥ {LEAST}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
