"""Training the baseline and the defences, on one loop that can be killed and resumed at any time.

All randomness of epoch k is derived from (seed, k) alone, so an interrupted run that goes on from its last
checkpoint ends with the same weights as an unbroken one. On several devices or hosts (see `devices`) every
host runs this loop; one of them writes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from keras import layers
from tqdm.auto import tqdm

from ecgnb import metrics
from ecgnb import model as network
from ecgnb.attacks import pgd
from ecgnb.data import Dataset, class_weights
from ecgnb.defences import BY_NAME, Defence, attacked_af, score, untargeted
from ecgnb.devices import agree, assign_each, chief, distribution, hosts, replicas
from ecgnb.errors import EcgnbError
from ecgnb.evaluation import AF, noisy
from ecgnb.files import write_atomically
from ecgnb.gradients import InputGradient, Victim, training_step
from ecgnb.recipes import Recipe
from ecgnb.records import CLASSES
from ecgnb.store import digest

WATCH_STEPS = 10  # PGD steps of the attacks on dev after every epoch, whatever a recipe trains with
WATCH_PER_CLASS = (
    40  # recordings of dev of each class that are attacked; more would cost more than an epoch
)
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
    history.csv and recipe.json; several hosts share it; resume : go on from a checkpoint found there, else
    start anew.
    """
    if recipe.defence != "baseline" and start is None:
        raise EcgnbError(f"{recipe.defence} training starts from a model; give the baseline")
    folder.mkdir(parents=True, exist_ok=True)
    _agree_on(recipe, (train_set, dev_set), folder, start, resume)
    model, history = _open_run(recipe, folder, start, resume, train_set)
    gradient = InputGradient(model, recipe.batch_size)
    defence = BY_NAME[recipe.defence](recipe, train_set, gradient, start)
    part = few_of_each(dev_set, WATCH_PER_CLASS)
    began, done_before = time.monotonic(), len(history)
    fit = _fitting(model, defence)

    for epoch in range(len(history), recipe.epochs):
        rng = np.random.default_rng([recipe.seed, epoch])
        _seed_dropout(model, recipe.seed, epoch)
        loss, trained_on = _run_epoch(fit, defence, rng, f"epoch {epoch + 1}/{recipe.epochs}")
        with _as_kept(model, recipe, trained_on):
            row = {"epoch": epoch + 1, "loss": loss} | _dev_scores(gradient, dev_set)
            if recipe.defence != "baseline":
                row |= _robust_scores(gradient, dev_set, part, recipe)
                row |= defence.watch(part, history, row)
            row["criterion"] = defence.criterion(row)
            history.append(row)
            best = max(row["criterion"] for row in history)
            if chief() and (recipe.select == "last" or row["criterion"] == best):
                network.save(model, folder / "kept.keras")
        if chief():
            _save_epoch(model, history, folder)
        left = (
            (time.monotonic() - began)
            / (len(history) - done_before)
            * (recipe.epochs - len(history))
        )
        _print_epoch(row, recipe.epochs, left)

    agree("trained", "start all of them again")  # the kept model is not read before it is written
    return network.load(folder / "kept.keras"), pd.DataFrame(history)


def few_of_each(dataset: Dataset, most: int) -> Dataset:
    """The first recordings of each class, at most so many: the same ones for ever."""
    return dataset.take(
        np.concatenate([np.flatnonzero(dataset.y == c)[:most] for c in range(len(CLASSES))])
    )


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


@contextmanager
def _as_kept(model: keras.Model, recipe: Recipe, x: np.ndarray) -> Iterator[None]:
    """The model as it is judged and kept: with the weights' moving average, if the recipe has one.

    x : (n, 9000, 1), what batch-norm statistics are collected on, for the weights and for their average.
    """
    clean = recipe.statistics == "clean"
    if clean:
        collect_statistics(model, x, recipe.batch_size)
    if not recipe.averaging:
        yield
        return
    weights = model.get_weights()
    model.optimizer.take_average(model.trainable_variables)
    if clean:
        collect_statistics(model, x, recipe.batch_size)
    yield
    model.set_weights(weights)


