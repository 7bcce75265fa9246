"""Scores, and how sure we are of them.

Scores of predictions come from counts, a confusion matrix: (classes, classes), rows are true classes, columns
predicted ones. An *estimate* is {"value", "ci95": [low, high]}, and for a share also its "count" and "n". Its interval
contains its value; where none can be given, both ends are None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from ecgnb.constants import CLASSES

BOOTSTRAPS = 2000
FEWEST = 10  # correctly classified recordings to conclude from: with fewer, a single one moves a share by over 0.1

ROUNDING = 1e-9  # of means of the same numbers in another order

Estimate = dict[str, Any]


def confusion(y: np.ndarray, predicted: np.ndarray, n_classes: int = len(CLASSES)) -> np.ndarray:
    """(n_classes, n_classes) int counts: rows are true classes, columns predicted ones.

    An undefined prediction (negative) is an error; it is counted as the class after the true one.
    """
    return confusion_matrix(y, np.where(predicted < 0, (y + 1) % n_classes, predicted), labels=range(n_classes))


def f1_scores(counts: np.ndarray) -> np.ndarray:
    """F1 = 2·TP / (2·TP + FP + FN) of each class from confusion counts (…, k, k); (…, k).

    0 for a class that is neither present nor predicted.
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    either = counts.sum(axis=-1) + counts.sum(axis=-2)
    return np.divide(2.0 * hits, either, out=np.zeros(hits.shape), where=either > 0)


def challenge_score(counts: np.ndarray) -> np.ndarray:
    """Mean F1 of A, N and O; '~' counts only through the errors it makes (Clifford et al. 2017).

    counts : (…, 4, 4), in the order of `constants.CLASSES`.
    """
    return f1_scores(counts)[..., :3].mean(axis=-1)


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """Mean F1 of all classes."""
    return f1_scores(counts).mean(axis=-1)


def recall(counts: np.ndarray, index: int = 0) -> np.ndarray:
    """Share of the recordings of a class that are predicted as it, by default of AF; NaN if there are none."""
    present = counts[..., index, :].sum(axis=-1)
    nan = np.full(present.shape, np.nan)
    return np.divide(counts[..., index, index], present, out=nan, where=present > 0)


def bootstrap_counts(counts: np.ndarray, seed: int = 0, draws: int = BOOTSTRAPS) -> np.ndarray:
    """(draws, k, k) confusion counts of resamples of the recordings, with replacement.

    Resampling n recordings is one multinomial draw over the cells of the confusion matrix (Efron &
    Tibshirani 1993), so no loop over recordings is needed.
    """
    rng, n = np.random.default_rng(seed), counts.sum()
    return rng.multinomial(n, counts.ravel() / n, draws).reshape(draws, *counts.shape)


def interval(draws: np.ndarray, value: float) -> list[float | None]:
    """95 % percentile interval of bootstrap draws, without NaN; no interval if it does not contain the value itself."""
    draws = draws[~np.isnan(draws)]
    low, high = (float(v) for v in np.percentile(draws, [2.5, 97.5])) if len(draws) else (np.nan, np.nan)
    return [low, high] if low - ROUNDING <= value <= high + ROUNDING else [None, None]


def has_interval(found: Estimate) -> bool:
    """Whether an estimate has an interval to show: one of no width is a bootstrap whose draws were all the same."""
    low, high = found["ci95"]
    return low != high


def scores(y: np.ndarray, predicted: np.ndarray, classes: Sequence[str] = CLASSES, seed: int = 0) -> dict[str, Any]:
    """Every score of a set of predictions, as estimates, with the confusion matrix that they come from.

    Keys: "f1" and "recall" (a dict, class symbol -> estimate), "macro_f1", "accuracy", "confusion" (counts), and, for
    the classes of the Challenge 2017, "challenge_score". Intervals: 95 %, bootstrap over recordings for F1 and
    its means, Wilson for shares.
    """
    point = confusion(y, predicted, len(classes))
    draws = bootstrap_counts(point, seed)

    def estimate(measure: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        value = float(measure(point))
        return {"value": value, "ci95": interval(measure(draws), value)}

    found: dict[str, Any] = {
        "f1": {
            symbol: estimate(lambda m, c=c: f1_scores(m)[..., c])  # type: ignore[misc]
            for c, symbol in enumerate(classes)
        },
        "recall": {symbol: rate(predicted[y == c] == c) for c, symbol in enumerate(classes)},
        "macro_f1": estimate(macro_f1),
        "accuracy": rate(predicted == y),
        "confusion": point.tolist(),
    }
    if tuple(classes) == CLASSES:
        found["challenge_score"] = estimate(challenge_score)
    return found


def rate(flags: np.ndarray) -> Estimate:
    """Share of True among `flags`, its count and denominator, and a 95 % Wilson interval.

    For a single share the bootstrap is a binomial and collapses to a point at 0 and 1, where attacks often
    end; Wilson's interval does not (Brown, Cai & DasGupta 2001).
    {"value": share, "ci95": [low, high], "count": hits, "n": denominator}; None when there is none.

    >>> rate(np.array([True, True, False, True]))["count"]
    3
    """
    n, hits = len(flags), int(np.sum(flags))
    if n == 0:
        return {"value": None, "ci95": [None, None], "count": 0, "n": 0}
    low, high = binomtest(hits, n).proportion_ci(method="wilson")
    return {"value": hits / n, "ci95": [float(low), float(high)], "count": hits, "n": n}


def compare_rates(a: np.ndarray, b: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Two models on the same recordings: difference of shares b − a, paired, and McNemar's exact test.

    a, b : (n,) bool, such as "classified correctly". {"value": difference, "ci95": paired bootstrap, "only_a",
    "only_b", "p": two-sided, exact: whether the recordings on which they differ favour one}.
    """
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    change = b.astype(float) - a
    draws = np.random.default_rng(seed).integers(len(a), size=(BOOTSTRAPS, len(a)))
    value = float(change.mean())
    p = binomtest(only_b, only_a + only_b).pvalue if only_a + only_b else 1.0
    return {
        "value": value,
        "ci95": interval(change[draws].mean(axis=1), value),
        "only_a": only_a,
        "only_b": only_b,
        "p": float(p),
    }


def compare_scores(y: np.ndarray, a: np.ndarray, b: np.ndarray, measure: Callable, seed: int = 0) -> dict[str, Any]:
    """Difference of a score between two models on the same recordings, b − a, with a paired bootstrap.

    y, a, b : (n,) true classes, and what each model predicts, in the classes of the Challenge; measure : of confusion
    counts (…, 4, 4), such as `challenge_score`. {"value": difference, "ci95": 95 % interval, "p": two-sided, by
    inverting it}.
    """
    k = len(CLASSES)
    cells = np.bincount((y * k + a) * k + b, minlength=k**3)
    drawn = np.random.default_rng(seed).multinomial(len(y), cells / len(y), BOOTSTRAPS)
    joint = np.concatenate([cells[None], drawn]).reshape(-1, k, k, k)
    change = measure(joint.sum(axis=-2)) - measure(joint.sum(axis=-1))
    beyond = min((change[1:] <= 0).mean(), (change[1:] >= 0).mean())
    p = min(1.0, 2 * max(beyond, 1 / BOOTSTRAPS))
    return {"value": float(change[0]), "ci95": interval(change[1:], change[0]), "p": float(p)}


def holm(p: np.ndarray) -> np.ndarray:
    """p values of several tests, adjusted so that all may be read together (Holm 1979); shape as p."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted
