"""Time what takes long against what people would use instead, and check first that both find the same.

Every side runs in a process of its own, in turn, several times; see `ci/bench_sides.py`. Writes bench.json and
bench.png; for the case "cluster", which is asked for alone, cluster.json. Fails if a claim does not hold.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bench_sides import ATTACKING, BATCHES, CASES, EPSILON, FULL, LARGEST, PEERS, QUICK, RESOLUTION, STEP_SIZE
from matplotlib.figure import Figure

from ecgnb.data.dataset import load_data
from ecgnb.errors import EcgnbError
from ecgnb.files import write_json
from ecgnb.progress import bar
from ecgnb.report.style import NOISE_COLOUR, SPARE_COLOURS, new_figure, save, styled, tidy
from ecgnb.report.tables import markdown

ROOT = Path(__file__).parents[1]
PLATFORM = ("tensorflow", "keras", "numpy")
PEER_PACKAGES = ("adversarial-robustness-toolbox", "cleverhans", "foolbox")
CASE_NAMES = {  # formatted with "settings" of bench.json
    "pgd": "PGD-{steps}, AF → N, {recordings} AF recordings, ε {epsilon}, step {step_size}",
    "apgd": "Auto-PGD, cross-entropy, {steps} steps, {recordings} AF recordings, ε {epsilon}",
    "epoch": "Epoch of the original's adaptive training, {per_class} recordings of a class",
    "half": "Epoch with half of each batch attacked, {of_half} recordings of a class, 10 steps",
    "curve": "Robustness curve to ε {largest:g}: to {resolution} for each recording, or on {grid} ε",
    "loading": "All recordings of the training archive, loaded and summed up",
    "cluster": "Suite quick on validation, by Dask workers of one thread",
}
SIDE_NAMES = {
    "ecgnb": "ecgnb",
    "ecgnb_bfloat16": "ecgnb, gradients in bfloat16",
    "ecgnb_jax": "ecgnb, JAX",
    "ecgnb_all_steps": "ecgnb, all steps for all",
    "ecgnb_unverified": "ecgnb, unverified bfloat16",
    "ecgnb_all_bfloat16": "ecgnb, all in bfloat16",
    "art": "ART",
    "cleverhans": "CleverHans",
    "notebook": "eager loop of a notebook",
    "foolbox": "Foolbox",
    "grid": "grid of full PGD",
    "first": "first time",
    "later": "later, from the cache",
    "one_worker": "one worker",
    "two_workers": "two workers",
    "this_process": "no cluster: one process on both cores",
}
# (case, side, other): how many times as long as the side the other takes, at least.
CLAIMS = {
    ("pgd", "ecgnb", "art"): 3.5,
    ("pgd", "ecgnb", "cleverhans"): 1.5,
    ("pgd", "ecgnb_all_steps", "cleverhans"): 0.8,  # for equal work no gain is claimed, only no great loss
    ("epoch", "ecgnb_all_bfloat16", "notebook"): 2.0,
    ("half", "ecgnb", "art"): 1.5,
    ("curve", "ecgnb", "grid"): 1.0,
    ("cluster", "two_workers", "one_worker"): 1.7,
}
LEAN = ("pgd", "epoch")  # cases in which the first side takes no more memory than those claimed
LIMITS = {"first": (20, 1), "later": (1, 1)}  # of loading: seconds, GiB
NOTES = """*Ratio*: time as a multiple of the first row's; only where the first row found no less. *Success*: by the
shipped float32 network, whatever the side says. *Floor*: the products of the gradients taken, at the rate of one large
matrix product. ecgnb stops at success: a recording leaves the batch at its first adversarial iterate. *All steps for
all* is the work that the other libraries do."""


def run(case: str, side: str, folder: Path, options: argparse.Namespace, *more: str) -> dict[str, Any]:
    """One side, once, in a process of its own, with more arguments; {"error"} if it does not run."""
    target = folder / "side.json"
    target.unlink(missing_ok=True)
    command = [sys.executable, str(ROOT / "ci" / "bench_sides.py"), case, side, str(target)]
    command += ["--data", options.data, *["--quick"] * options.quick, *more]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"ECGNB_BENCH": str(folder), "PYTHONPATH": paths}
    environment |= {"TQDM_DISABLE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:160]}
    return json.loads(target.read_text())


def fastest_batch(case: str, side: str, folder: Path, options: argparse.Namespace) -> list[str]:
    """Arguments that give a peer the batch size with which two steps of its attack are fastest."""
    if case not in ATTACKING or side not in PEERS or options.quick:
        return []
    tried = {batch: run(case, side, folder, options, "--batch", str(batch), "--steps", "2") for batch in BATCHES}
    seconds = {batch: one["seconds"] for batch, one in tried.items() if "seconds" in one}
    return ["--batch", str(min(seconds, key=lambda batch: seconds[batch]))] if seconds else []


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median times and largest memory of a side's runs, and what the last of them found."""
    for one in runs:
        if "error" in one:
            return one
    seconds = [one["seconds"] for one in runs]
    return runs[-1] | {
        "seconds": float(np.median(seconds)),
        "all_seconds": seconds,
        "processor_seconds": float(np.median([one["processor_seconds"] for one in runs])),
        "memory_gib": max(one["memory_gib"] for one in runs),
    }


