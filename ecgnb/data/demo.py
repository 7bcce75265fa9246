"""A synthetic stand-in for the Challenge 2017 recordings: offline use, fast tests, no patient's data.

Beats are sums of Gaussians, as in McSharry et al. 2003 (IEEE Trans Biomed Eng 50:289,
doi 10.1109/TBME.2003.808805). Two departures from that paper: the Gaussians are placed in time relative
to each R peak, with T moving with the cube root of the RR interval (Fridericia), instead of integrating the
paper's differential equation; and T is two Gaussians, for its steep end. Sinus RR series have the
paper's two-peak spectrum (Mayer wave 0.1 Hz, breathing 0.25 Hz).

Only summary statistics come from real recordings, never samples. What the set cannot do: stand in for the
real recordings in any result. It is cleaner and less varied.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import scipy.io
from scipy import signal

from ecgnb.constants import FS, UNITS_PER_MV
from ecgnb.errors import EcgnbError

VERSION = 2  # raise when the set changes, so that cached copies are not taken for it

TRAINING = {"N": 240, "A": 60, "O": 80, "~": 20}
VALIDATION = {"N": 20, "A": 16, "O": 16, "~": 8}
REVISED = {"N": "O", "O": "N", "~": "O"}  # v3 label -> v0 label, one recording each

# Measured on Challenge-2017 recordings labelled v3, 150 a class. LOG_* are (mean, SD) of the natural
# logarithm. Some stand a little off the measurement: amplitudes are before filtering, spreads of RR and T leave out
# what detector errors add, so that measuring the synthetic set the same way gives the real figures.
LOG_R = {"A": (-0.31, 0.42), "N": (-0.26, 0.45), "O": (-0.32, 0.48), "~": (-0.65, 0.60)}  # mV
LOG_RATE = {"A": (4.50, 0.26), "N": (4.27, 0.17), "O": (4.27, 0.17), "~": (4.40, 0.25)}  # /min
LOG_RR_CV = {"A": (-1.48, 0.25), "N": (-3.40, 0.60), "O": (-3.60, 0.60), "~": (-3.20, 0.60)}
P_OVER_R = 0.08
T_OVER_R = {"A": (0.15, 0.20), "N": (0.30, 0.18), "O": (0.25, 0.24), "~": (0.25, 0.20)}  # mean, SD
LOG_S_OVER_R = (-2.3, 0.9)
R_WIDTH = 0.0102  # s, SD of the Gaussian: 25 ms at half height
T_PEAK = 0.26  # s after R, at 72 beats/min
LOG_F_WAVE = (-4.5, 0.4)  # mV, RMS: what AF has beyond N at 4-9 Hz between T and QRS
LOG_WANDER = (-2.6, 0.6)  # mV, RMS below 2 Hz
LOG_MUSCLE = (-5.3, 0.5)  # mV, RMS above 15 Hz between beats
LOG_NOISY_SD = (-1.0, 0.6)  # mV, SD of '~' recordings
INVERTED = {"A": 0.18, "N": 0.16, "O": 0.20, "~": 0.32}  # share
SHORT = {"A": 0.18, "N": 0.07, "O": 0.05, "~": 0.46}  # share below 30 s
LONG = 0.18  # share above 30 s
MOTION = 0.35  # share of recordings with a motion artefact of a millivolt or so

SENSOR_FLOOR = 0.0012  # mV, RMS, white
# Share of 'O' by what makes it other; slow and fast as measured, ectopics share the rest.
OTHER_RHYTHMS = {"V": 0.37, "S": 0.37, "slow": 0.12, "fast": 0.14}

LOW_PASS = signal.butter(2, 58, fs=FS, output="sos")
HIGH_PASS = signal.butter(1, 0.3, "highpass", fs=FS, output="sos")


def write_demo(folder: Path, seed: int = 2017) -> None:
    """Write the synthetic set into `folder`, in the layout and format of PhysioNet's files.

    folder/training : 400 recordings D00001… (`.mat`: `val` (1, samples) int16, 1/1000 mV, 300 Hz; `.hea`),
        RECORDS, REFERENCE-original.csv (v0) and REFERENCE.csv (v2)
    folder/validation : 60 of them once more under the same names (the challenge's leak), RECORDS, REFERENCE.csv
    folder/REFERENCE-v3.csv : labels of all 400; three of them differ from v0

    Two normal training recordings outside validation are byte-identical, as in the challenge. The same
    seed gives the same bytes. All or nothing: the folder appears when complete; a complete one is left
    as it is, whatever its seed.

    McSharry et al. 2003, IEEE Trans Biomed Eng 50:289.
    """
    folder = Path(folder)
    if _complete(folder):
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise EcgnbError(f"{folder}: exists and is not a demo set; remove it or name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        fresh = Path(temporary) / folder.name
        _write_set(fresh, seed)
        try:
            fresh.replace(folder)
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
    original, *_, duplicate, relabelled = free["N"]
    recordings = {
        name: _recording(letter, np.random.default_rng([seed, index]))
        for index, (name, letter) in enumerate(labels.items())
    }
    recordings[duplicate] = recordings[original]
    revised = {"N": relabelled, "O": free["O"][-1], "~": free["~"][-1]}
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
    """name -> class: each class spread evenly over the names.

    The offset 0.9 is one of those that leave every class in every `leakfree` fold (digests of names).
    """
    slots = [((i + 0.9) / n, letter) for letter, n in TRAINING.items() for i in range(n)]
    return {f"D{i:05d}": letter for i, (_, letter) in enumerate(sorted(slots), start=1)}


def _write_labels(path: Path, labels: dict[str, str]) -> None:
    path.write_bytes("".join(f"{name},{label}\n" for name, label in labels.items()).encode())


def _write_recording(stem: Path, samples: np.ndarray) -> None:
    scipy.io.savemat(f"{stem}.mat", {"val": samples[None]}, format="4")
    checksum = samples.sum(dtype=np.int16)  # by WFDB's rules the sum modulo 65536, signed
    stem.with_suffix(".hea").write_bytes(
        f"{stem.name} 1 {FS} {len(samples)} 05:05:15 1/05/2000 \n"
        f"{stem.name}.mat 16+24 {UNITS_PER_MV}/mV 16 0 {samples[0]} {checksum} 0 ECG \n".encode()
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
        mv = ecg + _log_normal(LOG_WANDER, rng) * _wander(samples, rng)
        if rng.random() < MOTION:
            mv += rng.uniform(0.2, 1.1) * _motion(samples, rng)
    mv += _log_normal(LOG_MUSCLE, rng) * _band_noise(samples, 5, 90, rng)
    if rng.random() < INVERTED[letter]:
        mv = -mv
    mv = signal.sosfiltfilt(LOW_PASS, signal.sosfilt(HIGH_PASS, mv - mv[0]))
    mv += SENSOR_FLOOR * rng.standard_normal(samples)
    return np.rint(np.clip(mv, -9, 9) * UNITS_PER_MV).astype(np.int16)


def _samples(letter: str, rng: np.random.Generator) -> int:
    """Length: 30 s as a rule, 10 to 29 s or up to 60 s at the challenge's shares."""
    kind = rng.random()
    if kind < SHORT[letter]:
        return int(rng.integers(10 * FS, 29 * FS))
    if kind < SHORT[letter] + LONG:
        return min(int(rng.integers(31 * FS, 90 * FS)), 60 * FS)
    return 30 * FS


def _log_normal(mean_sd: tuple[float, float], rng: np.random.Generator) -> float:
    """A draw with the given mean and SD of its logarithm, its tails cut at two SD."""
    mean, sd = mean_sd
    return float(np.exp(mean + sd * np.clip(rng.standard_normal(), -2, 2)))


def _ecg(letter: str, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """The heart's part of a recording: (samples,) float64, mV."""
    rr, marks = _rhythm(letter, seconds, rng)
    times = np.cumsum(rr) - rng.uniform(0, 1)
    # QT follows the rate with a lag: half the interval before the beat, half the mean.
    intervals = (rr + rr.mean()) / 2
    waves = _waves(letter, rng)
    breathing = 1 + 0.06 * np.sin(2 * np.pi * rng.uniform(0.2, 0.33) * times)
    mv = np.zeros(round(seconds * FS))
    for at, interval, mark, depth in zip(times, intervals, marks, breathing, strict=True):
        beat = _ventricular(waves) if mark == "V" else waves
        _add_beat(mv, at, interval, beat * [depth, 1, 1])
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
    """Add one beat with R at `at` seconds to `mv` (in R amplitudes), in place."""
    amplitude, centre, width = waves.T[..., None]
    # Cube root (Fridericia), not Bazett's square root: measured T peaks move less than Bazett's rule says.
    stretch = np.where(centre > 0.1, np.cbrt(interval * 72 / 60), 1)
    first, last = round((at - 0.35) * FS), round((at + 0.75) * FS)
    index = np.arange(max(first, 0), min(last, len(mv)))
    phase = (index / FS - at - centre * stretch) / (width * stretch)
    mv[index] += (amplitude * np.exp(-0.5 * phase**2)).sum(axis=0)


def _rhythm(letter: str, seconds: float, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """RR before each beat, (beats,) float64, s, and a letter a beat: V ventricular, S atrial early, - neither."""
    kind = rng.choice(list(OTHER_RHYTHMS), p=list(OTHER_RHYTHMS.values())) if letter == "O" else ""
    rate = _log_normal(LOG_RATE[letter], rng)
    if kind == "slow":
        rate = rng.uniform(38, 50)
    elif kind == "fast":
        rate = rng.uniform(112, 150)
    mean = 60 / rate
    beats = int(1.3 * seconds / mean) + 5  # some spare: those past the end are not drawn
    variation = _log_normal(LOG_RR_CV[letter], rng)
    if letter == "A":
        return _fibrillation_rr(beats, mean, variation, rng), "-" * beats
    rr = mean * (1 + variation * _sinus_variation(beats, mean, rng))
    early = _ectopic_beats(beats, rng) if kind in ("V", "S") else np.array([], int)
    marks = np.full(beats, "-")
    marks[early] = kind
    coupling = rng.uniform(0.58, 0.75)
    rr[early] *= coupling
    # Ventricular beats leave the sinus node alone (full compensatory pause); atrial ones reset it.
    rr[early + 1] *= 2 - coupling if kind == "V" else rng.uniform(1.0, 1.15)
    return rr, "".join(marks)


def _ectopic_beats(beats: int, rng: np.random.Generator) -> np.ndarray:
    """Which beats come early: never two in a row; at random, or every second to fourth beat."""
    if rng.random() < 0.3:
        return np.arange(2, beats - 1, rng.integers(2, 5))
    gaps = 2 + rng.geometric(rng.uniform(0.08, 0.3), beats)
    early = np.cumsum(gaps)
    return early[early < beats - 1]


def _fibrillation_rr(beats: int, mean: float, variation: float, rng: np.random.Generator) -> np.ndarray:
    """Irregularly irregular: independent gamma intervals above a refractory floor, (beats,) s.

    The floor of 0.3 s gives the skewness that was measured, 0.7 in the median.
    """
    floor = min(0.3, 0.55 * mean)
    shape = ((mean - floor) / (variation * mean)) ** 2
    return floor + rng.gamma(shape, (mean - floor) / shape, beats)


def _sinus_variation(beats: int, mean: float, rng: np.random.Generator) -> np.ndarray:
    """Relative RR variation with peaks at 0.1 Hz (Mayer) and 0.25 Hz (breathing): (beats,), unit SD.

    Equal peaks with random phases, after McSharry et al. 2003; lag-1 autocorrelation 0.5, as measured.
    """
    frequency = np.fft.rfftfreq(2 * beats, mean)
    power = sum(np.exp(-0.5 * ((frequency - peak) / 0.02) ** 2) for peak in (0.1, 0.25))
    phase = rng.uniform(0, 2 * np.pi, len(frequency))
    series = np.fft.irfft(np.sqrt(power) * np.exp(1j * phase))[:beats]
    return np.clip((series - series.mean()) / series.std(), -2.5, 2.5)


def _f_waves(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Fibrillation of the atria: a drifting saw-tooth of 4 to 9 Hz, (samples,) mV."""
    frequency = rng.uniform(4.5, 8.5) + 0.4 * _band_noise(samples, 0.05, 0.5, rng)
    phase = 2 * np.pi * np.cumsum(frequency) / FS
    saw = np.sin(phase) + np.sin(2 * phase) / 3
    swell = 1 + 0.35 * _band_noise(samples, 0.1, 1, rng)
    return _log_normal(LOG_F_WAVE, rng) * swell * saw / saw.std()


def _band_noise(samples: int, low: float, high: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise between `low` and `high` Hz: (samples,), unit SD."""
    sos = signal.butter(2, [low, high], "bandpass", fs=FS, output="sos")
    settle = 10 * FS
    noise = signal.sosfilt(sos, rng.standard_normal(settle + samples))[settle:]
    return noise / noise.std()


def _episodes(samples: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Envelope of `count` disturbances of a second or so at random times: (samples,), from 0 to 1."""
    time = np.arange(samples) / FS
    at = rng.uniform(0, samples / FS, (count, 1))
    lasts = rng.uniform(0.2, 1.2, (count, 1))
    return np.exp(-0.5 * ((time - at) / lasts) ** 2).max(axis=0)


def _wander(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Baseline wander with a pink tail into the band of the waves: (samples,), SD about 1."""
    slow = _band_noise(samples, 0.2, 1.2, rng)
    return slow + 0.15 * _band_noise(samples, 1.5, 9, rng)


def _motion(samples: int, rng: np.random.Generator) -> np.ndarray:
    """One to three motion artefacts in an otherwise quiet recording: (samples,), SD about 1 within them."""
    return _episodes(samples, int(rng.integers(1, 4)), rng) * _band_noise(samples, 0.4, 5, rng)


def _noisy(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Drift, motion, muscle and a loose electrode together, in random shares: (samples,), unit SD."""
    count = max(samples // (3 * FS), 3)
    steps = np.cumsum(rng.standard_normal(samples) * (rng.random(samples) < 0.6 / FS))
    noise = (
        rng.uniform(0.2, 0.8) * _band_noise(samples, 0.2, 1.5, rng)
        + rng.uniform(0.6, 1.6) * _episodes(samples, count, rng) * _band_noise(samples, 0.3, 3, rng)
        + rng.uniform(0.0, 0.6) * _episodes(samples, count, rng) * _band_noise(samples, 3, 22, rng)
        + rng.uniform(0.0, 0.7) * signal.sosfilt(HIGH_PASS, steps)
    )
    return noise / noise.std()
