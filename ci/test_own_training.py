"""Training what people bring: networks of any architecture, for any classes, by any defence, also one of their own."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import recordings
from keras import layers

from ecgnb import notebook
from ecgnb.__main__ import main
from ecgnb.data.dataset import Dataset
from ecgnb.errors import EcgnbError
from ecgnb.models import network
from ecgnb.models.files import load_model
from ecgnb.models.identity import same_layers
from ecgnb.training import defences, loop
from ecgnb.training.configuration import DEFENCES, EPOCHS, training_config
from ecgnb.training.step import _layers, recompute_statistics

TWO = ("N", "A")


def own_network(shape=(800, 3), classes: int = 2, end=lambda z: z) -> keras.Model:
    """Batch-norm and dropout of several kinds, part of them in a model inside the model."""
    keras.utils.set_random_seed(6)
    block = keras.Sequential([keras.Input((None, 4)), layers.BatchNormalization(), layers.SpatialDropout1D(0.4)])
    inputs = keras.Input(shape)
    x = block(layers.Conv1D(4, 9, strides=4, activation="relu")(inputs))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling1D()(layers.GaussianNoise(0.1)(x)))
    return keras.Model(inputs, end(layers.Dense(classes)(layers.Dropout(0.0)(x))))


def own_data(demo: Dataset) -> Dataset:
    made = recordings(demo, 800, 3, TWO, 100)
    return replace(made, signals=tuple(made.x))


def tiny(defence: str, **changes):
    settings = dict(epochs=2, per_class=6, batch_size=8, steps=2, dropout=0.3)
    return training_config(defence, **settings | changes)


@pytest.mark.parametrize("defence", ["baseline", "static", "trades"])  # the others share their parts
def test_any_network_is_trained_by_any_defence_and_goes_on_where_it_stopped(
    defence, demo_train, demo_dev, tmp_path, monkeypatch
):
    folds, start, config = [own_data(fold) for fold in (demo_train, demo_dev)], own_network(), tiny(defence)
    before = start.get_weights()
    model, history = loop.train(config, *folds, tmp_path / "whole", start)
    save = loop._save_epoch

    def killed(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        loop.train(config, *folds, tmp_path / "broken", start)
    monkeypatch.undo()
    again, other = loop.train(config, *folds, tmp_path / "broken", start)
    assert history.equals(other) and all(map(np.array_equal, model.get_weights(), again.get_weights()))
    assert all(map(np.array_equal, before, start.get_weights())), "the model of the user was changed"
    assert same_layers(model, start) and not all(map(np.array_equal, before, model.get_weights()))
    rates = [layer.rate for layer in _layers(model) if isinstance(layer, layers.Dropout)]
    assert sorted(rates) == [0, 0.3, 0.3]
    robust = set() if defence == "baseline" else {"dev_robust_recall_A", "dev_robust_macro_f1"}
    assert {"dev_macro_f1", "dev_f1_N", "dev_recall_A", "criterion"} | robust <= set(history.columns)


def test_the_studys_network_is_built_as_before_whatever_file_it_comes_from():
    """Its layers are counted as they always were, so that a run of before goes on bit by bit."""
    model = network.build()
    assert _layers(model) == model.layers
    assert same_layers(model, network.build(0.0)) and not same_layers(model, own_network())
    assert same_layers(load_model("baseline"), model)


def test_statistics_are_recomputed_in_models_inside(demo_train):
    model, x = own_network(), own_data(demo_train).x[:8]
    norm = next(layer for layer in _layers(model) if isinstance(layer, layers.BatchNormalization))
    recompute_statistics(model, x, batch_size=8)
    inner = np.maximum(np.asarray(model.layers[1](x)), 0)
    assert np.allclose(norm.moving_mean, inner.mean(axis=(0, 1)), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [
        (dict(attack_class="B"), {}, "attack_class='B': expected N or A"),
        (dict(target="O"), {}, "target='O': expected N or A"),
        ({}, dict(shape=(500, 3)), "has 800 samples a recording, the model takes 500"),
        ({}, dict(shape=(800, 1)), "has 3 leads, the model takes 1"),
        ({}, dict(classes=3), "for the 2 classes N,A"),
        ({}, dict(end=lambda z: layers.Lambda(lambda z: z)(z)), "once it is saved: .*Lambda"),
    ],
)
def test_what_cannot_be_trained_is_told_before_any_work(changes, model, message, demo_train, demo_dev, tmp_path):
    folds = [own_data(fold) for fold in (demo_train, demo_dev)]
    with pytest.raises(EcgnbError, match=message) as caught:
        loop.train(tiny("adaptive", **changes), *folds, tmp_path, own_network(**model))
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("*.keras"))


def test_a_class_is_not_attacked_towards_itself():
    with pytest.raises(EcgnbError, match="target='A' is the attacked class itself"):
        training_config("adaptive", target="A")


def test_any_class_is_attacked(demo_train, demo_dev, tmp_path):
    folds = [own_data(fold) for fold in (demo_train, demo_dev)]
    config = tiny("adaptive", epochs=1, attack_class="N", target="A")
    _, history = loop.train(config, *folds, tmp_path, own_network())
    assert {"dev_recall_N", "dev_robust_recall_N"} <= set(history.columns) and "dev_recall_A" not in history


# ---- a defence of the user's ----

OWN = '''
from ecgnb.training.defences import HalfAttacked, register

@register
class Shifted(HalfAttacked):
    """Half of every class is moved by ε."""

    name, help, epochs = "shifted", "half of every class moved by epsilon", 3

    def adversarial(self, rows, rng):
        problem = self._problem(rows)
        return problem.ball.project(problem.x + 1)

class NotOne:
    name, help, epochs = "not-one", "nothing", 1
'''


@pytest.fixture
def own(working_folder):
    """The working folder, with a module of the user's."""
    (working_folder / "own_defence.py").write_text(OWN)
    yield working_folder
    for known in (DEFENCES, EPOCHS, defences.BY_NAME):
        known.pop("shifted", None)


