"""Training on the demo set: kill and resume, one epoch's mix, statistics, several devices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, small_network
from keras import layers

from ecgnb.__main__ import main
from ecgnb.attacks import Threat, pgd
from ecgnb.errors import EcgnbError
from ecgnb.models import files, network
from ecgnb.models.files import save_model
from ecgnb.models.keras_classifier import KerasClassifier
from ecgnb.training import defences, loop
from ecgnb.training.configuration import TrainingConfig, training_config
from ecgnb.training.step import recompute_statistics

TINY = ["--data", "demo", "--per-class", "6", "--batch-size", "8", "--steps", "2", "--dropout", "0.3", "--epochs", "2"]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    keras.utils.set_random_seed(5)
    path = tmp_path_factory.mktemp("start") / "start.keras"
    save_model(small_network(), path)
    return path


@pytest.fixture
def small(monkeypatch):
    """A network of three layers in place of the one with 34, wherever one is built or saved."""
    monkeypatch.setattr(network, "build", small_network)
    keras.utils.set_random_seed(8)
    return small_network()


@pytest.mark.nightly
def test_a_run_killed_with_sigkill_and_resumed_equals_the_unbroken_one(tmp_path, start, capsys):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"

    def train(folder, *more):
        return ["train", "adaptive", str(folder), *TINY, "--epochs", "8", "--start", str(start), *more]

    assert main(train(unbroken)) == 0
    command = [sys.executable, "-m", "ecgnb", *train(broken)]
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    run = subprocess.Popen(command, **quiet)
    while not list(broken.glob("checkpoint-*.keras")):
        assert run.poll() is None, run.stderr.read().decode()
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    reached = [p.stem for p in broken.glob("checkpoint-*.keras")]
    assert reached and "checkpoint-0008" not in reached
    subprocess.run(command, check=True, **quiet)

    ends = [keras.models.load_model(f / "checkpoint-0008.keras") for f in (unbroken, broken)]
    for variables in ([e.weights for e in ends], [e.optimizer.variables for e in ends]):
        assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(*variables, strict=True))
    histories = [pd.read_csv(f / "history.csv") for f in (unbroken, broken)]
    assert histories[0].equals(histories[1]) and len(histories[0]) == 8
    assert [p.name for p in broken.glob(".*")] == [".lock"], "a half-written file was left behind"

    assert main(train(broken, "--epsilon", "0.1")) == 2
    message = capsys.readouterr().err
    assert "other settings (epsilon)" in message and "Traceback" not in message


def test_recomputed_statistics_are_those_of_inference(demo_train):
    """After `recompute_statistics`, inference equals training mode without dropout; before, it does not."""
    keras.utils.set_random_seed(7)
    model = network.build(dropout=0.5)
    x = demo_train.x[:8]
    bare = network.build(dropout=0.0)
    bare.set_weights(model.get_weights())
    batch_mode = np.asarray(bare(x, training=True))
    assert not np.allclose(model(x, training=False), batch_mode, atol=0.05)
    recompute_statistics(model, x, batch_size=8)
    assert np.allclose(model(x, training=False), batch_mode, atol=0.02)
    rates = {n.rate for n in model.layers if isinstance(n, layers.Dropout)}
    momenta = {n.momentum for n in model.layers if isinstance(n, layers.BatchNormalization)}
    assert 0.5 in rates and momenta == {0.99}


def test_augmented_windows_stay_recordings(demo_train):
    for i in range(6):
        signal = demo_train.signals[i]
        x = defences.augment(signal, training_config("baseline"), np.random.default_rng(i))
        n = min(len(signal), 9000)
        assert x.shape == (9000,) and x.dtype == np.float32
        assert (x[n:] == 0).all() and abs(x[:n].mean()) < 0.02 and 0.7 < x[:n].std() < 1.3
        unaltered = defences.augment(signal, TrainingConfig("baseline", 1), np.random.default_rng(i))
        assert (unaltered == demo_train.x[i, :, 0]).all()
        shifted = defences.augment(signal, TrainingConfig("baseline", 1, shift=True), np.random.default_rng(i))
        assert (shifted != unaltered).any()
        assert (np.sort(shifted) == np.sort(unaltered)).all() or len(signal) > 9000


TWO_DEVICES = """
import sys
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
sys.path.insert(0, sys.argv[1])
from conftest import small_network
from ecgnb.attacks import cross_entropy
from ecgnb.models import devices, network
from ecgnb.models.keras_classifier import KerasClassifier
from ecgnb.training.defences import TradesLoss
from ecgnb.training.step import synchronise_batch_norm, training_step

