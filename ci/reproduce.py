"""What `ci/reproduce` does once the packages are installed: run the notebooks, print the results table."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
from sweep import read_plan

ROOT = Path(__file__).parents[1]
SETTINGS = ("SEED", "EPOCHS", "PRECISION", "OVERRIDES")  # of a plan of runs, that notebooks 1 to 3 have, too


def parameters(mode: str, out: Path) -> dict[str, dict[str, object]]:
    """Notebook -> the parameters that differ from its own; mode : "quick", "full" or "demo"."""
    runs: dict[str, dict[str, object]] = {source.stem: {} for source in sorted((ROOT / "notebooks").glob("0*.py"))}
    if mode == "full":
        trained = {name: str(out / f"models/{name}.keras") for name in ("baseline", "static", "adaptive")}
        plan = read_plan(ROOT / "models" / "runs.csv")
        for notebook, name in (("01_baseline", "baseline"), ("02_static", "static"), ("03_adaptive", "adaptive")):
            runs[notebook] |= {key: plan[name][key] for key in SETTINGS if key in plan[name]}
        start = {"BASELINE": trained["baseline"]}
        runs["00_data"] |= {"FULL": True}
        runs["02_static"] |= start
        runs["03_adaptive"] |= {"STATIC": trained["static"]} | start
        runs["04_evaluation"] |= {"COMPUTE": True, "OTHER_SEEDS": "", "MODELS": " ".join(trained.values())}
    if mode == "demo":
        del runs["06_results"]
        runs["04_evaluation"] |= {"COMPUTE": True, "SUITE": "quick", "PER_CLASS": 3, "OTHER_SEEDS": ""}
        for run in runs.values():
            run["DATA"] = "demo"
    return runs


def run(name: str, given: dict[str, object], out: Path, log_output: bool) -> None:
    """Execute one notebook, and print a line with its title and time."""
    source = ROOT / "notebooks" / f"{name}.ipynb"
    title = nbformat.read(source, 4).cells[0].source.splitlines()[0].lstrip("# ")
    bar = {"desc": f"{name:14}", "leave": False, "unit": "cell", "ncols": 90}
    began = time.monotonic()
    papermill.execute_notebook(
        source,
        out / "notebooks" / source.name,
        {"OUT": str(out)} | given,
        cwd=source.parent,
        log_output=log_output,
        progress_bar=bar if sys.stderr.isatty() and not log_output else False,
    )
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    print(f"{name:14} {title:60} {minutes:3d} min {seconds:02d} s", flush=True)


def main() -> int:
    mode, out = sys.argv[1], ROOT / sys.argv[2]
    (out / "notebooks").mkdir(parents=True, exist_ok=True)
    # Training prints a line an epoch: worth seeing in a run of hours, in place of the bar.
    logging.basicConfig(level="INFO" if mode == "full" else "ERROR", format="%(message)s")
    try:
        for name, given in parameters(mode, out).items():
            run(name, given, out, log_output=mode == "full")
    except papermill.PapermillExecutionError as error:
        print(f"{name}: {error.ename}: {error.evalue}", file=sys.stderr)
        print(f"see {out / 'notebooks' / name}.ipynb", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(flush=True)
    done = subprocess.run([sys.executable, "-m", "ecgnb", "results", out], check=False)
    shown = out.relative_to(ROOT) if out.is_relative_to(ROOT) else out
    print(f"\npictures: {shown}   executed notebooks: {shown / 'notebooks'}")
    return done.returncode


if __name__ == "__main__":
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # as papermill's command does
    sys.exit(main())
