"""Sweeps: many training runs, each one papermill run of a notebook, from a plan to one tidy table."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from ecgnb.cluster import HERE, Workers
from ecgnb.errors import EcgnbError
from ecgnb.files import write_atomically, write_json
from ecgnb.report import read_json
from ecgnb.scoring import rows

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "05_training.ipynb"
TABLE = "results.csv"
FINISHED = "finished.json"  # a run's parameters, written last


def read_plan(path: Path, only: list[str]) -> dict[str, dict[str, str]]:
    """name -> parameters of notebook 5 (those left empty are the notebook's own), in the plan's order.

    path : CSV with a column `name` and one for each parameter. START may name a run above: it comes first.
    only : the runs that are asked for, with what they start from; all if empty.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
    except OSError as error:
        raise EcgnbError(f"{path}: no plan to read ({error.strerror})") from error
    plan = {}
    for line in lines:
        name = line.pop("name", None)
        if not name or name in plan or None in line:
            raise EcgnbError(f"{path}: every run needs a name of its own, and a value a column")
        plan[name] = {key: value for key, value in line.items() if value}
    order = list(plan)
    for name, run in plan.items():
        if run.get("START") in order[order.index(name) :]:
            raise EcgnbError(f"{path}: {name} starts from {run['START']}; put that run above it")
    missing = [name for name in only if name not in plan]
    if missing:
        raise EcgnbError(f"{path}: no run {', '.join(missing)}; it has {', '.join(plan)}")
    wanted = set(only or plan)
    for name in reversed(plan):
        if name in wanted:
            wanted.add(plan[name].get("START"))
    return {name: run for name, run in plan.items() if name in wanted}


def sweep(path: Path, folder: Path, only: list[str] = (), workers: Workers = HERE) -> pd.DataFrame:
    """Run what is not finished of a plan; returns the table of all that is, also written to `folder`.

    path, only : as in `read_plan`; workers : who runs, each a run at a time; the folder must be one that they
    share. Each run has a folder of its own, with the executed notebook, its log, the kept model, result.json and
    card.md. A run that was interrupted goes on from its last epoch; when one fails the others go on.
    """
    plan, folder = read_plan(path, only), folder.resolve()
    problems = {}
    for generation in _generations(plan):
        remakes = [f"python -m ecgnb sweep {path} runs --only {name}" for name in generation]
        found = workers.map(
            _run,
            list(zip(generation, remakes, strict=True)),
            shared=(plan, folder),
            text="runs",
            done=lambda _, problem: problem and tqdm.write(problem, file=sys.stderr),
        )
        problems |= dict(zip(generation, found, strict=True))
    failed = [name for name in plan if problems[name]]
    every = read_plan(path, [])
    table = tidy(
        {name: every[name] for name in every if _finished(every[name], folder / name)}, folder
    )
    write_atomically(folder / TABLE, lambda path: table.to_csv(path, index=False))
    if failed:
        raise EcgnbError(f"{len(failed)} of {len(plan)} runs failed: {', '.join(failed)}")
    return table


def _generations(plan: dict[str, dict[str, str]]) -> list[list[str]]:
    """Names of runs, each in a later list than the run that it starts from."""
    depth = {}
    for name, run in plan.items():
        depth[name] = depth.get(run.get("START"), -1) + 1
    return [[name for name in plan if depth[name] == d] for d in range(max(depth.values()) + 1)]


def _finished(run: dict[str, str], folder: Path) -> bool:
    """Whether a run with these very parameters came to its end in this folder."""
    finished = folder / FINISHED
    return finished.exists() and read_json(finished) == run


def _run(who: tuple[str, str], plan: dict, folder: Path) -> str:
    """One run, unless it was finished with the same parameters; returns what went wrong, if anything did.

    who : its name, and the command that makes it again.
    """
    name, remake = who
    out = folder / name
    if _finished(plan[name], out):
        return ""
    given = plan[name] | {"NAME": name, "OUT": str(out), "REMAKE": remake}
    start = plan[name].get("START")
    if start in plan:
        given["START"] = str(folder / start / "models" / f"{start}.keras")
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.txt").open("w", encoding="utf-8") as log:
        code = subprocess.run(
            [
                *(sys.executable, "-m", "papermill", "--log-output", "--no-progress-bar"),
                *(str(NOTEBOOK), str(out / "notebook.ipynb")),
                *(word for key, value in given.items() for word in ("-p", key, value)),
            ],
            stdout=log,
            stderr=log,
            check=False,
        ).returncode
    if code:
        lines = (out / "log.txt").read_text(encoding="utf-8").strip().splitlines()
        return f"{name}: {lines[-1] if lines else 'failed'}; see {out / 'log.txt'}"
    write_json(out / FINISHED, plan[name])
    return ""


def tidy(plan: dict[str, dict[str, str]], folder: Path) -> pd.DataFrame:
    """Finished runs, a row for each score of each: parameters, split, attack, measure, value, low, high.

    Of the dev fold, there are the columns of the training history at the kept epoch, without intervals.
    """
    table = []
    for name, run in plan.items():
        result = read_json(folder / name / "result.json")
        who = {"run": name} | {key.lower(): value for key, value in run.items()}
        table += [
            who | {"split": "dev", "measure": column.removeprefix("dev "), "value": value}
            for column, value in result["kept"].items()
            if column.startswith("dev ")
        ]
        for split, scores in result["scores"].items():
            table += [who | {"split": split} | row for row in rows(scores)]
    return pd.DataFrame(table)
