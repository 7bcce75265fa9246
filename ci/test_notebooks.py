"""The notebooks as people run them: papermill from another folder, on the demo set, with tiny training."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIGURES = {
    "00_data": {"class_gallery", "epsilon_in_microvolts"},
    "01_baseline": {"baseline_clean", "baseline_attacked", "attack_visual"},
    "02_static": {
        "static_learning_curves",
        "confusion_matrix_static",
        "static_matrix_attacked",
        "static_stress_test",
    },
    "03_adaptive": {"adaptive_learning_curves", "final_clean_matrix", "final_robustness_curve"},
    "04_evaluation": {
        "evaluation_attacks",
        "evaluation_curves",
        "evaluation_loss",
        "evaluation_transfer",
        "evaluation_waveforms",
        "evaluation_spectra",
        "evaluation_certified",
    },
    "05_training": {"training_curves"},
    "06_results": {"results_models", "results_seeds", "results_training"},
}
TINY = {
    "00_data": {},
    "01_baseline": {"EPOCHS": 1, "MAX_ITER": 2},
    "02_static": {"EPOCHS": 1, "MAX_ITER": 2, "TRAIN_ITER": 1, "PER_CLASS": 6},
    "03_adaptive": {"EPOCHS": 1, "MAX_ITER": 2, "TRAIN_ITER": 1, "PER_CLASS": 6},
    "04_evaluation": {
        "COMPUTE": True,
        "BUDGET": "quick",
        "PER_CLASS": 2,
        "MODELS": "baseline",
        "TWINS": "static",
    },
    "05_training": {
        "DEFENCE": "fast",
        "EPOCHS": 1,
        "CHANGES": "per_class=6",
        "SPLITS": "validation",
    },
}


def papermill(name: str, folder: Path, **parameters) -> subprocess.CompletedProcess:
    given = [word for key, value in parameters.items() for word in ("-p", key, str(value))]
    return subprocess.run(
        [
            *(sys.executable, "-m", "papermill", "--no-progress-bar", "--log-level", "ERROR"),
            *(str(ROOT / "notebooks" / f"{name}.ipynb"), str(folder / f"{name}.ipynb"), *given),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", TINY)
def test_papermill_runs_it_on_the_demo_set_with_tiny_training(name, tmp_path):
    out = tmp_path / "out"
    done = papermill(name, tmp_path, DATA="demo", OUT=out, **TINY[name])
    assert done.returncode == 0, done.stderr[-3000:]
    assert {p.stem for p in out.glob("*.png")} == FIGURES[name]
    for figure in FIGURES[name]:
        numbers = json.loads((out / f"{figure}.json").read_text())
        assert numbers["data"] == "DEMO (SYNTHETIC)" and numbers["seed"] == 2017
        assert {"protocol", "labels", "model", "versions"} <= set(numbers)
        assert (out / f"{figure}.png").stat().st_size > 10_000
    if "EPOCHS" in TINY[name]:
        assert "trained here for 1 epochs" in numbers["model"]
        assert list((out / "models").glob("*.keras"))


def test_an_unknown_parameter_is_an_error_that_names_it(tmp_path):
    done = papermill("00_data", tmp_path, DATA="demo", EPOCS=150)
    assert done.returncode != 0
    assert "no such parameter: EPOCS; this notebook has BAD, DATA" in done.stderr


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_stored_notebook_was_executed_in_order_and_without_error(notebook):
    cells = [c for c in nbformat.read(notebook, 4).cells if c.cell_type == "code"]
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    assert not [o for c in cells for o in c.outputs if o.output_type == "error"]
    # Facts are compared as text by nbval; scores, which may differ in the last digit, by test_figures.
    assert any("nbval-check-output" in c.metadata.get("tags", []) for c in cells)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_cells_are_short_and_parameters_are_explained(notebook):
    cells = [c for c in nbformat.read(notebook, 4).cells if c.cell_type == "code"]
    parameters = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    assert len(parameters) == 1
    for line in parameters[0].source.splitlines():
        assert line.count("=") == 1, "papermill cannot parse a second one, also in a comment"
        assert re.match(r"[A-Z_]+ = \S.*  # \S", line), f"a parameter needs a comment: {line}"
    for cell in cells:
        if cell is not parameters[0]:
            assert len(cell.source.splitlines()) <= 18 and "def " not in cell.source


def test_papermill_help_lists_the_parameters_with_their_comments():
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "papermill",
            "--help-notebook",
            str(ROOT / "notebooks/03_adaptive.ipynb"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "EPOCHS: Unknown type (default 0)" in done.stdout
    assert "the original: 150" in done.stdout
