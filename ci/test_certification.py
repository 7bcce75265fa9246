"""Certificates against closed forms and a linear classifier, whose true distances are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import beta, norm

from ecgnb.errors import EcgnbError
from ecgnb.evaluation import certification
from ecgnb.evaluation.certification import Certificates, certify
from ecgnb.report import evaluation_figures

SAMPLES = 40
SETTINGS = dict(sigma=0.5, n0=20, n=100, batch_size=200)


class Linear:
    """Logits [w·x, 0, -1, -1]: class 0 on one side of a plane, 1 on the other. Keeps what it was given."""

    classes = ("A", "N", "O", "~")

    def __init__(self):
        self.w = np.random.default_rng(0).normal(size=SAMPLES).astype(np.float32)
        self.batches: list[np.ndarray] = []

    def logits(self, x: np.ndarray) -> np.ndarray:
        self.batches.append(x)
        z = np.tile(np.float32([0, 0, -1, -1]), (len(x), 1))
        z[:, 0] = x[..., 0] @ self.w
        return z

    def distance(self, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """True L2 distance of each recording to the plane, moving real samples only."""
        return np.abs(x[..., 0] @ self.w) / np.linalg.norm(self.w * mask[..., 0], axis=1)


@pytest.fixture(scope="module")
def batch() -> tuple[np.ndarray, np.ndarray]:
    """Six recordings, the last two padded, at 0.05 to 1.2 from the plane on either side of it."""
    rng, w = np.random.default_rng(1), Linear().w
    mask = np.arange(SAMPLES)[None, :, None] < np.array([40] * 4 + [30, 10])[:, None, None]
    x = np.where(mask, rng.normal(size=mask.shape), 0)
    wanted = np.array([0.05, -0.3, 0.6, -0.9, 1.2, -0.5])
    real = w[None, :, None] * mask
    norms = np.linalg.norm(real, axis=1, keepdims=True)
    along = (x * real).sum(axis=1, keepdims=True) / norms
    x += (wanted[:, None, None] - along) * real / norms
    return x.astype(np.float32), mask


def same(one: Certificates, other: Certificates) -> bool:
    return all((a == b).all() for a, b in zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True))


def test_radii_equal_the_closed_form():
    count = np.array([60, 800, 999, 1000])
    lower = beta.ppf(0.001, count[1:], 1000 - count[1:] + 1)
    found = certification.certified_radius(count, 1000, 0.25, 0.001)
    assert found[0] == 0 and np.allclose(found[1:], 0.25 * norm.ppf(lower), rtol=1e-12)
    assert found[3] == pytest.approx(0.25 * norm.ppf(0.001 ** (1 / 1000)))
    assert certification.largest_radius(0.25, 1000) == found[3]


def test_it_abstains_exactly_where_the_bound_does_not_exceed_a_half():
    count = np.arange(101)
    bound = np.array([0, *beta.ppf(0.001, count[1:], 101 - count[1:])])
    found = certification.certified_radius(count, 100, 1.0, 0.001)
    assert ((found == 0) == (bound <= 0.5)).all() and (np.diff(found) >= 0).all()
    assert (found[:51] == 0).all() and found[-1] > 0


def test_abstention_is_minus_one_with_radius_zero(batch):
    x, mask = batch
    certificates = certify(Linear(), 0 * x, mask, **SETTINGS)
    assert (certificates.predicted == -1).all() and (certificates.radius == 0).all()
    assert (certificates.counts.sum(axis=1) == SETTINGS["n"]).all()


def test_the_draws_that_bound_a_class_do_not_choose_it(batch):
    """A model that says 2 in the first stage and 3 in the second: 3 is not certified."""
    answers = iter([2, 3])

    class Changing(Linear):
        def logits(self, x):
            return np.eye(4)[[next(answers)] * len(x)]

    found = certify(Changing(), *(a[:1] for a in batch), **SETTINGS)
    assert found.top == 2 and found.predicted == -1 and (found.counts == [0, 0, 0, 100]).all()


def test_certified_radii_approach_the_true_distance_and_never_exceed_it(batch):
    x, mask = batch
    truth = Linear().distance(x, mask)
    gaps = []
    for n in (100, 1000, 20_000):
        found = certify(Linear(), x, mask, sigma=0.5, n=n, batch_size=1000)
        assert (found.radius <= truth).all()
        gaps.append((truth - found.radius).max())
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 0.05
    assert (found.predicted == [0, 1, 0, 1, 0, 1]).all()


def test_batch_size_bounds_memory_and_changes_nothing(batch):
    expected = certify(Linear(), *batch, **SETTINGS)
    for size in (1, 7, 100):
        model = Linear()
        assert same(certify(model, *batch, **SETTINGS | {"batch_size": size}), expected)
        assert max(len(b) for b in model.batches) == size
    assert not same(certify(Linear(), *batch, **SETTINGS, seed=1), expected)


def test_noise_has_the_asked_size_and_spares_padding(batch):
    model, (x, mask) = Linear(), batch
    certify(model, x, mask, sigma=0.5, n0=1, n=2000, batch_size=2000)
    for i, given in enumerate(model.batches[1::2]):
        assert given.dtype == np.float32 and (given[:, ~mask[i]] == 0).all()
        noise = (given - x[i])[:, mask[i]]
        assert noise.std() == pytest.approx(0.5, rel=0.02) and abs(noise.mean()) < 0.02


def test_no_two_draws_share_their_noise(batch):
    model, (x, mask) = Linear(), batch
    certify(model, x[:4], mask[:4], sigma=0.5, n0=50, n=50)
    noise = np.concatenate([b - x[i // 4] for i, b in enumerate(model.batches)])
    assert len(np.unique(noise[:, 0, 0].round(5))) > 0.99 * len(noise) == 0.99 * 400


def test_recordings_may_be_counted_elsewhere(batch):
    """A mapper, such as a cluster's, gets a function and items, and returns a row for each."""
    calls = []

    def mapper(function, items):
        calls.append(len(items))
        return [function(item, Linear()) for item in items]

    assert same(certify(Linear(), *batch, **SETTINGS, mapper=mapper), certify(Linear(), *batch, **SETTINGS))
    assert calls == [len(batch[0])]


