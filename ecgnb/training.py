"""Training the baseline and the two defences, on one loop that can be killed and resumed at any time.

All randomness of epoch k is derived from (seed, k) alone, so an interrupted run that goes on from its last
checkpoint ends with the same weights as an unbroken one.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from keras import layers
from tqdm.auto import tqdm

from ecgnb import metrics
from ecgnb import model as network
from ecgnb.attacks import AttackResult
from ecgnb.data import WINDOW, Dataset, balanced_index, class_weights, window
from ecgnb.errors import EcgnbError
from ecgnb.evaluation import AF, attack_af
from ecgnb.files import write_atomically
from ecgnb.gradients import InputGradient, distribution
from ecgnb.recipes import Recipe
from ecgnb.records import CLASSES
from ecgnb.threats import Threat, goal_of

WATCH_STEPS = 10  # PGD steps of the attack on dev after every epoch, whatever a recipe trains with
STATISTICS_RECORDINGS = 256  # enough: the shortest layer still averages 256 x 35 values a channel


def train(
    recipe: Recipe,
    train_set: Dataset,
    dev_set: Dataset,
    folder: Path,
    start: keras.Model | None = None,
    resume: bool = True,
) -> tuple[keras.Model, pd.DataFrame]:
    """Train by `recipe`; returns the kept model (float32, logits) and the history, a row an epoch.

    start : the model a defence starts from (the baseline); folder : for the checkpoint, kept.keras,
    history.csv and recipe.json; resume : go on from a checkpoint found there, else start anew.
    """
    if recipe.defence != "baseline" and start is None:
        raise EcgnbError(f"{recipe.defence} training starts from a model; give the baseline")
    folder.mkdir(parents=True, exist_ok=True)
    model, history = _open_run(recipe, folder, start, resume, train_set)
    gradient = InputGradient(model, recipe.batch_size)
    make_epoch = _epoch_maker(recipe, train_set, gradient, start)
    robust_watch = recipe.defence != "baseline"
    began, done_before = time.monotonic(), len(history)

    for epoch in range(len(history), recipe.epochs):
        rng = np.random.default_rng([recipe.seed, epoch])
        _seed_dropout(model, recipe.seed, epoch)
        x, y = make_epoch(rng)
        weights = class_weights(y, recipe.class_power)[y]
        fit = model.fit(
            x,
            np.eye(len(CLASSES), dtype=np.float32)[y],
            sample_weight=weights,
            batch_size=recipe.batch_size,
            shuffle=False,
            verbose=0,
            callbacks=[_Bar(f"epoch {epoch + 1}/{recipe.epochs}")],
        )
        if recipe.statistics == "clean":
            collect_statistics(model, x[:STATISTICS_RECORDINGS], recipe.batch_size)
        row = {"epoch": epoch + 1, "loss": fit.history["loss"][-1]}
        row |= _dev_scores(gradient, dev_set, recipe, robust_watch)
        row["criterion"] = criterion(row)
        history.append(row)
        _save_epoch(model, history, recipe, folder)
        left = (
            (time.monotonic() - began)
            / (len(history) - done_before)
            * (recipe.epochs - len(history))
        )
        _print_epoch(row, recipe.epochs, left)

    return network.load(folder / "kept.keras"), pd.DataFrame(history)


def criterion(row: dict) -> float:
    """What `select="best"` maximises on dev.

    The challenge score; for a defence, its mean with the recall of AF under attack, so that neither
    accuracy nor robustness can be bought with all of the other.
    """
    if "dev robust AF recall" not in row:
        return row["dev challenge score"]
    return (row["dev challenge score"] + row["dev robust AF recall"]) / 2


def collect_statistics(model: keras.Model, x: np.ndarray, batch_size: int = 32) -> None:
    """Set every batch-norm's running mean and variance to their average over `x`, with dropout off.

    Under dropout the variance that batch-norm sees in training is not the one it meets in inference (Li et
    al. 2019, arXiv 1801.05134); this removes the mismatch without touching a weight. x : (n, 9000, 1).
    """
    drops = [layer for layer in model.layers if isinstance(layer, layers.Dropout)]
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    before = [layer.rate for layer in drops], [layer.momentum for layer in norms]
    for layer in drops:
        layer.rate = 0.0
    for i, rows in enumerate(range(0, len(x) - batch_size + 1, batch_size)):
        for layer in norms:
            layer.momentum = i / (i + 1)  # running average: after batch i, the mean of batches 0..i
        model(x[rows : rows + batch_size], training=True)
    for layer, rate in zip(drops, before[0], strict=True):
        layer.rate = rate
    for layer, momentum in zip(norms, before[1], strict=True):
        layer.momentum = momentum


def augment(signal: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """One randomly altered window, (9000,) float32, of a raw recording, (length,) int16.

    Random crop (if longer than 30 s), circular shift of the true samples, polarity (electrodes swapped, as
    in part of the recordings), amplitude ±25 %, and white noise with an SD of up to `noise` z-units
    (why: models/README.md).
    """
    x, length, _, _ = window(signal, int(rng.integers(0, max(1, len(signal) - WINDOW + 1))))
    x[:length] = np.roll(x[:length], int(rng.integers(length)))
    x *= np.float32((-1 if rng.random() < 0.5 else 1) * rng.uniform(0.75, 1.25))
    x[:length] += np.float32(rng.uniform(0, noise)) * rng.standard_normal(length, np.float32)
    return x


def _epoch_maker(
    recipe: Recipe, train_set: Dataset, gradient: InputGradient, start: keras.Model | None
) -> Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]:
    """rng -> (x, y) of one epoch, shuffled: the only place where the three defences differ."""

    def all_recordings(rng):
        order = rng.permutation(len(train_set))
        if not recipe.augment:
            return train_set.x[order], train_set.y[order]
        x = np.stack([augment(train_set.signals[i], recipe.noise, rng) for i in order])[..., None]
        return x, train_set.y[order]

    def attack(of: InputGradient, rows: np.ndarray) -> np.ndarray:
        return _attack(of, train_set.take(rows), recipe, recipe.steps, "attacking AF").x

    if recipe.defence == "baseline":
        return all_recordings
    stored = {}
    if recipe.defence == "static":
        rows = np.flatnonzero(train_set.y == AF)
        if not recipe.redraw:
            rows = _mix(train_set.y, recipe, np.random.default_rng(recipe.seed))[1]
        made = attack(InputGradient(start, recipe.batch_size), rows)
        stored = dict(zip(rows, made, strict=True))

    def mixed(rng):
        draw = rng if recipe.redraw else np.random.default_rng(recipe.seed)
        clean, attacked = _mix(train_set.y, recipe, draw)
        if stored:
            adversarial = np.stack([stored[i] for i in attacked])
        else:
            adversarial = attack(gradient, attacked)
        x = np.concatenate([train_set.x[clean], adversarial])
        y = train_set.y[np.concatenate([clean, attacked])]
        order = rng.permutation(len(y))
        return x[order], y[order]

    return mixed


def _attack(
    of: InputGradient, dataset: Dataset, recipe: Recipe, steps: int, progress: str
) -> AttackResult:
    """The attack on AF recordings that a defence trains against, and is watched under."""
    threat = Threat(goal_of(recipe.target), recipe.epsilon, spare_padding=recipe.mask_padding)
    return attack_af(
        of, dataset, threat, step_size=recipe.step_size, steps=steps, progress=progress
    )


def _mix(y: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(clean, attacked) indices of an epoch: half of the AF drawn stay clean, half are attacked."""
    drawn = balanced_index(y, recipe.per_class, rng)
    af = drawn[y[drawn] == AF]
    attacked = af[: len(af) // 2]
    return np.setdiff1d(drawn, attacked), attacked


def _open_run(
    recipe: Recipe, folder: Path, start: keras.Model | None, resume: bool, train_set: Dataset
) -> tuple[keras.Model, list[dict]]:
    """The compiled model and the history so far: from the folder's checkpoint, or fresh."""
    settings = dataclasses.asdict(recipe) | {
        "recordings": f"{train_set.title}, protocol {train_set.protocol}, {len(train_set)} recordings"
    }
    checkpoints = sorted(folder.glob("checkpoint-*.keras"))
    if resume and checkpoints:
        stored = json.loads((folder / "recipe.json").read_text())
        changed = [key for key, value in settings.items() if stored.get(key) != value]
        if changed:
            raise EcgnbError(
                f"{folder}: its checkpoint was made with other settings ({', '.join(changed)}); "
                "use RESUME=False to start anew, or another folder"
            )
        with distribution():
            model = keras.models.load_model(checkpoints[-1], safe_mode=True)
        epoch = int(checkpoints[-1].stem.split("-")[1])
        # The history is written before the checkpoint, so a kill between the two leaves a row too many.
        history = pd.read_csv(folder / "history.csv")[:epoch].to_dict("records")
        tqdm.write(f"{folder}: going on after epoch {epoch} of {recipe.epochs}")
        return model, history
    for old in checkpoints:
        old.unlink()
    keras.utils.set_random_seed(recipe.seed)
    with distribution():
        model = network.build(recipe.dropout, recipe.precision)
        if start is not None:
            model.set_weights(start.get_weights())
        model.compile(
            optimizer=_optimizer(recipe, len(train_set)),
            loss=keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=recipe.label_smoothing
            ),
            jit_compile=keras.backend.backend() == "jax",
        )
    write_atomically(
        folder / "recipe.json", lambda path: path.write_text(json.dumps(settings, indent=1))
    )
    return model, []


