"""Scores against scikit-learn, intervals against their coverage."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from ecgnb import metrics
from ecgnb.attacks.threats import Goal
from ecgnb.evaluation.old_evaluation import success_rates

labels = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=80)


@given(labels)
def test_f1_is_scikit_learns(pairs):
    y, predicted = np.array(pairs).T
    expected = f1_score(y, predicted, labels=range(4), average=None, zero_division=0)
    counts = metrics.confusion(y, predicted)
    assert np.allclose(metrics.f1_scores(counts), expected)
    assert np.isclose(metrics.challenge_score(counts), expected[:3].mean())
    assert np.isclose(metrics.four_class_mean(counts), expected.mean())


def test_the_originals_published_f1_follow_from_its_counts():
    def f1(tp, fn, fp):
        counts = np.zeros((4, 4), int)
        counts[0, 0], counts[0, 1], counts[1, 0] = tp, fn, fp
        return metrics.f1_scores(counts)[0]

    assert round(f1(29, 18, 3), 4) == 0.7342 and round(f1(5, 42, 3), 4) == 0.1818


def test_bootstrap_intervals_cover_the_truth_about_as_often_as_they_say():
    """200 data sets from a known classifier: its true F1 lies in the 95 % interval in most of them."""
    rng = np.random.default_rng(0)
    hit, n = 0.8, 300
    y_all = rng.integers(0, 4, 200_000)
    right = rng.random(y_all.size) < hit
    predicted_all = np.where(right, y_all, (y_all + rng.integers(1, 4, y_all.size)) % 4)
    truth = metrics.f1_scores(metrics.confusion(y_all, predicted_all))[0]
    covered = 0
    for i in range(200):
        rows = slice(i * n, (i + 1) * n)
        low, high = metrics.scores(y_all[rows], predicted_all[rows], seed=i)["F1 A"]["ci95"]
        covered += low <= truth <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_bootstrap_by_multinomial_is_resampling_of_recordings():
    rng = np.random.default_rng(1)
    y, predicted = rng.integers(0, 4, 150), rng.integers(0, 4, 150)
    draws = metrics.bootstrap_counts(y, predicted, draws=4000)
    by_hand = [metrics.confusion(y[i], predicted[i]) for i in rng.integers(0, 150, (4000, 150))]
    assert (draws.sum(axis=(1, 2)) == 150).all()
    one, other = (metrics.f1_scores(np.array(d))[:, 0] for d in (draws, by_hand))
    assert abs(one.mean() - other.mean()) < 0.005 and abs(one.std() - other.std()) < 0.005


def test_a_rate_of_zero_has_an_interval_and_its_denominator():
    found = metrics.rate(np.zeros(47, bool))
    assert found["value"] == 0 and found["of"] == 47 and 0.05 < found["ci95"][1] < 0.10
    assert metrics.rate(np.zeros(0, bool))["value"] is None


def test_success_names_its_denominator():
    y = np.array([0, 0, 0, 1])
    clean, attacked = np.array([0, 0, 2, 1]), np.array([1, 0, 1, 1])
    found = success_rates(y, clean, attacked, Goal(1))
    assert found["AF read as N under attack, of all AF"]["count"] == 2
    assert found["AF read as N under attack, of all AF"]["of"] == 3
    assert found["AF read as N under attack, of AF found clean"]["of"] == 2
    untargeted = success_rates(y, clean, attacked, Goal(None))
    assert untargeted["AF read as other than A under attack, of all AF"]["count"] == 2
