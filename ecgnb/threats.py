"""Threat models: what an attacker wants, and how far they may go."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from ecgnb.data import Dataset
from ecgnb.errors import EcgnbError
from ecgnb.geometry import L2, Ball, Band, Linf
from ecgnb.records import CLASSES

UNITS, NORMS = ("z", "µV"), ("L∞", "L2")


@dataclass(frozen=True)
class Goal:
    """What an attacker wants: every recording read as `target`, or, without a target, not as its label."""

    target: int | None = None

    def targets(self, y: np.ndarray) -> np.ndarray:
        """(n,) target classes, as losses take them: -1 where there is none."""
        return np.full_like(y, -1 if self.target is None else self.target)

    def reached(self, logits: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(n,) bool: the attacker has what they want."""
        predicted = logits.argmax(axis=1)
        return predicted != y if self.target is None else predicted == self.target

    def margin(self, logits: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(n,) larger is better for the attacker, positive exactly where the goal is reached.

        The logit of the target less the best other; untargeted, the best other less that of the label.
        """
        rows, labels = np.arange(len(y)), y if self.target is None else self.target
        others = logits.copy()
        others[rows, labels] = -np.inf
        lead = logits[rows, labels] - others.max(axis=1)
        return -lead if self.target is None else lead


def goal_of(target: str) -> Goal:
    """Goal from a TARGET setting: a class letter, or "" for untargeted."""
    if target and target not in CLASSES:
        raise EcgnbError(
            f'TARGET={target!r}: expected one of {" ".join(CLASSES)}, or "" (untargeted)'
        )
    return Goal(CLASSES.index(target) if target else None)


@dataclass(frozen=True)
class Problem:
    """Recordings under a threat: what is attacked, what counts as success, where the attacker may go.

    x : (n, 9000, 1) float32, z-units, the ball's centre; y : (n,) int, true classes.
    """

    y: np.ndarray
    goal: Goal
    ball: Ball

    def __post_init__(self):
        if self.x.dtype != np.float32 or len(self.x) != len(self.y):
            raise EcgnbError(
                f"attack needs float32 x and as many labels, got {self.x.dtype}, {len(self.x)}, "
                f"{len(self.y)}"
            )
        if not np.isfinite(self.x).all():
            raise EcgnbError("attack needs finite input; x holds NaN or infinity")
        if not (self.ball.radius >= 0).all():
            raise EcgnbError("attack needs epsilon >= 0")

    def __len__(self) -> int:
        return len(self.y)

    @property
    def x(self) -> np.ndarray:
        return self.ball.centre

    @property
    def targets(self) -> np.ndarray:
        """(n,) target classes, as losses take them."""
        return self.goal.targets(self.y)

    def generators(self, *seeds: int) -> list[np.random.Generator]:
        """A random generator for each recording, of the seeds and its own samples, whatever stands beside it."""
        digests = (hashlib.sha256(x.tobytes()).digest()[:16] for x in self.x)
        return [np.random.default_rng([*seeds, int.from_bytes(d, "big")]) for d in digests]

    def rows(self, index: np.ndarray) -> Problem:
        """Some of the recordings."""
        return replace(self, y=self.y[index], ball=self.ball.rows(index))

    def resized(self, radius: np.ndarray) -> Problem:
        """The same recordings with other radii, (n,), z-units."""
        return replace(self, ball=self.ball.resized(radius))


@dataclass(frozen=True)
class Threat:
    """A threat model, as a value.

    goal : what counts as success; epsilon, unit, norm : the budget, in z-units (each recording's own SD)
    or in µV (the same amplitude for every patient); band : pass-band in Hz that the change must keep to,
    L∞ only; spare_padding : zero padding is no signal that anyone could inject.
    """

    goal: Goal = Goal(CLASSES.index("N"))
    epsilon: float = 0.2
    unit: str = "z"
    norm: str = "L∞"
    band: tuple[float, float] | None = None
    spare_padding: bool = True

    def __post_init__(self):
        if self.unit not in UNITS or self.norm not in NORMS:
            raise EcgnbError(f"{self.unit=}, {self.norm=}: expected one of {UNITS}, of {NORMS}")
        if self.band and self.norm != "L∞":
            raise EcgnbError("a pass-band is enforced in L∞ only")

    def __str__(self) -> str:
        goal = "untargeted" if self.goal.target is None else f"→ {CLASSES[self.goal.target]}"
        band = f", {self.band[0]:g}–{self.band[1]:g} Hz" if self.band else ""
        return f"{goal}, {self.norm} {self.epsilon:.3g} {self.unit}{band}"

    def on(self, dataset: Dataset) -> Problem:
        """The problem that this threat poses on some recordings."""
        radius = np.full(len(dataset), self.epsilon, np.float64)
        if self.unit == "µV":
            radius /= 1000 * dataset.sd_mv
        mask = dataset.mask if self.spare_padding else np.ones(dataset.x.shape, bool)
        if self.band:
            ball = Band(dataset.x, radius, mask, self.band)
        else:
            ball = {"L∞": Linf, "L2": L2}[self.norm](dataset.x, radius, mask)
        return Problem(dataset.y, self.goal, ball)
