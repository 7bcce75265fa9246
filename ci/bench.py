"""Time what takes long against what people would use instead, and check first that both find the same.

Every side runs in a process of its own, in turn, several times; see `ci/bench_sides.py`. Writes bench.json and
bench.png, and fails if something that the README claims does not hold.
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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from bench_sides import CASES, EPSILON, FULL, QUICK, RESOLUTION, STEP, Size
from matplotlib import style
from matplotlib.figure import Figure

from ecgnb.canvas import CONTROL, OTHERS, STYLE, PlainFigure, head, save, tidy
from ecgnb.comparisons import markdown
from ecgnb.errors import EcgnbError
from ecgnb.progress import bar

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "tensorflow",
    "keras",
    "numpy",
    "adversarial-robustness-toolbox",
    "cleverhans",
    "foolbox",
)
TITLES = {
    "pgd": "Targeted PGD-{steps} on {recordings} AF recordings, ε {epsilon}, step {step}",
    "apgd": "Auto-PGD, cross-entropy, {steps} steps on {recordings} AF recordings, ε {epsilon}",
    "epoch": "An epoch of the original's adaptive training, {per_class} recordings of a class",
    "step": "A pass of training over {trained} recordings, dropout 0.2",
    "curve": "Robustness curve to ε 1: to {resolution} for each recording, or on {epsilons} ε",
    "loading": "All recordings of the training archive, loaded and looked at",
}
NOTES = """*How to read it.* Every side runs in a process of its own, in turn with the others, on the shipped baseline. *Times the
first*: its time as a multiple of the first row's, only where the first found no less. *Turned*: as the shipped float32 network
reads it, whatever the side says. *Arithmetic alone*: the products of the gradients that were taken, at the rate of one
large matrix product. *Until turned*: a recording leaves the batch at the first iterate that is read as normal; *all steps
for all* is the same work as the other libraries do. `bash ci/bench` makes this table anew."""


@dataclass(frozen=True)
class Claim:
    """What is said of a case: `least` times as fast as `other` and, if `lean`, with no more memory."""

    case: str
    other: str
    least: float
    lean: bool = True


CLAIMS = (
    Claim("pgd", "ART", 3.5),
    Claim("pgd", "CleverHans", 1.5),
    Claim("epoch", "notebook: eager attacks, model.fit", 2.0),
    Claim("curve", "grid of full PGD", 1.0, lean=False),  # each size of batch is compiled once
)
MOST = {"first": {"seconds": 20, "GiB": 1}, "later": {"seconds": 1, "GiB": 1}}  # of loading


def run(case: str, side: str, folder: Path, options: argparse.Namespace) -> dict:
    """One side, once, in a process of its own; {"error"} if it does not run."""
    target = folder / "side.json"
    target.unlink(missing_ok=True)
    command = [sys.executable, str(ROOT / "ci" / "bench_sides.py"), case, side, str(target)]
    command += ["--data", options.data] + ["--quick"] * options.quick
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"ECGNB_BENCH": str(folder), "PYTHONPATH": paths}
    environment |= {"TQDM_DISABLE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:160]}
    return json.loads(target.read_text())


def row(runs: list[dict]) -> dict:
    """Median times and largest memory of a side's runs, and what the last of them found."""
    failed = [one["error"] for one in runs if "error" in one]
    if failed:
        return {"error": failed[0]}
    seconds = [one["seconds"] for one in runs]
    processor = [one["processor seconds"] for one in runs]
    return runs[-1] | {
        "seconds": float(np.median(seconds)),
        "all seconds": seconds,
        "processor seconds": float(np.median(processor)),
        "GiB": max(one["GiB"] for one in runs),
    }


def shortfall(case: str, ours: dict, other: dict) -> int:
    """Recordings by which ours finds less than the other: times are compared only if there are none."""
    if case in ("pgd", "apgd", "epoch"):
        mine, theirs = (np.array(side["turned"]) for side in (ours, other))
        if case == "pgd":
            return int((theirs & ~mine).sum())
        # Random starts, or a rounder gradient, turn other recordings; they should be no fewer.
        allowed = 0 if case == "apgd" else round(0.02 * len(mine))
        return max(0, int(theirs.sum() - mine.sum()) - allowed)
    if case == "curve":
        mine, theirs = (np.array(side["smallest"], float) for side in (ours, other))
        mine, theirs = (np.where(np.isnan(r), np.inf, r) for r in (mine, theirs))
        return int((mine > theirs + RESOLUTION).sum())
    seen = ("recordings", "total")
    return int([ours.get(key) for key in seen] != [other.get(key) for key in seen])


