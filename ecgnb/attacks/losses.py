"""What an attack maximises: functions of logits that rise as the attack comes closer to its goal.

Each takes logits z (n, classes), true classes y (n,) and what to steer by, t, and gives (n,). For most, t is target
classes (n,), negative where there is none: anything but y will do. A loss has two forms that agree: called, it takes
tensors of the running Keras backend, which differentiates it; `with_gradient` takes NumPy arrays and also gives the
gradient with respect to z, in closed form, for models that no Keras backend runs.
Keras is imported when a loss is first called, so that attacks can be read without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

SMALLEST = 1e-12  # keeps a quotient of logits finite


class Loss:
    """What losses share: they have a name, and are pickled by it."""

    __name__ = ""

    def __reduce__(self) -> str:
        return self.__name__

    def __call__(self, z: Any, y: Any, t: Any) -> Any:
        """(n,) tensor, of tensors of the Keras backend."""
        raise NotImplementedError

    def with_gradient(self, z: np.ndarray, y: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) values, and their gradient with respect to z, (n, classes), both float32."""
        with np.errstate(invalid="ignore", over="ignore"):  # logits may be infinite; whoever asks looks for that
            value, gradient = self._closed_form(z.astype(np.float64), y, t)
        return value.astype(np.float32), gradient.astype(np.float32)

    def _closed_form(self, z: np.ndarray, y: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `with_gradient`, in float64."""
        raise NotImplementedError


class CrossEntropy(Loss):
    """Cross-entropy of the true class (untargeted), or minus that of the target (Madry et al. 2018)."""

    __name__ = "cross_entropy"

    def __call__(self, z, y, t):
        from keras import ops

        classes = (y, ops.maximum(t, 0))
        untargeted, targeted = (ops.sparse_categorical_crossentropy(c, z, from_logits=True) for c in classes)
        return ops.where(t < 0, untargeted, -targeted)

    def _closed_form(self, z, y, t):
        sign, chosen = np.where(t < 0, 1, -1), _one_hot(np.where(t < 0, y, t), z)
        log_p = _log_softmax(z)
        value = -np.where(chosen > 0, log_p, 0).sum(axis=1)
        return sign * value, sign[:, None] * (np.exp(log_p) - chosen)


class LogitRatio(Loss):
    """Difference of logits ratio, DLR (Croce & Hein 2020, eq. 6 and 7).

    Unlike cross-entropy it does not change when logits are scaled, so a network that is made overconfident
    keeps its gradient. The ratio needs three logits, with a target four. Where there are only three, the third stands
    for the fourth; of two classes it is the difference of their logits, divided by nothing.
    """

    __name__ = "logit_ratio"

    def __call__(self, z, y, t):
        from keras import ops

        true, target = (_of(z, c) for c in (y, t))
        other = ops.max(z - 1e9 * ops.one_hot(y, z.shape[-1], dtype=z.dtype), axis=-1)
        if z.shape[-1] == 2:
            return other - true
        first, _, third, fourth = (ops.sort(z, axis=-1)[:, -1 - i] for i in (0, 1, 2, min(3, z.shape[-1] - 1)))
        untargeted = -(true - other) / (first - third + SMALLEST)
        targeted = -(true - target) / (first - (third + fourth) / 2 + SMALLEST)
        return ops.where(t < 0, untargeted, targeted)

    def _closed_form(self, z, y, t):
        classes, is_targeted = z.shape[1], (t >= 0)[:, None]
        true = _one_hot(y, z)
        other = _largest(np.where(true > 0, -np.inf, z))
        if classes == 2:
            return (z * (other - true)).sum(axis=1), other - true
        order = np.argsort(z, axis=1, kind="stable")
        first, third, fourth = (_one_hot(order[:, -1 - i], z) for i in (0, 2, min(3, classes - 1)))
        over = np.where(is_targeted, _one_hot(t, z), other) - true
        below = first - np.where(is_targeted, (third + fourth) / 2, third)
        numerator, denominator = ((z * part).sum(axis=1, keepdims=True) for part in (over, below))
        denominator = denominator + SMALLEST
        gradient = (over * denominator - numerator * below) / denominator**2
        return (numerator / denominator)[:, 0], gradient


class LogitMargin(Loss):
    """The target's logit minus the largest other; untargeted, the largest other minus that of y.

    `Goal.margin` in a form that can be differentiated (Carlini & Wagner 2017, arXiv 1608.04644, their f6).
    """

    __name__ = "logit_margin"

    def __call__(self, z, y, t):
        from keras import ops

        chosen = ops.one_hot(ops.where(t < 0, y, t), z.shape[-1], dtype=z.dtype)
        lead = ops.sum(z * chosen, axis=-1) - ops.max(z - 1e9 * chosen, axis=-1)
        return ops.where(t < 0, -lead, lead)

    def _closed_form(self, z, y, t):
        sign, chosen = np.where(t < 0, -1, 1)[:, None], _one_hot(np.where(t < 0, y, t), z)
        over = sign * (chosen - _largest(np.where(chosen > 0, -np.inf, z)))
        return (z * over).sum(axis=1), over


class Divergence(Loss):
    """KL(softmax(t) ‖ softmax(z)): how far the prediction has moved from that of logits t (n, classes).

    What TRADES maximises, t being the logits of the clean recordings (Zhang et al. 2019, arXiv 1901.08573).
    """

    __name__ = "divergence"

    def __call__(self, z, y, t):
        from keras import ops

        log_p, log_q = ops.log_softmax(t), ops.log_softmax(z)
        return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)

    def _closed_form(self, z, y, t):
        log_p, log_q = _log_softmax(t.astype(np.float64)), _log_softmax(z)
        return (np.exp(log_p) * (log_p - log_q)).sum(axis=1), np.exp(log_q) - np.exp(log_p)


class ClassLogit(Loss):
    """The logit of class y, whatever the target."""

    __name__ = "class_logit"

    def __call__(self, z, y, t):
        return _of(z, y)

    def _closed_form(self, z, y, t):
        chosen = _one_hot(y, z)
        return (z * chosen).sum(axis=1), chosen


cross_entropy, logit_ratio, logit_margin = CrossEntropy(), LogitRatio(), LogitMargin()
divergence, class_logit = Divergence(), ClassLogit()


def _of(z, classes):
    """(n,) the logit of each recording's class."""
    from keras import ops

    return ops.sum(z * ops.one_hot(classes, z.shape[-1], dtype=z.dtype), axis=-1)


def _one_hot(classes: np.ndarray, z: np.ndarray) -> np.ndarray:
    """(n, classes) 1.0 at each recording's class; of a negative class all zeros."""
    return (np.arange(z.shape[1]) == classes[:, None]).astype(np.float64)


def _largest(z: np.ndarray) -> np.ndarray:
    """(n, classes) the gradient of each row's maximum, shared by equals; none where all are -infinity or a NaN is."""
    is_largest = (z == z.max(axis=1, keepdims=True)) & (z > -np.inf)
    return is_largest / np.maximum(is_largest.sum(axis=1, keepdims=True), 1)


def _log_softmax(z: np.ndarray) -> np.ndarray:
    shifted = z - z.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
