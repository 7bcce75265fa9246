"""Plans and sweeps: many training runs, from a plan to one tidy table."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sweep
from conftest import ROOT

from ecgnb import metrics
from ecgnb.attacks import Threat
from ecgnb.constants import CLASSES
from ecgnb.errors import EcgnbError
from ecgnb.evaluation.schema import About, Condition, Report
from ecgnb.report.runs import RunResult, read_run, write_run
from ecgnb.training.configuration import TrainingConfig, overrides, training_config

PLAN = """name,DEFENCE,START,SEED,EPOCHS,DATA,SPLITS,OVERRIDES
one,baseline,,3,1,demo,none,batch_size=64
two,fast,one,3,1,demo,validation,per_class=6 steps=1
three,fast,baseline,4,1,demo,none,per_class=6
"""


@pytest.fixture
def plan(tmp_path) -> Path:
    path = tmp_path / "plan.csv"
    path.write_text(PLAN)
    return path


def test_a_plan_brings_what_a_run_starts_from(plan):
    assert list(sweep.read_plan(plan)) == ["one", "two", "three"]
    assert list(sweep.read_plan(plan, ["two"])) == ["one", "two"]
    assert list(sweep.read_plan(plan, ["three"])) == ["three"]
    assert sweep.read_plan(plan, ["one"])["one"] == {
        **{"DEFENCE": "baseline", "SEED": "3", "EPOCHS": "1", "DATA": "demo"},
        **{"SPLITS": "none", "OVERRIDES": "batch_size=64"},
    }


@pytest.mark.parametrize(
    ("text", "only", "message"),
    [
        (PLAN, ["four"], "no run four; it has one, two, three"),
        (PLAN + "one,fast,,1,1,,,\n", [], "a name of its own"),
        (PLAN.replace("fast,one", "fast,three"), [], "two starts from three; put that run above"),
        ("DEFENCE\nfast\n", [], "a name of its own"),
        *[(PLAN.replace("\none,", f"\n{name},"), [], "no path") for name in ("../x", "/tmp/x", "a/b", "..", "a\\b")],
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(text, only, message, plan, capsys):
    plan.write_text(text)
    command = [str(plan), str(plan.parent / "runs"), *(["--only", *only] if only else [])]
    assert sweep.main(command) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_plan_that_is_not_there_is_named(tmp_path, capsys):
    assert sweep.main([str(tmp_path / "nowhere.csv"), str(tmp_path)]) == 2
    assert "nowhere.csv: no plan to read" in capsys.readouterr().err


def configs(plan: str) -> dict[str, TrainingConfig]:
    """name -> configuration of the runs of a plan of the repository."""
    return {
        name: training_config(
            run["DEFENCE"], run.get("PROTOCOL", "leakfree"), epochs=run["EPOCHS"], **overrides(run.get("OVERRIDES", ""))
        )
        for name, run in sweep.read_plan(ROOT / "models" / f"{plan}.csv").items()
    }


@pytest.mark.parametrize("name", ["runs", "ablation", "long_runs", "sensitivity"])
def test_the_plans_of_the_repository_can_be_read(name):
    assert configs(name)


def test_long_runs_are_as_long_as_the_originals_and_differ_in_what_they_are_for():
    found = configs("long_runs")
    for defence in ("baseline", "static", "adaptive"):  # the original's recipe without its leak
        (name,) = (name for name in found if name.startswith(f"original-recipe-{defence}"))
        assert found[name] == training_config(defence, "original", epochs=found[name].epochs)
    assert replace(found["control-150"], defence="adaptive") == found["adaptive-150"]
    for name, config in found.items():
        if config.defence in ("static", "adaptive", "control"):
            assert config.epochs == (75 if config.defence == "static" else 150), name
    plan = sweep.read_plan(ROOT / "models" / "long_runs.csv")
    arms = {arm: [run for run in plan.values() if run.get("LEAK") == arm] for arm in ("with", "without")}
    assert [run["SEED"] for run in arms["with"]] == ["2017", "2018", "2019"]
    assert [run | {"LEAK": "without"} for run in arms["with"]] == arms["without"]


def test_the_sensitivity_plan_changes_one_reading_at_a_time():
    plan, found = sweep.read_plan(ROOT / "models" / "sensitivity.csv"), configs("sensitivity")
    for reference in ("original-static-75", "original-adaptive-150"):
        defence, readings = found[reference].defence, []
        assert found[reference] == training_config(defence, "original")
        for name, config in found.items():
            if config.defence == defence and name != reference:
                settings = asdict(found[reference])
                changed = [key for key, value in asdict(config).items() if value != settings[key]]
                changed += [key for key in ("START", "SEED", "PROTOCOL") if plan[name][key] != plan[reference][key]]
                readings += changed
                assert len(changed) == 1, name
        assert sorted(readings) == ["START", "class_counts", "redraw", "select", "statistics"]


def made_up_report() -> Report:
    """Four recordings, clean and under three conditions."""
    y = np.arange(4)
    threat = asdict(Threat())

    def condition(kind: str, predicted: str, **rates: metrics.Estimate) -> Condition:
        scores = metrics.scores(y, np.array([CLASSES.index(p) for p in predicted]))
        return Condition(kind, kind, threat if rates else None, predicted, scores, **rates)

    none, all_of_one = metrics.rate(np.array([False])), metrics.rate(np.array([True]))
    rates = {"robust_recall": none, "attack_success_rate": all_of_one}
    conditions = {
        "clean": condition("clean", "ANO~"),
        "pgd20": condition("attack", "NNO~", **rates),
        "random_sign": condition("noise", "AAO~"),
    }
    about = About("made up", "validation", "leakfree", "v3", 4, dict.fromkeys(CLASSES, 1), 1, "two")
    return Report(about, threat, CLASSES, list("abcd"), "ANO~", conditions)


def test_the_table_has_a_row_for_each_number_of_a_run(tmp_path):
    reports = {"validation": made_up_report()}
    selected = {"epoch": 1, "dev_f1_A": 0.5, "criterion": 0.5}
    write_run(tmp_path / "two" / "result.json", RunResult("two", {}, selected, selected, {}, reports))
    table = sweep.tidy({"two": {"DEFENCE": "fast", "SEED": "3"}}, tmp_path)
    assert not table.duplicated(["split", "condition", "measure"]).any()
    assert set(table["defence"]) == {"fast"} and set(table["seed"]) == {"3"}
    dev = table[table["split"] == "dev"]
    assert dev[["measure", "value"]].to_numpy().tolist() == [["f1_A", 0.5]]
    values = table.set_index(["condition", "measure"])["value"]
    assert values["clean", "recall_A"] == values["clean", "challenge_score"] == 1
    assert values["pgd20", "recall_A"] == values["pgd20", "robust_recall"] == 0
    assert values["pgd20", "correct_clean_and_attacked"] == 0 and ("clean", "correct_clean_and_attacked") not in values
    assert values["pgd20", "attack_success_rate"] == 1 and values["pgd20", "f1_O"] == 1
    assert values["random_sign", "noise_false_positive_rate"] == 1
    row = table[(table["condition"] == "clean") & (table["measure"] == "accuracy")].iloc[0]
    assert [row["low"], row["high"]] == reports["validation"].conditions["clean"].scores["accuracy"]["ci95"]


class Papermill:
    """Stands in for papermill: notes the calls, leaves a result; fails for the run it is told."""

    def __init__(self, failing: str = ""):
        self.calls: list[dict[str, str]] = []
        self.failing = failing

    def __call__(self, command, stdout, stderr, check):
        words = iter(command[command.index("-r") :])
        given = {next(words): next(words) for word in words if word == "-r"}
        self.calls.append(given)
        if given["NAME"] == self.failing:
            stdout.write("…\nValueError: it broke\n")
            return subprocess.CompletedProcess(command, 1)
        result = RunResult(given["NAME"], {}, {"epoch": 1, "dev_f1_A": 0.5}, {}, {}, {})
        write_run(Path(given["OUT"]) / "result.json", result)
        return subprocess.CompletedProcess(command, 0)


def test_a_sweep_runs_what_is_not_finished_and_hands_models_on(plan, tmp_path, monkeypatch):
    papermill = Papermill()
    monkeypatch.setattr(subprocess, "run", papermill)
    table = sweep.sweep(plan, tmp_path / "runs")
    calls = {given["NAME"]: given for given in papermill.calls}
    order = list(calls)
    assert set(calls) == {"one", "two", "three"} and order.index("one") < order.index("two")
    assert calls["two"]["START"] == str(tmp_path / "runs/one/models/one.keras")
    assert calls["three"]["START"] == "baseline" and "START" not in calls["one"]
    assert calls["one"]["REMAKE"] == f"python ci/sweep.py {plan} runs --only one"
    assert table["run"].tolist() == ["one", "two", "three"] and set(table["split"]) == {"dev"}
    assert table.equals(pd.read_csv(tmp_path / "runs" / "results.csv").astype(table.dtypes))
    sweep.sweep(plan, tmp_path / "runs")
    assert len(papermill.calls) == 3
    plan.write_text(PLAN.replace("fast,one,3", "fast,one,5"))
    sweep.sweep(plan, tmp_path / "runs")
    assert [given["NAME"] for given in papermill.calls[3:]] == ["two"]
    # Asked for one run, it still writes the table of all that are finished.
    assert set(sweep.sweep(plan, tmp_path / "runs", ["three"])["run"]) == {"one", "two", "three"}


def test_a_run_that_fails_is_named_and_the_others_go_on(plan, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", Papermill(failing="one"))
    with pytest.raises(EcgnbError, match="1 of 3 runs failed: one"):
        sweep.sweep(plan, tmp_path / "runs")
    assert "one: ValueError: it broke; see" in capsys.readouterr().err
    assert set(pd.read_csv(tmp_path / "runs" / "results.csv")["run"]) == {"two", "three"}


@pytest.mark.nightly
def test_the_command_on_a_card_remakes_the_committed_run(tmp_path):
    """A short run on the demo set, by a worker of Dask where there is Dask.

    The weights' norms are compared, since processors round differently: they were up to 0.4 % apart on two
    processors. Another seed moves one in ten by more than 5 %.
    """
    stored = read_run(ROOT / "figures" / "results" / "demo.json")
    command = (ROOT / "models" / "demo.md").read_text().split("```bash\n")[1].split("\n```")[0]
    words = command.replace(" runs ", f" {tmp_path} ").split()
    words += ["--cluster", "local:1"] if find_spec("distributed") else []
    subprocess.run([sys.executable, *words[1:]], cwd=ROOT, check=True, capture_output=True)
    made = read_run(tmp_path / "demo" / "result.json")
    norms = [one.weights["norms"] for one in (made, stored)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-2)
    assert np.isclose(*norms, rtol=1e-3, atol=0).mean() > 0.95  # nearly all are much closer
    assert {key: made.config[key] for key in stored.config} == stored.config  # a setting may be newer than the run
    scores = [one.reports["validation"].conditions["clean"].scores for one in (made, stored)]
    found, expected = (one["challenge_score"]["value"] for one in scores)
    assert found == pytest.approx(expected, abs=0.05)
    card = (tmp_path / "demo" / "card.md").read_text()
    assert command in card and "DEMO (SYNTHETIC)" in card and str(tmp_path) not in card
    table = pd.read_csv(tmp_path / "results.csv")
    assert set(table["split"]) == {"dev", "validation"}
    assert set(made.reports["validation"].conditions) == set(table["condition"].dropna())
