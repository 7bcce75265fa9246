"""Defences: which recordings each attacks, with which weights; TRADES' loss; the alarm; what the dev scores show."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, small_network

from ecgnb.attacks import cross_entropy, divergence
from ecgnb.constants import CLASSES, FS
from ecgnb.data.dataset import class_weights
from ecgnb.models import network
from ecgnb.models.classifier import softmax
from ecgnb.models.keras_classifier import KerasClassifier
from ecgnb.training import defences, loop, selection
from ecgnb.training.configuration import DEFENCES, EPOCHS, TrainingConfig, training_config

AF = CLASSES.index("A")
LATER = ("all-classes", "fast", "trades")


def tiny(defence: str, **changes) -> TrainingConfig:
    settings = dict(epochs=2, per_class=6, batch_size=8, steps=2, dropout=0.3)
    return training_config(defence, **settings | changes)


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


def test_an_epochs_mix_is_the_originals(demo_train):
    y = np.repeat([0, 1, 2, 3], [771, 5154, 2557, 46])
    drawn = defences.balanced_index(y, 300, np.random.default_rng(0))

    def split(defence: str):
        kind, config = defences.BY_NAME[defence], training_config(defence)
        return kind(config, replace(demo_train, y=y), None, None).split(drawn)

    clean, attacked = split("adaptive")
    assert np.bincount(y[clean]).tolist() == [150, 300, 300, 46]
    assert np.bincount(y[attacked]).tolist() == [150] and len(clean) + len(attacked) == 946
    assert not set(clean) & set(attacked)
    assert np.bincount(y[split("all-classes")[1]]).tolist() == [150, 150, 150, 23]


def test_protocol_original_is_the_originals_recipe():
    """The settings of the original study, and of the training of the weights that it started from."""
    shared = dict(dropout=0.5, statistics="as_trained", select="last", redraw=False, class_power=1, label_smoothing=0)
    shared |= dict(weight_decay=0, cosine=False, shift=False, amplitude=False, noise=0, mask_padding=False)
    own = {
        "baseline": dict(learning_rate=1e-3, plateau=True),
        "static": dict(learning_rate=1e-4, plateau=False, steps=20, epochs=75),
        "adaptive": dict(learning_rate=1e-4, plateau=False, steps=10, epochs=150),
    }
    for defence, settings in own.items():
        config = training_config(defence, "original")
        assert {name: getattr(config, name) for name in shared | settings} == shared | settings


def perturbed_shares(config: TrainingConfig, model: keras.Model, dataset) -> list[float]:
    """For each class the share of an epoch's recordings that are perturbed."""
    defence = defences.BY_NAME[config.defence](config, dataset, KerasClassifier(model, 8), model)
    rng = np.random.default_rng(1)
    clean = {x.tobytes() for x in dataset.x}
    chunks = list(defence.chunks(defence.draw(rng), rng))
    y = np.concatenate([y for _, y in chunks])
    is_perturbed = np.array([x.tobytes() not in clean for xs, _ in chunks for x in xs])
    return [is_perturbed[y == c].mean() for c in range(len(CLASSES))]


@pytest.mark.parametrize(
    ("defence", "shares"),
    [
        ("baseline", [0, 0, 0, 0]),
        ("static", [0.5, 0, 0, 0]),
        ("adaptive", [0.5, 0, 0, 0]),
        ("all-classes", [0.5] * 4),
        ("fast", [1.0] * 4),
        ("trades", [0.5] * 4),  # of rows: each recording is there twice, clean and attacked
        ("control", [0, 0, 0, 0]),
    ],
)
def test_which_classes_are_attacked(defence, shares, small, demo_train):
    config = tiny(defence, shift=False, amplitude=False, noise=0)
    assert perturbed_shares(config, small, demo_train) == shares


