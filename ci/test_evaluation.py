"""The engine: minimal ε, stored results, worst case, one schema, and whole evaluations on the demo set."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import ROOT, small_network
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_attacks import _at_distance, problem, two_sided_model
from verify import disagreements

from ecgnb import metrics
from ecgnb.__main__ import main
from ecgnb.attacks import NOISE_BASELINES, AttackResult, Goal, Threat, noise_attack, pgd
from ecgnb.data import dataset as data
from ecgnb.errors import EcgnbError
from ecgnb.evaluation import cache as cache_module
from ecgnb.evaluation.cache import NUMBERS, cached, code_digest
from ecgnb.evaluation.checks import PASS, UNDECIDED, run_checks
from ecgnb.evaluation.engine import evaluate, transfer, worst_case
from ecgnb.evaluation.minimal import minimal_perturbation, robustness_curve, summarise
from ecgnb.evaluation.named import from_keras, named_model
from ecgnb.evaluation.run import EvaluatedModel, Execution, cascade, run_attacks
from ecgnb.evaluation.schema import as_json, from_json, read_report, write_report
from ecgnb.evaluation.suites import (
    BUDGETS,
    NOISE,
    Attack,
    Suite,
    attack_suite,
    pgd_attack,
    results_suite,
    strongest,
    suite,
)
from ecgnb.models.keras_classifier import KerasClassifier
from ecgnb.report import tables
from ecgnb.report.page import page
from ecgnb.report.runs import read_run

W = np.random.default_rng(2).normal(size=9000).astype(np.float32)


@pytest.fixture(scope="module")
def lined_up():
    """A linear classifier, and recordings whose minimal ε is known: 0.05, 0.1, … times sum|w|."""
    x = np.random.default_rng(1).normal(size=(6, 9000, 1)).astype(np.float32)
    true = np.array([0.0, 0.05, 0.1, 0.333, 0.6, 2.0])
    away = -true * np.abs(W).sum() + np.array([1.0, 0, 0, 0, 0, 0])  # the first is misclassified already
    posed = np.concatenate([_at_distance(x[i : i + 1], W, away[i]) for i in range(6)])
    return two_sided_model(W), problem(posed, np.zeros(6, int), 1.0), true


def test_the_minimal_epsilon_is_the_known_one(lined_up):
    classifier, posed, true = lined_up
    found = minimal_perturbation(classifier, posed, known=posed.x, resolution=0.005)
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
        logits, low_precision = staticmethod(classifier.logits), False
        classes, fs = classifier.classes, classifier.fs

        def loss_and_gradient(self, x, y, targets, loss):
            value, logits, gradient = classifier.loss_and_gradient(x, y, targets, loss)
            return value, logits, 0 * gradient

    known = pgd(classifier, posed, steps=40).x
    blind = minimal_perturbation(Flat(), posed, known=posed.x).radius
    assert blind[0] == 0 and np.isinf(blind[1:]).all()
    found = minimal_perturbation(Flat(), posed, known=known).radius
    assert np.isfinite(found[:-1]).all() and (found[1:-1] >= true[1:-1] - 1e-4).all()
    assert (found[1:-1] <= true[1:-1] + 0.0051).all()


def test_where_the_whole_ball_misleads_the_search_tries_the_pass_band():
    """Half of the gradient's signs point nowhere; what is left within the band is the gradient of the model."""
    slow = np.sin(2 * np.pi * 5 * np.arange(9000) / 300).astype(np.float32)
    start = np.random.default_rng(1).normal(size=(2, 9000, 1)).astype(np.float32)
    posed = problem(_at_distance(start, slow, -0.2 * np.abs(slow).sum()), np.zeros(2, int), 1.0)
    classifier = two_sided_model(slow)

    class Misleading:
        logits, low_precision = staticmethod(classifier.logits), False
        classes, fs = classifier.classes, classifier.fs

        def loss_and_gradient(self, x, y, targets, loss):
            value, logits, gradient = classifier.loss_and_gradient(x, y, targets, loss)
            return value, logits, gradient + 100 * np.resize([1, -1], (9000, 1))

    assert np.isinf(minimal_perturbation(Misleading(), posed, known=posed.x).radius).all()
    found = minimal_perturbation(Misleading(), posed, known=posed.x, band=(0.5, 40.0))
    assert (found.radius >= 0.2).all() and (found.radius < 0.26).all()
    assert (classifier.logits(found.x).argmax(axis=1) == 1).all()


