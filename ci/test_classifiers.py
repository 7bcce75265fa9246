"""What people bring as a classifier: losses in closed form, every adapter of a model, and the one line for what does not fit."""

from __future__ import annotations

import logging
import pickle

import keras
import numpy as np
import pytest
from conftest import recordings, small_network
from keras import layers, ops

from ecgnb.__main__ import main
from ecgnb.attacks import Threat, cross_entropy, divergence, logit_margin, logit_ratio, pgd
from ecgnb.attacks.losses import class_logit
from ecgnb.errors import EcgnbError
from ecgnb.evaluation.named import from_classifier, from_keras, named_models
from ecgnb.models.classifier import check_fits
from ecgnb.models.files import load_model, save_model
from ecgnb.models.function_classifier import FunctionClassifier
from ecgnb.models.identity import model_digest
from ecgnb.models.keras_classifier import KerasClassifier

TWO = ("N", "A")


def logits_of(classes: int, seed: int = 0) -> np.ndarray:
    """(12, classes) logits: of usual size, large, and with equals."""
    z = np.random.default_rng(seed).normal(size=(12, classes)).astype(np.float32)
    z[4:8] *= 20
    z[8:, 0] = z[8:, 1]
    return z


def by_backend(loss, z, y, t) -> tuple[np.ndarray, np.ndarray]:
    """Value and gradient of a loss as Keras' backend has them."""
    identity = keras.Sequential([keras.Input((z.shape[1], 1)), layers.Flatten()])
    classes = tuple("ABCDEFGH"[: z.shape[1]])
    value, _, gradient = KerasClassifier(identity, classes=classes).loss_and_gradient(z[..., None], y, t, loss)
    return value, gradient[..., 0]


LOSSES = [cross_entropy, logit_ratio, logit_margin, divergence, class_logit]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("classes", [2, 3, 4, 5])
@pytest.mark.parametrize("targeted", [False, True])
def test_both_forms_of_a_loss_agree(loss, classes, targeted):
    z, rng = logits_of(classes), np.random.default_rng(1)
    y = rng.integers(classes, size=12)
    t = (y + 1) % classes if targeted else np.full(12, -1)
    if loss is divergence:
        t = logits_of(classes, seed=2)
    theirs, ours = by_backend(loss, z, y, t), loss.with_gradient(z, y, t)
    for a, b in zip(theirs, ours, strict=True):
        assert a.dtype == b.dtype == np.float32 and np.allclose(a, b, rtol=1e-4, atol=1e-5)
    assert any(np.abs(b).max() > 0.01 for b in ours)


def test_of_two_classes_the_ratio_has_a_gradient_and_of_three_it_is_a_ratio():
    """Croce & Hein's quotient would be 1 for any two logits, which has no gradient."""
    z = np.array([[1.0, 3.0]], np.float32)
    assert [a.tolist() for a in logit_ratio.with_gradient(z, np.array([1]), np.array([0]))] == [[-2.0], [[1.0, -1.0]]]
    z = np.array([[3.0, 1.0, 2.0]], np.float32)
    value, _ = logit_ratio.with_gradient(z, np.array([0]), np.array([2]))
    assert value == pytest.approx(-(3 - 2) / (3 - 1))


def test_a_loss_is_pickled_by_its_name():
    assert pickle.loads(pickle.dumps(logit_ratio)) is logit_ratio


# ---- Keras, of any shape ----


def network_of(shape, classes: int, end=lambda z: z) -> keras.Model:
    keras.utils.set_random_seed(2)
    inputs = keras.Input(shape)
    x = layers.GlobalAveragePooling1D()(layers.Conv1D(6, 9, activation="relu")(inputs))
    return keras.Model(inputs, end(layers.Dense(classes)(x)))


@pytest.mark.parametrize("shape", [(1000, 12), (None, 12)])
@pytest.mark.parametrize("classes", [TWO, ("A", "B", "C", "D", "E")])
def test_a_keras_model_of_any_shape_is_attacked(shape, classes, tmp_path):
    network_of(shape, len(classes), layers.Softmax()).save(tmp_path / "m.keras")
    (model,) = named_models([tmp_path / "m.keras"], classes, 500)
    assert model.classifier.shape == shape and model.classifier.classes == classes and model.classifier.fs == 500
    x = np.random.default_rng(0).normal(size=(3, 1000, 12)).astype(np.float32)
    y = model.classifier.logits(x).argmax(axis=1)
    _, z, gradient = model.classifier.loss_and_gradient(x, y, np.full(3, -1), logit_ratio)
    assert gradient.shape == x.shape and np.abs(gradient).max() > 0 and z.shape == (3, len(classes))


