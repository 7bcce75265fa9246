"""JAX against TensorFlow, which all other tests run on: gradients and an attack of the shipped network, training of a small one."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from ecgnb.attacks import Threat, losses, pgd
from ecgnb.models.files import load_model
from ecgnb.models.keras_classifier import KerasClassifier
from ecgnb.training.selection import first_of_each_class

pytestmark = pytest.mark.nightly
LOSSES = ("cross_entropy", "logit_ratio")

JAX_RUN = """
import sys
from pathlib import Path
import numpy as np
from conftest import small_network
from test_backends import attack, gradients
from ecgnb.data.dataset import load_data
from ecgnb.models import network
from ecgnb.models.files import load_model
from ecgnb.models.keras_classifier import BACKEND, KerasClassifier
from ecgnb.training.configuration import TrainingConfig
from ecgnb.training.loop import train
from ecgnb.training.selection import first_of_each_class

assert BACKEND == "jax"
folder, train_set = Path(sys.argv[1]), load_data("train", data="demo")
baseline = load_model("baseline")
classifier = KerasClassifier(baseline, 8)
result = attack(classifier, train_set)
arrays = gradients(classifier, train_set)
arrays |= {"success": result.success, "loss": result.loss, "x": result.x}

subset = first_of_each_class(train_set, 4)
config = TrainingConfig("adaptive", 1, per_class=4, batch_size=8, steps=1)
network.build, start = small_network, small_network()
model, history = train(config, subset, subset.take(slice(2, 16, 4)), folder, start)
arrays |= {"epoch_loss": history["loss"], "subset": subset.x, "kernel_before": start.get_weights()[0]}
arrays |= {"selected_logits": KerasClassifier(model, 16).logits(subset.x)}
np.savez(folder / "arrays.npz", **arrays)
"""


def gradients(classifier, train_set) -> dict[str, np.ndarray]:
    """Value, logits and gradient of each loss, of two recordings of each class, with and without a target."""
    subset = first_of_each_class(train_set, 2)
    targets = np.array([1, -1, 2, -1, 0, -1, 0, -1])
    arrays = {}
    for name in LOSSES:
        found = classifier.loss_and_gradient(subset.x, subset.y, targets, getattr(losses, name))
        parts = zip(("value", "logits", "gradient"), found, strict=True)
        arrays |= {f"{name} {what}": part for what, part in parts}
    return arrays


def attack(classifier, train_set):
    problem = Threat().on(train_set.of_class("A").take(slice(0, 4)))
    return pgd(classifier, problem, steps=4, until_success=True)


@pytest.fixture(scope="module")
def jax(tmp_path_factory):
    """What JAX computed, and the file with the weights it trained."""
    folder = tmp_path_factory.mktemp("jax")
    done = subprocess.run(
        [sys.executable, "-c", JAX_RUN, str(folder)],
        env=os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(folder / "arrays.npz") as stored:
        return dict(stored) | {"selected": folder / "selected.keras"}


@pytest.fixture(scope="module")
def classifier():
    return KerasClassifier(load_model("baseline"), 8)


def test_the_shipped_baseline_has_the_same_gradients(jax, classifier, demo_train):
    """To 1e-4 of the largest gradient, but where rounding decides which side of a kink a unit is on.

    With two million units of ReLU and max-pooling a recording, about one in five has such a unit.
    """
    here = gradients(classifier, demo_train)
    for name in LOSSES:
        for what in ("value", "logits"):
            assert np.allclose(jax[f"{name} {what}"], here[f"{name} {what}"], atol=1e-4)
        one, other = (arrays[f"{name} gradient"][..., 0] for arrays in (here, jax))
        largest = np.abs(one).max(axis=1)
        agree = np.abs(one - other).max(axis=1) < 1e-4 * largest
        assert (largest > 1e-3).all() and agree.sum() >= 5
        length = np.linalg.norm(one, axis=1)
        assert (np.linalg.norm(one - other, axis=1) < 0.2 * length).all()


def test_an_attack_does_the_same(jax, classifier, demo_train):
    here = attack(classifier, demo_train)
    assert (jax["success"] == here.success).all()
    assert np.allclose(jax["loss"][:2], here.loss[:2], atol=0.02)
    assert np.nanmin(jax["loss"][-1] - jax["loss"][0]) > 0
    assert np.mean(np.abs(jax["x"] - here.x) > 1e-5) < 0.1


def test_weights_trained_there_predict_the_same_here(jax):
    selected = load_model(jax["selected"])
    assert np.isfinite(jax["epoch_loss"]).all()
    assert (jax["kernel_before"] != selected.get_weights()[0]).any()
    logits = KerasClassifier(selected, 16).logits(jax["subset"])
    assert np.allclose(logits, jax["selected_logits"], atol=1e-4)
