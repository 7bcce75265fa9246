"""What stands between the electrode and the network: the recorder's pass-band, and the z-score.

A front end maps what the attacker makes to what the network reads, and pulls a slope back the other way, so
that an attacker who knows of it can attack through it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import fft

from ecgnb.gradients import Victim
from ecgnb.losses import cross_entropy
from ecgnb.records import BAND, FS


def bandpass(x: np.ndarray, lengths: np.ndarray, low: float, high: float) -> np.ndarray:
    """`x` without what lies outside `low` to `high`, Hz; (n, 9000, 1) float64.

    An ideal zero-phase filter over each recording's real samples, taken as periodic, by FFT: a projection
    (twice is once) that is its own adjoint. Padding stays zero. lengths : (n,) real samples.
    """
    passed = np.zeros(x.shape)
    for length in np.unique(lengths[lengths > 0]):
        rows = lengths == length
        spectrum = fft.rfft(x[rows, :length, 0].astype(np.float64), axis=1)
        frequency = np.arange(length // 2 + 1) * FS / length  # rfftfreq rounds 0.5 Hz to just below
        spectrum[:, (frequency < low) | (frequency > high)] = 0
        passed[rows, :length, 0] = fft.irfft(spectrum, length, axis=1)
    return passed


def rescaled(x: np.ndarray) -> tuple[np.ndarray, Callable]:
    """Z-scored again over the real samples, as a recorder's software would do with any signal it gets.

    x : (n, 9000, 1). Returns the same shape in float32, and a function that takes a slope back to x.
    """
    mask = (np.arange(x.shape[1]) < _real_lengths(x)[:, None])[..., None]
    count = mask.sum(axis=1, keepdims=True)
    wide = x.astype(np.float64)
    mean = (wide * mask).sum(axis=1, keepdims=True) / count
    centred = (wide - mean) * mask
    sd = np.sqrt((centred**2).sum(axis=1, keepdims=True) / count)
    z = centred / sd

    def back(slope):
        slope = slope * mask
        common = slope.sum(axis=1, keepdims=True) / count
        along = (slope * z).sum(axis=1, keepdims=True) / count
        return (slope - common - z * along) * mask / sd

    return z.astype(np.float32), back


def filtered(x: np.ndarray) -> tuple[np.ndarray, Callable]:
    """Filtered to the recorder's pass-band, then z-scored. As `rescaled`."""
    lengths = _real_lengths(x)
    z, back = rescaled(bandpass(x, lengths, *BAND))
    return z, lambda slope: bandpass(back(slope), lengths, *BAND)


class Fronted:
    """A victim behind a front end, as one victim (see `gradients.Victim`).

    front : `rescaled` or `filtered`.
    """

    def __init__(self, victim: Victim, front: Callable):
        self.victim, self.front = victim, front
        self.draft = getattr(victim, "draft", False)

    def logits(self, x: np.ndarray) -> np.ndarray:
        """As `Victim.logits`."""
        return self.victim.logits(self.front(x)[0])

    def value_and_gradient(
        self, x: np.ndarray, y: np.ndarray, targets: np.ndarray, loss: Callable = cross_entropy
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `Victim.value_and_gradient`."""
        z, back = self.front(x)
        value, logits, slope = self.victim.value_and_gradient(z, y, targets, loss)
        return value, logits, back(slope)


def _real_lengths(x: np.ndarray) -> np.ndarray:
    """(n,) samples before the zero padding: whatever comes after the last sample that is not zero."""
    return x.shape[1] - np.argmax(x[:, ::-1, 0] != 0, axis=1)
