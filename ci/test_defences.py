"""Defences: whom each attacks and with which weights, TRADES' loss, the alarm, what the dev scores see."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, small_network

from ecgnb import defences, losses, training
from ecgnb import model as network
from ecgnb.evaluation import AF
from ecgnb.gradients import InputGradient
from ecgnb.model import softmax
from ecgnb.recipes import DEFENCES, EPOCHS, Recipe, recipe_for
from ecgnb.records import CLASSES
from ecgnb.report import best_and_last

LATER = ("all-classes", "fast", "trades")


def tiny(defence: str, **changes) -> Recipe:
    settings = dict(epochs=2, per_class=6, batch_size=8, steps=2, dropout=0.3)
    return recipe_for(defence, **settings | changes)


@pytest.fixture
def small(monkeypatch):
    """A network of three layers in place of the one with 34, wherever one is built or saved."""
    monkeypatch.setattr(network, "build", small_network)
    keras.utils.set_random_seed(3)
    return small_network()


def shaken(model: keras.Model) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [w + 0.05 * rng.normal(size=w.shape).astype(w.dtype) for w in model.get_weights()]


def test_every_defence_has_a_name_a_description_and_a_number_of_epochs():
    assert list(defences.BY_NAME) == list(DEFENCES) == list(EPOCHS)


def test_an_epochs_mix_is_the_originals():
    y = np.repeat([0, 1, 2, 3], [771, 5154, 2557, 46])
    drawn = defences.balanced_index(y, 300, np.random.default_rng(0))
    clean, attacked = defences.halves(drawn, y, defences.Adaptive.attacked_classes)
    assert np.bincount(y[clean]).tolist() == [150, 300, 300, 46]
    assert np.bincount(y[attacked]).tolist() == [150] and len(clean) + len(attacked) == 946
    assert not set(clean) & set(attacked)
    everyone = defences.halves(drawn, y, defences.AllClasses.attacked_classes)[1]
    assert np.bincount(y[everyone]).tolist() == [150, 150, 150, 23]


def moved_classes(recipe: Recipe, model: keras.Model, dataset) -> dict[int, float]:
    """Class -> share of the recordings of an epoch that are not as they were."""
    made = defences.BY_NAME[recipe.defence](recipe, dataset, InputGradient(model, 8), model)
    rng = np.random.default_rng(1)
    originals = {x.tobytes() for x in dataset.x}
    moved = {c: [] for c in range(len(CLASSES))}
    for x, y in made.chunks(made.draw(rng), rng):
        for one, c in zip(x, y, strict=True):
            moved[int(c)].append(one.tobytes() not in originals)
    return {c: float(np.mean(flags)) for c, flags in moved.items()}


@pytest.mark.parametrize(
    ("defence", "shares"),
    [
        ("baseline", [0, 0, 0, 0]),
        ("static", [0.5, 0, 0, 0]),
        ("adaptive", [0.5, 0, 0, 0]),
        ("all-classes", [0.5] * 4),
        ("fast", [1.0] * 4),
        ("trades", [0.5] * 4),  # of rows: each recording is there twice, clean and attacked
    ],
)
def test_who_is_attacked(defence, shares, small, demo_train):
    moved = moved_classes(tiny(defence, shift=False, amplitude=False, noise=0), small, demo_train)
    assert list(moved.values()) == shares


@pytest.mark.parametrize("defence", ["static", "adaptive", "all-classes", "fast", "trades"])
def test_only_static_attacks_with_old_weights(defence, small, demo_train):
    """Two epochs of the same draw, the weights changed in between; a later batch meets later weights."""
    recipe = tiny(defence, redraw=False)
    made = defences.BY_NAME[defence](recipe, demo_train, InputGradient(small, 8), small)

    def epoch(change_before: int) -> np.ndarray:
        """The epoch's recordings, weights changed before that chunk is made."""
        small.set_weights(fresh)
        rng, chunks = np.random.default_rng(1), []
        pieces = made.chunks(made.draw(rng), rng)
        while True:
            if len(chunks) == change_before:
                small.set_weights(shaken(small))
            piece = next(pieces, None)
            if piece is None:
                return np.concatenate(chunks)
            chunks.append(piece[0])

    fresh = small.get_weights()
    never, at_once, after_one = (epoch(k) for k in (99, 0, 1))
    assert np.array_equal(never, epoch(99))
    assert np.array_equal(never, at_once) == (defence == "static")
    batchwise = defence in ("fast", "trades")
    assert np.array_equal(never, after_one) != batchwise
    first = 8 * made.copies
    assert np.array_equal(never[:first], after_one[:first])


