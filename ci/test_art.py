"""The bridge to the Adversarial Robustness Toolbox: its attacks on our classifiers, ours on its own."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ecgnb.attacks import AttackProblem, Goal, pgd
from ecgnb.attacks.balls import Linf
from ecgnb.errors import EcgnbError
from ecgnb.models.keras_classifier import KerasClassifier

evasion = pytest.importorskip("art.attacks.evasion", reason="pip install .[art]")
from art.estimators.classification import TensorFlowV2Classifier  # noqa: E402

from ecgnb.art import as_art, from_art  # noqa: E402

CLASSES, EPSILON = ("A", "B", "C"), 0.3


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((200, 12))
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Conv1D(8, 9, activation="tanh")(inputs))
    return keras.Model(inputs, keras.layers.Dense(3)(x))


@pytest.fixture(scope="module")
def ours(model) -> KerasClassifier:
    return KerasClassifier(model, 8, classes=CLASSES, fs=500)


@pytest.fixture(scope="module")
def posed(ours) -> AttackProblem:
    x = np.random.default_rng(0).normal(size=(6, 200, 12)).astype(np.float32)
    ball = Linf(x, np.full(6, EPSILON), np.ones(x.shape, bool))
    return AttackProblem(ours.logits(x).argmax(axis=1), Goal(None), ball, 500)


def test_an_attack_of_theirs_on_our_classifier_is_ours(posed, ours):
    """FGSM and PGD from the recording itself: the same steps, so the same examples."""
    art = as_art(ours)
    fgsm = evasion.FastGradientMethod(art, eps=EPSILON).generate(posed.x, posed.y)
    assert np.allclose(fgsm, pgd(ours, posed, steps=1, step=1.0).x, atol=1e-5)
    attack = evasion.ProjectedGradientDescentNumpy(art, eps=EPSILON, eps_step=0.03, max_iter=10, verbose=False)
    found = pgd(ours, posed, steps=10, step=0.1)
    assert np.allclose(attack.generate(posed.x, posed.y), found.x, atol=1e-5)
    assert found.success.any()


def test_an_attack_by_class_gradients_runs(posed, ours):
    art = as_art(ours)
    gradients = art.class_gradient(posed.x)
    assert gradients.shape == (6, 3, 200, 12)
    assert np.allclose(art.class_gradient(posed.x, 1), gradients[:, 1:2], atol=1e-7)
    assert np.allclose(art.class_gradient(posed.x, posed.y)[:, 0], gradients[np.arange(6), posed.y], atol=1e-7)
    deep_fool = evasion.DeepFool(art, max_iter=20, epsilon=0.02, verbose=False)
    assert (ours.logits(deep_fool.generate(posed.x)).argmax(axis=1) != posed.y).all()


def theirs(model: keras.Model) -> TensorFlowV2Classifier:
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    return TensorFlowV2Classifier(
        lambda x, training=False: model(x), nb_classes=3, input_shape=(200, 12), loss_object=loss
    )


def test_our_attack_runs_on_a_classifier_of_theirs(posed, model, ours):
    classifier = from_art(theirs(model), CLASSES, 500, digest="1")
    assert classifier.shape == (200, 12) and np.allclose(classifier.logits(posed.x), ours.logits(posed.x), atol=1e-5)
    on_theirs, on_ours = (pgd(one, posed, steps=10) for one in (classifier, ours))
    assert np.allclose(on_theirs.logits, on_ours.logits, atol=1e-3)
    assert (on_theirs.success == on_ours.success).all()


def test_a_classifier_of_theirs_that_predicts_probabilities_is_refused(model):
    softmaxed = keras.Sequential([model, keras.layers.Softmax()])
    with pytest.raises(EcgnbError, match="gives probabilities"):
        from_art(theirs(softmaxed), CLASSES, 500, digest="1")