def test_the_robustness_curve_steps_at_every_recording_and_starts_at_clean_recall():
    radius = np.array([0.1, 0.3, 0.3, np.inf, 0.2])
    is_correct = np.array([True, True, True, True, False])
    curve = robustness_curve(radius, is_correct, 1.0)
    assert curve["epsilon"] == [0.0, 0.1, 0.3, 1.0]
    assert curve["value"] == [0.8, 0.6, 0.2, 0.2]
    assert all(lo <= v <= hi for lo, v, hi in zip(*(curve[k] for k in ("low", "value", "high")), strict=True))


def test_the_summary_of_a_curve():
    rng = np.random.default_rng(0)
    radius, is_correct = rng.uniform(0, 1, 400), np.ones(400, bool)
    found = summarise(radius, is_correct, 1.0)
    area, median = found["area"], found["median"]
    assert area["value"] == pytest.approx(radius.mean())
    half = 1.96 * radius.std() / 400**0.5
    assert np.allclose(area["ci95"], [radius.mean() - half, radius.mean() + half], atol=0.004)
    assert abs(median["value"] - np.median(radius)) < 0.01
    assert median["ci95"][0] < median["value"] < median["ci95"][1]
    above = summarise(np.full(9, np.inf), np.ones(9, bool), 1.0)
    assert above["median"]["value"] is None and above["area"]["value"] == 1


@pytest.mark.filterwarnings("error")
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9, np.inf]), st.booleans()), min_size=1, max_size=30))
@settings(max_examples=40)
def test_a_summary_of_few_or_misclassified_recordings_has_no_false_interval(pairs):
    radius, is_correct = (np.array(column) for column in zip(*pairs, strict=True))
    assume(is_correct.any())
    median, area = summarise(radius, is_correct, 1.0).values()
    (low, high), value = ([1.1 if v is None else v for v in part] for part in (median["ci95"], [median["value"]]))
    given_one = median["ci95"] != [None, None]
    assert not given_one or (low <= value[0] <= high and is_correct.sum() >= metrics.FEWEST)
    assert area["ci95"][0] - 1e-9 <= area["value"] <= area["ci95"][1] + 1e-9


def result(logits) -> AttackResult:
    logits = np.array(logits, np.float32)
    n = len(logits)
    x = np.arange(n, dtype=np.float32)[:, None, None] + np.zeros((n, 9000, 1), np.float32)
    return AttackResult(x, logits, logits.argmax(axis=1) == 1, np.ones(n, int), np.zeros((1, n)))


def test_the_worst_case_is_taken_recording_by_recording():
    """Each of two attacks succeeds on another half: together they succeed on all."""
    posed = problem(np.zeros((2, 9000, 1), np.float32), np.zeros(2, int), 0.1)
    first = result([[0, 3, 0, 0], [2, 0, 0, 0]])
    second = result([[2, 0, 0, 0], [0, 1, 0, 0]])
    worst = worst_case({"first": first, "second": second}, posed)
    assert worst.predicted.tolist() == [1, 1] and worst.attack.tolist() == ["first", "second"]
    assert (worst.x[1] == second.x[1]).all()


def evaluated(classifier, digest: str = "a") -> EvaluatedModel:
    return EvaluatedModel("one", classifier, digest)


def test_results_are_made_once_and_never_taken_for_others(lined_up, tmp_path):
    classifier, posed, _ = lined_up
    calls = []

    def counted(*given, **settings):
        calls.append(settings)
        return pgd(*given, steps=settings["steps"])

    attack, how = Attack("PGD", counted, {"steps": 2}), Execution(tmp_path)
    first = run_attacks({"pgd": attack}, evaluated(classifier), posed, how)
    again = run_attacks({"pgd": attack}, evaluated(classifier), posed, how)
    assert len(calls) == 1 and (first["pgd"].x == again["pgd"].x).all()
    run_attacks({"pgd": attack}, evaluated(classifier, "other weights"), posed, how)
    smaller = posed.resized(posed.ball.radius / 2)
    run_attacks({"pgd": attack}, evaluated(classifier), smaller, how)
    run_attacks({"pgd": attack.with_settings(steps=3)}, evaluated(classifier), posed, how)
    assert len(calls) == 4


def test_a_cascade_spares_what_has_succeeded_and_finds_what_each_alone_would(lined_up, tmp_path):
    classifier, posed, true = lined_up
    sizes = []

    def noted(classifier, problem, *, radius, seed):
        sizes.append(len(problem))
        return pgd(classifier, problem.resized(np.full(len(problem), radius)), steps=20)

    attacks = {str(r): Attack("PGD", noted, {"radius": r}) for r in (0.07, 0.2, 0.4)}
    success, predicted = cascade(attacks, evaluated(classifier), posed, Execution(tmp_path))
    assert success.tolist() == (true < 0.4).tolist() and sizes == [6, 4, 3]
    assert predicted.tolist() == success.astype(int).tolist()


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
        monkeypatch.setattr(cache_module, "code_digest", lambda code=code: code)
        assert cached(tmp_path, "x", {}, lambda: next(made))["b"] == expected