def test_divergence_is_kl_and_its_slope_is_the_closed_form(linear):
    """With z = x·w, the slope of KL(p ‖ softmax(z)) in x is (softmax(z) - p)·wᵀ."""
    model, weights = linear
    rng = np.random.default_rng(4)
    x = rng.normal(size=(5, 9000, 1)).astype(np.float32)
    reference = rng.normal(size=(5, 4)).astype(np.float32)
    y = np.zeros(5, np.int64)
    value, z, slope = InputGradient(model, 2).value_and_gradient(x, y, reference, losses.divergence)
    p, q = softmax(reference.astype(float)), softmax(z.astype(float))
    assert np.allclose(value, (p * np.log(p / q)).sum(axis=1), atol=1e-5)
    assert np.allclose(slope[..., 0], (q - p) @ weights.T, atol=1e-6)
    same = InputGradient(model, 5).value_and_gradient(x, y, z, losses.divergence)
    assert np.abs(same[0]).max() < 1e-6 and np.abs(same[2]).max() < 1e-6


def test_trades_loss_is_the_papers():
    """The mean over pairs of cross-entropy + β·KL, and 0 weight on a pair leaves it out."""
    rng = np.random.default_rng(5)
    clean, attacked, y = rng.normal(size=(3, 4)), rng.normal(size=(3, 4)), np.array([0, 3, 1])
    p, q = softmax(clean), softmax(attacked)
    each = -np.log(p[np.arange(3), y]) + 2.5 * (p * np.log(p / q)).sum(axis=1)
    rows = np.stack([clean, attacked], axis=1).reshape(6, 4).astype(np.float32)
    labels = np.repeat(np.eye(4, dtype=np.float32)[y], 2, axis=0)
    loss = defences.TradesLoss(2.5)
    assert float(loss(labels, rows)) == pytest.approx(each.mean(), rel=1e-5)
    weights = np.repeat([1.0, 0.0, 0.5], 2)
    assert float(loss(labels, rows, weights)) == pytest.approx(
        (each[0] + each[2] / 2) / 3, rel=1e-5
    )
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert float(again(labels, rows)) == float(loss(labels, rows))


def test_trades_goes_astray_from_the_reading_it_starts_at(small, demo_train):
    problem = defences.untargeted(tiny("trades")).on(demo_train.take(np.arange(6)))
    recipe = tiny("trades", steps=10)
    found = defences.astray(InputGradient(small, 4), problem, recipe, np.random.default_rng(0))
    assert (found.loss[-1] > 2 * found.loss[0]).all()
    assert (problem.ball.size(found.x) <= 0.2).all()
    assert (found.x[~problem.ball.mask] == 0).all()
    pairs, y = next(
        defences.Trades(recipe, demo_train, InputGradient(small, 4), small).chunks(
            np.arange(6), np.random.default_rng(0)
        )
    )
    assert (pairs[::2] == problem.x).all() and (pairs[1::2] == found.x).all()
    assert (y[::2] == problem.y).all() and (y[1::2] == problem.y).all()


def test_fgsm_moves_along_the_slope_as_far_as_the_ball_allows(linear, demo_train):
    """Wong et al.'s step: 1.25 ε from a random point, cut off at the ball; the slope of a linear model is known."""
    problem = defences.untargeted(tiny("fast")).on(demo_train.take(np.arange(5)))
    victim = InputGradient(linear[0], 4)
    begin = problem.ball.random(np.random.default_rng(7))
    slope = victim.value_and_gradient(begin, problem.y, problem.targets)[2]
    x = defences.fgsm(victim, problem, np.random.default_rng(7)).x
    moved = problem.ball.delta(x) * np.sign(slope)
    from_start = problem.ball.delta(begin) * np.sign(slope)
    assert (problem.ball.size(x) <= 0.2).all() and (x[~problem.ball.mask] == 0).all()
    real = problem.ball.mask & (slope != 0)
    assert np.allclose(moved[real], np.minimum(0.2, from_start[real] + 0.25), atol=1e-5)
    reaches = real & (from_start >= -0.05)  # the others began too far on the wrong side
    assert np.allclose(moved[reaches], 0.2, atol=1e-5) and 0.6 < reaches[real].mean() < 0.65


def made_up(robust: list[float], easy: list[float]) -> list[dict]:
    columns = ("dev robust challenge score", "dev FGSM challenge score")
    return [dict(zip(columns, row, strict=True)) for row in zip(robust, easy, strict=True)]


