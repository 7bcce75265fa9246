"""Recordings of one's own, of any classes, leads and rate: read right or refused in one line; attacked and evaluated."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import scipy.io
import wfdb
from keras import layers

from ecgnb.__main__ import _add_threat, _threat, main
from ecgnb.attacks import NOISE_BASELINES, Threat, add_noise
from ecgnb.attacks.balls import L2
from ecgnb.attacks.noise import possible_noise
from ecgnb.attacks.preprocessing import filtered, standardised
from ecgnb.data.audit import audit
from ecgnb.data.dataset import Dataset, load_data
from ecgnb.data.own import Reading, dataset_from_arrays, load_own
from ecgnb.errors import EcgnbError
from ecgnb.evaluation import signals, suites
from ecgnb.evaluation.engine import evaluate, transfer
from ecgnb.evaluation.examples import save_examples
from ecgnb.evaluation.run import EvaluatedModel
from ecgnb.evaluation.suites import Budget, attack_suite, results_suite, suite, threat_cases
from ecgnb.models.classifier import predicted_classes
from ecgnb.models.keras_classifier import KerasClassifier

FS, SAMPLES, LEADS, CLASSES = 100, 800, ("I", "II", "V1"), ("N", "V", "S", "F")
TINY = Budget(2, 1, 2, 3, 2, 1, 2, 8)
BEAT = np.exp(-0.5 * ((np.arange(FS) - 50) / 1.5) ** 2)


def recordings(n: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """(n, 800, 3) mV and labels: a spike a second in lead II, noise of three sizes, and a sine that tells the class."""
    rng, y = np.random.default_rng(0), np.arange(n) % len(CLASSES)
    x = rng.normal(0, [0.02, 0.05, 0.2], (n, SAMPLES, len(LEADS)))
    x[..., 1] += np.tile(BEAT, SAMPLES // FS)
    return x + 0.1 * _sine(y), np.array(CLASSES)[y]


def _sine(y: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * (3 + y[:, None]) * np.arange(SAMPLES) / FS)[..., None]


def dataset(**settings) -> Dataset:
    x, labels = recordings()
    given = {"unit": "mV", "fs": FS, "leads": LEADS, "classes": CLASSES, "name": "ward"}
    return dataset_from_arrays(x, labels, **given | settings)


@pytest.fixture(scope="module")
def model() -> EvaluatedModel:
    """A linear classifier that knows the sines: three leads at 100 Hz to four logits."""
    inputs = keras.Input((SAMPLES, len(LEADS)))
    network = keras.Model(inputs, layers.Dense(4, use_bias=False)(layers.Flatten()(inputs)))
    waves = np.repeat(_sine(np.arange(4)), len(LEADS), axis=2).reshape(4, -1).T
    network.set_weights([0.02 * waves.astype(np.float32)])
    return EvaluatedModel("sines", KerasClassifier(network, classes=CLASSES, fs=FS), "digest")


# ---- arrays ----


@pytest.mark.parametrize("standardise", ["recording", "lead", "none", (0.1, 0.3), ((0, 0.1, 0.2), (1, 2, 3))])
def test_a_data_set_goes_back_to_the_millivolts_it_was_made_of(standardise):
    x, labels = recordings()
    found = dataset(standardise=standardise)
    assert found.x.shape == x.shape and found.x.dtype == np.float32
    assert [found.classes[c] for c in found.y] == labels.tolist()
    assert np.allclose(found.leads_in_mv(found.x), x, atol=1e-6)
    assert np.allclose(found.in_mv(found.x), x[..., 1], atol=1e-6), "R-peaks are looked for in lead II"
    if standardise in ("recording", "lead"):
        axis = (1, 2) if standardise == "recording" else 1
        assert np.allclose(found.x.mean(axis=axis), 0, atol=1e-4) and np.allclose(found.x.std(axis=axis), 1, atol=1e-4)
    assert (found.x == x.astype(np.float32)).all() == (standardise == "none")


def test_units_and_forms_of_the_same_recordings_make_the_same_data_set():
    x, labels = recordings()
    first = dataset()
    numbers = [CLASSES.index(label) for label in labels]
    for given, other, unit in ((1000 * x, labels, "µV"), (x / 1000, numbers, "V"), (list(x), labels, "mV")):
        found = dataset_from_arrays(given, other, unit=unit, fs=FS, classes=CLASSES)
        assert np.allclose(found.x, first.x, atol=1e-5) and (found.y == first.y).all()
        assert np.allclose(found.sd_mv, first.sd_mv)
    one = dataset_from_arrays(x[..., 0], labels, unit="mV", fs=FS)
    assert one.x.shape == (24, SAMPLES, 1) and one.classes == tuple(sorted(CLASSES)) and one.leads == ("ECG",)


def test_recordings_of_several_lengths_are_standardised_then_padded_or_cut():
    x, labels = recordings()
    found = dataset_from_arrays([x[0, :300], *x[1:]], labels, unit="mV", fs=FS)
    assert found.lengths.tolist() == [300] + 23 * [SAMPLES] and (found.x[~found.mask] == 0).all()
    assert found.x[0, :300].std() == pytest.approx(1, abs=1e-4) and found.mask.shape == x.shape
    padded = dataset_from_arrays(x, labels, unit="mV", fs=FS, lengths=found.lengths, samples=1000)
    assert padded.x.shape[1] == 1000 and (padded.x[:, :SAMPLES] == found.x).all()
    assert dataset(samples=500).lengths.tolist() == 24 * [500]


def test_resampling_keeps_the_signal_and_is_said():
    time = np.arange(5000) / 500
    x = np.repeat(5 + np.sin(2 * np.pi * 3 * time)[None, :, None], 4, axis=0)
    slow = [piece[::2] for piece in x[2:]]
    found = dataset_from_arrays([*x[:2], *slow], list("NVNV"), unit="mV", fs=[500, 500, 250, 250], resample=300)
    expected = 5 + np.sin(2 * np.pi * 3 * np.arange(3000) / 300)
    assert found.fs == 300 and found.x.shape == (4, 3000, 1)
    assert np.abs(np.array(found.in_mv(found.x)) - expected).max() < 0.02, "the offset makes no step at the ends"
    assert "resampled from 250, 500 to 300 Hz" in found.title


def test_provenance_is_ones_own():
    first, other = dataset(), dataset(names=[f"P{i}" for i in range(24)])
    assert first.title.startswith('own recordings ("ward" ') and first.title.endswith("validation, labels as given")
    assert "CinC" not in first.title and first.source != other.source and first.source == dataset().source
    assert "standardised by lead" in dataset(standardise="lead").title
    assert first.of_class("V").source == first.source and len(first.of_class("V")) == 6
    with pytest.raises(EcgnbError, match="no class 'A'; its classes are N, V, S, F"):
        first.of_class("A")


X, Y = recordings()
FAULTS = {  # fault -> (changed arguments, words of the error)
    "a label too few": ({"labels": Y[1:]}, r"labels have shape \(23,\), expected \(24,\)"),
    "several labels each": ({"labels": np.eye(24)}, "choose one, as two classes"),
    "half a class": ({"labels": np.full(24, 0.5)}, "not all of them whole"),
    "an unknown label": ({"classes": ("N", "V", "S")}, "label 'F' of recording 4 is none of N, V, S"),
    "one class": ({"labels": 24 * ["N"], "classes": None}, "expected two or more"),
    "NaN": ({"x": np.where(np.arange(24) == 3, np.nan, X.T).T}, "recording 4 holds NaN"),
    "flat": ({"x": 0 * X}, "recording 01 is flat and has no z-score"),
    "a flat lead": ({"x": X * [1, 1, 0], "standardise": "lead"}, "flat in lead V1"),
    "leads first": ({"x": X.transpose(0, 2, 1)}, "800 leads of 3 samples; transpose"),
    "leads of some": ({"x": [X[0][:, :2], *X[1:]]}, r"recording 2 has shape \(800, 3\), expected \(samples, 2\)"),
    "text": ({"x": 24 * ["ECG"]}, "no array of numbers"),
    "none": ({"x": [], "labels": []}, "no recordings"),
    "no unit": ({"unit": ""}, "unit='': expected \"mV\""),
    "no rate": ({"fs": 0}, "fs=0: expected a sampling rate"),
    "several rates": ({"fs": 12 * [100, 200]}, r"several rates \(100, 200 Hz\); say which"),
    "names twice": ({"names": 24 * ["a"]}, "24 different names, got 1"),
    "leads without names": ({"leads": ["I"]}, "3 leads need 3 different names"),
    "no such R-peak lead": ({"r_peak_lead": "aVR"}, "R-peaks in aVR"),
    "lengths": ({"lengths": 24 * [801]}, "lengths do not fit x"),
    "standardise": ({"standardise": "class"}, "standardise='class': expected recording, lead, none or"),
    "an SD of 0": ({"standardise": (0, 0)}, "expected .mean, SD. in mV"),
    "z, standardised again": ({"unit": "z", "standardise": "lead"}, "says that this was done"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_arrays_that_do_not_fit_are_refused_in_one_line(fault):
    changed, words = FAULTS[fault]
    given = {"x": X, "labels": Y, "unit": "mV", "fs": FS, "leads": LEADS, "classes": CLASSES, "name": "ward"} | changed
    with pytest.raises(EcgnbError, match=f"^ward: .*{words}") as caught:
        dataset_from_arrays(given.pop("x"), given.pop("labels"), **given)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 300


def test_labels_follow_the_order_of_a_models_classes():
    first = dataset()
    turned = first.with_classes(("F", "?x", "V", "S", "N"))
    assert [turned.classes[c] for c in turned.y] == [first.classes[c] for c in first.y]
    with pytest.raises(EcgnbError, match="recordings of class F, and the model's classes are N, V, S"):
        first.with_classes(("N", "V", "S"))


# ---- an .npz file ----


def write_npz(path: Path, **changes) -> Path:
    given = {"x": X, "y": Y, "fs": FS, "unit": "mV", "leads": LEADS, "classes": CLASSES} | changes
    np.savez(path, **{key: value for key, value in given.items() if value is not None})
    return path


def test_an_npz_file_is_read_as_the_arrays_in_it(tmp_path):
    path = write_npz(tmp_path / "ward.npz")
    found, direct = load_data("validation", data=str(path)), dataset(name="ward.npz")
    assert (found.x == direct.x).all() and (found.y == direct.y).all() and found.title == direct.title
    how = Reading(leads=("v1", "I"), resample=50, samples=300, standardise="none")
    chosen = load_data("validation", data=str(path), reading=how)
    assert chosen.x.shape == (24, 300, 2) and chosen.fs == 50 and chosen.standardise == "none"
    with pytest.raises(EcgnbError, match=r"ward\.npz: does not say which recordings are in split 'train'"):
        load_data("train", data=str(path))
    table = audit(str(path))["Recordings by split and class"]
    assert table.loc["validation"].tolist() == [6, 6, 6, 6]


def test_folds_of_an_npz_file_are_its_splits(tmp_path):
    fold = np.array(["train"] * 12 + ["dev"] * 12)
    path = str(write_npz(tmp_path / "ward.npz", fold=fold, names=[f"P{i}" for i in range(24)]))
    train, dev = (load_data(split, data=path) for split in ("train", "dev"))
    assert train.names[0] == "P0" and dev.names[0] == "P12" and len(train) == len(dev) == 12
    assert train.classes == dev.classes == CLASSES and train.source != dev.source
    assert list(audit(path)["What they are"].index) == ["train", "dev"]


NPZ_FAULTS = {
    "no unit": ({"unit": None}, "has no unit; needed keys are x, labels, fs, unit"),
    "one number": ({"x": 5}, "has no x; needed keys are x"),
    "a misspelt key": ({"folds": Y}, "unknown key 'folds'"),
    "objects": ({"names": np.array([None] * 24)}, "cannot be read as an .npz file of plain arrays"),
    "3 recordings": ({"x": X[:3], "y": Y[:3]}, "3 recordings in split validation; an evaluation needs 10 or more"),
    "labels for others": ({"y": Y[:20]}, "x has 24 recordings, labels 20"),
    "an unknown fold": ({"fold": ["training"] * 24}, "fold: 'training'; expected one of train, dev, test"),
    "NaN": ({"x": X * np.nan}, "holds NaN"),
}


@pytest.mark.parametrize("fault", NPZ_FAULTS)
def test_an_npz_file_that_does_not_fit_is_refused_in_one_line(tmp_path, capsys, fault):
    changed, words = NPZ_FAULTS[fault]
    path = write_npz(tmp_path / "ward.npz", **changed)
    assert main(["evaluate", "baseline", "--data", str(path), "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and "ward.npz" in line


def test_what_is_no_npz_file_is_refused(tmp_path):
    with pytest.raises(EcgnbError, match=r"none\.npz: no such file"):
        load_data("validation", data=str(tmp_path / "none.npz"))
    (tmp_path / "text.npz").write_text("x, y")
    with pytest.raises(EcgnbError, match="cannot be read as an"):
        load_data("validation", data=str(tmp_path / "text.npz"))
    with pytest.raises(EcgnbError, match="and WFDB alone"):
        load_data("validation", data="demo", reading=Reading(resample=100))


# ---- WFDB records ----


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twelve records of two leads, one of them in µV, in a folder below; two more are not in the table."""
    path = tmp_path / "clinic"
    (path / "records").mkdir(parents=True)
    for i, (signal, name) in enumerate(zip(X[:14], [f"p{i:02}" for i in range(14)], strict=True)):
        scaled = signal[:, :2] * [1, 1000]
        kind = dict(fmt=["16", "16"], adc_gain=[20000, 20], baseline=[0, 0], write_dir=str(path / "records"))
        wfdb.wrsamp(name, FS, ["mV", "uV"], ["I", "II"], p_signal=scaled, **kind)
        assert i or (path / "records" / "p00.dat").exists()
    rows = [f"records/p{i:02},{'AFIB' if i % 2 else 'SR'}" for i in range(12)]
    (path / "labels.csv").write_text("record,label\n" + "\n".join(rows) + "\n")
    return path


