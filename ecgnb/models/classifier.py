"""What attacks and evaluations need of a model. Nothing here knows Keras or TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from ecgnb.errors import EcgnbError


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


UNDEFINED = -1  # the predicted class where logits are not finite


def predicted_classes(logits: np.ndarray) -> np.ndarray:
    """(n,) int, the class with the largest logit; UNDEFINED where any logit is NaN or infinite.

    No other function may turn logits into classes: the largest of four NaN would be the first class, AF.
    """
    return np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), UNDEFINED)


def check_defined(predicted: np.ndarray, names: np.ndarray, model: str) -> None:
    """Raise EcgnbError if a model gives logits that are not finite for clean recordings, (n,), of these names."""
    if len(undefined := names[predicted == UNDEFINED]):
        more = f" and {len(undefined) - 1} more" if len(undefined) > 1 else ""
        raise EcgnbError(f"{model} gives logits that are NaN or infinite for recording {undefined[0]}{more}")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Class probabilities, (n, classes), from logits, (n, classes)."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
