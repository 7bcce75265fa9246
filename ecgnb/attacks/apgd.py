"""Auto-PGD (Croce & Hein 2020, arXiv 2003.01690): momentum, and a step that halves where progress stalls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from ecgnb.attacks.losses import cross_entropy, logit_ratio
from ecgnb.attacks.pgd import random_points
from ecgnb.attacks.result import AttackResult, Search, check_positive
from ecgnb.attacks.threats import AttackProblem
from ecgnb.models.classifier import Classifier


def apgd(
    classifier: Classifier,
    problem: AttackProblem,
    *,
    loss: Callable = cross_entropy,
    steps: int = 50,
    restarts: int = 1,
    seed: int = 0,
    progress: str = "",
) -> AttackResult:
    """Auto-PGD (Croce & Hein 2020, algorithm 1), from random points; it stops for each recording at success.

    loss : `cross_entropy` or `logit_ratio`
    """
    check_positive(steps=steps, restarts=restarts)
    search = Search(classifier, problem, restarts * steps, progress)
    for restart in range(restarts):
        _ascend(search, problem, loss, None, steps, (seed, restart))
    return search.result()


def apgd_targets(
    classifier: Classifier, problem: AttackProblem, *, steps: int = 50, seed: int = 0, progress: str = ""
) -> AttackResult:
    """APGD-T: Auto-PGD on the targeted logit ratio, towards each class that reaches the goal, one after the other."""
    check_positive(steps=steps)
    classes = range(len(classifier.classes))
    targets = [c for c in classes if problem.goal.target in (None, c)]
    search = Search(classifier, problem, steps * len(targets), progress)
    for target in targets:
        _ascend(search, problem, logit_ratio, target, steps, (seed, target))
    return search.result()


@dataclass
class _State:
    """What Auto-PGD remembers of each recording still under attack."""

    previous: np.ndarray  # the iterate before the present one
    previous_value: np.ndarray  # of the loss there
    best: np.ndarray  # the best iterate
    best_value: np.ndarray
    best_gradient: np.ndarray
    rises: np.ndarray  # of the loss since the last checkpoint
    step: np.ndarray  # radii
    checkpoint_step: np.ndarray  # at the last checkpoint
    checkpoint_value: np.ndarray

    def rows(self, index: np.ndarray) -> _State:
        return _State(*(getattr(self, field.name)[index] for field in fields(self)))


def _ascend(
    search: Search, problem: AttackProblem, loss: Callable, target: int | None, steps: int, seeds: tuple[int, int]
) -> None:
    """One run of Auto-PGD on the recordings that no run before it succeeded on."""
    classifier, rows = search.classifier, search.rows(until_success=True)
    part = problem.rows(rows)
    x = random_points(part, *seeds)
    n = len(rows)
    state = _State(
        previous=x,
        previous_value=np.full(n, -np.inf),
        best=x,
        best_value=np.full(n, -np.inf),
        best_gradient=np.zeros_like(x),
        rises=np.zeros(n, int),
        step=np.full(n, 2.0),
        checkpoint_step=np.full(n, 2.0),
        checkpoint_value=np.full(n, -np.inf),
    )
    checkpoints = _checkpoints(steps)
    for k in range(steps):
        if not len(rows):
            return
        targets = part.targets if target is None else np.full(len(rows), target)
        value, logits, gradient = classifier.loss_and_gradient(x, part.y, targets, loss)
        search.count(rows, value)
        left = search.update(rows, x, logits, search.low_precision)
        rows, part, state = rows[left], part.rows(left), state.rows(left)
        x, value, gradient = x[left], value[left], gradient[left]
        if k == 0:
            state.checkpoint_value = value
        else:
            state.rises += value > state.previous_value
        state.previous_value = value
        better = value > state.best_value
        state.best[better], state.best_value[better] = x[better], value[better]
        state.best_gradient[better] = gradient[better]
        if k in checkpoints:
            stalled = state.rises < 0.75 * (k - checkpoints[k])
            unchanged = state.checkpoint_step == state.step
            stalled |= unchanged & (state.checkpoint_value == state.best_value)
            state.checkpoint_step = state.step.copy()
            state.checkpoint_value = state.best_value.copy()
            state.step[stalled] /= 2
            x, gradient = x.copy(), gradient.copy()
            x[stalled], gradient[stalled] = state.best[stalled], state.best_gradient[stalled]
            state.rises[:] = 0
        ahead = part.ball.project(x + state.step[:, None, None] * part.ball.step(gradient))
        if k > 0:
            momentum = 0.75 * (ahead.astype(np.float64) - x)
            momentum += 0.25 * (x.astype(np.float64) - state.previous)
            ahead = part.ball.project(x + momentum)
        state.previous, x = x, ahead
    if len(rows):
        search.update(rows, x, classifier.logits(x))


def _checkpoints(steps: int) -> dict[int, int]:
    """Iterations at which Auto-PGD looks back -> the one before (Croce & Hein 2020, section 3.2)."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    iterations = [int(np.ceil(share * steps)) for share in shares]
    return dict(zip(iterations[1:], iterations, strict=False))