def table(old: str, new: str):
    def change(folder: Path) -> None:
        path = folder / "labels.csv"
        path.write_text(path.read_text().replace(old, new))

    return change


def test_a_folder_of_wfdb_records_is_read_in_millivolts(folder):
    found = load_data("validation", data=str(folder))
    assert found.classes == ("AFIB", "SR") and found.leads == ("I", "II") and found.fs == FS
    assert np.allclose(found.leads_in_mv(found.x), X[:12, :, :2], atol=2e-4)
    assert found.names[3] == "records/p03" and found.classes[found.y[3]] == "AFIB"
    assert found.title.startswith('own recordings ("clinic" ') and found.title.endswith("labels labels.csv")
    turned = load_data("validation", data=str(folder), reading=Reading(leads=("II", "i")))
    assert np.allclose(np.array(turned.leads_in_mv(turned.x))[..., ::-1], X[:12, :, :2], atol=2e-4)
    other = folder.parent / "second_reader.csv"
    other.write_text("".join(f"records/p{i:02},{'abc'[i % 3]}\n" for i in range(14)))
    second = load_data("validation", data=str(folder), reading=Reading(table=other))
    assert len(second) == 14 and second.classes == ("a", "b", "c") and second.labels == "second_reader.csv"


def test_records_of_the_challenge_are_records_too(folder):
    signal = np.round(1000 * X[0, :, 0]).astype(np.int16)
    scipy.io.savemat(folder / "m.mat", {"val": signal[None]}, format="4")
    (folder / "m.hea").write_text(f"m 1 {FS} {SAMPLES}\nm.mat 16+24 1000/mV 16 0 {signal[0]} 0 0 II\n")
    table("records/p00", "m")(folder)
    found = load_own(folder, reading=Reading(leads=("II",)))
    assert np.allclose(found.leads_in_mv(found.x)[0][:, 0], signal / 1000)