@pytest.mark.parametrize(
    "end",
    [
        layers.Activation("sigmoid"),
        layers.Dense(1, activation="sigmoid"),
        ops.sigmoid,
        lambda z: keras.Sequential([keras.Input((1,)), layers.Dense(1, activation="sigmoid")])(z),
    ],
)
def test_one_unit_is_two_classes(end, tmp_path):
    model = network_of((500, 1), 1, end)
    model.save(tmp_path / "m.keras")
    x = np.random.default_rng(0).normal(size=(4, 500, 1)).astype(np.float32)
    z, found = np.asarray(load_model(tmp_path / "m.keras")(x)), np.asarray(model(x))[:, 0]
    assert (z[:, 0] == 0).all()
    assert np.allclose(z[:, 1], np.log(found / (1 - found)), atol=1e-4)


@pytest.mark.parametrize("shift", [0.0, 0.5, -5.0])
def test_one_unit_without_a_sigmoid_is_two_classes_too(shift, tmp_path):
    """Also where all that it gives for small signals happens to lie between 0 and 1."""
    model = network_of((500, 1), 1, layers.Rescaling(0.01, shift))
    model.save(tmp_path / "m.keras")
    x = np.random.default_rng(0).normal(size=(4, 500, 1)).astype(np.float32)
    assert np.allclose(np.asarray(load_model(tmp_path / "m.keras")(x))[:, 1:], model(x), atol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: network_of((500, 1), 3, layers.Activation("sigmoid")), "choose one label as two classes"),
        (
            lambda: keras.Sequential([keras.Input((500,)), layers.Dense(4)]),
            r"expected \(samples, leads\) to \(classes,\)",
        ),
    ],
)
def test_what_is_no_classifier_says_what_to_do(build, message, tmp_path):
    build().save(tmp_path / "m.keras")
    with pytest.raises(EcgnbError, match=message) as caught:
        load_model(tmp_path / "m.keras")
    assert str(tmp_path / "m.keras") in str(caught.value) and "\n" not in str(caught.value)


def test_two_logits_need_the_names_of_their_classes(tmp_path):
    network_of((500, 1), 2).save(tmp_path / "m.keras")
    with pytest.raises(EcgnbError, match="gives 2 logits; name their classes"):
        named_models([tmp_path / "m.keras"])
    with pytest.raises(EcgnbError, match="for the 3 classes A,B,C"):
        named_models([tmp_path / "m.keras"], ("A", "B", "C"))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_is_saved_as_it_is(precision, tmp_path):
    model = network_of((None, 2), 3, lambda z: layers.Dense(3)(layers.Dropout(0.4)(layers.BatchNormalization()(z))))
    model.layers[-1].set_weights([w + 0.5 for w in model.layers[-1].get_weights()])
    save_model(model, tmp_path / "m.keras")
    again = load_model(tmp_path / "m.keras")
    assert model_digest(again, TWO, 1) == model_digest(model, TWO, 1)
    assert [layer.rate for layer in again.layers if isinstance(layer, layers.Dropout)] == [0.4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(leads=12), "has 12 leads, the model takes 1"),
        (dict(fs=500), "is at 500 Hz, the model takes 300 Hz; resample"),
        (dict(samples=5000), "has 5000 samples a recording, the model takes 9000"),
        (dict(classes=("N", "A", "O", "~")), "has the classes N,A,O,~, the model has A,N,O,~"),
    ],
)
def test_recordings_that_do_not_fit_are_told_in_one_line(changes, message, demo_dev):
    classifier = KerasClassifier(small_network())
    check_fits(classifier, demo_dev)
    given = dict(samples=9000, leads=1, classes=demo_dev.classes, fs=300) | changes
    with pytest.raises(EcgnbError, match=message) as caught:
        check_fits(classifier, recordings(demo_dev, **given))
    assert "\n" not in str(caught.value)


# ---- two functions ----


@pytest.fixture
def functions():
    """A linear classifier of 12 leads as two functions, and its weights (12, 3)."""
    w = np.random.default_rng(3).normal(size=(12, 3)).astype(np.float32)
    given = dict(
        logits=lambda x: x.mean(axis=1) @ w,
        gradient=lambda x, weights: np.repeat((weights @ w.T)[:, None] / x.shape[1], x.shape[1], axis=1),
        classes=("A", "B", "C"),
        fs=500,
        shape=(None, 12),
        digest="1",
    )
    return given, w


