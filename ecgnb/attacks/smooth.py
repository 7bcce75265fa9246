"""Smooth adversarial perturbations, SAP (Han et al. 2020, arXiv 1905.05163)."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import convolve1d

from ecgnb.attacks.losses import cross_entropy
from ecgnb.attacks.result import AttackResult, Search, check_positive
from ecgnb.attacks.threats import AttackProblem
from ecgnb.models.classifier import Classifier


def smooth_kernel() -> np.ndarray:
    """(19,) the mean of the 25 Gaussian kernels of Han et al. 2020: 5 lengths × 5 widths.

    A mean of convolutions is the convolution with the mean, so one kernel does the work of 25.
    """
    total = np.zeros(19)
    for length in (5, 7, 11, 15, 19):
        sample = np.arange(length) - length // 2
        for sigma in (1, 3, 5, 7, 10):
            bell = np.exp(-(sample**2) / (2 * sigma**2))
            total[9 - length // 2 : 10 + length // 2] += bell / bell.sum()
    return total / 25


def smooth(
    classifier: Classifier,
    problem: AttackProblem,
    *,
    steps: int = 40,
    step: float = 0.1,
    start: np.ndarray | None = None,
    progress: str = "",
) -> AttackResult:
    """SAP (Han et al. 2020): PGD on θ, where the perturbation is θ smoothed.

    start : (n, samples, leads), a point of the ball to begin from, such as PGD's (as the paper does).
    """
    check_positive(steps=steps, step=step)
    kernel = smooth_kernel()

    def smoothed(delta):  # symmetric, so that it is its own adjoint
        return convolve1d(delta, kernel, axis=1, mode="constant")

    search = Search(classifier, problem, steps, progress)
    rows, part = search.rows(until_success=True), problem
    theta = problem.x if start is None else problem.ball.project(start)
    for _ in range(steps):
        if not len(rows):
            break
        x = part.ball.project(part.x + smoothed(part.ball.delta(theta)))
        loss, logits, gradient = classifier.loss_and_gradient(x, part.y, part.targets, cross_entropy)
        search.count(rows, loss)
        left = search.update(rows, x, logits, search.low_precision)
        rows, part, theta, gradient = rows[left], part.rows(left), theta[left], gradient[left]
        ascent = smoothed(gradient * part.ball.mask)
        theta = part.ball.project(theta + step * part.ball.step(ascent))
    if len(rows):
        x = part.ball.project(part.x + smoothed(part.ball.delta(theta)))
        search.update(rows, x, classifier.logits(x))
    return search.result()