def _rate(folder: Path) -> None:
    path = folder / "records" / "p03.hea"
    path.write_text(path.read_text().replace(f" {FS} ", " 250 "))


WFDB_FAULTS = {  # fault -> (damage, words of the error)
    "no header": (lambda f: (f / "records" / "p03.hea").unlink(), ("p03.hea: no such header",)),
    "no signals": (lambda f: (f / "records" / "p03.dat").unlink(), ("p03.hea", "'p03.dat', which is not beside it")),
    "half of the signals": (
        lambda f: (f / "records" / "p03.dat").write_bytes(b"12345678"),
        ("p03.hea: its signals cannot be read",),
    ),
    "no header at all": (lambda f: (f / "records" / "p03.hea").write_text("?"), ("p03.hea: cannot be read as",)),
    "signals elsewhere": (
        lambda f: (f / "records" / "p03.hea").write_text("p03 1 100 800\n../../secret.dat 16 1/mV\n"),
        ("p03.hea: cannot be read as",),
    ),
    "another lead": (
        lambda f: (f / "records" / "p03.hea").write_text((f / "records" / "p03.hea").read_text().replace(" II", " V5")),
        ("p03.hea: has 0 leads 'II', expected one; it has I, V5",),
    ),
    "another unit": (
        lambda f: (f / "records" / "p03.hea").write_text(
            (f / "records" / "p03.hea").read_text().replace("/uV", "/mmHg")
        ),
        ("p03.hea: lead II is in 'mmHg'",),
    ),
    "another rate": (_rate, ("several rates (100, 250 Hz)",)),
    "no label": (table("records/p03,AFIB", "records/p03,"), ("labels.csv, line 5", "record,label")),
    "a record twice": (table("records/p03", "records/p02"), ("labels.csv, line 5: records/p02 has a label above",)),
    "a record outside": (table("records/p03", "../p03"), ("labels.csv, line 5: '../p03' lies outside",)),
    "a fold for some": (table("p03,AFIB", "p03,AFIB,dev"), ("labels.csv: some lines have a fold, some none",)),
    "no lines": (lambda f: (f / "labels.csv").write_text(""), ("labels.csv: has no line",)),
    "one class": (table("AFIB", "SR"), ("classes are 'SR'; expected two or more",)),
    "3 recordings": (table("records/p03", "\n" * 50 + "records/p03"), ()),
}


