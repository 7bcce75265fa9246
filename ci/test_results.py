"""Results of training runs: their file, their card, and the tables that compare them."""

from __future__ import annotations

import json
from dataclasses import replace

import controls
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from sklearn.metrics import roc_auc_score
from test_notebooks import FIGURES, papermill
from test_tables import LABELS, STUDY, made_condition, made_report

from ecgnb import metrics
from ecgnb.errors import EcgnbError
from ecgnb.files import array_digest
from ecgnb.report import comparison
from ecgnb.report.card import card
from ecgnb.report.comparison import Claim
from ecgnb.report.runs import RunResult, best_and_last, read_controls, read_run, read_runs, run_result, write_run
from ecgnb.report.tables import markdown
from ecgnb.training.configuration import DEFENCES

WEIGHTS = [np.arange(6.0).reshape(2, 3), np.ones(3)]
HISTORY = pd.DataFrame(
    {"epoch": [1, 2], "loss": [1.0, 0.9], "dev_challenge_score": [0.6, 0.5], "criterion": [0.6, 0.5]}
)


def made_run(
    name: str, defence: str = "static", protocol: str = "leakfree", reports: dict | None = None, **more
) -> RunResult:
    """A run with made-up reports of both splits."""
    config = {"defence": defence, "select": "best", "seed": 2017, "epochs": 2, "dropout": 0.2} | more
    config["recordings"] = f"DEMO (SYNTHETIC), train, labels v3, protocol {protocol}, 9 recordings"
    reports = reports or {split: made_report(name) for split in ("validation", "test")}
    return run_result(name, config, HISTORY, WEIGHTS, reports)


def test_a_result_is_read_as_it_was_written(tmp_path):
    made = made_run("static")
    write_run(tmp_path / "static.json", made)
    assert read_runs(tmp_path, ["static"]) == {"static": made}
    stored = json.loads((tmp_path / "static.json").read_text())
    assert list(stored)[:2] == ["schema", "name"] and stored["reports"]["test"]["schema"] == 1
    assert made.weights["norms"] == pytest.approx([np.sqrt(55), np.sqrt(3)])
    assert made.weights["sha256"] == array_digest(*WEIGHTS)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 0}', '{"schema": 1, "reports": {}}', '{"schema": 1}'])
def test_a_result_that_cannot_be_read_is_named_with_the_remedy(text, tmp_path):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(EcgnbError, match=r"mine\.json: cannot be read.*ci/sweep\.py"):
        read_run(tmp_path / "mine.json")


def test_the_selected_epoch_follows_the_rule():
    assert made_run("static").selected["epoch"] == 1
    assert made_run("static", select="last").selected["epoch"] == 2
    equal = HISTORY.assign(criterion=0.5)
    assert best_and_last(equal)["best"]["epoch"] == 2  # of equals the later one


def test_a_card_says_what_was_selected_and_how_to_make_it_again():
    text = card(made_run("trades", "trades", beta=6.0), "/somewhere/first.keras", "make it")
    assert "| selected epoch | 1 of 2: the best on dev" in text
    assert "the weights of first |" in text and "/somewhere" not in text
    assert "```bash\nmake it\n```" in text and "beta 6.0" in text
    assert "| robust recall, PGD-20 | 0.40 [0.22, 0.61] | 0.40 [0.22, 0.61] |" in text
    assert "validation (65 recordings, 20 AF)" in text
    last = card(made_run("static", select="last"), "", "")
    assert "| selected epoch | 2 of 2: the last" in last and "random weights" in last


def test_the_results_table_has_a_dash_for_what_an_archived_run_lacks():
    archived = made_report()
    del archived.conditions["random_sign"]
    results = {"archived": made_run("archived", reports={"validation": archived}), "static": made_run("static")}
    table = comparison.results_table(results, "validation")
    assert table["normal as AF, noise"].tolist() == ["—", "0.10 [0.03, 0.26]"]
    assert comparison.results_table(results, "test").index.tolist() == ["static"]
    assert list(table) == ["epochs", *comparison.MEASURES] and table["epochs"].tolist() == ["1 of 2"] * 2


def test_what_the_attack_itself_makes_af_is_not_robust():
    """Of the first four AF, two are correct when clean. The attack makes one of them O, and one of the others AF."""
    clean = "AANN" + LABELS[4:]
    report = made_report(clean=clean)
    condition = made_condition(clean, "AOAN" + LABELS[4:], "PGD-20", "attack", STUDY)
    report.conditions["pgd20"] = condition
    found = {title: comparison.measure(report, *which) for title, which in comparison.ATTACKED.items()}
    assert condition.scores["recall"]["A"]["count"] == 18
    assert found[comparison.BOTH]["count"] == 17 and found[comparison.BOTH]["n"] == 20
    assert found["robust recall, PGD-20"]["count"] == 18  # class O is not what the attack aims at