def test_two_functions_are_a_classifier(functions):
    given, w = functions
    classifier = FunctionClassifier(**given, batch_size=2)
    x = np.random.default_rng(4).normal(size=(5, 100, 12)).astype(np.float32)
    inputs = keras.Input((None, 12))
    model = keras.Model(inputs, layers.Dense(3, use_bias=False)(layers.GlobalAveragePooling1D()(inputs)))
    model.set_weights([w])
    same = KerasClassifier(model, classes=("A", "B", "C"), fs=500)
    y, t = np.array([0, 1, 2, 0, 1]), np.array([1, 2, 0, -1, -1])
    for loss in (cross_entropy, logit_ratio):
        for a, b in zip(*(c.loss_and_gradient(x, y, t, loss) for c in (classifier, same)), strict=True):
            assert a.dtype == np.float32 and np.allclose(a, b, atol=1e-5)
    assert classifier.logits(x[:0]).shape == (0, 3)
    with pytest.raises(EcgnbError, match=r"takes \(any samples, 12 leads\), got \(100, 3\)"):
        classifier.logits(x[..., :3])
    digests = {FunctionClassifier(**given | other).digest for other in ({}, {"digest": "2"}, {"fs": 250})}
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z: np.exp(z) / np.exp(z).sum(axis=1, keepdims=True), "gives probabilities; leave out its softmax"),
        (lambda z: 1 / (1 + np.exp(-z)), "choose one label as two classes"),
        (lambda z: z[:, :2], "for the 3 classes A,B,C"),
        (lambda z: z * np.nan, "NaN or infinity"),
    ],
)
def test_functions_that_give_no_logits_are_refused(functions, change, message):
    given, _ = functions
    logits = given["logits"]
    with pytest.raises(EcgnbError, match=message) as caught:
        FunctionClassifier(**given | {"logits": lambda x: change(logits(x))})
    assert "\n" not in str(caught.value)


def test_one_number_of_a_function_is_two_classes(functions):
    given, w = functions
    one = given | dict(logits=lambda x: given["logits"](x)[:, 0], classes=TWO)
    one["gradient"] = lambda x, weights: given["gradient"](x, weights[:, None] * np.eye(3, dtype=np.float32)[:1])
    x = np.random.default_rng(5).normal(size=(2, 50, 12)).astype(np.float32)
    _, z, gradient = FunctionClassifier(**one).loss_and_gradient(x, np.array([1, 0]), np.array([0, 1]), logit_ratio)
    assert (z[:, 0] == 0).all() and np.allclose(gradient[0, 0], -w[:, 0] / 50, atol=1e-6)
    assert np.allclose(gradient[1, 0], w[:, 0] / 50, atol=1e-6)


# ---- a function of the user's ----

OWN = """
import keras, numpy as np
from ecgnb.models.function_classifier import FunctionClassifier

def network():
    return keras.Sequential([keras.Input((9000, 1)), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(4)])

def functions():
    w = np.array([[1.0, -1.0]], np.float32)
    def gradient(x, weights):
        return np.broadcast_to((weights @ w.T / x.shape[1])[:, None], x.shape)
    return FunctionClassifier(lambda x: x.mean(axis=1) @ w, gradient, ("N", "A"), 300, (None, 1), digest="1")

def nothing():
    return 3
"""


@pytest.fixture
def own(working_folder):
    """The working folder, with a module of the user's."""
    (working_folder / "own_models.py").write_text(OWN)
    return working_folder


def test_a_function_of_the_working_folder_gives_the_model(own, demo_dev):
    network, functions = named_models(["own_models:network", "own_models:functions"])
    assert [network.name, functions.name] == ["network", "functions"]
    problem = Threat("A", "N", 0.1).on(recordings(demo_dev, 1000, 1, ("N", "A"), 300).of_class("A"))
    result = pgd(functions.classifier, problem, steps=3)
    assert np.allclose(problem.ball.delta(result.x), 0.03 * problem.ball.mask, atol=1e-6)
    with pytest.raises(EcgnbError, match="gives a FunctionClassifier, expected a Keras model here"):
        load_model("own_models:functions")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_models:nothing", "gives a int, expected a Keras model or a classifier; a PyTorch module in a TorchC"),
        ("own_models:absent", "cannot be imported from .*absent"),
        ("no_such_module:f", "cannot be imported from .*no_such_module"),
    ],
)
def test_what_cannot_be_imported_is_one_line(own, name, message, capsys):
    assert main(["evaluate", name, "--data", "demo"]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    with pytest.raises(EcgnbError, match=message):
        named_models([name])


def test_a_classifier_without_a_digest_is_told_so():
    with pytest.raises(EcgnbError, match="mine: has no digest"):
        from_classifier(object(), "mine")
    assert from_keras(small_network(), "small").digest


def test_several_models_raise_no_warning_of_tensorflow(demo_dev):
    """It takes the functions of all of them for one, and warns of "retracing" after five."""
    seen = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    logging.getLogger("tensorflow").addHandler(handler)
    for _ in range(6):
        classifier = KerasClassifier(small_network())
        classifier.logits(demo_dev.x[:1])
        classifier.loss_and_gradient(demo_dev.x[:1], demo_dev.y[:1], demo_dev.y[:1], cross_entropy)
    logging.getLogger("tensorflow").removeHandler(handler)
    assert not seen
