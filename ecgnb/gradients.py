"""The only module that takes a gradient or knows which backend Keras runs on.

Keras' TensorFlow backend is the default; its JAX backend works too (`KERAS_BACKEND=jax`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import keras
import numpy as np

from ecgnb.errors import EcgnbError

BACKEND = keras.backend.backend()


class InputGradient:
    """Logits of a model, and the gradient of a loss with respect to its input, in inference mode.

    Batch normalisation and dropout are frozen. Each function is compiled once, for all batches. Weights are
    read at every call, so one object serves a model while it trains.
    """

    def __init__(self, model: keras.Model, batch_size: int = 32):
        self.batch_size = batch_size
        compiled = {"tensorflow": _compile_tensorflow, "jax": _compile_jax}.get(BACKEND)
        if compiled is None:
            raise EcgnbError(f"KERAS_BACKEND={BACKEND}: expected tensorflow or jax")
        self._logits, self._value_and_gradient = compiled(model, batch_size)

    def logits(self, x: np.ndarray) -> np.ndarray:
        """(n, 4) float32 logits of x : (n, 9000, 1) float32, z-units, any n."""
        parts = [self._logits(x[rows]) for rows in self.batches(len(x))]
        return np.concatenate(parts) if parts else np.empty((0, 4), np.float32)

    def value_and_gradient(
        self, x: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cross-entropy of each recording against `labels`, its logits, and its gradient.

        x : (n, 9000, 1) float32, n at most `batch_size`; labels : (n,) int.
        Returns (n,), (n, 4) and (n, 9000, 1), all float32.
        """
        return self._value_and_gradient(x, labels)

    def batches(self, n: int) -> list[slice]:
        """Slices that cut n recordings into batches."""
        return [slice(i, min(i + self.batch_size, n)) for i in range(0, n, self.batch_size)]


def _compile_tensorflow(model: keras.Model, _: int) -> tuple[Callable, Callable]:
    """(x -> logits, (x, labels) -> (loss, logits, gradient)), compiled for any batch length."""
    import tensorflow as tf

    signal, classes = (
        tf.TensorSpec((None, *model.input_shape[1:])),
        tf.TensorSpec((None,), tf.int64),
    )

    # Measured on CPU: jit_compile=True is slower for this network (13.7 against 8.7 ms a gradient).
    @tf.function(input_signature=[signal], jit_compile=False)
    def logits(x):
        return tf.cast(model(x, training=False), tf.float32)

    @tf.function(input_signature=[signal, classes], jit_compile=False)
    def value_and_gradient(x, labels):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            z = tf.cast(model(x, training=False), tf.float32)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, z)
        return loss, z, tape.gradient(loss, x)

    return (
        lambda x: logits(x).numpy(),
        lambda x, labels: tuple(part.numpy() for part in value_and_gradient(x, labels)),
    )


def _compile_jax(model: keras.Model, batch_size: int) -> tuple[Callable, Callable]:
    """As `_compile_tensorflow`. JAX compiles for one shape, so a smaller last batch is padded."""
    import jax

    def call(variables, x):
        return model.stateless_call(*variables, x, training=False)[0].astype("float32")

    def summed_loss(x, variables, labels):
        z = call(variables, x)
        loss = -jax.nn.log_softmax(z)[jax.numpy.arange(batch_size), labels]
        return loss.sum(), (loss, z)

    logits, gradient = jax.jit(call), jax.jit(jax.grad(summed_loss, has_aux=True))

    def variables():
        both = model.trainable_variables, model.non_trainable_variables
        return tuple([v.value for v in some] for some in both)

    def padded(a):
        return np.concatenate([a, np.repeat(a[:1], batch_size - len(a), axis=0)])

    def value_and_gradient(x, labels):
        slope, (loss, z) = gradient(padded(x), variables(), padded(labels))
        return tuple(np.asarray(part)[: len(x)] for part in (loss, z, slope))

    return lambda x: np.asarray(logits(variables(), padded(x)))[: len(x)], value_and_gradient


def distribution() -> contextlib.AbstractContextManager:
    """Scope to build and compile a model in: all GPUs when there are several, else no change."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        if len(tf.config.list_logical_devices("GPU")) > 1:
            return tf.distribute.MirroredStrategy().scope()
    return contextlib.nullcontext()
