"""Agreement with the Adversarial Robustness Toolbox (Nicolae et al. 2018), at equal budget and start.

Both attack the same logits of the same recordings, and the same network classifies both results.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ecgnb.attacks import Threat, apgd, pgd
from ecgnb.constants import CLASSES
from ecgnb.models.files import load_model
from ecgnb.models.keras_classifier import KerasClassifier

art_attacks = pytest.importorskip("art.attacks.evasion", reason="pip install .[peers]")
from art.estimators.classification import TensorFlowV2Classifier  # noqa: E402

pytestmark = pytest.mark.real
NORMAL = CLASSES.index("N")


def in_art(model: keras.Model) -> TensorFlowV2Classifier:
    """A network of ours as ART takes it, in inference mode."""
    return TensorFlowV2Classifier(
        model=lambda x, training=False: model(x, training=False),
        nb_classes=4,
        input_shape=(9000, 1),
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
    )


@pytest.fixture(scope="module")
def posed(validation):
    """Eight full-length AF recordings that the baseline classifies correctly, at an ε where some attacks succeed; and both classifiers."""
    model = load_model("baseline")
    ours = KerasClassifier(model)
    af = validation.of_class("A")
    is_correct = ours.logits(af.x).argmax(axis=1) == CLASSES.index("A")
    subset = af.take(np.flatnonzero(is_correct & (af.lengths == 9000))[:8])
    return Threat(epsilon=0.15).on(subset), ours, in_art(model)


def successes_of(attack, problem, ours):
    """(n,) bool: an attack of ART, kept to the ball as ours is, succeeds on our classifier."""
    adversarial = attack.generate(problem.x, np.eye(4, dtype=np.float32)[np.full(len(problem), NORMAL)])
    assert np.abs(problem.ball.delta(adversarial)).max() < 0.15 + 1e-5
    return ours.logits(adversarial).argmax(axis=1) == NORMAL


@pytest.mark.nightly
def test_pgd_succeeds_on_the_same_recordings_as_theirs(posed):
    problem, ours, theirs = posed
    attack = art_attacks.ProjectedGradientDescent(
        theirs, np.inf, eps=0.15, eps_step=0.015, max_iter=20, targeted=True, verbose=False
    )
    found = pgd(ours, problem, steps=20).success
    assert 0 < found.sum() < len(problem)  # else agreement would say nothing
    assert (successes_of(attack, problem, ours) != found).sum() <= 1


@pytest.mark.nightly
def test_apgd_is_no_weaker_than_theirs(posed):
    problem, ours, theirs = posed
    attack = art_attacks.AutoProjectedGradientDescent(
        theirs,
        np.inf,
        eps=0.15,
        eps_step=0.3,
        max_iter=20,
        targeted=True,
        nb_random_init=2,
        loss_type="cross_entropy",
        verbose=False,
    )
    found = apgd(ours, problem, steps=20, restarts=2).success
    # From random starts: of eight recordings they may find one more by chance.
    assert found.sum() + 1 >= successes_of(attack, problem, ours).sum() > 0