@pytest.mark.parametrize("fault", WFDB_FAULTS)
def test_a_folder_that_does_not_fit_is_refused_in_one_line(folder, fault):
    damage, words = WFDB_FAULTS[fault]
    damage(folder)
    if not words:
        assert len(load_own(folder)) == 12
        return
    with pytest.raises(EcgnbError) as caught:
        load_own(folder)
    assert all(word in str(caught.value) for word in words), caught.value
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_bad_records_can_be_skipped_and_several_rates_resampled(folder):
    _rate(folder)
    (folder / "records" / "p05.dat").unlink()
    found = load_own(folder, reading=Reading(resample=50), bad="skip")
    assert len(found) == 11 and "p05.dat" in found.skipped[0] and found.title.endswith("bad recordings skipped: 1")
    assert found.lengths.tolist() == [400, 400, 400, 160, *7 * [400]] and "from 100, 250 to 50 Hz" in found.source


# ---- attacks in samples × leads ----


@pytest.mark.parametrize("standardise", ["recording", "lead"])
@pytest.mark.parametrize("name", attack_suite(TINY))
def test_every_attack_keeps_to_the_microvolts_of_each_lead(model, name, standardise):
    data = dataset(standardise=standardise).of_class("N")
    threat = Threat("N", "V", epsilon=50, unit="µV")
    result = attack_suite(TINY, FS)[name](model.classifier, threat.on(data), seed=1)
    pairs = zip(data.leads_in_mv(result.x), data.leads_in_mv(data.x), strict=True)
    largest = 1000 * np.array([np.abs(a - b).max(axis=0) for a, b in pairs])
    assert (largest < 50.001).all() and (largest.max(axis=0) > 4).all(), "every lead is attacked, none beyond ε"
    assert np.isfinite(result.x).all() and result.logits.shape == (6, 4)


