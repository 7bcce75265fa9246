"""Projected gradient descent (Madry et al. 2018, arXiv 1706.06083), and FGSM, which is one step of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ecgnb.attacks.losses import cross_entropy
from ecgnb.attacks.result import AttackResult, Search, check_positive
from ecgnb.attacks.threats import AttackProblem
from ecgnb.errors import EcgnbError
from ecgnb.models.classifier import Classifier


def pgd(
    classifier: Classifier,
    problem: AttackProblem,
    *,
    loss: Callable = cross_entropy,
    targets: np.ndarray | None = None,
    steps: int = 20,
    step: float = 0.1,
    restarts: int = 1,
    random_start: bool = False,
    until_success: bool = False,
    start: np.ndarray | None = None,
    seed: int = 0,
    progress: str = "",
) -> AttackResult:
    """Projected gradient descent (Madry et al. 2018); with one step of length 1 it is FGSM.

    Each step moves by `step` radii in the steepest direction, then back into the ball. The result of a
    restart is its last iterate; of several, each recording keeps the best for the attacker.

    loss : of `losses`; targets : (n,) or (n, classes), what it steers by, if not the goal's target classes;
    until_success : stop for each recording at the first iterate that reaches the goal; random_start :
    begin at a random point of the ball, not at its centre; start : (n, samples, leads), begin there; seed : of
    random points; progress : text of a progress bar, none if empty.
    """
    check_positive(steps=steps, restarts=restarts, step=step)
    if restarts > 1 and not random_start:
        raise EcgnbError("several restarts from the same point are one; set random_start=True")
    targets = problem.targets if targets is None else targets
    search = Search(classifier, problem, restarts * steps, progress)
    for restart in range(restarts):
        rows = search.rows(until_success)
        part = problem.rows(rows)
        x = part.x if start is None else part.ball.project(start[rows])
        if random_start:
            x = random_points(part, seed, restart)
        for _ in range(steps):
            if not len(rows):
                break
            value, logits, gradient = classifier.loss_and_gradient(x, part.y, targets[rows], loss)
            search.count(rows, value)
            if until_success:
                left = search.update(rows, x, logits, search.low_precision)
                rows, part, x, gradient = rows[left], part.rows(left), x[left], gradient[left]
            x = part.ball.project(x + step * part.ball.step(gradient))
        search.update(rows, x, classifier.logits(x))
    return search.result()


def random_points(problem: AttackProblem, *seeds: int) -> np.ndarray:
    """A random point of each recording's ball, (n, samples, leads) float32: the same whatever else is attacked."""
    points = [problem.rows(np.array([i])).ball.random(rng) for i, rng in enumerate(problem.generators(*seeds))]
    return np.concatenate([problem.x[:0], *points])
