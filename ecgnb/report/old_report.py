"""What numbers say of themselves, and the results table, made from the figures' JSON: none is typed by hand."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path

import keras
import pandas as pd

from ecgnb.data.dataset import Dataset
from ecgnb.errors import EcgnbError

PACKAGES = ("ecgnb", "keras", "numpy", "scipy")

# Published by the original ("Small Changes, Big Errors", HSTE21): AF F1, clean and at ε 0.2.
ORIGINAL = {
    "baseline": ("0.73", "0.18"),
    "static": ("0.83", "0.91 stored"),
    "adaptive": ("0.87", "—"),
}
SOURCES = {
    "baseline": "baseline_attacked.json",
    "static": "static_matrix_attacked.json",
    "adaptive": "final_clean_matrix.json",
}
SHOWN = ("F1 A", "F1 N", "F1 O", "F1 ~", "challenge score")


def provenance(dataset: Dataset, seed: int, model: str) -> dict:
    """What every figure's JSON says of itself."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    backend = keras.backend.backend()
    return {
        "data": "DEMO (SYNTHETIC)" if dataset.synthetic else "PhysioNet/CinC Challenge 2017",
        "split": dataset.split,
        "recordings": len(dataset),
        "AF recordings": len(dataset.of_class("A")),
        "protocol": dataset.protocol,
        "labels": dataset.labels,
        "seed": seed,
        "model": model,
        "versions": versions
        | {"python": platform.python_version(), backend: importlib.metadata.version(backend)},
    }


def headline(numbers: dict) -> dict[str, str]:
    """The lines worth reading aloud from a figure's numbers: value, interval, and counts of shares."""
    lines = {
        "AF F1, clean": numbers["clean"]["F1 A"],
        "AF F1, attacked": numbers["attacked"]["F1 A"],
        "AF recall, clean": numbers["clean"]["AF recall"],
        "AF recall, attacked": numbers["attacked"]["AF recall"],
        "AF recall, random noise of the same size": numbers["AF recall under random noise"],
    }
    lines |= {key: value for key, value in numbers.items() if key.startswith("AF read as")}
    return {name: spoken(score) for name, score in lines.items()}


def brief(score: dict) -> str:
    """ "0.94 [0.83, 0.98]": a value and its 95 % interval."""
    if score["value"] is None:
        return "—"
    low, high = score["ci95"]
    return f"{score['value']:.2f} [{low:.2f}, {high:.2f}]"


def spoken(score: dict) -> str:
    """As `brief`, with the count where it is a share: "0.94 [0.83, 0.98] (44 of 47)"."""
    counted = f" ({score['count']} of {score['of']})" if score.get("of") else ""
    return brief(score) + counted


def results_table(folder: Path) -> str:
    """Markdown table: each model, clean and attacked, with 95 % intervals, beside the original's figures."""
    rows = [
        "| model | AF F1 clean: original | ours | AF F1 attacked: original | ours, stored attack "
        "| ours, fresh attack | AF recall clean | AF recall attacked | AF recall, random ±ε "
        "| AF found clean that turn N | N read as AF, random ±ε | challenge score clean |",
        "|" + "---|" * 12,
    ]
    heads = set()
    alarms = read_json(folder / SOURCES["adaptive"])["N read as A under random noise"]
    for name, file in SOURCES.items():
        numbers = read_json(folder / file)
        heads.add(
            "{data}, {split} ({recordings} recordings, {AF recordings} AF), labels {labels}, protocol "
            "{protocol}, seed {seed}; targeted PGD-{attack[steps]}, ε {attack[epsilon]}".format(
                **numbers
            )
        )
        clean, fresh, stored = numbers["clean"], numbers["attacked"], numbers.get("stored attack")
        flips = next(v for k, v in numbers.items() if k.endswith("of AF found clean"))
        cells = [
            name,
            ORIGINAL[name][0],
            brief(clean["F1 A"]),
            ORIGINAL[name][1],
            brief(stored["F1 A"]) if stored else "—",
            brief(fresh["F1 A"]),
            brief(clean["AF recall"]),
            brief(fresh["AF recall"]),
            brief(numbers["AF recall under random noise"]),
            brief(flips),
            brief(alarms[name]),
            brief(clean["challenge score"]),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join([*sorted(heads), "", *rows])


def demo_line(folder: Path) -> str:
    """One sentence: how the shipped baseline reads the synthetic set, clean and attacked."""
    numbers = read_json(folder / "demo_baseline.json")
    clean = ", ".join(f"{name} {brief(numbers['clean'][name])}" for name in SHOWN)
    return (
        f"On the {numbers['recordings']} validation recordings of the DEMO (SYNTHETIC) set the shipped "
        f"baseline, which never saw it, reaches {clean}; under targeted PGD its AF recall goes from "
        f"{brief(numbers['clean']['AF recall'])} to {brief(numbers['attacked']['AF recall'])}."
    )


def read_json(path: Path) -> dict:
    """Numbers that a figure or an evaluation left; an error that says how to make them."""
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise EcgnbError(f"{path}: cannot be read ({error}); run ci/reproduce first") from error


def best_and_last(history: pd.DataFrame) -> pd.DataFrame:
    """A training history's columns as rows: at the epoch with the best criterion, and at the last.

    Robust overfitting is a robust score that is lower in the last (Rice et al. 2020, arXiv 2002.11569).
    """
    best = history["criterion"] == history["criterion"].max()
    # Of equals training keeps the later one.
    return pd.DataFrame({"best": history[best].iloc[-1], "last": history.iloc[-1]})