def test_the_originals_figures_stand_where_they_belong():
    results = {"static": made_run("static"), "original-static": made_run("x", "static", "original")}
    recomputed = made_report(left=12)
    results["original-static-recomputed"] = made_run("x", reports={"validation": recomputed})
    table = comparison.original_table(results)
    assert table.loc[("static", "transferred PGD-20"), "published"] == "0.91"
    assert table.loc[("adaptive", "clean")].tolist() == ["0.87", "—", "—"]
    ours = table.loc[("static", "white-box PGD-20")]
    assert [text[:4] for text in ours] == ["—", "0.57", "0.75"]


def test_only_what_is_made_later_may_be_absent(tmp_path):
    assert not any(name.endswith("-recomputed") for name in comparison.presented(tmp_path))
    (tmp_path / "original-static-recomputed.json").touch()
    assert set(comparison.PRESENTED) - set(comparison.presented(tmp_path)) == {
        "original-baseline-recomputed",
        "original-adaptive-recomputed",
    }


def test_a_paired_difference_is_that_of_the_scores_and_its_interval_covers_it():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 400)
    a, b = (np.where(rng.random(400) < p, y, rng.integers(0, 4, 400)) for p in (0.5, 0.8))

    def f1(counts):
        return metrics.f1_scores(counts)[..., 0]

    found = metrics.compare_scores(y, a, b, f1)
    values = [f1(metrics.confusion(y, predicted)) for predicted in (a, b)]
    assert found["value"] == pytest.approx(values[1] - values[0])
    assert found["ci95"][0] < found["value"] < found["ci95"][1] and found["p"] < 0.01
    backwards = metrics.compare_scores(y, b, a, f1)
    assert backwards["value"] == pytest.approx(-found["value"])
    same = metrics.compare_scores(y, a, a, f1)
    assert same == {"value": 0.0, "ci95": [0.0, 0.0], "p": 1.0}
    # Two models that err on the same recordings have a narrower interval than two that do not.
    nearly = a.copy()
    nearly[np.flatnonzero(a != y)[:5]] = y[np.flatnonzero(a != y)[:5]]
    alone = metrics.compare_scores(y, a, nearly, metrics.challenge_score)
    assert np.diff(alone["ci95"]) < np.diff(found["ci95"]) / 2


def test_claims_are_tested_on_pairs():
    results = {"a": made_run("a"), "b": made_run("b")}
    claims = [
        Claim(("a", "clean"), ("b", "clean"), "AF F1"),
        Claim(("a", "clean"), ("b", "pgd20"), comparison.BOTH),
        Claim(("a", "clean"), ("not run", "clean"), "AF F1"),
        Claim(("a", "clean"), ("a", "not computed"), "AF F1"),
    ]
    table = comparison.claims_table(results, "validation", claims)
    assert table.index.tolist() == [("b − a, clean", "AF F1"), ("b − a, clean", comparison.BOTH)]
    same, attacked = table.iloc[0], table.iloc[1]
    assert same.tolist() == ["2, 2", "+0.00 [—]", "1", "1", "no difference shown"]
    assert attacked["difference"].startswith("-0.60")
    # A bootstrap of 2,000 draws shows no smaller p than 0.001; two tests double it.
    assert attacked.tolist()[2:] == ["≤ 0.001", "≤ 0.002", "lower"]


def test_a_difference_has_a_direction_only_where_it_is_shown():
    def run(af_found: int) -> RunResult:
        predicted = "A" * af_found + "N" * (20 - af_found) + LABELS[20:]
        return made_run("one", reports={"test": made_report(clean=predicted)})

    results = {"few": run(4), "some": run(5), "many": run(18)}

    def verdict(before: str, after: str) -> str:
        claim = Claim((before, "clean"), (after, "clean"), comparison.BOTH)
        return comparison.claims_table(results, "test", [claim])["verdict"].item()

    assert verdict("few", "many") == "higher"
    assert verdict("many", "few") == "lower"
    assert verdict("few", "some") == "no difference shown"


