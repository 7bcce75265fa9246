"""JAX against TensorFlow, which all other tests run on: gradients, an attack, an epoch of training, weights."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from ecgnb import losses
from ecgnb import model as network
from ecgnb.attacks import pgd
from ecgnb.gradients import InputGradient
from ecgnb.threats import Threat

LOSSES = ("cross_entropy", "logit_ratio")

JAX_RUN = """
import sys
from pathlib import Path
import numpy as np
from test_backends import attacked, slopes
from ecgnb import data, training
from ecgnb import model as network
from ecgnb.gradients import BACKEND, InputGradient
from ecgnb.recipes import Recipe

assert BACKEND == "jax"
folder, train = Path(sys.argv[1]), data.load("train", data="demo")
baseline = network.load("baseline")
victim = InputGradient(baseline, 8)
found = slopes(victim, train)
turned = attacked(victim, train)
found |= {"success": turned.success, "loss": turned.loss, "x": turned.x}

few = train.take(np.concatenate([np.flatnonzero(train.y == c)[:4] for c in range(4)]))
recipe = Recipe("adaptive", 1, per_class=4, batch_size=8, steps=1)
kept, history = training.train(recipe, few, few.take(slice(2, 16, 4)), folder, baseline)
found |= {"epoch": history["loss"], "kept z": InputGradient(kept, 16).logits(few.x), "few": few.x}
np.savez(folder / "found.npz", **found)
"""


def slopes(victim, train) -> dict[str, np.ndarray]:
    """Value, logits and slope of each loss, of two recordings of each class, with and without a target."""
    some = train.take(np.concatenate([np.flatnonzero(train.y == c)[:2] for c in range(4)]))
    found = {}
    for name in LOSSES:
        aims = np.array([1, -1, 2, -1, 0, -1, 0, -1])
        read = victim.value_and_gradient(some.x, some.y, aims, getattr(losses, name))
        parts = zip(("value", "logits", "slope"), read, strict=True)
        found |= {f"{name} {what}": part for what, part in parts}
    return found


def attacked(victim, train):
    problem = Threat().on(train.of_class("A").take(slice(0, 4)))
    return pgd(victim, problem, steps=4, until_success=True)


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
def victim():
    return InputGradient(network.load("baseline"), 8)


def test_the_shipped_baseline_has_the_same_gradients(jax, victim, demo_train):
    """To 1e-4 of the largest slope, but where rounding decides which side of a kink a unit is on.

    With two million units of ReLU and max-pooling a recording, about one in five has such a unit.
    """
    here = slopes(victim, demo_train)
    for name in LOSSES:
        for what in ("value", "logits"):
            assert np.allclose(jax[f"{name} {what}"], here[f"{name} {what}"], atol=1e-4)
        one, other = (found[f"{name} slope"][..., 0] for found in (here, jax))
        largest = np.abs(one).max(axis=1)
        agree = np.abs(one - other).max(axis=1) < 1e-4 * largest
        assert (largest > 1e-3).all() and agree.sum() >= 5
        length = np.linalg.norm(one, axis=1)
        assert (np.linalg.norm(one - other, axis=1) < 0.2 * length).all()


def test_an_attack_does_the_same(jax, victim, demo_train):
    here = attacked(victim, demo_train)
    assert (jax["success"] == here.success).all()
    assert np.allclose(jax["loss"][:2], here.loss[:2], atol=0.02)
    assert np.nanmin(jax["loss"][-1] - jax["loss"][0]) > 0
    assert np.mean(np.abs(jax["x"] - here.x) > 1e-5) < 0.1


def test_weights_trained_there_read_the_same_here(jax):
    kept, before = network.load(jax["kept"]), network.load("baseline").get_weights()
    assert np.isfinite(jax["epoch"]).all()
    assert any((a != b).any() for a, b in zip(before, kept.get_weights(), strict=True))
    assert np.allclose(InputGradient(kept, 16).logits(jax["few"]), jax["kept z"], atol=1e-4)