def test_a_ball_of_several_radii_is_measured_in_its_own():
    data = dataset(standardise="lead")
    ball = Threat("N", "V", 50, "µV").on(data).ball
    assert (ball.scale.max(axis=1) > 2 * ball.scale.min(axis=1)).all() and ball.reach.shape == (24, 1, 3)
    assert np.allclose(ball.reach[:, 0] * data.sd_mv, 0.05)
    rng = np.random.default_rng(0)
    far = data.x + rng.normal(size=data.x.shape)
    assert ball.size(ball.project(far)) == pytest.approx(ball.radius, rel=1e-4)
    round_ = L2(ball.centre, ball.radius, ball.mask, ball.scale)
    inside = round_.project(far)
    assert round_.size(inside) == pytest.approx(ball.radius, rel=1e-4)
    uv = np.array(data.leads_in_mv(inside)) - data.leads_in_mv(data.x)
    assert 1000 * np.sqrt((uv**2).sum(axis=(1, 2))) == pytest.approx(50, rel=1e-3), "50 µV over all leads together"
    gradient = rng.normal(size=data.x.shape)
    gained = (gradient * round_.step(gradient)).sum(axis=(1, 2))
    most = ball.radius * np.sqrt(((gradient * ball.scale[:, None]) ** 2).sum(axis=(1, 2)))  # by Cauchy and Schwarz
    assert gained == pytest.approx(most) and (round_.size(round_.random(rng)) <= ball.radius).all()
    part = ball.rows(np.array([3, 1]))
    assert (part.scale == ball.scale[[3, 1]]).all() and part.resized(2 * part.radius).reach[0, 0, 0] > part.reach[
        0, 0, 0
    ]


