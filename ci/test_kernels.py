"""Batch norm and dropout by TensorFlow's own operations: what Keras computes, and what is saved."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from ecgnb.models import network
from ecgnb.models.kernels import use_fast_kernels

RNG = np.random.default_rng(0)


def norms(shape: tuple[int, ...], policy: str = "float32") -> tuple[keras.Model, keras.Model]:
    """Two models of one batch norm with the same weights, none of them at its first value: Keras' own, and the fast one."""
    inputs = keras.Input(shape)
    both = [keras.Model(inputs, layers.BatchNormalization(dtype=policy)(inputs)) for _ in range(2)]
    weights = [RNG.uniform(0.5, 1.5, shape[-1]) for _ in range(4)]
    for model in both:
        model.set_weights(weights)
    use_fast_kernels(both[1])
    return both[0], both[1]


def computed(model: keras.Model, x: np.ndarray, training: bool) -> list[np.ndarray]:
    """The output, the gradients of input and weights, and the weights afterwards."""
    x, slope = tf.constant(x), tf.constant(np.cos(np.arange(x.size)).reshape(x.shape).astype(np.float32))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model(x, training=training)
        total = tf.reduce_sum(tf.cast(y, tf.float32) * slope)
    return [y, *tape.gradient(total, [x, *model.trainable_variables]), *model.get_weights()]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("policy", "tolerance"), [("float32", 1e-4), ("mixed_bfloat16", 0.03)], ids=["float32", "bfloat16"]
)
@pytest.mark.parametrize("shape", [(40, 3), (7,), (6, 5, 2)], ids=str)
def test_batch_norm_is_that_of_keras(shape, policy, tolerance, training):
    theirs, ours = norms(shape, policy)
    x = (3 * RNG.normal(size=(9, *shape)) + 1).astype(np.float32)
    for expected, found in zip(computed(theirs, x, training), computed(ours, x, training), strict=True):
        expected, found = (np.asarray(tf.cast(array, tf.float32)) for array in (expected, found))
        assert np.allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def test_a_batch_norm_that_is_used_twice_is_that_of_keras():
    inputs, x = keras.Input((40, 3)), RNG.normal(size=(9, 40, 3)).astype(np.float32)

    def twice() -> keras.Model:
        norm = layers.BatchNormalization()
        return keras.Model(inputs, norm(layers.ReLU()(norm(inputs))))

    theirs, ours = twice(), twice()
    use_fast_kernels(ours)
    assert "call" in vars(ours.layers[1])
    for expected, found in zip(computed(theirs, x, True), computed(ours, x, True), strict=True):
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_frozen_batch_norm_keeps_its_statistics_in_training():
    theirs, ours = norms((40, 3))
    for model in (theirs, ours):
        model.trainable = False
    x = RNG.normal(size=(9, 40, 3)).astype(np.float32)
    before = ours.get_weights()
    assert np.allclose(theirs(x, training=True), ours(x, training=True), atol=1e-5)
    assert all(np.array_equal(a, b) for a, b in zip(before, ours.get_weights(), strict=True))


@pytest.mark.parametrize("rate", [0.2, 0.5])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_dropout_drops_its_rate_and_keeps_the_mean(rate, policy):
    inputs = keras.Input((901, 101))  # an odd number of activations
    model = keras.Model(inputs, layers.Dropout(rate, seed=1, dtype=policy)(inputs))
    use_fast_kernels(model)
    x = np.ones((3, 901, 101), np.float32)
    first, second = (np.asarray(tf.cast(model(x, training=True), tf.float32)) for _ in range(2))
    n, kept = first.size, first != 0
    assert abs((~kept).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / n)  # four standard errors
    assert np.allclose(first[kept], 1 / (1 - rate), rtol=0.01 if policy == "mixed_bfloat16" else 1e-4)
    both = (kept & (second != 0)).mean()
    assert abs(both - (1 - rate) ** 2) < 4 * np.sqrt(1 / n)  # another mask each time, independent of the first
    assert abs(np.corrcoef(kept.ravel()[:-1], kept.ravel()[1:])[0, 1]) < 4 / np.sqrt(n)
    assert np.array_equal(model(x, training=False), x)


def test_layers_stay_what_they_are(tmp_path):
    plain, fast = network.build(0.2, "bfloat16"), network.build(0.2, "bfloat16")
    use_fast_kernels(fast)
    fast.set_weights(plain.get_weights())
    fast.save(tmp_path / "fast.keras")
    loaded = keras.models.load_model(tmp_path / "fast.keras")
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in plain.layers]
    assert not any("call" in vars(layer) for layer in loaded.layers)
    x = RNG.normal(size=(2, 9000, 1)).astype(np.float32)
    assert np.array_equal(loaded(x), plain(x)) and np.allclose(fast(x), plain(x), atol=0.05)
