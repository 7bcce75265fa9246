"""Tables of training runs beside each other: what the leak, a defence, a setting or a seed changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ecgnb import metrics
from ecgnb.constants import CLASS_NAMES, CLASSES
from ecgnb.errors import EcgnbError
from ecgnb.evaluation.schema import Report
from ecgnb.metrics import Estimate
from ecgnb.report.runs import RunResult
from ecgnb.report.tables import (
    MISSING,
    as_difference,
    as_p,
    class_name,
    false_positive_rate,
    recall_name,
    table_of,
    threat_classes,
    with_counts,
    with_interval,
)
from ecgnb.training.configuration import overrides

RECOMPUTED = "-recomputed"  # ends the name of a run whose batch-norm statistics `ci/controls.py` recomputed
STATISTICS = {"": "as trained", RECOMPUTED: "recomputed"}  # how such a name ends -> what its statistics are
ORIGINALS = {  # name of a run of protocol `original` -> what it is called
    f"original-{model}{end}": f"original-{model} (statistics {statistics})"
    for end, statistics in STATISTICS.items()
    for model in ("baseline", "static", "adaptive")
}
PRESENTED = (  # the runs of the results table, in its order
    *ORIGINALS,
    *("baseline", "static", "adaptive", "all-classes", "fast"),
    *("baseline-as-published", "adaptive-as-published"),
)
TITLES = ORIGINALS | {  # what a run is called in tables and figures, where its name does not say what it is
    "baseline-as-published": "baseline (dropout 0.5, as trained)",
    "adaptive-as-published": "adaptive (dropout 0.5, as trained)",
}
# Title of a measure -> condition, and its name in the table of `ci/sweep.py`.
CLEAN = {f"{CLASS_NAMES[symbol]} F1": ("clean", f"f1_{symbol}") for symbol in CLASSES} | {
    "challenge score": ("clean", "challenge_score"),
    "AF recall": ("clean", "recall_A"),
}
BOTH = "AF correct, clean and attacked"  # does not count AF that the attack itself moved there
ATTACKED = {
    BOTH: ("pgd20", "correct_clean_and_attacked"),
    "robust recall, PGD-20": ("pgd20", "robust_recall"),
    "AF F1, PGD-20": ("pgd20", "f1_A"),
    "ASR, PGD-20": ("pgd20", "attack_success_rate"),
    "robust recall, PGD-20 of 34 µV": ("pgd20_uv", "robust_recall"),
    "challenge score, every class attacked": ("pgd20_all_classes", "challenge_score"),
    "normal as AF, noise": ("random_sign", "noise_false_positive_rate"),
}
MEASURES = {title: CLEAN[title] for title in ("AF F1", "challenge score", "AF recall")} | ATTACKED
CONDITIONS = {"clean": "clean", "pgd20": "white-box PGD-20", "transferred": "transferred PGD-20"}
ORIGINAL = {  # AF F1 as published by the original ("Small Changes, Big Errors", HSTE21)
    ("baseline", "clean"): "0.73",
    ("baseline", "pgd20"): "0.18",
    ("static", "clean"): "0.83",
    ("static", "transferred"): "0.91",
    ("static", "pgd20"): MISSING,
    ("adaptive", "clean"): "0.87",
    ("adaptive", "pgd20"): MISSING,
}
OF_COUNTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # measures of confusion counts
    "AF F1": lambda counts: metrics.f1_scores(counts)[..., 0],
    "challenge score": metrics.challenge_score,
    BOTH: metrics.recall,
}
Measures = Mapping[str, tuple[str, str]]
Seeds = dict[str, dict[str, dict[int, float]]]  # defence -> title of a measure -> seed -> value


class Claim(NamedTuple):
    """A difference to test, `after` − `before`, each a run and a condition; measure : of OF_COUNTS."""

    before: tuple[str, str]
    after: tuple[str, str]
    measure: str

    def __str__(self) -> str:
        (before, condition), (after, other) = self.before, self.after
        before, after = title_of(before), title_of(after)
        if before == after:
            return f"{before}: {CONDITIONS[other]} − {CONDITIONS[condition]}"
        return f"{after} − {before}, {CONDITIONS[condition]}"


CLAIMS = [
    Claim((before, "clean"), (after, "clean"), measure)
    for before, after, measure in (
        ("baseline-as-published", "original-baseline", "AF F1"),  # with the leak and without, and other differences
        ("baseline-as-published", "original-baseline", "challenge score"),
        ("baseline", "adaptive", "AF F1"),
        ("baseline", "adaptive-as-published", "AF F1"),
        ("original-baseline", "original-adaptive", "AF F1"),
        (f"original-baseline{RECOMPUTED}", f"original-adaptive{RECOMPUTED}", "AF F1"),
    )
]
CLAIMS += [
    Claim((run, "transferred"), (run, "pgd20"), BOTH)
    for run in ("static", "original-static", f"original-static{RECOMPUTED}")
]


def presented(folder: Path) -> list[str]:
    """The runs of the results table in a folder of results; only those that `ci/controls.py` makes may be absent."""
    return [name for name in PRESENTED if not name.endswith(RECOMPUTED) or (folder / f"{name}.json").exists()]


def title_of(run: str) -> str:
    """What a run is called in tables and figures."""
    return TITLES.get(run, run)


def measure(report: Report, condition: str, name: str) -> Estimate | None:
    """A measure of CLEAN or ATTACKED under a condition; None if it was not computed."""
    if condition not in report.conditions:
        return None
    found = report.conditions[condition]
    if name == "noise_false_positive_rate":
        return false_positive_rate(report, condition)
    if name in ("robust_recall", "attack_success_rate"):
        return getattr(found, name)
    if name == "correct_clean_and_attacked":
        is_attacked = report.y == report.classes.index(report.threat["attack_class"])
        return metrics.rate((_correct_before(report, condition) == report.y)[is_attacked])
    kind, _, symbol = name.partition("_")
    return found.scores[name] if name in found.scores else found.scores[kind][symbol]


def _correct_before(report: Report, condition: str) -> np.ndarray:
    """(n,) predicted classes under a condition; a recording that is misclassified when clean keeps that prediction.

    So no recording counts as correct because the attack itself moved it into its class.
    """
    clean = report.predicted("clean")
    return np.where(clean == report.y, report.predicted(condition), clean)


def by_run(
    results: Mapping[str, RunResult], split: str, measures: Measures = MEASURES
) -> dict[str, dict[str, Estimate | None]]:
    """Title of a run -> title of a measure -> estimate, of the runs that were evaluated on a split."""
    return {
        title_of(name): {title: measure(result.reports[split], *which) for title, which in measures.items()}
        for name, result in results.items()
        if split in result.reports
    }


def results_table(results: Mapping[str, RunResult], split: str, measures: Measures = MEASURES) -> pd.DataFrame:
    """Every run that was evaluated on a split, in rows; "epochs": the selected one, and how many were trained."""
    table = table_of(by_run(results, split, measures), "run", cell=with_interval).reindex(columns=list(measures))
    shown = [result for result in results.values() if split in result.reports]
    table.insert(0, "epochs", [f"{run.selected['epoch']:.0f} of {run.config['epochs']}" for run in shown])
    return table


def original_table(results: Mapping[str, RunResult], split: str = "validation") -> pd.DataFrame:
    """AF F1 as the original published it, beside ours under its protocol, with either batch-norm statistics."""

    def ours(run: str, condition: str) -> str:
        report = results[run].reports.get(split) if run in results else None
        return with_interval(measure(report, condition, "f1_A") if report else None)

    rows = {
        (model, CONDITIONS[condition]): {
            "published": published,
            "here, statistics as trained": ours(f"original-{model}", condition),
            "here, statistics recomputed": ours(f"original-{model}{RECOMPUTED}", condition),
        }
        for (model, condition), published in ORIGINAL.items()
    }
    return table_of(rows, "model", "AF F1")


def score_table(reports: Mapping[str, Report]) -> pd.DataFrame:
    """Scores of one model, as on its card: a column for each split."""
    chosen: Measures = CLEAN | ATTACKED | {"robust recall, transferred PGD-20": ("transferred", "robust_recall")}
    heads = {}
    for split, report in reports.items():
        symbol, (attacked, _) = report.threat["attack_class"], threat_classes(report)
        counted = f", {report.about.class_counts[symbol]} {attacked}" if symbol else ""
        heads[split] = f"{split} ({report.about.recordings} recordings{counted})"
        if report.classes != CLASSES or attacked != "AF":
            chosen = own_measures(report)
    rows = {
        title: {heads[split]: measure(r, *which) for split, r in reports.items()} for title, which in chosen.items()
    }
    return table_of(rows, "score", cell=with_interval)


def own_measures(report: Report) -> Measures:
    """As CLEAN and ATTACKED together, for other classes than the study's, or another class that is attacked."""
    recall = f"recall_{report.threat['attack_class']}" if report.threat["attack_class"] else "accuracy"
    clean = {f"{class_name(symbol, report.classes)} F1": ("clean", f"f1_{symbol}") for symbol in report.classes}
    clean |= {"macro F1": ("clean", "macro_f1"), recall_name(report): ("clean", recall)}
    return clean | {title: ATTACKED[title] for title in ("robust recall, PGD-20", "ASR, PGD-20")}


