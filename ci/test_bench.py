"""The benchmark compares like with like, says so when it cannot, and its table is made from its JSON."""

from __future__ import annotations

from argparse import Namespace

import bench
import bench_sides
import keras
import numpy as np
import pytest
from conftest import ROOT, small_network
from keras import layers
from update_readme import with_tables

from ecgnb.attacks.search import AttackResult
from ecgnb.files import write_json

FLOOR = {"FLOP a gradient": 2e9, "FLOP a second": {"float32": 1e11, "bfloat16": 2e11}}


def side(seconds: float, turned: list[int], **more) -> dict:
    cost = {"seconds": seconds, "processor seconds": seconds, "GiB": 1.0, "gradients": 50}
    return cost | {"turned": [bool(t) for t in turned], "claimed": None} | more


def made_up() -> dict:
    """What bench.json could hold."""
    ours, theirs = side(2.0, [1, 1, 0]), side(8.0, [1, 0, 0])
    rows = {
        "ecgnb, until turned": ours | {"claimed": ours["turned"]},
        "ecgnb, until turned, gradients in bfloat16": side(
            1.0, [1, 0, 0], claimed=[True, False, False]
        ),
        "ecgnb, until turned, bfloat16 believed": side(0.9, [1, 0, 0], claimed=[True, True, False]),
        "ART": theirs,
        "CleverHans": side(4.0, [0, 0, 1]),
        "Foolbox": {"error": "TypeError: no | such thing"},
    }
    curve = {
        "ecgnb, smallest ε of each": side(3.0, []) | {"smallest": [0.1, 0.304, None]},
        "grid of full PGD": side(3.3, []) | {"smallest": [0.1, 0.3, None]},
    }
    for one in curve.values():
        del one["turned"], one["gradients"]
    cases = {
        "pgd": bench.compare("pgd", rows, FLOOR),
        "curve": bench.compare("curve", curve, FLOOR),
    }
    return {
        "about": bench.machine() | {"data": "made up", "runs": 1},
        "titles": {c: t for c, t in bench.titles(bench_sides.FULL).items() if c in cases},
        "cases": cases,
        "precision": bench.precision_changes(rows),
        "floor": FLOOR,
    }


def test_times_are_compared_only_where_as_much_is_found():
    rows = made_up()["cases"]["pgd"]
    assert rows["ART"]["times the first"] == 4 and rows["ART"]["less found by the first"] == 0
    assert "times the first" not in rows["CleverHans"]
    assert rows["CleverHans"]["less found by the first"] == 1
    assert "times the first" not in rows["Foolbox"]
    assert rows["ART"]["floor seconds"] == pytest.approx(1.0)
    rounder = rows["ecgnb, until turned, gradients in bfloat16"]
    assert rounder["floor seconds"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("case", "ours", "other", "less"),
    [
        ("pgd", {"turned": [True, False]}, {"turned": [False, True]}, 1),
        ("apgd", {"turned": [True, False]}, {"turned": [False, True]}, 0),
        ("apgd", {"turned": [True, False]}, {"turned": [True, True]}, 1),
        ("epoch", {"turned": [True] * 148 + [False] * 2}, {"turned": [True] * 150}, 0),
        ("epoch", {"turned": [True] * 140 + [False] * 10}, {"turned": [True] * 150}, 7),
        ("curve", {"smallest": [0.3, None]}, {"smallest": [0.29, 0.5]}, 2),
        ("curve", {"smallest": [0.3, 0.5]}, {"smallest": [0.3, None]}, 0),
        ("loading", {"recordings": 9, "total": 1.0}, {"recordings": 9, "total": 1.0}, 0),
        ("loading", {"recordings": 9, "total": 1.0}, {"recordings": 8, "total": 1.0}, 1),
    ],
)
def test_less_found_is_counted(case, ours, other, less):
    assert bench.shortfall(case, ours, other) == less


def test_runs_are_summed_up_by_median_time_and_largest_memory():
    runs = [side(s, [1]) | {"GiB": g} for s, g in ((3.0, 1.0), (1.0, 2.0), (2.0, 1.5))]
    assert bench.row(runs)["seconds"] == 2 and bench.row(runs)["GiB"] == 2
    assert bench.row([runs[0], {"error": "x"}]) == {"error": "x"}


def test_what_bfloat16_changes_is_counted():
    gradients, believed = bench.precision_changes(made_up()["cases"]["pgd"]).values()
    assert gradients["turned in float32 only"] == 1 and gradients["claimed, and not so"] == 0
    assert believed["claimed, and not so"] == 1 and believed["turned in bfloat16 only"] == 0


