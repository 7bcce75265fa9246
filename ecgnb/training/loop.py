"""Training the baseline and the defences, by one loop that can be killed and resumed at any time.

All randomness of epoch k is derived from (seed, k) alone, so an interrupted run that goes on from its last
checkpoint ends with the same weights as an unbroken one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from ecgnb import values
from ecgnb.data.dataset import Dataset, class_weights
from ecgnb.errors import EcgnbError
from ecgnb.files import (
    array_digest,
    file_digest,
    file_errors,
    locked,
    remove_half_written,
    write_atomically,
    write_json,
    write_text,
)
from ecgnb.models import network
from ecgnb.models.classifier import check_fits
from ecgnb.models.devices import distribution
from ecgnb.models.files import check_readable, load_model, save_model
from ecgnb.models.identity import same_layers
from ecgnb.models.keras_classifier import KerasClassifier
from ecgnb.models.kernels import use_fast_kernels
from ecgnb.models.saved import restore
from ecgnb.progress import bar
from ecgnb.quiet import keras
from ecgnb.training.configuration import TrainingConfig
from ecgnb.training.defences import BY_NAME, Defence
from ecgnb.training.selection import all_classes_score, dev_scores, first_of_each_class, robust_scores
from ecgnb.training.step import fit_function, recompute_statistics, seed_dropout, synchronise_batch_norm

ATTACKED_PER_CLASS = 40  # recordings of dev of each class; more would cost more than an epoch
SELECTED, HISTORY = "selected.keras", "history.csv"
ANEW = "use RESUME=False (--fresh) to start anew, or another folder"
STATISTICS_RECORDINGS = 256  # enough: the shortest layer still averages 256 x 35 values a channel


def train(
    config: TrainingConfig,
    train_set: Dataset,
    dev_set: Dataset,
    folder: Path,
    start: keras.Model | None = None,
    resume: bool = True,
) -> tuple[keras.Model, pd.DataFrame]:
    """Train by `config`; returns the selected model (float32, logits) and the history, a row an epoch.

    start : the model a defence starts from (the baseline, or any Keras classifier that gives logits: its layers are copied,
    not changed), for `train_set`'s classes; folder : for the checkpoint, selected.keras,
    history.csv and config.json; resume : go on from a checkpoint found there, else start anew.
    """
    if config.defence != "baseline" and start is None:
        raise EcgnbError(f"{config.defence} training starts from a model; give the baseline")
    _check_recordings(config, train_set, dev_set, start)
    with locked(folder):
        remove_half_written(folder)
        model, history = open_run(config, train_set, dev_set, folder, start, resume)
        classifier = KerasClassifier(model, classes=train_set.classes, fs=train_set.fs)
        defence = BY_NAME[config.defence](config, train_set, classifier, start)
        fit = fit_function(model, config.batch_size, defence.copies)
        subset = first_of_each_class(dev_set, ATTACKED_PER_CLASS)
        began, epochs_before = time.monotonic(), len(history)

        for epoch in range(epochs_before, config.epochs):
            rng = np.random.default_rng([config.seed, epoch])
            seed_dropout(model, config.seed, epoch)
            if config.plateau:
                model.optimizer.learning_rate = learning_rate(config.learning_rate, [row["loss"] for row in history])
            loss, trained_on = run_epoch(fit, defence, rng, f"epoch {epoch + 1}/{config.epochs}")
            if config.statistics == "recomputed":
                recompute_statistics(model, trained_on, config.batch_size)
            row = {"epoch": epoch + 1, "loss": loss} | dev_scores(classifier, dev_set, config.attack_class)
            if config.defence != "baseline":
                row |= robust_scores(classifier, dev_set, subset, config)
                if _is_due(row, history, defence):
                    row |= all_classes_score(classifier, subset, config)
                row |= defence.own_scores(subset, history, row)
            row["criterion"] = defence.criterion(row)
            if not math.isfinite(row["criterion"]):
                raise EcgnbError(
                    f"epoch {epoch + 1}: the criterion of selection is {row['criterion']}: a class without recordings?"
                )
            history.append(row)
            _save_epoch(model, history, config, folder)
            seconds_an_epoch = (time.monotonic() - began) / (len(history) - epochs_before)
            _print_epoch(row, config.epochs, seconds_an_epoch * (config.epochs - len(history)))

        return load_model(folder / SELECTED), pd.DataFrame(history)


def open_run(
    config: TrainingConfig, train_set: Dataset, dev_set: Dataset, folder: Path, start: keras.Model | None, resume: bool
) -> tuple[keras.Model, list[dict]]:
    """The compiled model and the history so far: from the folder's checkpoint, or fresh."""
    settings = dataclasses.asdict(config) | {
        "recordings": f"{train_set.title}, protocol {train_set.protocol}, {len(train_set)} recordings",
        "digests": {
            "training recordings": _recordings_digest(train_set),
            "dev recordings": _recordings_digest(dev_set),
            "start model": array_digest(*start.get_weights()) if start is not None else "",
        },
    }
    checkpoints = sorted(folder.glob("checkpoint-*.keras"))
    if resume and checkpoints:
        _check_settings(settings, folder)
        history, selected = _read_record(checkpoints[-1])
        model = _compiled(config, train_set, start)
        with distribution():
            restore(model, checkpoints[-1])
        if not _is_selected(history, config) and file_digest(folder / SELECTED) != selected:
            raise EcgnbError(f"{folder / SELECTED}: damaged or absent; {ANEW}")
        _finish_epoch(model, history, config, folder)
        tqdm.write(f"{folder}: going on after epoch {len(history)} of {config.epochs}")
        return model, history
    with file_errors(folder):
        for old in [*checkpoints, *folder.glob("checkpoint-*.json"), folder / SELECTED, folder / HISTORY]:
            old.unlink(missing_ok=True)
    keras.utils.set_random_seed(config.seed)
    model = _compiled(config, train_set, start)
    if start is not None:
        model.set_weights(start.get_weights())
    write_json(folder / "config.json", settings)
    return model, []


