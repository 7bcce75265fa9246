"""For maintainers: controls that training runs do not hold, from the shipped weights, put into figures/results.

Usage: python ci/controls.py        (needs all real recordings; some ten minutes)

- original-*-recomputed.json: the models of protocol `original` with batch-norm statistics recomputed without dropout, and
  no weight changed, evaluated as the stored runs are.
- controls.json: recordings of class O under the attack of training, which tell label leaking from robustness; how well
  each model separates AF whatever its threshold; AF recall of `static` on recordings that it was trained on and on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score

from ecgnb import metrics
from ecgnb.attacks import Threat
from ecgnb.constants import CLASSES
from ecgnb.data.dataset import Dataset, balanced_index, load_data
from ecgnb.data.download import cache_dir
from ecgnb.evaluation.engine import describe, evaluate
from ecgnb.evaluation.named import from_keras, named_models
from ecgnb.evaluation.run import EvaluatedModel, Execution, run_attacks
from ecgnb.evaluation.suites import STUDY_ATTACK, results_suite
from ecgnb.files import array_digest, write_json
from ecgnb.models.classifier import predicted_classes
from ecgnb.models.devices import one_core_a_batch
from ecgnb.models.files import load_model
from ecgnb.quiet import keras
from ecgnb.report.runs import read_run, write_run
from ecgnb.training.loop import STATISTICS_RECORDINGS
from ecgnb.training.step import recompute_statistics

RESULTS = Path(__file__).parents[1] / "figures" / "results"
CACHE, SEED = cache_dir() / "attacks", 2017
HOW = Execution(CACHE, SEED, progress=True)
ORIGINAL = ("original-baseline", "original-static", "original-adaptive")
LEAKFREE = (  # each group's first model is what its defences started from, and what attacks are crafted on
    ("baseline", "static", "adaptive", "fast"),
    ("baseline-2018", "static-2018", "adaptive-2018"),
)
AF, OTHER = CLASSES.index("A"), CLASSES.index("O")


def with_statistics(name: str, train_set: Dataset) -> keras.Model:
    """A shipped model with batch-norm statistics of recordings that it was trained on, clean, without dropout."""
    model, config = load_model(name), read_run(RESULTS / f"{name}.json").config
    rng = np.random.default_rng(config["seed"])
    is_baseline = config["defence"] == "baseline"
    drawn = rng.permutation(len(train_set)) if is_baseline else balanced_index(train_set.y, config["per_class"], rng)
    recompute_statistics(model, train_set.x[drawn[:STATISTICS_RECORDINGS]], config["batch_size"])
    return model


def recomputed(validation: Dataset) -> list[EvaluatedModel]:
    """The models of protocol `original` with such statistics; each is evaluated, and its result stored."""
    train_set = load_data("train", protocol="original", data="physionet")
    (surrogate,) = named_models(ORIGINAL[:1])
    models = []
    for name in ORIGINAL:
        keras_model, stored = with_statistics(name, train_set), read_run(RESULTS / f"{name}.json")
        model = from_keras(keras_model, f"{name}-recomputed")
        suite = results_suite(transferred=name != surrogate.name)
        report = evaluate(model, validation, suite, surrogate=surrogate, cache=CACHE, seed=SEED, progress=True)
        weights = keras_model.get_weights()
        result = replace(
            stored,
            name=model.name,
            config=stored.config | {"statistics": "recomputed"},
            # Scores on dev were those of the other statistics.
            selected={key: stored.selected[key] for key in ("epoch", "loss")},
            last={key: stored.last[key] for key in ("epoch", "loss")},
            weights={"sha256": array_digest(*weights), "norms": [float(np.linalg.norm(array)) for array in weights]},
            reports={"validation": report},
        )
        write_run(RESULTS / f"{model.name}.json", result)
        models.append(model)
    return models


def controls(groups: Sequence[Sequence[EvaluatedModel]], dataset: Dataset) -> dict[str, Any]:
    """Of every model of some groups: recordings of class O predicted as AF, and how well it separates AF."""
    threat = Threat("O", "N")
    problem = threat.on(dataset.of_class("O"))
    found: dict[str, Any] = {}
    for surrogate, *defences in groups:
        (crafted,) = run_attacks({"pgd20": STUDY_ATTACK}, surrogate, problem, HOW).values()
        most = false_positives(surrogate.classifier.logits(dataset.x), dataset.y)
        for model in (surrogate, *defences):
            logits = model.classifier.logits(dataset.x)
            clean = predicted_classes(logits)[dataset.y == OTHER] == AF
            attacked = predicted_classes(model.classifier.logits(crafted.x)) == AF
            score = logits[:, AF] - logsumexp(np.delete(logits, AF, axis=1), axis=1)
            found[model.name] = {
                "digest": model.digest,
                "surrogate": surrogate.name,
                "other_as_af": {"clean": metrics.rate(clean), "attacked": metrics.rate(attacked)},
                "difference": metrics.compare_rates(clean, attacked),
                "auroc": auroc(dataset.y == AF, score),
                "recall_at_specificity": recall_at(dataset.y == AF, score, most),
                "false_positives": most,
            }
    about = describe(dataset, seed=SEED, model=" ".join(found), suite="controls")
    return {"about": asdict(about), "attack": STUDY_ATTACK.title, "threat": asdict(threat), "models": found}


def false_positives(logits: np.ndarray, y: np.ndarray) -> int:
    """How many recordings that are not AF are predicted as AF."""
    return int((predicted_classes(logits)[y != AF] == AF).sum())


def recall_at(is_af: np.ndarray, score: np.ndarray, most: int) -> metrics.Estimate:
    """AF recall at the lowest threshold of a score, (n,), at which at most so many other recordings lie above it."""
    threshold = np.sort(score[~is_af])[-1 - most]
    return metrics.rate(score[is_af] > threshold)


def auroc(is_af: np.ndarray, score: np.ndarray, seed: int = 0) -> metrics.Estimate:
    """Area under the ROC curve of AF against the rest, with a bootstrap interval over recordings."""
    drawn = np.random.default_rng(seed).integers(len(score), size=(metrics.BOOTSTRAPS, len(score)))
    area = float(roc_auc_score(is_af, score))
    areas = np.array([roc_auc_score(is_af[rows], score[rows]) for rows in drawn])
    return {"value": area, "ci95": metrics.interval(areas, area)}


def memorising(baseline: EvaluatedModel, static: EvaluatedModel) -> dict[str, Any]:
    """AF recall of `static` on AF recordings that it was trained on, and on as many that it was not.

    "transferred" are the very examples that it was trained on, or such as them; "pgd20" are white-box. It is plain
    recall: an example that was learnt by heart would be predicted as AF also where the clean recording is not.
    """
    held_out = load_data("test", data="physionet")
    folds = {"train": load_data("train", data="physionet").of_class("A"), "test": held_out.of_class("A")}
    found: dict[str, Any] = {}
    for fold, recordings in folds.items():
        problem = Threat().on(recordings.take(slice(len(folds["test"]))))
        crafted = {
            name: run_attacks({"pgd20": STUDY_ATTACK}, model, problem, HOW)["pgd20"].x
            for name, model in (("transferred", baseline), ("pgd20", static))
        }
        found[fold] = {
            name: metrics.rate(predicted_classes(static.classifier.logits(x)) == AF)
            for name, x in ({"clean": problem.x} | crafted).items()
        }
    about = describe(held_out, seed=SEED, model=static.name, digest=static.digest, suite="controls")
    return {"about": asdict(about), "attack": STUDY_ATTACK.title, "threat": asdict(Threat()), "recall": found}


def main() -> None:
    one_core_a_batch()
    validation = load_data("validation", protocol="original", data="physionet")
    again = recomputed(validation)
    original = named_models(ORIGINAL)
    groups = [named_models(group) for group in LEAKFREE]
    stored = {
        "validation": controls([*groups, [*original, *again]], load_data("validation", data="physionet")),
        "test": controls(groups, load_data("test", data="physionet")),
        "memorising": memorising(*groups[0][:2]),
    }
    write_json(RESULTS / "controls.json", stored)


if __name__ == "__main__":
    main()