def test_bad_input_is_refused(batch):
    x, mask = batch
    with pytest.raises(EcgnbError, match="bool mask"):
        certify(Linear(), x, mask[:1], **SETTINGS)
    with pytest.raises(EcgnbError, match="finite"):
        certify(Linear(), x * np.float32("nan"), mask, **SETTINGS)
    with pytest.raises(EcgnbError, match="sigma=0"):
        certify(Linear(), x, mask, **SETTINGS | {"sigma": 0})


def test_certified_recall_counts_af_certified_as_af_and_never_rises():
    predicted, reach = np.array([0, 0, -1, 1, 0]), np.array([0.5, 1.0, 0.0, 2.0, 3.0])
    certificates = Certificates(predicted, reach, predicted, np.zeros((5, 4), int))
    y, radii = np.array([0, 0, 0, 0, 1]), np.array([0, 0.5, 0.6, 1.0, 1.1])
    curve = certification.certified_recall(certificates, y, 0, radii)
    assert curve["value"] == [0.5, 0.5, 0.25, 0.25, 0] and curve["radius"] == radii.tolist()
    for key in ("value", "low", "high"):
        assert (np.diff(curve[key]) <= 0).all()
    assert all(a <= b <= c for a, b, c in zip(curve["low"], curve["value"], curve["high"], strict=True))


def test_an_linf_ball_needs_a_far_larger_l2_ball():
    assert round(certification.l2_equivalent(0.2, 9000), 2) == 18.97
    lengths = np.array([9000, 2700])
    corner = np.full(2700, 0.2)
    assert np.linalg.norm(corner) == pytest.approx(certification.l2_equivalent(0.2, lengths)[1])


@pytest.mark.parametrize("subtitle", ["DEMO (SYNTHETIC), validation", "CinC 2017, validation"])
def test_the_figure_has_both_scales_and_the_mark_of_synthetic_data(subtitle):
    curve = {"radius": [0, 0.5, 1], "value": [0.9, 0.5, None], "low": [0.8, 0.4, None]}
    figure = evaluation_figures.certified_curve({"σ 0.5": curve | {"high": [1, 0.6, None]}}, subtitle)
    figure.draw_without_rendering()
    (top,) = figure.axes[0].child_axes
    assert np.allclose(top.get_xlim(), np.array(figure.axes[0].get_xlim()) / np.sqrt(9000))
    marked = "DEMO (SYNTHETIC)" in [t.get_text() for t in figure.texts]
    assert marked == subtitle.startswith("DEMO")