def _optimizer(recipe: Recipe, recordings: int) -> keras.optimizers.Optimizer:
    """AdamW (Adam when weight_decay is 0); the cosine runs over all steps of the run."""
    rate = recipe.learning_rate
    if recipe.cosine:
        steps = recipe.epochs * math.ceil(recordings / recipe.batch_size)
        warm_up = max(1, steps // 20)
        rate = keras.optimizers.schedules.CosineDecay(
            rate / 10, steps - warm_up, warmup_target=rate, warmup_steps=warm_up
        )
    return keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay)


def _seed_dropout(model: keras.Model, seed: int, epoch: int) -> None:
    """Make the dropout masks of an epoch a function of (seed, epoch)."""
    for i, layer in enumerate(model.layers):
        if isinstance(layer, layers.Dropout) and layer.rate > 0:
            words = np.random.SeedSequence([seed, epoch, i]).generate_state(2)
            layer.seed_generator.state.assign(words.astype(np.uint32))


def _dev_scores(
    gradient: InputGradient, dev: Dataset, recipe: Recipe, robust_watch: bool
) -> dict[str, float]:
    """Scores on dev after an epoch; under attack too when a defence is being trained."""
    counts = metrics.confusion(dev.y, gradient.logits(dev.x).argmax(axis=1))
    f1 = metrics.f1_scores(counts)
    row = {f"dev F1 {letter}": float(f1[c]) for c, letter in enumerate(CLASSES)}
    row["dev challenge score"] = float(metrics.challenge_score(counts))
    row["dev AF recall"] = float(metrics.recall(counts))
    if robust_watch:
        attacked = _attack(gradient, dev, recipe, WATCH_STEPS, "watching dev AF")
        row["dev robust AF recall"] = float((attacked.logits.argmax(axis=1) == AF).mean())
    return row