@pytest.mark.parametrize(
    ("what", "robust", "easy", "alarm"),
    [
        ("collapse", [0.2, 0.35, 0.36, 0.02], [0.4, 0.5, 0.52, 0.8], True),
        ("still collapsed, an epoch later", [0.3, 0.36, 0.02, 0.05], [0.4, 0.5, 0.8, 0.8], True),
        ("recovered", [0.3, 0.36, 0.02, 0.3], [0.4, 0.5, 0.8, 0.5], False),
        ("healthy", [0.1, 0.2, 0.3, 0.28], [0.3, 0.4, 0.5, 0.5], False),
        ("first epoch", [0.0], [0.9], False),
        ("never robust", [0.05, 0.03, 0.01], [0.3, 0.3, 0.3], False),
        ("worse at everything", [0.3, 0.36, 0.1], [0.5, 0.5, 0.2], False),
    ],
)
def test_the_alarm_tells_collapse_from_other_trouble(what, robust, easy, alarm):
    assert defences.collapsed(made_up(robust, easy)) is alarm


def test_a_collapsed_epoch_is_told_and_never_the_best(demo_train, demo_dev, capsys):
    """Its clean score is perfect, it reads FGSM's recordings rightly, and its score under PGD has gone."""
    fast = defences.Fast(tiny("fast"), demo_train, Known(demo_dev), None)
    before = {"dev challenge score": 0.5} | made_up([0.4], [0.5])[0]
    row = {"epoch": 2, "dev challenge score": 1.0, "dev robust challenge score": 0.1}
    columns = fast.watch(demo_dev, [before], row)
    assert columns == {"dev FGSM challenge score": 1.0, "catastrophic overfitting": True}
    assert "ALARM: catastrophic overfitting in epoch 2" in capsys.readouterr().out
    healthy = before | {"catastrophic overfitting": False}
    assert fast.criterion(row | columns) == 0 < fast.criterion(healthy) == pytest.approx(0.45)


class Known:
    """A victim that knows recordings by heart, and reads them rightly, or as `perturbed` when they are changed."""

    def __init__(self, dataset, perturbed: int | None = None):
        self.dataset, self.perturbed = dataset, perturbed

    def logits(self, x):
        gaps = [np.abs(self.dataset.x - one).max(axis=(1, 2)) for one in x]
        read = [
            self.dataset.y[gap.argmin()]
            if self.perturbed is None or gap.min() == 0
            else self.perturbed
            for gap in gaps
        ]
        return 9 * np.eye(len(CLASSES), dtype=np.float32)[read]

    def value_and_gradient(self, x, y, targets, loss=losses.cross_entropy):
        return np.zeros(len(x), np.float32), self.logits(x), np.ones_like(x)


def test_the_shortcut_is_seen(demo_dev):
    """A victim that calls whatever is perturbed AF is perfect clean, and by AF recall under attack."""
    scores = training._robust_scores(
        Known(demo_dev, perturbed=AF), demo_dev, demo_dev, tiny("adaptive")
    )
    counts = np.bincount(demo_dev.y)
    f1_af = 2 * counts[AF] / (len(demo_dev) + counts[AF])
    assert scores["dev robust AF recall"] == 1
    assert scores["dev N read as A under random noise"] == 1
    assert scores["dev robust challenge score"] == pytest.approx(f1_af / 3)
    steady = training._robust_scores(Known(demo_dev), demo_dev, demo_dev, tiny("adaptive"))
    assert list(steady.values()) == [1, 1, 0]


