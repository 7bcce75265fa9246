"""Certified robustness by randomized smoothing (Cohen, Rosenfeld & Kolter 2019, arXiv 1902.02918).

The smoothed classifier reads a recording as the class the network gives most often under Gaussian noise.
Within an L2 ball that grows with how often, no perturbation whatever changes its reading.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.stats import beta, norm

from ecgnb import metrics
from ecgnb.cluster import HERE, Workers
from ecgnb.errors import EcgnbError
from ecgnb.files import write_atomically
from ecgnb.records import CLASSES

ABSTAINS = -1
SELECT, BOUND = 0, 1  # the two stages of CERTIFY; their draws must be independent
LOGIT_TOLERANCE = 0.01  # more than machines differ by in rounding, less than models do


@dataclass(frozen=True)
class Certificates:
    """What the smoothed classifier makes of n recordings, and how far around each this holds.

    Each holds with confidence 1 - alpha on its own, not all of them together.

    predicted : (n,) int64, index into CLASSES, or ABSTAINS
    radius : (n,) float64, L2, z-units, over real samples; 0 exactly where it abstains
    top : (n,) int64, the class most frequent in the first stage
    counts : (n, 4) int64, draws of the second stage read as each class
    """

    predicted: np.ndarray
    radius: np.ndarray
    top: np.ndarray
    counts: np.ndarray


def radius(count: np.ndarray, n: int, sigma: float, alpha: float) -> np.ndarray:
    """Certified L2 radius σ·Φ⁻¹(p), z-units, if `count` of `n` noisy reads gave the class; shape as `count`.

    p is the one-sided Clopper-Pearson lower bound at confidence 1 - alpha. Radius 0 means p <= 1/2: abstain.
    """
    count = np.asarray(count)
    lower = np.where(count > 0, beta.ppf(alpha, np.maximum(count, 1), n - count + 1), 0.0)
    return sigma * norm.ppf(np.maximum(lower, 0.5))


def certify(
    logits: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    mask: np.ndarray,
    *,
    sigma: float,
    n0: int = 100,
    n: int = 1000,
    alpha: float = 0.001,
    batch_size: int = 32,
    seed: int = 0,
    path: Path | None = None,
    progress: str = "",
    workers: Workers = HERE,
) -> Certificates:
    """CERTIFY of Cohen et al. for every recording: `n0` draws choose its class, `n` fresh ones bound it.

    The noise of a recording is set by `seed`, its index in `x` and the stage alone. The draws of a stage are
    one stream, cut into batches of at most `batch_size` windows, so that size changes memory, not results
    (but for logits so close that the model's own rounding decides).

    x : (n, 9000, 1) float32, z-units; mask : (n, 9000, 1) bool, real samples. Only they get noise, so
    certificates say nothing of perturbed padding. sigma : SD of the noise, z-units; path : JSON in which
    counts are kept after each recording, and from which an interrupted call goes on; progress : text of a
    progress bar, none if empty; workers : who reads them, a recording at a time (see `cluster`).
    """
    _check(x, mask, sigma, n0, n, alpha)
    settings = {"sigma": sigma, "n0": n0, "n": n, "alpha": alpha, "seed": seed}
    settings["recordings"] = hashlib.sha256(x.tobytes() + mask.tobytes()).hexdigest()[:32]
    known, rows = [], {}
    if path is not None:
        known = logits(x[:1]).tolist()
        rows = _read(path, settings, known)
    left = [i for i in range(len(x)) if i not in rows]

    def keep(j: int, row: list[int]) -> None:
        rows[left[j]] = row
        if path is not None:
            kept = {"clean logits of the first": known, "rows": dict(sorted(rows.items()))}
            text = json.dumps(settings | kept)
            write_atomically(path, lambda target: target.write_text(text))

    workers.map(
        partial(
            _counted, sigma=sigma, stages=((SELECT, n0), (BOUND, n)), size=batch_size, seed=seed
        ),
        [(i, x[i], mask[i]) for i in left],
        shared=(logits,),
        text=progress if left else "",
        done=keep,
    )
    table = np.array([rows[i] for i in range(len(x))], np.int64).reshape(-1, 1 + len(CLASSES))
    top, counts = table[:, 0], table[:, 1:]
    radii = radius(counts[np.arange(len(table)), top], n, sigma, alpha)
    return Certificates(np.where(radii > 0, top, ABSTAINS), radii, top, counts)


def certified_recall(
    certificates: Certificates, y: np.ndarray, af_index: int, radii: np.ndarray
) -> dict[str, list[float]]:
    """Share of AF recordings certified as AF to at least each of `radii` (L2, z-units).

    y : (n,) int, true classes. Returns {"radius", "value", "low", "high"}: lists, with 95 % Wilson intervals
    over the recordings. At radius 0 it is the smoothed classifier's AF recall, where to abstain is to miss.
    """
    af = y == af_index
    found = certificates.predicted[af] == af_index
    rates = [metrics.rate(found & (certificates.radius[af] >= r)) for r in radii]
    return {
        "radius": [float(r) for r in radii],
        "value": [r["value"] for r in rates],
        "low": [r["ci95"][0] for r in rates],
        "high": [r["ci95"][1] for r in rates],
    }


def linf_equivalent(radius: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """ε of the largest L∞ ball inside an L2 ball, R/√d; z-units. lengths : d, real samples."""
    return radius / np.sqrt(lengths)


def l2_equivalent(epsilon: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """L2 radius that would certify all of an L∞ ball, ε·√d, which is 18.97 for ε 0.2 and 9000 samples."""
    return epsilon * np.sqrt(lengths)


def _counted(
    item: tuple[int, np.ndarray, np.ndarray], logits: Callable, *, sigma, stages, size, seed
) -> list[int]:
    """Of one recording, (its index, x, mask): the class most frequent in the first stage, counts of the second."""
    i, x, mask = item
    selected, bounded = (
        _tally(logits, x, mask, sigma, draws, size, [seed, i, stage]) for stage, draws in stages
    )
    return [int(selected.argmax()), *bounded.tolist()]


def _tally(
    logits: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    mask: np.ndarray,
    sigma: float,
    draws: int,
    batch_size: int,
    key: list[int],
) -> np.ndarray:
    """(4,) int64: how many of `draws` noisy copies of one recording are read as each class."""
    rng, counts = np.random.default_rng(key), np.zeros(len(CLASSES), np.int64)
    for start in range(0, draws, batch_size):
        shape = (min(batch_size, draws - start), *x.shape)
        noise = np.float32(sigma) * rng.standard_normal(shape, dtype=np.float32)
        counts += np.bincount(logits(x + noise * mask).argmax(axis=1), minlength=len(CLASSES))
    return counts


def _read(path: Path, settings: dict, known: list) -> dict[int, list[int]]:
    """Recording -> row, as kept in `path`, none if it does not exist; refused if made with anything else.

    known : the model's clean logits of the first recording, which tell it from other models.
    """
    if not path.exists():
        return {}
    remedy = "delete it to start anew, or name another file"
    try:
        stored = json.loads(path.read_text())
    except ValueError as error:
        raise EcgnbError(f"{path}: cannot be read ({error}); {remedy}") from error
    changed = [key for key, value in settings.items() if stored.get(key) != value]
    if not changed and not np.allclose(
        stored["clean logits of the first"], known, rtol=0, atol=LOGIT_TOLERANCE
    ):
        changed = ["model"]
    if changed:
        raise EcgnbError(f"{path}: made with other settings ({', '.join(changed)}); {remedy}")
    return {int(i): row for i, row in stored["rows"].items()}


def _check(x: np.ndarray, mask: np.ndarray, sigma: float, n0: int, n: int, alpha: float) -> None:
    if x.dtype != np.float32 or mask.dtype != bool or mask.shape != x.shape:
        raise EcgnbError(
            f"certify needs float32 x and a bool mask of its shape, got {x.dtype} {x.shape}, "
            f"{mask.dtype} {mask.shape}"
        )
    if not np.isfinite(x).all():
        raise EcgnbError("certify needs finite input; x holds NaN or infinity")
    if not (sigma > 0 and n0 >= 1 and n >= 1 and 0 < alpha < 1):
        raise EcgnbError(f"certify needs {sigma=} > 0, {n0=} >= 1, {n=} >= 1, 0 < {alpha=} < 1")
