"""Measures of a perturbation: known answers, the 50 ms rule, real recordings under a little noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ecgnb.attacks.preprocessing import bandpass
from ecgnb.constants import BAND, FS, WINDOW
from ecgnb.evaluation import signals
from ecgnb.report.evaluation_figures import spectra_figure
from ecgnb.report.style import COLOURS

TIME = np.arange(WINDOW) / FS
BEATS = np.arange(0.5, 29.5, 0.8) + 0.1 * np.sin(np.arange(37))  # s, not quite regular
POWERS = ["power_below_band", "power_within_band", "power_above_band"]


def spikes(beats: np.ndarray) -> np.ndarray:
    """(9000,) mV: 1 mV QRS-like spikes, 12 ms SD, at the times `beats`, s."""
    return np.exp(-0.5 * (np.subtract.outer(TIME, beats) / 0.012) ** 2).sum(axis=1)


def sine(amplitude: float, frequency: float) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * TIME)


def test_size_and_roughness_of_a_known_perturbation():
    """A tenth of the signal's SD, ten times its frequency, beside an offset that must not count."""
    found = signals.measures(5 + sine(1, 2.5), 5 + sine(1, 2.5) + sine(0.1, 25), FS)
    assert found["largest_uv"] == pytest.approx(100)
    assert found["rms_uv"] == pytest.approx(100 / np.sqrt(2))
    assert found["snr_db"] == pytest.approx(20)
    assert found["prd_percent"] == pytest.approx(10)
    # Differences scale with frequency: equal ones of two sines add to √2 in SD.
    assert found["roughness_ratio"] == pytest.approx(np.sqrt(2), rel=0.01)
    assert 1 < found["total_variation_ratio"] < 2


def test_total_variation_doubles_with_the_signal():
    found = signals.measures(sine(1, 1), 2 * sine(1, 1), FS)
    assert found["total_variation_ratio"] == pytest.approx(2)
    assert found["snr_db"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("parts", "shares"),
    [
        ([(0.02, 0.2)], [1, 0, 0]),
        ([(0.02, 0.5)], [0, 1, 0]),
        ([(0.02, 40)], [0, 1, 0]),
        ([(0.02, 60)], [0, 0, 1]),
        ([(0.01, 0.1), (0.02, 10), (0.03, 100)], [1 / 14, 4 / 14, 9 / 14]),
    ],
)
def test_shares_of_power_by_frequency(parts, shares):
    perturbation = sum(sine(*part) for part in parts)
    found = signals.measures(spikes(BEATS), spikes(BEATS) + perturbation, FS)
    assert [found[name] for name in POWERS] == pytest.approx(shares, abs=1e-6)


def test_an_offset_is_a_perturbation_below_half_a_hertz():
    assert signals.band_shares(np.full(3000, 0.1), FS) == pytest.approx([1, 0, 0])


def test_no_perturbation():
    found = signals.measures(spikes(BEATS), spikes(BEATS), FS)
    assert list(found) == list(signals.TITLES)
    assert found["largest_uv"] == found["rms_uv"] == found["prd_percent"] == 0
    assert found["snr_db"] == np.inf and np.isnan([found[name] for name in POWERS]).all()
    assert found["roughness_ratio"] == found["total_variation_ratio"] == 1
    assert found["r_peak_f1"] == 1
    assert found["r_peaks_clean"] == found["r_peaks_adversarial"] == len(BEATS)
    assert found["mean_rr_change_ms"] == found["rmssd_change_ms"] == 0


def test_peaks_are_found_where_they_are_either_way_up():
    for sign in (1, -1):
        peaks = signals.r_peaks(sign * spikes(BEATS), FS)
        assert np.abs(peaks / FS - BEATS).max() < 0.01


@pytest.mark.parametrize(("shift", "f1"), [(0.03, 1), (0.08, 0)])
def test_a_peak_within_50_ms_is_the_same_peak(shift, f1):
    found = signals.measures(spikes(BEATS), spikes(BEATS + shift), FS)
    assert found["r_peak_f1"] == f1
    assert found["mean_rr_change_ms"] == pytest.approx(0, abs=0.5)


def test_peak_f1_counts_missed_and_extra_peaks():
    reference = np.array([300, 600, 900, 1200])
    assert signals.peak_f1(reference, np.array([315, 585, 916]), FS) == pytest.approx(4 / 7)
    assert signals.peak_f1(reference, np.array([], int), FS) == 0
    assert np.isnan(signals.peak_f1(np.array([], int), np.array([], int), FS))


def test_rr_statistics_of_known_intervals():
    """Intervals 900, 1000, 1100, 900 ms: their differences are 100, 100 and -200 ms."""
    mean, rmssd = signals.rr_statistics(np.array([0, 270, 570, 900, 1170]), FS)
    assert mean == pytest.approx(975) and rmssd == pytest.approx(np.sqrt(60000 / 3))
    assert np.isnan(signals.rr_statistics(np.array([7]), FS)).all()
    mean, rmssd = signals.rr_statistics(np.array([0, 300]), FS)
    assert mean == 1000 and np.isnan(rmssd)


def test_a_stretched_rhythm_has_longer_intervals():
    found = signals.measures(spikes(BEATS * 0.9), spikes(BEATS), FS)
    rr = np.diff(BEATS) * 1000
    assert found["mean_rr_change_ms"] == pytest.approx(0.1 * rr.mean(), abs=1)
    assert found["rmssd_change_ms"] == pytest.approx(0.1 * np.sqrt(np.mean(np.diff(rr) ** 2)), abs=2)