def test_square_moves_leads_apart():
    data = dataset().of_class("N")

    class Favour:  # rewards opposite signs in two leads
        classes, fs, shape, low_precision = CLASSES, FS, (SAMPLES, 3), False

        def logits(self, x):
            gain = (x[..., 0] - x[..., 2]).mean(axis=1)
            return np.stack([0 * gain + 9, gain, 0 * gain, 0 * gain], axis=1).astype(np.float32)

    posed = Threat("N", "V").on(data)
    found = attack_suite(replace(TINY, queries=150))["square"](Favour(), posed)
    gained = (found.x - data.x)[..., 0].mean() - (found.x - data.x)[..., 2].mean()
    assert gained > 0.25, "of 0.4 at most"


def test_standardised_again_over_all_leads_or_each():
    for standardise, together in (("lead", False), ("recording", True)):
        data = dataset(standardise=standardise)
        z = standardised(3 * data.x + 1, FS, together)[0]
        assert np.allclose(z, data.x, atol=1e-4)
        gradient, step = np.random.default_rng(0).normal(size=z.shape), 1e-3 * data.x[::-1]
        change = (standardised(data.x + step, FS, together)[0].astype(float) - z) * gradient
        assert change.sum() == pytest.approx((standardised(data.x, FS, together)[1](gradient) * step).sum(), rel=0.01)
        assert filtered(data.x, FS, together)[0].shape == data.x.shape


def test_noise_that_the_rate_or_the_length_cannot_hold_is_known():
    for fs, samples in ((100, 800), (50, 800), (125, 187), (360, 3600)):
        shape, rng = (samples, 2), np.random.default_rng(0)
        held = {name: possible_noise(name, samples, fs) for name in NOISE_BASELINES}
        assert held["random_sign"] and held["mains"] == (fs > 120) and held["baseline_wander"] == (samples / fs >= 2)
        for name, noise in NOISE_BASELINES.items():
            if held[name]:
                made = noise(shape, fs, rng)
                assert made.shape == shape and np.isfinite(made).all() and made.std() > 0
    posed = Threat("N", "V", 50, "µV").on(dataset(standardise="lead"))
    assert posed.ball.size(add_noise(posed, NOISE_BASELINES["emg"])) == pytest.approx(posed.ball.radius, rel=1e-4)


# ---- measures of several leads ----


