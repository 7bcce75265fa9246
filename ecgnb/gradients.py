"""The only module that takes a gradient, and with `devices` the only one that knows Keras' backend.

Keras' TensorFlow backend is the default; its JAX backend works too (`KERAS_BACKEND=jax`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import keras
import numpy as np

from ecgnb.devices import lost_hosts_named, own_rows, replicas, shared_out
from ecgnb.errors import EcgnbError
from ecgnb.losses import cross_entropy
from ecgnb.model import in_bfloat16

BACKEND = keras.backend.backend()


class Victim(Protocol):
    """What an attack needs to know of a model, with or without something in front of it.

    draft : True where `value_and_gradient` reads more cheaply than `logits` does; by its logits no recording
    is to be called turned.
    """

    draft: bool = False

    def logits(self, x: np.ndarray) -> np.ndarray:
        """(n, 4) float32 logits of x : (n, 9000, 1) float32, z-units, any n."""

    def value_and_gradient(
        self, x: np.ndarray, y: np.ndarray, targets: np.ndarray, loss: Callable = cross_entropy
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A loss of `losses` for each recording, its logits, and the loss's gradient.

        x : (n, 9000, 1) float32, any n; y, targets : (n,) int, true and target classes (-1: untargeted), or
        whatever else the loss steers by, such as reference logits, (n, 4) float32, for `divergence`.
        Returns (n,), (n, 4) and (n, 9000, 1), all float32.
        """


