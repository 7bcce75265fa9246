"""Show that today's code gives the numbers of the stored reports, without the hours that made them.

Usage: python ci/verify.py        (needs the real recordings; about two minutes)

For every shipped model with a stored result, predictions on the validation set are recomputed: clean, under the study's
attack, and under random noise. If at most one recording of a condition differs, the digest of today's code is
written to figures/verified.json, and tests accept the stored reports as its own. Otherwise: bash ci/evaluate.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from ecgnb.data.dataset import Dataset, load_data
from ecgnb.evaluation.cache import NUMBERS, code_digest
from ecgnb.evaluation.engine import evaluate
from ecgnb.evaluation.named import named_model
from ecgnb.evaluation.schema import Report
from ecgnb.evaluation.suites import results_suite
from ecgnb.files import write_json
from ecgnb.models.files import model_path
from ecgnb.report.runs import read_run

FIGURES = Path(__file__).parents[1] / "figures"
CONDITIONS = ("clean", "pgd20", "random_sign")
ALLOWED = 1  # recordings a condition: another processor rounds otherwise


def disagreements(stored: Report, validation: Dataset) -> list[str]:
    """Conditions in which the model of a stored report predicts other classes today, each in a line."""
    suite = replace(results_suite(), cases={})
    report = evaluate(named_model(stored.about.model), validation, suite, seed=stored.about.seed)
    lines = []
    for name in CONDITIONS:
        differ = int(np.sum(report.predicted(name) != stored.predicted(name)))
        if differ > ALLOWED:
            lines.append(f"{stored.about.model}, {name}: {differ} recordings differ")
    return lines


def main() -> int:
    names = [path.stem for path in sorted((FIGURES / "results").glob("*.json"))]
    shipped = [name for name in names if model_path(name).is_file()]
    validation, lines = load_data("validation", data="physionet"), []
    for name in shipped:
        stored = read_run(FIGURES / "results" / f"{name}.json").reports["validation"]
        found = disagreements(stored, validation)
        print(f"{name}: {'differs' if found else 'the same'}", flush=True)
        lines += found
    if lines:
        print("\n".join([*lines, "make the reports again: bash ci/evaluate"]), file=sys.stderr)
        return 1
    verified = {"code": code_digest(NUMBERS), "models": shipped, "conditions": list(CONDITIONS)}
    write_json(FIGURES / "verified.json", verified)
    return 0


if __name__ == "__main__":
    sys.exit(main())
