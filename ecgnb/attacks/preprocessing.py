"""Input transformations between electrode and network: the recorder's pass-band, and the z-score.

A transformation maps x to what the network takes, and takes a gradient back the other way, so that an attacker
who knows of it can attack through it. `BPDA` is for a transformation without a gradient, `EoT` for a random one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import fft

from ecgnb import values
from ecgnb.constants import BAND
from ecgnb.models.classifier import Classifier

Transformation = Callable[[np.ndarray, float], tuple[np.ndarray, Callable]]


def bandpass(x: np.ndarray, lengths: np.ndarray, band: tuple[float, float], fs: float) -> np.ndarray:
    """`x` without what lies outside `band`, Hz; (n, samples, leads) float64.

    An ideal zero-phase filter over each recording's real samples, taken as periodic, by FFT: a projection
    (twice is once) that is its own adjoint. Padding stays zero. lengths : (n,) real samples.
    """
    low, high = band
    passed = np.zeros(x.shape)
    for length in np.unique(lengths[lengths > 0]):
        rows = lengths == length
        spectrum = fft.rfft(x[rows, :length].astype(np.float64), axis=1)
        frequency = np.arange(length // 2 + 1) * fs / length  # rfftfreq rounds 0.5 Hz to just below
        spectrum[:, (frequency < low) | (frequency > high)] = 0
        passed[rows, :length] = fft.irfft(spectrum, length, axis=1)
    return passed


def standardised(x: np.ndarray, fs: float, together: bool = False) -> tuple[np.ndarray, Callable]:
    """Z-scored again over the real samples, as a recorder's software would do with any signal it gets.

    x : (n, samples, leads); fs plays no part; together : all leads by one mean and SD, not each by its own. Returns the
    same shape in float32, and a function that takes a gradient back to x.
    """
    axis = (1, 2) if together else 1
    mask = (np.arange(x.shape[1]) < _real_lengths(x)[:, None])[..., None]
    count = mask.sum(axis=1, keepdims=True) * (x.shape[2] if together else 1)
    wide = x.astype(np.float64)
    mean = (wide * mask).sum(axis=axis, keepdims=True) / count
    centred = (wide - mean) * mask
    sd = np.sqrt((centred**2).sum(axis=axis, keepdims=True) / count)
    z = centred / sd

    def back(gradient):
        gradient = gradient * mask
        common = gradient.sum(axis=axis, keepdims=True) / count
        along = (gradient * z).sum(axis=axis, keepdims=True) / count
        return (gradient - common - z * along) * mask / sd

    return z.astype(np.float32), back


def filtered(x: np.ndarray, fs: float, together: bool = False) -> tuple[np.ndarray, Callable]:
    """Filtered to the recorder's pass-band, then z-scored. As `standardised`."""
    lengths = _real_lengths(x)
    z, back = standardised(bandpass(x, lengths, BAND, fs), fs, together)
    return z, lambda gradient: bandpass(back(gradient), lengths, BAND, fs)


class PreprocessedClassifier:
    """A classifier behind an input transformation, as one classifier (see `models.classifier.Classifier`)."""

    def __init__(self, classifier: Classifier, transformation: Transformation):
        self.classifier, self.transformation = classifier, transformation
        self.classes, self.fs, self.shape = classifier.classes, classifier.fs, classifier.shape
        self.low_precision = classifier.low_precision

    def logits(self, x: np.ndarray) -> np.ndarray:
        """As `Classifier.logits`."""
        return self.classifier.logits(self.transformation(x, self.fs)[0])

    def loss_and_gradient(
        self, x: np.ndarray, y: np.ndarray, targets: np.ndarray, loss: Callable
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `Classifier.loss_and_gradient`."""
        z, back = self.transformation(x, self.fs)
        value, logits, gradient = self.classifier.loss_and_gradient(z, y, targets, loss)
        return value, logits, back(gradient)


class BPDA(PreprocessedClassifier):
    """A classifier behind a transformation that gives no useful gradient, such as rounding, to be attacked around it.

    Backward pass differentiable approximation (Athalye et al. 2018, arXiv 1802.00420): forwards the transformation
    itself, backwards that of something similar. forward : x (n, samples, leads) float32 -> the same shape; backward :
    a gradient with respect to what the classifier takes -> with respect to x; by default the gradient as it is.
    """

    def __init__(
        self,
        classifier: Classifier,
        forward: Callable[[np.ndarray], np.ndarray],
        backward: Callable[[np.ndarray], np.ndarray] = np.asarray,
    ):
        super().__init__(classifier, partial(_approximated, forward=forward, backward=backward))


class EoT:
    """A random classifier as its mean over draws, to be attacked in expectation.

    Expectation over transformation (Athalye et al. 2018, arXiv 1707.07397): loss, logits and gradient are means over
    that many calls. classifier : draws anew at every call, such as a `PreprocessedClassifier` whose transformation is
    random.
    """

    def __init__(self, classifier: Classifier, draws: int):
        self.classifier, self.draws = classifier, values.read("draws", draws, 16, values.COUNT)
        self.classes, self.fs, self.shape = classifier.classes, classifier.fs, classifier.shape
        self.low_precision = classifier.low_precision

    def logits(self, x: np.ndarray) -> np.ndarray:
        """As `Classifier.logits`."""
        return np.mean([self.classifier.logits(x) for _ in range(self.draws)], axis=0)

    def loss_and_gradient(
        self, x: np.ndarray, y: np.ndarray, targets: np.ndarray, loss: Callable
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `Classifier.loss_and_gradient`."""
        drawn = [self.classifier.loss_and_gradient(x, y, targets, loss) for _ in range(self.draws)]
        value, logits, gradient = (np.mean(part, axis=0) for part in zip(*drawn, strict=True))
        return value, logits, gradient


def _approximated(x: np.ndarray, fs: float, forward: Callable, backward: Callable) -> tuple[np.ndarray, Callable]:
    return np.asarray(forward(x), np.float32), backward


def _real_lengths(x: np.ndarray) -> np.ndarray:
    """(n,) samples before the zero padding: whatever comes after the last sample that is not zero."""
    return x.shape[1] - np.argmax((x[:, ::-1] != 0).any(axis=2), axis=1)