def test_claims_on_leaky_runs_are_not_tested_on_the_test_fold():
    runs = {run for claim in comparison.CLAIMS for run, _ in (claim.before, claim.after)}
    results = {
        name: made_run(name, protocol="original" if name.startswith("original") else "leakfree") for name in runs
    }
    assert len(comparison.claims_table(results, "validation")) == len(comparison.CLAIMS)
    tested = comparison.claims_table(results, "test").index.get_level_values("comparison")
    assert len(tested) == 3 and not any("original" in name for name in tested)


@pytest.mark.nightly
def test_notebook_6_compares_the_runs_of_any_folder(tmp_path):
    """Made-up reports stand in for every run."""
    results, out, rows = tmp_path / "results", tmp_path / "out", []
    for name in comparison.PRESENTED:
        protocol = "original" if name.startswith("original") else "leakfree"
        defence = name.removeprefix("original-")
        defence = defence if defence in DEFENCES else "baseline"
        report = made_report(name)
        report = replace(report, about=replace(report.about, data="DEMO (SYNTHETIC)"))
        splits = ("validation",) if protocol == "original" else ("validation", "test")
        write_run(results / f"{name}.json", made_run(name, defence, protocol, reports=dict.fromkeys(splits, report)))
        rows += [
            {"run": name, "defence": defence, "protocol": protocol, "seed": seed, "split": "test"}
            | {"start": "", "epochs": 1, "overrides": "", "condition": condition, "measure": measure}
            | {"value": comparison.measure(report, condition, measure)["value"]}
            for condition, measure in comparison.MEASURES.values()
            for seed in (1, 2)
        ]
    pd.DataFrame(rows).to_csv(results / "runs.csv", index=False)
    dev = {"split": "dev", "value": 0.8, "seed": 1}
    pd.DataFrame(
        {"run": run, "overrides": text, "measure": measure} | dev
        for run, text in (("reference", ""), ("dropout-0", "dropout=0"))
        for measure in ("challenge_score", "f1_A")
    ).to_csv(results / "ablation.csv", index=False)
    done = papermill("06_results", tmp_path, RESULTS=results, OUT=out, HISTORIES="static adaptive")
    assert done.returncode == 0, done.stderr[-3000:]
    for figure in FIGURES["06_results"]:
        assert (out / f"{figure}.json").exists()
        assert (out / f"{figure}.png").stat().st_size > 10_000


def test_seeds_stand_side_by_side_and_single_runs_are_left_out():
    values = {("fast", 1): 0.5, ("fast", 2): 0.7, ("fast", 3): 0.6, ("static", 1): 0.4}
    shorter = {("static", 2): 0.9}
    table = pd.DataFrame(
        {
            **{"defence": d, "seed": s, "protocol": "leakfree", "split": "test"},
            **{"condition": condition, "measure": measure, "value": value},
            **{"start": None, "epochs": 4 if (d, s) in shorter else 20, "overrides": None},
        }
        for (d, s), value in (values | shorter).items()
        for condition, measure in (
            ("clean", "f1_A"),
            ("clean", "challenge_score"),
            ("random_sign", "noise_false_positive_rate"),
        )
        if condition == "clean" or s == 1  # the weights of the others are gone
    )
    found = comparison.seeds(table, "test")
    assert list(found) == ["fast"] and list(found["fast"]) == ["AF F1", "challenge score"]
    assert found["fast"]["AF F1"] == {1: 0.5, 2: 0.7, 3: 0.6}
    row = comparison.seeds_table(found).loc[("fast", "AF F1")]
    assert row.to_dict() == {**{"seed 1": "0.50", "seed 2": "0.70", "seed 3": "0.60"}, **{"mean": "0.60", "SD": "0.10"}}


def test_the_ablation_tells_what_a_change_does_and_whether_it_was_adopted():
    scores = {
        "r1": ("", 0.80),
        "a": ("dropout=0.5", 0.70),
        "r2": ("", 0.82),
        "b": ("noise=0", 0.825),
        "c": ("averaging=0.999", 0.84),  # a setting that training no longer has
    }
    table = pd.DataFrame(
        {"run": run, "split": "dev", "overrides": text or None, "measure": measure, "value": value}
        for run, (text, value) in scores.items()
        for measure in ("challenge_score", "f1_A")
    )
    found = comparison.ablation_table(table, {"dropout": 0.2, "noise": 0.0})
    assert found["difference"].tolist() == ["-0.010", "+0.010", "-0.110", "+0.015", "+0.030"]
    # The references differ by 0.02.
    assert found["verdict"].tolist() == ["no difference shown"] * 2 + ["lower", "no difference shown", "higher"]
    assert found["adopted"].tolist() == ["yes", "yes", "no", "yes", "no"]
    assert found.index[0] == "reference, run 1"