def _save_epoch(model: keras.Model, history: list[dict], recipe: Recipe, folder: Path) -> None:
    """Keep the model if it is the one to keep, then the history, then the checkpoint, each atomically."""
    best = max(row["criterion"] for row in history)
    if recipe.select == "last" or history[-1]["criterion"] == best:
        network.save(model, folder / "kept.keras")
    write_atomically(
        folder / "history.csv", lambda path: pd.DataFrame(history).to_csv(path, index=False)
    )
    checkpoint = folder / f"checkpoint-{len(history):04d}.keras"
    write_atomically(checkpoint, model.save)
    for old in folder.glob("checkpoint-*.keras"):
        if old != checkpoint:
            old.unlink()


def _print_epoch(row: dict, epochs: int, seconds_left: float) -> None:
    robust = row.get("dev robust AF recall")
    parts = [
        f"epoch {row['epoch']:3d}/{epochs}",
        f"loss {row['loss']:.3f}",
        f"dev score {row['dev challenge score']:.3f}",
        f"AF F1 {row['dev F1 A']:.3f}",
        f"AF recall {row['dev AF recall']:.3f}",
        *([] if robust is None else [f"robust {robust:.3f}"]),
        f"{seconds_left / 60:.0f} min left",
    ]
    tqdm.write("  ".join(parts))


class _Bar(keras.callbacks.Callback):
    """A progress bar over the steps of one epoch."""

    def __init__(self, text: str):
        super().__init__()
        self.text = text

    def on_train_begin(self, logs=None):
        self.bar = tqdm(total=self.params["steps"], desc=self.text, unit="step", leave=False)

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()

    def on_train_end(self, logs=None):
        self.bar.close()
