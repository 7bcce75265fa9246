"""The committed figures: there, complete, and their numbers those that this code makes."""

from __future__ import annotations

import json
import math

import pytest
from conftest import ROOT
from test_notebooks import FIGURES

NIGHTLY = {*FIGURES["03_adaptive"], *FIGURES["05_training"]}  # as those notebooks, see ci/test
NAMES = sorted(name for names in FIGURES.values() for name in names)
ABOUT = {"data", "split", "recordings", "class_counts", "protocol", "labels", "seed", "model"}
SHARE_TOLERANCE = 0.03  # one recording of 47 on another processor, and a little
POWER, RELATIVE = "density", 0.1  # a spectrum is no share: up to 0.045 on another processor
PREDICTIONS = 2  # recordings predicted otherwise on another processor


def read(folder, name):
    return json.loads((ROOT / folder / f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_its_numbers_and_says_what_it_shows(name):
    assert (ROOT / "figures" / f"{name}.png").stat().st_size > 10_000
    about = read("figures", name)["about"]
    assert ABOUT | {"code", "versions"} <= set(about)
    assert about["data"] == "PhysioNet/CinC Challenge 2017"


def differences(stored, made, path=""):
    """Places where two JSON values differ by more than the tolerance."""
    if isinstance(stored, dict):
        if set(stored) != set(made):
            return [f"{path}: keys {set(stored) ^ set(made)}"]
        return [d for k in stored for d in differences(stored[k], made[k], f"{path}/{k}")]
    if isinstance(stored, list):
        if len(stored) != len(made):
            return [f"{path}: length"]
        return [d for i, s in enumerate(stored) for d in differences(s, made[i], f"{path}[{i}]")]
    if isinstance(stored, float) and isinstance(made, (int, float)):
        relative = RELATIVE if POWER in path else 0
        close = math.isclose(stored, made, rel_tol=relative, abs_tol=SHARE_TOLERANCE)
        return [] if close else [f"{path}: {stored} became {made}"]
    if isinstance(stored, int) and not isinstance(stored, bool):
        return [] if abs(stored - made) <= 2 else [f"{path}: {stored} became {made}"]
    if path.endswith("/predictions") and len(stored) == len(made):
        other = sum(a != b for a, b in zip(stored, made, strict=True))
        return [] if other <= PREDICTIONS else [f"{path}: {other} recordings"]
    return [] if stored == made else [f"{path}: {stored} became {made}"]


def comparable(numbers: dict) -> dict:
    """Numbers without what may differ: the code that made them, and with which versions."""
    about = {k: v for k, v in numbers["about"].items() if k not in ("code", "versions")}
    return numbers | {"about": about}


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.nightly) if n in NIGHTLY else n for n in NAMES])
def test_a_new_run_gives_the_committed_numbers(name):
    if not (ROOT / "out" / f"{name}.json").exists():
        pytest.skip("no new run in out/; `bash ci/test` without arguments makes one")
    stored, made = (comparable(read(folder, name)) for folder in ("figures", "out"))
    assert not differences(stored, made)


def test_the_comparison_can_fail():
    assert differences({"a": [0.5, 1]}, {"a": [0.6, 1]}) == ["/a[0]: 0.5 became 0.6"]
    assert differences({"a": 14.5}, {"a": 13.9}) and differences({"a": 0.9}, {"a": 0.86})
    assert differences({POWER: 14.5}, {POWER: 12.5}) and not differences({POWER: 14.5}, {POWER: 13.9})
    assert differences({"a": 47}, {"a": 40}) and differences({"a": "x"}, {"b": "x"})
    assert differences({"predictions": "AAAA"}, {"predictions": "NNNA"})
    assert not differences({"predictions": "AAAA"}, {"predictions": "NAAA"})
