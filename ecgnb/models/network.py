"""The network of Andreotti et al. 2017: a 34-layer one-dimensional ResNet, 843,780 parameters."""

from __future__ import annotations

from ecgnb.constants import CLASSES, WINDOW
from ecgnb.quiet import keras, layers


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
        return layers.Conv1D(width, 16, padding="same", kernel_initializer="he_normal", dtype=policy)(x)

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
    return copied(model, precision="bfloat16")


def copied(model: keras.Model, dropout: float | None = None, precision: str = "float32") -> keras.Model:
    """The same layers, with weights of their own, not set.

    dropout : rate of the dropout layers that have one above 0, if not their own; precision : as in `build`.
    """

    def copy(layer):
        config = layer.get_config()
        if not isinstance(layer, layers.InputLayer):
            low = precision == "bfloat16" and layer is not model.layers[-1]
            config["dtype"] = "mixed_bfloat16" if low else "float32"
        if dropout is not None and isinstance(layer, layers.Dropout) and layer.rate > 0:
            config["rate"] = dropout
        return type(layer).from_config(config)

    found = keras.models.clone_model(model, clone_function=copy, recursive=True)
    found.compiled, found.optimizer = False, None  # Keras compiles the copy of what is compiled
    return found
