"""A Keras model as a classifier: the only module that takes a gradient, on TensorFlow or JAX (`KERAS_BACKEND=jax`)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from ecgnb import values
from ecgnb.constants import CLASSES, FS
from ecgnb.errors import EcgnbError
from ecgnb.models.classifier import check_count, cut, steady
from ecgnb.models.devices import map_streams, replicas, share_rows, streams
from ecgnb.models.identity import model_digest
from ecgnb.models.kernels import use_fast_kernels
from ecgnb.models.network import in_bfloat16
from ecgnb.quiet import keras

BACKEND = keras.backend.backend()


class KerasClassifier:
    """The `Classifier` that is the network alone, in inference mode.

    Batch normalisation and dropout are frozen. Each function is compiled once, for all batches. Weights are
    read at every call, so one object serves a model while it trains. A model on several devices is shared by
    all of them, `batch_size` rows each at a time. After `devices.one_core_a_batch`, each core has a batch of its own, and
    they share those rows: larger batches take more memory and no less time.

    model : gives logits (see `files.load_model`), of any number of samples, leads and classes.

    precision : "float32", or "bfloat16" to take gradients in bfloat16 with the same weights. `logits` is the
    model's own in any case, and decides what counts as a success.
    """

    def __init__(
        self,
        model: keras.Model,
        batch_size: int = 32,
        precision: str = "float32",
        classes: tuple[str, ...] = CLASSES,
        fs: float = FS,
    ):
        compiler = {"tensorflow": _compile_tensorflow, "jax": _compile_jax}.get(BACKEND)
        if compiler is None:
            raise EcgnbError(f"KERAS_BACKEND={BACKEND}: expected tensorflow or jax")
        values.read("precision", precision, "float32", ("float32", "bfloat16"))
        values.read("batch_size", batch_size, 32, values.COUNT)
        check_count(model.output_shape[1:], classes)
        self._arguments = model, batch_size, precision, classes, fs
        self.classes, self.fs, self.shape = tuple(classes), fs, model.input_shape[1:]
        self.batch_size = batch_size * replicas(model)
        self.low_precision = precision == "bfloat16"
        gradient_model = model
        if self.low_precision:
            gradient_model = in_bfloat16(model)
            use_fast_kernels(gradient_model)
        self._logits, self._compile = compiler(model, gradient_model, self.batch_size)
        self._compiled: dict[Callable, Callable] = {}

    def __reduce__(self):
        """Pickled as the model it is made of: compiled functions stay behind."""
        return KerasClassifier, self._arguments

    @property
    def digest(self) -> str:
        """SHA-256 of what decides its logits, see `identity.model_digest`."""
        return model_digest(self._arguments[0], self.classes, self.fs)

    def logits(self, x: np.ndarray) -> np.ndarray:
        """As `Classifier.logits`."""
        parts = self._of_each_batch(self._logits, x)
        return np.concatenate([np.empty((0, len(self.classes)), np.float32), *parts])

    def loss_and_gradient(
        self, x: np.ndarray, y: np.ndarray, targets: np.ndarray, loss: Callable
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `Classifier.loss_and_gradient`."""
        if loss not in self._compiled:
            self._compiled.setdefault(loss, self._compile(loss, targets))  # another thread may have been faster
        parts = self._of_each_batch(self._compiled[loss], x, y, targets)
        value, logits, gradient = (np.concatenate(part) for part in zip(*parts, strict=True))
        return value, logits, steady(gradient, self._finite(x, logits))

    def _finite(self, x: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """(n,) bool: logits are finite; those of the model itself, in float32, decide."""
        finite = np.isfinite(logits).all(axis=1)
        if self.low_precision and not finite.all():
            finite[~finite] = np.isfinite(self.logits(x[~finite])).all(axis=1)
        return finite

    def _of_each_batch(self, function: Callable, *arrays: np.ndarray) -> list:
        """Results of a function of each batch. Batches are as equal as can be: 47 rows are 24 and 23, never 32 and 15."""
        batches = cut(len(arrays[0]), max(1, self.batch_size // streams()), streams())
        return map_streams(lambda rows: function(*(array[rows] for array in arrays)), batches)


def _compile_tensorflow(model: keras.Model, gradient_model: keras.Model, _: int) -> tuple[Callable, Callable]:
    """Two functions: x -> logits, and (loss, example) -> ((x, y, targets) -> (loss, logits, gradient)).

    The second goes by the layers of `gradient_model`, which may be a copy, with the weights of `model`. Both are
    compiled for any batch length; the example of targets tells their type and shape.
    """
    import tensorflow as tf

    signal = tf.TensorSpec((None, *model.input_shape[1:]))
    classes = tf.TensorSpec((None,), tf.int64)

    # Measured on CPU: jit_compile=True is slower for this network (13.7 against 8.7 ms a gradient).
    @tf.function(input_signature=[signal], jit_compile=False)
    def logits(x):
        return share_rows(model, lambda x: tf.cast(model(x, training=False), tf.float32), x)

    def call(x):
        if gradient_model is model:
            return model(x, training=False)
        weights = model.trainable_variables, model.non_trainable_variables
        return gradient_model.stateless_call(*weights, x, training=False)[0]

    def compiled(loss, example):
        steered = tf.TensorSpec((None, *example.shape[1:]), example.dtype)

        def compute(x, y, targets):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                z = tf.cast(call(x), tf.float32)
                value = loss(z, y, targets)
            # A model that rounds its input has no path for a gradient: that is a gradient of zero.
            zero = tf.UnconnectedGradients.ZERO
            return value, z, tape.gradient(value, x, unconnected_gradients=zero)

        @tf.function(input_signature=[signal, classes, steered], jit_compile=False)
        def loss_and_gradient(x, y, targets):
            return share_rows(model, compute, x, y, targets)

        loss_and_gradient.get_concrete_function()
        return lambda *arrays: tuple(part.numpy() for part in loss_and_gradient(*arrays))

    # Traced before the first call: TensorFlow warns of calls that trace, and takes those of several models for one's.
    traced = functools.cache(logits.get_concrete_function)

    def numpy_logits(x):
        traced()
        return logits(x).numpy()

    return numpy_logits, compiled


def _compile_jax(model: keras.Model, gradient_model: keras.Model, batch_size: int) -> tuple[Callable, Callable]:
    """As `_compile_tensorflow`. JAX compiles for one shape, so a smaller last batch is padded."""
    import jax

    def call(layers, variables, x):
        return layers.stateless_call(*variables, x, training=False)[0].astype("float32")

    def variables():
        both = model.trainable_variables, model.non_trainable_variables
        return tuple([v.value for v in group] for group in both)

    def padded(a):
        return np.concatenate([a, np.repeat(a[:1], batch_size - len(a), axis=0)])

    def compiled(loss, _):
        def summed(x, variables, y, targets):
            z = call(gradient_model, variables, x)
            value = loss(z, y, targets)
            return value.sum(), (value, z)

        differentiate = jax.jit(jax.grad(summed, has_aux=True))

        def loss_and_gradient(x, y, targets):
            padded_batch = padded(x), variables(), padded(y), padded(targets)
            gradient, (value, z) = differentiate(*padded_batch)
            return tuple(np.asarray(part)[: len(x)] for part in (value, z, gradient))

        return loss_and_gradient

    logits = jax.jit(functools.partial(call, model))
    return lambda x: np.asarray(logits(variables(), padded(x)))[: len(x)], compiled
