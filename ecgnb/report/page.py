"""The report of one model as a single HTML page: the answer and a chart, then all the rest; nothing to fetch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from ecgnb.attacks.noise import NOISE_BASELINES, NOISE_TITLES
from ecgnb.data.dataset import Dataset
from ecgnb.evaluation.schema import Report
from ecgnb.report import drawing, tables

# What each condition is: one sentence, and its paper.
MADRY = "Madry et al. 2018, arXiv 1706.06083"
CROCE = "Croce & Hein 2020, arXiv 2003.01690"
ABOUT = {
    "fgsm": ("One step of length ε along the sign of the gradient.", "Goodfellow et al. 2015, arXiv 1412.6572"),
    "pgd20": (
        "20 steps of ε/10 along the sign of the gradient, each projected back into the ε-ball. The last iterate counts, as in the original study.",
        MADRY,
    ),
    "pgd": ("The same from random points in the ε-ball, until it succeeds.", MADRY),
    "apgd_ce": ("Gradient steps with momentum, whose length halves where progress stalls; on cross-entropy.", CROCE),
    "apgd_dlr": ("The same on a ratio of logits, which does not saturate.", CROCE),
    "pgd_band": ("PGD whose perturbation stays within the pass-band of an ECG monitor.", MADRY),
    "sap": (
        "Smooth adversarial perturbations: PGD on noise that is then smoothed.",
        "Han et al. 2020, arXiv 1905.05163",
    ),
    "square": (
        "Random search by segments. It needs no gradient, only predictions.",
        "Andriushchenko et al. 2020, arXiv 1912.00049",
    ),
    "universal": (
        "One perturbation for all recordings, crafted on other recordings.",
        "Moosavi-Dezfooli et al. 2017, arXiv 1610.08401",
    ),
    "fab": (
        "Steps to the decision boundary, linearised at each, and back towards the recording until inside the ε-ball.",
        "Croce & Hein 2020, arXiv 1907.02044",
    ),
    "transferred": ("PGD-20 crafted on another model.", "Papernot et al. 2016, arXiv 1605.07277"),
    "worst_case": ("For each recording the strongest of the attacks above.", CROCE),
}
VERDICTS = {"fail": "Failed", "warn": "Warnings", "undecided": "Undecided", "pass": "Passed"}
COLUMNS = {  # of tables: a plain name, and what it means
    "robust recall": ("robust recall", "classified correctly when clean, and the attack does not succeed"),
    "attack success rate": ("attack success rate", "of those classified correctly when clean"),
    "queries, median": ("queries", "predictions that the attack asks for, median"),
    "RMS, µV": ("size", "RMS of the perturbation, µV"),
    "SNR, dB": ("signal to noise", "the ECG against the perturbation, dB"),
    "total variation, ratio": ("roughness", "total variation against the clean ECG's; 1: the same"),
    "power in 0.5–40 Hz": ("in the pass-band", "power of the perturbation in 0.5–40 Hz"),
    "power above 40 Hz": ("above it", "power of the perturbation above 40 Hz"),
    "R-peak F1": ("same beats found", "F1 of R-peaks; 1: all of them"),
    "RMSSD change, ms": ("rhythm", "change of RMSSD, ms"),
}
FACTS = {  # of `About`, whose name alone does not say it
    "digest": "model, SHA-256",
    "code": "code, SHA-256",
    "signals": "recordings, SHA-256",
    "class_counts": "recordings of each class",
}
WIDEST = 12  # classes of a confusion matrix that still fits the page


def page(report: Report, dataset: Dataset | None = None, made: Mapping[str, str] | None = None) -> str:
    """HTML of a report.

    dataset : what the report was made from, to show one of its recordings, if the report still holds its examples;
    made : what is to stand under "How it was made" besides, such as the command and the date.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = _cell
    template = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    attacked, target = tables.threat_classes(report)
    return environment.from_string(template).render(
        report=report,
        tables=tables,
        attacked=attacked,
        target=target,
        names={symbol: tables.class_name(symbol, report.classes) for symbol in report.classes},
        columns=COLUMNS,
        widest=WIDEST,
        chart=_chart(report),
        curves=_curves(report),
        waveform=drawing.waveform(report, dataset) if dataset is not None else {},
        about_attacks={c.title: ABOUT[key] for key, c in report.conditions.items() if key in ABOUT},
        checks={
            title: [check for check in report.checks if check.verdict == verdict] for verdict, title in VERDICTS.items()
        },
        facts=dict(made or {}) | _facts(report),
    )


def _chart(report: Report) -> list[tuple[str, str, dict[str, Any]]]:
    """Rows of the first chart, (title, kind, estimate): clean, then what is left under each attack, the worst last."""
    noise = {condition.title for condition in tables.noise_on_all(report).values()}
    worst = {condition.title for condition in report.of_kind("worst_case").values()} | {"worst, any wrong class"}
    kinds = {"clean": "clean"} | dict.fromkeys(worst, "worst")
    rows = [
        (title, kinds.get(title, "attack"), found)
        for title, found in tables.robust_recalls(report).items()
        if title not in noise and found and found["value"] is not None
    ]
    return sorted(rows, key=lambda row: ("clean", "attack", "worst").index(row[1]))


def _curves(report: Report) -> dict[str, Any]:
    """The robustness curve beside those of noise, drawn in the unit square; {} if it was not computed."""
    if "attack" not in report.curves:
        return {}
    threat, largest = report.threat, report.curves["attack"]["epsilon"][-1]
    marked = threat["unit"] == "z" and threat["norm"] == "L∞" and threat["epsilon"] <= largest
    return {
        "largest": largest,
        "epsilon": threat["epsilon"] if marked else None,
        "attack": drawing.curve(report.curves["attack"], largest, steps=True),
        "noise": {
            NOISE_TITLES[name]: drawing.curve(found, largest, steps=False)
            for name, found in report.curves.items()
            if name in NOISE_BASELINES
        },
    }


def _facts(report: Report) -> dict[str, str]:
    """All that the report says about itself, by its name."""
    facts = asdict(report.about)
    facts["class_counts"] = {tables.class_name(s, report.classes): n for s, n in report.about.class_counts.items()}
    joined = {
        name: ", ".join(f"{k} {v}" for k, v in fact.items()) for name, fact in facts.items() if type(fact) is dict
    }
    return {FACTS.get(name, name.replace("_", " ")): str(fact) for name, fact in (facts | joined).items() if fact != ""}


def _cell(text: str) -> Markup:
    """A cell of a table: its interval and counts small."""
    return Markup(re.sub(r" (\[[^\]]*\](?: \([^)]*\))?|\([^)]*\))$", r" <small>\1</small>", str(escape(text))))
