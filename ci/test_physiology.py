"""Measures of a change: known answers, the 50 ms rule, real recordings under a little noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ecgnb import canvas, evaluation_plots, physiology
from ecgnb.data import WINDOW
from ecgnb.filters import bandpass
from ecgnb.records import BAND, FS

TIME = np.arange(WINDOW) / FS
BEATS = np.arange(0.5, 29.5, 0.8) + 0.1 * np.sin(np.arange(37))  # s, not quite regular
BELOW, WITHIN, ABOVE = (
    f"change {place} Hz, share of power" for place in ("below 0.5", "0.5–40", "above 40")
)


def spikes(beats: np.ndarray) -> np.ndarray:
    """(9000,) mV: 1 mV QRS-like spikes, 12 ms SD, at the times `beats`, s."""
    return np.exp(-0.5 * (np.subtract.outer(TIME, beats) / 0.012) ** 2).sum(axis=1)


def sine(amplitude: float, frequency: float) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * TIME)


def test_size_and_roughness_of_a_known_change():
    """A tenth of the signal's SD, ten times its frequency, beside an offset that must not count."""
    found = physiology.measures(5 + sine(1, 2.5), 5 + sine(1, 2.5) + sine(0.1, 25))
    assert found["largest change, µV"] == pytest.approx(100)
    assert found["RMS change, µV"] == pytest.approx(100 / np.sqrt(2))
    assert found["SNR, dB"] == pytest.approx(20)
    assert found["PRD, %"] == pytest.approx(10)
    # Differences scale with frequency: equal ones of two sines add to √2 in SD.
    assert found["SD of differences, ratio"] == pytest.approx(np.sqrt(2), rel=0.01)
    assert 1 < found["total variation, ratio"] < 2


def test_total_variation_doubles_with_the_signal():
    found = physiology.measures(sine(1, 1), 2 * sine(1, 1))
    assert found["total variation, ratio"] == pytest.approx(2)
    assert found["SNR, dB"] == pytest.approx(0, abs=1e-9)


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
    change = sum(sine(*part) for part in parts)
    found = physiology.measures(spikes(BEATS), spikes(BEATS) + change)
    assert [found[name] for name in (BELOW, WITHIN, ABOVE)] == pytest.approx(shares, abs=1e-6)


def test_an_offset_is_a_change_below_half_a_hertz():
    assert physiology.band_shares(np.full(3000, 0.1)) == pytest.approx([1, 0, 0])


def test_no_change():
    found = physiology.measures(spikes(BEATS), spikes(BEATS))
    assert found["largest change, µV"] == found["RMS change, µV"] == found["PRD, %"] == 0
    assert found["SNR, dB"] == np.inf and np.isnan([found[BELOW], found[ABOVE]]).all()
    assert found["SD of differences, ratio"] == found["total variation, ratio"] == 1
    assert found["R-peak F1"] == 1
    assert found["R-peaks clean, count"] == found["R-peaks adversarial, count"] == len(BEATS)
    assert found["change in mean RR, ms"] == found["change in RMSSD, ms"] == 0


def test_peaks_are_found_where_they_are_either_way_up():
    for sign in (1, -1):
        peaks = physiology.r_peaks(sign * spikes(BEATS))
        assert np.abs(peaks / FS - BEATS).max() < 0.01


@pytest.mark.parametrize(("shift", "f1"), [(0.03, 1), (0.08, 0)])
def test_a_peak_within_50_ms_is_the_same_peak(shift, f1):
    found = physiology.measures(spikes(BEATS), spikes(BEATS + shift))
    assert found["R-peak F1"] == f1
    assert found["change in mean RR, ms"] == pytest.approx(0, abs=0.5)


def test_peak_f1_counts_missed_and_extra_peaks():
    reference = np.array([300, 600, 900, 1200])
    assert physiology.peak_f1(reference, np.array([315, 585, 916])) == pytest.approx(4 / 7)
    assert physiology.peak_f1(reference, np.array([], int)) == 0
    assert np.isnan(physiology.peak_f1(np.array([], int), np.array([], int)))


def test_rr_statistics_of_known_intervals():
    """Intervals 900, 1000, 1100, 900 ms: their differences are 100, 100 and -200 ms."""
    mean, rmssd = physiology.rr_statistics(np.array([0, 270, 570, 900, 1170]))
    assert mean == pytest.approx(975) and rmssd == pytest.approx(np.sqrt(60000 / 3))
    assert np.isnan(physiology.rr_statistics(np.array([7]))).all()
    mean, rmssd = physiology.rr_statistics(np.array([0, 300]))
    assert mean == 1000 and np.isnan(rmssd)


