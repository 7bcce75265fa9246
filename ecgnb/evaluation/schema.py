"""The report of an evaluation: one documented form, written and read here and nowhere else.

Every table, figure, card and page is a function of a `Report`. Its JSON has the fields below as keys; all keys are
identifiers, and sentences are made where a person reads them. An *estimate* is a dict of `metrics`:
{"value", "ci95"} and, for a share, "count" and "n". Classes of recordings are `Symbols`: a text of one symbol each, or
a list of names where the classes have longer ones.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ecgnb.attacks.result import AttackResult
from ecgnb.attacks.threats import Goal
from ecgnb.errors import EcgnbError
from ecgnb.files import write_json
from ecgnb.metrics import Estimate, confusion, rate
from ecgnb.models.classifier import UNDEFINED

Symbols = str | list[str]
SCHEMA = 1  # raise when a field changes its name or meaning


@dataclass(frozen=True)
class About:
    """Where numbers come from.

    data, split, protocol, labels : which recordings, and whose labels; recordings : how many; class_counts :
    symbol -> recordings; signals : SHA-256 of them, with their names and labels; model : its name; digest : of the
    model (see `identity.model_digest`); suite : name of what was computed; seed : of noise, random starts and bootstrap;
    code : digest of the code that decides numbers (see `cache.code_digest`); versions : package -> version.
    """

    data: str
    split: str
    protocol: str
    labels: str
    recordings: int
    class_counts: dict[str, int]
    seed: int
    model: str
    digest: str = ""
    suite: str = ""
    code: str = ""
    signals: str = ""
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Condition:
    """What a model predicts under one condition: clean, under an attack, or under noise.

    title : for people; kind : "clean", "attack" (white-box), "transfer" (crafted on another model), "worst_case" (the
    strongest of several attacks, recording by recording), "noise", or "other_classes" (the study's attack on recordings
    of the classes that are neither attacked nor the target, see `checks.no_label_leaking`); threat : fields of
    `Threat`, None when clean and of other classes;
    predictions : classes, in the order of `Report.records`; recordings that are not attacked keep
    their clean prediction; "?" where logits are not finite, which counts as broken by the attack. scores : of `metrics.scores`, over all recordings.

    Of the attacked recordings, None without a threat:
    robust_recall : correctly classified before the attack, and the attack does not reach its goal; of all attacked
    attack_success_rate : the attack reaches its goal; of those correctly classified before it
    median_queries : forward passes of an attack
    """

    title: str
    kind: str
    threat: dict[str, Any] | None
    predictions: Symbols
    scores: dict[str, Any]
    robust_recall: Estimate | None = None
    attack_success_rate: Estimate | None = None
    median_queries: float | None = None


@dataclass(frozen=True)
class Check:
    """A verdict on the evaluation itself; what it rests on; what to do if it is "warn" or "fail".

    verdict : "pass", "warn", "fail", or "undecided" where nothing is wrong, but too few recordings, or too few
    successes of the attack that it compares with, could show it.
    """

    name: str
    title: str
    verdict: str
    evidence: str
    advice: str


@dataclass(frozen=True)
class Report:
    """One model on one data set. Parts that a suite does not compute are empty.

    records : names of the recordings; labels : their true classes; classes : all of them
    conditions : key -> `Condition`; "clean" is always there
    curves : name -> robustness curve {"epsilon", "value", "low", "high"}: share of the attacked class that is correctly
        classified and not successfully attacked, against ε in z-units. "attack": by the minimal ε found for each
        recording (an upper bound); names of noise baselines: on a grid; "pgd20", "random_sign_recall": recall on a grid
    curve_uv : the "attack" curve against ε in µV
    minimal_epsilon : unit ("z", "uv") -> {"median": estimate, "area": estimate}; None above the search limit, and at
        both ends of an interval that cannot be given; empty if no attacked recording is classified correctly
    attacked : one entry for each recording of the attacked class: {"record", "minimal_epsilon_z",
        "minimal_epsilon_uv", "worst_attack"}
    checks : of the evaluation itself
    loss_path : {"p5", "median", "p95"}: the attack's loss at every step, and "success": estimate
    preprocessing : transformation -> condition -> estimate of recall behind it
    certification : of randomized smoothing, see `certification`
    signals : condition -> measure -> {"median", "p5", "p95"}, see `signals`
    left_out : what the suite asks for and these recordings do not allow, a sentence each
    examples : condition -> adversarial examples of the attacked class; in memory only, not written
    """

    about: About
    threat: dict[str, Any]
    classes: tuple[str, ...]
    records: list[str]
    labels: Symbols
    conditions: dict[str, Condition]
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    curve_uv: dict[str, list[float]] = field(default_factory=dict)
    minimal_epsilon: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    attacked: list[dict[str, Any]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    loss_path: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    certification: dict[str, Any] = field(default_factory=dict)
    signals: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    schema: int = SCHEMA
    examples: dict[str, AttackResult] = field(default_factory=dict, compare=False)

    @property
    def y(self) -> np.ndarray:
        """(n,) true classes."""
        return self._numbers(self.labels)

    def predicted(self, condition: str) -> np.ndarray:
        """(n,) predicted classes under a condition."""
        return self._numbers(self.conditions[condition].predictions)

    def rate(self, condition: str, true: str, predicted: str) -> Estimate:
        """Share of the recordings of class `true` that are predicted as class `predicted`."""
        labelled = self.y == self.classes.index(true)
        return rate(self.predicted(condition)[labelled] == self.classes.index(predicted))

    def of_kind(self, *kinds: str) -> dict[str, Condition]:
        """The conditions of some kinds, in their order."""
        return {key: c for key, c in self.conditions.items() if c.kind in kinds}

    def successes(self, condition: str) -> np.ndarray:
        """(n,) bool: correctly classified when clean, and the attack reaches its goal; False where not attacked."""
        threat = self.conditions[condition].threat
        if threat is None:
            raise EcgnbError(f"no recording of the threat model is attacked under condition {condition}")
        target, attacked = threat["target"], threat["attack_class"]
        goal = Goal(self.classes.index(target) if target else None)
        y, correct = self.y, self.predicted("clean") == self.y
        if attacked:
            correct &= y == self.classes.index(attacked)
        return correct & goal.is_success(self.predicted(condition), y)

    def _numbers(self, symbols: Symbols) -> np.ndarray:
        number = {symbol: c for c, symbol in enumerate(self.classes)} | {"?": UNDEFINED}
        return np.array([number[symbol] for symbol in symbols], int)


def write_report(path: Path, report: Report) -> None:
    """Write a report as JSON."""
    write_json(path, as_json(report))


def check_free(path: Path, digest: str, threat: dict[str, Any], data: str) -> None:
    """Raise EcgnbError if a report lies there of another model, under another threat model, or of other recordings.

    digest : of the model; threat : fields of the `Threat`; data : as in `About`.
    """
    if not path.exists():
        return
    report = read_report(path)
    other = {
        f"of another model named {report.about.model}": report.about.digest != digest,
        "under another threat model": report.threat != json.loads(json.dumps(threat)),
        f"of other recordings ({report.about.data})": report.about.data != data,
    }
    if found := [what for what, differs in other.items() if differs]:
        raise EcgnbError(f"{path}: is the report {found[0]}; give another --out, or move it")


def as_json(report: Report) -> dict[str, Any]:
    """A report as plain values, without examples. What each recording is comes last, since it is long."""
    values = {f.name: getattr(report, f.name) for f in fields(report) if f.name != "examples"}
    values["about"] = asdict(report.about)
    values["classes"] = list(report.classes)
    values["conditions"] = {key: asdict(c) for key, c in report.conditions.items()}
    values["checks"] = [asdict(check) for check in report.checks]
    recordings = {name: values.pop(name) for name in ("records", "labels", "attacked")}
    return {"schema": values.pop("schema"), **values, **recordings}


def read_report(path: Path) -> Report:
    """A report from its JSON; an error that names the file and the remedy if it cannot be read."""
    remedy = "make it again: python -m ecgnb evaluate"
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EcgnbError(f"{path}: cannot be read as a report ({error}); {remedy}") from error


def from_json(stored: dict[str, Any]) -> Report:
    """A report from plain values; raises ValueError for another schema, or numbers that do not belong
    together, KeyError or TypeError for other fields."""
    if stored.get("schema") != SCHEMA:
        raise ValueError(f"schema {stored.get('schema')}, expected {SCHEMA}")
    parts = stored | {
        "about": About(**stored["about"]),
        "classes": tuple(stored["classes"]),
        "conditions": {key: Condition(**c) for key, c in stored["conditions"].items()},
        "checks": [Check(**check) for check in stored["checks"]],
    }
    report = Report(**parts)
    for key, condition in report.conditions.items():
        counts = confusion(report.y, report.predicted(key), len(report.classes))
        if len(report.records) != len(report.labels) or counts.tolist() != condition.scores["confusion"]:
            raise ValueError(f"the scores of {key} are not those of its predictions")
    return report
