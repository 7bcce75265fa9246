"""Noise that was not made to deceive: the controls that every attack is compared with.

Each control gives signals, (n, 9000, 1), whose size `scaled` sets: to the same largest sample as an attack, or
to the same power.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ecgnb.filters import bandpass
from ecgnb.records import FS
from ecgnb.threats import Problem


def random_signs(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Every sample +1 or -1 at random: as large as L∞ allows, everywhere."""
    return np.where(rng.random(shape) < 0.5, -1.0, 1.0)


def gaussian(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """White noise."""
    return rng.standard_normal(shape)


def baseline_wander(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Breathing and electrode drift: noise between 0.05 and 0.5 Hz."""
    return _coloured(shape, rng, 0.05, 0.5)


def mains(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """60 Hz hum (the recordings are from the United States) of random phase."""
    phase = rng.uniform(0, 2 * np.pi, (shape[0], 1, 1))
    return np.sin(2 * np.pi * 60 * np.arange(shape[1])[None, :, None] / FS + phase)


def emg(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Simulated muscle noise: 20 Hz to the Nyquist frequency, its strength swelling over about a second."""
    envelope = np.abs(_coloured(shape, rng, 0.05, 1.0))
    return _coloured(shape, rng, 20, FS / 2) * envelope / envelope.std(axis=1, keepdims=True)


CONTROLS: dict[str, Callable] = {
    "random ±ε": random_signs,
    "Gaussian": gaussian,
    "baseline wander": baseline_wander,
    "mains 60 Hz": mains,
    "simulated EMG": emg,
}


def scaled(noise: np.ndarray, problem: Problem, rms: np.ndarray | None = None) -> np.ndarray:
    """Recordings with noise added to their real samples; (n, 9000, 1) float32.

    By default its largest sample is the ball's radius, and the result lies in the ball. rms : (n,) z-units,
    the root mean square to give it over the real samples instead, wherever that leads.
    """
    noise = noise * problem.ball.mask
    if rms is None:
        largest = np.abs(noise).max(axis=(1, 2))
        size = problem.ball.radius / np.where(largest > 0, largest, 1)
        return problem.ball.project(problem.x + size[:, None, None] * noise)
    power = (noise**2).sum(axis=(1, 2)) / problem.ball.mask.sum(axis=(1, 2))
    size = rms / np.sqrt(np.where(power > 0, power, 1))
    return (problem.x + size[:, None, None] * noise).astype(np.float32)


def _coloured(
    shape: tuple[int, ...], rng: np.random.Generator, low: float, high: float
) -> np.ndarray:
    """White noise between `low` and `high`, Hz, of SD 1."""
    noise = bandpass(rng.standard_normal(shape), np.full(shape[0], shape[1]), low, high)
    return noise / noise.std(axis=1, keepdims=True)
