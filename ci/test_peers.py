"""Agreement with the Adversarial Robustness Toolbox (Nicolae et al. 2018), at equal budget and start.

Both attack the same logits of the same recordings, and both results are read by the same network.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ecgnb.attacks.search import apgd, pgd
from ecgnb.attacks.threats import Threat
from ecgnb.data.records import CLASSES
from ecgnb.models import network
from ecgnb.models.classifier import KerasClassifier

art_attacks = pytest.importorskip("art.attacks.evasion", reason="pip install .[peers]")
from art.estimators.classification import TensorFlowV2Classifier  # noqa: E402

pytestmark = pytest.mark.real
NORMAL = CLASSES.index("N")


@pytest.fixture(scope="module")
def posed(validation):
    """Twelve full-length AF recordings that the baseline reads rightly, at an ε that turns some; and both classifiers."""
    model = network.load("baseline")
    ours = KerasClassifier(model)
    af = validation.of_class("A")
    right = ours.logits(af.x).argmax(axis=1) == CLASSES.index("A")
    whole = af.take(np.flatnonzero(right & (af.lengths == 9000))[:12])
    theirs = TensorFlowV2Classifier(
        model=lambda x, training=False: model(x, training=False),
        nb_classes=4,
        input_shape=(9000, 1),
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
    )
    return Threat(epsilon=0.15).on(whole), ours, theirs


def turned_by(attack, problem, ours):
    """What an attack of ART turns, kept to the ball as ours is, and read by our classifier."""
    made = attack.generate(problem.x, np.eye(4, dtype=np.float32)[np.full(len(problem), NORMAL)])
    assert np.abs(problem.ball.delta(made)).max() < 0.15 + 1e-5
    return ours.logits(made).argmax(axis=1) == NORMAL


def test_pgd_turns_the_same_recordings_as_theirs(posed):
    problem, ours, theirs = posed
    attack = art_attacks.ProjectedGradientDescent(
        theirs, np.inf, eps=0.15, eps_step=0.015, max_iter=20, targeted=True, verbose=False
    )
    found = pgd(ours, problem, steps=20).success
    assert 0 < found.sum() < len(problem)  # else agreement would say nothing
    assert (turned_by(attack, problem, ours) != found).sum() <= 1


def test_apgd_is_no_weaker_than_theirs(posed):
    problem, ours, theirs = posed
    attack = art_attacks.AutoProjectedGradientDescent(
        theirs,
        np.inf,
        eps=0.15,
        eps_step=0.3,
        max_iter=20,
        targeted=True,
        nb_random_init=3,
        loss_type="cross_entropy",
        verbose=False,
    )
    found = apgd(ours, problem, steps=20, restarts=3).success
    assert found.sum() >= turned_by(attack, problem, ours).sum() > 0
