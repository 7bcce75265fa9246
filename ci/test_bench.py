"""The benchmark compares like with like, says so when it cannot, and its tables are made from its JSON."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict

import bench
import bench_sides
import keras
import numpy as np
import pytest
from bench_cluster import million
from conftest import ROOT, small_network
from keras import layers

from ecgnb.attacks import AttackResult
from ecgnb.files import write_json

FLOOR = {"gradient_flop": 2e9, "flop_per_second": {"float32": 1e11, "bfloat16": 2e11}}
SETTINGS = asdict(bench_sides.FULL) | {"epsilon": 0.2, "step_size": 0.02}


def side(seconds: float, success: list[int], **more) -> dict:
    cost = {"seconds": seconds, "processor_seconds": seconds, "memory_gib": 1.0, "gradients": 50}
    return cost | {"success": [bool(s) for s in success], "claimed": None} | more


@pytest.fixture
def numbers() -> dict:
    """What bench.json could hold."""
    pgd = {
        "ecgnb": side(2.0, [1, 1, 0]),
        "ecgnb_bfloat16": side(1.0, [1, 0, 0], claimed=[True, False, False]),
        "ecgnb_all_steps": side(3.0, [1, 0, 1]),
        "ecgnb_unverified": side(0.9, [1, 0, 0], claimed=[True, True, False]),
        "art": side(8.0, [1, 0, 0]),
        "cleverhans": side(4.0, [0, 0, 1]),
        "foolbox": {"error": "TypeError: no | such thing"},
    }
    curve = {
        "ecgnb": {"seconds": 3.0, "memory_gib": 1.0, "minimal_epsilon": [0.1, 0.304, None]},
        "grid": {"seconds": 3.3, "memory_gib": 1.0, "minimal_epsilon": [0.1, 0.3, None]},
    }
    cases = {"pgd": bench.compare("pgd", pgd, FLOOR), "curve": bench.compare("curve", curve, FLOOR)}
    settings = SETTINGS | {"largest": 1.0, "resolution": 0.005}
    about = bench.machine() | {"data": "made up", "runs": 1}
    return {"about": about, "settings": settings, "floor": FLOOR, "cases": cases}


def test_times_are_compared_only_where_as_much_is_found(numbers):
    pgd = numbers["cases"]["pgd"]
    assert pgd["art"]["ratio"] == 4 and pgd["art"]["missed"] == 0
    assert pgd["cleverhans"]["missed"] == 1
    assert "ratio" not in pgd["cleverhans"] and "ratio" not in pgd["foolbox"]
    assert pgd["art"]["floor_seconds"] == pytest.approx(1.0)
    assert pgd["ecgnb_bfloat16"]["floor_seconds"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("case", "ours", "other", "missed"),
    [
        ("pgd", {"success": [True, False]}, {"success": [False, True]}, 1),
        ("apgd", {"success": [True, False]}, {"success": [False, True]}, 0),
        ("apgd", {"success": [True, False]}, {"success": [True, True]}, 1),
        ("epoch", {"success": [True] * 148 + [False] * 2}, {"success": [True] * 150}, 0),
        ("epoch", {"success": [True] * 140 + [False] * 10}, {"success": [True] * 150}, 7),
        ("curve", {"minimal_epsilon": [0.3, None]}, {"minimal_epsilon": [0.29, 0.5]}, 2),
        ("curve", {"minimal_epsilon": [0.3, 0.5]}, {"minimal_epsilon": [0.3, None]}, 0),
        ("half", {"robust_accuracy": 0.5}, {"robust_accuracy": 0.58}, 0),
        ("half", {"robust_accuracy": 0.5}, {"robust_accuracy": 0.65}, 5),
        ("loading", {"recordings": 9, "total": 1.0}, {"recordings": 9, "total": 1.0}, 0),
        ("cluster", {"recordings": 9, "total": "a"}, {"recordings": 9, "total": "b"}, 1),
    ],
)
def test_recordings_in_which_ours_finds_less_are_counted(case, ours, other, missed):
    assert bench.missed(case, ours, other) == missed


def test_runs_are_summarised_by_median_time_and_largest_memory():
    runs = [side(s, [1]) | {"memory_gib": m} for s, m in ((3.0, 1.0), (1.0, 2.0), (2.0, 1.5))]
    assert bench.summarise(runs)["seconds"] == 2 and bench.summarise(runs)["memory_gib"] == 2
    assert bench.summarise([runs[0], {"error": "x"}]) == {"error": "x"}


def test_a_claim_that_does_not_hold_is_named(numbers):
    cases = numbers["cases"]
    assert bench.broken_claims({}) == []
    assert bench.broken_claims(cases) == ["pgd: 0.00 × cleverhans, claimed ≥ 1.5"]
    cases["pgd"]["art"] |= {"seconds": 6.0, "memory_gib": 0.9}
    lines = " ".join(bench.broken_claims(cases))
    assert "3.00 × art, claimed ≥ 3.5" in lines and "more memory than art" in lines
    slow = {"first": {"seconds": 5, "memory_gib": 0.5}, "later": {"seconds": 1.5, "memory_gib": 1}}
    assert bench.broken_claims({"loading": slow}) == ["loading, later: 1.50 seconds, claimed ≤ 1"]
    del cases["pgd"]["cleverhans"]
    assert "pgd: cleverhans cannot be compared" in bench.broken_claims(cases)


def test_tables_and_figure_are_made_from_the_json(numbers, tmp_path):
    write_json(tmp_path / "bench.json", numbers)
    table = bench.table(tmp_path)
    assert "| ART | 8 | 4 | 1 of 3 succeed | 1 | 1.00 |" in table
    assert "| Foolbox | fails | TypeError: no / such thing |" in table
    assert "none: the first misses 1" in table and "2 of 3, median ε 0.2" in table
    assert "gradients in bfloat16 change 1." in table and "claims 1 successes" in table
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1
    assert len(bench.bars(numbers).axes) == 2

    numbers["about"] |= {"processor": "another", "cores": 3}
    numbers["cases"]["pgd"]["art"]["seconds"] = 6.4
    write_json(tmp_path / "bench_other.json", numbers)
    head, _, *rows = bench.machines(tmp_path).splitlines()
    assert head.endswith("| another, 3 cores |")
    assert any("against ART | 3.5 | 4 | 3.2 |" in row for row in rows)
    assert any("against CleverHans | 1.5 | none: ours finds less |" in row for row in rows)
    assert not any("Epoch" in row for row in rows), "there is no such case here"
    assert len({row.count("|") for row in [head, *rows]}) == 1


def test_pages_hold_the_tables_of_what_was_measured():
    figures = ROOT / "figures"
    for page, table in (("SPEED", bench.table), ("SPEED", bench.machines), ("CLUSTER", million)):
        assert f"\n{table(figures)}\n" in (ROOT / "ci" / f"{page}.md").read_text("utf-8")


def test_arithmetic_is_counted_from_the_layers():
    inputs = keras.Input((100, 2))
    x = layers.Conv1D(3, 5, padding="same")(inputs)
    model = keras.Model(inputs, layers.Dense(4)(layers.Flatten()(layers.MaxPooling1D(2)(x))))
    assert bench_sides.forward_flop(model) == 2 * (100 * 5 * 2 * 3 + 150 * 4)


@pytest.fixture(scope="module")
def attacked(demo_train):
    keras.utils.set_random_seed(4)
    return small_network(), bench_sides.attack_problem(demo_train.of_class("A").x[:5])


@pytest.mark.parametrize(("package", "name"), [("keras", "notebook"), ("art", "art"), ("cleverhans", "cleverhans")])
@pytest.mark.slow
def test_the_other_sides_make_the_same_perturbations_as_ours(attacked, package, name):
    """Same loss, start, ε, step and steps: all but samples where a gradient is zero to rounding."""
    pytest.importorskip(package, reason="pip install .[bench]")
    _, sides = bench_sides.CASES["pgd"]
    ours, theirs = (sides[key](*attacked, 4)(4) for key in ("ecgnb_all_steps", name))
    assert isinstance(ours, AttackResult) and theirs.shape == ours.x.shape
    assert np.abs(ours.x - attacked[1].x).max() > 0.07
    assert np.mean(np.abs(ours.x - theirs) > 1e-5) < 0.01


def test_a_side_runs_in_its_own_process_and_one_that_fails_is_a_row(tmp_path):
    options = Namespace(data="demo", quick=True)
    loaded = bench.run("loading", "later", tmp_path, options)
    assert loaded["recordings"] > 100 and 0 < loaded["memory_gib"] < 1 and loaded["seconds"] > 0
    assert "no such side" in bench.run("loading", "no such side", tmp_path, options)["error"]