def compare(case: str, rows: dict[str, dict], floor: dict) -> dict[str, dict]:
    """Rows with ratios to the first, and the time that the arithmetic alone would take."""
    ours = next(iter(rows.values()))
    for name, other in rows.items():
        if "error" in other or "error" in ours:
            continue
        other["less found by the first"] = shortfall(case, ours, other)
        if not other["less found by the first"]:
            other["times the first"] = other["seconds"] / ours["seconds"]
        if "gradients" in other:
            rate = floor["FLOP a second"]["bfloat16" if "bfloat16" in name else "float32"]
            other["floor seconds"] = other["gradients"] * floor["FLOP a gradient"] / rate
    return rows


def precision_changes(rows: dict[str, dict]) -> dict[str, dict]:
    """What slopes in bfloat16 change in the verdicts of PGD, and what believing bfloat16 would."""
    exact = np.array(rows["ecgnb, until turned"]["turned"])
    changes = {}
    for name in (
        "ecgnb, until turned, slopes in bfloat16",
        "ecgnb, until turned, bfloat16 believed",
    ):
        turned, claimed = (np.array(rows[name][key]) for key in ("turned", "claimed"))
        changes[name] = {
            "recordings": len(exact),
            "turned in float32 only": int((exact & ~turned).sum()),
            "turned in bfloat16 only": int((turned & ~exact).sum()),
            "claimed, and not so": int((claimed & ~turned).sum()),
        }
    return changes


def broken(cases: dict[str, dict[str, dict]]) -> list[str]:
    """Claims that do not hold, each in a line; of the cases that were run."""
    lines = []
    for claim in CLAIMS:
        rows = cases.get(claim.case, {})
        ours, other = next(iter(rows.values()), {}), rows.get(claim.other, {})
        if "seconds" not in ours or "seconds" not in other:
            if rows:
                lines.append(f"{claim.case}: {claim.other} cannot be compared")
            continue
        found = other.get("times the first", 0.0)
        if found < claim.least:
            lines.append(f"{claim.case}: {found:.2f} × {claim.other}, claimed ≥ {claim.least}")
        if claim.lean and ours["GiB"] > other["GiB"]:
            lines.append(f"{claim.case}: more memory than {claim.other}")
    for name, most in MOST.items():
        found = cases.get("loading", {}).get(name, {})
        lines += [
            f"loading, {name}: {found[what]:.2f} {what}, claimed ≤ {limit}"
            for what, limit in most.items()
            if found.get(what, 0) > limit
        ]
    return lines


def machine() -> dict:
    """Where and with what this was measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = {line.split(":")[1].strip() for line in lines if line.startswith("model name")}
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": ", ".join(sorted(names)) or platform.processor(),
        "cores": cores,
        "load before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": versions,
    }


def titles(size: Size) -> dict[str, str]:
    """case -> its title, with the settings that were used."""
    words = vars(size) | {"epsilon": EPSILON, "step": STEP, "resolution": RESOLUTION}
    return {case: title.format(**words) for case, title in TITLES.items()}


def table(folder: Path) -> str:
    """The README's table, from bench.json."""
    numbers = json.loads((folder / "bench.json").read_text())
    about = numbers["about"]
    lines = [
        f"{about['data']}; {about['processor']}, {about['cores']} cores; medians of {about['runs']} runs; "
        + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        "",
        "| what | time, s | times the first | found | arithmetic alone, s | peak memory, GiB |",
        "|" + "---|" * 6,
    ]
    for case, rows in numbers["cases"].items():
        lines.append(f"| **{numbers['titles'][case]}** | | | | | |")
        lines += [f"| {name} | {' | '.join(_cells(one))} |" for name, one in rows.items()]
    for name, changes in numbers.get("precision", {}).items():
        told = ", ".join(f"{what} {n}" for what, n in changes.items() if what != "recordings")
        lines += ["", f"*{name}*, of {changes['recordings']} verdicts: {told}."]
    return "\n".join([*lines, "", NOTES])


def machines(folder: Path) -> str:
    """The README's table of what is claimed, a column for each machine: bench.json, and bench_*.json if there are."""
    measured = [json.loads(path.read_text()) for path in sorted(folder.glob("bench*.json"))]
    places = [f"{one['about']['processor']}, {one['about']['cores']} cores" for one in measured]
    rows = []
    for claim in CLAIMS:
        if any(claim.case not in one["cases"] for one in measured):
            continue
        title = measured[0]["titles"][claim.case]
        ratios = [_cells(one["cases"][claim.case][claim.other])[1] for one in measured]
        rows.append([f"{title}: {claim.other}", f"{claim.least:g}", *ratios])
    for kind in ("float32", "bfloat16"):
        rates = [f"{one['floor']['FLOP a second'][kind] / 1e9:.0f}" for one in measured]
        rows.append([f"*products in {kind}, GFLOP/s*", "", *rates])
    heads = ["how many times as long as ours", "at least", *places]
    return markdown(pd.DataFrame(rows, columns=heads))


