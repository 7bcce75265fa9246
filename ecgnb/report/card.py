"""The model card of a training run (Mitchell et al. 2019, arXiv 1810.03993): what a model is, and how to make it again."""

from __future__ import annotations

from pathlib import Path

from ecgnb.report.comparison import score_table
from ecgnb.report.runs import RunResult
from ecgnb.report.tables import markdown, table_of
from ecgnb.training.configuration import DEFENCES

SELECTION = {  # what `TrainingConfig.select` means, in words
    "best": "the best on dev, by the rule of its defence (ecgnb/training/defences.py)",
    "last": "the last",
}
LABEL_LEAKING = "<!-- label leaking -->\n<!-- /label leaking -->"  # where ci/update_readme.py puts a table
LIMITS = (
    "For research and teaching on adversarial robustness. Not a medical device, nor evidence about one. The "
    "recordings are of one kind of hand-held recorder, one lead, 30 s. *Robust recall*: AF that is correctly classified "
    "when clean and that the attack does not succeed on. A score under a single attack is an upper bound of robustness: "
    "`python -m ecgnb evaluate` tries many attacks."
)


def card(result: RunResult, start: str, command: str) -> str:
    """The model card of a run, as Markdown.

    start : the model that training started from, "" for none; command : makes the model again.
    """
    config, epoch = result.config, result.selected["epoch"]
    own_line = ("defence", "recordings", "seed", "epochs", "select")
    settings = ", ".join(f"{name} {value}" for name, value in config.items() if name not in own_line)
    facts = {
        "defence": f"{config['defence']}: {DEFENCES.get(config['defence'], 'one of their own')}",
        "trained on": config["recordings"],
        "started from": f"the weights of {Path(start).stem}" if start else "random weights",
        "seed": config["seed"],
        "selected epoch": f"{epoch:.0f} of {config['epochs']}: {SELECTION[config['select']]}",
        "settings": settings,
        "weights, SHA-256": result.weights["sha256"][:16],
    }
    parts = [f"# {result.name}", markdown(table_of({fact: {"value": value} for fact, value in facts.items()}, "fact"))]
    if result.reports:
        parts += ["## Scores, with 95 % intervals", markdown(score_table(result.reports))]
        parts += [LABEL_LEAKING]
    parts += ["## Use and limits", LIMITS, "## Make it again", f"```bash\n{command}\n```"]
    return "\n\n".join(parts) + "\n"