def test_the_codes_digest_sees_code_and_not_prose(tmp_path, monkeypatch):
    numbers, package = code_digest(NUMBERS), tmp_path / "ecgnb"
    shutil.copytree(cache_module.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cache_module, "PACKAGE", package)
    digest = code_digest.__wrapped__
    losses = package / "attacks" / "losses.py"
    before, text = digest(), losses.read_text()
    losses.write_text("# A comment.\n" + text.replace('"""', '"""Otherwise: ', 1) + "import math\n")
    assert digest() == before == code_digest()
    losses.write_text(text.replace("ops.where(t < 0", "ops.where(t <= 0", 1))
    assert digest() != before and digest(NUMBERS) != numbers


def test_every_attack_and_noise_baseline_of_every_suite_runs(lined_up):
    classifier, posed, _ = lined_up
    small = posed.rows(np.array([3])).resized(np.array([0.1]))
    for name, attack in attack_suite(BUDGETS["quick"]).items():
        made = attack(classifier, small, seed=1)
        assert np.abs(small.ball.delta(made.x)).max() <= 0.1, name
    for name, noise in NOISE_BASELINES.items():
        made = noise_attack(classifier, small, noise=noise, seed=1)
        assert 0 < np.abs(small.ball.delta(made.x)).max() <= 0.1, name
    assert [list(attack_suite(b)) for b in BUDGETS.values()] == 3 * [list(attack_suite(BUDGETS["full"]))]
    full, standard = (suite(name).attacks for name in ("full", "standard"))
    assert full.keys() - standard.keys() == {"fab"} and list(standard) == list(attack_suite(BUDGETS["standard"]))
    known = posed.rows(np.array([1])).resized(np.array([0.051]))  # its minimal ε is 0.05
    assert full["fab"](classifier, known, seed=1).success.all()
    untargeted = replace(small, goal=Goal(None))
    for name, attack in strongest(BUDGETS["quick"]).items():
        assert np.abs(untargeted.ball.delta(attack(classifier, untargeted).x)).max() <= 0.1, name


def test_paired_comparison_of_two_models():
    a = np.arange(100) < 60
    b = (np.arange(100) < 60) | (np.arange(100) >= 90)
    found = metrics.compare_rates(a, b)
    assert found["value"] == pytest.approx(0.1) and (found["only_a"], found["only_b"]) == (0, 10)
    assert found["p"] == pytest.approx(2 * 0.5**10)
    assert found["ci95"][0] > 0.03 and found["ci95"][1] < 0.18
    assert metrics.compare_rates(a, a)["p"] == 1


def test_holm_adjusts_for_several_tests():
    assert metrics.holm(np.array([0.04, 0.01, 0.03])).tolist() == pytest.approx([0.06, 0.03, 0.06])


# ---- whole evaluations ----


@pytest.fixture(scope="module")
def subset(demo_dev) -> data.Dataset:
    """Four recordings of each class."""
    rows = [np.flatnonzero(demo_dev.y == c)[:4] for c in range(4)]
    return demo_dev.take(np.concatenate(rows))


@pytest.fixture(scope="module")
def small() -> EvaluatedModel:
    """A small network that predicts AF for many recordings, so that there is something to attack."""
    keras.utils.set_random_seed(1)
    model = small_network(dropout=0)
    *others, bias = model.get_weights()
    model.set_weights([*others, bias + np.float32([0.5, 0, 0, 0])])
    return from_keras(model, "small", 8)


TINY = Suite(
    "tiny",
    {"pgd20": pgd_attack(2), "fgsm": pgd_attack(1, 1.0)},
    Threat(epsilon=0.05),
    transferred={"transferred": pgd_attack(2)},
    cases=results_suite().cases,
    noise=NOISE,
    grid=(0.02, 0.05),
    minimal_steps=2,
    draws=5,
)


@pytest.fixture(scope="module")
def report(small, subset):
    return evaluate(small, subset, TINY, surrogate=small, seed=1)