def test_a_stretched_rhythm_has_longer_intervals():
    found = physiology.measures(spikes(BEATS * 0.9), spikes(BEATS))
    rr = np.diff(BEATS) * 1000
    assert found["change in mean RR, ms"] == pytest.approx(0.1 * rr.mean(), abs=1)
    assert found["change in RMSSD, ms"] == pytest.approx(
        0.1 * np.sqrt(np.mean(np.diff(rr) ** 2)), abs=2
    )


def test_summary_leaves_out_what_is_not_finite():
    columns = {"a": [1, 2, 3, np.nan], "b": [np.inf, 5, 5, 5], "c": [np.nan] * 4}
    found = physiology.summary(pd.DataFrame(columns))
    assert found["a"] == pytest.approx({"median": 2, "p5": 1.1, "p95": 2.9})
    assert found["b"] == {"median": 5, "p5": 5, "p95": 5}
    assert np.isnan(list(found["c"].values())).all()


def test_bandpass_keeps_the_band_and_nothing_else():
    within, around = sine(1, 0.6) + sine(1, 39.9), sine(1, 0.4) + sine(1, 40.1) + 5
    passed = bandpass((within + around)[None, :, None], np.array([WINDOW]), *BAND)
    assert np.allclose(passed[0, :, 0], within)


def test_bandpass_is_a_projection_and_its_own_adjoint_and_leaves_padding_zero():
    rng = np.random.default_rng(0)
    lengths = np.array([WINDOW, 2714, WINDOW, 5001])
    x, y = rng.standard_normal((2, 4, WINDOW, 1)).astype(np.float32)
    bx, by = (bandpass(z, lengths, *BAND) for z in (x, y))
    real = (np.arange(WINDOW) < lengths[:, None])[..., None]
    assert bx.dtype == np.float64 and bx[real].any() and not bx[~real].any()
    assert np.allclose(bandpass(bx, lengths, *BAND), bx, atol=1e-12)
    inner = [(a * b).sum(axis=(1, 2)) for a, b in ((bx, y), (x, by))]
    assert np.allclose(*inner, rtol=1e-9) and np.abs(inner[0]).min() > 1e-3
    alone = bandpass(x[1:2], lengths[1:2], *BAND)
    assert np.array_equal(alone[0], bx[1])


def test_the_spectrum_of_white_noise_is_flat_and_holds_its_power():
    rng = np.random.default_rng(0)
    frequency, density = physiology.mean_spectrum(
        0.01 * rng.standard_normal(n) for n in (9000, 9000, 5000, 9000)
    )
    assert frequency[0] == 0 and frequency[-1] == FS / 2 and len(frequency) == 513
    parts = density[1:-1].reshape(7, 73).mean(axis=1)
    assert parts == pytest.approx(10**2 / (FS / 2), rel=0.1)
    assert np.trapezoid(density, frequency) == pytest.approx(10**2, rel=0.05)


@pytest.mark.parametrize("subtitle", ["DEMO (SYNTHETIC), validation", "CinC 2017, validation"])
def test_spectra_figure_marks_the_band_and_synthetic_data(subtitle):
    frequency = np.linspace(0, FS / 2, 513)
    names = ["clean", "attacked", "random ±ε", "Gaussian", "mains 60 Hz", "simulated EMG", "other"]
    spectra = {name: (frequency, np.full(513, 10.0 ** -(3 * i))) for i, name in enumerate(names)}
    figure = evaluation_plots.spectra_figure(spectra, subtitle)
    figure.draw_without_rendering()
    (ax,) = figure.axes
    lines = {line.get_label(): line for line in ax.lines if line.get_label() in names}
    assert list(lines) == names
    assert len({(line.get_color(), line.get_linestyle()) for line in lines.values()}) == len(names)
    assert lines["clean"].get_color() == canvas.COLOURS["clean"]
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
    found = physiology.table(dataset, dataset.x + noise / dataset.sd_mv[:, None, None])
    assert list(found.index) == list(dataset.names)
    assert found["RMS change, µV"].to_numpy() == pytest.approx(10, rel=0.05)
    assert found["largest change, µV"].max() < 60
    assert found[ABOVE].to_numpy() == pytest.approx(110 / 150, abs=0.05)
    assert found[[BELOW, WITHIN, ABOVE]].sum(axis=1).to_numpy() == pytest.approx(1)
    assert found["R-peak F1"].min() > 0.95 and found["R-peak F1"].mean() > 0.98
    minutes = dataset.lengths / FS / 60
    assert (found["R-peaks clean, count"] / minutes).between(40, 200).all()


@pytest.mark.real
def test_a_real_recording_differs_in_nothing_from_itself(validation):
    dataset = validation.take(np.arange(8))
    found = physiology.table(dataset, dataset.x)
    assert (found[["R-peak F1", "SD of differences, ratio"]] == 1).all(axis=None)
    assert (found["R-peaks clean, count"] > 5).all()
    assert (found[["PRD, %", "change in mean RR, ms", "change in RMSSD, ms"]] == 0).all(axis=None)