def one_step(strategy, build, loss):
    devices.strategy = lambda: strategy
    keras.utils.set_random_seed(0)
    with devices.distribution():
        model = build(dropout=0)
        model.compile(keras.optimizers.SGD(1.0), loss)
        synchronise_batch_norm(model)
    assert devices.replicas(model) == (2 if strategy else 1)
    for layer in model.layers:  # through 34 of them a change in the last digit is no longer small
        if build is network.build and isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    before = model.get_weights()
    gradient = KerasClassifier(model, 4).loss_and_gradient(x, y, 0 * y, cross_entropy)[2]
    if strategy:
        copies = 2 if isinstance(loss, TradesLoss) else 1
        loss_before = training_step(model, copies)(x, np.eye(4, dtype="float32")[y], weights)
    else:
        how = dict(sample_weight=weights, batch_size=len(x), shuffle=False, verbose=0)
        loss_before = model.fit(x, np.eye(4)[y], **how).history["loss"][0]
    after = model.get_weights()
    return loss_before, gradient, [b - a for a, b in zip(before, after, strict=True)]

names = [d.name for d in tf.config.list_logical_devices("CPU")]
mirrored = tf.distribute.MirroredStrategy(names)
plain = keras.losses.CategoricalCrossentropy(from_logits=True)
rng = np.random.default_rng(0)
for build, loss, n in (
    (network.build, plain, 5),
    (small_network, plain, 5),
    (small_network, plain, 1),
    (small_network, TradesLoss(6.0), 6),
):
    x, y = rng.normal(size=(n, 9000, 1)).astype("float32"), rng.integers(0, 4, n)
    weights = rng.uniform(0.5, 2, n).astype("float32")
    one, two = (one_step(strategy, build, loss) for strategy in (None, mirrored))
    assert abs(one[0] - two[0]) < 1e-5 * one[0], (n, one[0], two[0])
    for a, b in ([one[1]], [two[1]]), (one[2], two[2]):
        size = max(np.abs(g).max() for g in a)
        gap = max(np.abs(g - h).max() for g, h in zip(a, b, strict=True))
        assert size > 0 and gap < 1e-3 * size, (build, n, gap, size)
print("STEPS MATCH")
"""


@pytest.mark.nightly
def test_a_step_on_two_devices_is_that_on_one():
    """The loss, the gradients of attacks, the weights, the statistics; also of rows that cannot be halved."""
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, str(ROOT / "ci")], capture_output=True, text=True, check=False
    )
    assert "STEPS MATCH" in done.stdout, done.stderr[-2000:]


def test_a_wrong_defence_or_a_missing_start_is_named(demo_train, demo_dev, tmp_path):
    with pytest.raises(EcgnbError, match="dynamic"):
        training_config("dynamic")
    with pytest.raises(EcgnbError, match="give the baseline"):
        loop.train(training_config("static"), demo_train, demo_dev, tmp_path)


def test_a_model_that_trains_is_attacked_with_its_current_weights(demo_dev, small):
    """One KerasClassifier serves a model while it trains: it must not freeze the weights it first saw."""
    classifier = KerasClassifier(small, 4)
    problem = Threat().on(demo_dev.take(np.arange(4)))
    before = pgd(classifier, problem, steps=1).logits
    small.set_weights([1.1 * w for w in small.get_weights()])
    after = pgd(classifier, problem, steps=1).logits
    assert not np.allclose(before, after)


@pytest.mark.parametrize(
    ("defence", "protocol", "begins"),
    [("baseline", "leakfree", ""), ("fast", "leakfree", "baseline"), ("static", "original", "original-baseline")],
)
def test_a_defence_starts_from_its_protocols_baseline_and_the_baseline_from_nothing(
    defence, protocol, begins, monkeypatch, tmp_path, capsys
):
    given = {"start": ""}

    def train(config, train_set, dev_set, folder, start, resume):
        given.update(config=config, start=start or "")
        return start, pd.DataFrame({"epoch": [1, 2], "criterion": [0.7, 0.6]})

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(files, "load_model", lambda name: name)
    command = ["train", defence, str(tmp_path), "--data", "demo", "--epochs", "2", "--protocol", protocol]
    assert main(command) == 0
    assert given["config"].defence == defence and given["start"] == begins
    printed = capsys.readouterr().out
    assert "selected model" in printed and "best" in printed and "last" in printed