@keras.saving.register_keras_serializable("ecgnb")
class Averaging(keras.optimizers.AdamW):
    """AdamW beside which the weights' moving average is kept, not taken until it is asked for."""

    def take_average(self, variables: list) -> None:
        """Overwrite the weights with their average."""
        super().finalize_variable_values(variables)

    def finalize_variable_values(self, var_list):
        """Nothing: `fit`, called several times an epoch, would go on from the average after each."""


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
        # A setting that came after the run began had its default.
        stored = {field.name: field.default for field in dataclasses.fields(Recipe)} | stored
        changed = [key for key, value in settings.items() if stored.get(key) != value]
        if changed:
            raise EcgnbError(
                f"{folder}: its checkpoint was made with other settings ({', '.join(changed)}); "
                "use RESUME=False to start anew, or another folder"
            )
        with distribution():
            model = keras.models.load_model(checkpoints[-1], safe_mode=True)
            _share_statistics(model)
        epoch = int(checkpoints[-1].stem.split("-")[1])
        # The history is written before the checkpoint, so a kill between the two leaves a row too many.
        history = pd.read_csv(folder / "history.csv")[:epoch].to_dict("records")
        tqdm.write(f"{folder}: going on after epoch {epoch} of {recipe.epochs}")
        return model, history
    if chief():
        for old in checkpoints:
            old.unlink()
    keras.utils.set_random_seed(recipe.seed)
    with distribution():
        model = network.build(recipe.dropout, recipe.precision)
        if start is not None:
            model.set_weights(start.get_weights())
        model.compile(
            optimizer=_optimizer(recipe, len(train_set)),
            loss=BY_NAME[recipe.defence].loss(recipe),
            jit_compile=keras.backend.backend() == "jax",
        )
        _share_statistics(model)
    if chief():
        write_atomically(
            folder / "recipe.json", lambda path: path.write_text(json.dumps(settings, indent=1))
        )
    return model, []


def _agree_on(
    recipe: Recipe,
    sets: tuple[Dataset, Dataset],
    folder: Path,
    start: keras.Model | None,
    resume: bool,
) -> None:
    """See that all hosts, if there are several, train the same from the same, and share the folder."""
    if hosts() == 1:
        return
    weights = start.get_weights() if start is not None else []
    found = [digest(*weights), *(digest(part.x, part.y) for part in sets)]
    found += [path.name for path in folder.glob("checkpoint-*.keras") if resume]
    agree(
        f"{recipe} {found}",
        f"give all the same command, model and recordings, and a folder that they share ({folder})",
    )


def _share_statistics(model: keras.Model) -> None:
    """Let batch-norm see the whole batch, however many devices share it."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.synchronized = replicas(model) > 1


def _optimizer(recipe: Recipe, recordings: int) -> keras.optimizers.Optimizer:
    """AdamW (Adam when weight_decay is 0); the cosine runs over all steps of the run."""
    rate = recipe.learning_rate
    if recipe.cosine:
        steps = recipe.epochs * math.ceil(recordings / recipe.batch_size)
        warm_up = max(1, steps // 20)
        rate = keras.optimizers.schedules.CosineDecay(
            rate / 10, steps - warm_up, warmup_target=rate, warmup_steps=warm_up
        )
    if not recipe.averaging:
        return keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay)
    return Averaging(
        rate, weight_decay=recipe.weight_decay, use_ema=True, ema_momentum=recipe.averaging
    )


def _seed_dropout(model: keras.Model, seed: int, epoch: int) -> None:
    """Make the dropout masks of an epoch a function of (seed, epoch), and each device's of its number."""
    for i, layer in enumerate(model.layers):
        if isinstance(layer, layers.Dropout) and layer.rate > 0:
            words = [
                np.random.SeedSequence([seed, epoch, i, *([device] if device else [])])
                for device in range(replicas(model))
            ]
            assign_each(model, layer.seed_generator.state, [w.generate_state(2) for w in words])


def _fitting(model: keras.Model, defence: Defence) -> Callable:
    """(x, y, weights, bar) -> mean loss: a pass of training over some recordings, on all devices there are."""
    size = defence.recipe.batch_size * defence.copies
    if replicas(model) == 1:

        def fit(x, y, weights, bar):
            how = dict(batch_size=size, shuffle=False, verbose=0, callbacks=[bar])
            return model.fit(x, y, sample_weight=weights, **how).history["loss"][-1]

        return fit
    step = training_step(model, defence.copies)

    def fit_together(x, y, weights, bar):
        bar.on_train_begin()
        total = 0.0
        for first in range(0, len(x), size):
            rows = slice(first, first + size)
            total += step(x[rows], y[rows], weights[rows]) * len(x[rows])
            bar.on_train_batch_end(first)
        return total / len(x)

    return fit_together


