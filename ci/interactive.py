"""One self-contained HTML page with a few recordings, attacked in advance at a grid of ε: python ci/interactive.py OUT.html

It needs no kernel, no network and no library. It holds real recordings (ODC-BY 1.0), so it is made, never committed;
without recordings it is made from the demo set, and says so. Perturbations are rounded to the attack's step, ε/10,
before the models see them: every number on the page is that of the signal on the page.
"""

from __future__ import annotations

import base64
import json
import sys
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ecgnb import Dataset, EcgnbError, Threat, load_data, named_model, pgd
from ecgnb.constants import UNITS_PER_MV
from ecgnb.data.dataset import DEMO
from ecgnb.evaluation.engine import describe
from ecgnb.evaluation.run import EvaluatedModel
from ecgnb.explore import verdict
from ecgnb.files import write_atomically
from ecgnb.models.classifier import softmax
from ecgnb.report import style
from ecgnb.report.tables import class_name

TEMPLATE = Path(__file__).with_suffix(".html")
MODELS = ("baseline", "static", "adaptive")
EPSILONS = tuple(round(0.02 * i, 2) for i in range(21))
STEPS = 20
GOALS = {"A": ("N", ""), "N": ("A",), "O": ("N",)}  # class -> targets; "" is untargeted
PER_CLASS = {"A": 2, "N": 1, "O": 1}


def choose(dataset: Dataset, models: list[EvaluatedModel]) -> Dataset:
    """The first recordings of each class, by name, of full length, which all models classify correctly when clean."""
    correct = [model.classifier.logits(dataset.x).argmax(axis=1) == dataset.y for model in models]
    usable = np.all(correct, axis=0) & (dataset.lengths == dataset.x.shape[1])
    rows: list[int] = []
    for symbol, wanted in PER_CLASS.items():
        found = np.flatnonzero(usable & (dataset.y == dataset.classes.index(symbol)))
        if len(found) < wanted:
            raise EcgnbError(f"{dataset.title}: too few {class_name(symbol)} that all models classify correctly")
        rows += found[:wanted].tolist()
    return dataset.take(np.array(rows))


def attacked(model: EvaluatedModel, one: Dataset, target: str, epsilons: tuple[float, ...]) -> dict[str, Any]:
    """A recording under PGD at each ε: perturbations in steps of ε/10 as int8, probabilities, and verdicts in words.

    one : a data set of one recording
    """
    symbol = one.classes[one.y[0]]
    copies = one.take(np.zeros(len(epsilons), int))
    radius = np.array(epsilons)
    problem = Threat(symbol, target).on(copies).resized(radius)
    unit = np.maximum(radius, 1e-9)[:, None, None] / 10
    steps = np.rint(problem.ball.delta(pgd(model.classifier, problem, steps=STEPS).x) / unit)
    logits = model.classifier.logits(problem.ball.project(problem.x + steps * unit))
    words = [verdict(problem.goal, one.y[0], logits[0], found, one.classes) for found in logits]
    return {
        "steps": packed(steps[..., 0].astype(np.int8)),
        "probabilities": softmax(logits).round(4).tolist(),
        "verdicts": words,
    }


def payload(dataset: Dataset, models: list[EvaluatedModel], epsilons: tuple[float, ...] = EPSILONS) -> dict[str, Any]:
    """Everything the page shows, ready for JSON. The first ε is 0: the clean recording."""
    recordings = []
    for i, symbol in enumerate(dataset.classes[y] for y in dataset.y):
        one = dataset.take(np.array([i]))
        goals = [
            {
                "title": f"predicted as {class_name(target)}" if target else "any wrong class (untargeted)",
                "models": {model.name: attacked(model, one, target, epsilons) for model in models},
            }
            for target in GOALS[symbol]
        ]
        found = {"name": str(one.names[0]), "class": class_name(symbol), "sd_mv": float(one.sd_mv[0]), "goals": goals}
        recordings.append(found | {"signal": packed(dataset.signals[i][: one.lengths[0]].astype("<i2"))})
    return {
        "about": asdict(describe(dataset, seed=0, model=" ".join(model.name for model in models))),
        "synthetic": dataset.source == DEMO,
        "weights": {model.name: model.digest for model in models},
        "fs": dataset.fs,
        "units_per_mv": UNITS_PER_MV,
        "classes": [style.class_title(symbol) for symbol in dataset.classes],
        "epsilons": list(epsilons),
        "recordings": recordings,
    }


def packed(array: np.ndarray) -> str:
    """An array's bytes, deflated, as base64."""
    return base64.b64encode(zlib.compress(array.tobytes(), 9)).decode()


def page(shown: dict[str, Any]) -> str:
    """The HTML page."""
    data = json.dumps(shown, ensure_ascii=False).replace("<", "\\u003c")
    return TEMPLATE.read_text("utf-8").replace("null/*DATA*/", data)


def main() -> int:
    if len(sys.argv) != 2 or not sys.argv[1].endswith(".html"):
        print("usage: python ci/interactive.py OUT.html", file=sys.stderr)
        return 2
    out = Path(sys.argv[1])
    models = [named_model(name) for name in MODELS]
    text = page(payload(choose(load_data("validation"), models), models))
    write_atomically(out, lambda target: target.write_text(text, "utf-8"))
    print(f"{out}: {len(text.encode()) / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