def claims_table(results: Mapping[str, RunResult], split: str, claims: Iterable[Claim] = CLAIMS) -> pd.DataFrame:
    """Claims as paired differences on the same recordings, with bootstrap intervals; p adjusted by Holm for all rows.

    "epochs": how long the runs were trained, in the order of the comparison. Claims on runs that were not evaluated on
    this split are left out. So are, on the test fold, those on runs of protocol "original", which were trained on it.
    """
    reports = {
        name: result.reports[split]
        for name, result in results.items()
        if split in result.reports and not (split == "test" and result.protocol == "original")
    }
    found = {}
    for claim in claims:
        sides = (claim.before, claim.after)
        if all(run in reports and key in reports[run].conditions for run, key in sides):
            predicted = _correct_before if claim.measure == BOTH else Report.predicted
            before, after = (predicted(reports[run], key) for run, key in sides)
            y, of_counts = reports[claim.before[0]].y, OF_COUNTS[claim.measure]
            found[claim] = metrics.compare_scores(y, before, after, of_counts)
    adjusted = metrics.holm(np.array([one["p"] for one in found.values()]))
    rows = {}
    for (claim, one), holm in zip(found.items(), adjusted, strict=True):
        at_floor = one["p"] <= 2 / metrics.BOOTSTRAPS
        runs = dict.fromkeys((claim.after[0], claim.before[0]))
        direction = "higher" if one["value"] > 0 else "lower"
        rows[str(claim), claim.measure] = {
            "epochs": ", ".join(str(results[run].config["epochs"]) for run in runs),
            "difference": as_difference(one),
            "p": as_p(one["p"], at_floor),
            "p, Holm": as_p(holm, at_floor),
            "verdict": direction if holm < 0.05 else "no difference shown",
        }
    return table_of(rows, "comparison", "measure")


