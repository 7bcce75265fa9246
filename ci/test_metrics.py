"""Scores against scikit-learn, intervals against their coverage."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from ecgnb import metrics
from ecgnb.attacks.threats import Threat
from ecgnb.constants import CLASSES
from ecgnb.errors import EcgnbError
from ecgnb.evaluation.schema import About, Condition, Report, as_json, from_json

labels = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=80)


@given(labels)
def test_f1_is_scikit_learns(pairs):
    y, predicted = np.array(pairs).T
    expected = f1_score(y, predicted, labels=range(4), average=None, zero_division=0)
    counts = metrics.confusion(y, predicted)
    assert np.allclose(metrics.f1_scores(counts), expected)
    assert np.isclose(metrics.challenge_score(counts), expected[:3].mean())
    assert np.isclose(metrics.macro_f1(counts), expected.mean())


def test_the_originals_published_f1_follow_from_its_counts():
    def f1(tp, fn, fp):
        counts = np.zeros((4, 4), int)
        counts[0, 0], counts[0, 1], counts[1, 0] = tp, fn, fp
        return metrics.f1_scores(counts)[0]

    assert round(f1(29, 18, 3), 4) == 0.7342 and round(f1(5, 42, 3), 4) == 0.1818


def contains(found: dict) -> bool:
    """Whether the interval of an estimate contains its value, or there is none."""
    (low, high), value = found["ci95"], found["value"]
    return (low is None and high is None) or low - 1e-9 <= value <= high + 1e-9


@pytest.mark.filterwarnings("error")
@given(labels, st.integers(0, 9))
@settings(max_examples=40)
def test_intervals_contain_their_value_or_are_none(pairs, seed):
    y, predicted = np.array(pairs).T
    found = metrics.scores(y, predicted, seed=seed)
    shares = [*found["recall"].values(), found["accuracy"], metrics.compare_rates(y == 0, predicted == 0, seed)]
    assert all(map(contains, [*shares, *found["f1"].values(), found["macro_f1"], found["challenge_score"]]))
    assert contains(metrics.compare_scores(y, predicted, y, metrics.challenge_score, seed))
    assert contains(metrics.compare_scores(y, predicted, y, metrics.recall, seed))


def test_an_interval_that_misses_its_value_is_none():
    assert metrics.interval(np.full(9, 0.3), 0.5) == metrics.interval(np.full(9, np.nan), 0.5) == [None, None]
    assert metrics.interval(np.array([0.2, np.nan, 0.4]), 0.3) == pytest.approx([0.205, 0.395])
    assert not metrics.has_interval({"ci95": [0.3, 0.3]}) and metrics.has_interval({"ci95": [0.3, None]})


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
        low, high = metrics.scores(y_all[rows], predicted_all[rows], seed=i)["f1"]["A"]["ci95"]
        covered += low <= truth <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_bootstrap_by_multinomial_is_resampling_of_recordings():
    rng = np.random.default_rng(1)
    y, predicted = rng.integers(0, 4, 150), rng.integers(0, 4, 150)
    draws = metrics.bootstrap_counts(metrics.confusion(y, predicted), draws=4000)
    by_hand = [metrics.confusion(y[i], predicted[i]) for i in rng.integers(0, 150, (4000, 150))]
    assert (draws.sum(axis=(1, 2)) == 150).all()
    one, other = (metrics.f1_scores(np.array(d))[:, 0] for d in (draws, by_hand))
    assert abs(one.mean() - other.mean()) < 0.005 and abs(one.std() - other.std()) < 0.005


def test_a_rate_of_zero_has_an_interval_and_its_denominator():
    found = metrics.rate(np.zeros(47, bool))
    assert found["value"] == 0 and found["n"] == 47 and 0.05 < found["ci95"][1] < 0.10
    assert metrics.rate(np.zeros(0, bool))["value"] is None


def report(**threats: tuple[Threat, str]) -> Report:
    """Three AF and one normal recording, of which the third AF is misclassified when clean."""

    def condition(title, kind, threat, predictions):
        y, predicted = (np.array([CLASSES.index(c) for c in s]) for s in ("AAAN", predictions))
        scores = metrics.scores(y, predicted)
        return Condition(title, kind, threat and asdict(threat), predictions, scores)

    conditions = {"clean": condition("clean", "clean", None, "AAON")}
    for name, (threat, predictions) in threats.items():
        conditions[name] = condition(name, "attack", threat, predictions)
    about = About("test", "test", "leakfree", "v3", 4, {"A": 3, "N": 1, "O": 0, "~": 0}, 0, "none")
    records = ["X1", "X2", "X3", "X4"]
    return Report(about, asdict(Threat()), CLASSES, records, "AAAN", conditions)


def test_success_has_two_denominators():
    """Of all AF two are predicted as normal; of the two correctly classified before, one."""
    found = report(pgd20=(Threat(), "NANN"))
    assert found.rate("pgd20", "A", "N")["count"] == 2
    assert found.rate("pgd20", "A", "N")["n"] == 3
    assert found.successes("pgd20").tolist() == [True, False, False, False]
    assert (found.predicted("clean") == found.y)[found.y == 0].sum() == 2


def test_success_depends_on_goal_and_attacked_class():
    found = report(
        untargeted=(Threat(target=""), "OANO"),
        to_normal=(Threat(target="N"), "OANO"),
        all_classes=(Threat(attack_class="", target=""), "OANO"),
    )
    assert found.successes("untargeted").tolist() == [True, False, False, False]
    assert not found.successes("to_normal").any()
    assert found.successes("all_classes").tolist() == [True, False, False, True]
    with pytest.raises(EcgnbError, match="clean"):
        found.successes("clean")


def test_a_report_survives_json_and_refuses_another_schema():
    found = report(pgd20=(Threat(), "NANN"))
    assert from_json(as_json(found)) == found
    assert list(found.of_kind("attack")) == ["pgd20"]
    with pytest.raises(ValueError, match="schema 0"):
        from_json(as_json(found) | {"schema": 0})
