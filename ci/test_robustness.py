"""Worst case, smallest ε, results kept on disk, and the whole evaluation on the demo set."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_attacks import _at_distance, problem, two_sided_model

from ecgnb import metrics
from ecgnb.__main__ import main
from ecgnb.attacks.search import AttackResult, pgd
from ecgnb.attacks.threats import Goal
from ecgnb.data import dataset as data
from ecgnb.evaluation.cache import cached
from ecgnb.evaluation import cache as store
from ecgnb.evaluation.suites import (
    BUDGETS,
    Attack,
    EvaluatedModel,
    cascade,
    control_suite,
    minimum,
    robustness_summary,
    run,
    strongest,
    suite,
    survival,
    transfer,
    worst_case,
)

W = np.random.default_rng(2).normal(size=9000).astype(np.float32)


@pytest.fixture(scope="module")
def lined_up():
    """A linear classifier, and recordings whose smallest ε is known: 0.05, 0.1, … times sum|w|."""
    x = np.random.default_rng(1).normal(size=(6, 9000, 1)).astype(np.float32)
    true = np.array([0.0, 0.05, 0.1, 0.333, 0.6, 2.0])
    away = -true * np.abs(W).sum() + np.array([1.0, 0, 0, 0, 0, 0])  # the first is turned already
    posed = np.concatenate([_at_distance(x[i : i + 1], W, away[i]) for i in range(6)])
    return two_sided_model(W), problem(posed, np.zeros(6, int), 1.0), true


def test_the_smallest_epsilon_is_the_known_one(lined_up):
    classifier, posed, true = lined_up
    found = minimum(classifier, posed, known=posed.x, resolution=0.005)
    assert found.radius[0] == 0 and np.isinf(found.radius[-1])
    assert (found.radius[:-1] >= true[:-1] - 1e-4).all()
    assert (found.radius[1:-1] <= true[1:-1] + 0.0051).all()
    reached = classifier.logits(found.x).argmax(axis=1) == 1
    assert reached.tolist() == [True] * 5 + [False]
    assert np.allclose(posed.ball.size(found.x)[:-1], found.radius[:-1])


def test_the_search_begins_with_what_other_attacks_found(lined_up):
    """A model that gives PGD no gradient: only what is known can be shrunk."""
    classifier, posed, true = lined_up

    class Flat:
        logits = staticmethod(classifier.logits)

        def loss_and_gradient(self, x, y, targets, loss=None):
            value, logits, gradient = classifier.loss_and_gradient(x, y, targets)
            return value, logits, 0 * gradient

    known = pgd(classifier, posed, steps=40).x
    blind = minimum(Flat(), posed, known=posed.x).radius
    assert blind[0] == 0 and np.isinf(blind[1:]).all()
    found = minimum(Flat(), posed, known=known).radius
    assert np.isfinite(found[:-1]).all() and (found[1:-1] >= true[1:-1] - 1e-4).all()
    assert (found[1:-1] <= true[1:-1] + 0.0051).all()


def test_where_the_whole_ball_misleads_the_search_tries_the_pass_band():
    """Half of the gradient's signs point nowhere; what is left within the band is the gradient of the model."""
    slow = np.sin(2 * np.pi * 5 * np.arange(9000) / 300).astype(np.float32)
    start = np.random.default_rng(1).normal(size=(2, 9000, 1)).astype(np.float32)
    posed = problem(_at_distance(start, slow, -0.2 * np.abs(slow).sum()), np.zeros(2, int), 1.0)
    classifier = two_sided_model(slow)

    class Misleading:
        logits = staticmethod(classifier.logits)

        def loss_and_gradient(self, x, y, targets, loss=None):
            value, logits, gradient = classifier.loss_and_gradient(x, y, targets)
            return value, logits, gradient + 100 * np.resize([1, -1], (9000, 1))

    assert np.isinf(minimum(Misleading(), posed, known=posed.x).radius).all()
    found = minimum(Misleading(), posed, known=posed.x, band=(0.5, 40.0))
    assert (found.radius >= 0.2).all() and (found.radius < 0.26).all()
    assert (classifier.logits(found.x).argmax(axis=1) == 1).all()


