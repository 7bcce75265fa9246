"""One pass of training over some recordings, on one device or several, and the batch-norm statistics after it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ecgnb.models.devices import assign_each, own_rows, replicas
from ecgnb.quiet import keras, layers


def fit_function(model: keras.Model, batch_size: int, copies: int) -> Callable[..., float]:
    """(x, y, weights, progress bar) -> mean loss: trains once on some rows, in their order, on all devices.

    x : (k, samples, leads); y : (k, classes), one-hot; weights : (k,), all float32; batch_size : recordings
    a step; copies : rows of a recording, see `Defence.copies`.
    """
    size = batch_size * copies
    step = training_step(model, copies) if keras.backend.backend() == "tensorflow" else _jax_step(model)

    def fit(x, y, weights, step_bar):
        total = 0.0
        for first in range(0, len(x), size):
            rows = slice(first, first + size)
            total += step(x[rows], y[rows], weights[rows]) * len(x[rows])
            step_bar.update()
        return total / len(x)

    return fit


def training_step(model: keras.Model, copies: int = 1) -> Callable[..., float]:
    """(x, y, weights) -> loss: one step of a compiled model, on one device or several that share it.

    It does what a step of Keras' `fit` does, which waits for seconds at its end for a thread of TensorFlow. On
    several devices `fit` also shares a smaller last batch unevenly, and gives each device batch statistics of its
    own. Here the loss is the mean over all rows of the batch, and batch-norm takes its statistics over all of them
    (`synchronise_batch_norm`). So the step is that of one device but for rounding, and for dropout, which every
    device draws for itself. Arguments: see `fit_function`.
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

    @tf.function(input_signature=signature, autograph=False)
    def step(x, y, weights):
        n = tf.shape(x)[0]

        def part():
            rows, share = own_rows(n, copies)
            with tf.GradientTape() as tape:
                losses = model.loss.call(y[rows], model(x[rows], training=True))
                value = share * tf.reduce_sum(weights[rows] * losses) / tf.cast(n, tf.float32)
                for penalty in model.losses:  # of regularised weights
                    value += penalty / strategy.num_replicas_in_sync
            gradients = tape.gradient(value, variables)
            model.optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return value

        return strategy.reduce("SUM", strategy.run(part), axis=None)

    return lambda *arrays: float(step(*arrays))


def _jax_step(model: keras.Model) -> Callable[..., float]:
    def step(x, y, weights):
        model.reset_metrics()  # else the loss is a mean over all steps
        return float(model.train_on_batch(x, y, sample_weight=weights))

    return step


def synchronise_batch_norm(model: keras.Model) -> None:
    """Let batch-norm take its statistics over the whole batch, however many devices share it."""
    for layer in _of_type(model, layers.BatchNormalization):
        layer.synchronized = replicas(model) > 1


def seed_dropout(model: keras.Model, seed: int, epoch: int) -> None:
    """Make the dropout masks of an epoch a function of (seed, epoch), and each device's of its number."""
    for i, layer in enumerate(_layers(model)):
        if hasattr(layer, "seed_generator"):
            states = [
                np.random.SeedSequence([seed, epoch, i, *([device] if device else [])])
                for device in range(replicas(model))
            ]
            seeds = [state.generate_state(2) for state in states]
            assign_each(model, layer.seed_generator.state, seeds)


def recompute_statistics(model: keras.Model, x: np.ndarray, batch_size: int = 32) -> None:
    """Set every batch-norm's running mean and variance to their average over `x`, with dropout off.

    Under dropout the variance that batch-norm sees in training is not the one it meets in inference (Li et
    al. 2019, arXiv 1801.05134); this removes the mismatch without touching a weight. x : (n, samples, leads).
    """
    batch_size = min(batch_size, len(x))  # in the largest batches, all of x is one
    dropouts, norms = _of_type(model, layers.Dropout), _of_type(model, layers.BatchNormalization)
    if not norms:
        return
    rates, momenta = [d.rate for d in dropouts], [n.momentum for n in norms]
    for dropout in dropouts:
        dropout.rate = 0.0
    for i, first in enumerate(range(0, len(x) - batch_size + 1, batch_size)):
        for norm in norms:
            norm.momentum = i / (i + 1)  # running average: after batch i, the mean of batches 0..i
        model(x[first : first + batch_size], training=True)
    for dropout, rate in zip(dropouts, rates, strict=True):
        dropout.rate = rate
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _of_type(model: keras.Model, kind: type) -> list[keras.Layer]:
    return [layer for layer in _layers(model) if isinstance(layer, kind)]


def _layers(model: keras.Model) -> list[keras.Layer]:
    """Its layers, also those of models inside it."""
    return [layer for layer in model._flatten_layers(include_self=False) if not isinstance(layer, keras.Model)]