def missed(case: str, ours: dict[str, Any], other: dict[str, Any]) -> int:
    """In how many recordings ours finds less than the other. Times are compared only if it is 0."""
    if "success" in ours:
        found, expected = (np.array(side["success"]) for side in (ours, other))
        if case == "pgd":
            return int((expected & ~found).sum())
        # Random starts, or coarser gradients, succeed on other recordings; there should be no fewer.
        allowed = 0 if case == "apgd" else round(0.02 * len(found))
        return max(0, int(expected.sum() - found.sum()) - allowed)
    if "minimal_epsilon" in ours:
        found, expected = (np.array(side["minimal_epsilon"], float) for side in (ours, other))
        found, expected = (np.where(np.isnan(e), np.inf, e) for e in (found, expected))
        return int((found > expected + RESOLUTION).sum())
    if "robust_accuracy" in ours:  # training is random: it has to be as robust but for a tenth
        return round(100 * max(0.0, other["robust_accuracy"] - ours["robust_accuracy"] - 0.1))
    return int(any(ours[key] != other[key] for key in ("recordings", "total")))


def compare(case: str, sides: dict[str, dict], floor: dict[str, Any]) -> dict[str, dict]:
    """The sides, with ratios to the first, and the time that their arithmetic alone would take."""
    ours = next(iter(sides.values()))
    for name, other in sides.items():
        if "error" in other or "error" in ours:
            continue
        other["missed"] = missed(case, ours, other)
        if not other["missed"]:
            other["ratio"] = other["seconds"] / ours["seconds"]
        if "gradients" in other:
            coarse = name in ("ecgnb_bfloat16", "ecgnb_unverified")
            rate = floor["flop_per_second"]["bfloat16" if coarse else "float32"]
            other["floor_seconds"] = other["gradients"] * floor["gradient_flop"] / rate
    return sides


def claimed_ratio(case: str, ours: dict[str, Any], other: dict[str, Any]) -> float:
    """How many times as long the other takes; 0 if ours finds less."""
    return 0.0 if missed(case, ours, other) else other["seconds"] / ours["seconds"]


def broken_claims(cases: dict[str, dict[str, dict]]) -> list[str]:
    """Claims that do not hold, a line each, of the cases that were run."""
    lines = []
    for (case, side, name), least in CLAIMS.items():
        sides = cases.get(case, {})
        ours, other = sides.get(side, {}), sides.get(name, {})
        if sides and ("seconds" not in ours or "seconds" not in other):
            lines.append(f"{case}: {name} cannot be compared")
        elif sides:
            ratio = claimed_ratio(case, ours, other)
            if ratio < least:
                lines.append(f"{case}: {ratio:.2f} × {name}, claimed ≥ {least}")
            if case in LEAN and ours["memory_gib"] > other["memory_gib"]:
                lines.append(f"{case}: more memory than {name}")
    for name, limits in LIMITS.items():
        one = cases.get("loading", {}).get(name, {})
        for what, limit in zip(("seconds", "memory_gib"), limits, strict=True):
            if one.get(what, 0) > limit:
                lines.append(f"loading, {name}: {one[what]:.2f} {what}, claimed ≤ {limit}")
    return lines