def _check_recordings(config: TrainingConfig, train_set: Dataset, dev_set: Dataset, start: keras.Model | None) -> None:
    """Raise EcgnbError, before any work, for recordings that cannot be trained on, or that the model does not take."""
    classes = train_set.classes
    model = network.build() if start is None else start
    classifier = KerasClassifier(model, classes=classes, fs=train_set.fs)
    values.read("attack_class", config.attack_class, "A", classes)
    for fold in (train_set, dev_set):
        check_fits(classifier, fold)
        config.class_threat.goal(classes)
        for symbol in filter(None, (config.attack_class, config.target)):  # the scores on dev are about these
            if not len(fold.of_class(symbol)):
                raise EcgnbError(f"{fold.title}: no recording of class {symbol}; training needs some of it")


def _compiled(config: TrainingConfig, train_set: Dataset, start: keras.Model | None) -> keras.Model:
    """The network of a run, ready to train, on all devices: the study's own, or a copy of the model it starts from."""
    with distribution():
        if start is None or same_layers(start, network.build()):
            model = network.build(config.dropout, config.precision)
        else:
            check_readable(start)
            model = network.copied(start, config.dropout, config.precision)
        model.compile(
            optimizer=_optimizer(config, len(train_set)),
            loss=BY_NAME[config.defence].loss(config),
            jit_compile=keras.backend.backend() == "jax",
        )
        synchronise_batch_norm(model)
        use_fast_kernels(model)
    return model


def run_epoch(
    fit: Callable[..., float], defence: Defence, rng: np.random.Generator, text: str
) -> tuple[float, np.ndarray]:
    """Train for an epoch; returns its mean loss, and the first rows of its input, for batch-norm statistics."""
    config, train_set = defence.config, defence.train_set
    one_hot = np.eye(len(train_set.classes), dtype=np.float32)
    drawn = defence.draw(rng)
    counted = train_set.y if config.class_counts == "all" else train_set.y[drawn]
    weights = class_weights(counted, config.class_power, len(train_set.classes))
    step_bar = bar(text, total=math.ceil(len(drawn) / config.batch_size), unit="step")
    losses: list[float] = []
    sizes: list[int] = []
    first_rows: list[np.ndarray] = []
    for x, y in defence.chunks(drawn, rng):
        losses.append(fit(x, one_hot[y], weights[y], step_bar))
        if not math.isfinite(losses[-1]):
            step_bar.close()
            raise EcgnbError(f"{text}: the loss is {losses[-1]}; lower the learning rate. Earlier epochs are kept")
        first_rows.append(x[: max(0, STATISTICS_RECORDINGS - sum(sizes))])
        sizes.append(len(y))
    step_bar.close()
    return float(np.dot(losses, np.divide(sizes, sum(sizes)))), np.concatenate(first_rows)


def _is_due(row: dict, history: list[dict], defence: Defence) -> bool:
    """Whether dev is attacked in every class after this epoch: every few, and where it may be asked for later."""
    epoch = row["epoch"]
    if epoch % defence.attacked_every == 0 or epoch == defence.config.epochs:
        return True
    return defence.criterion(row) >= max((before["criterion"] for before in history), default=0)


def _recordings_digest(dataset: Dataset) -> str:
    return array_digest(dataset.names, dataset.y, *dataset.signals)