def test_a_claim_that_does_not_hold_is_named():
    cases = made_up()["cases"]
    assert bench.broken({}) == []
    assert bench.broken(cases) == ["pgd: 0.00 × CleverHans, claimed ≥ 1.5"]
    cases["pgd"]["ART"] |= {"times the first": 3.0, "GiB": 0.9}
    lines = " ".join(bench.broken(cases))
    assert "3.00 × ART, claimed ≥ 3.5" in lines and "more memory than ART" in lines
    slow = {"first": {"seconds": 5, "GiB": 0.5}, "later": {"seconds": 1.5, "GiB": 0.5}}
    assert bench.broken({"loading": slow}) == ["loading, later: 1.50 seconds, claimed ≤ 1"]
    del cases["pgd"]["CleverHans"]
    assert "pgd: CleverHans cannot be compared" in bench.broken(cases)


def test_the_table_and_the_figure_are_made_from_the_json(tmp_path):
    write_json(tmp_path / "bench.json", made_up())
    table = bench.table(tmp_path)
    assert "| ART | 8 | 4 | 1 of 3 turned | 1 | 1.00 |" in table
    assert "| Foolbox | fails | TypeError: no / such thing |" in table
    assert "the first misses 1 of these" in table and "2 of 3, median ε 0.2" in table
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1
    assert len(bench.bars(made_up()).axes) == 2


def test_a_claim_has_a_column_for_each_machine_where_it_was_measured(tmp_path):
    slower = made_up()
    slower["about"] |= {"processor": "another", "cores": 3}
    slower["cases"]["pgd"]["ART"]["times the first"] = 3.2
    write_json(tmp_path / "bench.json", made_up())
    write_json(tmp_path / "bench_other.json", slower)
    head, _, *rows = bench.machines(tmp_path).splitlines()
    assert head.endswith("| another, 3 cores |")
    ratios = {row.split("|")[1].split(": ")[-1].strip(): row for row in rows}
    assert ratios["ART"].endswith("| 3.5 | 4 | 3.2 |")
    assert ratios["CleverHans"].count("the first misses 1 of these") == 2
    assert not any("notebook" in row for row in rows), "made_up has no such case"
    assert len({row.count("|") for row in [head, *rows]}) == 1


def test_tables_come_between_their_markers_and_nowhere_else(tmp_path):
    write_json(tmp_path / "bench.json", made_up())
    tables = {"bench": bench.table, "other": lambda folder: "never asked for"}
    text = "before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n"
    once = with_tables(text, tables, tmp_path)
    assert once == text.replace("old", bench.table(tmp_path))
    assert with_tables(once, tables, tmp_path) == once


def test_the_readme_has_the_table_exactly_when_there_is_a_benchmark():
    readme = (ROOT / "README.md").read_text()
    published = (ROOT / "figures" / "bench.json").exists()
    assert ("<!-- bench -->" in readme) == published
    for made in (bench.table, bench.machines):
        assert not published or made(ROOT / "figures") in readme


def test_arithmetic_is_counted_from_the_layers():
    inputs = keras.Input((100, 2))
    x = layers.Conv1D(3, 5, padding="same")(inputs)
    model = keras.Model(inputs, layers.Dense(4)(layers.Flatten()(layers.MaxPooling1D(2)(x))))
    assert bench_sides.reading_flop(model) == 2 * (100 * 5 * 2 * 3 + 150 * 4)


@pytest.fixture(scope="module")
def posed(demo_train):
    keras.utils.set_random_seed(4)
    return small_network(), bench_sides.posed(demo_train.of_class("A").x[:5])


@pytest.mark.parametrize(
    ("package", "name"),
    [("keras", "eager loop of a notebook"), ("art", "ART"), ("cleverhans", "CleverHans")],
)
def test_the_other_sides_make_the_same_perturbations_as_ours(posed, package, name):
    """Same loss, start, ε, step and steps: all but samples where a gradient is zero to rounding."""
    pytest.importorskip(package, reason="pip install .[bench]")
    makers = bench_sides.CASES["pgd"][1]
    ours = makers["ecgnb, all steps for all"](*posed)(4)
    theirs = makers[name](*posed)(4)
    assert isinstance(ours, AttackResult) and theirs.shape == ours.x.shape
    assert np.abs(ours.x - posed[1].x).max() > 0.07
    assert np.mean(np.abs(ours.x - theirs) > 1e-5) < 0.01


def test_a_side_runs_in_its_own_process_and_one_that_fails_is_a_row(tmp_path):
    options = Namespace(data="demo", quick=True)
    loaded = bench.run("loading", "later", tmp_path, options)
    assert loaded["recordings"] > 100 and 0 < loaded["GiB"] < 1 and loaded["seconds"] > 0
    assert "no such side" in bench.run("loading", "no such side", tmp_path, options)["error"]
