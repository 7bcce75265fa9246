"""The report of one model as a single HTML page: tables and a figure, nothing to fetch."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from ecgnb.attacks.noise import NOISE_BASELINES
from ecgnb.evaluation.schema import Report
from ecgnb.report import evaluation_figures, style, tables

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
    "transferred": ("PGD-20 crafted on another model.", "Papernot et al. 2016, arXiv 1605.07277"),
    "worst_case": ("For each recording the strongest of the attacks above.", CROCE),
}
VERDICTS = {"fail": "Failed", "warn": "Warnings", "pass": "Passed"}


def page(report: Report) -> str:
    """HTML of a report."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = _cell
    template = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        report=report,
        tables=tables,
        figure=_figure(report) if "attack" in report.curves else "",
        about_attacks={c.title: ABOUT[key] for key, c in report.conditions.items() if key in ABOUT},
        checks={
            title: [check for check in report.checks if check.verdict == verdict] for verdict, title in VERDICTS.items()
        },
    )


def _figure(report: Report) -> str:
    """The robustness curve beside the noise baselines, as PNG in base64."""
    curves = {name: curve for name, curve in report.curves.items() if name == "attack" or name in NOISE_BASELINES}
    figure = evaluation_figures.robustness_panels(
        {report.about.model: curves}, f"{report.about.data}, {report.about.split}", report.threat["epsilon"]
    )
    return base64.b64encode(style.png(figure)).decode()


def _cell(text: str) -> Markup:
    """A cell of a table: its interval and counts small."""
    return Markup(re.sub(r" (\[[^\]]*\](?: \([^)]*\))?)$", r" <small>\1</small>", str(escape(text))))
