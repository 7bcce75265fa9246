"""What an attack does to the ECG as a signal: size, roughness, frequencies, R-peaks.

R-peaks are found by XQRS of the WFDB package, which copes with the inverted leads of this data set. Like every
detector it fails on some recordings: compare a change of R-peaks with that under noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import signal

from ecgnb.constants import BAND
from ecgnb.data.dataset import Dataset

TITLES = {  # of the measures, in the order of tables
    "largest_uv": "largest sample of the perturbation, µV",
    "rms_uv": "RMS of the perturbation, µV",
    "snr_db": "SNR, dB",
    "prd_percent": "PRD, %",
    "roughness_ratio": "SD of differences, ratio",
    "total_variation_ratio": "total variation, ratio",
    "power_below_band": f"perturbation below {BAND[0]:g} Hz, share of power",
    "power_within_band": f"perturbation {BAND[0]:g}–{BAND[1]:g} Hz, share of power",
    "power_above_band": f"perturbation above {BAND[1]:g} Hz, share of power",
    "r_peak_f1": "R-peak F1",
    "r_peaks_clean": "R-peaks, clean",
    "r_peaks_adversarial": "R-peaks, adversarial",
    "mean_rr_change_ms": "change in mean RR, ms",
    "rmssd_change_ms": "change in RMSSD, ms",
}
TOLERANCE_S = 0.050  # between two detections of the same R-peak
SEGMENT = 1024  # samples of a Welch segment: at 300 Hz 3.4 s, bins of 0.29 Hz


def measures(clean_mv: np.ndarray, adversarial_mv: np.ndarray, fs: float) -> dict[str, float]:
    """How one adversarial recording differs from its original; the keys are those of `TITLES`.

    clean_mv, adversarial_mv : (n,) float64, mV at `fs` Hz, real samples only. SNR and PRD compare the perturbation
    with the original minus its mean, so that an offset does not flatter the attack. NaN: not defined, such as the
    frequencies of no perturbation or the RMSSD of two beats; the SNR of no perturbation is infinite.
    """
    perturbation = adversarial_mv - clean_mv
    rms, sd = np.sqrt(np.mean(perturbation**2)), clean_mv.std()
    steps, adversarial_steps = np.diff(clean_mv), np.diff(adversarial_mv)
    below, within, above = band_shares(perturbation, fs)
    peaks, adversarial_peaks = r_peaks(clean_mv, fs), r_peaks(adversarial_mv, fs)
    rhythm, adversarial_rhythm = rr_statistics(peaks, fs), rr_statistics(adversarial_peaks, fs)
    found = {
        "largest_uv": 1000 * np.abs(perturbation).max(),
        "rms_uv": 1000 * rms,
        "snr_db": 20 * np.log10(sd / rms) if rms else np.inf,
        "prd_percent": 100 * rms / sd,
        "roughness_ratio": adversarial_steps.std() / steps.std(),
        "total_variation_ratio": np.abs(adversarial_steps).sum() / np.abs(steps).sum(),
        "power_below_band": below,
        "power_within_band": within,
        "power_above_band": above,
        "r_peak_f1": peak_f1(peaks, adversarial_peaks, fs),
        "r_peaks_clean": len(peaks),
        "r_peaks_adversarial": len(adversarial_peaks),
        "mean_rr_change_ms": adversarial_rhythm[0] - rhythm[0],
        "rmssd_change_ms": adversarial_rhythm[1] - rhythm[1],
    }
    return {name: float(value) for name, value in found.items()}


def measure_all(dataset: Dataset, adversarial_x: np.ndarray) -> pd.DataFrame:
    """`measures` of every recording, one row each; adversarial_x : (n, samples, 1) in z-units."""
    pairs = zip(dataset.in_mv(dataset.x), dataset.in_mv(adversarial_x), strict=True)
    rows = [measures(clean, adversarial, dataset.fs) for clean, adversarial in pairs]
    return pd.DataFrame(rows, index=pd.Index(dataset.names, name="record"))


def summary(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Column -> {"median": …, "p5": …, "p95": …}; NaN and infinite values are left out."""
    finite = table.where(np.isfinite(table))
    names, quantiles = ("median", "p5", "p95"), finite.quantile([0.5, 0.05, 0.95])
    return {str(c): dict(zip(names, q.tolist(), strict=True)) for c, q in quantiles.items()}


def band_shares(perturbation: np.ndarray, fs: float) -> np.ndarray:
    """Shares of the power of a signal below, within and above BAND, by periodogram; (3,), sum 1.

    perturbation : (n,), its mean counts as 0 Hz. NaN if it is zero throughout.
    """
    _, power = signal.periodogram(perturbation, fs, detrend=False)
    frequency = np.arange(len(power)) * fs / len(perturbation)  # SciPy's 0.5 Hz is a little less
    band = (frequency >= BAND[0]).astype(int) + (frequency > BAND[1])
    powers = np.bincount(band, power, minlength=3)
    return powers / powers.sum() if powers.sum() else np.full(3, np.nan)


def r_peaks(mv: np.ndarray, fs: float) -> np.ndarray:
    """R-peaks of one recording: (k,) int64, sample numbers. mv : (n,), mV at `fs` Hz, 9 s or more."""
    return _xqrs(np.asarray(mv, np.float64).tobytes(), fs).copy()


@lru_cache(maxsize=512)  # a clean recording comes again with every attack
def _xqrs(mv: bytes, fs: float) -> np.ndarray:
    from wfdb.processing import xqrs_detect  # here, because it takes a second to import

    return np.asarray(xqrs_detect(np.frombuffer(mv), fs, verbose=False), np.int64)


def peak_f1(reference: np.ndarray, found: np.ndarray, fs: float) -> float:
    """F1 of the peaks (k,) and (m,) that lie within 50 ms of each other; NaN if there are none at all.

    Peaks of a list must be more than 100 ms apart (XQRS: at least 200 ms): then no peak has two partners.
    """
    if not len(reference) + len(found):
        return np.nan
    apart = np.abs(np.subtract.outer(reference, found))
    matches = np.count_nonzero(apart <= round(TOLERANCE_S * fs))
    return 2 * matches / (len(reference) + len(found))


def rr_statistics(peaks: np.ndarray, fs: float) -> tuple[float, float]:
    """Mean RR interval and RMSSD (root mean square of successive differences) of R-peaks, ms.

    NaN where there are too few peaks: fewer than two, or three.
    """
    rr = 1000 * np.diff(peaks) / fs
    mean = rr.mean() if len(rr) else np.nan
    rmssd = np.sqrt(np.mean(np.diff(rr) ** 2)) if len(rr) > 1 else np.nan
    return mean, rmssd


def mean_spectrum(signals_mv: Iterable[np.ndarray], fs: float) -> tuple[np.ndarray, np.ndarray]:
    """Power spectral density (Welch), mean over recordings: (513,) Hz and (513,) µV²/Hz.

    signals_mv : (length,) each, mV at `fs` Hz, real samples only, of 1,024 samples or more.
    """
    spectra = [signal.welch(1000 * mv, fs, nperseg=SEGMENT) for mv in signals_mv]
    return spectra[0][0], np.mean([density for _, density in spectra], axis=0)
