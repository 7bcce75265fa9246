"""A classifier gives logits: a softmax or sigmoid at the end is taken off, and what comes out is tried on some signals.

An attack on probabilities fails where a softmax saturates, which looks like robustness and is none. Names of layers say
little about what a model gives, so it is its outputs that decide.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ecgnb.errors import EcgnbError
from ecgnb.models.classifier import MULTI_LABEL, signals, within_0_and_1
from ecgnb.quiet import keras, layers, ops

LOGITS = ("linear", "softmax", "log_softmax", "relu")  # activations at the end; what is no logit is found by trying
PASSING_ON = ("Reshape", "Flatten", "Dropout", "Identity", "Activation")


def giving_logits(model: keras.Model) -> keras.Model:
    """The same classifier, giving logits: the model itself, or one without its softmax.

    Of what only looks like probabilities (each row from 0 to 1, with sum 1) the logarithm is taken. A log-softmax is
    left as it is: it differs from the logits by a constant in each row, which changes no prediction, no cross-entropy
    and no difference of logits. One unit, before or behind a sigmoid, is taken as two classes, the second of which it is
    the sign of: with z before the sigmoid their logits are (0, z).
    Raises EcgnbError for anything else: outputs that are not finite, or that a ReLU or a sigmoid has bounded.
    """
    one_unit = model.output_shape[1:] == (1,)
    if one_unit:
        z = _unit(model.outputs[0])
        model = keras.Model(model.inputs[0], layers.Concatenate()([layers.Rescaling(0.0)(z), z]))
    logits = _logits(model.outputs[0])
    found = model if logits is None else keras.Model(model.inputs[0], logits)
    x = signals(model.input_shape[1:])
    z = _outputs(found, x)
    if z.min() >= 0 and np.allclose(z.sum(axis=1), 1, atol=1e-3):
        # Not clipped: where a probability is 0, there is no gradient, and the logit must say so.
        found = keras.Model(model.inputs[0], ops.log(found.outputs[0]))
        _outputs(found, x, "probabilities of 0, whose gradient is lost; save it without its softmax")
    elif within_0_and_1(z) and within_0_and_1(np.asarray(found(1000 * x, training=False))):
        raise EcgnbError(MULTI_LABEL)
    elif (
        z.min() == 0 and not one_unit and np.asarray(found(np.concatenate([x[1:], -x[1:]]), training=False)).min() == 0
    ):
        # Not of the flat signal alone, whose logits are 0 where no layer has a bias.
        raise EcgnbError("gives no negative number, as behind a ReLU; expected logits or softmax")
    return found


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
        return _linear(last, inputs[0])
    if name == "sigmoid":
        raise EcgnbError(MULTI_LABEL)
    if name not in LOGITS:
        raise EcgnbError(f"ends in {name}, expected logits or softmax")
    of_classes = inputs[0].shape[-1] == tensor.shape[-1] == math.prod(inputs[0].shape[1:])
    if kind in PASSING_ON and name == "linear" and of_classes:
        inner = _logits(inputs[0])
        return None if inner is None else last(inner)
    return None


def _unit(tensor: Any) -> Any:
    """One unit before the sigmoid that `tensor` may be."""
    last, index, _ = tensor._keras_history
    inputs = last._inbound_nodes[index].input_tensors
    kind, name = type(last).__name__, getattr(getattr(last, "activation", None), "__name__", "linear")
    if isinstance(last, keras.Model):
        return keras.Model(last.inputs[0], _unit(last.outputs[0]))(inputs[0])
    if kind == "Sigmoid" or (kind == "Activation" and name == "sigmoid"):
        return inputs[0]
    return _linear(last, inputs[0]) if kind == "Dense" and name == "sigmoid" else tensor


def _linear(last: Any, inputs: Any) -> Any:
    """The output of a dense layer without its activation."""
    settings = {key: value for key, value in last.get_config().items() if key != "name"}
    linear = type(last).from_config(settings | {"activation": "linear"})
    z = linear(inputs)
    linear.set_weights(last.get_weights())
    return z
