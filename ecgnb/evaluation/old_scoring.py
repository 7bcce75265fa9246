"""What one trained model scores on one set of recordings: clean, attacked in several ways, and under noise."""

from __future__ import annotations

import numpy as np

from ecgnb import metrics
from ecgnb.attacks.search import pgd
from ecgnb.attacks.threats import Goal, Threat
from ecgnb.data.dataset import Dataset
from ecgnb.data.records import CLASSES
from ecgnb.evaluation.old_evaluation import AF, attack_af, judge, noisy
from ecgnb.models.classifier import Classifier
from ecgnb.report.old_report import provenance

STEPS, STEP = 20, 0.1  # of every PGD here: the original's, the step as a share of ε
THREATS = {  # on AF recordings alone, to normal; 34 µV is ε 0.2 at the median SD of AF, 169 µV
    "PGD-20, 0.2 z": Threat(),
    "PGD-20, 34 µV": Threat(epsilon=34, unit="µV"),
}
STORED = "PGD-20, 0.2 z, made with the model that training started from"
EVERY_CLASS = "every class attacked, untargeted PGD-20, 0.2 z"
NOISE = "random ±0.2 z"


def score(
    classifier: Classifier,
    dataset: Dataset,
    model: str,
    *,
    start: Classifier | None = None,
    seed: int,
    progress: bool = False,
) -> dict:
    """Scores of a model, with 95 % intervals, and how it reads every recording.

    model : what it is, for the record; start : the model that its training started from, whose attack it is
    judged on too; seed : of bootstrap and noise. Keys: "about"; "clean" and "attacked" (by name of `THREATS`
    and STORED, only AF attacked): scores of `metrics.scores`; EVERY_CLASS: the same; NOISE: two shares;
    "read as": a letter for each recording, in the order of "records".
    """
    makers = {name: (classifier, threat) for name, threat in THREATS.items()}
    if start is not None:
        makers[STORED] = start, Threat()
    clean = classifier.logits(dataset.x).argmax(axis=1)
    read, attacked = {"nothing attacked": clean}, {}
    for name, (maker, threat) in makers.items():
        text = f"{model}, {name}" if progress else ""
        settings = dict(step_size=STEP * threat.epsilon, steps=STEPS, progress=text)
        made = attack_af(maker, dataset, threat, **settings)
        verdicts = judge(classifier, dataset, made.x)
        read[name] = verdicts.attacked
        numbers = verdicts.numbers(threat.goal, seed)
        rates = {key: numbers[key] for key in numbers if key.startswith("AF read as")}
        attacked[name] = numbers["attacked"] | rates
    everyone = pgd(
        classifier,
        Threat(Goal()).on(dataset),
        steps=STEPS,
        step=STEP,
        until_success=True,
        progress=f"{model}, every class attacked" if progress else "",
    )
    read[EVERY_CLASS] = everyone.logits.argmax(axis=1)
    noise = classifier.logits(noisy(dataset, Threat(), seed)).argmax(axis=1)
    return {
        "about": provenance(dataset, seed, model),
        "clean": metrics.scores(dataset.y, clean, seed),
        "attacked": attacked,
        EVERY_CLASS: metrics.scores(dataset.y, read[EVERY_CLASS], seed),
        NOISE: {
            "AF recall": metrics.rate(noise[dataset.y == AF] == AF),
            "N read as A": metrics.rate(noise[dataset.y == CLASSES.index("N")] == AF),
        },
        "records": [str(name) for name in dataset.names],
        "labels": _letters(dataset.y),
        "read as": {name: _letters(predicted) for name, predicted in read.items()},
    }


def _letters(classes: np.ndarray) -> str:
    """(n,) classes as a string of n letters."""
    return "".join(CLASSES[c] for c in classes)


def classes(letters: str) -> np.ndarray:
    """(n,) classes from a string of n letters."""
    return np.array([CLASSES.index(letter) for letter in letters])


def rows(scores: dict) -> list[dict]:
    """The scores of `score` as rows of a tidy table: attack, measure, value, low, high."""
    by_attack = {"none": scores["clean"]} | scores["attacked"]
    by_attack |= {EVERY_CLASS: scores[EVERY_CLASS], NOISE: scores[NOISE]}
    return [
        {
            "attack": attack,
            "measure": measure,
            "value": number["value"],
            "low": number["ci95"][0],
            "high": number["ci95"][1],
        }
        for attack, measures in by_attack.items()
        for measure, number in measures.items()
    ]
