"""Threat models: which recordings are attacked, what counts as success, and how far an attacker may go."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ecgnb import values
from ecgnb.attacks.balls import L2, Ball, BandLimited, Linf
from ecgnb.constants import FS
from ecgnb.errors import EcgnbError
from ecgnb.models.classifier import UNDEFINED, predicted_classes

if TYPE_CHECKING:
    from ecgnb.data.dataset import Dataset

UNITS, NORMS = ("z", "µV"), ("L∞", "L2")


@dataclass(frozen=True)
class Goal:
    """What counts as success: predicted as class `target`, or, without a target, not as its own label."""

    target: int | None = None

    def targets(self, y: np.ndarray) -> np.ndarray:
        """(n,) target classes, as losses take them: -1 where there is none."""
        return np.full_like(y, -1 if self.target is None else self.target)

    def reached(self, logits: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(n,) bool: the attack succeeds; also where it makes logits that are not finite, which break the classifier."""
        return self.is_success(predicted_classes(logits), y)

    def is_success(self, predicted: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(n,) bool, as `reached`, from predicted classes (n,)."""
        return (predicted == UNDEFINED) | (predicted != y if self.target is None else predicted == self.target)

    def margin(self, logits: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(n,) larger is better for the attacker, positive exactly where the goal is reached.

        The logit of the target minus the best other; untargeted, the best other minus that of the label. Infinite
        where logits are not finite.
        """
        (raised, lowered), rows = self.boundary(logits, y), np.arange(len(y))
        margin = logits[rows, raised] - logits[rows, lowered]
        return np.where(np.isfinite(logits).all(axis=1), margin, np.inf)

    def boundary(self, logits: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) classes, twice: whose logit has to rise above which other."""
        labels = y if self.target is None else np.full_like(y, self.target)
        others = logits.copy()
        others[np.arange(len(y)), labels] = -np.inf
        best = others.argmax(axis=1)
        return (best, y) if self.target is None else (labels, best)


@dataclass(frozen=True)
class AttackProblem:
    """A batch of recordings under a threat model.

    y : (n,) int, true classes; goal : what counts as success; ball : where the attack may go, around the
    recordings x : (n, samples, leads) float32, z-units; fs : sampling rate, Hz.
    """

    y: np.ndarray
    goal: Goal
    ball: Ball
    fs: float = FS

    def __post_init__(self):
        if self.x.dtype != np.float32 or len(self.x) != len(self.y):
            raise EcgnbError(
                f"attack needs float32 x and as many labels, got {self.x.dtype}, {len(self.x)}, {len(self.y)}"
            )
        if not np.isfinite(self.x).all():
            raise EcgnbError("attack needs finite input; x holds NaN or infinity")
        if not ((self.ball.radius >= 0) & (self.ball.radius < np.inf)).all():
            raise EcgnbError("attack needs a finite epsilon >= 0")

    def __len__(self) -> int:
        return len(self.y)

    @property
    def x(self) -> np.ndarray:
        """(n, samples, leads) float32, z-units: the clean recordings."""
        return self.ball.centre

    @property
    def targets(self) -> np.ndarray:
        """(n,) target classes, as losses take them."""
        return self.goal.targets(self.y)

    def generators(self, *seeds: int) -> list[np.random.Generator]:
        """A random generator for each recording, of the seeds and its own samples, whatever stands beside it."""
        for seed in seeds:
            values.read("seed", seed, 2017, values.SEED)
        digests = (hashlib.sha256(x.tobytes()).digest()[:16] for x in self.x)
        return [np.random.default_rng([*seeds, int.from_bytes(d, "big")]) for d in digests]

    def rows(self, index: np.ndarray) -> AttackProblem:
        """Some of the recordings."""
        return replace(self, y=self.y[index], ball=self.ball.rows(index))

    def resized(self, radius: np.ndarray) -> AttackProblem:
        """The same recordings with other radii, (n,), z-units."""
        return replace(self, ball=self.ball.resized(radius))

    def within(self, band: tuple[float, float]) -> AttackProblem:
        """The same recordings for an attacker who keeps to a pass-band, Hz."""
        ball = self.ball
        if band[0] >= self.fs / 2:
            raise EcgnbError(f"{band=}: recordings at {self.fs:g} Hz hold nothing above {self.fs / 2:g} Hz")
        limited = BandLimited(ball.centre, ball.radius, ball.mask, ball.scale, band, self.fs)
        return replace(self, ball=limited)


@dataclass(frozen=True)
class Threat:
    """A threat model, as a value. The defaults are the study's: AF is to be predicted as normal, L∞ ε 0.2.

    attack_class : symbol of the class whose recordings are attacked, "" for all; target : symbol of the class to
    be predicted, "" for untargeted; epsilon, unit, norm : the budget, in z-units (each recording's own SD) or in
    µV (the same amplitude for every patient, and in every lead); band : pass-band in Hz that the perturbation must keep to, L∞ only;
    mask_padding : leave zero padding alone, which is no signal that anyone could inject.
    """

    attack_class: str = "A"
    target: str = "N"
    epsilon: float = 0.2
    unit: str = "z"
    norm: str = "L∞"
    band: tuple[float, float] | None = None
    mask_padding: bool = True

    def __post_init__(self):
        values.read("unit", self.unit, "z", UNITS)
        values.read("norm", self.norm, "L∞", NORMS)
        object.__setattr__(self, "epsilon", values.read("epsilon", self.epsilon, 0.2, values.EPSILON))
        if self.target and self.target == self.attack_class:
            raise EcgnbError(f'target={self.target!r} is the attacked class itself; another, or "" (untargeted)')
        if self.target and not self.attack_class:
            raise EcgnbError(f'target={self.target!r} needs an attacked class, such as "A"; every class: untargeted')
        if self.band and not 0 <= self.band[0] < self.band[1]:
            raise EcgnbError(f"band={self.band}: expected two rising frequencies in Hz, such as (0.5, 40)")
        if self.band and self.norm != "L∞":
            raise EcgnbError("a pass-band is enforced in L∞ only")

    def __str__(self) -> str:
        source = self.attack_class or "every class"
        goal = f"{source} → {self.target}" if self.target else f"{source}, untargeted"
        band = f", {self.band[0]:g}–{self.band[1]:g} Hz" if self.band else ""
        return f"{goal}, {self.norm} {self.epsilon:.3g} {self.unit}{band}"

    def goal(self, classes: tuple[str, ...]) -> Goal:
        """What counts as success, for a data set of these classes."""
        values.read("target", self.target, "N", (*classes, ""))
        return Goal(classes.index(self.target) if self.target else None)

    def is_attacked(self, dataset: Dataset) -> np.ndarray:
        """(n,) bool: recordings of the attacked class."""
        values.read("attack_class", self.attack_class, "A", (*dataset.classes, ""))
        if not self.attack_class:
            return np.ones(len(dataset), bool)
        return dataset.y == dataset.classes.index(self.attack_class)

    def on(self, dataset: Dataset) -> AttackProblem:
        """All recordings of a data set under this threat, of whichever class they are."""
        radius, scale = np.full(len(dataset), self.epsilon, np.float64), None
        if self.unit == "µV" and not dataset.has_mv:
            raise EcgnbError(f'{dataset.title}: given in z-units, so ε cannot be in µV; take unit "z"')
        if self.unit == "µV":
            radius /= dataset.uv_per_z
            if dataset.sd_mv.ndim == 2:  # the same µV in every lead are other z-units in each
                scale = dataset.uv_per_z[:, None] / (1000 * dataset.sd_mv)
        mask = dataset.mask if self.mask_padding else np.ones(dataset.x.shape, bool)
        ball = {"L∞": Linf, "L2": L2}[self.norm](dataset.x, radius, mask, scale)
        problem = AttackProblem(dataset.y, self.goal(dataset.classes), ball, dataset.fs)
        return problem.within(self.band) if self.band else problem