def test_summary_leaves_out_what_is_not_finite():
    columns = {"a": [1, 2, 3, np.nan], "b": [np.inf, 5, 5, 5], "c": [np.nan] * 4}
    found = signals.summary(pd.DataFrame(columns))
    assert found["a"] == pytest.approx({"median": 2, "p5": 1.1, "p95": 2.9})
    assert found["b"] == {"median": 5, "p5": 5, "p95": 5}
    assert np.isnan(list(found["c"].values())).all()


def test_bandpass_keeps_the_band_and_nothing_else():
    within, around = sine(1, 0.6) + sine(1, 39.9), sine(1, 0.4) + sine(1, 40.1) + 5
    passed = bandpass((within + around)[None, :, None], np.array([WINDOW]), BAND, FS)
    assert np.allclose(passed[0, :, 0], within)


def test_bandpass_is_a_projection_and_its_own_adjoint_and_leaves_padding_zero():
    rng = np.random.default_rng(0)
    lengths = np.array([WINDOW, 2714, WINDOW, 5001])
    x, y = rng.standard_normal((2, 4, WINDOW, 1)).astype(np.float32)
    bx, by = (bandpass(z, lengths, BAND, FS) for z in (x, y))
    real = (np.arange(WINDOW) < lengths[:, None])[..., None]
    assert bx.dtype == np.float64 and bx[real].any() and not bx[~real].any()
    assert np.allclose(bandpass(bx, lengths, BAND, FS), bx, atol=1e-12)
    inner = [(a * b).sum(axis=(1, 2)) for a, b in ((bx, y), (x, by))]
    assert np.allclose(*inner, rtol=1e-9) and np.abs(inner[0]).min() > 1e-3
    alone = bandpass(x[1:2], lengths[1:2], BAND, FS)
    assert np.array_equal(alone[0], bx[1])


def test_the_spectrum_of_white_noise_is_flat_and_holds_its_power():
    rng = np.random.default_rng(0)
    frequency, density = signals.mean_spectrum((0.01 * rng.standard_normal(n) for n in (9000, 9000, 5000, 9000)), FS)
    assert frequency[0] == 0 and frequency[-1] == FS / 2 and len(frequency) == 513
    parts = density[1:-1].reshape(7, 73).mean(axis=1)
    assert parts == pytest.approx(10**2 / (FS / 2), rel=0.1)
    assert np.trapezoid(density, frequency) == pytest.approx(10**2, rel=0.05)


@pytest.mark.parametrize("subtitle", ["DEMO (SYNTHETIC), validation", "CinC 2017, validation"])
def test_spectra_figure_marks_the_band_and_synthetic_data(subtitle):
    frequency = np.linspace(0, FS / 2, 513)
    names = ["clean", "attacked", "random ±ε", "Gaussian noise", "60 Hz mains", "simulated EMG", "other"]
    spectra = {name: (frequency, np.full(513, 10.0 ** -(3 * i))) for i, name in enumerate(names)}
    figure = spectra_figure(spectra, subtitle)
    figure.draw_without_rendering()
    (ax,) = figure.axes
    lines = {line.get_label(): line for line in ax.lines if line.get_label() in names}
    assert list(lines) == names
    assert len({(line.get_color(), line.get_linestyle()) for line in lines.values()}) == len(names)
    assert lines["clean"].get_color() == COLOURS["clean"]
    assert {line.get_xdata()[0] for line in ax.lines[len(names) :]} == {0.5, 40}
    assert {"0.5 Hz", "40 Hz"} <= {text.get_text() for text in ax.texts}
    assert ax.get_yscale() == "log" and ax.get_ylim()[0] > 1e-6  # not down to what filters leave
    marks = [text for text in figure.texts if text.get_text() == "DEMO (SYNTHETIC)"]
    assert bool(marks) == subtitle.startswith("DEMO")


@pytest.mark.real
def test_table_of_real_recordings_under_10_uv_of_noise_and_padding_never_counts(validation):
    dataset = validation.of_class("A")
    dataset = dataset.take(np.r_[np.flatnonzero(dataset.lengths < WINDOW)[:4], 0:8])
    assert (dataset.lengths < WINDOW).sum() >= 4
    noise = np.random.default_rng(0).standard_normal(dataset.x.shape) * 0.01
    noise[~dataset.mask] = 1e6
    found = signals.measure_all(dataset, dataset.x + noise / dataset.sd_mv[:, None, None])
    assert list(found.index) == list(dataset.names)
    assert found["rms_uv"].to_numpy() == pytest.approx(10, rel=0.05)
    assert found["largest_uv"].max() < 60
    assert found["power_above_band"].to_numpy() == pytest.approx(110 / 150, abs=0.05)
    assert found[POWERS].sum(axis=1).to_numpy() == pytest.approx(1)
    assert found["r_peak_f1"].min() > 0.95 and found["r_peak_f1"].mean() > 0.98
    minutes = dataset.lengths / FS / 60
    assert (found["r_peaks_clean"] / minutes).between(40, 200).all()


@pytest.mark.real
def test_a_real_recording_differs_in_nothing_from_itself(validation):
    dataset = validation.take(np.arange(8))
    found = signals.measure_all(dataset, dataset.x)
    assert (found[["r_peak_f1", "roughness_ratio"]] == 1).all(axis=None)
    assert (found["r_peaks_clean"] > 5).all()
    assert (found[["prd_percent", "mean_rr_change_ms", "rmssd_change_ms"]] == 0).all(axis=None)