def test_measures_of_several_leads():
    data = dataset()
    moved = data.x + (np.array([10, 20, 30]) / 1000 / data.sd_mv[:, None])[:, None] * np.sign(data.x)
    found = signals.measure_all(data, moved)
    assert np.allclose(found["largest_uv"], 30) and np.allclose(found["largest_uv_II"], 20)
    assert np.allclose(found["rms_uv"], np.sqrt((10**2 + 20**2 + 30**2) / 3), rtol=0.01)
    beside = signals.measure_all(data, data.x + np.array([1, 0, 1]))
    assert (beside["r_peaks_clean"] >= 6).all() and (beside["r_peak_f1"] == 1).all()


def test_r_peaks_are_left_out_and_named_where_there_are_none():
    short = np.random.default_rng(0).normal(size=(12, 200, 1))
    ramp = np.repeat(np.linspace(0, 1, SAMPLES)[None, :, None], 12, axis=0)
    for x in (short, ramp):
        without = dataset_from_arrays(x, 6 * [0, 1], unit="mV", fs=FS)
        assert "r_peak_f1" not in signals.measure_all(without, without.x + 0.1)
        assert signals.left_out(without)[0].startswith("R-peaks: not found in lead ECG")
    assert not signals.left_out(dataset())
    unknown = dataset(unit="z")
    assert not [name for name in signals.measure_all(unknown, unknown.x + 0.1) if "uv" in name]


# ---- evaluations ----


def test_the_cases_of_a_suite_follow_the_classes_and_the_threat():
    data = dataset()
    cases = threat_cases(TINY, Threat("V", "N"), data)
    assert list(cases) == ["to_S", "to_F", "untargeted", "equal_uv", "band", "l2", "ten_uv", "all_classes"]
    assert cases["to_S"].title == "V → S" and cases["to_S"].threat == Threat("V", "S")
    sd = np.median(data.of_class("V").sd_mv)
    assert cases["equal_uv"].threat.epsilon == pytest.approx(200 * sd, rel=0.05)
    assert list(threat_cases(TINY, Threat("", ""), data)) == ["equal_uv", "band", "l2", "ten_uv"]
    assert "equal_uv" not in threat_cases(TINY, Threat("V", "N", 34, "µV"), data)
    assert list(threat_cases(TINY, Threat("V", "N"), dataset(unit="z")))[-3:] == ["band", "l2", "all_classes"]
    assert attack_suite(TINY, 60)["pgd_band"].title == "PGD in 0.5–30 Hz"
    with pytest.raises(EcgnbError, match="L2 and a band are cases of it"):
        suite("quick", Threat("V", "N", norm="L2"), data)


@pytest.mark.parametrize(
    ("threat", "settings"),
    [
        (Threat("V", "N", 60, "µV"), {"standardise": "lead"}),
        (Threat("", "", 0.05), {"standardise": "none"}),
        (Threat("V", "N"), {"unit": "z"}),
    ],
)
def test_own_data_of_three_leads_is_evaluated_whole(model, monkeypatch, tmp_path, threat, settings):
    monkeypatch.setitem(suites.BUDGETS, "standard", TINY)
    data = dataset(**settings)
    report = evaluate(model, data, suite("standard", threat, data), surrogate=model, cache=tmp_path)
    assert report.about.data == data.source and report.classes == CLASSES
    n = 24 if not threat.attack_class else 6
    worst = report.conditions["worst_case"]
    assert worst.robust_recall["n"] == n and report.conditions["clean"].scores["accuracy"]["value"] == 1
    assert "mains" not in report.conditions and any("60 Hz mains: recordings of 8 s" in one for one in report.left_out)
    is_targeted = bool(threat.target)  # 12 recordings of the other two classes
    assert len(report.checks) == 17 + is_targeted and report.certification["curve"]["value"]
    assert ("no_label_leaking" in {check.name for check in report.checks}) == is_targeted
    assert any("label leaking" in one for one in report.left_out) != is_targeted
    if is_targeted:
        others, title = (
            np.isin(data.y, [CLASSES.index("S"), CLASSES.index("F")]),
            "PGD-20 on other classes, crafted on sines",
        )
        assert report.conditions["other_classes"].title == title
        posed = threat.on(data.take(others))
        expected = predicted_classes(suites.STUDY_ATTACK(model.classifier, posed).logits)
        assert (report.predicted("other_classes")[others] == expected).all()
        assert (report.predicted("other_classes")[~others] == report.predicted("clean")[~others]).all()
    is_z, is_raw = settings.get("unit") == "z", settings.get("standardise") == "none"
    assert bool(report.curve_uv) == bool(report.minimal_epsilon.get("uv")) == (not is_z)
    assert ("largest_uv_V1" in report.signals["pgd20"]) == (not is_z)
    assert bool(report.preprocessing) == (not is_z and not is_raw)
    save_examples(tmp_path / "e.npz", report, data)
    with np.load(tmp_path / "e.npz", allow_pickle=False) as file:
        saved = dict(file)
    assert saved["x"].shape == (n, SAMPLES, 3) and saved["fs"] == FS and saved["leads"].tolist() == list(LEADS)
    adversarial = saved["x"] + saved["worst_case_perturbation"]
    predicted = np.array(CLASSES)[model.classifier.logits(adversarial).argmax(axis=1)]
    assert (predicted == saved["worst_case_predicted"]).mean() > 0.9  # but for rounding
    if threat.unit == "µV":
        assert np.abs(saved["pgd20_perturbation_uv"]).max() == pytest.approx(60, rel=0.01)
    assert np.isnan(saved["pgd20_perturbation_uv"]).all() == is_z


