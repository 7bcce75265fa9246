"""Adversarial attacks on an ECG rhythm classifier, and defences against them.

The public API, in the order of use::

    from ecgnb import KerasClassifier, Threat, evaluate, load_data, load_model, pgd, suite

    validation = load_data("validation")                  # a Dataset: windows in z-units, labels, provenance
    model = load_model("baseline")                        # a Keras model that gives logits
    classifier = KerasClassifier(model)                   # logits, and gradients with respect to the input
    problem = Threat(epsilon=0.2).on(validation.of_class("A"))  # AF to be predicted as normal, L∞
    result = pgd(classifier, problem, steps=20)           # an AttackResult: examples, success, queries
    report = evaluate(named_model("baseline"), validation, suite("results"))  # a Report: every number

`dataset_from_arrays` takes recordings of one's own. `training_config` and `train` make the baseline and the defences. Each room imports only those above it:

==============  ==========================================================================================
`constants`     the task of the Challenge 2017 in numbers
`values`        settings that people give: their types and ranges
`metrics`       scores with intervals, paired tests
`data`          where recordings come from, how they become arrays: archives, records, dataset, demo, audit
`models`        the network; a classifier is logits and gradients; model files
`attacks`       threat models, balls, losses; PGD, APGD, Square, SAP, universal; noise baselines
`training`      configurations, defences, the loop
`evaluation`    attack suites, `evaluate` (the one engine) and its report, checks, certification
`report`        style, figures, tables, model cards, HTML page
`notebook`      plumbing of the notebooks
`art`           to and from the Adversarial Robustness Toolbox
`explore`       an attack one can touch: one recording, every iterate, widgets
==============  ==========================================================================================

Names are loaded when they are first used, so that `import ecgnb` takes no time and needs no TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "EcgnbError": "ecgnb.errors",
    "Dataset": "ecgnb.data.dataset",
    "load_data": "ecgnb.data.dataset",
    "dataset_from_arrays": "ecgnb.data.own",
    "load_model": "ecgnb.models.files",
    "KerasClassifier": "ecgnb.models.keras_classifier",
    "Threat": "ecgnb.attacks.threats",
    "pgd": "ecgnb.attacks.pgd",
    "training_config": "ecgnb.training.configuration",
    "train": "ecgnb.training.loop",
    "suite": "ecgnb.evaluation.suites",
    "named_model": "ecgnb.evaluation.named",
    "evaluate": "ecgnb.evaluation.engine",
    "Report": "ecgnb.evaluation.schema",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ecgnb' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
