"""A classifier gives logits: a softmax at the end is taken off, and what comes out is tried on a batch of signals.

An attack on probabilities fails where a softmax saturates, which looks like robustness and is none. Names of layers say
little about what a model gives, so it is its outputs that decide.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ecgnb.errors import EcgnbError
from ecgnb.quiet import keras, layers, ops

LOGITS = ("linear", "softmax", "log_softmax", "relu")  # activations at the end; what is no logit is found by trying
PASSING_ON = ("Reshape", "Flatten", "Dropout", "Identity", "Activation")


def giving_logits(model: keras.Model) -> keras.Model:
    """The same classifier, giving logits: the model itself, or one without its softmax.

    Of what only looks like probabilities (each row from 0 to 1, with sum 1) the logarithm is taken. A log-softmax is
    left as it is: it differs from the logits by a constant in each row, which changes no prediction, no cross-entropy
    and no difference of logits.
    Raises EcgnbError for anything else: outputs that are not finite, or that a ReLU or a sigmoid has bounded.
    """
    logits = _logits(model.outputs[0])
    found = model if logits is None else keras.Model(model.inputs[0], logits)
    x = signals(model.input_shape[1:])
    z = _outputs(found, x)
    if z.min() >= 0 and np.allclose(z.sum(axis=1), 1, atol=1e-3):
        # Not clipped: where a probability is 0, there is no gradient, and the logit must say so.
        found = keras.Model(model.inputs[0], ops.log(found.outputs[0]))
        _outputs(found, x, "probabilities of 0, whose gradient is lost; save it without its softmax")
    elif z.min() >= 0 and z.max() <= 1:
        raise EcgnbError("gives numbers from 0 to 1 that are no probabilities; expected logits or softmax")
    elif z.min() == 0:
        raise EcgnbError("gives no negative number, as behind a ReLU; expected logits or softmax")
    return found


def signals(shape: tuple[int, ...]) -> np.ndarray:
    """(4, *shape) float32 z-units: nothing, noise of two sizes, and spikes once a second on a slow wave."""
    rng, time = np.random.default_rng(0), np.arange(shape[0])
    noise = rng.standard_normal(shape[0])
    rows = [0 * time, noise / 5, 5 * noise, 6.0 * (time % 300 < 10) + np.sin(time / 300)]
    return np.broadcast_to(np.array(rows, np.float32)[..., None], (len(rows), *shape))


def _outputs(model: keras.Model, x: np.ndarray, what: str = "NaN or infinity for finite signals") -> np.ndarray:
    z = np.asarray(model(x, training=False), np.float32)
    if not np.isfinite(z).all():
        raise EcgnbError(f"gives {what}")
    return z


def _logits(tensor: Any) -> Any:
    """Logits whose softmax is `tensor`, without taking a logarithm of it; None if its last layers are no softmax."""
    last, index, _ = tensor._keras_history
    inputs = last._inbound_nodes[index].input_tensors
    name = getattr(getattr(last, "activation", None), "__name__", "linear")
    kind = type(last).__name__
    if isinstance(last, keras.Model):
        inner = _logits(last.outputs[0]) if len(last.inputs) == len(last.outputs) == 1 else None
        return None if inner is None else keras.Model(last.inputs[0], inner)(inputs[0])
    if not inputs:
        return None
    if kind == "Average" and isinstance(last, layers.Layer):
        parts = [_logits(part) for part in inputs]
        if any(part is None for part in parts):
            return None
        stacked = ops.stack([ops.log_softmax(part) for part in parts], axis=1)
        return ops.logsumexp(stacked, axis=1)  # the mean of probabilities, none of which is lost where it is small
    if (kind == "Softmax" and last.axis in (-1, len(tensor.shape) - 1)) or (kind == "Activation" and name == "softmax"):
        return inputs[0]
    if kind in ("Dense", "EinsumDense") and name == "softmax":
        settings = {key: value for key, value in last.get_config().items() if key != "name"}
        linear = type(last).from_config(settings | {"activation": "linear"})
        logits = linear(inputs[0])
        linear.set_weights(last.get_weights())
        return logits
    if name not in LOGITS:
        raise EcgnbError(f"ends in {name}, expected logits or softmax")
    of_classes = inputs[0].shape[-1] == tensor.shape[-1] == math.prod(inputs[0].shape[1:])
    if kind in PASSING_ON and name == "linear" and of_classes:
        inner = _logits(inputs[0])
        return None if inner is None else last(inner)
    return None