def test_the_curve_is_exact_and_starts_at_the_share_found_clean():
    radius = np.array([0.1, 0.3, 0.3, np.inf, 0.2])
    found = np.array([True, True, True, True, False])
    curve = survival(radius, found, 1.0)
    assert curve["epsilon"] == [0.0, 0.1, 0.3, 1.0]
    assert curve["value"] == [0.8, 0.6, 0.2, 0.2]
    assert all(
        lo <= v <= hi
        for lo, v, hi in zip(*(curve[k] for k in ("low", "value", "high")), strict=True)
    )


def test_the_summary_of_a_curve():
    rng = np.random.default_rng(0)
    radius, found = rng.uniform(0, 1, 400), np.ones(400, bool)
    of = robustness_summary(radius, found, 1.0)
    area, median = of["area under the curve"], of["median minimum ε"]
    assert area["value"] == pytest.approx(radius.mean())
    half = 1.96 * radius.std() / 400**0.5
    assert np.allclose(area["ci95"], [radius.mean() - half, radius.mean() + half], atol=0.004)
    assert abs(median["value"] - np.median(radius)) < 0.01
    assert median["ci95"][0] < median["value"] < median["ci95"][1]
    unturned = robustness_summary(np.full(9, np.inf), np.ones(9, bool), 1.0)
    assert unturned["median minimum ε"]["value"] is None
    assert unturned["area under the curve"]["value"] == 1


def result(logits) -> AttackResult:
    logits = np.array(logits, np.float32)
    n = len(logits)
    x = np.zeros((n, 9000, 1), np.float32)
    return AttackResult(x, logits, logits.argmax(axis=1) == 1, np.ones(n, int), np.zeros((1, n)))


def test_the_worst_case_is_taken_recording_by_recording():
    """Each of two attacks turns another half: together they turn all."""
    posed = problem(np.zeros((2, 9000, 1), np.float32), np.zeros(2, int), 0.1)
    one = result([[0, 3, 0, 0], [2, 0, 0, 0]])
    other = result([[2, 0, 0, 0], [0, 1, 0, 0]])
    worst = worst_case({"one": one, "other": other}, posed)
    assert worst.success.all() and worst.name.tolist() == ["one", "other"]


def test_results_are_made_once_and_never_taken_for_others(lined_up, tmp_path):
    classifier, posed, _ = lined_up
    calls = []

    def counted(*given, **settings):
        calls.append(settings)
        return pgd(*given, steps=settings["steps"])

    attacks = {"PGD": Attack(counted, {"steps": 2})}
    first = run(attacks, EvaluatedModel("one", classifier, "a"), posed, tmp_path)
    again = run(attacks, EvaluatedModel("one", classifier, "a"), posed, tmp_path)
    assert len(calls) == 1 and (first["PGD"].x == again["PGD"].x).all()
    run(attacks, EvaluatedModel("one", classifier, "b"), posed, tmp_path)  # other weights
    run(
        attacks,
        EvaluatedModel("one", classifier, "a"),
        posed.resized(posed.ball.radius / 2),
        tmp_path,
    )
    run(
        {"PGD": Attack(counted, {"steps": 3})},
        EvaluatedModel("one", classifier, "a"),
        posed,
        tmp_path,
    )
    assert len(calls) == 4


def test_a_cascade_spares_what_is_turned_and_finds_what_each_alone_would(lined_up, tmp_path):
    classifier, posed, true = lined_up
    seen = []

    def noted(classifier, problem, *, radius, seed):
        seen.append(len(problem))
        return pgd(classifier, problem.resized(np.full(len(problem), radius)), steps=20)

    attacks = {str(r): Attack(noted, {"radius": r}) for r in (0.07, 0.2, 0.4)}
    turned = cascade(attacks, EvaluatedModel("one", classifier, "a"), posed, tmp_path)
    assert turned.tolist() == (true < 0.4).tolist() and seen == [6, 4, 3]


def test_transfer_reads_every_makers_change_with_every_reader(lined_up, tmp_path):
    """A linear model, and its opposite, which reads both recordings as normal: it has none to lose."""
    classifier, posed, _ = lined_up
    posed = posed.rows(np.array([1, 2])).resized(np.full(2, 0.2))
    makers = [
        EvaluatedModel("one", classifier, "a"),
        EvaluatedModel("opposed", two_sided_model(-W), "b"),
    ]
    matrix = transfer(makers, posed, tmp_path)
    assert list(matrix) == list(matrix["one"]) == ["one", "opposed"]
    assert matrix["one"]["one"]["count"] == 2
    assert matrix["one"]["opposed"]["of"] == 0


