"""Scores of a run, its card, plans and sweeps, and the tables that compare runs."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, small_network
from test_notebooks import FIGURES, papermill

from ecgnb import metrics
from ecgnb.errors import EcgnbError
from ecgnb.evaluation.cache import digest
from ecgnb.evaluation.old_evaluation import AF
from ecgnb.evaluation import old_scoring as scoring
from ecgnb.evaluation.workers import workers
from ecgnb.files import write_json
from ecgnb.models import network
from ecgnb.models.classifier import KerasClassifier
from ecgnb.report import card as cards
from ecgnb.report import comparison as comparisons
from ecgnb.training import configuration as configuration

HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2],
        "loss": [1.0, 0.9],
        "dev challenge score": [0.6, 0.5],
        "criterion": [0.6, 0.5],
    }
)


@pytest.fixture(scope="module")
def scored(demo_dev):
    """A small network's scores on a few recordings of each class, and the network."""
    keras.utils.set_random_seed(4)
    model = small_network()
    part = demo_dev.take(np.concatenate([np.flatnonzero(demo_dev.y == c)[:4] for c in range(4)]))
    classifier = KerasClassifier(model, 8)
    return scoring.score(classifier, part, "small", start=classifier, seed=1), model, part


def test_scores_are_those_of_the_readings(scored):
    found, model, part = scored
    y = scoring.classes(found["labels"])
    assert (y == part.y).all() and found["records"] == part.names.tolist()
    clean = scoring.classes(found["read as"]["nothing attacked"])
    assert (clean == np.asarray(model(part.x, training=False)).argmax(axis=1)).all()
    assert found["clean"] == metrics.scores(y, clean, 1)
    for attack, scores in found["attacked"].items():
        read = scoring.classes(found["read as"][attack])
        assert (read[y != AF] == clean[y != AF]).all()
        assert scores["AF recall"]["value"] == (read[y == AF] == AF).mean()
    assert set(found["attacked"]) == {*scoring.THREATS, scoring.STORED}
    # The model that training started from is this very model: stored is fresh.
    assert found["read as"][scoring.STORED] == found["read as"][comparisons.Z]
    everyone = scoring.classes(found["read as"][scoring.EVERY_CLASS])
    assert (everyone == y).sum() <= (clean == y).sum()


def test_a_tidy_row_is_a_score(scored):
    found = scored[0]
    table = pd.DataFrame(scoring.rows(found))
    assert not table.duplicated(["attack", "measure"]).any()
    one = table[(table["attack"] == "none") & (table["measure"] == "F1 N")].iloc[0]
    assert one["value"] == found["clean"]["F1 N"]["value"]
    assert [one["low"], one["high"]] == found["clean"]["F1 N"]["ci95"]


def test_a_paired_difference_is_that_of_the_scores_and_its_interval_covers_it():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 400)
    a, b = (np.where(rng.random(400) < p, y, rng.integers(0, 4, 400)) for p in (0.5, 0.8))

    def f1(counts):
        return metrics.f1_scores(counts)[..., 0]

    found = metrics.compare_scores(y, a, b, f1)
    values = [f1(metrics.confusion(y, read)) for read in (a, b)]
    assert found["value"] == pytest.approx(values[1] - values[0])
    assert found["ci95"][0] < found["value"] < found["ci95"][1] and found["p"] < 0.01
    turned = metrics.compare_scores(y, b, a, f1)
    assert turned["value"] == pytest.approx(-found["value"])
    same = metrics.compare_scores(y, a, a, f1)
    assert same == {"value": 0.0, "ci95": [0.0, 0.0], "p": 1.0}
    # Pairing counts: two readers who err on the same recordings differ by less than two who do not.
    nearly = a.copy()
    nearly[np.flatnonzero(a != y)[:5]] = y[np.flatnonzero(a != y)[:5]]
    alone = metrics.compare_scores(y, a, nearly, metrics.challenge_score)
    assert np.diff(alone["ci95"]) < np.diff(found["ci95"]) / 2


