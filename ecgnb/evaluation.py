"""Judging a model: clean, under attack, and over a range of ε."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecgnb import metrics
from ecgnb.attacks import AttackResult, Goal, pgd, random_noise
from ecgnb.data import Dataset
from ecgnb.gradients import InputGradient
from ecgnb.records import CLASSES

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

    def numbers(self, goal: Goal) -> dict:
        """Scores clean and attacked, and the attack's success with its denominators in its names."""
        return {
            "clean": metrics.scores(self.y, self.clean),
            "attacked": metrics.scores(self.y, self.attacked),
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
    gradient: InputGradient, dataset: Dataset, goal: Goal, *, mask_padding: bool, **settings
) -> AttackResult:
    """PGD on the AF recordings of a data set; `settings` as in `pgd`."""
    af = dataset.of_class("A")
    return pgd(gradient, af.x, af.y, goal, mask=af.mask if mask_padding else None, **settings)


def judge(gradient: InputGradient, dataset: Dataset, adversarial_af: np.ndarray) -> Verdicts:
    """Verdicts of a model on clean recordings and on the given adversarial AF, (n AF, 9000, 1)."""
    clean = gradient.logits(dataset.x).argmax(axis=1)
    attacked = clean.copy()
    attacked[dataset.y == AF] = gradient.logits(adversarial_af).argmax(axis=1)
    return Verdicts(dataset.y, clean, attacked)


def robustness_curve(
    gradient: InputGradient,
    dataset: Dataset,
    goal: Goal,
    *,
    mask_padding: bool,
    step_per_epsilon: float = 0.1,
    epsilons: tuple[float, ...] = EPSILONS,
    progress: str = "",
    **settings,
) -> dict[str, list[float]]:
    """AF recall under a fresh attack at each ε; the step grows with ε so that the whole ball is in reach.

    Returns {"epsilon", "value", "low", "high"}: lists that begin at ε = 0, with 95 % Wilson intervals.
    """
    af = dataset.of_class("A")
    rates = [metrics.rate(gradient.logits(af.x).argmax(axis=1) == AF)]
    for epsilon in epsilons:
        result = attack_af(
            gradient,
            dataset,
            goal,
            mask_padding=mask_padding,
            epsilon=epsilon,
            step_size=epsilon * step_per_epsilon,
            progress=progress and f"{progress}, ε {epsilon:g}",
            **settings,
        )
        rates.append(metrics.rate(result.logits.argmax(axis=1) == AF))
    return _curve((0.0, *epsilons), rates)


def noise_curve(
    gradient: InputGradient,
    dataset: Dataset,
    *,
    mask_padding: bool,
    epsilons: tuple[float, ...] = EPSILONS,
    seed: int = 0,
) -> dict[str, list[float]]:
    """AF recall under random ±ε: the control for `robustness_curve`, in the same form."""
    af = dataset.of_class("A")
    mask = af.mask if mask_padding else None
    rates = [
        metrics.rate(gradient.logits(random_noise(af.x, e, mask, seed)).argmax(axis=1) == AF)
        for e in (0.0, *epsilons)
    ]
    return _curve((0.0, *epsilons), rates)


def _curve(epsilons: tuple[float, ...], rates: list[dict]) -> dict[str, list[float]]:
    return {
        "epsilon": list(epsilons),
        "value": [r["value"] for r in rates],
        "low": [r["ci95"][0] for r in rates],
        "high": [r["ci95"][1] for r in rates],
    }