def test_the_control_trains_on_the_recordings_of_static_and_adaptive_and_attacks_none(small, demo_train):
    def epoch(defence: str):
        tested = defences.BY_NAME[defence](tiny(defence), demo_train, KerasClassifier(small, 8), small)
        rng = np.random.default_rng(1)
        return next(tested.chunks(tested.draw(rng), rng))

    x, y = epoch("control")
    assert {one.tobytes() for one in x} <= {one.tobytes() for one in demo_train.x}
    for defence in ("static", "adaptive"):
        attacked, labels = epoch(defence)
        assert (labels == y).all()
        differs = (attacked != x).any(axis=(1, 2))
        assert differs.sum() == 3 and (y[differs] == AF).all()  # half of the AF drawn
        assert np.abs(attacked.astype(float) - x).max() <= 0.2


def test_class_weights_count_the_recordings_drawn_or_all_of_them(demo_train):
    dataset = demo_train.take(np.argsort(demo_train.y, kind="stable")[6:])  # fewer AF than others

    def weights(counts: str) -> list[float]:
        seen: dict[int, float] = {}

        def fit(x, y, weights, step_bar):
            seen.update(zip(y.argmax(axis=1).tolist(), weights.tolist(), strict=True))
            return 1.0

        config = tiny("control", per_class=2, class_counts=counts)
        loop.run_epoch(fit, defences.Control(config, dataset, None, None), np.random.default_rng(0), "")
        return [seen[c] for c in range(len(CLASSES))]

    assert weights("drawn") == [1, 1, 1, 1]
    assert weights("all") == pytest.approx(class_weights(dataset.y)) and len(set(weights("all"))) > 1


def test_the_learning_rate_is_cut_on_a_plateau_also_after_an_interruption(
    small, demo_train, demo_dev, tmp_path, monkeypatch
):
    rates: list[float] = []

    def run_epoch(fit, defence, rng, text):
        rates.append(float(fit.optimizer.learning_rate))
        if len(rates) == 5:
            raise KeyboardInterrupt
        return 1.0, demo_train.x[:8]  # the loss never falls

    def fit_function(model, batch_size, copies):
        model.optimizer.build(model.trainable_variables)
        return model

    monkeypatch.setattr(loop, "run_epoch", run_epoch)
    monkeypatch.setattr(loop, "fit_function", fit_function)
    config = training_config("baseline", "original", epochs=6)
    with pytest.raises(KeyboardInterrupt):
        loop.train(config, demo_train, demo_dev, tmp_path)
    loop.train(config, demo_train, demo_dev, tmp_path)
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-4, 1e-5])  # the fifth epoch was begun twice


@pytest.mark.parametrize("defence", DEFENCES)
def test_noise_is_added_to_clean_and_attacked_recordings_alike(defence, small, demo_train):
    """To the real samples of each in a whole epoch, with an SD of its own up to the setting."""

    def epoch(noise: float) -> np.ndarray:
        config = tiny(defence, batch_size=24, shift=False, amplitude=False, noise=noise)
        tested = defences.BY_NAME[defence](config, demo_train, KerasClassifier(small, 8), small)
        rng = np.random.default_rng(1)
        return next(tested.chunks(tested.draw(rng), rng))[0]

    quiet = epoch(0)
    added = epoch(0.25) - quiet
    assert (added[quiet == 0] == 0).all() and (quiet == 0).any()
    sds = np.array([one[x != 0].std() for one, x in zip(added, quiet, strict=True)])
    assert (sds > 0).all() and sds.max() < 0.26 and np.ptp(sds) > 0.1


@pytest.mark.parametrize("defence", ["static", "adaptive", "all-classes", "fast", "trades"])
def test_only_static_attacks_with_old_weights(defence, small, demo_train):
    """Two epochs of the same draw, the weights changed in between; a later batch meets later weights."""
    config = tiny(defence, redraw=False)
    tested = defences.BY_NAME[defence](config, demo_train, KerasClassifier(small, 8), small)

    def epoch(change_before: int) -> np.ndarray:
        """The epoch's recordings, weights changed before that chunk is made."""
        small.set_weights(fresh)
        rng, chunks = np.random.default_rng(1), []
        pieces = tested.chunks(tested.draw(rng), rng)
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
    first = 8 * tested.copies
    assert np.array_equal(never[:first], after_one[:first])


