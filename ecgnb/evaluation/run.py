"""Running attacks on many recordings: in chunks, stored as they are finished, by this process or by workers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ecgnb import values
from ecgnb.attacks import AttackProblem, AttackResult
from ecgnb.evaluation.suites import Attack
from ecgnb.evaluation.workers import HERE, Workers, map_cached
from ecgnb.files import array_digest
from ecgnb.models.classifier import Classifier, predicted_classes

# Recordings in a chunk, the unit of work that is sent to a worker and stored. Few large ones are fastest, as
# long as no worker is idle. Results differ by the network's rounding, which depends on the size of a batch.
LARGEST, SMALLEST = 128, 8


@dataclass(frozen=True)
class EvaluatedModel:
    """The model under evaluation. digest : of all that decides its logits."""

    name: str
    classifier: Classifier
    digest: str


@dataclass(frozen=True)
class Execution:
    """How attacks are run: cache : folder for finished chunks; seed : of all that is random; progress : show bars;
    workers : who computes (see `workers`): they change the time it takes, not the result.
    """

    cache: Path
    seed: int = 0
    progress: bool = False
    workers: Workers = HERE

    def __post_init__(self):
        values.read("seed", self.seed, 2017, values.SEED)


def run_attacks(
    attacks: Mapping[str, Attack], model: EvaluatedModel, problem: AttackProblem, how: Execution
) -> dict[str, AttackResult]:
    """name -> result of every attack on every recording."""
    return run_each({name: (attack, problem) for name, attack in attacks.items()}, model, how)


def run_each(
    posed: Mapping[str, tuple[Attack, AttackProblem]], model: EvaluatedModel, how: Execution
) -> dict[str, AttackResult]:
    """As `run_attacks`, each attack on a problem of its own: all of them at a time, if there are workers."""
    items, stored, owners = [], [], []
    # What cannot be shared out begins first, so that nobody waits for it at the end.
    for name, (attack, problem) in sorted(posed.items(), key=lambda entry: not entry[1][0].joint):
        for part in [problem] if attack.joint else chunks(problem, how.workers):
            items.append((attack, part))
            key = problem_key(model, part) | {"attack": str(attack), "seed": how.seed}
            stored.append((model.name, key))
            owners.append(name)
    text = f"{model.name}, {_several(posed)}" if how.progress else ""
    attack_chunk = partial(_attacked, seed=how.seed)
    finished = map_cached(how.workers, attack_chunk, items, stored, how.cache, shared=(model,), text=text)
    parts: dict[str, list[AttackResult]] = {name: [] for name in posed}
    for name, arrays in zip(owners, finished, strict=True):
        parts[name].append(AttackResult(**arrays))
    return {name: _joined(results) for name, results in parts.items()}


def cascade(
    attacks: Mapping[str, Attack], model: EvaluatedModel, problem: AttackProblem, how: Execution, name: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Attacks in turn, each only on the recordings that those before it did not succeed on.

    Returns (n,) bool, any attack succeeded, and (n,) int, the class predicted under the last attack tried.
    """
    parts, each = chunks(problem, how.workers), list(attacks.values())
    settings = {"cascade": [str(attack) for attack in each], "seed": how.seed}
    name = f"{model.name}-{name or _several(attacks)}"
    stored = [(name, problem_key(model, part) | settings) for part in parts]
    try_all = partial(_cascaded, attacks=each, seed=how.seed)
    text = name if how.progress else ""
    finished = map_cached(how.workers, try_all, parts, stored, how.cache, shared=(model,), text=text)
    success, predicted = (np.concatenate([chunk[key] for chunk in finished]) for key in ("success", "predicted"))
    return success, predicted


def chunks(problem: AttackProblem, workers: Workers = HERE) -> list[AttackProblem]:
    """The recordings in parts as equal as can be, at most `LARGEST`; one part if there are none.

    Several processes get a part each, of `SMALLEST` recordings or more.
    """
    for_all = min(workers.processes, len(problem) // SMALLEST)
    parts = max(1, math.ceil(len(problem) / LARGEST), for_all)
    return [problem.rows(rows) for rows in np.array_split(np.arange(len(problem)), parts)]


def problem_key(model: EvaluatedModel, problem: AttackProblem) -> dict:
    """What decides a result, besides the attack: the model, the recordings, the goal, the ball."""
    ball = problem.ball
    return {
        "model": model.digest,
        "recordings": array_digest(problem.y, ball.centre, ball.radius, ball.mask, *_given(ball.scale)),
        "goal": problem.goal.target,
        "ball": type(ball).__name__,
        "band": getattr(ball, "band", None),
    }


def _given(scale: np.ndarray | None) -> list[np.ndarray]:
    return [] if scale is None else [scale]


def _attacked(item: tuple[Attack, AttackProblem], model: EvaluatedModel, *, seed: int) -> dict[str, np.ndarray]:
    attack, problem = item
    return vars(attack(model.classifier, problem, seed=seed))


def _cascaded(
    problem: AttackProblem, model: EvaluatedModel, *, attacks: list[Attack], seed: int
) -> dict[str, np.ndarray]:
    success, predicted = np.zeros(len(problem), bool), problem.y.copy()
    for attack in attacks:
        left = np.flatnonzero(~success)
        if len(left):
            result = attack(model.classifier, problem.rows(left), seed=seed)
            success[left] = result.success
            predicted[left] = predicted_classes(result.logits)
    return {"success": success, "predicted": predicted}


def _joined(parts: list[AttackResult]) -> AttackResult:
    """Results on some recordings each, as one. Losses are NaN after a part's last forward pass."""
    passes = max(len(part.loss) for part in parts)
    losses = [np.full((passes, len(part.x)), np.nan, np.float32) for part in parts]
    for loss, part in zip(losses, parts, strict=True):
        loss[: len(part.loss)] = part.loss
    return AttackResult(
        x=np.concatenate([part.x for part in parts]),
        logits=np.concatenate([part.logits for part in parts]),
        success=np.concatenate([part.success for part in parts]),
        queries=np.concatenate([part.queries for part in parts]),
        loss=np.concatenate(losses, axis=1),
    )


def _several(names: Collection[str]) -> str:
    """What several attacks are called on a progress bar and in the names of files."""
    first, *others = names
    return f"{first} and {len(others)} more" if others else first
