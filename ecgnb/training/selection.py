"""Scores on the dev fold after every epoch, which decide the epoch to select. Nothing here needs TensorFlow."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ecgnb import metrics
from ecgnb.attacks import AttackResult, add_noise, pgd
from ecgnb.attacks.noise import random_sign
from ecgnb.data.dataset import Dataset
from ecgnb.models.classifier import Classifier, check_defined, predicted_classes
from ecgnb.training.configuration import TrainingConfig

DEV_STEPS = 10  # PGD steps of the attacks on dev, whatever a configuration trains with
LOWEST_ROBUST_SCORE = 0.1  # a robust score below it halves by chance: 40 recordings a class


def dev_scores(classifier: Classifier, dev: Dataset) -> dict[str, float]:
    """Columns of the history: scores on clean dev."""
    predicted = predicted_classes(classifier.logits(dev.x))
    check_defined(predicted, dev.names, "the model in training")
    counts = metrics.confusion(dev.y, predicted, len(dev.classes))
    f1 = metrics.f1_scores(counts)
    return {f"dev_f1_{symbol}": float(f1[c]) for c, symbol in enumerate(dev.classes)} | {
        "dev_challenge_score": float(metrics.challenge_score(counts)),
        "dev_recall_A": float(metrics.recall(counts, dev.classes.index("A"))),
    }


def robust_scores(classifier: Classifier, dev: Dataset, subset: Dataset, config: TrainingConfig) -> dict[str, float]:
    """Columns of the history: AF recall of dev under the original's attack, and one that shows label leaking.

    That is the share of the normal recordings in `subset`, a part of dev, that random ±ε makes AF: it is high in
    a network that takes every perturbation for AF.
    """
    af = dev.classes.index("A")
    attacked = attack_af(classifier, dev, config, DEV_STEPS, "attacking AF of dev").logits
    noisy = classifier.logits(add_noise(config.untargeted_threat.on(subset.of_class("N")), random_sign))
    return {
        "dev_robust_recall_A": float((predicted_classes(attacked) == af).mean()),
        "dev_noise_false_positive_rate": float((predicted_classes(noisy) == af).mean()),
    }


def all_classes_score(classifier: Classifier, subset: Dataset, config: TrainingConfig) -> dict[str, float]:
    """Column of the history: challenge score of a part of dev, each recording attacked, untargeted, until success."""
    attacked = pgd(
        classifier,
        config.untargeted_threat.on(subset),
        steps=DEV_STEPS,
        step=config.step,
        until_success=True,
        progress="attacking dev",
    )
    return {"dev_robust_challenge_score": challenge_score(subset, attacked.logits)}


def attack_af(
    classifier: Classifier, dataset: Dataset, config: TrainingConfig, steps: int, progress: str = ""
) -> AttackResult:
    """The original's attack, on the AF recordings of a data set: targeted PGD from the recording itself."""
    problem = config.af_threat.on(dataset.of_class("A"))
    return pgd(classifier, problem, steps=steps, step=config.step, progress=progress)


def challenge_score(dataset: Dataset, logits: np.ndarray) -> float:
    """Challenge score of logits, (n, classes), of a data set's recordings."""
    counts = metrics.confusion(dataset.y, predicted_classes(logits), len(dataset.classes))
    return float(metrics.challenge_score(counts))


def catastrophic_overfitting(history: list[dict]) -> bool:
    """Has the last epoch overfitted catastrophically (Wong et al. 2020, section 5.4)?

    Yes if, on the attacked recordings of dev, the challenge score under PGD is less than half of its best so far
    (a best of at least 0.1) while that under the one step that training uses is at least half of its own best.
    """
    robust, fgsm = (
        np.array([row[f"dev_{attack}_challenge_score"] for row in history]) for attack in ("robust", "fgsm")
    )
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
