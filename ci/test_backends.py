"""JAX against TensorFlow, which all other tests run on: gradients, an attack, an epoch of training, weights."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from ecgnb.attacks.search import losses, pgd
from ecgnb.attacks.threats import Threat
from ecgnb.models import network
from ecgnb.models.classifier import KerasClassifier

LOSSES = ("cross_entropy", "logit_ratio")

JAX_RUN = """
import sys
from pathlib import Path
import numpy as np
from test_backends import attacked, gradients
from ecgnb.data import dataset as data
from ecgnb.training import loop as training
from ecgnb.models import network
from ecgnb.models.classifier import BACKEND, KerasClassifier
from ecgnb.training.configuration import TrainingConfig

assert BACKEND == "jax"
folder, train = Path(sys.argv[1]), data.load("train", data="demo")
baseline = network.load("baseline")
classifier = KerasClassifier(baseline, 8)
found = gradients(classifier, train)
turned = attacked(classifier, train)
found |= {"success": turned.success, "loss": turned.loss, "x": turned.x}

few = train.take(np.concatenate([np.flatnonzero(train.y == c)[:4] for c in range(4)]))
config = TrainingConfig("adaptive", 1, per_class=4, batch_size=8, steps=1)
kept, history = training.train(config, few, few.take(slice(2, 16, 4)), folder, baseline)
found |= {"epoch": history["loss"], "kept z": KerasClassifier(kept, 16).logits(few.x), "few": few.x}
np.savez(folder / "found.npz", **found)
"""


def gradients(classifier, train) -> dict[str, np.ndarray]:
    """Value, logits and gradient of each loss, of two recordings of each class, with and without a target."""
    some = train.take(np.concatenate([np.flatnonzero(train.y == c)[:2] for c in range(4)]))
    found = {}
    for name in LOSSES:
        aims = np.array([1, -1, 2, -1, 0, -1, 0, -1])
        read = classifier.loss_and_gradient(some.x, some.y, aims, getattr(losses, name))
        parts = zip(("value", "logits", "gradient"), read, strict=True)
        found |= {f"{name} {what}": part for what, part in parts}
    return found


def attacked(classifier, train):
    problem = Threat().on(train.of_class("A").take(slice(0, 4)))
    return pgd(classifier, problem, steps=4, until_success=True)


@pytest.fixture(scope="module")
def jax(tmp_path_factory):
    """What JAX found, and the file with the weights it trained."""
    folder = tmp_path_factory.mktemp("jax")
    done = subprocess.run(
        [sys.executable, "-c", JAX_RUN, str(folder)],
        env=os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(folder / "found.npz") as stored:
        return dict(stored) | {"kept": folder / "kept.keras"}


@pytest.fixture(scope="module")
def classifier():
    return KerasClassifier(network.load("baseline"), 8)


def test_the_shipped_baseline_has_the_same_gradients(jax, classifier, demo_train):
    """To 1e-4 of the largest gradient, but where rounding decides which side of a kink a unit is on.

    With two million units of ReLU and max-pooling a recording, about one in five has such a unit.
    """
    here = gradients(classifier, demo_train)
    for name in LOSSES:
        for what in ("value", "logits"):
            assert np.allclose(jax[f"{name} {what}"], here[f"{name} {what}"], atol=1e-4)
        one, other = (found[f"{name} gradient"][..., 0] for found in (here, jax))
        largest = np.abs(one).max(axis=1)
        agree = np.abs(one - other).max(axis=1) < 1e-4 * largest
        assert (largest > 1e-3).all() and agree.sum() >= 5
        length = np.linalg.norm(one, axis=1)
        assert (np.linalg.norm(one - other, axis=1) < 0.2 * length).all()


def test_an_attack_does_the_same(jax, classifier, demo_train):
    here = attacked(classifier, demo_train)
    assert (jax["success"] == here.success).all()
    assert np.allclose(jax["loss"][:2], here.loss[:2], atol=0.02)
    assert np.nanmin(jax["loss"][-1] - jax["loss"][0]) > 0
    assert np.mean(np.abs(jax["x"] - here.x) > 1e-5) < 0.1


def test_weights_trained_there_read_the_same_here(jax):
    kept, before = network.load(jax["kept"]), network.load("baseline").get_weights()
    assert np.isfinite(jax["epoch"]).all()
    assert any((a != b).any() for a, b in zip(before, kept.get_weights(), strict=True))
    assert np.allclose(KerasClassifier(kept, 16).logits(jax["few"]), jax["kept z"], atol=1e-4)
