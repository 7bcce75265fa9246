"""Run notebook 5 once for each row of a plan; put the results of all runs into one table.

Example: python ci/sweep.py models/runs.csv runs --only adaptive
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from papermill import inspect_notebook
from tqdm import tqdm

from ecgnb.errors import EcgnbError
from ecgnb.evaluation.schema import Report
from ecgnb.evaluation.workers import HERE, Workers, workers
from ecgnb.files import file_errors, write_json, write_text
from ecgnb.report import comparison
from ecgnb.report.runs import read_run
from ecgnb.training.configuration import overrides

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "05_training.ipynb"
TABLE = "results.csv"
CORRECT = "correct_clean_and_attacked"
FINISHED = "finished.json"  # a run's parameters, written last

Plan = dict[str, dict[str, str]]  # name of a run -> parameters of the notebook


def read_plan(path: Path, only: Sequence[str] = ()) -> Plan:
    """name -> parameters of notebook 5, in the plan's order. Empty values are the notebook's own.

    path : CSV with a column `name` and one for each parameter. START may name a run above.
    only : the runs that are wanted, together with those that they start from; all if empty.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines: list[dict[str, str]] = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EcgnbError(f"{path}: no plan to read, a CSV file in UTF-8 ({error})") from error
    known = inspect_notebook(str(NOTEBOOK)).keys() - {"NAME", "OUT", "REMAKE"}  # these the sweep itself gives
    plan: Plan = {}
    for line in lines:
        name = line.pop("name", None)
        if not name or name in plan or None in line:
            raise EcgnbError(f"{path}: every run needs a name of its own, and a value a column")
        if not re.fullmatch(r"\w[\w.+-]*", name):  # it names a folder, which must lie in that of the runs
            raise EcgnbError(f"{path}: {name!r} names a run; use letters, digits and . _ + -, no path")
        if unknown := sorted(line.keys() - known):
            raise EcgnbError(f"{path}: no such parameter: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        plan[name] = {key: value for key, value in line.items() if value}
        overrides(line.get("OVERRIDES") or "")
    if not plan:
        raise EcgnbError(f"{path}: no run in this plan; a row is a run")
    order = list(plan)
    for name, run in plan.items():
        if run.get("START") in order[order.index(name) :]:
            raise EcgnbError(f"{path}: {name} starts from {run['START']}; put that run above it")
    missing = [name for name in only if name not in plan]
    if missing:
        raise EcgnbError(f"{path}: no run {', '.join(missing)}; it has {', '.join(plan)}")
    wanted = set(only or plan)
    for name in reversed(order):
        if name in wanted:
            wanted.add(plan[name].get("START", ""))
    return {name: run for name, run in plan.items() if name in wanted}


def sweep(path: Path, folder: Path, only: Sequence[str] = (), workers: Workers = HERE) -> pd.DataFrame:
    """Run what is not finished of a plan. Returns the table of all finished runs, written to `folder` too.

    path, only : as in `read_plan`; workers : what runs them, one run at a time each; all must share the
    folder. Each run has a folder of its own: executed notebook, log, selected model, result.json, card.md.
    An interrupted run goes on after its last epoch. If a run fails the others go on.
    """
    plan, folder = read_plan(path, only), folder.resolve()
    problems: dict[str, str] = {}
    for names in _levels(plan):
        commands = [f"python ci/sweep.py {path} runs --only {name}" for name in names]
        found = workers.map(
            _run,
            list(zip(names, commands, strict=True)),
            shared=(plan, folder),
            text="runs",
            done=lambda _, problem: problem and tqdm.write(problem, file=sys.stderr),
        )
        problems |= dict(zip(names, found, strict=True))
    failed = [name for name in plan if problems[name]]
    finished = {n: run for n, run in read_plan(path).items() if _is_finished(run, folder / n)}
    table = tidy(finished, folder)
    write_text(folder / TABLE, table.to_csv(index=False))
    if failed:
        raise EcgnbError(f"{len(failed)} of {len(plan)} runs failed: {', '.join(failed)}")
    return table


def _levels(plan: Plan) -> list[list[str]]:
    """Names of runs, each on a later level than the run that it starts from."""
    level: dict[str, int] = {}
    for name, run in plan.items():
        level[name] = level.get(run.get("START", ""), -1) + 1
    return [[name for name in plan if level[name] == i] for i in range(max(level.values()) + 1)]


def _is_finished(run: dict[str, str], folder: Path) -> bool:
    """Whether a run with these very parameters has finished in this folder."""
    try:
        return json.loads((folder / FINISHED).read_text("utf-8")) == run
    except (OSError, ValueError):  # not there, or damaged: run again, it goes on after its last epoch
        return False


def _run(run: tuple[str, str], plan: Plan, folder: Path) -> str:
    """Make one run, unless it is finished; returns what went wrong, or nothing.

    run : its name, and the command that makes it again, for its model card.
    """
    name, command = run
    out = folder / name
    if _is_finished(plan[name], out):
        return ""
    parameters = plan[name] | {"NAME": name, "OUT": str(out), "REMAKE": command}
    start = plan[name].get("START")
    if start in plan:
        parameters["START"] = str(folder / start / "models" / f"{start}.keras")
    with file_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    papermill = [sys.executable, "-m", "papermill", "--log-output", "--no-progress-bar"]
    papermill += [str(NOTEBOOK), str(out / "notebook.ipynb")]
    for key, value in parameters.items():
        papermill += ["-r", key, value]  # as it stands; the notebook knows the type
    with (out / "log.txt").open("w", encoding="utf-8") as log:
        code = subprocess.run(papermill, stdout=log, stderr=log, check=False).returncode
    if code:
        lines = (out / "log.txt").read_text(encoding="utf-8").strip().splitlines()
        return f"{name}: {lines[-1] if lines else 'failed'}; see {out / 'log.txt'}"
    write_json(out / FINISHED, plan[name])
    return ""


def tidy(plan: Plan, folder: Path) -> pd.DataFrame:
    """Finished runs, a row for each number: parameters, split, condition, measure, value, low, high.

    Of the dev fold: the columns of the training history at the selected epoch, without intervals.
    """
    rows: list[dict[str, Any]] = []
    for name, run in plan.items():
        result = read_run(folder / name / "result.json")
        about = {"run": name} | {key.lower(): value for key, value in run.items()}
        rows += [
            about | {"split": "dev", "measure": column.removeprefix("dev_"), "value": value}
            for column, value in result.selected.items()
            if column.startswith("dev_")
        ]
        for split, report in result.reports.items():
            rows += [about | {"split": split} | row for row in _numbers(report)]
    return pd.DataFrame(rows)


def _numbers(report: Report) -> list[dict[str, Any]]:
    """The numbers of a report as rows: condition, measure, value, low, high."""
    rows = []
    for key, condition in report.conditions.items():
        scores = condition.scores
        general = ("challenge_score", "macro_f1", "accuracy")
        measures = {name: scores[name] for name in general if name in scores}
        for kind in ("f1", "recall"):
            measures |= {f"{kind}_{symbol}": one for symbol, one in scores[kind].items()}
        if condition.robust_recall and condition.attack_success_rate:
            measures["robust_recall"] = condition.robust_recall
            measures["attack_success_rate"] = condition.attack_success_rate
            if condition.threat == report.threat and report.threat["attack_class"]:
                measures[CORRECT] = comparison.measure(report, key, CORRECT)
        if condition.kind == "noise" and {"A", "N"} <= set(report.classes):
            measures["noise_false_positive_rate"] = report.rate(key, "N", "A")
        for measure, one in measures.items():
            low, high = one["ci95"]
            row = {"condition": key, "measure": measure, "value": one["value"]}
            rows.append(row | {"low": low, "high": high})
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python ci/sweep.py", description=__doc__)
    parser.add_argument("plan", type=Path, help="CSV: a run a row, its name and its parameters")
    parser.add_argument("folder", type=Path, help="for the runs; finished ones are not run again")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="some runs of the plan")
    parser.add_argument("--cluster", default="", help="local, local:N or a Dask scheduler's address: several at a time")
    options = parser.parse_args(arguments)
    try:
        with workers(options.cluster) as them:
            sweep(options.plan, options.folder, options.only, them)
    except EcgnbError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"results of all finished runs: {options.folder / TABLE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
