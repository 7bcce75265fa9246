"""The notebooks: as they are stored, and as people run them, with other parameters than those of the stored run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import publish
import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIGURES = {
    "00_data": {"class_gallery", "epsilon_in_microvolts"},
    "01_baseline": {"attack_fgsm", "attack_steps", "baseline_clean", "baseline_attacked", "attack_visual"},
    "02_static": {"static_learning_curves", "confusion_matrix_static", "static_matrix_attacked", "static_stress_test"},
    "03_adaptive": {"adaptive_learning_curves", "final_clean_matrix", "final_robustness_curve"},
    "04_evaluation": {
        "evaluation_attacks",
        "evaluation_curves",
        "evaluation_loss",
        "evaluation_threats",
        "evaluation_transfer",
        "evaluation_waveforms",
        "evaluation_spectra",
        "evaluation_noise",
        "evaluation_certified",
    },
    "05_training": {"training_curves"},
    "06_results": {"results_models", "results_seeds", "results_training"},
    "07_explore": {"explore_recording", "explore_iterates"},
}
NOT_IN_SUITE_QUICK = {"evaluation_loss", "evaluation_certified"}  # which notebook 4 runs here
# nbval runs every notebook as it is stored; these take other paths. Notebook 3 is run by test_first_hour.
TINY = {
    "04_evaluation": {"COMPUTE": True, "SUITE": "quick", "PER_CLASS": 2, "MODELS": "baseline", "OTHER_SEEDS": "static"},
    "05_training": {"DEFENCE": "fast", "EPOCHS": 1, "OVERRIDES": "per_class=6", "SPLITS": "validation"},
    "07_explore": {"MODELS": "baseline", "TARGET": "", "MAX_ITER": 3},
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


def check_demo_figures(name: str, out: Path) -> None:
    """Every figure of a notebook is there, says that it shows the demo set, and has its numbers beside it."""
    figures = FIGURES[name] - NOT_IN_SUITE_QUICK
    assert {path.stem for path in out.glob("*.png")} == figures
    for figure in figures:
        about = json.loads((out / f"{figure}.json").read_text("utf-8"))["about"]
        assert about["data"] == "DEMO (SYNTHETIC)" and about["seed"] == 2017, figure
        assert {"protocol", "labels", "model", "versions"} <= set(about), figure
        assert (out / f"{figure}.png").stat().st_size > 10_000, figure


@pytest.mark.nightly
@pytest.mark.parametrize("name", TINY)
def test_papermill_runs_it_on_the_demo_set_with_tiny_settings(name, tmp_path):
    out = tmp_path / "out"
    done = papermill(name, tmp_path, DATA="demo", OUT=out, **TINY[name])
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr == ""
    check_demo_figures(name, out)
    assert bool(list(out.glob("models/*.keras"))) == ("EPOCHS" in TINY[name])


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_stored_notebook_is_as_a_maintainer_published_it(notebook):
    """Executed in order, without errors, red boxes, widgets, or traces of one machine."""
    stored = nbformat.read(notebook, 4)
    cells = [cell for cell in stored.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert not [o for o in outputs if publish.WIDGET in o.get("data", "")]
    language = stored.metadata.pop("language_info")
    assert stored.metadata == publish.METADATA and "version" not in language
    # The second is Jupytext's own, before a cell that begins with a function.
    assert all(set(cell.metadata) <= {"tags", "lines_to_next_cell"} for cell in stored.cells)
    # Facts are compared as text by nbval; scores, which may differ in the last digit, by test_figures.
    assert any("nbval-check-output" in cell.metadata.get("tags", []) for cell in cells)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_cells_are_short_and_parameters_are_explained(notebook):
    cells = [c for c in nbformat.read(notebook, 4).cells if c.cell_type == "code"]
    parameters = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    assert len(parameters) == 1
    for line in parameters[0].source.splitlines():
        assert line.count("=") == 1, "papermill cannot parse a second one, also in a comment"
        assert re.match(r"[A-Z_]+ = \S.*  # \S", line), f"a parameter needs a comment: {line}"
    for cell in cells:
        if cell is not parameters[0] and "solution" not in cell.metadata.get("tags", []):
            assert len(cell.source.splitlines()) <= 18 and "def " not in cell.source


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_picture_has_an_alternative_text_that_is_also_shown(notebook):
    outputs = [o for c in nbformat.read(notebook, 4).cells for o in c.get("outputs", []) if "data" in o]
    assert not [o for o in outputs if "image/png" in o.data], "use notebook.show: Jupyter gives image/png no alt text"
    pictures = [o.data for o in outputs if "<img" in "".join(o.data.get("text/html", ""))]
    assert len(pictures) == len(FIGURES[notebook.stem])
    for data in pictures:
        (alt,) = re.findall(r'alt="([^"]+)"', data["text/html"])
        assert len(alt) > 30 and f"<small>{alt}</small>" in data["text/html"]
