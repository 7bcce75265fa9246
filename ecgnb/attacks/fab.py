"""FAB-T (Croce & Hein 2020, arXiv 1907.02044): to the linearised decision boundary, and back towards the recording."""

from __future__ import annotations

import numpy as np

from ecgnb.attacks.balls import Ball
from ecgnb.attacks.losses import logit_margin
from ecgnb.attacks.result import AttackResult, Search, check_positive
from ecgnb.attacks.threats import AttackProblem
from ecgnb.models.classifier import Classifier

OVERSHOOT, BIAS, BACK = 1.05, 0.1, 0.9  # η, α_max and β of the paper
# Radii. It stands for the range of pixels, which the paper's projections keep to: an ECG has none.
FARTHEST = 10.0


def fab(
    classifier: Classifier, problem: AttackProblem, *, steps: int = 50, seed: int = 0, progress: str = ""
) -> AttackResult:
    """A minimal adversarial perturbation, towards each class that reaches the goal, one after the other.

    Iterates may lie outside the ball. Each step goes to the boundary of the linearised margin, with a bias towards the
    recording, and from every example back towards it. The search stops for each recording at the first example inside
    the ball. A step takes two passes. seed : plays no part, since the search begins at the recordings.
    """
    check_positive(steps=steps)
    targets = [c for c in range(len(classifier.classes)) if problem.goal.target in (None, c)]
    search = Search(classifier, problem, 2 * steps * len(targets), progress)
    search.update(np.arange(len(problem)), problem.x, classifier.logits(problem.x))
    for target in targets:
        _approach(search, problem, target, steps)
    return search.result()


def _approach(search: Search, problem: AttackProblem, target: int, steps: int) -> None:
    """One run towards a class, on the recordings of others that no run before it succeeded on."""
    classifier, rows = search.classifier, search.rows(until_success=True)
    rows = rows[problem.y[rows] != target]
    part, x = problem.rows(rows), problem.x[rows]
    for _ in range(steps):
        if not len(rows):
            return
        targets = np.full(len(rows), target)
        value, _, gradient = classifier.loss_and_gradient(x, part.y, targets, logit_margin)
        search.count(rows, value)
        wide = part.ball.resized(FARTHEST * part.ball.radius)
        x = wide.project(_to_the_boundary(part.ball, x, value, gradient))
        logits = classifier.logits(x)
        margin = part.goal.margin(logits, part.y)
        search.count(rows, margin)
        inside = part.ball.size(x) <= part.ball.radius
        search.update(rows[inside], x[inside], logits[inside])
        back = wide.project(part.x + BACK * part.ball.delta(x))
        x = np.where((margin > 0)[:, None, None], back, x)
        left = np.flatnonzero(search.margin[rows] <= 0)
        rows, part, x = rows[left], part.rows(left), x[left]


def _to_the_boundary(ball: Ball, x: np.ndarray, value: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Both x and the recording moved to where the linearised margin is 0, and mixed; (n, samples, leads) float64.

    value : (n,) margin at x; gradient : of it. Without a range to keep to, the projection is a step along `Ball.step`.
    """
    gradient, delta = gradient * ball.mask, ball.delta(x)
    direction = ball.step(gradient)
    rise = (gradient * direction).sum(axis=(1, 2))  # of the margin, by a step of one radius
    at_centre = value - (gradient * delta).sum(axis=(1, 2))
    no_step = np.zeros(len(x))  # where there is no gradient
    from_x, from_centre = (np.divide(-m, rise, out=no_step.copy(), where=rise > 1e-12) for m in (value, at_centre))
    distance, other_distance = (np.maximum(np.abs(radii), 1e-8) for radii in (from_x, from_centre))
    bias = np.minimum(distance / (distance + other_distance), BIAS)[:, None, None]
    ahead, ahead_of_centre = (OVERSHOOT * radii[:, None, None] * direction for radii in (from_x, from_centre))
    return ball.centre + (1 - bias) * (delta + ahead) + bias * ahead_of_centre
