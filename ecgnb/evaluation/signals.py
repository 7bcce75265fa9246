"""What an attack does to the ECG as a signal: size, roughness, frequencies, R-peaks.

R-peaks are found by XQRS of the WFDB package, which copes with the inverted leads of the challenge. Like every
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
SHORTEST_S, LOWEST_FS = 5, 50  # s and Hz: XQRS learns on several beats, and filters from 5 to 20 Hz
FIRST = 50  # recordings by which it is decided whether there are R-peaks at all
TOLERANCE_S = 0.050  # between two detections of the same R-peak
SEGMENT = 1024  # samples of a Welch segment: at 300 Hz 3.4 s, bins of 0.29 Hz


def measures(clean_mv: np.ndarray, adversarial_mv: np.ndarray, fs: float, lead: int | None = 0) -> dict[str, float]:
    """How one adversarial recording differs from its original; the keys are those of `TITLES`.

    clean_mv, adversarial_mv : (n,) or (n, leads) float64, mV at `fs` Hz, real samples only; lead : in which R-peaks are
    looked for, None for none. Of several leads, sizes and powers are over all of them together, roughness and total
    variation are means over leads. SNR and PRD compare the perturbation with the original minus each lead's mean, so
    that an offset does not flatter the attack. NaN: not defined, such as the frequencies of no perturbation or the
    RMSSD of two beats; the SNR of no perturbation is infinite.
    """
    clean, adversarial = (mv.reshape(len(mv), -1) for mv in (clean_mv, adversarial_mv))
    perturbation = adversarial - clean
    rms, sd = np.sqrt(np.mean(perturbation**2)), np.sqrt((clean.std(axis=0) ** 2).mean())
    steps, adversarial_steps = np.diff(clean, axis=0), np.diff(adversarial, axis=0)
    below, within, above = band_shares(perturbation, fs)
    found = {
        "largest_uv": 1000 * np.abs(perturbation).max(),
        "rms_uv": 1000 * rms,
        "snr_db": 20 * np.log10(sd / rms) if rms else np.inf,
        "prd_percent": 100 * rms / sd,
        "roughness_ratio": (adversarial_steps.std(axis=0) / steps.std(axis=0)).mean(),
        "total_variation_ratio": (np.abs(adversarial_steps).sum(axis=0) / np.abs(steps).sum(axis=0)).mean(),
        "power_below_band": below,
        "power_within_band": within,
        "power_above_band": above,
    }
    if lead is not None:
        peaks, adversarial_peaks = r_peaks(clean[:, lead], fs), r_peaks(adversarial[:, lead], fs)
        rhythm, adversarial_rhythm = rr_statistics(peaks, fs), rr_statistics(adversarial_peaks, fs)
        found |= {
            "r_peak_f1": peak_f1(peaks, adversarial_peaks, fs),
            "r_peaks_clean": len(peaks),
            "r_peaks_adversarial": len(adversarial_peaks),
            "mean_rr_change_ms": adversarial_rhythm[0] - rhythm[0],
            "rmssd_change_ms": adversarial_rhythm[1] - rhythm[1],
        }
    return {name: float(value) for name, value in found.items()}


def measure_all(dataset: Dataset, adversarial_x: np.ndarray) -> pd.DataFrame:
    """`measures` of every recording, one row each; adversarial_x : (n, samples, leads) in z-units.

    Of several leads also "largest_uv_NAME" of each. What the recordings do not allow (see `left_out`) has no column.
    """
    pairs = list(zip(dataset.leads_in_mv(dataset.x), dataset.leads_in_mv(adversarial_x), strict=True))
    lead = dataset.rhythm if has_r_peaks(dataset) else None
    table = pd.DataFrame([measures(clean, adversarial, dataset.fs, lead) for clean, adversarial in pairs])
    if len(dataset.leads) > 1:
        largest = np.array([1000 * np.abs(adversarial - clean).max(axis=0) for clean, adversarial in pairs])
        table[[f"largest_uv_{name}" for name in dataset.leads]] = largest
    if not dataset.has_mv:
        table = table[[name for name in table if "_uv" not in str(name)]]
    return table.set_index(pd.Index(dataset.names, name="record"))


def has_r_peaks(dataset: Dataset) -> bool:
    """Whether R-peaks can be looked for, and are found in most of the first recordings."""
    if dataset.fs < LOWEST_FS or (dataset.lengths < SHORTEST_S * dataset.fs).any():
        return False
    found = [
        len(r_peaks(mv, dataset.fs)) > 1
        for mv in dataset.take(np.arange(len(dataset))[:FIRST]).in_mv(dataset.x[:FIRST])
    ]
    return bool(np.mean(found) > 0.5)


def left_out(dataset: Dataset) -> list[str]:
    """A sentence for each kind of measure that the recordings do not allow."""
    if has_r_peaks(dataset):
        return []
    return [
        f"R-peaks: not found in lead {dataset.leads[dataset.rhythm]} of most recordings, which need {SHORTEST_S} s "
        f"and {LOWEST_FS} Hz"
    ]


def summary(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Column -> {"median": …, "p5": …, "p95": …}; NaN and infinite values are left out."""
    finite = table.where(np.isfinite(table))
    names, quantiles = ("median", "p5", "p95"), finite.quantile([0.5, 0.05, 0.95])
    return {str(c): dict(zip(names, q.tolist(), strict=True)) for c, q in quantiles.items()}


def band_shares(perturbation: np.ndarray, fs: float) -> np.ndarray:
    """Shares of the power of a signal below, within and above BAND, by periodogram; (3,), sum 1.

    perturbation : (n,) or (n, leads), its mean counts as 0 Hz. NaN if it is zero throughout.
    """
    _, power = signal.periodogram(perturbation.reshape(len(perturbation), -1), fs, detrend=False, axis=0)
    power = power.sum(axis=1)
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