def made(name: str, scored, protocol: str = "leakfree", **config) -> dict:
    """A result with real scores of the small network, under any name."""
    found, model, _ = scored
    settings = {
        "defence": name,
        "select": "best",
        "seed": 2017,
        "epochs": 2,
        "dropout": 0.2,
    } | config
    settings["recordings"] = (
        f"DEMO (SYNTHETIC), train, labels v3, protocol {protocol}, 9 recordings"
    )
    return cards.result(name, settings, HISTORY, {"validation": found, "test": found}, model)


def test_a_card_says_what_was_kept_and_how_to_remake_it(scored):
    card = cards.card(made("trades", scored, beta=6.0), "/somewhere/first.keras", "make it")
    assert "| kept | epoch 1 of 2: the best on dev" in card
    assert "the weights of first |" in card and "/somewhere" not in card
    assert "```bash\nmake it\n```" in card and "beta 6.0" in card
    last = cards.card(made("static", scored, select="last"), "", "")
    assert "| kept | epoch 2 of 2: the last" in last and "random weights" in last


def test_the_results_table_puts_the_originals_figures_where_they_belong(scored):
    results = {"adaptive": made("adaptive", scored), "fast": made("fast", scored, "original")}
    table = comparisons.results_table(results, ("validation", "test"))
    assert table.index.tolist() == [
        ("adaptive", "leakfree", "validation"),
        ("adaptive", "leakfree", "test"),
        ("fast", "original", "validation"),
        ("fast", "original", "test"),
    ]
    assert table["F1 A, original"].tolist() == ["0.87", "—", "—", "—"]


def test_claims_are_tested_on_pairs(scored):
    results = {"a": made("static", scored), "b": made("static", scored)}
    clean, fresh = "nothing attacked", comparisons.Z
    claims = {
        "nothing": comparisons.Claim(("a", clean), ("b", clean), "F1 A", "up", "down"),
        "attacked": comparisons.Claim(("a", clean), ("b", fresh), "AF recall", "up", "down"),
        "not run": comparisons.Claim(("a", clean), ("c", clean), "F1 A", "up", "down"),
    }
    table = comparisons.paired(results, "validation", claims)
    assert list(table.index) == ["nothing", "attacked"]
    assert table.loc["nothing", "difference"] == "+0.00 [+0.00, +0.00]"
    before, after = (scored[0]["read as"][key] for key in (clean, fresh))
    y = scored[0]["labels"]
    shares = [
        np.mean([r == "A" for r, label in zip(read, y, strict=True) if label == "A"])
        for read in (before, after)
    ]
    assert table.loc["attacked", "difference"].startswith(f"{shares[1] - shares[0]:+.2f}")


def test_a_claim_means_more_or_less_only_where_it_is_shown():
    def read(af_found: int) -> dict:
        labels = "A" * 20 + "N" * 20
        found = "A" * af_found + "N" * (40 - af_found)
        return {"scores": {"test": {"labels": labels, "read as": {"clean": found}}}}

    results = {"few": read(4), "some": read(5), "many": read(18)}

    def so(before: str, after: str) -> str:
        claim = comparisons.Claim((before, "clean"), (after, "clean"), "AF recall", "up", "down")
        return comparisons.paired(results, "test", {"a claim": claim}).loc["a claim", "so"]

    assert so("few", "many") == "up"
    assert so("many", "few") == "down"
    assert so("few", "some") == "not shown"


def test_claims_of_leaky_models_are_not_judged_on_the_test_fold():
    runs = {run for claim in comparisons.FAIR.values() for run, _ in (claim.before, claim.after)}
    assert not any(run.startswith("original") for run in runs)
    assert {"static", "adaptive", "baseline"} <= runs