def test_a_defence_of_a_file_of_the_users_is_trained_on_the_command_line(own, capsys):
    own_network((9000, 1), 4).save("mine.keras")
    settings = ["--data", "demo", "--per-class", "6", "--batch-size", "8", "--epochs", "1"]
    assert main(["train", "own_defence:Shifted", "run", "--start", "mine.keras", *settings]) == 0
    assert "selected model" in capsys.readouterr().out
    assert same_layers(load_model(own / "run" / "selected.keras"), own_network((9000, 1), 4))
    assert '"defence": "shifted"' in (own / "run" / "config.json").read_text()
    assert training_config("own_defence:Shifted").epochs == 3 and training_config("shifted").defence == "shifted"


def test_a_notebook_trains_it_too(own):
    own_network((9000, 1), 4).save("mine.keras")
    config = tiny("own_defence:Shifted", epochs=1)
    assert notebook.read_parameter("DEFENCE", "own_defence:Shifted", "fast") == "own_defence:Shifted"
    source = dict(data="demo")
    model, _, origin = notebook.load_or_train(config, "mine", own, source, start=str(own / "mine.keras"))
    assert origin == "shifted trained here for 1 epochs" and same_layers(model, own_network((9000, 1), 4))
    assert same_layers(load_model(own / "models" / "mine.keras"), model)
    # Its settings and history lie beside it, so that it cannot pass for a model of another protocol.
    found, history, name = notebook.load_or_train(None, str(own / "models" / "mine.keras"), own, source)
    assert same_layers(found, model) and len(history) == 1 and name == "mine"
    with pytest.raises(EcgnbError, match=r"mine\.keras: trained under protocol leakfree, this run is of protocol orig"):
        notebook.load(own / "models" / "mine.keras", "original")
    assert same_layers(notebook.load(own / "mine.keras", "original"), model), "nobody knows how it was trained"


@pytest.mark.parametrize(
    ("defence", "message"),
    [
        ("own_defence:NotOne", "is no registered defence; put @register"),
        ("own_defence:Absent", "cannot be imported from .*Absent"),
        ("no_such_file:Mine", "cannot be imported from .*no_such_file"),
        ("dynamic", "defence='dynamic': expected baseline or "),
    ],
)
def test_what_is_no_defence_is_one_line(own, defence, message, capsys):
    assert main(["train", defence, "run", "--data", "demo"]) == 2
    with pytest.raises(EcgnbError, match=message):
        training_config(defence)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_name_is_not_taken_twice(own):
    class Mine(defences.HalfAttacked):
        name, help = "fast", "another"

    with pytest.raises(EcgnbError, match="there is a defence 'fast' already"):
        defences.register(Mine)
    with pytest.raises(EcgnbError, match="is no defence; derive a class from"):
        defences.register(str)
    Mine.name = "no name"
    with pytest.raises(EcgnbError, match="name='no name'"):
        defences.register(Mine)
