"""Judging a model: clean, under attack, and over a range of ε."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ecgnb import metrics
from ecgnb.attacks.noise import random_signs, scaled
from ecgnb.attacks.search import AttackResult, pgd
from ecgnb.attacks.threats import Goal, Threat
from ecgnb.data.dataset import Dataset
from ecgnb.data.records import CLASSES
from ecgnb.models.classifier import Classifier

AF = CLASSES.index("A")
EPSILONS = (0.02, 0.05, 0.1, 0.2, 0.3)  # z-units, around the original's 0.2


@dataclass(frozen=True)
class Verdicts:
    """What a model makes of a data set: (n,) predicted classes, clean and attacked.

    Only AF recordings are attacked; the others keep their clean prediction.
    """

    y: np.ndarray
    clean: np.ndarray
    attacked: np.ndarray

    def numbers(self, goal: Goal, seed: int) -> dict:
        """Scores clean and attacked, and the attack's success with its denominators in its names.

        seed : of the bootstrap
        """
        return {
            "clean": metrics.scores(self.y, self.clean, seed),
            "attacked": metrics.scores(self.y, self.attacked, seed),
            "confusion clean": metrics.confusion(self.y, self.clean),
            "confusion attacked": metrics.confusion(self.y, self.attacked),
        } | success_rates(self.y, self.clean, self.attacked, goal)


def success_rates(y: np.ndarray, clean: np.ndarray, attacked: np.ndarray, goal: Goal) -> dict:
    """Attack success among AF recordings, by both denominators in use."""
    af, found = y == AF, (y == AF) & (clean == AF)
    hit = attacked != AF if goal.target is None else attacked == goal.target
    reading = "other than A" if goal.target is None else CLASSES[goal.target]
    return {
        f"AF read as {reading} under attack, of all AF": metrics.rate(hit[af]),
        f"AF read as {reading} under attack, of AF found clean": metrics.rate(hit[found]),
    }


def attack_af(
    classifier: Classifier, dataset: Dataset, threat: Threat, *, step_size: float = 0.02, **settings
) -> AttackResult:
    """PGD on the AF recordings of a data set; step_size : z-units or µV, as the threat's ε; settings : of `pgd`."""
    step = step_size / threat.epsilon if threat.epsilon else 0.0
    return pgd(classifier, threat.on(dataset.of_class("A")), step=step, **settings)


def noisy(dataset: Dataset, threat: Threat, seed: int = 0) -> np.ndarray:
    """The control: recordings with every sample moved by +ε or -ε at random, in the threat's ball."""
    problem = threat.on(dataset)
    return scaled(random_signs(problem.x.shape, np.random.default_rng(seed)), problem)


def judge(classifier: Classifier, dataset: Dataset, adversarial_af: np.ndarray) -> Verdicts:
    """Verdicts of a model on clean recordings and on the given adversarial AF, (n AF, 9000, 1)."""
    clean = classifier.logits(dataset.x).argmax(axis=1)
    attacked = clean.copy()
    attacked[dataset.y == AF] = classifier.logits(adversarial_af).argmax(axis=1)
    return Verdicts(dataset.y, clean, attacked)


def robustness_curve(
    classifier: Classifier,
    dataset: Dataset,
    threat: Threat,
    *,
    step_per_epsilon: float = 0.1,
    epsilons: tuple[float, ...] = EPSILONS,
    progress: str = "",
    **settings,
) -> dict[str, list[float]]:
    """AF recall under a fresh attack at each ε; the step grows with ε so that the whole ball is in reach.

    threat : all but its ε; settings : of `pgd`. Returns {"epsilon", "value", "low", "high"}: lists that
    begin at ε = 0, with 95 % Wilson intervals.
    """
    af = dataset.of_class("A")
    read = [classifier.logits(af.x)]
    for epsilon in epsilons:
        problem = replace(threat, epsilon=epsilon).on(af)
        text = progress and f"{progress}, ε {epsilon:g}"
        read.append(
            pgd(classifier, problem, step=step_per_epsilon, progress=text, **settings).logits
        )
    return curve_of((0.0, *epsilons), [_recall(logits) for logits in read])


def noise_curve(
    classifier: Classifier,
    dataset: Dataset,
    threat: Threat,
    *,
    epsilons: tuple[float, ...] = EPSILONS,
    seed: int = 0,
) -> dict[str, list[float]]:
    """AF recall under random ±ε: the control for `robustness_curve`, in the same form."""
    af, all_epsilons = dataset.of_class("A"), (0.0, *epsilons)
    made = [noisy(af, replace(threat, epsilon=epsilon), seed) for epsilon in all_epsilons]
    return curve_of(all_epsilons, [_recall(classifier.logits(x)) for x in made])


def _recall(logits: np.ndarray) -> dict:
    """AF recall of logits (n, 4) of AF recordings."""
    return metrics.rate(logits.argmax(axis=1) == AF)


def curve_of(epsilons: Sequence[float], rates: list[dict]) -> dict[str, list[float]]:
    """A rate of `metrics` at each ε, as a figure takes it: {"epsilon", "value", "low", "high"}."""
    return {
        "epsilon": [float(epsilon) for epsilon in epsilons],
        "value": [r["value"] for r in rates],
        "low": [r["ci95"][0] for r in rates],
        "high": [r["ci95"][1] for r in rates],
    }