def test_the_numbers_of_a_report_are_those_of_its_predictions(report, small, subset):
    assert (report.y == subset.y).all() and report.records == subset.names.tolist()
    clean = report.predicted("clean")
    assert (clean == small.classifier.logits(subset.x).argmax(axis=1)).all()
    is_af = subset.y == 0
    for name, condition in report.conditions.items():
        predicted = report.predicted(name)
        assert condition.scores == metrics.scores(subset.y, predicted, seed=1), name
        if condition.kind in ("attack", "transfer") and condition.threat["attack_class"]:
            assert (predicted[~is_af] == clean[~is_af]).all(), name
        if condition.threat:
            attacked = is_af if condition.threat["attack_class"] else np.ones(len(subset), bool)
            correct = (clean == subset.y) & attacked
            success = report.successes(name)
            assert condition.attack_success_rate["count"] == success.sum(), name
            assert condition.attack_success_rate["n"] == correct.sum(), name
            assert condition.robust_recall["count"] == (correct & ~success).sum(), name
            assert condition.robust_recall["n"] == attacked.sum(), name
    # The surrogate is this very model: transferred examples are white-box ones.
    assert report.conditions["transferred"].predictions == report.conditions["pgd20"].predictions
    everyone = report.conditions["pgd20_all_classes"].scores["accuracy"]["count"]
    assert everyone <= report.conditions["clean"].scores["accuracy"]["count"]
    successes = [report.successes(name).sum() for name in ("pgd20", "fgsm")]
    assert report.successes("worst_case").sum() >= max(successes)


def test_a_number_is_the_same_in_every_suite(report, small, subset):
    """Noise and random starts depend on the recording alone, not on what else is computed, or for whom."""
    alone = evaluate(small, subset.take(np.array([0, 5])), replace(TINY, cases={}), surrogate=small, seed=1)
    for name in ("pgd20", *NOISE):
        both = report.conditions[name].predictions
        assert alone.conditions[name].predictions == both[0] + both[5], name


def test_a_report_survives_its_file(report, tmp_path):
    path = tmp_path / "report.json"
    write_report(path, report)
    again = read_report(path)
    assert as_json(again) == json.loads(path.read_text())
    assert again.conditions == report.conditions and again.about == report.about
    assert not again.examples and report.examples

    def keys(value):
        if isinstance(value, dict):
            yield from value
            for inner in value.values():
                yield from keys(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from keys(inner)

    symbols = {"A", "N", "O", "~"}
    assert all(key.isidentifier() or key in symbols for key in keys(as_json(again)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stored: stored.update(schema=0), "schema 0, expected"),
        (lambda stored: stored.pop("labels"), "labels"),
        (lambda stored: stored["conditions"]["clean"].pop("predictions"), "predictions"),
        (lambda stored: stored.update(more=1), "more"),
    ],
)
def test_a_report_of_another_form_is_refused_with_the_remedy(report, tmp_path, change, message):
    stored, path = as_json(report), tmp_path / "report.json"
    stored = json.loads(json.dumps(stored, default=lambda array: array.tolist()))
    assert from_json(stored).records == report.records
    change(stored)
    path.write_text(json.dumps(stored))
    with pytest.raises(EcgnbError, match=rf"report\.json: .*{message}.*python -m ecgnb evaluate"):
        read_report(path)


def test_a_model_that_finds_no_af_is_not_given_a_verdict(small, subset):
    others = subset.take(subset.y != 0)
    with pytest.raises(EcgnbError, match="nothing to attack"):
        evaluate(small, others, suite("quick"), surrogate=small)


def test_a_network_that_finds_2_of_16_af_passes_no_check(small, tmp_path):
    af = data.load_data("validation", data="demo").of_class("A")
    model = keras.models.clone_model(small.classifier._arguments[0])
    *others, bias = small.classifier._arguments[0].get_weights()
    z = small.classifier.logits(af.x)
    margin = np.sort(z[:, 0] - z[:, 1:].max(axis=1))
    model.set_weights([*others, bias - np.float32([margin[-3:-1].mean(), 0, 0, 0])])
    few, how, quick = from_keras(model, "few", 8), Execution(tmp_path), suite("quick").attacks
    report = evaluate(few, af, Suite("tiny", {"pgd20": pgd_attack(2)}, minimal_steps=1))
    assert report.conditions["clean"].scores["recall"]["A"]["count"] == 2 and len(af) == 16
    posed = Threat().on(af.take(report.predicted("clean") == 0))
    found = run_checks(few, small, posed, quick, run_attacks(quick, few, posed, how), how)
    verdicts = {check.verdict for check in found}
    assert UNDECIDED in verdicts and PASS not in verdicts
    said = "undecided: too few correctly classified recordings (2 of 16) to conclude"
    assert tables.headline(replace(report, checks=found))["verdict"] == said
    assert report.minimal_epsilon["z"]["median"]["ci95"] == [None, None]
    assert ">Passed" not in page(replace(report, checks=found))