def test_an_interrupted_result_leaves_nothing_behind(tmp_path):
    def fails():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, "x", {"a": 1}, fails)
    assert not list(tmp_path.iterdir())
    assert cached(tmp_path, "x", {"a": 1}, lambda: {"b": np.ones(2)})["b"].tolist() == [1, 1]


def test_a_result_of_other_code_is_not_taken(tmp_path, monkeypatch):
    made = iter(({"b": np.ones(1)}, {"b": np.zeros(1)}))
    for code, expected in (("old", 1), ("old", 1), ("new", 0)):
        monkeypatch.setattr(store, "code_digest", lambda code=code: code)
        assert cached(tmp_path, "x", {}, lambda: next(made))["b"] == expected


def test_the_codes_digest_sees_code_and_not_prose(tmp_path, monkeypatch):
    sources = {name: Path(store.__file__).with_name(f"{name}.py") for name in store.DECIDING}
    for name, source in sources.items():
        shutil.copy(source, tmp_path / f"{name}.py")
    monkeypatch.setattr(store, "__file__", str(tmp_path / "store.py"))
    digest = store.code_digest.__wrapped__
    losses = tmp_path / "losses.py"
    before, text = digest(), losses.read_text()
    losses.write_text("# A comment.\n" + text.replace('"""', '"""Otherwise: ', 1))
    assert digest() == before == store.code_digest()
    losses.write_text(text.replace("ops.where(t < 0", "ops.where(t <= 0", 1))
    assert digest() != before


def test_every_attack_and_control_of_every_budget_runs(lined_up):
    classifier, posed, _ = lined_up
    small = posed.rows(np.array([3])).resized(np.array([0.1]))
    for name, attack in (suite(BUDGETS["quick"]) | control_suite()).items():
        made = attack(classifier, small, seed=1, progress="")
        assert np.abs(small.ball.delta(made.x)).max() <= 0.1, name
    assert [list(suite(b)) for b in BUDGETS.values()] == 3 * [list(suite(BUDGETS["full"]))]
    untargeted = replace(small, goal=Goal(None))
    for name, attack in strongest(BUDGETS["quick"]).items():
        assert np.abs(untargeted.ball.delta(attack(classifier, untargeted).x)).max() <= 0.1, name


def test_paired_comparison_of_two_models():
    a = np.arange(100) < 60
    b = (np.arange(100) < 60) | (np.arange(100) >= 90)
    found = metrics.compare(a, b)
    assert found["value"] == pytest.approx(0.1) and (found["only a"], found["only b"]) == (0, 10)
    assert found["p"] == pytest.approx(2 * 0.5**10)
    assert found["ci95"][0] > 0.03 and found["ci95"][1] < 0.18
    assert metrics.compare(a, a)["p"] == 1


def test_holm_adjusts_for_several_tests():
    assert metrics.holm(np.array([0.04, 0.01, 0.03])).tolist() == pytest.approx([0.06, 0.03, 0.06])


def test_the_command_evaluates_a_model_and_resumes(tmp_path, monkeypatch, capsys):
    whole = data.load
    af_and_others = [0, 1, 2, 3, -1, -2]  # of the recordings, sorted by class

    def few(*what, **how):
        dataset = whole(*what, **how)
        return dataset.take(np.argsort(dataset.y, kind="stable")[af_and_others])

    monkeypatch.setattr(data, "load", few)
    command = ["evaluate", "baseline", "--data", "demo", "--out", str(tmp_path)]
    assert main(command) == 0
    path = tmp_path / "baseline-validation-quick.json"
    report, page = json.loads(path.read_text()), path.with_suffix(".html").read_text()
    assert report["about"]["data"] == "DEMO (SYNTHETIC)"
    assert "DEMO (SYNTHETIC)" in capsys.readouterr().out and "DEMO (SYNTHETIC)" in page
    assert {"clean", "attacks", "controls", "worst case", "checks", "signal"} <= set(report)
    assert len(report["recordings"]) == report["about"]["AF recordings"] == 4
    worst = report["worst case"]["success, of AF found clean"]["count"]
    singles = [o["success, of AF found clean"]["count"] for o in report["attacks"].values()]
    assert worst >= max(singles)
    assert "data:image/png;base64" in page and "http" not in page

    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()}
    before = path.read_bytes()
    assert main(command) == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()} == made
    assert path.read_bytes() == before
