"""Put what is made from figures/*.json between its markers, in README.md and the pages beside it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import bench
import pandas as pd
from bench_cluster import million

from ecgnb.evaluation.schema import read_report
from ecgnb.files import write_text
from ecgnb.report import comparison
from ecgnb.report.runs import RunResult, read_controls, read_run, read_runs
from ecgnb.report.tables import demo_sentence, description, findings_table, markdown

ROOT = Path(__file__).parents[1]
LABEL_LEAKING = (
    "Recordings of class O, predicted as AF: clean, and under the attack of training (PGD-20 towards N, crafted on the "
    "model that training of static and adaptive starts from). A model that learnt that perturbed means AF predicts more of "
    "them as AF. p: McNemar's exact test, adjusted by Holm for all models of the split.\n\n"
)
SHIPPED = sorted(path.stem for path in (ROOT / "models").glob("*.keras"))
EVALUATED = ("baseline", "static", "adaptive")  # by ci/evaluate


def presented(folder: Path) -> dict[str, RunResult]:
    """The runs of the results table."""
    return read_runs(folder / "results", comparison.presented(folder / "results"))


def findings(folder: Path) -> str:
    """The finding in one table, from the whole evaluations."""
    path = folder / "evaluation"
    reports = {n: read_report(path / f"{n}-validation-standard.json") for n in EVALUATED}
    captions = {description(report) for report in reports.values()}
    return "\n".join([*sorted(captions), "", small_intervals(markdown(findings_table(reports)))])


def results(split: str) -> Callable[[Path], str]:
    """The results on a split: clean, then attacked, then the controls."""

    def table(folder: Path) -> str:
        runs = presented(folder)
        abouts = [run.reports[split].about for run in runs.values() if split in run.reports]
        captions = {
            f"{about.data}, {about.split}: {about.recordings} recordings, {about.class_counts['A']} AF; "
            f"labels {about.labels}, seed {about.seed}"
            for about in abouts
        }
        tables = (
            small_intervals(markdown(comparison.results_table(runs, split, measures)))
            for measures in (comparison.CLEAN, comparison.ATTACKED)
        )
        found = read_controls(folder / "results").get(split)
        return "\n\n".join([*sorted(captions), *tables, *([control_table(found["models"])] if found else [])])

    return table


def control_table(models: dict) -> str:
    """Of some models of one split: what tells label leaking from robustness."""
    return small_intervals(markdown(comparison.controls_table(models)))


def label_leaking(name: str) -> Callable[[Path], str]:
    """On the card of a shipped model: its line of the controls on each split."""

    def table(folder: Path) -> str:
        splits = {split: part.get("models", {}) for split, part in read_controls(folder / "results").items()}
        tables = {split: comparison.controls_table(models) for split, models in splits.items() if name in models}
        rows = {split: table.loc[[comparison.title_of(name)]] for split, table in tables.items()}
        return LABEL_LEAKING + markdown(pd.concat(rows, names=["split"]).droplevel("run")) if rows else ""

    return table


def original(folder: Path) -> str:
    """The original's figures beside ours."""
    return markdown(comparison.original_table(presented(folder)))


def claims(folder: Path) -> str:
    """The claims, tested on both splits."""
    runs = presented(folder)
    tables = {split: comparison.claims_table(runs, split) for split in ("validation", "test")}
    return markdown(pd.concat(tables, names=["split"]))


def seeds(folder: Path) -> str:
    """The defences by seed, on the test fold."""
    runs = pd.read_csv(folder / "results" / "runs.csv")
    return markdown(comparison.seeds_table(comparison.seeds(runs, "test")))


def ablation(folder: Path) -> str:
    """What was tried for the baseline."""
    tried = pd.read_csv(folder / "results" / "ablation.csv")
    config = read_run(folder / "results" / "baseline.json").config
    return markdown(comparison.ablation_table(tried, config))


def demo(folder: Path) -> str:
    """The baseline on the synthetic set."""
    return demo_sentence(read_report(folder / "demo_baseline.json"))


PAGES: dict[str, dict[str, Callable[[Path], str]]] = {
    **{f"models/{name}.md": {"label leaking": label_leaking(name)} for name in SHIPPED},
    "README.md": {"findings": findings, "demo": demo},
    "notebooks/RESULTS.md": {
        "original": original,
        "validation": results("validation"),
        "test": results("test"),
        "claims": claims,
        "seeds": seeds,
        "ablation": ablation,
    },
    "ci/SPEED.md": {"bench": bench.table, "machines": bench.machines},
    "ci/CLUSTER.md": {"million": million},
}


def small_intervals(table: str) -> str:
    """A Markdown table with each interval small, on a line of its own: short cells."""
    return re.sub(r" \[([^\]|]*), ([^\]|]*)\]", r"<br><sub>[\1,&nbsp;\2]</sub>", table)


def with_tables(text: str, tables: dict[str, Callable[[Path], str]], figures: Path) -> str:
    """The text with what stands between its markers made anew from the JSON in `figures`."""
    for name, table in tables.items():
        first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
        if first in text:
            block = f"{first}\n{table(figures)}\n{last}"
            text = re.sub(f"{first}.*{last}", lambda _, block=block: block, text, flags=re.S)
    return text


def main() -> None:
    for file, tables in PAGES.items():
        text = with_tables((ROOT / file).read_text("utf-8"), tables, ROOT / "figures")
        write_text(ROOT / file, text)


if __name__ == "__main__":
    main()
