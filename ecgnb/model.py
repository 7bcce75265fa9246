"""The network of Andreotti et al. 2017: a 34-layer one-dimensional ResNet, 843,780 parameters."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from keras import layers

from ecgnb.data import WINDOW
from ecgnb.errors import EcgnbError
from ecgnb.files import write_atomically
from ecgnb.records import CLASSES

MODELS = Path(__file__).parents[1] / "models"


def build(dropout: float = 0.5, precision: str = "float32") -> keras.Model:
    """The classifier: (n, 9000, 1) z-units in, (n, 4) float32 logits out.

    34 weight layers: a convolution as stem, sixteen pre-activation blocks of two, and a dense layer; three
    1 x 1 convolutions on shortcuts where the width grows are not counted. Width is 16·k, k growing by one
    every fourth block; every other block halves the length. Softmax is left out: attacks and losses work on
    logits.

    precision : "float32", or "bfloat16" to compute in bfloat16 and keep weights in float32.
    """
    policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"

    def conv(x, width):
        return layers.Conv1D(
            width, 16, padding="same", kernel_initializer="he_normal", dtype=policy
        )(x)

    def activate(x, drop=dropout):
        x = layers.ReLU(dtype=policy)(layers.BatchNormalization(dtype=policy)(x))
        return layers.Dropout(drop, dtype=policy)(x)

    def halve(x):
        return layers.MaxPooling1D(2, dtype=policy)(x)

    inputs = keras.Input((WINDOW, 1), name="ecg")
    stem = activate(conv(inputs, 16), drop=0)
    # The first block has no pre-activation of its own: the stem has just done it.
    branch = conv(activate(conv(stem, 16)), 16)
    x = layers.Add(dtype=policy)([halve(branch), halve(stem)])
    for block in range(1, 16):
        width = 16 * (1 + (block - 1) // 4)
        shortcut = x
        if width != x.shape[-1]:
            shortcut = layers.Conv1D(width, 1, dtype=policy)(x)
        branch = conv(activate(conv(activate(x), width)), width)
        if block % 2 == 0:
            branch, shortcut = halve(branch), halve(shortcut)
        x = layers.Add(dtype=policy)([branch, shortcut])
    x = layers.Flatten(dtype=policy)(activate(x, drop=0))
    logits = layers.Dense(len(CLASSES), dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name="ecg_resnet34")


def in_bfloat16(model: keras.Model) -> keras.Model:
    """The same layers computing in bfloat16, all but the last, with float32 weights of their own, not set."""

    def copy(layer):
        policy = "float32" if layer is model.layers[-1] else "mixed_bfloat16"
        return type(layer).from_config(layer.get_config() | {"dtype": policy})

    return keras.models.clone_model(model, clone_function=copy)


def load(name: str | Path) -> keras.Model:
    """A classifier that gives logits, by name ("baseline", "static", "adaptive") or by path.

    Reads `.keras`, and Keras-2 `.hdf5`/`.h5` such as the released `ResNet_30s_34lay_16conv.hdf5`. A softmax at
    the end is taken off. Files are loaded in Keras' safe mode: code in them is never run, and models
    with Lambda layers are refused.
    """
    path = path_of(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in MODELS.glob("*.keras"))) or "none yet"
        raise EcgnbError(
            f"{path}: no such model; give a path or one of the shipped names ({known})"
        )
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises ValueError, TypeError, OSError, … for foreign files
        reason = str(error).strip().splitlines()[0][:200]
        raise EcgnbError(f"{path}: cannot be loaded as a Keras model ({reason})") from error
    if any(isinstance(layer, layers.Lambda) for layer in model.layers):
        raise EcgnbError(f"{path}: holds a Lambda layer, that is, code; it is refused")
    if model.input_shape[1:] != (WINDOW, 1) or model.output_shape[1:] != (len(CLASSES),):
        raise EcgnbError(
            f"{path}: maps {model.input_shape[1:]} to {model.output_shape[1:]}, expected "
            f"({WINDOW}, 1) to ({len(CLASSES)},)"
        )
    return _logits_model(model, path)


def path_of(name: str | Path) -> Path:
    """A model's file: `models/<name>.keras` for a bare name, else the path as it is."""
    return Path(name) if Path(name).suffix else MODELS / f"{name}.keras"


def _logits_model(model: keras.Model, path: Path) -> keras.Model:
    """The same network without its final softmax."""
    last = model.layers[-1]
    if isinstance(last, (layers.Softmax,)) or (
        isinstance(last, layers.Activation) and last.activation is keras.activations.softmax
    ):
        return keras.Model(model.inputs, last.input)
    activation = getattr(last, "activation", keras.activations.linear)
    if activation is keras.activations.softmax:
        last.activation = keras.activations.linear
    elif activation is not keras.activations.linear:
        raise EcgnbError(f"{path}: ends in {activation.__name__}, expected logits or softmax")
    return model


def save(model: keras.Model, path: Path) -> None:
    """Write weights and architecture in float32, without optimizer state, to a `.keras` file, atomically."""
    plain = build()
    plain.set_weights(model.get_weights())
    write_atomically(path, plain.save)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Class probabilities, (n, 4), from logits, (n, 4)."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