def test_classes_with_long_names_are_evaluated_and_written(subset, tmp_path):
    names = ("AFIB", "sinus rhythm", "other", "noise")
    keras.utils.set_random_seed(1)
    named = EvaluatedModel("own", KerasClassifier(small_network(dropout=0), 8, classes=names), "a")
    threat = Threat("AFIB", "sinus rhythm", 0.05)
    made = evaluate(named, replace(subset, classes=names), replace(TINY, threat=threat, cases={}), surrogate=named)
    write_report(tmp_path / "own.json", made)
    again = read_report(tmp_path / "own.json")
    assert again.labels[0] == "AFIB" and (again.predicted("pgd20") == made.predicted("pgd20")).all()
    assert "AFIB → sinus rhythm" in page(again)


def test_transfer_evaluates_every_models_examples_on_every_model(small, subset):
    """A network, and its opposite for two classes, which finds no AF: it has nothing to lose."""
    keras.utils.set_random_seed(5)
    model = small_network(dropout=0)
    *others, bias = model.get_weights()
    model.set_weights([*others, bias - np.float32([1e3, 0, 0, 0])])
    opposed = from_keras(model, "opposed", 8)
    found = transfer([small, opposed], subset)
    assert list(found["success"]) == list(found["success"]["small"]) == ["small", "opposed"]
    direct = evaluate(small, subset, Suite("one", {"pgd20": pgd_attack()}))
    assert found["success"]["small"]["small"] == direct.conditions["pgd20"].attack_success_rate
    assert found["success"]["small"]["opposed"]["n"] == 0


def test_the_command_evaluates_a_model_and_resumes(small, tmp_path, monkeypatch, capsys):
    whole = data.load_data
    af_and_others = [0, 1, 2, 3, -1, -2]  # of the recordings, sorted by class

    def few(*what, **how):
        dataset = whole(*what, **how)
        return dataset.take(np.argsort(dataset.y, kind="stable")[af_and_others])

    monkeypatch.setattr(data, "load_data", few)
    file = str(tmp_path / "small.keras")
    small.classifier._arguments[0].save(file)
    command = ["evaluate", file, "--surrogate", file, "--data", "demo", "--out", str(tmp_path)]
    assert main(command) == 0
    path = tmp_path / "small-validation-quick.json"
    report, html = read_report(path), path.with_suffix(".html").read_text()
    assert report.about.data == "DEMO (SYNTHETIC)" and report.about.suite == "quick"
    said = capsys.readouterr().out
    assert said.startswith("DEMO (SYNTHETIC)") and "DEMO (SYNTHETIC)" in html
    assert said.index("true class") < said.index("verdict: undecided: too few correctly classified recordings")
    assert not {"pass"} & {check.verdict for check in report.checks}
    assert "the check for label leaking" in said and "other_classes" not in report.conditions
    assert len(report.attacked) == report.about.class_counts["A"] == 4
    assert {"clean", "pgd20", "square", "worst_case", "emg", "emg_rms"} <= set(report.conditions)
    assert len(report.checks) == 17 and report.signals["pgd20"] and report.curves["attack"]
    assert "url(#paper)" in html and "evaluate " + file in html and "http" not in html

    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()}
    before = path.read_bytes()
    assert main(command) == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()} == made
    assert path.read_bytes() == before


# ---- stored reports ----

STORED = sorted((ROOT / "figures" / "evaluation").glob("*-*-*.json"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_report_belongs_to_this_code_and_to_the_shipped_model(path):
    """Its code made it, or has reproduced it: see ci/verify.py."""
    report = read_report(path)
    verified = json.loads((ROOT / "figures" / "verified.json").read_text())["code"]
    remedy = "the code that decides numbers has changed: bash ci/evaluate, or python ci/verify.py"
    assert code_digest(NUMBERS) in (report.about.code, verified), remedy
    assert named_model(report.about.model).digest == report.about.digest


@pytest.mark.real
@pytest.mark.parametrize("name", ["baseline", "fast"])
@pytest.mark.nightly
def test_scores_of_a_shipped_model_are_those_of_its_stored_report(name, validation):
    """Recomputed on the real recordings: clean, under the study's attack, and under noise."""
    stored = read_run(ROOT / "figures" / "results" / f"{name}.json").reports["validation"]
    assert not disagreements(stored, validation)


@pytest.mark.real
@pytest.mark.nightly
def test_the_comparison_with_stored_reports_can_fail(validation):
    stored = read_run(ROOT / "figures" / "results" / "baseline.json").reports["validation"]
    other = replace(stored, about=replace(stored.about, model="static"))
    assert disagreements(other, validation)