@pytest.mark.parametrize(
    ("defence", "precision", "averaging"),
    [*((name, "float32", 0) for name in DEFENCES), ("trades", "bfloat16", 0.9)],
)
def test_every_defence_goes_on_after_an_interruption_as_if_there_had_been_none(
    defence, precision, averaging, small, demo_train, demo_dev, tmp_path, monkeypatch
):
    recipe = tiny(defence, precision=precision, averaging=averaging)
    start = None if defence == "baseline" else small
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def leave_behind(row, *_):
        """What a run killed after its first epoch leaves."""
        if row["epoch"] == 1:
            shutil.copytree(whole, broken)

    with monkeypatch.context() as patched:
        patched.setattr(training, "_print_epoch", leave_behind)
        model, history = training.train(recipe, demo_train, demo_dev, whole, start)
    assert (broken / "checkpoint-0001.keras").exists()
    training.train(recipe, demo_train, demo_dev, broken, start)

    ends = [keras.models.load_model(f / "checkpoint-0002.keras") for f in (whole, broken)]
    for variables in ([e.weights for e in ends], [e.optimizer.variables for e in ends]):
        assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(*variables, strict=True))
    tables = [pd.read_csv(folder / "history.csv") for folder in (whole, broken)]
    assert tables[0].equals(tables[1]) and len(history) == 2 and np.isfinite(history["loss"]).all()
    before = small.get_weights()
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert all((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
    watched = {"dev robust challenge score", "dev N read as A under random noise"}
    assert watched <= set(history) or defence == "baseline"
    assert ("catastrophic overfitting" in history) == (defence == "fast")


JAX_RUN = """
import sys
from pathlib import Path
import keras, numpy as np
sys.path.insert(0, sys.argv[2])
from conftest import ROOT, small_network
from ecgnb import data, gradients, model as network, training
from ecgnb.recipes import recipe_for
assert gradients.BACKEND == "jax"
network.build = small_network
train_set, dev_set = (data.load(split, data="demo") for split in ("train", "dev"))
for defence in sys.argv[3:]:
    recipe = recipe_for(defence, epochs=1, per_class=6, batch_size=8, steps=2)
    _, history = training.train(recipe, train_set, dev_set, Path(sys.argv[1]) / defence, small_network())
    assert np.isfinite(history["loss"]).all()
print("TRAINED")
"""


def test_defences_that_attack_every_batch_train_on_jax(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", JAX_RUN, str(tmp_path), str(ROOT / "ci"), "fast", "trades"],
        env=os.environ | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("TRAINED\n"), done.stderr[-2000:]


def test_the_weights_average_is_judged_and_kept_while_training_goes_on_without_it(
    small, demo_train, demo_dev, tmp_path
):
    """The trained weights are those of a run without averaging; the kept ones are their average."""
    runs = {}
    for momentum in (0.0, 0.5):
        folder = tmp_path / str(momentum)
        recipe = tiny("baseline", averaging=momentum, select="last")
        kept, _ = training.train(recipe, demo_train, demo_dev, folder)
        trained = keras.models.load_model(folder / "checkpoint-0002.keras", safe_mode=True)
        runs[momentum] = trained, kept
    weights = [[w.numpy() for w in model.trainable_weights] for model in runs[0.5] + runs[0.0]]
    trained, kept, alone, kept_alone = weights
    assert all(np.array_equal(a, b) for a, b in zip(trained, alone, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(alone, kept_alone, strict=True))
    averages = runs[0.5][0].optimizer.variables
    assert all(
        any(w.shape == v.shape and np.array_equal(w, v) for v in map(np.asarray, averages))
        for w in kept
    )
    assert all((a != b).any() for a, b in zip(trained, kept, strict=True))


def test_a_run_from_before_a_setting_existed_goes_on(small, demo_train, demo_dev, tmp_path):
    """Its recipe lacks the setting, its history the columns that came since."""
    recipe = tiny("adaptive", epochs=1)
    training.train(recipe, demo_train, demo_dev, tmp_path, small)
    file, table = tmp_path / "recipe.json", tmp_path / "history.csv"
    settings = json.loads(file.read_text())
    del settings["beta"]
    file.write_text(json.dumps(settings | {"epochs": 2}))
    history = pd.read_csv(table).drop(columns="dev robust challenge score")
    history.to_csv(table, index=False)
    _, history = training.train(tiny("adaptive"), demo_train, demo_dev, tmp_path, small)
    assert history["dev robust challenge score"].isna().tolist() == [True, False]
    assert history["criterion"].notna().all()


@pytest.mark.parametrize(
    ("defence", "expected"),
    [("baseline", 0.8), ("static", 0.6), ("adaptive", 0.6), *((name, 0.5) for name in LATER)],
)
def test_the_rule_by_which_an_epoch_is_kept(defence, expected):
    row = {
        "dev challenge score": 0.8,
        "dev robust AF recall": 0.4,
        "dev robust challenge score": 0.2,
        "catastrophic overfitting": False,
    }
    assert defences.BY_NAME[defence].criterion(row) == pytest.approx(expected)


def test_best_and_last_epoch_stand_side_by_side():
    history = pd.DataFrame(
        {"epoch": [1, 2, 3], "dev robust challenge score": [0.1, 0.3, 0.2], "criterion": [1, 2, 2]}
    )
    rows = best_and_last(history)
    assert rows.loc["epoch"].tolist() == [3, 3]
    history.loc[2, "criterion"] = 1
    rows = best_and_last(history)
    assert rows.loc["epoch"].tolist() == [2, 3]
    assert rows.loc["dev robust challenge score"].tolist() == [0.3, 0.2]
    history = pd.read_csv(ROOT / "models" / "static.csv")
    shipped = best_and_last(history)
    assert shipped.loc["criterion", "best"] == history["criterion"].max()
    assert shipped.loc["epoch", "last"] == len(history)
    fall = shipped.loc["dev robust AF recall"]
    assert fall["last"] < fall["best"]  # robust overfitting
