"""The tables of an evaluation, from its report: one function a table."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from ecgnb import metrics
from ecgnb.model import softmax
from ecgnb.records import CLASSES
from ecgnb.report import read_json, spoken
from ecgnb.robustness import PUBLISHED

EVALUATED = ("baseline", "static", "adaptive")  # by ci/evaluate, for the README


def headline(report: dict) -> dict[str, str]:
    """The answer in a few lines; what was not evaluated is left out."""
    attacks, left = report["attacks"], "AF not turned, of all AF"
    lines = {
        "AF found, nothing attacked": spoken(report["AF found clean"]),
        "… and not turned by the original's attack, PGD-20": spoken(attacks[PUBLISHED][left]),
        f"… nor by the worst of {len(attacks)} attacks, for each recording": spoken(
            report["worst case"][left]
        ),
    }
    if "other threats" in report:
        untargeted = report["other threats"]["untargeted"][left]
        lines["… nor when any wrong class will do"] = spoken(untargeted)
    lines["normal recordings read as AF under random ±ε"] = spoken(
        report["normal read as AF"]["random ±ε"]
    )
    median = report["smallest ε, µV"]["median minimum ε"]
    lines["ε that turns the median recording, µV"] = _number(median, 0)
    if "certified" in report:
        largest = report["certified"]["largest radius, as ε in L∞"]
        lines["largest ε guaranteed for any recording, z-units"] = f"{largest:.3f}"
    failed = [check["name"] for check in report["checks"] if check["verdict"] == "fail"]
    return lines | {"checks of the attacks that fail": ", ".join(failed) or "none"}


def headline_markdown(folder: Path) -> str:
    """`headline` of the models that `ci/evaluate` evaluates, from their reports, as the README has it."""
    reports = {
        name: read_json(folder / "evaluation" / f"{name}-validation-standard.json")
        for name in EVALUATED
    }
    heads = {
        "{data}, {split} ({recordings} recordings, {AF recordings} AF), labels {labels}, protocol "
        "{protocol}, seed {seed}, budget {budget}; AF ".format(**report["about"])
        + report["threat"]
        for report in reports.values()
    }
    columns = {name: headline(report) for name, report in reports.items()}
    rows = ["| | " + " | ".join(columns) + " |", "|" + "---|" * (1 + len(columns))]
    for what in next(iter(columns.values())):
        rows.append(f"| {what} | " + " | ".join(lines[what] for lines in columns.values()) + " |")
    return "\n".join([*sorted(heads), "", *rows])


def kept(report: dict) -> dict[str, dict]:
    """Share of AF found clean and not turned, as `metrics.rate` gives it.

    Clean, under each attack, in the worst case for each recording, under each control.
    """
    left = "AF not turned, of all AF"
    return (
        {"clean": report["AF found clean"]}
        | {name: outcome[left] for name, outcome in report["attacks"].items()}
        | {"worst case, per recording": report["worst case"][left]}
        | {name: outcome[left] for name, outcome in report["controls"].items()}
    )


def curve_numbers(report: dict) -> dict[str, str]:
    """The smallest ε of the median recording, and the area under the curve."""
    return {
        "smallest ε, median, z": _number(report["smallest ε, z"]["median minimum ε"], 2),
        "smallest ε, median, µV": _number(report["smallest ε, µV"]["median minimum ε"], 0),
        "area under the curve to ε 1 z": _number(
            report["smallest ε, z"]["area under the curve"], 2
        ),
    }


def read_as(logits: np.ndarray) -> str:
    """ "read as N, 97 %", from logits (4,)."""
    chances = softmax(logits[None])[0]
    return f"read as {CLASSES[chances.argmax()]}, {chances.max():.0%}"


def attack_table(report: dict) -> pd.DataFrame:
    """One row for each attack, the worst case, and each control.

    The worst case has no recall: which of the attacks a recording meets is a matter of the goal.
    """
    equal_rms = report["controls at the attack's RMS"]
    controls = report["controls"] | {f"{n}, at PGD's RMS": o for n, o in equal_rms.items()}
    attacks, controls = (
        {
            name: {
                "AF recall": spoken(outcome["AF recall"]),
                "AF not turned": spoken(outcome["AF not turned, of all AF"]),
                "turned, of AF found clean": spoken(outcome["success, of AF found clean"]),
                "reads of the network, median": f"{outcome['median reads']:g}",
            }
            for name, outcome in outcomes.items()
        }
        for outcomes in (report["attacks"], controls)
    )
    worst = {
        "AF recall": "",
        "AF not turned": spoken(report["worst case"]["AF not turned, of all AF"]),
        "turned, of AF found clean": spoken(report["worst case"]["success, of AF found clean"]),
        "reads of the network, median": "",
    }
    return pd.DataFrame(attacks | {"worst case, recording by recording": worst} | controls).T


def alarm_table(report: dict) -> pd.DataFrame:
    """One row for each kind of noise: how many normal recordings it makes AF."""
    rows = {name: {"read as AF": spoken(r)} for name, r in report["normal read as AF"].items()}
    return pd.DataFrame(rows).T


def threat_table(report: dict) -> pd.DataFrame:
    """One row for each other threat: what the strongest attacks together leave."""
    rows = {
        name: {
            "threat": outcome["threat"],
            "turned, of AF found clean": spoken(outcome["success, of AF found clean"]),
            "AF recall left": spoken(outcome["AF not turned, of all AF"]),
        }
        for name, outcome in report["other threats"].items()
    }
    return pd.DataFrame(rows).T


def class_table(report: dict) -> pd.DataFrame:
    """One row for each class: recall clean, and what an untargeted attack on every recording leaves."""
    rows = {
        letter: {what: spoken(rate) for what, rate in rates.items()}
        for letter, rates in report["all classes"].items()
    }
    return pd.DataFrame(rows).T


def front_table(report: dict) -> pd.DataFrame:
    """AF recall behind each front end, one row for each attack."""
    return pd.DataFrame(
        {
            name: {what: spoken(rate) for what, rate in reads.items()}
            for name, reads in report["front ends"].items()
        }
    )


def guarantee(certified: dict) -> dict[str, str]:
    """What randomized smoothing certifies, beside what the claim would need."""
    return {
        f"AF recall of the smoothed model (noise of SD {certified['sigma']} z)": spoken(
            certified["AF recall, smoothed"]
        ),
        "largest certified radius, L2, z-units": f"{certified['largest radius, L2']:.2f}",
        "the same as ε in L∞, z-units": f"{certified['largest radius, as ε in L∞']:.4f}",
        "radius that the claimed ε would need, L2": (
            f"{certified['radius that the claimed ε would need, L2']:.1f}"
        ),
    }


def signal_table(report: dict) -> pd.DataFrame:
    """One row for each attack and control: the median of every measure of the changed signals."""
    return pd.DataFrame(
        {
            name: {measure: _round(stats["median"]) for measure, stats in measures.items()}
            for name, measures in report["signal"].items()
        }
    ).T


def check_table(reports: dict[str, dict]) -> pd.DataFrame:
    """One row for each check, one column for each model: its verdict, with the evidence if it is no pass."""

    def entry(check):
        passed = check["verdict"] == "pass"
        return "pass" if passed else f"{check['verdict']}: {check['evidence']}"

    return pd.DataFrame(
        {name: {c["name"]: entry(c) for c in r["checks"]} for name, r in reports.items()}
    )


def transfer_table(success: dict[str, dict[str, dict]]) -> pd.DataFrame:
    """Who made a change, in rows, and who reads it, in columns: share of the AF found clean that turn."""
    return pd.DataFrame(
        {maker: {r: spoken(rate) for r, rate in read.items()} for maker, read in success.items()}
    ).T


def paired_table(reports: dict[str, dict], attack: str) -> pd.DataFrame:
    """Every two models on the same AF recordings: which keeps more, with McNemar's exact test.

    Difference of recall with its paired 95 % bootstrap interval; p values as they are, and adjusted by Holm
    for all tests of this table together.
    """
    kept = {
        name: {
            "read rightly, clean": _flags(r, lambda one: one["read as"] == "A"),
            f"read rightly under {attack}": _flags(
                r, lambda one: one["under attack"][attack] == "A"
            ),
            "found and not turned by any attack": _flags(
                r, lambda one: one["read as"] == "A" and not one["turned"]
            ),
        }
        for name, r in reports.items()
    }
    rows = {
        (f"{b} less {a}", what): metrics.compare(kept[a][what], kept[b][what])
        for a, b in combinations(kept, 2)
        for what in kept[a]
    }
    adjusted = metrics.holm(np.array([row["p"] for row in rows.values()]))
    return pd.DataFrame(
        {
            key: {
                "difference": f"{row['value']:+.2f} [{row['ci95'][0]:+.2f}, {row['ci95'][1]:+.2f}]",
                "only one right": f"{row['only b']} against {row['only a']}",
                "p, exact": f"{row['p']:.2g}",
                "p, Holm": f"{holm:.2g}",
            }
            for (key, row), holm in zip(rows.items(), adjusted, strict=True)
        }
    ).T


def _flags(report: dict, of) -> np.ndarray:
    """(n AF,) bool, of every recording."""
    return np.array([of(one) for one in report["recordings"]], bool)


def _number(score: dict, digits: int) -> str:
    low, high = score["ci95"]
    value, low, high = (
        "beyond reach" if v is None else f"{v:.{digits}f}" for v in (score["value"], low, high)
    )
    return f"{value} [{low}, {high}]"


def _round(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
