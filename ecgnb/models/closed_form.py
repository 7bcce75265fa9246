"""What classifiers share that no Keras backend differentiates: the loss's gradient comes from its closed form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from ecgnb import values
from ecgnb.errors import EcgnbError
from ecgnb.models.classifier import Shape, check_count, check_logits, cut, steady


class ClosedFormClassifier(ABC):
    """A `Classifier` made of one method, `forward`: logits, and a function that takes a gradient back to the input.

    classes : symbols, in the order of the logits; a model with a single number z a recording, and two classes, has
    the logits (0, z). fs : sampling rate of its input, Hz; shape : (samples, leads), samples None where any number
    will do; batch_size : recordings at a time.
    Each kind has a `digest`, a text that two classifiers share only if they compute the same.
    Raises EcgnbError if the model, tried on four signals, does not give logits of these classes.
    """

    low_precision = False

    def __init__(self, classes: tuple[str, ...], fs: float, shape: Shape, batch_size: int = 32):
        values.read("batch_size", batch_size, 32, values.COUNT)
        self.classes, self.fs, self.batch_size = tuple(classes), float(fs), batch_size
        self.shape: Shape = (shape[0], shape[1])
        check_logits(self.logits, self.shape)

    @abstractmethod
    def forward(self, x: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
        """Logits of x, (n, classes), and: gradient of a sum with respect to logits -> with respect to x."""

    def logits(self, x: np.ndarray) -> np.ndarray:
        """As `Classifier.logits`."""
        parts = [self._forward(x[rows])[0] for rows in self._batches(x)]
        return np.concatenate([np.empty((0, len(self.classes)), np.float32), *parts])

    def loss_and_gradient(
        self, x: np.ndarray, y: np.ndarray, targets: np.ndarray, loss: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `Classifier.loss_and_gradient`; loss : of `attacks.losses`, or with a `with_gradient` of its own."""
        parts = []
        for rows in self._batches(x):
            z, back = self._forward(x[rows])
            value, upstream = loss.with_gradient(z, y[rows], targets[rows])
            finite = np.isfinite(z).all(axis=1)
            gradient = np.asarray(back(np.where(finite[:, None], upstream, np.float32(0))), np.float32)
            parts.append((value, z, steady(gradient, finite)))
        value, logits, gradient = (np.concatenate(part) for part in zip(*parts, strict=True))
        return value, logits, gradient

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
        """`forward`, with two logits where the model has one number."""
        found, back = self.forward(x)
        z = np.asarray(found, np.float32)
        if z.ndim == 1:
            z = z[:, None]
        if z.shape != (len(x), 1) or len(self.classes) != 2:
            check_count(z.shape[1:], self.classes)
            return z, back
        return np.concatenate([0 * z, z], axis=1), lambda upstream: back(upstream[:, 1:].reshape(np.shape(found)))

    def _batches(self, x: np.ndarray) -> list[slice]:
        samples, leads = self.shape
        if x.ndim != 3 or x.shape[2] != leads or samples not in (None, x.shape[1]):
            raise EcgnbError(f"the model takes ({samples or 'any'} samples, {leads} leads), got {x.shape[1:]}")
        return cut(len(x), self.batch_size)
