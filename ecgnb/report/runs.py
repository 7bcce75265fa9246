"""What a training run leaves: its settings, its selected epoch, its weights and its reports, as one JSON file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecgnb.errors import EcgnbError
from ecgnb.evaluation.schema import Report, as_json, from_json
from ecgnb.files import array_digest, write_json
from ecgnb.training.selection import best_and_last

SCHEMA = 1  # raise when a field changes its name or meaning


@dataclass(frozen=True)
class RunResult:
    """A training run.

    config : settings of `TrainingConfig`, and "recordings": what it was trained on, as text
    selected, last : rows of the training history, at the selected and at the last epoch
    weights : of the selected epoch, to tell models apart: "sha256", and "norms" of all arrays, whose last digits
        may differ between processors
    reports : split -> `Report`
    """

    name: str
    config: dict[str, Any]
    selected: dict[str, float]
    last: dict[str, float]
    weights: dict[str, Any]
    reports: dict[str, Report]
    schema: int = SCHEMA

    @property
    def protocol(self) -> str:
        """The protocol that it was trained under."""
        return protocol_of(self.config)


def run_result(
    name: str, config: dict[str, Any], history: pd.DataFrame, weights: Sequence[np.ndarray], reports: dict[str, Report]
) -> RunResult:
    """The result of a run from its training history (a row for each epoch) and its model's weights."""
    epochs = best_and_last(history)
    return RunResult(
        name,
        config,
        selected=epochs["last" if config["select"] == "last" else "best"].to_dict(),
        last=epochs["last"].to_dict(),
        weights={"sha256": array_digest(*weights), "norms": [float(np.linalg.norm(array)) for array in weights]},
        reports=reports,
    )


def write_run(path: Path, result: RunResult) -> None:
    """Write a result as JSON, its reports without examples."""
    reports = {split: as_json(report) for split, report in result.reports.items()}
    fields = {name: value for name, value in vars(result).items() if name != "schema"}
    write_json(path, {"schema": result.schema} | fields | {"reports": reports})


def read_run(path: Path) -> RunResult:
    """A result from its JSON; an error that names the file if it cannot be read."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored.get("schema") != SCHEMA:
            raise ValueError(f"schema {stored.get('schema')}, expected {SCHEMA}")
        reports = {split: from_json(report) for split, report in stored["reports"].items()}
        return RunResult(**stored | {"reports": reports})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "notebook 5 makes it, or ci/sweep.py"
        raise EcgnbError(f"{path}: cannot be read as a run's result ({error}); {remedy}") from error


def read_runs(folder: Path, names: Sequence[str]) -> dict[str, RunResult]:
    """name -> result of runs that were evaluated on validation, from the JSON files of a folder."""
    results = {name: read_run(folder / f"{name}.json") for name in names}
    for name, result in results.items():
        if "validation" not in result.reports:
            raise EcgnbError(f"{folder / name}.json: not evaluated on validation; give notebook 5 SPLITS=validation")
    return results


def read_controls(folder: Path) -> dict[str, Any]:
    """What `ci/controls.py` found with the shipped models; {} in a folder of other runs, which have none.

    "validation", "test" : {"about", "attack", "threat", "models"}; "memorising" : {"about", "attack", "threat", "recall"}
    """
    path = folder / "controls.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise EcgnbError(f"{path}: cannot be read ({error}); make it again: python ci/controls.py") from error


def read_training(path: Path) -> tuple[pd.DataFrame, dict[str, Any], int]:
    """Training history, settings and selected epoch: of a model, from the files beside it, or of a run's folder."""
    files = (path / "history.csv", path / "config.json")
    if not path.is_dir():
        files = (path.with_suffix(".csv"), path.with_suffix(".json"))
    try:
        history, settings = pd.read_csv(files[0]), json.loads(files[1].read_text("utf-8"))
        settings.pop("digests", None)  # of what the run was made from, for whoever resumes it
        epoch = best_and_last(history)["last" if settings["select"] == "last" else "best"]["epoch"]
        return history, settings, int(epoch)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        remedy = "name a shipped model, or one with both files beside it"
        raise EcgnbError(f"{files[0]}, {files[1].name}: no history and settings of a training; {remedy}") from error


def protocol_of(settings: dict[str, Any]) -> str:
    """The protocol of the recordings that a run was trained on, by its settings; "" if they do not say.

    >>> protocol_of({"recordings": "CinC 2017, train, labels v0, protocol original, 8528 recordings"})
    'original'
    """
    found = re.search(r", protocol (.+), \d+ recordings$", settings["recordings"])
    return found[1] if found else ""


def trained_under(model: str | Path) -> str:
    """The protocol that a model was trained under, by the settings beside its file; "" if they are not there."""
    try:
        return protocol_of(json.loads(Path(model).with_suffix(".json").read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def read_table(path: Path) -> pd.DataFrame:
    """The table of `ci/sweep.py`."""
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise EcgnbError(f"{path}: cannot be read as the table of ci/sweep.py ({error})") from error
