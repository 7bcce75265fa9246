"""What attacks and evaluations need of a model. Nothing here knows Keras or TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np


class Classifier(Protocol):
    """An ECG classifier: logits, and the gradient of a loss with respect to the input.

    classes : symbols of the classes, in the order of the logits; fs : sampling rate of its input, Hz;
    low_precision : True where `loss_and_gradient` computes more coarsely than `logits` does; by its logits
    alone no attack counts as a success.
    """

    classes: tuple[str, ...]
    fs: float
    low_precision: bool

    def logits(self, x: np.ndarray) -> np.ndarray:
        """(n, classes) float32 logits of x : (n, samples, leads) float32, z-units, any n."""

    def loss_and_gradient(
        self, x: np.ndarray, y: np.ndarray, targets: np.ndarray, loss: Callable
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A loss of `attacks.losses` for each recording, its logits, and the loss's gradient.

        x : (n, samples, leads) float32, any n; y, targets : (n,) int, true and target classes (-1: untargeted), or
        whatever else the loss steers by, such as reference logits, (n, classes) float32, for `divergence`.
        Returns (n,), (n, classes) and the shape of x, all float32.
        """


def softmax(logits: np.ndarray) -> np.ndarray:
    """Class probabilities, (n, classes), from logits, (n, classes)."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