def controls_table(models: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """What tells label leaking from robustness, and how well AF is separated whatever the threshold; a row for each model.

    models : "models" of one split, of `runs.read_controls`. p : McNemar's exact test, adjusted by Holm for all rows.
    """
    in_counts = "{0[count]} of {0[n]}".format
    adjusted = metrics.holm(np.array([found["difference"]["p"] for found in models.values()]))
    rows = {
        title_of(name): {
            "other as AF, clean": in_counts(found["other_as_af"]["clean"]),
            "other as AF, attacked": in_counts(found["other_as_af"]["attacked"]),
            "difference": as_difference(found["difference"]),
            "p, Holm": as_p(p),
            "AUROC of AF, clean": with_interval(found["auroc"]),
            "AF recall at the baseline's specificity": with_interval(found["recall_at_specificity"]),
        }
        for (name, found), p in zip(models.items(), adjusted, strict=True)
    }
    return table_of(rows, "run")


def memorising_table(recalls: Mapping[str, Mapping[str, Estimate]]) -> pd.DataFrame:
    """AF recall of static on recordings of its training and on held-out ones: clean, and under two attacks.

    recalls : "recall" of "memorising", of `runs.read_controls`. Intervals of the differences: Newcombe 1998, method 10.
    """
    train, test = recalls["train"], recalls["test"]
    titles = {key: CONDITIONS[key] for key in train}
    rows = {
        "recordings of its training": {title: with_counts(train[key]) for key, title in titles.items()},
        "held-out recordings": {title: with_counts(test[key]) for key, title in titles.items()},
        "difference": {title: as_difference(_unpaired(train[key], test[key])) for key, title in titles.items()},
    }
    return table_of(rows, "AF recall of static")


def _unpaired(a: Estimate, b: Estimate) -> Estimate:
    """The difference a − b of two shares of different recordings."""
    value, (a_low, a_high), (b_low, b_high) = a["value"] - b["value"], a["ci95"], b["ci95"]
    below = np.hypot(a["value"] - a_low, b_high - b["value"])
    above = np.hypot(a_high - a["value"], b["value"] - b_low)
    return {"value": value, "ci95": [value - below, value + above]}


def seeds(table: pd.DataFrame, split: str) -> Seeds:
    """Values by seed of each defence that was trained with several seeds, without the leak.

    Runs that differ in more than their seed do not count; a measure that a run lacks is left out. table : of
    `ci/sweep.py`.
    """
    leakfree = table[(table["split"] == split) & (table["protocol"] == "leakfree")]
    same = [c for c in ("defence", "start", "epochs", "overrides") if c in table]
    found: Seeds = {}
    for (defence, *_), runs in leakfree.groupby(same, sort=False, dropna=False):
        if runs["seed"].nunique() > 1:
            values = runs.set_index("seed").groupby(["condition", "measure"])["value"]
            found[defence] = {
                title: values.get_group(which).astype(float).to_dict()
                for title, which in MEASURES.items()
                if which in values.groups and len(values.get_group(which)) == runs["seed"].nunique()
            }
    common = [t for t in MEASURES if all(t in measures for measures in found.values())]
    return {defence: {t: measures[t] for t in common} for defence, measures in found.items()}


def seeds_table(found: Seeds) -> pd.DataFrame:
    """Every seed's value, their mean and standard deviation."""
    rows = {
        (defence, title): {f"seed {seed}": value for seed, value in values.items()}
        | {"mean": np.mean(list(values.values())), "SD": np.std(list(values.values()), ddof=1)}
        for defence, measures in found.items()
        for title, values in measures.items()
    }
    return table_of(rows, "defence", "measure", cell="{:.2f}".format)


def ablation_table(table: pd.DataFrame, config: Mapping[str, Any]) -> pd.DataFrame:
    """What was tried for the baseline, on the dev fold: a row for each change of a setting.

    table : of `ci/sweep.py`; its runs without overrides, which differ by their seed alone, are the reference: a
    difference from their mean shows nothing unless it is larger than that between any two of them. config : the
    shipped baseline's settings, which tell whether a change was adopted.
    """
    dev = table[table["split"] == "dev"]
    scores = dev.pivot(index="run", columns="measure", values="value").astype(float)
    texts = dev.drop_duplicates("run").set_index("run")["overrides"].fillna("")
    reference = texts.index[texts == ""]
    of_reference = scores["challenge_score"][reference]
    spread = np.ptp(of_reference.to_numpy()) if len(reference) > 1 else np.inf
    names = {run: f"reference, run {i}" for i, run in enumerate(reference, 1)}
    rows = {}
    for run, name in (names | texts[texts != ""].to_dict()).items():
        change = scores["challenge_score"][run] - of_reference.mean()
        rows[name] = {
            "challenge score": f"{scores['challenge_score'][run]:.3f}",
            "difference": f"{change:+.3f}",
            "AF F1": f"{scores['f1_A'][run]:.2f}",
            "verdict": "no difference shown" if abs(change) <= spread else "higher" if change > 0 else "lower",
            "adopted": "yes" if _is_adopted(texts[run], config) else "no",
        }
    return table_of(rows, "change")


def _is_adopted(text: str, config: Mapping[str, Any]) -> bool:
    try:
        return all(config[name] == value for name, value in overrides(text).items())
    except EcgnbError:  # a setting that training no longer has
        return False