def _run_epoch(
    fit: Callable, defence: Defence, rng: np.random.Generator, text: str
) -> tuple[float, np.ndarray]:
    """Train for an epoch; returns its mean loss, and what to collect statistics on: the first rows it read."""
    recipe, one_hot = defence.recipe, np.eye(len(CLASSES), dtype=np.float32)
    drawn = defence.draw(rng)
    weights = class_weights(defence.train_set.y[drawn], recipe.class_power)
    bar = _Bar(text, math.ceil(len(drawn) / recipe.batch_size))
    losses, sizes, read = [], [], []
    for x, y in defence.chunks(drawn, rng):
        losses.append(fit(x, one_hot[y], weights[y], bar))
        read.append(x[: max(0, STATISTICS_RECORDINGS - sum(sizes))])
        sizes.append(len(y))
    bar.close()
    return float(np.dot(losses, np.divide(sizes, sum(sizes)))), np.concatenate(read)


def _dev_scores(victim: Victim, dev: Dataset) -> dict[str, float]:
    """Scores on clean dev."""
    counts = metrics.confusion(dev.y, victim.logits(dev.x).argmax(axis=1))
    f1 = metrics.f1_scores(counts)
    row = {f"dev F1 {letter}": float(f1[c]) for c, letter in enumerate(CLASSES)}
    row["dev challenge score"] = float(metrics.challenge_score(counts))
    row["dev AF recall"] = float(metrics.recall(counts))
    return row


def _robust_scores(victim: Victim, dev: Dataset, part: Dataset, recipe: Recipe) -> dict[str, float]:
    """Scores on attacked dev, and one that tells robustness from the shortcut "whatever is perturbed is AF".

    All AF under the original's targeted attack; the part of dev in which every recording is attacked,
    untargeted, until it is misread; the share of that part's normal recordings that random ±ε makes AF.
    """
    recall = attacked_af(victim, dev, recipe, WATCH_STEPS, "watching dev AF").logits
    threat, step = untargeted(recipe), recipe.step_size / recipe.epsilon
    attack = dict(steps=WATCH_STEPS, step=step, until_success=True, progress="watching dev")
    robust = pgd(victim, threat.on(part), **attack).logits
    noise = victim.logits(noisy(part.of_class("N"), threat))
    return {
        "dev robust AF recall": float((recall.argmax(axis=1) == AF).mean()),
        "dev robust challenge score": score(part.y, robust),
        "dev N read as A under random noise": metrics.rate(noise.argmax(axis=1) == AF)["value"],
    }


def _save_epoch(model: keras.Model, history: list[dict], folder: Path) -> None:
    """Save the history, then the checkpoint, each atomically."""
    write_atomically(
        folder / "history.csv", lambda path: pd.DataFrame(history).to_csv(path, index=False)
    )
    checkpoint = folder / f"checkpoint-{len(history):04d}.keras"
    write_atomically(checkpoint, model.save)
    for old in folder.glob("checkpoint-*.keras"):
        if old != checkpoint:
            old.unlink()


SHORT = {  # column -> what the line of an epoch calls it, if it is watched
    "dev robust AF recall": "robust",
    "dev robust challenge score": "robust score",
    "dev N read as A under random noise": "N as AF in noise",
}


def _print_epoch(row: dict, epochs: int, seconds_left: float) -> None:
    parts = [
        f"epoch {row['epoch']:3d}/{epochs}",
        f"loss {row['loss']:.3f}",
        f"dev score {row['dev challenge score']:.3f}",
        f"AF F1 {row['dev F1 A']:.3f}",
        f"AF recall {row['dev AF recall']:.3f}",
        *(f"{short} {row[column]:.3f}" for column, short in SHORT.items() if column in row),
        f"{seconds_left / 60:.0f} min left",
    ]
    tqdm.write("  ".join(parts))


class _Bar(keras.callbacks.Callback):
    """A progress bar over the steps of one epoch, which appears when the first chunk is made."""

    def __init__(self, text: str, steps: int):
        super().__init__()
        self.text, self.steps, self.bar = text, steps, None

    def on_train_begin(self, logs=None):
        if self.bar is None:
            self.bar = tqdm(total=self.steps, desc=self.text, unit="step", leave=False)

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()

    def close(self):
        self.bar.close()
