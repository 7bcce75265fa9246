"""What an attack maximises: functions of logits that rise as the attack comes closer to its goal.

Each takes logits z (n, classes), true classes y (n,) and what to steer by, t, as tensors of the running Keras
backend, and gives (n,). For most, t is target classes (n,), negative where there is none: anything but y will do.
Keras is imported when a loss is first used, so that attacks can be read without it.
"""

from __future__ import annotations

SMALLEST = 1e-12  # keeps a quotient of logits finite


def cross_entropy(z, y, t):
    """Cross-entropy of the true class (untargeted), or minus that of the target (Madry et al. 2018)."""
    from keras import ops

    untargeted, targeted = (ops.sparse_categorical_crossentropy(c, z, from_logits=True) for c in (y, ops.maximum(t, 0)))
    return ops.where(t < 0, untargeted, -targeted)


def logit_ratio(z, y, t):
    """Difference of logits ratio, DLR (Croce & Hein 2020, eq. 6 and 7).

    Unlike cross-entropy it does not change when logits are scaled, so a network that is made overconfident
    keeps its gradient.
    """
    from keras import ops

    true, target = (_of(z, c) for c in (y, t))
    other = ops.max(z - 1e9 * ops.one_hot(y, z.shape[-1], dtype=z.dtype), axis=-1)
    first, _, third, fourth = (ops.sort(z, axis=-1)[:, -1 - i] for i in range(4))
    untargeted = -(true - other) / (first - third + SMALLEST)
    targeted = -(true - target) / (first - (third + fourth) / 2 + SMALLEST)
    return ops.where(t < 0, untargeted, targeted)


def divergence(z, y, t):
    """KL(softmax(t) ‖ softmax(z)): how far the prediction has moved from that of logits t (n, classes).

    What TRADES maximises, t being the logits of the clean recordings (Zhang et al. 2019, arXiv 1901.08573).
    """
    from keras import ops

    log_p, log_q = ops.log_softmax(t), ops.log_softmax(z)
    return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)


def _of(z, classes):
    """(n,) the logit of each recording's class."""
    from keras import ops

    return ops.sum(z * ops.one_hot(classes, z.shape[-1], dtype=z.dtype), axis=-1)
