"""Two functions as a classifier: logits, and the gradient of a weighted sum of logits. For any library, or none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from ecgnb.models.classifier import Shape
from ecgnb.models.closed_form import ClosedFormClassifier


class FunctionClassifier(ClosedFormClassifier):
    """The `Classifier` made of two functions.

    logits : x (n, samples, leads) float32 -> (n, classes); gradient : (x, weights (n, classes)) -> the gradient of
    `(weights * logits(x)).sum()` with respect to x, in the shape of x. digest : a text that changes whenever the logits
    do, such as a version, or the SHA-256 of a file of weights; stored results are found by it.
    The others: see `ClosedFormClassifier`.

    >>> w = np.array([[1.0, -1.0]], np.float32)
    >>> mean = FunctionClassifier(
    ...     lambda x: x.mean(axis=1) @ w,
    ...     lambda x, weights: np.broadcast_to((weights @ w.T / x.shape[1])[:, None], x.shape),
    ...     classes=("high", "low"), fs=100, shape=(None, 1), digest="mean, 1",
    ... )
    >>> mean.logits(np.ones((1, 500, 1), np.float32))
    array([[ 1., -1.]], dtype=float32)
    """

    def __init__(
        self,
        logits: Callable[[np.ndarray], np.ndarray],
        gradient: Callable[[np.ndarray, np.ndarray], np.ndarray],
        classes: tuple[str, ...],
        fs: float,
        shape: Shape,
        digest: str,
        batch_size: int = 32,
    ):
        self._functions = logits, gradient
        self.digest = hashlib.sha256(f"{digest} {tuple(classes)} {float(fs)}".encode()).hexdigest()
        super().__init__(classes, fs, shape, batch_size)

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
        """As `ClosedFormClassifier.forward`."""
        logits, gradient = self._functions
        return logits(x), lambda weights: gradient(x, weights)