def test_a_transfer_and_the_results_suite_take_any_threat(model):
    data, threat = dataset(), Threat("S", "F", 0.4)
    found = transfer([model, replace(model, name="same")], data, threat)
    assert found["threat"]["target"] == "F" and found["success"]["sines"]["same"]["n"] == 6
    report = evaluate(model, data, results_suite(threat, dataset=data))
    assert list(report.conditions) == ["clean", "pgd20", "pgd20_uv", "pgd20_all_classes", "random_sign"]


THREATS = {  # options -> words of the error, or the threat
    "": "say with --attack-class which of N, V, S, F is attacked, or '' for all",
    "--target N": "say with --attack-class which",
    "--attack-class Q": "attack_class='Q': expected N or V or S or F",
    "--attack-class V --target A": "target='A': expected N or V or S or F",
    "--attack-class V --target V": "target='V' is the attacked class itself",
    "--attack-class V --unit mV": "unit='mV': expected z or µV",
    "--attack-class V --epsilon much": "epsilon='much': expected a number",
    "--attack-class V": Threat("V", ""),
    "--attack-class V --target S --epsilon 40 --unit uV": Threat("V", "S", 40, "µV"),
}


@pytest.mark.parametrize("options", THREATS)
def test_options_say_what_is_attacked(options):
    parser = argparse.ArgumentParser()
    _add_threat(parser)
    given, expected = parser.parse_args(options.split()), THREATS[options]
    if isinstance(expected, Threat):
        assert _threat(given, dataset()) == expected
        return
    with pytest.raises(EcgnbError, match=re.escape(expected)):
        _threat(given, dataset())


COMMANDS = {  # options -> words of the error
    "": "no recording of class A, nothing to attack; say with --attack-class which of N, O",
    "--resample fast": "--resample='fast': expected a number > 0",
    "--leads II,V9": "ward.npz: has 0 leads 'V9', expected one; it has II",
    "--standardise often": "standardise='often': expected recording, lead",
    "--samples 1": "--samples='1': expected a whole number >= 2",
}


@pytest.mark.parametrize("options", COMMANDS)
def test_options_about_data_that_do_not_fit_are_told_in_one_line(tmp_path, capsys, options):
    x = np.random.default_rng(0).normal(size=(12, 9000, 1))
    np.savez(tmp_path / "ward.npz", x=x, y=np.array(6 * ["N", "O"]), fs=300, unit="mV", leads=["II"])
    command = ["evaluate", "baseline", "--data", str(tmp_path / "ward.npz"), "--out", str(tmp_path / "out")]
    assert main([*command, *options.split()]) == 2
    assert COMMANDS[options] in capsys.readouterr().err.splitlines()[-1]