class InputGradient:
    """The victim that is the network alone, in inference mode.

    Batch normalisation and dropout are frozen. Each function is compiled once, for all batches. Weights are
    read at every call, so one object serves a model while it trains. A model on several devices is read by
    all of them, `batch_size` rows each at a time.

    precision : "float32", or "bfloat16" to take gradients in bfloat16 with the same weights. `logits` is the
    model's own in any case, and attacks judge by it: what they call turned is turned.
    """

    def __init__(self, model: keras.Model, batch_size: int = 32, precision: str = "float32"):
        compiler = {"tensorflow": _compile_tensorflow, "jax": _compile_jax}.get(BACKEND)
        if compiler is None:
            raise EcgnbError(f"KERAS_BACKEND={BACKEND}: expected tensorflow or jax")
        if precision not in ("float32", "bfloat16"):
            raise EcgnbError(f"precision={precision!r}: expected float32 or bfloat16")
        self._made_of = model, batch_size, precision
        self.batch_size = batch_size * replicas(model)
        self.draft = precision == "bfloat16"
        climbed = in_bfloat16(model) if self.draft else model
        self._logits, self._compile = compiler(model, climbed, self.batch_size)
        self._compiled = {}

    def __reduce__(self):
        """Pickled as the model it is made of: compiled functions stay behind."""
        return InputGradient, self._made_of

    def logits(self, x: np.ndarray) -> np.ndarray:
        """As `Victim.logits`."""
        parts = [self._logits(x[rows]) for rows in self._batches(len(x))]
        return np.concatenate(parts) if parts else np.empty((0, 4), np.float32)

    def value_and_gradient(
        self, x: np.ndarray, y: np.ndarray, targets: np.ndarray, loss: Callable = cross_entropy
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `Victim.value_and_gradient`."""
        if loss not in self._compiled:
            self._compiled[loss] = self._compile(loss, targets)
        read = self._compiled[loss]
        parts = [read(x[rows], y[rows], targets[rows]) for rows in self._batches(len(x))]
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))

    def _batches(self, n: int) -> list[slice]:
        return [slice(i, min(i + self.batch_size, n)) for i in range(0, n, self.batch_size)]


def _compile_tensorflow(
    model: keras.Model, climbed: keras.Model, _: int
) -> tuple[Callable, Callable]:
    """Two functions: x -> logits, and (loss, example) -> ((x, y, targets) -> (loss, logits, slope)).

    The second goes by the layers of `climbed`, which may be a copy, with the weights of `model`. Both are
    compiled for any batch length; the example of targets tells their type and shape.
    """
    import tensorflow as tf

    signal = tf.TensorSpec((None, *model.input_shape[1:]))
    classes = tf.TensorSpec((None,), tf.int64)

    # Measured on CPU: jit_compile=True is slower for this network (13.7 against 8.7 ms a gradient).
    @tf.function(input_signature=[signal], jit_compile=False)
    def logits(x):
        return shared_out(model, lambda x: tf.cast(model(x, training=False), tf.float32), x)

    def climb(x):
        if climbed is model:
            return model(x, training=False)
        weights = model.trainable_variables, model.non_trainable_variables
        return climbed.stateless_call(*weights, x, training=False)[0]

    def compiled(loss, example):
        aims = tf.TensorSpec((None, *example.shape[1:]), example.dtype)

        def read(x, y, targets):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                z = tf.cast(climb(x), tf.float32)
                value = loss(z, y, targets)
            # A model that rounds its input has no path for a gradient: that is a slope of zero.
            zero = tf.UnconnectedGradients.ZERO
            return value, z, tape.gradient(value, x, unconnected_gradients=zero)

        @tf.function(input_signature=[signal, classes, aims], jit_compile=False)
        def value_and_gradient(x, y, targets):
            return shared_out(model, read, x, y, targets)

        def run(*given):
            with lost_hosts_named():
                return tuple(part.numpy() for part in value_and_gradient(*given))

        return run

    def run(x):
        with lost_hosts_named():
            return logits(x).numpy()

    return run, compiled


def _compile_jax(
    model: keras.Model, climbed: keras.Model, batch_size: int
) -> tuple[Callable, Callable]:
    """As `_compile_tensorflow`. JAX compiles for one shape, so a smaller last batch is padded."""
    import jax

    def call(layers, variables, x):
        return layers.stateless_call(*variables, x, training=False)[0].astype("float32")

    def variables():
        both = model.trainable_variables, model.non_trainable_variables
        return tuple([v.value for v in some] for some in both)

    def padded(a):
        return np.concatenate([a, np.repeat(a[:1], batch_size - len(a), axis=0)])

    def compiled(loss, _):
        def summed(x, variables, y, targets):
            z = call(climbed, variables, x)
            value = loss(z, y, targets)
            return value.sum(), (value, z)

        gradient = jax.jit(jax.grad(summed, has_aux=True))

        def value_and_gradient(x, y, targets):
            slope, (value, z) = gradient(padded(x), variables(), padded(y), padded(targets))
            return tuple(np.asarray(part)[: len(x)] for part in (value, z, slope))

        return value_and_gradient

    logits = jax.jit(partial(call, model))
    return lambda x: np.asarray(logits(variables(), padded(x)))[: len(x)], compiled


def training_step(model: keras.Model, copies: int = 1) -> Callable:
    """(x, y, weights) -> loss: one step of a compiled model that several devices share.

    Does what a step of `fit` does, which Keras 3 offers on the devices of one host only, and there with a
    last batch that is not shared out evenly, and batch statistics of each device's own. Here the loss is the
    mean over all rows of the batch, and batch-norm takes its statistics over all of them, so that the step is
    that of one device but for rounding, and for dropout, which every device draws for itself.

    x : (k, 9000, 1) float32; y : (k, 4) float32, one-hot; weights : (k,) float32; copies : rows that belong
    together (see `Defence.copies`).
    """
    import tensorflow as tf

    strategy, variables = model.distribute_strategy, model.trainable_variables
    with strategy.scope():
        model.optimizer.build(variables)
    signature = [
        tf.TensorSpec((None, *model.input_shape[1:])),
        tf.TensorSpec((None, *model.output_shape[1:])),
        tf.TensorSpec((None,)),
    ]

    # Shapes are open so that all hosts trace this once: their all-reduces are matched in order of tracing.
    @tf.function(input_signature=signature, autograph=False)
    def step(x, y, weights):
        n = tf.shape(x)[0]

        def part():
            rows, share = own_rows(n, copies)
            with tf.GradientTape() as tape:
                losses = model.loss.call(y[rows], model(x[rows], training=True))
                value = share * tf.reduce_sum(weights[rows] * losses) / tf.cast(n, tf.float32)
            gradients = tape.gradient(value, variables)
            model.optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return value

        return strategy.reduce("SUM", strategy.run(part), axis=None)

    def run(x, y, weights):
        with lost_hosts_named():
            return float(step(x, y, weights))

    return run
