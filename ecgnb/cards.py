"""A training run's result, and its model card (Mitchell et al. 2019): what a model is, and how to remake it."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pandas as pd

from ecgnb.recipes import DEFENCES
from ecgnb.report import best_and_last, brief
from ecgnb.scoring import EVERY_CLASS, NOISE
from ecgnb.store import digest

RULES = {  # what `Recipe.select` means, in words
    "best": "the best on dev, by the rule of its defence (ecgnb/defences.py)",
    "last": "the last",
}


def result(
    name: str, settings: dict, history: pd.DataFrame, scores: dict[str, dict], model: keras.Model
) -> dict:
    """A run as plain numbers.

    settings : the recipe, and what it trained on; history : a row an epoch; scores : split -> `scoring.score`.
    "weights" tells two models apart: SHA-256, and the norm of every array, which may differ in the last
    digits between processors.
    """
    weights = [np.asarray(w) for w in model.get_weights()]
    rows = best_and_last(history)
    return {
        "name": name,
        "recipe": settings,
        "kept": rows["last" if settings["select"] == "last" else "best"].to_dict(),
        "last": rows["last"].to_dict(),
        "scores": scores,
        "weights": {"sha256": digest(*weights), "norms": [np.linalg.norm(w) for w in weights]},
    }


def card(found: dict, start: str, remake: str) -> str:
    """The model card, Markdown, of a `result`.

    start : what training started from; remake : the command that makes the model again.
    """
    recipe = found["recipe"]
    apart = ("defence", "recordings", "seed", "epochs", "select")
    settings = ", ".join(f"{k} {v}" for k, v in recipe.items() if k not in apart)
    begun = f"the weights of {Path(start).stem}" if start else "random weights"
    facts = {
        "kind": f"{recipe['defence']}: {DEFENCES[recipe['defence']]}",
        "trained on": recipe["recordings"],
        "started from": begun,
        "seed": recipe["seed"],
        "kept": f"epoch {found['kept']['epoch']:.0f} of {recipe['epochs']}: {RULES[recipe['select']]}",
        "settings": settings,
        "weights, SHA-256": found["weights"]["sha256"][:16],
    }
    lines = [f"# {found['name']}", "", "| | |", "|---|---|"]
    lines += [f"| {what} | {fact} |" for what, fact in facts.items()]
    if found["scores"]:
        lines += ["", "## Scores, with 95 % intervals", "", *score_lines(found["scores"])]
    lines += [
        "",
        "## Use and limits",
        "",
        "For research and teaching on adversarial robustness. Not a medical device, nor evidence about one. "
        "Recordings of one kind of hand-held recorder, one lead, 30 s. The attacks above are single attacks: they bound "
        "robustness from above only. What many attacks together leave is told by `python -m ecgnb evaluate`.",
        "",
        "## Remake it",
        "",
        "```bash",
        remake,
        "```",
        "",
    ]
    return "\n".join(lines)


def score_lines(scores: dict[str, dict]) -> list[str]:
    """A Markdown table: a row for each score, a column for each split."""
    heads = [
        f"{s['about']['split']} ({s['about']['recordings']} recordings, {s['about']['AF recordings']} AF)"
        for s in scores.values()
    ]
    first = next(iter(scores.values()))
    picked = {
        **{
            f"{m}, clean": ("clean", m)
            for m in ("F1 A", "F1 N", "F1 O", "F1 ~", "challenge score", "AF recall")
        },
        **{
            f"{m}, {attack}": ("attacked", attack, m)
            for attack, measures in first["attacked"].items()
            for m in measures
            if m in ("F1 A", "AF recall") or m.endswith("of AF found clean")
        },
        f"challenge score, {EVERY_CLASS}": (EVERY_CLASS, "challenge score"),
        **{f"{m}, {NOISE}": (NOISE, m) for m in first[NOISE]},
    }
    rows = ["| | " + " | ".join(heads) + " |", "|" + "---|" * (1 + len(heads))]
    for text, path in picked.items():
        cells = [brief(_at(s, path)) for s in scores.values()]
        rows.append(f"| {text} | " + " | ".join(cells) + " |")
    return rows


def _at(numbers: dict, path: tuple[str, ...]) -> dict:
    for key in path:
        numbers = numbers[key]
    return numbers
