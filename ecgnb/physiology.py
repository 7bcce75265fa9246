"""What an attack does to the ECG as a signal: size, roughness, frequencies, R-peaks.

R-peaks are found by XQRS of the WFDB package, which hardly minds the inverted leads of this data set. Like
every detector it fails on some recordings: a change of R-peaks is to be read beside that under noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import signal
from wfdb.processing import xqrs_detect

from ecgnb.data import Dataset
from ecgnb.records import BAND, FS

TOLERANCE = round(0.050 * FS)  # samples, between two detections of the same R-peak
SEGMENT = 1024  # samples of a Welch segment: 3.4 s, bins of 0.29 Hz


def measures(clean_mv: np.ndarray, adversarial_mv: np.ndarray) -> dict[str, float]:
    """How one adversarial recording differs from its original.

    clean_mv, adversarial_mv : (n,) float64, mV at 300 Hz, real samples only. SNR and PRD compare the change
    with the original less its mean, so that an offset does not flatter the attack. NaN: not defined, such
    as the frequencies of no change or the RMSSD of two beats; the SNR of no change is infinite.
    """
    change = adversarial_mv - clean_mv
    rms, sd = np.sqrt(np.mean(change**2)), clean_mv.std()
    steps, adversarial_steps = np.diff(clean_mv), np.diff(adversarial_mv)
    below, within, above = band_shares(change)
    peaks, adversarial_peaks = r_peaks(clean_mv), r_peaks(adversarial_mv)
    rhythm, adversarial_rhythm = rr_statistics(peaks), rr_statistics(adversarial_peaks)
    found = {
        "largest change, µV": 1000 * np.abs(change).max(),
        "RMS change, µV": 1000 * rms,
        "SNR, dB": 20 * np.log10(sd / rms) if rms else np.inf,
        "PRD, %": 100 * rms / sd,
        "SD of differences, ratio": adversarial_steps.std() / steps.std(),
        "total variation, ratio": np.abs(adversarial_steps).sum() / np.abs(steps).sum(),
        f"change below {BAND[0]:g} Hz, share of power": below,
        f"change {BAND[0]:g}–{BAND[1]:g} Hz, share of power": within,
        f"change above {BAND[1]:g} Hz, share of power": above,
        "R-peak F1": peak_f1(peaks, adversarial_peaks),
        "R-peaks clean, count": len(peaks),
        "R-peaks adversarial, count": len(adversarial_peaks),
        "change in mean RR, ms": adversarial_rhythm[0] - rhythm[0],
        "change in RMSSD, ms": adversarial_rhythm[1] - rhythm[1],
    }
    return {name: float(value) for name, value in found.items()}


def table(dataset: Dataset, adversarial_x: np.ndarray) -> pd.DataFrame:
    """`measures` of every recording, one row each; adversarial_x : (n, 9000, 1) in z-units."""
    pairs = zip(dataset.in_mv(dataset.x), dataset.in_mv(adversarial_x), strict=True)
    rows = [measures(clean, adversarial) for clean, adversarial in pairs]
    return pd.DataFrame(rows, index=pd.Index(dataset.names, name="record"))


def summary(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Column -> {"median": …, "p5": …, "p95": …}; NaN and infinite values are left out."""
    finite = table.where(np.isfinite(table))
    quantiles = finite.quantile([0.5, 0.05, 0.95]).set_axis(["median", "p5", "p95"])
    return quantiles.to_dict()


def band_shares(change: np.ndarray) -> np.ndarray:
    """Shares of the power of a signal below, within and above BAND, by periodogram; (3,), sum 1.

    change : (n,), its mean counts as 0 Hz. NaN if it is zero throughout.
    """
    _, power = signal.periodogram(change, FS, detrend=False)
    frequency = np.arange(len(power)) * FS / len(change)  # SciPy's 0.5 Hz is a little less
    band = (frequency >= BAND[0]).astype(int) + (frequency > BAND[1])
    powers = np.bincount(band, power, minlength=3)
    return powers / powers.sum() if powers.sum() else np.full(3, np.nan)


def r_peaks(mv: np.ndarray) -> np.ndarray:
    """R-peaks of one recording: (k,) int64, sample numbers. mv : (n,), mV at 300 Hz, 9 s or more."""
    return _xqrs(np.asarray(mv, np.float64).tobytes()).copy()


@lru_cache(maxsize=512)  # a clean recording comes again with every attack
def _xqrs(mv: bytes) -> np.ndarray:
    return np.asarray(xqrs_detect(np.frombuffer(mv), FS, verbose=False), np.int64)


def peak_f1(reference: np.ndarray, found: np.ndarray) -> float:
    """F1 of the peaks (k,) and (m,) that lie within 50 ms of each other; NaN if there are none at all.

    Peaks of a list must be more than 100 ms apart (XQRS: at least 200 ms): then no peak has two partners.
    """
    if not len(reference) + len(found):
        return np.nan
    matches = np.count_nonzero(np.abs(np.subtract.outer(reference, found)) <= TOLERANCE)
    return 2 * matches / (len(reference) + len(found))


def rr_statistics(peaks: np.ndarray) -> tuple[float, float]:
    """Mean RR interval and RMSSD (root mean square of successive differences) of R-peaks, ms.

    NaN where there are too few peaks: fewer than two, or three.
    """
    rr = 1000 * np.diff(peaks) / FS
    mean = rr.mean() if len(rr) else np.nan
    rmssd = np.sqrt(np.mean(np.diff(rr) ** 2)) if len(rr) > 1 else np.nan
    return mean, rmssd


def mean_spectrum(signals_mv: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Power spectral density (Welch), mean over recordings: (513,) Hz and (513,) µV²/Hz.

    signals_mv : (length,) each, mV at 300 Hz, real samples only, of 1,024 samples or more.
    """
    spectra = [signal.welch(1000 * mv, FS, nperseg=SEGMENT) for mv in signals_mv]
    return spectra[0][0], np.mean([density for _, density in spectra], axis=0)
