"""Projected gradient descent (Madry et al. 2018) in the L∞ ball, targeted or untargeted.

An attack is a goal (what counts as success), a geometry (the ball, exactly) and a search (the loop).
Arrays live in NumPy; only the gradient is the network's, and it is 99 % of the time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from ecgnb.errors import EcgnbError
from ecgnb.gradients import InputGradient
from ecgnb.records import CLASSES


@dataclass(frozen=True)
class Goal:
    """What an attacker wants: every recording read as `target`, or, without a target, not as its label."""

    target: int | None = None

    def labels(self, y: np.ndarray) -> np.ndarray:
        """(n,) the classes whose cross-entropy steers the attack."""
        return y if self.target is None else np.full_like(y, self.target)

    @property
    def sign(self) -> int:
        """+1: that cross-entropy is to rise (untargeted); -1: it is to fall (targeted)."""
        return 1 if self.target is None else -1

    def reached(self, logits: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(n,) bool: the attacker has what they want."""
        predicted = logits.argmax(axis=1)
        return predicted != y if self.target is None else predicted == self.target


def goal_of(target: str) -> Goal:
    """Goal from a TARGET setting: a class letter, or "" for untargeted."""
    if target and target not in CLASSES:
        raise EcgnbError(
            f'TARGET={target!r}: expected one of {" ".join(CLASSES)}, or "" (untargeted)'
        )
    return Goal(CLASSES.index(target) if target else None)


@dataclass(frozen=True)
class AttackResult:
    """What an attack returns.

    x : (n, 9000, 1) float32, z-units, inside the ball; logits : (n, 4) float32, of x;
    success : (n,) bool, the goal is reached; loss : (restarts, steps, n) float32, cross-entropy against
    the goal's labels before each step.
    """

    x: np.ndarray
    logits: np.ndarray
    success: np.ndarray
    loss: np.ndarray


def linf_bounds(
    x: np.ndarray, epsilon: float, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest float32 arrays within `epsilon` of `x` (equal to it where `mask` is False).

    In float32, x + epsilon can round to a value outside the ball. Bounds are taken in float64 and rounded
    inwards, so that |result - x| <= epsilon holds exactly.
    """
    wide = x.astype(np.float64)
    low, high = (wide - epsilon).astype(np.float32), (wide + epsilon).astype(np.float32)
    low = np.where(low < wide - epsilon, np.nextafter(low, np.float32(np.inf)), low)
    high = np.where(high > wide + epsilon, np.nextafter(high, np.float32(-np.inf)), high)
    if mask is not None:
        low, high = np.where(mask, low, x), np.where(mask, high, x)
    return low, high


def pgd(
    gradient: InputGradient,
    x: np.ndarray,
    y: np.ndarray,
    goal: Goal,
    *,
    epsilon: float = 0.2,
    step_size: float = 0.02,
    steps: int = 20,
    restarts: int = 1,
    random_start: bool = False,
    mask: np.ndarray | None = None,
    seed: int = 0,
    progress: str = "",
) -> AttackResult:
    """Attack every recording of `x` within `epsilon` in L∞.

    Each step moves every sample by `step_size` along the sign of the gradient, then back into the ball.
    The result of a restart is its last iterate. Of several restarts, each recording keeps one that reaches
    the goal if any does, and among equals the one whose loss is best for the attacker.

    x : (n, 9000, 1) float32, z-units; y : (n,) int, true classes; mask : (n, 9000, 1) bool, samples that
    may be perturbed (all, if None); random_start : begin at a uniform point of the ball, not at x;
    seed : of those points; progress : text of a progress bar, none if empty.
    """
    _check(x, y, epsilon, steps, restarts)
    if restarts > 1 and not random_start:
        raise EcgnbError("several restarts from the same point are one; set random_start=True")
    best_x = x.copy()
    best_logits = np.empty((len(x), len(CLASSES)), np.float32)
    best_score = np.full(len(x), -np.inf)
    losses = np.empty((restarts, steps, len(x)), np.float32)
    batches = gradient.batches(len(x))
    bar = tqdm(
        total=restarts * steps * len(batches), desc=progress, unit="step", disable=not progress
    )
    for rows in batches:
        clean, labels = x[rows], goal.labels(y[rows])
        low, high = linf_bounds(clean, epsilon, None if mask is None else mask[rows])
        for restart in range(restarts):
            adversarial = clean
            if random_start:
                rng = np.random.default_rng([seed, restart, rows.start])
                adversarial = rng.uniform(low, high).astype(np.float32).clip(low, high)
            for step in range(steps):
                loss, _, slope = gradient.value_and_gradient(adversarial, labels)
                losses[restart, step, rows] = loss
                moved = adversarial + np.float32(goal.sign * step_size) * np.sign(slope)
                adversarial = np.clip(moved, low, high)
                bar.update()
            logits = gradient.logits(adversarial)
            score = _attacker_score(logits, y[rows], goal)
            better = np.flatnonzero(score > best_score[rows]) + rows.start
            best_score[better] = score[better - rows.start]
            best_x[better] = adversarial[better - rows.start]
            best_logits[better] = logits[better - rows.start]
    bar.close()
    return AttackResult(best_x, best_logits, goal.reached(best_logits, y), losses)


def random_noise(
    x: np.ndarray, epsilon: float, mask: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """The control: every sample moved by +ε or -ε at random, inside the same ball. Shape as x."""
    low, high = linf_bounds(x, epsilon, mask)
    return np.where(np.random.default_rng(seed).random(x.shape) < 0.5, low, high)


def _attacker_score(logits: np.ndarray, y: np.ndarray, goal: Goal) -> np.ndarray:
    """(n,) larger is better for the attacker; positive exactly where the goal is reached.

    The margin of the target over the best other class; untargeted, of the best other class over the label.
    """
    rows, labels = np.arange(len(y)), goal.labels(y)
    others = logits.copy()
    others[rows, labels] = -np.inf
    return goal.sign * (others.max(axis=1) - logits[rows, labels])


def _check(x: np.ndarray, y: np.ndarray, epsilon: float, steps: int, restarts: int) -> None:
    if x.dtype != np.float32 or len(x) != len(y):
        raise EcgnbError(
            f"attack needs float32 x and as many labels, got {x.dtype}, {len(x)}, {len(y)}"
        )
    if not np.isfinite(x).all():
        raise EcgnbError("attack needs finite input; x holds NaN or infinity")
    if not (epsilon >= 0 and steps >= 1 and restarts >= 1):
        raise EcgnbError(f"attack needs {epsilon=} >= 0, {steps=} >= 1, {restarts=} >= 1")
