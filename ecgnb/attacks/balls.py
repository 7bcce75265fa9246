"""Perturbation sets: the balls around recordings that an attack may not leave, kept exactly.

Float32 sums round: x + ε can lie outside the ball. Here every point is formed in float64 and rounded
towards the recording, so that what an attack returns is inside to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ecgnb.attacks.preprocessing import bandpass
from ecgnb.constants import BAND, FS


def rounded_towards(centre: np.ndarray, point: np.ndarray) -> np.ndarray:
    """`point` (float64) as float32, never farther from `centre` (float32) in any sample."""
    near = point.astype(np.float32)
    near = np.where((near > point) & (point >= centre), np.nextafter(near, centre), near)
    return np.where((near < point) & (point <= centre), np.nextafter(near, centre), near)


@dataclass(frozen=True)
class Ball:
    """All signals within `radius` of `centre` that differ from it only where `mask` is True.

    centre : (n, samples, leads) float32, z-units; radius : (n,) float64, z-units, one for each recording;
    mask : (n, samples, leads) bool; scale : (n, leads) float64, what a lead's part of the perturbation is divided by
    before it is measured, so that leads may have radii of their own: radius * scale. None: 1 for all.
    """

    centre: np.ndarray
    radius: np.ndarray
    mask: np.ndarray
    scale: np.ndarray | None = None

    def rows(self, index: np.ndarray) -> Ball:
        """The ball of some of the recordings."""
        scale = None if self.scale is None else self.scale[index]
        return replace(self, centre=self.centre[index], radius=self.radius[index], mask=self.mask[index], scale=scale)

    def resized(self, radius: np.ndarray) -> Ball:
        """The same centre with other radii, (n,)."""
        return replace(self, radius=np.asarray(radius, np.float64))

    def project(self, x: np.ndarray) -> np.ndarray:
        """The point of the ball nearest to x, (n, samples, leads) float32."""
        return rounded_towards(self.centre, self.centre + self._inside(self.delta(x)))

    def delta(self, x: np.ndarray) -> np.ndarray:
        """The perturbation x − centre, (n, samples, leads) float64."""
        return x.astype(np.float64) - self.centre

    def size(self, x: np.ndarray) -> np.ndarray:
        """(n,) distance of x from the centre, in the norm of the ball."""
        raise NotImplementedError

    def step(self, gradient: np.ndarray) -> np.ndarray:
        """The step of length `radius` along which a function of that gradient rises most."""
        raise NotImplementedError

    def random(self, rng: np.random.Generator) -> np.ndarray:
        """A random point of the ball, (n, samples, leads) float32."""
        raise NotImplementedError

    def _inside(self, delta: np.ndarray) -> np.ndarray:
        """The nearest perturbation that the ball allows, (n, samples, leads) float64."""
        raise NotImplementedError

    @property
    def reach(self) -> np.ndarray:
        """Radius of each lead, ready to be multiplied with signals: (n, 1, 1 or leads)."""
        wide = self.radius[:, None, None]
        return wide if self.scale is None else wide * self.scale[:, None]

    def _in_radii(self, delta: np.ndarray) -> np.ndarray:
        """A perturbation as it is measured: each lead's part divided by its scale."""
        return delta if self.scale is None else delta / self.scale[:, None]


class Linf(Ball):
    """No sample moves by more than the radius."""

    def size(self, x: np.ndarray) -> np.ndarray:
        """As `Ball.size`: the largest change of a sample."""
        return np.abs(self._in_radii(self.delta(x))).max(axis=(1, 2))

    def step(self, gradient: np.ndarray) -> np.ndarray:
        """As `Ball.step`: the sign of the gradient."""
        return self.reach * np.sign(gradient)

    def random(self, rng: np.random.Generator) -> np.ndarray:
        """As `Ball.random`: uniform."""
        return self.project(self.centre + self.reach * rng.uniform(-1, 1, self.centre.shape))

    @cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest float32 arrays in the ball."""
        reach = self.reach * self.mask
        low, high = self.centre - reach, self.centre + reach
        return rounded_towards(self.centre, low), rounded_towards(self.centre, high)

    def project(self, x: np.ndarray) -> np.ndarray:
        """As `Ball.project`; a box needs no more than its bounds."""
        return np.clip(x, *self.bounds).astype(np.float32)


class L2(Ball):
    """The root of the summed squares moves by no more than the radius."""

    def size(self, x: np.ndarray) -> np.ndarray:
        """As `Ball.size`: the Euclidean distance."""
        return _norm(self._in_radii(self.delta(x))).ravel()

    def step(self, gradient: np.ndarray) -> np.ndarray:
        """As `Ball.step`: along the gradient."""
        gradient = gradient.astype(np.float64) * self.mask
        if self.scale is not None:
            gradient = gradient * self.scale[:, None]
        return self.reach * gradient / np.maximum(_norm(gradient), np.finfo(float).tiny)

    def random(self, rng: np.random.Generator) -> np.ndarray:
        """As `Ball.random`: a uniform direction, at a uniform distance."""
        direction = self.step(rng.standard_normal(self.centre.shape))
        return self.project(self.centre + direction * rng.random((len(direction), 1, 1)))

    def _inside(self, delta: np.ndarray) -> np.ndarray:
        delta = delta * self.mask
        # Less than the radius by a hair, so that the sum of squares, rounded, is not above it.
        size = _norm(self._in_radii(delta))
        return delta * np.minimum(1, (1 - 1e-12) * self.radius[:, None, None] / np.maximum(size, 1e-300))


@dataclass(frozen=True)
class BandLimited(Linf):
    """L∞, and the perturbation has no power outside a pass-band: it would survive the recorder's own filter.

    band : lowest and highest frequency, Hz; fs : sampling rate, Hz
    """

    band: tuple[float, float] = BAND
    fs: float = FS

    def step(self, gradient: np.ndarray) -> np.ndarray:
        """As `Ball.step`: the sign of the gradient within the band."""
        return self.reach * np.sign(self._filtered(gradient))

    project = Ball.project

    def _inside(self, delta: np.ndarray) -> np.ndarray:
        """In both sets: filtered and clipped in turn, then filtered and scaled down.

        Near the nearest such point, not at it; scaling alone would shrink the whole for one peak's sake.
        """
        for _ in range(3):
            delta = np.clip(self._filtered(delta), -self.reach, self.reach)
        delta = self._filtered(delta)
        largest = np.abs(self._in_radii(delta)).max(axis=(1, 2), keepdims=True)
        return delta * np.minimum(1, self.radius[:, None, None] / np.maximum(largest, 1e-300))

    def _filtered(self, delta: np.ndarray) -> np.ndarray:
        return bandpass(delta, self.mask[..., 0].sum(axis=1), self.band, self.fs)


def _norm(delta: np.ndarray) -> np.ndarray:
    """(n, 1, 1) root of the summed squares."""
    return np.sqrt((delta**2).sum(axis=(1, 2), keepdims=True))
