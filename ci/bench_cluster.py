"""Time one evaluation by one Dask worker of one thread and by two: python ci/bench_cluster.py, on an idle machine.

Both in turn, several times; their reports must all be the same. `million` makes the table of ci/CLUSTER.md from
cluster.json. To publish:
python ci/bench_cluster.py --out figures && python ci/update_readme.py
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_sides import largest_memory

from ecgnb.assessment import evaluate, report_path
from ecgnb.cluster import Cluster, local_cluster
from ecgnb.data import Dataset, load
from ecgnb.errors import EcgnbError
from ecgnb.files import write_json
from ecgnb.progress import bar

ROOT = Path(__file__).parents[1]
BUDGET = "quick"
LEAST = 1.7  # times as fast as one worker, what two are claimed to be
TRAINED_ON = 96  # recordings of the timed pass of training: three batches
MILLION, CORES = 1_000_000, 64


def bench_cluster(dataset: Dataset, model: str = "baseline", runs: int = 3) -> dict:
    """What cluster.json holds: median times, largest memory, and seconds of a core for a recording."""
    cores, load_before = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    sides, reports, training = {1: [], 2: []}, set(), []
    for _ in bar("one worker, then two", range(runs), unit="turn"):
        for workers, found in sides.items():
            one, report, seconds = _evaluation(dataset, model, workers)
            found.append(one)
            reports.add(report)
            training.append(seconds)
    if len(reports) > 1:
        raise EcgnbError("bench: one worker and two, or two runs, wrote different reports")
    about = json.loads(report)["about"]
    one, two = (_summed_up(found) for found in sides.values())
    return {
        "about": about | {"cores": cores, "load before": load_before, "runs": runs},
        "one worker": one,
        "two workers": two,
        "times as fast": one["seconds"] / two["seconds"],
        "seconds of a core": {
            f"an AF recording, evaluated (budget {BUDGET})": one["seconds"]
            / about["AF recordings"],
            "a recording, a pass of training": float(np.median(training)),
        },
    }


def _summed_up(runs: list[dict[str, float]]) -> dict:
    """Median times, every run's seconds, and the largest memory."""
    return {
        "seconds": float(np.median([one["seconds"] for one in runs])),
        "all seconds": [one["seconds"] for one in runs],
        "seconds to start": float(np.median([one["seconds to start"] for one in runs])),
        "GiB, largest worker": max(one["GiB, largest worker"] for one in runs),
    }


def _evaluation(
    dataset: Dataset, model: str, workers: int
) -> tuple[dict[str, float], bytes, float]:
    """An evaluation by so many workers: its time and memory, its report, and a pass of training's time.

    Workers are at hand before the clock starts: starting them, and TensorFlow in each, is told apart.
    """
    from distributed import Client

    began = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        local_cluster(workers, threads=1) as local,
        Client(local) as client,
    ):
        client.run(_awake)
        ready = time.perf_counter()
        evaluate(model, dataset, BUDGET, Path(folder), whole=False, workers=Cluster(client))
        found = {
            "seconds": time.perf_counter() - ready,
            "seconds to start": ready - began,
            "GiB, largest worker": max(client.run(largest_memory).values()),
        }
        training = client.submit(_pass_of_training).result()
        report = report_path(Path(folder), model, dataset.split, BUDGET).read_bytes()
    return found, report, training


def _awake() -> None:
    """Load what an evaluation needs."""
    import ecgnb.assessment  # noqa: F401


def _pass_of_training() -> float:
    """Seconds for a recording of the baseline's training step, compiled before."""
    import keras

    from ecgnb import model as network

    model = network.build(dropout=0.2)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-3), loss)
    x = np.random.default_rng(0).normal(size=(TRAINED_ON, 9000, 1)).astype(np.float32)
    y = np.eye(4, dtype=np.float32)[np.arange(TRAINED_ON) % 4]
    model.fit(x[:32], y[:32], batch_size=32, verbose=0)
    began = time.perf_counter()
    model.fit(x, y, batch_size=32, verbose=0)
    return (time.perf_counter() - began) / TRAINED_ON


def million(folder: Path) -> str:
    """Markdown: what a million recordings cost at the speed in cluster.json; nothing if it was not measured."""
    try:
        found = json.loads((folder / "cluster.json").read_text())
    except FileNotFoundError:
        return ""
    about = found["about"]
    rows = [
        f"| {what} | {seconds:.2g} s | {_hours(seconds)} | {_hours(seconds / CORES)} |"
        for what, seconds in found["seconds of a core"].items()
    ]
    return "\n".join(
        [
            f"| what | of one core, measured | a million, of one core | on {CORES} cores like it |",
            "|---|---|---|---|",
            *rows,
            "",
            f"From `figures/cluster.json` ({about['data']}, {about['split']}, {about['AF recordings']} AF; TensorFlow "
            f"{about['versions']['tensorflow']} on a machine of {about['cores']} cores; medians of {about['runs']} runs): one "
            f"worker of one thread took {found['one worker']['seconds']:.0f} s for an evaluation, two took "
            f"{found['two workers']['seconds']:.0f} s ({found['times as fast']:.2f} times as fast), with the same report; a "
            f"worker took up to {found['two workers']['GiB, largest worker']:.1f} GiB. The last column supposes that more "
            "cores go on as two do, which nobody has measured.",
        ]
    )


def _hours(seconds: float) -> str:
    """Hours that a million of something take, to two digits where there are few."""
    hours = MILLION * seconds / 3600
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.2g} h"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="physionet", help="physionet or a folder (physionet)")
    parser.add_argument("--model", default="baseline", help="a shipped model or a file (baseline)")
    parser.add_argument(
        "--recordings", type=int, default=0, help="only so many AF recordings: no claim is checked"
    )
    parser.add_argument("--runs", type=int, default=3, help="of each (3)")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "bench", help="(out/bench)")
    options = parser.parse_args()
    dataset = load("validation", data=options.data)
    if options.recordings:
        dataset = dataset.of_class("A").take(slice(0, options.recordings))
    found = bench_cluster(dataset, options.model, options.runs)
    write_json(options.out / "cluster.json", found)
    print(million(options.out))
    if not options.recordings and found["times as fast"] < LEAST:
        print(f"DOES NOT HOLD: {found['times as fast']:.2f}, claimed ≥ {LEAST}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