def machine() -> dict[str, Any]:
    """Where, and with what."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = {line.split(":")[1].strip() for line in lines if line.startswith("model name")}
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
        "processor": ", ".join(sorted(names)) or platform.processor(),
        "cores": cores,
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in (*PLATFORM, *PEER_PACKAGES)},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def case_name(case: str, numbers: dict[str, Any]) -> str:
    """What a case is called, with the settings that were used."""
    return CASE_NAMES[case].format(**numbers["settings"])


def table(folder: Path, name: str = "bench") -> str:
    """What was measured, from bench.json or cluster.json, as Markdown."""
    numbers = json.loads((folder / f"{name}.json").read_text())
    about = numbers["about"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    runs = "one run" if about["runs"] == 1 else f"medians of {about['runs']} runs"
    columns = ["side", "time, s", "ratio", "found", "floor, s", "memory, GiB"]
    lines = [
        f"{about['data']}; {about['processor']}, {about['cores']} cores; {runs} of "
        f"commit {about['commit']}; {versions}",
        "",
        markdown(pd.DataFrame(columns=columns)),
    ]
    for case, sides in numbers["cases"].items():
        lines.append(f"| **{case_name(case, numbers)}** | | | | | |")
        for name, one in sides.items():
            lines.append(f"| {' | '.join([SIDE_NAMES[name], *_cells(one)])} |")
    pgd = numbers["cases"].get("pgd", {})
    if all("success" in pgd.get(name, {}) for name in ("ecgnb_bfloat16", "ecgnb_unverified")):
        exact, *coarse = (np.array(pgd[name]["success"]) for name in ("ecgnb", "ecgnb_bfloat16", "ecgnb_unverified"))
        wrong = np.array(pgd["ecgnb_unverified"]["claimed"]) & ~coarse[1]
        lines += [
            "",
            f"Of {len(exact)} outcomes of PGD, gradients in bfloat16 change {(exact != coarse[0]).sum()}. Unverified "
            f"bfloat16 changes {(exact != coarse[1]).sum()}, and claims {wrong.sum()} successes that float32 denies.",
        ]
    if any("batch" in one for one in pgd.values()):
        each = ", ".join(f"{SIDE_NAMES[name]} {one['batch']}" for name, one in pgd.items() if "batch" in one)
        lines += ["", f"Recordings in a batch, by what was fastest for each library: {each}."]
    return "\n".join([*lines, "", NOTES])


def machines(folder: Path) -> str:
    """Every claim, and what each machine measured (bench.json, bench_*.json), as Markdown."""
    measured = [json.loads(path.read_text()) for path in sorted(folder.glob("bench*.json"))]
    rows = []
    for (case, side, name), least in CLAIMS.items():
        if all({side, name} <= one["cases"].get(case, {}).keys() for one in measured):
            pairs = [(one["cases"][case][side], one["cases"][case][name]) for one in measured]
            what = f"{case_name(case, measured[0])}: {SIDE_NAMES[side]} against {SIDE_NAMES[name]}"
            rows.append([what, f"{least:g}", *(_ratio_cell(case, *pair) for pair in pairs)])
    for kind in ("float32", "bfloat16"):
        rates = [f"{one['floor']['flop_per_second'][kind] / 1e9:.0f}" for one in measured]
        rows.append([f"*matrix product in {kind}, GFLOP/s*", "", *rates])
    places = [f"{one['about']['processor']}, {one['about']['cores']} cores" for one in measured]
    return markdown(pd.DataFrame(rows, columns=["ratio of times", "claimed, at least", *places]))


def _ratio_cell(case: str, ours: dict[str, Any], other: dict[str, Any]) -> str:
    if "seconds" not in ours or "seconds" not in other:
        return "fails"
    ratio = claimed_ratio(case, ours, other)
    return f"{ratio:.2g}" if ratio else "none: ours finds less"


def _cells(one: dict[str, Any]) -> list[str]:
    """Time, ratio, what was found, floor, memory of a side."""
    if "error" in one:
        return ["fails", one["error"].replace("|", "/"), "", "", ""]
    found = ""
    if "success" in one:
        found = f"{sum(one['success'])} of {len(one['success'])} succeed"
    elif "minimal_epsilon" in one:
        known = [epsilon for epsilon in one["minimal_epsilon"] if epsilon is not None]
        found = f"{len(known)} of {len(one['minimal_epsilon'])}, median ε {np.median(known):.2g}"
    elif "recordings" in one:
        found = f"{one['recordings']} recordings"
    elif "robust_accuracy" in one:
        found = f"robust accuracy {one['robust_accuracy']:.2f}"
    ratio = f"none: the first misses {one['missed']}" if one["missed"] else f"{one['ratio']:.2g}"
    floor = f"{one['floor_seconds']:.2g}" if "floor_seconds" in one else ""
    return [f"{one['seconds']:.3g}", ratio, found, floor, f"{one['memory_gib']:.2f}"]


@styled
def bars(numbers: dict[str, Any]) -> Figure:
    """Time of every side, a panel a case, ours in colour; a mark where the arithmetic alone would end."""
    cases = {
        case: {name: one for name, one in sides.items() if "seconds" in one} for case, sides in numbers["cases"].items()
    }
    about, heights = numbers["about"], [1.2 + len(sides) for sides in cases.values()]
    subtitle = f"{about['data']}; {about['cores']} cores"
    fig = new_figure(8, 0.6 + 0.33 * sum(heights), "Time: lower is better", subtitle)
    axes = fig.subplots(len(cases), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for ax, (case, sides) in zip(axes, cases.items(), strict=True):
        seconds = [one["seconds"] for one in sides.values()]
        ours = [case == "loading" or name.startswith("ecgnb") for name in sides]
        colours = [SPARE_COLOURS[1] if mine else NOISE_COLOUR for mine in ours]
        ax.barh([SIDE_NAMES[name] for name in sides], seconds, color=colours)
        for place, one in enumerate(sides.values()):
            if "floor_seconds" in one:
                ax.plot([one["floor_seconds"]] * 2, [place - 0.4, place + 0.4], color="0.1", lw=1.5)
            ax.text(one["seconds"], place, f" {one['seconds']:.3g}", va="center", fontsize=8)
        ax.invert_yaxis()
        ax.set_xlim(0, 1.12 * max(seconds, default=1))
        ax.set_title(case_name(case, numbers), loc="left")
        tidy(ax, "")
    axes[-1].set_xlabel("seconds; black marks: the arithmetic of the gradients alone")
    return fig


def bench(options: argparse.Namespace) -> dict[str, Any]:
    """Run the cases; returns what bench.json holds."""
    size, runs = (QUICK, 1) if options.quick else (FULL, options.runs)
    work = options.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    data = load_data("validation", data=options.data).source
    about = machine() | {"data": data + ", a few recordings" * options.quick, "runs": runs}
    floor = run("floor", "matrix_product", work, options)
    if "error" in floor:
        raise EcgnbError(f"bench: the shipped baseline does not run: {floor['error']}")
    cases = {}
    for case in options.only:
        results: dict[str, list[dict]] = {side: [] for side in CASES[case][1]}
        batches = {side: fastest_batch(case, side, work, options) for side in results}
        for turn in bar(case, range(runs), unit="turn"):
            for side, before in results.items():
                if not turn or "error" not in before[-1]:  # what fails once is not tried again
                    before.append(run(case, side, work, options, *batches[side]))
        sides = {side: summarise(each) for side, each in results.items()}
        for side, words in batches.items():
            sides[side] |= {"batch": int(words[1])} if words else {}
        cases[case] = compare(case, sides, floor)
    shutil.rmtree(work)
    settings = asdict(size) | {"epsilon": EPSILON, "step_size": STEP_SIZE}
    settings |= {"largest": LARGEST, "resolution": RESOLUTION}
    return {"about": about, "settings": settings, "floor": floor, "cases": cases}


def main(arguments: list[str] | None = None) -> int:
    *names, cluster = CASE_NAMES
    parser = argparse.ArgumentParser(prog="bash ci/bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=CASE_NAMES, default=names, help="of " + ", ".join(CASE_NAMES))
    parser.add_argument("--runs", type=int, default=3, help="of each side (3); --quick: 1")
    parser.add_argument("--quick", action="store_true", help="a few recordings, no claims: minutes")
    parser.add_argument("--data", default="physionet", help="physionet or a folder (physionet)")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "bench", help="(out/bench)")
    options = parser.parse_args(arguments)
    try:
        numbers = bench(options)
    except EcgnbError as error:
        print(error, file=sys.stderr)
        return 2
    name = "cluster" if options.only == [cluster] else "bench"
    write_json(options.out / f"{name}.json", numbers)
    if name == "bench":
        save(bars(numbers), options.out / "bench.png", numbers)
    print(table(options.out, name))
    broken = [] if options.quick else broken_claims(numbers["cases"])
    for line in broken:
        print(f"DOES NOT HOLD: {line}", file=sys.stderr)
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
