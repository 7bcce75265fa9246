"""What a classifier is: a digest that two models share only if they compute the same."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from typing import Any

import numpy as np

from ecgnb.files import array_digest
from ecgnb.quiet import keras, layers

# Settings of layers that decide training alone, or nothing.
IGNORED = ("name", "trainable", "autocast", "seed", "rate", "momentum", "synchronized", "build_config")
OF_TRAINING = ("_initializer", "_regularizer", "_constraint")


def model_digest(model: keras.Model, classes: tuple[str, ...], fs: float) -> str:
    """SHA-256 of what decides logits and what they mean: layers and how they are connected, weights, classes, fs in Hz.

    Names of layers, and settings that have their default, do not count: they differ between versions of Keras.
    """
    what = {"layers": _canonical(model.get_config(), {}), "classes": list(classes), "fs": float(fs)}
    text = json.dumps(what, sort_keys=True, default=str)
    return hashlib.sha256(f"{text} {array_digest(*map(np.asarray, model.get_weights()))}".encode()).hexdigest()


def same_layers(a: keras.Model, b: keras.Model) -> bool:
    """Whether two models are made of the same layers, connected alike. Weights and dropout do not count."""
    one, other = (_canonical(model.get_config(), {}) for model in (a, b))
    return one == other


def _canonical(value: Any, numbers: dict[str, int], kind: str = "") -> Any:
    """A configuration with layers numbered, not named. kind : class of the layer whose settings these are."""
    if isinstance(value, (list, tuple)):
        return [_canonical(part, numbers) for part in value]
    if isinstance(value, str):
        return numbers.get(value, value)
    if not isinstance(value, dict):
        return value
    if value.get("class_name") == "__keras_tensor__":
        return _canonical(value["config"]["keras_history"], numbers)
    if "DTypePolicy" in str(value.get("class_name")):
        return value["config"]["name"]
    if "class_name" in value:
        config = _canonical(value["config"], {} if kind else numbers, value["class_name"])
        return [value["class_name"], config, _canonical(value.get("inbound_nodes", []), numbers)]
    if "layers" in value:
        numbers = {layer["config"]["name"]: number for number, layer in enumerate(value["layers"])}
    defaults = _defaults(kind)
    return {
        key: _canonical(part, numbers)
        for key, part in value.items()
        if not (
            key in IGNORED or key.endswith(OF_TRAINING) or part is None or (key in defaults and defaults[key] == part)
        )
    }


@functools.cache
def _defaults(kind: str) -> dict[str, Any]:
    """Setting -> default, of a layer."""
    if not hasattr(layers, kind):
        return {}
    parameters = inspect.signature(getattr(layers, kind).__init__).parameters
    return {name: parameter.default for name, parameter in parameters.items()}