def _cells(one: dict) -> list[str]:
    if "error" in one:
        return ["fails", one["error"].replace("|", "/"), "", "", ""]
    less = one["less found by the first"]
    ratio = f"the first misses {less} of these" if less else f"{one['times the first']:.2g}"
    found = ""
    if "turned" in one:
        found = f"{sum(one['turned'])} of {len(one['turned'])} turned"
    elif "smallest" in one:
        known = [epsilon for epsilon in one["smallest"] if epsilon is not None]
        found = f"{len(known)} of {len(one['smallest'])}, median ε {np.median(known):.2g}"
    elif "recordings" in one:
        found = f"{one['recordings']} recordings"
    floor = f"{one['floor seconds']:.2g}" if "floor seconds" in one else ""
    return [f"{one['seconds']:.3g}", ratio, found, floor, f"{one['GiB']:.2f}"]


@style.context(STYLE)
def bars(numbers: dict) -> Figure:
    """Time of every side, a panel a case: ours in colour; a mark where the arithmetic alone would end."""
    cases = {
        case: {name: one for name, one in rows.items() if "seconds" in one}
        for case, rows in numbers["cases"].items()
    }
    heights = [1.2 + len(rows) for rows in cases.values()]
    fig = PlainFigure(figsize=(8, 0.6 + 0.33 * sum(heights)), layout="constrained")
    about = numbers["about"]
    head(fig, "Time, the less the better", f"{about['data']}; {about['cores']} cores")
    axes = fig.subplots(len(cases), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for ax, (case, rows) in zip(axes, cases.items(), strict=True):
        names, seconds = list(rows), [one["seconds"] for one in rows.values()]
        ours = [case in ("loading", "step") or name.startswith("ecgnb") for name in names]
        ax.barh(names, seconds, color=[OTHERS[1] if mine else CONTROL for mine in ours])
        for place, one in enumerate(rows.values()):
            if "floor seconds" in one:
                ax.plot([one["floor seconds"]] * 2, [place - 0.4, place + 0.4], color="0.1", lw=1.5)
            ax.text(one["seconds"], place, f" {one['seconds']:.3g}", va="center", fontsize=8)
        ax.invert_yaxis()
        ax.set_xlim(0, 1.12 * max(seconds, default=1))
        ax.set_title(numbers["titles"][case], loc="left")
        tidy(ax, "")
    axes[-1].set_xlabel("seconds; black marks: the arithmetic of the gradients alone")
    return fig


def main(arguments: list[str] | None = None) -> int:
    known = [case for case in CASES if case != "floor"]
    parser = argparse.ArgumentParser(prog="bash ci/bench", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=known, default=known, help=f"of {', '.join(known)}"
    )
    parser.add_argument("--runs", type=int, default=3, help="of each side (3); --quick: 1")
    parser.add_argument(
        "--quick", action="store_true", help="see whether it runs: minutes, no claims"
    )
    parser.add_argument("--data", default="physionet", help="physionet or a folder (physionet)")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "bench", help="(out/bench)")
    options = parser.parse_args(arguments)
    try:
        numbers = bench(options)
    except EcgnbError as error:
        print(error, file=sys.stderr)
        return 2
    save(bars(numbers), options.out / "bench.png", numbers)
    print(table(options.out))
    failed = [] if options.quick else broken(numbers["cases"])
    for line in failed:
        print(f"DOES NOT HOLD: {line}", file=sys.stderr)
    return bool(failed)


def bench(options: argparse.Namespace) -> dict:
    """Run the cases; what bench.json holds."""
    size, runs = (QUICK, 1) if options.quick else (FULL, options.runs)
    work = options.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    about = machine() | {"data": _data(options), "runs": runs}
    floor = run("floor", "matrix product", work, options)
    if "error" in floor:
        raise EcgnbError(f"bench: the shipped baseline does not run: {floor['error']}")
    cases = {}
    for case in options.only:
        _, sides = CASES[case]
        made = {side: [] for side in sides}
        for turn in bar(case, range(runs), unit="turn"):
            for side in sides:
                # What fails once is not tried again.
                if not turn or "error" not in made[side][-1]:
                    made[side].append(run(case, side, work, options))
        cases[case] = compare(case, {side: row(r) for side, r in made.items()}, floor)
    shutil.rmtree(work)
    chosen = {case: title for case, title in titles(size).items() if case in cases}
    numbers = {"about": about, "floor": floor, "titles": chosen, "cases": cases}
    try:
        return numbers | {"precision": precision_changes(cases["pgd"])}
    except KeyError:  # PGD was not asked for, or a side of it failed
        return numbers


def _data(options: argparse.Namespace) -> str:
    name = "DEMO (SYNTHETIC)" if options.data == "demo" else "PhysioNet/CinC Challenge 2017"
    return f"{name}, a few recordings only" if options.quick else name


if __name__ == "__main__":
    sys.exit(main())
