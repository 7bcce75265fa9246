"""The tables of an evaluation say what its report says, and a report is read for its own model only."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ecgnb.errors import EcgnbError
from ecgnb.evaluation.engine import read_report, report_path, subject_of
from ecgnb.report import tables


def made_up(turned: list[bool], read: str = "A") -> dict:
    """A report with nothing but recordings, of which each is read rightly, and turned or not."""
    return {
        "recordings": [
            {"read as": "A", "under attack": {"PGD": "N" if t else read}, "turned": t}
            for t in turned
        ]
    }


def test_models_are_compared_on_the_same_recordings():
    weak, strong = made_up([True] * 12 + [False] * 8), made_up([False] * 20)
    found = tables.paired_table({"weak": weak, "strong": strong}, "PGD")
    same = found.loc[("strong less weak", "read rightly, clean")]
    assert same["difference"] == "+0.00 [+0.00, +0.00]" and same["p, exact"] == "1"
    attacked = found.loc[("strong less weak", "read rightly under PGD")]
    assert (
        attacked["difference"].startswith("+0.60") and attacked["only one right"] == "12 against 0"
    )
    assert float(attacked["p, exact"]) == pytest.approx(2 * 0.5**12, rel=0.05)
    assert float(attacked["p, Holm"]) == pytest.approx(3 * 2 * 0.5**12, rel=0.05)


def test_a_check_that_does_not_pass_shows_its_evidence():
    checks = [
        {"name": "one", "verdict": "pass", "evidence": "0 of 9"},
        {"name": "two", "verdict": "warn", "evidence": "1 of 9"},
    ]
    found = tables.check_table({"baseline": {"checks": checks}})
    assert found["baseline"].to_dict() == {"one": "pass", "two": "warn: 1 of 9"}


def test_probabilities_are_spoken():
    assert tables.read_as(np.log([0.02, 0.9, 0.05, 0.03])) == "read as N, 90%"


def test_a_report_of_other_weights_is_refused_with_the_remedy(tmp_path):
    path = report_path(tmp_path, "baseline", "test", "quick")
    with pytest.raises(EcgnbError, match=r"no report.*evaluate baseline --split test"):
        read_report("baseline", "test", "quick", tmp_path)
    path.write_text(json.dumps({"about": {"weights": "0"}}))
    with pytest.raises(EcgnbError, match="other weights than baseline has"):
        read_report("baseline", "test", "quick", tmp_path)
    path.write_text(json.dumps({"about": {"weights": subject_of("baseline").digest}}))
    assert read_report("baseline", "test", "quick", tmp_path)["about"]
