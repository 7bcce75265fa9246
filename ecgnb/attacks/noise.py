"""Noise baselines: noise that was not crafted to deceive, which every attack is compared with.

Each gives a signal, (samples, leads), whose size `add_noise` sets: to the same largest sample as an attack, or to the
same power. Noise is drawn for each recording by itself, so that a recording gets the same noise in every evaluation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ecgnb.attacks.preprocessing import bandpass
from ecgnb.attacks.result import AttackResult, from_examples
from ecgnb.attacks.threats import AttackProblem
from ecgnb.models.classifier import Classifier

Noise = Callable[[tuple[int, int], float, np.random.Generator], np.ndarray]


def random_sign(shape: tuple[int, int], fs: float, rng: np.random.Generator) -> np.ndarray:
    """Every sample +1 or -1 at random: as large as L∞ allows, everywhere."""
    return np.where(rng.random(shape) < 0.5, -1.0, 1.0)


def gaussian(shape: tuple[int, int], fs: float, rng: np.random.Generator) -> np.ndarray:
    """White noise."""
    return rng.standard_normal(shape)


def baseline_wander(shape: tuple[int, int], fs: float, rng: np.random.Generator) -> np.ndarray:
    """Breathing and electrode drift: noise between 0.05 and 0.5 Hz."""
    return _coloured(shape, fs, rng, 0.05, 0.5)


def mains(shape: tuple[int, int], fs: float, rng: np.random.Generator) -> np.ndarray:
    """60 Hz hum (the recordings are from the United States) of random phase."""
    phase = rng.uniform(0, 2 * np.pi, shape[1])
    return np.sin(2 * np.pi * 60 * np.arange(shape[0])[:, None] / fs + phase)


def emg(shape: tuple[int, int], fs: float, rng: np.random.Generator) -> np.ndarray:
    """Simulated muscle noise: 20 Hz to the Nyquist frequency, its strength swelling over about a second."""
    envelope = np.abs(_coloured(shape, fs, rng, 0.05, 1.0))
    return _coloured(shape, fs, rng, 20, fs / 2) * envelope / envelope.std(axis=0)


NOISE_BASELINES: dict[str, Noise] = {
    "random_sign": random_sign,
    "gaussian": gaussian,
    "baseline_wander": baseline_wander,
    "mains": mains,
    "emg": emg,
}

# What a noise needs: half the sampling rate above so many Hz, and recordings of so many seconds.
NOISE_NEEDS = {"baseline_wander": (0.5, 2.0), "mains": (60.0, 0.0), "emg": (20.0, 1.0)}
NOISE_TITLES = {
    "random_sign": "random ±ε",
    "gaussian": "Gaussian noise",
    "baseline_wander": "baseline wander",
    "mains": "60 Hz mains",
    "emg": "simulated EMG",
}


def possible_noise(name: str, samples: int, fs: float) -> bool:
    """Whether recordings of that length and rate in Hz can hold a noise baseline's frequencies at all."""
    frequency, seconds = NOISE_NEEDS.get(name, (0.0, 0.0))
    return frequency < fs / 2 and seconds <= samples / fs


def add_noise(problem: AttackProblem, noise: Noise, *, rms: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """Recordings with noise added to their real samples; (n, samples, leads) float32.

    By default its largest sample is the ball's radius, and the result lies in the ball. rms : (n,) z-units, the root
    mean square to give it over the real samples instead, wherever that leads.
    """
    shape, generators = problem.x.shape[1:], problem.generators(seed)
    drawn = [noise(shape, problem.fs, rng)[None] for rng in generators]
    added = np.concatenate([np.zeros((0, *shape)), *drawn]) * problem.ball.mask
    if rms is None:
        largest = np.abs(added).max(axis=(1, 2), keepdims=True)
        return problem.ball.project(problem.x + problem.ball.reach / np.where(largest > 0, largest, 1) * added)
    power = (added**2).sum(axis=(1, 2)) / problem.ball.mask.sum(axis=(1, 2))
    size = rms / np.sqrt(np.where(power > 0, power, 1))
    return (problem.x + size[:, None, None] * added).astype(np.float32)


def noise_attack(
    classifier: Classifier, problem: AttackProblem, *, noise: Noise, seed: int = 0, progress: str = ""
) -> AttackResult:
    """A noise baseline in the form of an attack: it fills the ball, and takes one query."""
    return from_examples(classifier, problem, add_noise(problem, noise, seed=seed))


def _coloured(shape: tuple[int, int], fs: float, rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """White noise between `low` and `high`, Hz, of SD 1."""
    white = rng.standard_normal((1, *shape))
    noise = bandpass(white, np.array([shape[0]]), (low, high), fs)[0]
    return noise / noise.std(axis=0)
