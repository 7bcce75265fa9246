"""Scores on the dev fold after every epoch, which decide the epoch to select. Nothing here needs TensorFlow."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ecgnb import metrics
from ecgnb.attacks import AttackResult, add_noise, pgd
from ecgnb.attacks.noise import random_sign
from ecgnb.constants import CLASSES
from ecgnb.data.dataset import Dataset
from ecgnb.models.classifier import Classifier, check_defined, predicted_classes
from ecgnb.training.configuration import TrainingConfig

DEV_STEPS = 10  # PGD steps of the attacks on dev, whatever a configuration trains with
LOWEST_ROBUST_SCORE = 0.1  # a robust score below it halves by chance: 40 recordings a class


def dev_scores(classifier: Classifier, dev: Dataset, attack_class: str = "A") -> dict[str, float]:
    """Columns of the history: scores on clean dev, and the recall of the class that is attacked."""
    predicted = predicted_classes(classifier.logits(dev.x))
    check_defined(predicted, dev.names, "the model in training")
    counts = metrics.confusion(dev.y, predicted, len(dev.classes))
    f1 = metrics.f1_scores(counts)
    return {f"dev_f1_{symbol}": float(f1[c]) for c, symbol in enumerate(dev.classes)} | {
        f"dev_{score_name(dev.classes)}": float(score(counts, dev.classes)),
        f"dev_recall_{attack_class}": float(metrics.recall(counts, dev.classes.index(attack_class))),
    }


def robust_scores(classifier: Classifier, dev: Dataset, subset: Dataset, config: TrainingConfig) -> dict[str, float]:
    """Columns of the history: AF recall of dev under the original's attack, and one that shows label leaking.

    All AF of dev are under the original's attack, or whichever class the configuration attacks. The other column is the
    share of the normal recordings in `subset`, a part of dev, that random ±ε makes AF: it is high in a network that
    takes every perturbation for AF. Where no class is called N, it is the target of the attack, or all other classes.
    """
    label, symbol = dev.classes.index(config.attack_class), config.attack_class
    attacked = attack_class(classifier, dev, config, DEV_STEPS, f"attacking {symbol} of dev").logits
    negative = "N" if "N" in dev.classes and symbol != "N" else config.target
    others = subset.of_class(negative) if negative else subset.take(subset.y != label)
    noisy = classifier.logits(add_noise(config.untargeted_threat.on(others), random_sign))
    return {
        f"dev_robust_recall_{symbol}": float((predicted_classes(attacked) == label).mean()),
        "dev_noise_false_positive_rate": float((predicted_classes(noisy) == label).mean()),
    }


def all_classes_score(classifier: Classifier, subset: Dataset, config: TrainingConfig) -> dict[str, float]:
    """Column of the history: score of a part of dev, each recording attacked, untargeted, until success."""
    attacked = pgd(
        classifier,
        config.untargeted_threat.on(subset),
        steps=DEV_STEPS,
        step=config.step,
        until_success=True,
        progress="attacking dev",
    )
    return {f"dev_robust_{score_name(subset.classes)}": score_of(subset, attacked.logits)}


def attack_class(
    classifier: Classifier, dataset: Dataset, config: TrainingConfig, steps: int, progress: str = ""
) -> AttackResult:
    """The original's attack, on the AF recordings of a data set: targeted PGD from the recording itself.

    Or on those of another class, as `config` says.
    """
    problem = config.class_threat.on(dataset.of_class(config.attack_class))
    return pgd(classifier, problem, steps=steps, step=config.step, progress=progress)


def score_name(classes: tuple[str, ...]) -> str:
    """What a model is selected by: the challenge's score, or for other classes than the challenge's the mean of F1."""
    return "challenge_score" if tuple(classes) == CLASSES else "macro_f1"


def score(counts: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """The score that `score_name` names, of confusion counts."""
    return getattr(metrics, score_name(classes))(counts)


def score_of(dataset: Dataset, logits: np.ndarray) -> float:
    """That score of logits, (n, classes), of a data set's recordings."""
    return float(score(metrics.confusion(dataset.y, predicted_classes(logits), len(dataset.classes)), dataset.classes))


def mean_score(row: dict) -> float:
    """The mean of two scores of a row of the history: clean, and with recordings of every class attacked."""
    name = _score_in(row)
    return (row[f"dev_{name}"] + row[f"dev_robust_{name}"]) / 2


def _score_in(row: dict) -> str:
    return "challenge_score" if "dev_robust_challenge_score" in row else "macro_f1"


def catastrophic_overfitting(history: list[dict]) -> bool:
    """Has the last epoch overfitted catastrophically (Wong et al. 2020, section 5.4)?

    Yes if, on the attacked recordings of dev, the challenge score under PGD is less than half of its best so far
    (a best of at least 0.1) while that under the one step that training uses is at least half of its own best.
    """
    name = _score_in(history[-1])
    robust, fgsm = (np.array([row[f"dev_{attack}_{name}"] for row in history]) for attack in ("robust", "fgsm"))
    lost = robust.max() >= LOWEST_ROBUST_SCORE and robust[-1] < robust.max() / 2
    return bool(lost and fgsm[-1] >= fgsm.max() / 2)


def first_of_each_class(dataset: Dataset, most: int) -> Dataset:
    """The first recordings of each class, at most so many: always the same ones."""
    of_class = [np.flatnonzero(dataset.y == c)[:most] for c in range(len(dataset.classes))]
    return dataset.take(np.concatenate(of_class))


def best_and_last(history: pd.DataFrame) -> pd.DataFrame:
    """A training history's columns as rows: at the epoch with the best criterion, and at the last.

    Robust overfitting is a robust score that is lower in the last (Rice et al. 2020, arXiv 2002.11569).
    """
    best = history["criterion"] == history["criterion"].max()
    # Of equals training selects the later one.
    return pd.DataFrame({"best": history[best].iloc[-1], "last": history.iloc[-1]})