def _check_settings(settings: dict, folder: Path) -> None:
    """Raise EcgnbError if the checkpoint in `folder` was made with other settings, recordings or start."""
    path = folder / "config.json"
    # A setting that came after the run began had its default.
    stored: dict[str, Any] = {setting.name: setting.default for setting in dataclasses.fields(TrainingConfig)}
    try:
        found = json.loads(path.read_text("utf-8"))
        if unknown := found.keys() - settings.keys():
            raise ValueError(f"no such setting: {min(unknown)}")
        stored |= found
        before = stored | stored["digests"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EcgnbError(f"{path}: cannot be read as the settings of its checkpoint ({error!r}); {ANEW}") from error
    now = settings | settings["digests"]
    changed = [key for key, value in now.items() if key != "digests" and before.get(key) != value]
    if changed:
        raise EcgnbError(f"{folder}: its checkpoint was made with other settings ({', '.join(changed)}); {ANEW}")


def learning_rate(rate: float, losses: list[float]) -> float:
    """The next epoch's learning rate: a tenth after each two epochs in a row without a loss below all before them.

    As Andreotti et al. 2017 trained, but by the training loss: the recordings of dev are training recordings under
    `original`. It follows from the history alone, so that a run goes on as if unbroken.

    >>> [learning_rate(1.0, [3, 2, 2, 2, 1][:epoch]) for epoch in range(6)]
    [1.0, 1.0, 1.0, 1.0, 0.1, 0.1]
    """
    lowest, waited = math.inf, 0
    for loss in losses:
        waited = 0 if loss < lowest else waited + 1
        lowest = min(lowest, loss)
        if waited == 2:
            rate, waited = rate / 10, 0
    return rate


def _optimizer(config: TrainingConfig, recordings: int) -> keras.optimizers.Optimizer:
    """AdamW (Adam when weight_decay is 0); the cosine runs over all steps of the run."""
    rate = config.learning_rate
    if config.cosine:
        steps = config.epochs * math.ceil(recordings / config.batch_size)
        warm_up = max(1, steps // 20)
        rate = keras.optimizers.schedules.CosineDecay(
            rate / 10, steps - warm_up, warmup_target=rate, warmup_steps=warm_up
        )
    return keras.optimizers.AdamW(rate, weight_decay=config.weight_decay)


def _save_epoch(model: keras.Model, history: list[dict], config: TrainingConfig, folder: Path) -> None:
    """Save the checkpoint with its record; all else can be made from them, if the process is killed before it is."""
    checkpoint = folder / f"checkpoint-{len(history):04d}.keras"

    def save(target: Path) -> None:
        model.save(target)
        record = {"history": history, "selected": file_digest(folder / SELECTED)}
        record["sha256"] = _record_digest(record, target)
        write_text(checkpoint.with_suffix(".json"), json.dumps(record))

    write_atomically(checkpoint, save)
    _finish_epoch(model, history, config, folder)


def _finish_epoch(model: keras.Model, history: list[dict], config: TrainingConfig, folder: Path) -> None:
    """What follows from a checkpoint: the selected model, the history as a table; older checkpoints are removed."""
    if _is_selected(history, config):
        save_model(model, folder / SELECTED)
    write_text(folder / HISTORY, pd.DataFrame(history).to_csv(index=False))
    with file_errors(folder):
        for old in folder.glob("checkpoint-*"):
            if old.stem != f"checkpoint-{len(history):04d}":
                old.unlink()


def _is_selected(history: list[dict], config: TrainingConfig) -> bool:
    """Whether the last epoch is the selected one so far."""
    return config.select == "last" or history[-1]["criterion"] == max(row["criterion"] for row in history)


def _read_record(checkpoint: Path) -> tuple[list[dict], str]:
    """The history up to a checkpoint, and the digest of the selected model before it; EcgnbError if damaged."""
    try:
        record = json.loads(checkpoint.with_suffix(".json").read_text("utf-8"))
        if record.pop("sha256") == _record_digest(record, checkpoint):
            return record["history"], record["selected"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # the error below names both files
    raise EcgnbError(f"{checkpoint}: damaged, or not of the .json beside it; {ANEW}")


def _record_digest(record: dict, checkpoint: Path) -> str:
    """SHA-256 of a checkpoint and of the rest of its record."""
    return hashlib.sha256((file_digest(checkpoint) + json.dumps(record)).encode()).hexdigest()


PRINTED = {  # column of the history -> its short name in the line of an epoch
    "loss": "loss",
    "dev_challenge_score": "dev score",
    "dev_macro_f1": "dev F1",
    "dev_f1_A": "AF F1",
    "dev_recall_A": "AF recall",
    "dev_robust_recall_A": "robust AF recall",
    "dev_robust_challenge_score": "robust score",
    "dev_robust_macro_f1": "robust F1",
    "dev_noise_false_positive_rate": "N as AF in noise",
}


def _print_epoch(row: dict, epochs: int, seconds_left: float) -> None:
    scores = [f"{short} {row[column]:.3f}" for column, short in PRINTED.items() if column in row]
    parts = [f"epoch {row['epoch']:3d}/{epochs}", *scores, f"{seconds_left / 60:.0f} min left"]
    tqdm.write("  ".join(parts))
