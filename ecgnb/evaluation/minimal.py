"""Minimal adversarial perturbations: for each recording the smallest ε at which an attack was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ecgnb import metrics
from ecgnb.attacks import AttackProblem, from_examples, pgd
from ecgnb.evaluation.run import EvaluatedModel, Execution, chunks, problem_key
from ecgnb.evaluation.workers import map_cached
from ecgnb.files import array_digest
from ecgnb.metrics import Estimate
from ecgnb.models.classifier import Classifier
from ecgnb.progress import bar

Band = tuple[float, float] | None


@dataclass(frozen=True)
class MinimalPerturbation:
    """The smallest perturbation found that reaches the goal, for each recording.

    radius : (n,) z-units; 0 where the goal is reached without an attack, infinite where none was found up to
    `largest`; x : (n, samples, leads) float32, the examples (the clean recordings where none was found).
    """

    radius: np.ndarray
    x: np.ndarray
    largest: float


def minimal_perturbation(
    classifier: Classifier,
    problem: AttackProblem,
    *,
    known: np.ndarray,
    resolution: float = 0.005,
    steps: int = 20,
    band: Band = None,
    progress: str = "",
) -> MinimalPerturbation:
    """Search each recording's minimal radius by bisection, up to the problem's own.

    Each try begins from the smallest success so far, shrunk to the smaller ball, and stops at success.
    That no attack succeeds below is evidence, not proof. known : (n, samples, leads), examples of other attacks, to
    begin with where they succeed and are smaller than what PGD finds; resolution : z-units, at which a
    search ends; band : Hz, where PGD fails at a radius, PGD within this pass-band tries too.
    """
    ball, largest = problem.ball, problem.ball.radius
    first = _try(classifier, problem, problem.x, 2 * steps, band, progress)
    x, high = problem.x.copy(), np.full(len(problem), np.inf)
    for examples, success in (first, (known, from_examples(classifier, problem, known).success)):
        better = success & (ball.size(examples) < high)
        x[better], high[better] = examples[better], ball.size(examples)[better]
    low = np.zeros(len(problem))
    with bar(progress and f"{progress}, bisection", unit="ε") as tries:
        while len(rows := np.flatnonzero((high - low > resolution) & np.isfinite(high))):
            middle = (low[rows] + high[rows]) / 2
            part = problem.rows(rows).resized(middle)
            shrunk = part.x + (middle / high[rows])[:, None, None] * part.ball.delta(x[rows])
            examples, success = _try(classifier, part, shrunk, steps, band)
            hit, missed = rows[success], rows[~success]
            x[hit] = examples[success]
            high[hit] = part.ball.size(examples)[success]
            low[missed] = middle[~success]
            tries.update()
    return MinimalPerturbation(high, x, float(largest.max()))


def run_minimal(
    model: EvaluatedModel, problem: AttackProblem, known: np.ndarray, how: Execution, steps: int, band: Band = None
) -> MinimalPerturbation:
    """`minimal_perturbation` for every recording, in chunks."""
    parts = chunks(problem, how.workers)
    items = list(zip(parts, np.array_split(known, len(parts)), strict=True))
    settings = {"minimal": steps, "band": band}
    stored = [
        (f"{model.name}-minimal", problem_key(model, part) | settings | {"known": array_digest(x)}) for part, x in items
    ]
    text = f"{model.name}, minimal ε" if how.progress else ""
    search = partial(_minimal, steps=steps, band=band)
    found = map_cached(how.workers, search, items, stored, how.cache, shared=(model,), text=text)
    radius, x = (np.concatenate([chunk[name] for chunk in found]) for name in ("radius", "x"))
    return MinimalPerturbation(radius, x, max(float(chunk["largest"]) for chunk in found))


def curve(epsilons: Sequence[float], rates: Sequence[Estimate]) -> dict[str, list[float]]:
    """A rate at each ε, as a figure takes it: {"epsilon", "value", "low", "high"}."""
    return {
        "epsilon": [float(epsilon) for epsilon in epsilons],
        "value": [r["value"] for r in rates],
        "low": [r["ci95"][0] for r in rates],
        "high": [r["ci95"][1] for r in rates],
    }


def robustness_curve(radius: np.ndarray, is_correct: np.ndarray, largest: float) -> dict[str, list[float]]:
    """Robust recall as a function of ε, at every ε where it changes: no grid. In the form of `curve`.

    radius : (n,) minimal radius of each recording, in any unit, up to `largest` in the same; is_correct : (n,) bool,
    classified correctly when clean. Minimal radii are upper bounds, and so is the curve.
    """
    radius = np.where(is_correct, radius, 0.0)
    epsilons = [0.0, *np.unique(radius[(radius > 0) & (radius <= largest)]), largest]
    return curve(epsilons, [metrics.rate(radius > epsilon) for epsilon in epsilons])


def summarise(radius: np.ndarray, is_correct: np.ndarray, largest: float, seed: int = 0) -> dict[str, Estimate]:
    """Two numbers of a robustness curve, with 95 % bootstrap intervals over recordings.

    "median": minimal ε, over recordings classified correctly when clean, of which there must be some; None above
    `largest`, and no interval from fewer than `metrics.FEWEST` of them, which a bootstrap understates; "area": mean
    robust recall for an ε drawn evenly from 0 to `largest`.
    """
    held = np.minimum(np.where(is_correct, radius, 0.0), largest) / largest
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(radius), size=(metrics.BOOTSTRAPS, len(radius)))
    values, area = [np.percentile(radius[is_correct], 50, method="higher")], float(held.mean())
    if is_correct.sum() >= metrics.FEWEST:
        median = np.where(is_correct, radius, np.nan)[draws]
        median = median[~np.isnan(median).all(axis=1)]
        medians = np.nanpercentile(median, 50, axis=1, method="higher")
        bounds = np.percentile(medians, [2.5, 97.5], method="higher")
        values += bounds.tolist() if bounds[0] <= values[0] <= bounds[1] else []
    value, low, high = [float(v) if v <= largest else None for v in values] + [None] * (3 - len(values))
    return {
        "median": {"value": value, "ci95": [low, high]},
        "area": {"value": area, "ci95": metrics.interval(held[draws].mean(axis=1), area)},
    }


def _minimal(
    item: tuple[AttackProblem, np.ndarray], model: EvaluatedModel, *, steps: int, band: Band
) -> dict[str, np.ndarray]:
    problem, known = item
    found = minimal_perturbation(model.classifier, problem, known=known, steps=steps, band=band)
    return {"radius": found.radius, "x": found.x, "largest": np.array(found.largest)}


def _try(
    classifier: Classifier, problem: AttackProblem, start: np.ndarray, steps: int, band: Band, progress: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """PGD from `start` until success and, where it fails, PGD within `band`: (x, success)."""
    result = pgd(classifier, problem, start=start, steps=steps, until_success=True, progress=progress)
    left = np.flatnonzero(~result.success)
    if band and len(left):
        limited = problem.rows(left).within(band)
        inside = pgd(classifier, limited, start=start[left], steps=steps, until_success=True)
        result.x[left[inside.success]] = inside.x[inside.success]
        result.success[left] = inside.success
    return result.x, result.success
