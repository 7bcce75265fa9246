"""Certified robustness by randomized smoothing (Cohen, Rosenfeld & Kolter 2019, arXiv 1902.02918).

The smoothed classifier predicts the class that the network gives most often under Gaussian noise.
Within an L2 ball that grows with how often, no perturbation whatever changes its prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.stats import beta, norm

from ecgnb import metrics
from ecgnb.errors import EcgnbError
from ecgnb.models.classifier import UNDEFINED, Classifier, predicted_classes
from ecgnb.progress import bar

ABSTAINS = -1
ALPHA = 0.001  # a certificate fails with at most this probability
SELECT, BOUND = 0, 1  # the two stages of CERTIFY; their draws must be independent

Item = tuple[int, np.ndarray, np.ndarray]  # a recording: its index, x, mask
Counts = dict[str, np.ndarray]
Mapper = Callable[[Callable[[Item, Classifier], Counts], Sequence[Item]], list[Counts]]


@dataclass(frozen=True)
class Certificates:
    """What the smoothed classifier predicts for n recordings, and how far around each this holds.

    Each holds with confidence 1 - alpha on its own, not all of them together.

    predicted : (n,) int64, class number, or ABSTAINS
    radius : (n,) float64, L2, z-units, over real samples; 0 exactly where it abstains
    top : (n,) int64, the class most frequent in the first stage
    counts : (n, classes) int64, draws of the second stage predicted as each class
    """

    predicted: np.ndarray
    radius: np.ndarray
    top: np.ndarray
    counts: np.ndarray


def certified_radius(count: np.ndarray, n: int, sigma: float, alpha: float) -> np.ndarray:
    """Certified L2 radius σ·Φ⁻¹(p), z-units, if `count` of `n` noisy predictions gave the class; shape as `count`.

    p is the one-sided Clopper-Pearson lower bound at confidence 1 - alpha. Radius 0 means p <= 1/2: abstain.
    """
    count = np.asarray(count)
    lower = np.where(count > 0, beta.ppf(alpha, np.maximum(count, 1), n - count + 1), 0.0)
    return sigma * norm.ppf(np.maximum(lower, 0.5))


def largest_radius(sigma: float, n: int) -> float:
    """The radius, z-units, if all of `n` noisy predictions give one class: more the estimator cannot certify."""
    return float(certified_radius(np.array(n), n, sigma, ALPHA))


def certify(
    classifier: Classifier,
    x: np.ndarray,
    mask: np.ndarray,
    *,
    sigma: float,
    n0: int = 100,
    n: int = 1000,
    alpha: float = ALPHA,
    batch_size: int = 128,
    seed: int = 0,
    progress: str = "",
    mapper: Mapper | None = None,
) -> Certificates:
    """CERTIFY of Cohen et al. for every recording: `n0` draws choose its class, `n` fresh ones bound it.

    The noise of a recording is set by `seed`, its index in `x` and the stage alone. The draws of a stage are
    one stream, cut into batches of at most `batch_size` windows, so that size changes memory, not results
    (but for logits so close that the model's own rounding decides).

    x : (n, samples, leads) float32, z-units; mask : the same shape, bool, real samples. Only they get noise, so
    certificates say nothing of perturbed padding. sigma : SD of the noise, z-units; progress : text of a
    progress bar, none if empty; mapper : calls a function for every recording, by default here, one after the other.
    """
    _check(x, mask, sigma, n0, n, alpha)
    count = partial(_counted, sigma=sigma, stages=((SELECT, n0), (BOUND, n)), size=batch_size, seed=seed)
    items = [(i, x[i], mask[i]) for i in range(len(x))]
    rows = mapper(count, items) if mapper else [count(item, classifier) for item in bar(progress, items)]
    top = np.array([int(row["top"]) for row in rows], np.int64)
    counts = np.array([row["counts"] for row in rows], np.int64)
    radii = certified_radius(counts[np.arange(len(counts)), top], n, sigma, alpha)
    return Certificates(np.where(radii > 0, top, ABSTAINS), radii, top, counts)


def certified_recall(
    certificates: Certificates, y: np.ndarray, label: int | None, radii: np.ndarray
) -> dict[str, list[float]]:
    """Share of the recordings of class `label` certified as that class to at least each of `radii` (L2, z-units).

    label : None for the recordings of all classes, each certified as its own.

    y : (n,) int, true classes. Returns {"radius", "value", "low", "high"}: lists, with 95 % Wilson intervals
    over the recordings. At radius 0 it is the smoothed classifier's recall, where to abstain is to miss.
    """
    of_class = (y == label) | (label is None)
    is_correct = certificates.predicted[of_class] == y[of_class]
    rates = [metrics.rate(is_correct & (certificates.radius[of_class] >= r)) for r in radii]
    return {
        "radius": [float(r) for r in radii],
        "value": [r["value"] for r in rates],
        "low": [r["ci95"][0] for r in rates],
        "high": [r["ci95"][1] for r in rates],
    }


def l2_equivalent(epsilon: float | np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """L2 radius that would certify all of an L∞ ball, ε·√d, which is 18.97 for ε 0.2 and 9000 samples."""
    return epsilon * np.sqrt(lengths)


def _counted(
    item: Item, classifier: Classifier, *, sigma: float, stages: tuple[tuple[int, int], ...], size: int, seed: int
) -> Counts:
    """Of one recording: the class most frequent in the first stage, the counts of the second."""
    i, x, mask = item
    selected, bounded = (_tally(classifier, x, mask, sigma, draws, size, [seed, i, stage]) for stage, draws in stages)
    return {"top": np.array(selected.argmax()), "counts": bounded}


def _tally(
    classifier: Classifier, x: np.ndarray, mask: np.ndarray, sigma: float, draws: int, batch_size: int, key: list[int]
) -> np.ndarray:
    """(classes,) int64: how many of `draws` noisy copies of one recording are predicted as each class."""
    n_classes = len(classifier.classes)
    rng, counts = np.random.default_rng(key), np.zeros(n_classes, np.int64)
    for start in range(0, draws, batch_size):
        shape = (min(batch_size, draws - start), *x.shape)
        noise = np.float32(sigma) * rng.standard_normal(shape, dtype=np.float32)
        predicted = predicted_classes(classifier.logits(x + noise * mask))
        counts += np.bincount(predicted[predicted != UNDEFINED], minlength=n_classes)
    return counts


def _check(x: np.ndarray, mask: np.ndarray, sigma: float, n0: int, n: int, alpha: float) -> None:
    if x.dtype != np.float32 or mask.dtype != bool or mask.shape != x.shape:
        raise EcgnbError(
            f"certify needs float32 x and a bool mask of its shape, got {x.dtype} {x.shape}, {mask.dtype} {mask.shape}"
        )
    if not np.isfinite(x).all():
        raise EcgnbError("certify needs finite input; x holds NaN or infinity")
    if not (0 < sigma < np.inf and n0 >= 1 and n >= 1 and 0 < alpha < 1):
        raise EcgnbError(f"certify needs {sigma=} > 0, {n0=} >= 1, {n=} >= 1, 0 < {alpha=} < 1")
