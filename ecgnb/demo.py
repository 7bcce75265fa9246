"""A synthetic stand-in for the Challenge 2017 recordings: offline use, fast tests, no patient's data.

Beats are sums of Gaussians, as in McSharry et al. 2003 (IEEE Trans Biomed Eng 50:289,
doi 10.1109/TBME.2003.808805). Two departures from that paper: the Gaussians are placed in time relative
to each R peak, with P and T moving with the square root of the RR interval (after Bazett), instead of
integrating the paper's differential equation; and T is two Gaussians, for its steep end. Sinus RR series have the
paper's two-peak spectrum (Mayer wave 0.1 Hz, breathing 0.25 Hz).

Only summary statistics come from real recordings, never samples. What the set cannot do: stand in for the
real recordings in any result. It is cleaner and less varied.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import scipy.io
from scipy import signal

from ecgnb.errors import EcgnbError
from ecgnb.records import FS, UNITS_PER_MV

__all__ = ["write_demo"]

TRAINING = {"N": 240, "A": 60, "O": 80, "~": 20}
VALIDATION = {"N": 20, "A": 16, "O": 16, "~": 8}
REVISED = {"N": "O", "O": "N", "~": "O"}  # v3 label -> v0 label, one recording each

# Measured on Challenge-2017 recordings labelled v3, 150 a class. LOG_* are (mean, SD) of the natural
# logarithm; the rest are medians unless said otherwise.
LOG_R = {"A": (-0.43, 0.42), "N": (-0.38, 0.45), "O": (-0.44, 0.48), "~": (-0.65, 0.60)}  # mV
LOG_RATE = {"A": (4.52, 0.29), "N": (4.27, 0.17), "O": (4.27, 0.17), "~": (4.40, 0.25)}  # /min
LOG_RR_CV = {"A": (-1.58, 0.30), "N": (-3.40, 0.60), "O": (-3.60, 0.60), "~": (-3.20, 0.60)}
P_OVER_R = 0.09
T_OVER_R = {"A": (0.19, 0.15), "N": (0.28, 0.13), "O": (0.24, 0.20), "~": (0.25, 0.20)}  # mean, SD
LOG_S_OVER_R = (-1.9, 0.8)
R_WIDTH = 0.0105  # s, SD of the Gaussian: 25 ms at half height
T_PEAK = 0.26  # s after R, at 72 beats/min
LOG_F_WAVE = (
    -4.1,
    0.5,
)  # mV, RMS: what AF has beyond normal recordings at 4-9 Hz between T and QRS
LOG_WANDER = (-3.3, 0.75)  # mV, RMS below 0.6 Hz
LOG_MUSCLE = (-5.2, 0.5)  # mV, RMS above 15 Hz between beats
LOG_NOISY_SD = (-1.0, 0.6)  # mV, SD of '~' recordings
INVERTED = {"A": 0.18, "N": 0.16, "O": 0.20, "~": 0.32}  # share
SHORT = {"A": 0.18, "N": 0.07, "O": 0.05, "~": 0.46}  # share below 30 s
LONG = 0.18  # share above 30 s
MOTION = 0.35  # share of recordings with a motion artefact of a millivolt or so

LOW_PASS = signal.butter(5, 38, fs=FS, output="sos")
HIGH_PASS = signal.butter(1, 0.4, "highpass", fs=FS, output="sos")


def write_demo(folder: Path, seed: int = 2017) -> None:
    """Write the synthetic set into `folder`, in the layout and format of PhysioNet's files.

    folder/training : 400 recordings D00001… (`.mat`: `val` (1, samples) int16, 1/1000 mV, 300 Hz; `.hea`),
        RECORDS, REFERENCE-original.csv (v0) and REFERENCE.csv (v2)
    folder/validation : 60 of them once more under the same names (the challenge's leak), RECORDS, REFERENCE.csv
    folder/REFERENCE-v3.csv : labels of all 400; three of them differ from v0

    Two normal training recordings outside validation are byte-identical, as in the challenge. The same
    seed gives the same bytes. All or nothing: the folder appears when complete; a complete one is left as it is.

    McSharry et al. 2003, IEEE Trans Biomed Eng 50:289.
    """
    folder = Path(folder)
    if _complete(folder):
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise EcgnbError(
            f"{folder}: exists and is not a demo set; remove it or name another folder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        fresh = Path(temporary) / folder.name
        _write_set(fresh, seed)
        try:
            os.replace(fresh, folder)
        except OSError:
            if not _complete(folder):  # otherwise another process was faster, with the same bytes
                raise


def _complete(folder: Path) -> bool:
    last = folder / "training" / f"D{sum(TRAINING.values()):05d}.mat"
    return last.exists() and (folder / "REFERENCE-v3.csv").exists()


def _write_set(folder: Path, seed: int) -> None:
    labels = _interleaved_labels()
    members = {letter: [n for n in labels if labels[n] == letter] for letter in TRAINING}
    # Evenly spread, from the first recording of each class on: the challenge's validation set is spread too.
    validation = {
        name: letter
        for letter, count in VALIDATION.items()
        for name in members[letter][:: TRAINING[letter] // count][:count]
    }
    free = {letter: [n for n in members[letter] if n not in validation] for letter in TRAINING}
    original, duplicate, *_, revised_n = free["N"]
    recordings = {
        name: _recording(letter, np.random.default_rng([seed, index]))
        for index, (name, letter) in enumerate(labels.items())
    }
    recordings[duplicate] = recordings[original]
    revised = {"N": revised_n, "O": free["O"][-1], "~": free["~"][-1]}
    v0 = labels | {revised[letter]: old for letter, old in REVISED.items()}

    for part, names in (("training", labels), ("validation", sorted(validation))):
        (folder / part).mkdir(parents=True)
        for name in names:
            _write_recording(folder / part / name, recordings[name])
        (folder / part / "RECORDS").write_bytes("".join(f"{n}\n" for n in names).encode())
    _write_labels(folder / "training" / "REFERENCE-original.csv", v0)
    _write_labels(folder / "training" / "REFERENCE.csv", labels)
    _write_labels(folder / "validation" / "REFERENCE.csv", dict(sorted(validation.items())))
    _write_labels(folder / "REFERENCE-v3.csv", labels)


def _interleaved_labels() -> dict[str, str]:
    """name -> class: each class spread evenly, and the names do not tell it."""
    slots = [((i + 0.5) / n, letter) for letter, n in TRAINING.items() for i in range(n)]
    return {f"D{i:05d}": letter for i, (_, letter) in enumerate(sorted(slots), start=1)}


def _write_labels(path: Path, labels: dict[str, str]) -> None:
    path.write_bytes("".join(f"{name},{label}\n" for name, label in labels.items()).encode())


def _write_recording(stem: Path, samples: np.ndarray) -> None:
    scipy.io.savemat(f"{stem}.mat", {"val": samples[None]}, format="4")
    stem.with_suffix(".hea").write_bytes(
        f"{stem.name} 1 {FS} {len(samples)} 05:05:15 1/05/2000 \n"
        f"{stem.name}.mat 16+24 {UNITS_PER_MV}/mV 16 0 {samples[0]} 0 0 ECG \n".encode()
    )


def _recording(letter: str, rng: np.random.Generator) -> np.ndarray:
    """One recording of class `letter`: (samples,) int16, in 1/1000 mV.

    Rounding to whole units also swallows last-bit differences of exp and sin between machines.
    """
    samples = _samples(letter, rng)
    ecg = _ecg(letter, samples / FS, rng)
    if letter == "~":
        # Electrode and motion noise sets the SD of a '~' recording; what beats there are lie under it.
        mv = rng.uniform(0, 1) * ecg + _log_normal(LOG_NOISY_SD, rng) * _noisy(samples, rng)
    else:
        mv = ecg + _log_normal(LOG_WANDER, rng) * _band_noise(samples, 0.1, 0.5, rng)
        if rng.random() < MOTION:
            mv += rng.uniform(0.1, 0.9) * _motion(samples, rng)
    mv += _log_normal(LOG_MUSCLE, rng) * _band_noise(samples, 5, 60, rng)
    if rng.random() < INVERTED[letter]:
        mv = -mv
    mv = signal.sosfiltfilt(LOW_PASS, signal.sosfilt(HIGH_PASS, mv - mv[0]))
    return np.rint(np.clip(mv, -9, 9) * UNITS_PER_MV).astype(np.int16)


def _samples(letter: str, rng: np.random.Generator) -> int:
    """Length: 30 s as a rule, 10 to 29 s or up to 60 s at the challenge's shares."""
    kind = rng.random()
    if kind < SHORT[letter]:
        return int(rng.integers(10 * FS, 29 * FS))
    if kind < SHORT[letter] + LONG:
        return int(min(rng.integers(31 * FS, 90 * FS), 60 * FS))
    return 30 * FS


def _log_normal(mean_sd: tuple[float, float], rng: np.random.Generator) -> float:
    """A draw with the given mean and SD of its logarithm, its tails cut at two SD."""
    mean, sd = mean_sd
    return float(np.exp(mean + sd * np.clip(rng.standard_normal(), -2, 2)))


def _ecg(letter: str, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """The heart's part of a recording: (samples,) float64, mV."""
    rr, ectopic = _rhythm(letter, seconds, rng)
    times = np.cumsum(rr) - rng.uniform(0, 1)
    waves = _waves(letter, rng)
    breathing = 1 + 0.06 * np.sin(2 * np.pi * rng.uniform(0.2, 0.33) * times)
    mv = np.zeros(round(seconds * FS))
    for at, interval, kind, depth in zip(times, rr, ectopic, breathing, strict=True):
        # Ectopic beats come early: their repolarisation follows the usual interval, not their own.
        beat = _ventricular(waves) if kind == "V" else waves
        _add_beat(mv, at, interval if kind == " " else np.median(rr), depth * beat)
    mv *= _log_normal(LOG_R[letter], rng)
    return mv + _f_waves(len(mv), rng) if letter == "A" else mv


def _waves(letter: str, rng: np.random.Generator) -> np.ndarray:
    """A patient's beat: rows P, Q, R, S, ST, T, T of amplitude (R = 1), centre and width (s from R)."""
    p = 0 if letter == "A" else P_OVER_R * rng.uniform(0.6, 1.6)
    t = rng.normal(*T_OVER_R[letter])
    s = -min(_log_normal(LOG_S_OVER_R, rng), 0.7)
    wide = rng.uniform(1.5, 2.2) if letter == "O" and rng.random() < 0.15 else rng.uniform(0.9, 1.2)
    pr, peak = rng.uniform(0.12, 0.17), T_PEAK * rng.uniform(0.93, 1.07)
    return np.array(
        [
            [p, -pr, 0.020],
            [-rng.uniform(0, 0.12), -0.026 * wide, 0.008],
            [1, 0, R_WIDTH * wide],
            [1.3 * s, 0.027 * wide, 0.009 * wide],
            [rng.normal(-0.05, 0.04), 0.085, 0.035],
            [0.5 * t, peak - 0.035, 0.050],
            [0.7 * t, peak + 0.005, 0.026],
        ]
    )


def _ventricular(waves: np.ndarray) -> np.ndarray:
    """A ventricular ectopic of the same patient: no P, wide QRS, T against it."""
    t = -np.sign(waves[6, 0]) * 0.45 if waves[6, 0] else -0.45
    return np.array([[-0.35, -0.05, 0.03], [1.3, 0.0, 0.035], [-0.3, 0.08, 0.03], [t, 0.27, 0.06]])


def _add_beat(mv: np.ndarray, at: float, interval: float, waves: np.ndarray) -> None:
    """Add one beat with R at `at` seconds to `mv`, in place."""
    raise NotImplementedError
