"""Universal perturbations (Moosavi-Dezfooli et al. 2017, arXiv 1610.08401): one for all recordings, by gradient."""

from __future__ import annotations

import numpy as np

from ecgnb.attacks.losses import cross_entropy
from ecgnb.attacks.result import AttackResult, check_positive, from_examples
from ecgnb.attacks.threats import AttackProblem
from ecgnb.models.classifier import Classifier
from ecgnb.progress import bar


def universal(
    classifier: Classifier,
    problem: AttackProblem,
    *,
    passes: int = 10,
    step: float = 0.1,
    seed: int = 0,
    progress: str = "",
) -> np.ndarray:
    """One perturbation for all recordings, wherever it falls in time; (samples, leads), as shares of the radius.

    Each pass takes every recording with the perturbation at a random circular shift and follows the mean of the
    gradients, shifted back. `apply_universal` applies it to others.
    """
    check_positive(passes=passes, step=step)
    rng, shared = np.random.default_rng(seed), np.zeros(problem.x.shape[1:])
    for _ in bar(progress, range(passes), unit="pass"):
        shifts = rng.integers(problem.x.shape[1], size=len(problem))
        x = _shifted(problem, shared, shifts)
        _, _, gradient = classifier.loss_and_gradient(x, problem.y, problem.targets, cross_entropy)
        masked = zip(gradient * problem.ball.mask, shifts, strict=True)
        aligned = [np.roll(g, -shift, axis=0) for g, shift in masked]
        shared = np.clip(shared + step * np.sign(np.sum(aligned, axis=0)), -1, 1)
    return shared


def apply_universal(classifier: Classifier, problem: AttackProblem, shared: np.ndarray, seed: int = 0) -> AttackResult:
    """A universal perturbation, (samples, leads), on recordings that it was not crafted on, each at a random shift."""
    shifts = np.random.default_rng(seed).integers(problem.x.shape[1], size=len(problem))
    return from_examples(classifier, problem, _shifted(problem, shared, shifts))


def _shifted(problem: AttackProblem, shared: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    rolled = np.stack([np.roll(shared, shift, axis=0) for shift in shifts])
    return problem.ball.project(problem.x + problem.ball.reach * rolled)