def test_notebook_6_compares_the_runs_of_any_folder(scored, tmp_path):
    """Real scores of the small network on the demo set stand in for every run."""
    results, out, plan = tmp_path / "results", tmp_path / "out", []
    for name in comparisons.PRESENTED:
        protocol, defence = (
            "original" if name.startswith("original") else "leakfree",
            name.split("-")[-1],
        )
        found = made(defence if defence in configuration.DEFENCES else "baseline", scored, protocol)
        if protocol == "original":
            del found["scores"]["test"]
        write_json(results / f"{name}.json", found)
        plan += [
            {"run": name, "defence": defence, "protocol": protocol, "seed": seed, "split": "test"}
            | {"start": "", "epochs": 1, "changes": ""}
            | row
            for row in scoring.rows(scored[0])
            for seed in (1, 2)
        ]
    pd.DataFrame(plan).to_csv(results / "runs.csv", index=False)
    dev = {"split": "dev", "value": 0.8, "seed": 1}
    pd.DataFrame(
        {"run": run, "changes": text, "measure": measure} | dev
        for run, text in (("reference", ""), ("dropout-0", "dropout=0"))
        for measure in ("challenge score", "F1 A")
    ).to_csv(results / "ablation.csv", index=False)
    done = papermill("06_results", tmp_path, RESULTS=results, OUT=out, HISTORIES="static adaptive")
    assert done.returncode == 0, done.stderr[-3000:]
    for figure in FIGURES["06_results"]:
        assert json.loads((out / f"{figure}.json").read_text())["data"] == "DEMO (SYNTHETIC)"
        assert (out / f"{figure}.png").stat().st_size > 10_000


def test_seeds_stand_side_by_side_and_single_runs_are_left_out():
    values = {("fast", 1): 0.5, ("fast", 2): 0.7, ("fast", 3): 0.6, ("static", 1): 0.4}
    shorter = {("static", 2): 0.9}
    table = pd.DataFrame(
        {
            **{"defence": d, "seed": s, "protocol": "leakfree", "split": "test"},
            **{"attack": "none", "measure": measure, "value": value},
            **{"start": None, "epochs": 4 if (d, s) in shorter else 20, "changes": None},
        }
        for (d, s), value in (values | shorter).items()
        for measure in ("F1 A", "challenge score")
    )
    found = comparisons.seeds(table, "test")
    assert list(found) == ["fast"] and found["fast"]["F1 A"] == {1: 0.5, 2: 0.7, 3: 0.6}
    complete = {d: {m: v for m, v in measures.items() if v} for d, measures in found.items()}
    row = comparisons.seeds_table(complete).loc[("fast", "F1 A")]
    assert row.to_dict() == {
        **{"seed 1": "0.50", "seed 2": "0.70", "seed 3": "0.60"},
        **{"mean": "0.60", "SD": "0.10"},
    }


def test_the_ablation_tells_what_a_change_is_worth_and_whether_it_was_taken_over():
    scores = {
        "r1": ("", 0.80),
        "r2": ("", 0.82),
        "a": ("dropout=0.5", 0.70),
        "b": ("noise=0", 0.83),
    }
    table = pd.DataFrame(
        {"run": run, "split": "dev", "changes": text or None, "measure": measure, "value": value}
        for run, (text, value) in scores.items()
        for measure in ("challenge score", "F1 A")
    )
    found = comparisons.ablation_table(table, {"dropout": 0.2, "noise": 0.0})
    assert found["less the reference"].tolist() == ["-0.010", "+0.010", "-0.110", "+0.020"]
    assert found.loc["dropout=0.5", "kept"] == "no" and found.loc["noise=0", "kept"] == "yes"


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*.keras")), ids=lambda p: p.stem)
def test_every_shipped_model_has_its_card_history_and_recipe(path):
    """And the card is that of these weights."""
    found = json.loads((ROOT / "figures" / "results" / f"{path.stem}.json").read_text())
    weights = network.load(path).get_weights()
    assert found["weights"]["sha256"] == digest(*(np.asarray(w) for w in weights))
    card = path.with_suffix(".md").read_text()
    assert found["weights"]["sha256"][:16] in card
    assert f"python -m ecgnb sweep models/runs.csv runs --only {path.stem}\n" in card
    assert all(line in card for line in cards.score_lines(found["scores"]))
    config = json.loads(path.with_suffix(".json").read_text())
    assert config == found["config"] and config["recordings"]
    assert len(pd.read_csv(path.with_suffix(".csv"))) == config["epochs"]
