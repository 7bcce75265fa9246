"""Batch norm and dropout by faster operations of TensorFlow than Keras takes.

In bfloat16 this saves a third of a training step on CPU, and a fifth of a gradient of the input (ci/SPEED.md). Keras
computes batch norm by up to nine operations, each of which reads and writes all activations, and dropout draws 32
random bits for each. Here layers get another way to compute, and stay the layers that they are: what is saved is the same.
"""

from __future__ import annotations

import types

from ecgnb.quiet import keras, layers


def use_fast_kernels(model: keras.Model) -> None:
    """Let batch-norm and dropout layers of a model compute by the functions below. Does nothing but on TensorFlow.

    Batch norm that several devices share (`synchronized`) stays Keras' own.
    """
    if keras.backend.backend() != "tensorflow":
        return
    for layer in model._flatten_layers(include_self=False):
        if type(layer) is layers.BatchNormalization and _is_plain(layer):
            layer.call = types.MethodType(_batch_norm, layer)
        elif type(layer) is layers.Dropout and layer.noise_shape is None and layer.rate > 0:
            layer.call = types.MethodType(_dropout, layer)


def _is_plain(norm: layers.BatchNormalization) -> bool:
    last = norm.axis in (-1, norm.input_spec.ndim - 1)
    return last and norm.scale and norm.center and not (norm.synchronized or getattr(norm, "renorm", False))


def _batch_norm(norm, inputs, training=None, mask=None):
    """One operation for statistics and output, in float32 inside, and one or two for the gradient."""
    import tensorflow as tf

    if mask is not None:
        return layers.BatchNormalization.call(norm, inputs, training=training, mask=mask)
    image = tf.reshape(inputs, (1, 1, -1, inputs.shape[-1]))  # the statistics are over all axes but the last
    gamma, beta = norm.gamma.value, norm.beta.value
    if not (training and norm.trainable):
        y = _inference(image, gamma, beta, norm.moving_mean.value, norm.moving_variance.value, norm.epsilon)
        return tf.reshape(y, tf.shape(inputs))
    y, mean, variance = tf.compat.v1.nn.fused_batch_norm(image, gamma, beta, epsilon=norm.epsilon, is_training=True)
    n = tf.cast(tf.shape(image)[2], tf.float32)
    found = mean, variance * (n - 1) / n  # the operation gives the unbiased estimate, Keras keeps the other
    for kept, new in zip((norm.moving_mean, norm.moving_variance), found, strict=True):
        kept.assign(norm.momentum * kept.value + (1 - norm.momentum) * new)
    return tf.reshape(y, tf.shape(inputs))


def _inference(image, gamma, beta, mean, variance, epsilon):
    """Batch norm by given statistics. TensorFlow's own gradient of it also computes those of gamma and beta, always."""
    import tensorflow as tf

    @tf.custom_gradient
    def normalise(image, gamma, beta, mean, variance):
        settings = dict(mean=mean, variance=variance, epsilon=epsilon, is_training=False)
        y, *_ = tf.compat.v1.nn.fused_batch_norm(image, gamma, beta, **settings)

        def gradient(dy):
            inverse = tf.math.rsqrt(variance + epsilon)
            wide, scale = tf.cast(dy, tf.float32), gamma * inverse
            of_gamma = tf.reduce_sum(wide * (tf.cast(image, tf.float32) - mean) * inverse, axis=(0, 1, 2))
            return dy * tf.cast(scale, dy.dtype), of_gamma, tf.reduce_sum(wide, axis=(0, 1, 2)), None, None

        return y, gradient

    return normalise(image, gamma, beta, mean, variance)


def _dropout(dropout, inputs, training=False):
    """Each activation is dropped by 16 random bits of its own: the rate is exact to 1/65,536."""
    import tensorflow as tf

    if not training or dropout.rate == 0:
        return inputs
    n = tf.size(inputs)
    seed = tf.cast(dropout.seed_generator.next(), tf.int64)
    words = tf.random.stateless_uniform(((n + 1) // 2,), seed, minval=None, maxval=None, dtype=tf.uint32)
    bits = tf.reshape(tf.bitcast(words, tf.uint16), (-1,))[:n]
    dropped = round(dropout.rate * 2**16)
    kept = tf.cast(tf.reshape(bits, tf.shape(inputs)) >= dropped, inputs.dtype)
    return inputs * (kept * tf.cast(2**16 / (2**16 - dropped), inputs.dtype))