def test_divergence_is_kl_and_its_gradient_is_the_closed_form(linear):
    """With z = x·w, the gradient of KL(p ‖ softmax(z)) in x is (softmax(z) - p)·wᵀ."""
    model, weights = linear
    rng = np.random.default_rng(4)
    x = rng.normal(size=(5, 9000, 1)).astype(np.float32)
    reference = rng.normal(size=(5, 4)).astype(np.float32)
    y = np.zeros(5, np.int64)
    value, z, gradient = KerasClassifier(model, 2).loss_and_gradient(x, y, reference, divergence)
    p, q = softmax(reference.astype(float)), softmax(z.astype(float))
    assert np.allclose(value, (p * np.log(p / q)).sum(axis=1), atol=1e-5)
    assert np.allclose(gradient[..., 0], (q - p) @ weights.T, atol=1e-6)
    same = KerasClassifier(model, 5).loss_and_gradient(x, y, z, divergence)
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
    assert float(loss(labels, rows, weights)) == pytest.approx((each[0] + each[2] / 2) / 3, rel=1e-5)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert float(again(labels, rows)) == float(loss(labels, rows))


def test_trades_maximises_the_divergence_from_the_clean_prediction(small, demo_train):
    config = tiny("trades", steps=10)
    problem = config.untargeted_threat.on(demo_train.take(np.arange(6)))
    rng = np.random.default_rng(0)
    result = defences.kl_ascent(KerasClassifier(small, 4), problem, config, rng)
    assert (result.loss[-1] > 2 * result.loss[0]).all()
    assert (problem.ball.size(result.x) <= 0.2).all()
    assert (result.x[~problem.ball.mask] == 0).all()
    pairs, y = next(
        defences.Trades(config, demo_train, KerasClassifier(small, 4), small).chunks(
            np.arange(6), np.random.default_rng(0)
        )
    )
    assert (pairs[::2] == problem.x).all() and (pairs[1::2] == result.x).all()
    assert (y[::2] == problem.y).all() and (y[1::2] == problem.y).all()


def test_fgsm_moves_along_the_gradient_as_far_as_the_ball_allows(linear, demo_train):
    """Wong et al.'s step: 1.25 ε from a random point, cut off at the ball; the gradient of a linear model is known."""
    problem = tiny("fast").untargeted_threat.on(demo_train.take(np.arange(5)))
    classifier = KerasClassifier(linear[0], 4)
    begin = problem.ball.random(np.random.default_rng(7))
    at_start = classifier.loss_and_gradient(begin, problem.y, problem.targets, cross_entropy)
    gradient = at_start[2]
    x = defences.fgsm(classifier, problem, np.random.default_rng(7)).x
    moved = problem.ball.delta(x) * np.sign(gradient)
    from_start = problem.ball.delta(begin) * np.sign(gradient)
    assert (problem.ball.size(x) <= 0.2).all() and (x[~problem.ball.mask] == 0).all()
    real = problem.ball.mask & (gradient != 0)
    assert np.allclose(moved[real], np.minimum(0.2, from_start[real] + 0.25), atol=1e-5)
    reaches = real & (from_start >= -0.05)  # the others began too far on the wrong side
    assert np.allclose(moved[reaches], 0.2, atol=1e-5) and 0.6 < reaches[real].mean() < 0.65


def made_up(robust: list[float], fgsm: list[float]) -> list[dict]:
    columns = ("dev_robust_challenge_score", "dev_fgsm_challenge_score")
    return [dict(zip(columns, row, strict=True)) for row in zip(robust, fgsm, strict=True)]