def made_controls(clean: list[bool], attacked: list[bool]) -> dict:
    one, other = np.array(clean), np.array(attacked)
    rates = {"clean": metrics.rate(one), "attacked": metrics.rate(other)}
    share = metrics.rate(one)
    return {"other_as_af": rates, "difference": metrics.compare_rates(one, other)} | {
        "auroc": {"value": 0.9, "ci95": [0.8, 1.0]},
        "recall_at_specificity": share,
    }


def test_the_controls_show_counts_and_a_paired_test():
    few, many = [True] * 2 + [False] * 18, [False, True] + [True] * 12 + [False] * 6
    table = comparison.controls_table({"baseline": made_controls(few, few), "static": made_controls(few, many)})
    row = table.loc["static"].tolist()
    assert row[:2] == ["2 of 20", "13 of 20"] and row[2].startswith("+0.55 [")
    assert float(row[3]) == pytest.approx(2 * 2 * 14 / 2**13, rel=0.05)  # 12 against 1; two rows
    assert table.loc["baseline"].tolist()[2:4] == ["+0.00 [—]", "1"]


def test_memorising_is_a_difference_between_training_and_held_out_recordings():
    share = {name: metrics.rate(np.arange(104) < n) for name, n in (("clean", 98), ("transferred", 102), ("pgd20", 63))}
    held_out = share | {"clean": metrics.rate(np.arange(104) < 89)}
    table = comparison.memorising_table({"train": share, "test": held_out})
    assert table.loc["recordings of its training", "transferred PGD-20"].endswith("(102 of 104)")
    assert table.loc["difference", "clean"] == "+0.09 [+0.00, +0.17]"
    assert table.loc["difference", "white-box PGD-20"].startswith("+0.00 [-")


def test_controls_that_cannot_be_read_are_named_with_the_remedy(tmp_path):
    assert read_controls(tmp_path) == {}
    (tmp_path / "controls.json").write_text("{")
    with pytest.raises(EcgnbError, match=r"controls\.json: cannot be read.*ci/controls\.py"):
        read_controls(tmp_path)


def test_the_stored_controls_are_those_of_the_shipped_models():
    folder = ROOT / "figures" / "results"
    stored = read_controls(folder)
    shipped = {path.stem for path in (ROOT / "models").glob("*.keras")}
    assert shipped <= set(stored["validation"]["models"])
    for split in ("validation", "test"):
        for name, found in stored[split]["models"].items():
            report = read_run(folder / f"{name}.json").reports[split]
            assert found["digest"] == report.about.digest, name
            clean, counted = found["other_as_af"]["clean"], report.rate("clean", "O", "A")
            assert clean["n"] == counted["n"] and abs(clean["count"] - counted["count"]) <= 1, name
    assert stored["memorising"]["about"]["digest"] == stored["test"]["models"]["static"]["digest"]


def test_the_area_under_the_roc_curve_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    is_af = rng.random(80) < 0.3
    score = np.round(rng.normal(size=80) + is_af, 1)  # with ties
    found = controls.auroc(is_af, score)
    assert found["value"] == pytest.approx(roc_auc_score(is_af, score))
    assert found["ci95"][0] < found["value"] < found["ci95"][1]


def test_recall_at_a_specificity_counts_af_above_as_many_false_positives():
    is_af = np.array([True, True, True, False, False, False])
    score = np.array([0.9, 0.5, 0.2, 0.8, 0.4, 0.1])
    assert [controls.recall_at(is_af, score, most)["count"] for most in (0, 1, 2)] == [1, 2, 3]


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*.keras")), ids=lambda p: p.stem)
def test_every_shipped_model_has_its_card_history_and_configuration(path):
    """And the card is that of these weights."""
    from ecgnb.models.files import load_model

    found = read_run(ROOT / "figures" / "results" / f"{path.stem}.json")
    weights = load_model(path).get_weights()
    assert found.weights["sha256"] == array_digest(*(np.asarray(w) for w in weights))
    text = path.with_suffix(".md").read_text()
    assert found.weights["sha256"][:16] in text
    assert f"python ci/sweep.py models/runs.csv runs --only {path.stem}\n" in text
    assert markdown(comparison.score_table(found.reports)) in text
    config = json.loads(path.with_suffix(".json").read_text())
    assert config == found.config and config["recordings"]
    assert len(pd.read_csv(path.with_suffix(".csv"))) == config["epochs"]
