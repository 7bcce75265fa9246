"""Tables of evaluations: each a function of a `Report`, or of several, that returns a DataFrame of short texts.

"—" is what was not computed. `markdown` writes any table for a page; `side_by_side` puts models beside each other.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ecgnb import metrics
from ecgnb.attacks.noise import NOISE_BASELINES
from ecgnb.attacks.threats import Threat
from ecgnb.constants import CLASS_NAMES, CLASSES
from ecgnb.evaluation.certification import largest_radius
from ecgnb.evaluation.schema import Condition, Report
from ecgnb.metrics import Estimate
from ecgnb.models.classifier import softmax

MISSING = "—"
CERTIFIED_RADII = (0.1, 0.25, 0.5)  # L2, z-units, up to about what 500 draws can certify
ATTACKED = ("attack", "transfer", "worst_case")  # kinds of conditions
TRANSFORMATIONS = {"standardised": "standardised again", "filtered": "filtered to 0.5–40 Hz"}
SIGNALS = {  # those measures of `signals.measures` that a table has room for: title, format
    "rms_uv": ("RMS, µV", "{:.1f}"),
    "snr_db": ("SNR, dB", "{:.0f}"),
    "total_variation_ratio": ("total variation, ratio", "{:.1f}"),
    "power_within_band": ("power in 0.5–40 Hz", "{:.0%}"),
    "power_above_band": ("power above 40 Hz", "{:.0%}"),
    "r_peak_f1": ("R-peak F1", "{:.2f}"),
    "rmssd_change_ms": ("RMSSD change, ms", "{:.1f}"),
}


def with_interval(estimate: Estimate | None, form: str = "{:.2f}") -> str:
    """ "0.94 [0.83, 0.98]": a value and its 95 % interval, "0.00 [—]" if it has none; form : of each number."""
    if not estimate or estimate["value"] is None:
        return MISSING
    ends = estimate["ci95"] if metrics.has_interval(estimate) else []
    return f"{form.format(estimate['value'])} [{', '.join(map(form.format, ends)) or MISSING}]"


def with_counts(estimate: Estimate | None) -> str:
    """As `with_interval`, with the counts of a share: "0.94 [0.83, 0.98] (44 of 47)"."""
    counts = f" ({estimate['count']} of {estimate['n']})" if estimate and estimate.get("n") else ""
    return with_interval(estimate) + counts


def as_difference(estimate: Estimate) -> str:
    """ "-0.09 [-0.15, -0.04]": a difference and its 95 % interval."""
    return with_interval(estimate, "{:+.2f}")


def as_p(p: float, at_floor: bool = False) -> str:
    """A p value; at_floor : a bootstrap cannot show a smaller one."""
    return f"{'≤ ' if at_floor else ''}{p:.2g}"


def as_prediction(logits: np.ndarray, classes: tuple[str, ...]) -> str:
    """ "predicted as N, 97 %", from logits (classes,)."""
    probabilities = softmax(logits[None])[0]
    return f"predicted as {classes[probabilities.argmax()]}, {100 * probabilities.max():.0f} %"


def table_of(rows: Mapping[Any, Mapping[str, Any]], *names: str, cell: Callable[[Any], str] = str) -> pd.DataFrame:
    """A table from its rows, whose index has these names; cell : how a value is written that is not None."""
    written = {
        key: {column: MISSING if value is None else cell(value) for column, value in row.items()}
        for key, row in rows.items()
    }
    table = pd.DataFrame(written).T
    return table.rename_axis(list(names)).fillna(MISSING) if rows else table


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown. Its index comes first if it has a name."""
    if any(table.index.names):
        table = table.reset_index()
    rows = [table.columns, ["---"] * table.shape[1], *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def side_by_side(
    make: Callable[[Report], Mapping[Any, Any]], reports: Mapping[str, Report], column: str | None = None
) -> pd.DataFrame:
    """Models as columns: `headline` or the like for each, or one column of a table."""
    made = {name: make(report) for name, report in reports.items()}
    columns = {name: dict(one[column] if column else one) for name, one in made.items()}
    rows: list[Hashable] = list(dict.fromkeys(row for one in columns.values() for row in one))
    return pd.DataFrame(columns, index=rows).fillna(MISSING)


# ---- one evaluation ----


def class_name(symbol: str, classes: Sequence[str] = CLASSES) -> str:
    """A class in words: "AF" for "A" among the classes of the Challenge 2017; of other data its own name."""
    return CLASS_NAMES.get(symbol, symbol) if tuple(classes) == CLASSES else symbol


def threat_classes(report: Report) -> tuple[str, str]:
    """Names of the attacked class and of the target, "" for all classes and for an untargeted attack."""
    attacked, target = (class_name(report.threat[key], report.classes) for key in ("attack_class", "target"))
    return attacked, target


def description(report: Report) -> str:
    """Which recordings, whose labels, which suite, in one line."""
    about, attacked = report.about, report.threat["attack_class"]
    counted = f", {about.class_counts[attacked]} {threat_classes(report)[0]}" if attacked else ""
    facts = {name: getattr(about, name) for name in ("labels", "protocol", "seed", "suite")}
    said = ", ".join(f"{name} {fact}" for name, fact in facts.items() if fact != "")
    return f"{about.data}, {about.split}: {about.recordings} recordings{counted}; {said}"


def threat_in_words(report: Report) -> str:
    """The threat model of the report: "AF → normal, L∞ 0.2 z"."""
    return _in_words(report.threat, report.classes)


def recall(report: Report, key: str) -> Estimate | None:
    """Recall of the attacked class under a condition, or accuracy if all classes are attacked."""
    if key not in report.conditions:
        return None
    scores, attacked = report.conditions[key].scores, report.threat["attack_class"]
    return scores["recall"][attacked] if attacked else scores["accuracy"]


def recall_name(report: Report) -> str:
    """What `recall` is called."""
    attacked, _ = threat_classes(report)
    return f"{attacked} recall" if attacked else "accuracy"


def robust_recall(report: Report, key: str) -> Estimate | None:
    """Robust recall under a condition."""
    return report.conditions[key].robust_recall if key in report.conditions else None


def false_positive_rate(report: Report, key: str) -> Estimate | None:
    """Share of the target class predicted as the attacked class, normal as AF: clean, or under noise."""
    attacked, target = report.threat["attack_class"], report.threat["target"]
    if key not in report.conditions or not (attacked and target):
        return None
    return report.rate(key, target, attacked)


def under_study_threat(report: Report, *kinds: str) -> dict[str, Condition]:
    """The conditions of some kinds whose threat model is that of the report."""
    return {key: c for key, c in report.of_kind(*kinds).items() if c.threat == report.threat}


def noise_on_all(report: Report) -> dict[str, Condition]:
    """Noise baselines on every recording, without those at the attack's RMS, which are on the attacked class."""
    return {key: c for key, c in report.of_kind("noise").items() if key in NOISE_BASELINES}


def undecided(report: Report) -> str:
    """Why the recordings do not suffice to conclude anything; "" if they do."""
    found = recall(report, "clean")
    if not found or found["count"] >= metrics.FEWEST:
        return ""
    return f"undecided: too few correctly classified recordings ({found['count']} of {found['n']}) to conclude"


def answer(report: Report) -> str:
    """How robust the model is, in two or three sentences of counts; first of all, if so, that they are too few."""
    attacked, target = threat_classes(report)
    worst = "worst_case" in report.conditions
    tried = f"all {len(under_study_threat(report, 'attack'))} attacks" if worst else report.conditions["pgd20"].title
    aim = f" that aim at {target}" if target and worst else ""
    ends = {
        f"{attacked} recordings are classified correctly.".strip(): recall(report, "clean"),
        f"withstand {tried}{aim}.": robust_recall(report, "worst_case" if worst else "pgd20"),
        "withstand attackers who accept any wrong class.": robust_recall(report, "untargeted"),
    }
    counts = [f"{e['count']} of {e['n']} {end}" for end, e in ends.items() if e]
    return " ".join([f"{reason[0].upper()}{reason[1:]}.", *counts] if (reason := undecided(report)) else counts)


def headline(report: Report) -> dict[str, str]:
    """The answer in lines of at most 100 columns; what was not computed is left out."""
    conditions, (attacked, target) = report.conditions, threat_classes(report)
    everyone = next((k for k in ("all_classes", "pgd20_all_classes") if k in conditions), None)
    tried = len(under_study_threat(report, "attack"))
    attack = conditions["pgd20"].title if "pgd20" in conditions else ""
    false_positive = f"{target} predicted as {attacked}"
    estimates = {
        f"{recall_name(report)}, clean": recall(report, "clean"),
        f"robust recall, {attack}": robust_recall(report, "pgd20"),
        f"robust recall, worst of {tried} attacks": robust_recall(report, "worst_case"),
        "robust recall, untargeted": robust_recall(report, "untargeted"),
        "accuracy, every class attacked": everyone and conditions[everyone].scores["accuracy"],
        f"{false_positive}, clean": false_positive_rate(report, "clean"),
        f"{false_positive}, random ±ε": false_positive_rate(report, "random_sign"),
    }
    lines = {"verdict": reason} if (reason := undecided(report)) else {}
    lines |= {text: with_counts(estimate) for text, estimate in estimates.items() if estimate}
    if found := minimal_epsilon(report):
        median = f"minimal ε, median, {'µV' if report.curve_uv else 'z-units'}"
        lines[median] = found[median]
    if report.certification:
        radius = CERTIFIED_RADII[-1]
        certified = certified_recall(report.certification, radius)
        lines[f"certified recall at L2 radius {radius:g} z-units"] = with_counts(certified)
    if report.checks:
        failed, open_ = (sum(check.verdict == verdict for check in report.checks) for verdict in ("fail", "undecided"))
        lines["checks that fail"] = f"{failed} of {len(report.checks)}" + (f", {open_} undecided" if open_ else "")
    return lines


def clean_table(report: Report) -> pd.DataFrame:
    """What the model does when nothing is attacked: the confusion matrix, a row for each true class, and its recall."""
    scores, names = report.conditions["clean"].scores, [class_name(symbol, report.classes) for symbol in report.classes]
    rows = {
        name: dict(zip((f"as {other}" for other in names), counts, strict=True))
        | {"recall": with_interval(scores["recall"][symbol])}
        for symbol, name, counts in zip(report.classes, names, scores["confusion"], strict=True)
    }
    return table_of(rows, "true class")


def clean_scores(report: Report) -> dict[str, str]:
    """Scores over all classes when nothing is attacked, and F1 of each."""
    scores = report.conditions["clean"].scores
    found = {"accuracy": with_counts(scores["accuracy"]), "macro F1": with_interval(scores["macro_f1"])}
    if "challenge_score" in scores:
        found["challenge score"] = with_interval(scores["challenge_score"])
    each = {f"F1 of {class_name(s, report.classes)}": with_interval(f1) for s, f1 in scores["f1"].items()}
    return found | each


def robust_recalls(report: Report) -> dict[str, Estimate | None]:
    """Title -> robust recall: clean, under each attack, in the worst case, untargeted, under each noise baseline."""
    attacks = {c.title: c.robust_recall for c in under_study_threat(report, *ATTACKED).values()}
    if "untargeted" in report.conditions:
        attacks["worst, any wrong class"] = robust_recall(report, "untargeted")
    noise = {c.title: c.robust_recall for c in noise_on_all(report).values()}
    return {"clean": recall(report, "clean")} | attacks | noise


def attack_table(report: Report) -> pd.DataFrame:
    """A row for each attack under the study's threat model, and for the worst case.

    The worst case has no recall: which attack is a recording's worst depends on the goal.
    """
    name = recall_name(report)
    rows = {
        key: {
            name: MISSING if c.kind == "worst_case" else with_interval(recall(report, key)),
            "robust recall": with_counts(c.robust_recall),
            "attack success rate": with_counts(c.attack_success_rate),
            "queries, median": MISSING if c.median_queries is None else f"{c.median_queries:g}",
        }
        for key, c in under_study_threat(report, *ATTACKED).items()
    }
    return table_of(rows, "attack").rename(lambda key: _title(report, key))


def noise_table(report: Report) -> pd.DataFrame:
    """A row for each noise baseline: recall, success, and how many normal recordings it makes false positives.

    A model that predicts AF for whatever is perturbed has a high recall under attack and is not robust: it has many.
    """
    everywhere = report.of_kind("clean") | noise_on_all(report)
    attacked, target = threat_classes(report)
    rows = {
        key: {
            recall_name(report): recall(report, key),
            "attack success rate": c.attack_success_rate,
            f"{target} predicted as {attacked}": (false_positive_rate(report, key) if key in everywhere else None),
        }
        for key, c in report.of_kind("clean", "noise").items()
    }
    table = table_of(rows, "noise", cell=with_counts)
    if not report.threat["target"]:  # then no class is the one that false alarms come from
        table = table.iloc[:, :-1]
    return table.rename(lambda key: _title(report, key))


def noise_title(name: str) -> str:
    """A kind of noise of `noise_stress` in words; what is synthetic is called so."""
    return name.replace("_", " ").replace("nstdb", "NSTDB")


def snr_table(found: Mapping[str, Any], measure: Callable[[Any], Estimate]) -> pd.DataFrame:
    """A measure of the scores of `noise_stress`, with its interval: clean, and for each noise and SNR. Models are columns."""
    rows = {("clean", MISSING): {name: measure(scores) for name, scores in found["clean"].items()}}
    for noise, models in found["noise"].items():
        for i, snr_db in enumerate(found["snr_db"]):
            rows[noise_title(noise), f"{snr_db} dB"] = {name: measure(scores[i]) for name, scores in models.items()}
    return table_of(rows, "noise", "SNR", cell=with_interval)


def threat_table(report: Report) -> pd.DataFrame:
    """A row for each other threat model: what attacks leave of the recordings that it is about."""
    rows = {
        key: {
            "threat model": _in_words(c.threat, report.classes),
            "robust recall": with_counts(c.robust_recall),
            "attack success rate": with_counts(c.attack_success_rate),
        }
        for key, c in report.of_kind(*ATTACKED).items()
        if c.threat and c.threat != report.threat
    }
    return table_of(rows, "attacker").rename(lambda key: _title(report, key))


def class_table(report: Report) -> pd.DataFrame:
    """Recall of every class: clean, and where recordings of every class are attacked."""
    attacks = report.of_kind(*ATTACKED).values()
    chosen = [report.conditions["clean"], *(c for c in attacks if c.threat and not c.threat["attack_class"])]
    rows = {
        class_name(symbol, report.classes): {c.title: c.scores["recall"][symbol] for c in chosen}
        for symbol in report.classes
    }
    return table_of(rows, "recall of", cell=with_counts)


def preprocessing_table(report: Report) -> pd.DataFrame:
    """Recall of the attacked class behind each input transformation, a row for each attack."""
    titles = {"clean": "clean", "pgd_aware": "PGD, aware of the transformation"}
    rows: dict[str, dict[str, Estimate]] = {}
    for name, found in report.preprocessing.items():
        for key, estimate in found.items():
            row = titles.get(key) or f"{_title(report, key)}, unaware of it"
            rows.setdefault(row, {})[TRANSFORMATIONS.get(name, name)] = estimate
    return table_of(rows, "attack", cell=with_counts)


def minimal_epsilon(report: Report) -> dict[str, str]:
    """The minimal ε of the median recording, and the area under the robustness curve; "> 1": above the search limit."""
    if not report.minimal_epsilon:
        return {}

    def median(unit: str, limit: float, digits: int) -> str:
        estimate = report.minimal_epsilon[unit]["median"]
        numbers = (estimate["value"], *estimate["ci95"])
        value, *ends = (f"> {limit:g}" if v is None else f"{v:.{digits}f}" for v in numbers)
        return f"{value} [{', '.join(ends) if metrics.has_interval(estimate) else MISSING}]"

    limit = report.curves["attack"]["epsilon"][-1]
    in_uv = {"minimal ε, median, µV": median("uv", report.curve_uv["epsilon"][-1], 0)} if report.curve_uv else {}
    return {
        "minimal ε, median, z-units": median("z", limit, 2),
        **in_uv,
        f"area under the curve to ε {limit:g}": with_interval(report.minimal_epsilon["z"]["area"]),
    }


def certified_recall(found: Mapping[str, Any], radius: float) -> Estimate | None:
    """Share of the attacked class that randomized smoothing certifies to an L2 radius, z-units.

    found : `Report.certification`. None where no recording could be certified, with its number of draws.
    """
    if radius > largest_radius(found["sigma"], found["draws"]):
        return None
    curve, n = found["curve"], found["smoothed_recall"]["n"]
    shares = [share for r, share in zip(curve["radius"], curve["value"], strict=True) if r >= radius]
    return metrics.rate(np.arange(n) < round(n * shares[0] if shares else 0))


def certification(report: Report) -> dict[str, str]:
    """What randomized smoothing certifies, beside what its draws can certify at most and the study's ε would need."""
    found = report.certification
    sigma, draws, needed = found["sigma"], found["draws"], found["l2_radius_of_study_epsilon"]
    return {
        f"recall of the smoothed model, noise of SD {sigma:g} z": with_counts(found["smoothed_recall"]),
        **{
            f"certified recall at L2 radius {radius:g} z-units": with_counts(certified_recall(found, radius))
            for radius in CERTIFIED_RADII
        },
        f"largest L2 radius that {draws} draws can certify, z-units": f"{largest_radius(sigma, draws):.2f}",
        f"L2 radius that ε {report.threat['epsilon']:g} needs, z-units": f"{needed:.1f}",
    }


def signal_table(report: Report) -> pd.DataFrame:
    """A row for each attack and noise baseline: medians of what it does to the signal."""

    def median(found: dict[str, dict[str, float]], name: str, form: str) -> str:
        value = found.get(name, {}).get("median")
        text = MISSING if value is None else form.format(value)
        return "0.0" if text == "-0.0" else text

    rows = {
        _title(report, key): {title: median(found, name, form) for name, (title, form) in SIGNALS.items()}
        for key, found in report.signals.items()
    }
    return table_of(rows, "perturbation")


def recording_table(report: Report) -> pd.DataFrame:
    """A row for each recording of the attacked class: its prediction, its minimal ε, its strongest attack."""
    clean = dict(zip(report.records, report.conditions["clean"].predictions, strict=True))
    above = "above the search limit"
    rows = {
        found["record"]: {
            "predicted when clean": class_name(clean[found["record"]], report.classes),
            "minimal ε, z-units": above if (z := found["minimal_epsilon_z"]) is None else f"{z:.3f}",
            **(
                {"minimal ε, µV": above if (uv := found["minimal_epsilon_uv"]) is None else f"{uv:.0f}"}
                if report.curve_uv
                else {}
            ),
            "strongest attack": _title(report, found["worst_attack"]),
        }
        for found in report.attacked
    }
    return table_of(rows, "recording")


def demo_sentence(report: Report) -> str:
    """How the shipped baseline does on the synthetic set, clean and attacked."""
    scores = report.conditions["clean"].scores
    clean = {f"F1 {symbol}": estimate for symbol, estimate in scores["f1"].items()}
    clean["challenge score"] = scores["challenge_score"]
    reached = ", ".join(f"{title} {with_interval(estimate)}" for title, estimate in clean.items())
    before, after = (with_interval(recall(report, key)) for key in ("clean", "pgd20"))
    return (
        f"On the {report.about.recordings} {report.about.split} recordings of the DEMO (SYNTHETIC) set the "
        f"shipped baseline, which never saw it, reaches {reached}. Under targeted PGD-20 its AF recall goes from "
        f"{before} to {after}."
    )


# ---- several models ----


def findings_table(reports: Mapping[str, Report]) -> pd.DataFrame:
    """The finding: what is left of AF recall as attacks get stronger, and then may end in any wrong class."""
    tried = max(len(under_study_threat(report, "attack")) for report in reports.values())
    rows = {
        name: {
            f"{recall_name(report)}, clean": recall(report, "clean"),
            "robust recall: PGD-20": robust_recall(report, "pgd20"),
            f"worst of {tried} attacks": robust_recall(report, "worst_case"),
            "any wrong class": robust_recall(report, "untargeted"),
        }
        | _false_positives(report)
        for name, report in reports.items()
    }
    return table_of(rows, "model", cell=with_interval)


def summary_table(reports: Mapping[str, Report]) -> pd.DataFrame:
    """The models of a reproduced study, in 100 columns of a terminal."""
    rows = {}
    for name, report in reports.items():
        attacked, scores = report.conditions.get("pgd20"), report.conditions["clean"].scores
        symbol, (own, _) = report.threat["attack_class"], threat_classes(report)
        rows[name] = {
            f"{own or 'macro'} F1, clean": scores["f1"][symbol] if symbol else scores["macro_f1"],
            "robust recall": attacked and attacked.robust_recall,
            "ASR": attacked and attacked.attack_success_rate,
        } | _false_positives(report)
    return table_of(rows, "model", cell=with_interval)


def _false_positives(report: Report) -> dict[str, Estimate | None]:
    """ "normal as AF, noise", as a column; none where the attack has no target."""
    attacked, target = threat_classes(report)
    return {f"{target} as {attacked}, noise": false_positive_rate(report, "random_sign")} if target else {}


def transfer_table(success: Mapping[str, Mapping[str, Estimate]]) -> pd.DataFrame:
    """Attack success rate of examples crafted on one model (rows) and evaluated on another (columns)."""
    return table_of(success, "crafted on", cell=with_counts)


def paired_table(reports: Mapping[str, Report], attack: str = "pgd20") -> pd.DataFrame:
    """Every two models on the same recordings of the attacked class: McNemar's exact test.

    Differences have paired bootstrap intervals. p is given as it is, and adjusted by Holm for all tests of the table.
    """
    flags = {name: _flags(report, attack) for name, report in reports.items()}
    found = {
        (f"{b} − {a}", what): metrics.compare_rates(flags[a][what], flags[b][what])
        for a, b in combinations(flags, 2)
        for what in flags[a]
        if what in flags[b]
    }
    adjusted = metrics.holm(np.array([one["p"] for one in found.values()]))
    rows = {
        key: {
            "difference": as_difference(one),
            "only one model": f"{one['only_b']} against {one['only_a']}",
            "p": as_p(one["p"]),
            "p, Holm": as_p(holm),
        }
        for (key, one), holm in zip(found.items(), adjusted, strict=True)
    }
    return table_of(rows, "models", "share of recordings")


def _flags(report: Report, attack: str) -> dict[str, np.ndarray]:
    """(n,) bool of every attacked recording: correctly classified when clean, and robust."""
    attacked = report.threat["attack_class"]
    rows = report.y == report.classes.index(attacked) if attacked else slice(None)
    correct = report.predicted("clean") == report.y
    robust = {
        f"robust, {_title(report, key)}": (correct & ~report.successes(key))[rows]
        for key in (attack, "worst_case")
        if key in report.conditions
    }
    return {"correctly classified, clean": correct[rows]} | robust


def _in_words(threat: Mapping[str, Any], classes: Sequence[str]) -> str:
    names = {key: class_name(threat[key], classes) for key in ("attack_class", "target")}
    return str(Threat(**{**threat, **names}))


def _title(report: Report, key: str) -> str:
    return report.conditions[key].title if key in report.conditions else key