@pytest.mark.parametrize(
    ("what", "robust", "fgsm", "alarm"),
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
def test_the_alarm_tells_collapse_from_other_trouble(what, robust, fgsm, alarm):
    assert selection.catastrophic_overfitting(made_up(robust, fgsm)) is alarm


def test_a_collapsed_epoch_is_reported_and_never_the_best(demo_train, demo_dev, capsys):
    """Its clean score and its score under FGSM are perfect, and its score under PGD has gone."""
    fast = defences.Fast(tiny("fast"), demo_train, Known(demo_dev), None)
    before = {"dev_challenge_score": 0.5} | made_up([0.4], [0.5])[0]
    row = {"epoch": 2, "dev_challenge_score": 1.0, "dev_robust_challenge_score": 0.1}
    columns = fast.own_scores(demo_dev, [before], row)
    assert columns == {"dev_fgsm_challenge_score": 1.0, "catastrophic_overfitting": True}
    assert "ALARM: catastrophic overfitting in epoch 2" in capsys.readouterr().out
    healthy = before | {"catastrophic_overfitting": False}
    assert fast.criterion(row | columns) == 0 < fast.criterion(healthy) == pytest.approx(0.45)


class Known:
    """A classifier that knows recordings by heart; perturbed ones are right too, or all of class `perturbed`."""

    classes, fs, low_precision = CLASSES, FS, False

    def __init__(self, dataset, perturbed: int | None = None):
        self.dataset, self.perturbed = dataset, perturbed

    def logits(self, x):
        gaps = [np.abs(self.dataset.x - one).max(axis=(1, 2)) for one in x]
        predicted = [
            self.dataset.y[gap.argmin()] if self.perturbed is None or gap.min() == 0 else self.perturbed for gap in gaps
        ]
        return 9 * np.eye(len(CLASSES), dtype=np.float32)[predicted]

    def loss_and_gradient(self, x, y, targets, loss):
        return np.zeros(len(x), np.float32), self.logits(x), np.ones_like(x)


def test_label_leaking_is_seen(demo_dev):
    """A classifier that calls every perturbed recording AF is perfect clean, and by AF recall under attack."""
    config = tiny("adaptive")
    leaking = Known(demo_dev, perturbed=AF)
    scores = selection.robust_scores(leaking, demo_dev, demo_dev, config)
    scores |= selection.all_classes_score(leaking, demo_dev, config)
    counts = np.bincount(demo_dev.y)
    f1_af = 2 * counts[AF] / (len(demo_dev) + counts[AF])
    assert scores["dev_robust_recall_A"] == 1
    assert scores["dev_noise_false_positive_rate"] == 1
    assert scores["dev_robust_challenge_score"] == pytest.approx(f1_af / 3)
    robust = selection.robust_scores(Known(demo_dev), demo_dev, demo_dev, config)
    assert list(robust.values()) == [1, 0]
    assert selection.all_classes_score(Known(demo_dev), demo_dev, config)["dev_robust_challenge_score"] == 1


def test_every_class_of_dev_is_attacked_where_the_score_is_needed(small, demo_train, demo_dev, tmp_path, monkeypatch):
    """Every fifth epoch, the last, and each that is the best so far; every epoch where it selects one."""
    criteria = [0.5, 0.4, 0.6, 0.3, 0.2, 0.1, 0.1]
    monkeypatch.setattr(defences.Adaptive, "criterion", staticmethod(lambda row: criteria[row["epoch"] - 1]))
    monkeypatch.setattr(loop, "all_classes_score", lambda *_: {"dev_robust_challenge_score": 1.0})
    _, history = loop.train(tiny("adaptive", epochs=7), demo_train, demo_dev, tmp_path, small)
    attacked = history["epoch"][history["dev_robust_challenge_score"].notna()]
    assert attacked.tolist() == [1, 3, 5, 7]
    assert all(defence.attacked_every == 1 for defence in (defences.AllClasses, defences.Fast, defences.Trades))


@pytest.mark.parametrize(("defence", "precision"), [*((name, "float32") for name in DEFENCES), ("trades", "bfloat16")])
def test_every_defence_goes_on_after_an_interruption_as_if_there_had_been_none(
    defence, precision, small, demo_train, demo_dev, tmp_path, monkeypatch
):
    config = tiny(defence, precision=precision, noise=0.25)
    start = None if defence == "baseline" else small
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def leave_behind(row, *_):
        """What a run killed after its first epoch leaves."""
        if row["epoch"] == 1:
            shutil.copytree(whole, broken)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_print_epoch", leave_behind)
        model, history = loop.train(config, demo_train, demo_dev, whole, start)
    assert (broken / "checkpoint-0001.keras").exists()
    loop.train(config, demo_train, demo_dev, broken, start)

    ends = [keras.models.load_model(f / "checkpoint-0002.keras") for f in (whole, broken)]
    for variables in ([e.weights for e in ends], [e.optimizer.variables for e in ends]):
        assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(*variables, strict=True))
    tables = [pd.read_csv(folder / "history.csv") for folder in (whole, broken)]
    assert tables[0].equals(tables[1]) and len(history) == 2 and np.isfinite(history["loss"]).all()
    before = small.get_weights()
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert all((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
    watched = {"dev_robust_challenge_score", "dev_noise_false_positive_rate"}
    assert watched <= set(history) or defence == "baseline"
    assert ("catastrophic_overfitting" in history) == (defence == "fast")


JAX_RUN = """
import sys
from pathlib import Path
import keras, numpy as np
sys.path.insert(0, sys.argv[2])
from conftest import ROOT, small_network
from ecgnb.data.dataset import load_data
from ecgnb.models import network
from ecgnb.models.keras_classifier import BACKEND
from ecgnb.training import loop
from ecgnb.training.configuration import training_config
assert BACKEND == "jax"
network.build = small_network
train_set, dev_set = (load_data(split, data="demo") for split in ("train", "dev"))
for defence in sys.argv[3:]:
    config = training_config(defence, epochs=1, per_class=6, batch_size=8, steps=2)
    _, history = loop.train(config, train_set, dev_set, Path(sys.argv[1]) / defence, small_network())
    assert np.isfinite(history["loss"]).all()
print("TRAINED")
"""


@pytest.mark.nightly
def test_a_defence_that_attacks_every_batch_trains_on_jax(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", JAX_RUN, str(tmp_path), str(ROOT / "ci"), "trades"],
        env=os.environ | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("TRAINED\n"), done.stderr[-2000:]


def test_a_run_from_before_a_setting_existed_goes_on(small, demo_train, demo_dev, tmp_path):
    """Its config lacks the setting, its history the columns that came since."""
    config = tiny("adaptive", epochs=1)
    loop.train(config, demo_train, demo_dev, tmp_path, small)
    file, checkpoint = tmp_path / "config.json", tmp_path / "checkpoint-0001.keras"
    settings = json.loads(file.read_text())
    del settings["beta"]
    file.write_text(json.dumps(settings | {"epochs": 2}))
    record = json.loads(checkpoint.with_suffix(".json").read_text())
    del record["sha256"], record["history"][0]["dev_robust_challenge_score"]
    record["sha256"] = loop._record_digest(record, checkpoint)
    checkpoint.with_suffix(".json").write_text(json.dumps(record))
    _, history = loop.train(tiny("adaptive"), demo_train, demo_dev, tmp_path, small)
    assert history["dev_robust_challenge_score"].isna().tolist() == [True, False]
    assert history["criterion"].notna().all()


@pytest.mark.parametrize(
    ("defence", "expected"),
    [("baseline", 0.8), *((name, 0.6) for name in ("static", "adaptive", "control")), *((name, 0.5) for name in LATER)],
)
def test_the_rule_by_which_an_epoch_is_selected(defence, expected):
    row = {
        "dev_challenge_score": 0.8,
        "dev_robust_recall_A": 0.4,
        "dev_robust_challenge_score": 0.2,
        "catastrophic_overfitting": False,
    }
    assert defences.BY_NAME[defence].criterion(row) == pytest.approx(expected)


def test_best_and_last_epoch_stand_side_by_side():
    history = pd.DataFrame({"epoch": [1, 2, 3], "dev_robust_challenge_score": [0.1, 0.3, 0.2], "criterion": [1, 2, 2]})
    rows = selection.best_and_last(history)
    assert rows.loc["epoch"].tolist() == [3, 3]
    history.loc[2, "criterion"] = 1
    rows = selection.best_and_last(history)
    assert rows.loc["epoch"].tolist() == [2, 3]
    assert rows.loc["dev_robust_challenge_score"].tolist() == [0.3, 0.2]
    history = pd.read_csv(ROOT / "models" / "static.csv")
    shipped = selection.best_and_last(history)
    assert shipped.loc["criterion", "best"] == history["criterion"].max()
    assert shipped.loc["epoch", "last"] == len(history)
    fall = shipped.loc["dev_robust_recall_A"]
    assert fall["last"] < fall["best"]  # robust overfitting
