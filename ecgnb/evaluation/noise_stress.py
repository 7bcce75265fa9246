"""Robustness to the noise that a recorder meets: scores against the signal-to-noise ratio (SNR).

The kinds of noise are those of the MIT-BIH Noise Stress Test Database (NSTDB; Moody, Muldrow & Mark 1984): electrode
motion, muscle artefact and baseline wander. Where a user has its records, pieces of them are added. Otherwise
stand-ins are, and every result calls them synthetic.

SNR in dB is 10·log10(variance of the recording / variance of the noise), over the real samples of each lead. It is the
same in mV and in z-units. (The database's own dB differ: they measure the signal by the height of its QRS complexes.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ecgnb import metrics
from ecgnb.attacks.noise import Noise, baseline_wander, emg
from ecgnb.attacks.preprocessing import standardised
from ecgnb.attacks.threats import Threat
from ecgnb.data.dataset import Dataset
from ecgnb.data.nstdb import load_nstdb
from ecgnb.errors import EcgnbError
from ecgnb.evaluation.engine import describe
from ecgnb.evaluation.run import EvaluatedModel
from ecgnb.models.classifier import check_defined, check_fits, predicted_classes
from ecgnb.progress import bar

SNR_DB = (24, 18, 12, 6, 0, -6)  # the database's own steps
SECONDS_A_STEP = 1.0  # of synthetic electrode motion
DECAY_S = (0.05, 0.32)  # its shortest and longest time constant; the longest is that of a high-pass filter at 0.5 Hz


def electrode_motion(shape: tuple[int, int], fs: float, rng: np.random.Generator) -> np.ndarray:
    """Synthetic electrode motion: the electrode's potential steps at random moments, and a high-pass filter lets it decay."""
    n_steps = math.ceil(shape[0] / fs / SECONDS_A_STEP), shape[1]
    moments = rng.uniform(0, shape[0] / fs, n_steps)
    sizes, decays = rng.standard_normal(n_steps), rng.uniform(*DECAY_S, n_steps)
    since = np.arange(shape[0])[:, None, None] / fs - moments
    return np.where(since >= 0, sizes * np.exp(-np.maximum(since, 0) / decays), 0).sum(axis=1)


SYNTHETIC: dict[str, Noise] = {
    "synthetic_electrode_motion": electrode_motion,
    "synthetic_muscle_artefact": emg,
    "synthetic_baseline_wander": baseline_wander,
}


def recorded(record: np.ndarray) -> Noise:
    """Noise from a record, (samples, leads) at the rate of the recordings: pieces from a random moment of a random lead."""

    def piece(shape: tuple[int, int], fs: float, rng: np.random.Generator) -> np.ndarray:
        first = rng.integers(len(record) - shape[0] + 1)
        return record[first : first + shape[0], rng.integers(record.shape[1], size=shape[1])]

    return piece


def noise_kinds(nstdb: str, fs: float) -> dict[str, Noise]:
    """The three kinds of noise, for recordings at `fs` Hz: name -> noise.

    nstdb : where the NSTDB's records are, see `load_nstdb`, or "" for synthetic ones; the names say which.
    """
    if not nstdb:
        return SYNTHETIC
    return {f"nstdb_{kind}": recorded(record) for kind, record in load_nstdb(nstdb, fs).items()}


def noise_at_0_db(dataset: Dataset, noise: Noise, seed: int) -> np.ndarray:
    """Noise for each recording, as strong as the recording: (n, samples, leads) float64, z-units, zero on padding.

    It depends on the recording and the seed alone: every model gets the same, and every SNR the same in another size.
    """
    added = np.zeros(dataset.x.shape)
    generators = Threat("", "").on(dataset).generators(seed)
    for x, length, own, rng in zip(dataset.x, dataset.lengths.tolist(), added, generators, strict=True):
        drawn = noise((length, x.shape[1]), dataset.fs, rng)
        sd = drawn.std(axis=0)
        if not sd.all():
            raise EcgnbError(f"{seed=}: a piece of noise is flat; take another seed")
        own[:length] = (drawn - drawn.mean(axis=0)) * x[:length].std(axis=0, dtype=np.float64) / sd
    return added


def at_snr(dataset: Dataset, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Recordings with noise of `noise_at_0_db` at an SNR: (n, samples, leads) float32, z-units.

    As in a real recording the noise is there before the z-score: they are standardised again, as the data set says.
    """
    noisy = dataset.x + 10 ** (-snr_db / 20) * noise
    if dataset.standardise in ("recording", "lead"):
        noisy = standardised(noisy, dataset.fs, together=dataset.standardise == "recording")[0]
    return noisy.astype(np.float32)


def noise_stress(
    models: Sequence[EvaluatedModel],
    dataset: Dataset,
    noises: Mapping[str, Noise],
    *,
    seed: int = 2017,
    progress: bool = False,
) -> dict[str, Any]:
    """Scores of models on the challenge's classes, clean and with each noise at each SNR, as plain values.

    "clean": model -> scores; "noise": name of `noises` -> model -> scores at each of "snr_db". Scores have
    "challenge_score", "recall" and "confusion" as in `metrics.scores`, and "difference": of the challenge score to that
    of the first model, on the same recordings.
    """
    for model in models:
        check_fits(model.classifier, dataset)
    clean = _scores(models, dataset, dataset.x, seed)
    found: dict[str, dict[str, list]] = {name: {model.name: [] for model in models} for name in noises}
    conditions = bar("noise" * progress, total=len(noises) * len(SNR_DB), unit="condition")
    for name, noise in noises.items():
        added = noise_at_0_db(dataset, noise, seed)
        for snr_db in SNR_DB:
            scores = _scores(models, dataset, at_snr(dataset, added, snr_db), seed)
            for model in models:
                found[name][model.name].append(scores[model.name])
            conditions.update()
    conditions.close()
    about = describe(dataset, seed=seed, model=" ".join(model.name for model in models), suite="noise_stress")
    digests = {model.name: model.digest for model in models}
    return {"about": asdict(about), "digests": digests, "snr_db": list(SNR_DB), "clean": clean, "noise": found}


def _scores(models: Sequence[EvaluatedModel], dataset: Dataset, x: np.ndarray, seed: int) -> dict[str, Any]:
    """Model -> its scores on recordings as they are in `x`."""
    predicted = {model.name: predicted_classes(model.classifier.logits(x)) for model in models}
    first, found = predicted[models[0].name], {}
    for name, own in predicted.items():
        check_defined(own, dataset.names, name)
        scores = metrics.scores(dataset.y, own, dataset.classes, seed)
        found[name] = {key: scores[key] for key in ("challenge_score", "recall", "confusion")}
        found[name]["difference"] = metrics.compare_scores(dataset.y, first, own, metrics.challenge_score, seed)
    return found
