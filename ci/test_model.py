"""The network, and what is loaded in its place."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from ecgnb.errors import EcgnbError
from ecgnb.models import network
from ecgnb.models.classifier import softmax
from ecgnb.models.files import load_model, save_model

# Run apart: tf-keras is Keras 2, which cannot share a process's settings with Keras 3.
MAKE_KERAS_2_FILE = """
import sys, numpy as np, tf_keras as keras
from tf_keras import layers as L
def conv(x, f): return L.Conv1D(f, 16, padding="same", kernel_initializer="he_normal")(x)
def act(x, drop=True):
    x = L.Activation("relu")(L.BatchNormalization()(x))
    return L.Dropout(0.5)(x) if drop else x
keras.utils.set_random_seed(1)
i = L.Input((9000, 1)); x = act(conv(i, 16), False)
h = conv(act(conv(x, 16)), 16)
x = L.add([L.MaxPooling1D(2)(h), L.MaxPooling1D(2)(x)])
for b in range(15):
    k = 1 + b // 4
    s = L.Conv1D(16 * k, 1)(x) if b % 4 == 0 and b else x
    h = conv(act(conv(act(x), 16 * k)), 16 * k)
    if b % 2: h, s = L.MaxPooling1D(2)(h), L.MaxPooling1D(2)(s)
    x = L.add([h, s])
o = L.Dense(4, activation="softmax")(L.Flatten()(act(x, False)))
m = keras.Model(i, o)
for layer in m.layers:  # statistics as after training, not the trivial initial ones
    if isinstance(layer, L.BatchNormalization):
        g, b, mean, var = layer.get_weights()
        r = np.random.default_rng(len(mean))
        layer.set_weights([g, b, mean + 0.1 * r.normal(size=mean.shape), var * r.uniform(0.5, 2, var.shape)])
m.save(sys.argv[1] + "/released.hdf5")
x = np.random.default_rng(0).normal(size=(4, 9000, 1)).astype("float32")
np.save(sys.argv[1] + "/expected.npy", m.predict(x, verbose=0))
"""


def test_the_network_is_andreottis():
    model = network.build()
    assert model.count_params() == 843_780
    wide = [n for n in model.layers if isinstance(n, layers.Conv1D) and n.kernel_size == (16,)]
    assert len(wide) == 33  # with the dense layer, 34
    assert model.output_shape == (None, 4) and model.layers[-1].activation is keras.activations.linear


@pytest.mark.nightly
def test_a_keras_2_file_with_softmax_gives_the_same_probabilities(tmp_path):
    subprocess.run([sys.executable, "-c", MAKE_KERAS_2_FILE, str(tmp_path)], check=True)
    model = load_model(tmp_path / "released.hdf5")
    assert model.count_params() == 843_780
    x = np.random.default_rng(0).normal(size=(4, 9000, 1)).astype("float32")
    found = softmax(np.asarray(model(x, training=False)))
    expected = np.load(tmp_path / "expected.npy")
    assert expected.std() > 1e-3, "a model that predicts the same for everything would test nothing"
    assert np.abs(found - expected).max() < 1e-5


def test_saving_keeps_the_function_and_drops_the_optimizer(tmp_path):
    model = network.build(dropout=0.2)
    model.compile("adam", "mse")
    save_model(model, tmp_path / "m.keras")
    again = load_model(tmp_path / "m.keras")
    x = np.random.default_rng(0).normal(size=(2, 9000, 1)).astype("float32")
    assert np.allclose(model(x, training=False), again(x, training=False), atol=1e-6)
    assert (tmp_path / "m.keras").stat().st_size < 4e6
    assert [p.name for p in tmp_path.iterdir()] == ["m.keras"]


def one_layer(*stack, shape=(9000, 1)):
    return keras.Sequential([keras.Input(shape), *stack])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: one_layer(layers.Dense(5)), r"to \(9000, 5\), expected \(samples, leads\) to \(classes,\)"),
        (lambda: one_layer(layers.Flatten(), layers.Dense(4), shape=(3000,)), r"maps \(3000,\)"),
        (lambda: one_layer(layers.Flatten(), layers.Dense(4, activation="tanh")), "ends in tanh"),
        (lambda: one_layer(layers.Flatten(), layers.Lambda(lambda x: x), layers.Dense(4)), "ambda"),
    ],
)
def test_a_foreign_model_is_one_clear_error(tmp_path, model, message):
    path = tmp_path / "foreign.keras"
    model().save(path)
    with pytest.raises(EcgnbError, match=message) as caught:
        load_model(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_lambda_layer_is_refused_even_without_code_of_its_own(tmp_path):
    one_layer(layers.Flatten(), layers.Lambda(keras.activations.relu), layers.Dense(4)).save(tmp_path / "m.keras")
    with pytest.raises(EcgnbError, match="ambda"):
        load_model(tmp_path / "m.keras")


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_a_broken_file_names_itself(tmp_path, content):
    path = tmp_path / "broken.keras"
    path.write_bytes(content)
    with pytest.raises(EcgnbError, match=r"broken\.keras"):
        load_model(path)


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(EcgnbError, match=r"a shipped name \(.*baseline"):
        load_model("adaptiv")


@pytest.mark.parametrize("last", [layers.Softmax(), layers.Activation("softmax")])
def test_a_softmax_layer_is_taken_off(tmp_path, last):
    model = one_layer(layers.Flatten(), layers.Dense(4), last)
    model.save(tmp_path / "m.keras")
    x = np.random.default_rng(0).normal(size=(3, 9000, 1)).astype("float32")
    logits = np.asarray(load_model(tmp_path / "m.keras")(x))
    assert np.allclose(softmax(logits), model(x), atol=1e-6)
    assert not np.allclose(logits.sum(axis=1), 1)
