"""Plumbing that keeps the notebooks thin: parameters, folders, a model that is loaded or trained."""

from __future__ import annotations

import ast
import base64
import html
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from ecgnb import values
from ecgnb.constants import CLASSES
from ecgnb.data.dataset import Dataset
from ecgnb.data.leak import load_split, protocol_name
from ecgnb.errors import EcgnbError
from ecgnb.evaluation.engine import describe
from ecgnb.evaluation.run import EvaluatedModel
from ecgnb.evaluation.schema import About, Report, as_json, read_report
from ecgnb.evaluation.suites import BUDGETS
from ecgnb.models.devices import describe_devices, one_core_a_batch
from ecgnb.models.files import load_model, model_path, save_model
from ecgnb.quiet import keras
from ecgnb.report import style
from ecgnb.report.runs import trained_under
from ecgnb.training.configuration import TrainingConfig
from ecgnb.training.loop import train

CHECKOUT = Path(__file__).parents[1]
# Where relative paths start: the repository, or the working folder of a package installed without it.
ROOT = CHECKOUT if (CHECKOUT / "notebooks").is_dir() else Path.cwd()
STORED = ROOT / "figures" / "evaluation"
COMPUTE = "evaluate here: -p COMPUTE True"


INJECTED = {"PAPERMILL_INPUT_PATH", "PAPERMILL_OUTPUT_PATH"}  # by papermill --inject-paths
# What parameters may be that have the name of a setting of training; the others:
ALLOWED: dict[str, values.Allowed] = (
    {s.name.upper(): s.metadata["allowed"] for s in fields(TrainingConfig)}
    | {
        "EPOCHS": ">= 0",  # 0: no training
        "TARGET": (*CLASSES[1:], ""),
        "PER_CLASS": ">= 0",  # 0: all
        "EPSILON": ">= 0 and <= 1000",
        "EPS_STEP": values.POSITIVE,
        "MAX_ITER": values.COUNT,
        "TRAIN_ITER": values.COUNT,
        "RESTARTS": values.COUNT,
        "SUITE": tuple(BUDGETS),
    }
)
MAY_BE_EMPTY = {"TARGET", "OTHER_SEEDS", "HISTORIES"}


def start(out: str, show_devices: bool = False) -> Path:
    """What every notebook does first: check the parameters, make the output folder `out`, and return it.

    Raises EcgnbError for a parameter that the notebook does not have, a value that it cannot have, and a folder that
    cannot be written to.
    """
    check_parameters()
    sys.path.append(str(ROOT))  # where package.module:Class is also looked for
    if not (shell := get_ipython()) or not shell.user_ns.get("EPOCHS"):
        one_core_a_batch()  # nothing large is trained
    if show_devices:
        print(describe_devices())
    folder = resolve(read_parameter("OUT", out, "out"))
    values.check_folder("OUT", folder)
    return folder


def resolve(path: str | Path) -> Any:
    """A parameter that is a path, or the name of a shipped model, as a path; `package.module:function` as it is.

    A relative path counts from the repository's root, not from the folder that Jupyter, papermill or nbval
    happened to start in.
    """
    if values.is_import(path):
        return path
    shipped = model_path(path)
    return shipped if shipped.is_absolute() and shipped.is_file() else ROOT / path


def check_parameters() -> None:
    """Give each parameter the type of its default; refuse what it cannot be, and parameters that do not exist.

    Papermill runs the notebook's parameters cell, then a cell of its own that begins with `# Parameters` and
    assigns what it was given, much of it as text. A name that only the second one assigns is a misspelling.
    """
    shell = get_ipython()
    cells = shell.user_ns["In"] if shell else []
    for number, source in enumerate(cells):
        if source.startswith("# Parameters\n"):
            defaults = {name: value for cell in cells[:number] for name, value in _assigned(cell).items()}
            given = _assigned(source).keys() - INJECTED
            unknown = sorted(given - defaults.keys())
            if unknown:
                raise EcgnbError(
                    f"no such parameter: {', '.join(unknown)}; this notebook has "
                    f"{', '.join(sorted(name for name in defaults if name.isupper()))}"
                )
            for name in given:
                shell.user_ns[name] = read_parameter(name, shell.user_ns[name], defaults[name])


def read_parameter(name: str, value: Any, default: Any) -> Any:
    """A parameter's value as the type of its default. Raises EcgnbError for one that it cannot have."""
    if default is None:  # no literal, so that its type is not known
        return value
    if value is None and isinstance(default, str):
        raise EcgnbError(
            f"{name}=None: YAML's ~ and papermill's None are no text, but nothing; for text: -r {name} TEXT, or quotes"
        )
    allowed = "" if values.is_import(value) else ALLOWED.get(name, "")  # package.module:Class is looked up later
    found = values.read(name, value, default, allowed)
    if default and found == "" and name not in MAY_BE_EMPTY:
        raise EcgnbError(f'{name}="": expected text, such as "{default}"')
    return found


def _assigned(source: str) -> dict[str, Any]:
    """Names that a cell assigns at its top level, each with its value if it is a literal, else None."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a cell with IPython magic assigns no parameters
        return {}
    found = {
        t.id: node.value
        for node in body
        if isinstance(node, ast.Assign)
        for t in node.targets
        if isinstance(t, ast.Name)
    }
    return {name: value.value if isinstance(value, ast.Constant) else None for name, value in found.items()}


def load_or_train(
    config: TrainingConfig | None,
    name: str,
    folder: Path,
    source: dict[str, Any],
    *,
    start: str | Path = "baseline",
    resume: bool = True,
) -> tuple[keras.Model, pd.DataFrame | None, str]:
    """The model called `name` (a shipped one, or a path), or one trained by `config` if that is given.

    What is trained is saved by that name in `folder`/models.

    source : which recordings to train on: protocol, labels, data, bad and leak, as in `load_split`; start : the model
    that a defence starts from.
    Returns the model, its training history (None if none lies beside it), and its name or how it was trained.
    """
    protocol = protocol_name(source.get("protocol", "leakfree"), source.get("leak", ""))
    if config is None:
        csv = Path(resolve(name)).with_suffix(".csv")
        history = pd.read_csv(csv) if csv.exists() else None
        return load(name, protocol), history, Path(name).stem
    origin = None if config.defence == "baseline" else load(start, protocol)
    train_set, dev_set = (load_split(split, **source) for split in ("train", "dev"))
    run = folder / "runs" / config.defence
    model, history = train(config, train_set, dev_set, run, origin, resume)
    saved = folder / "models" / f"{Path(name).stem}.keras"
    save_model(model, saved)
    shutil.copy(run / "history.csv", saved.with_suffix(".csv"))
    shutil.copy(run / "config.json", saved.with_suffix(".json"))
    return model, history, f"{config.defence} trained here for {config.epochs} epochs"


def load(name: str | Path, protocol: str) -> keras.Model:
    """A shipped model, or one of the user's, for a notebook that runs under a protocol.

    Raises EcgnbError if the settings beside its file say that it was trained under another: its results would bear a
    wrong label, or those of `leakfree` would come from a model that was trained on the validation recordings.
    """
    found = trained_under(resolve(name))
    if found not in ("", "own", protocol):
        raise EcgnbError(
            f"{name}: trained under protocol {found}, this run is of protocol {protocol}; "
            "change PROTOCOL, or give a model of it"
        )
    return load_model(resolve(name))


def show(figure: Figure, path: Path, source: About | Report | dict[str, Any], alt: str, **numbers: Any) -> None:
    """Show a figure under a notebook cell, and write it as PNG with its numbers and its source as JSON beside it.

    source : what the figure was made from; of a whole report, or of a dict with "about", all numbers are written.
    alt : one sentence that says what the figure shows, shown below it and read by screen readers. An `img` element
    carries it, since Jupyter and nbconvert leave out the alternative text of an image/png output.
    """
    if isinstance(source, About):
        source = {"about": asdict(source)}
    stored = as_json(source) if isinstance(source, Report) else source
    style.save(figure, path, stored | numbers)
    picture = base64.b64encode(style.png(figure, dpi=100)).decode()
    text = html.escape(alt)
    body = f'<img src="data:image/png;base64,{picture}" alt="{text}"><br><small>{text}</small>'
    display({"text/html": body, "text/plain": alt}, raw=True)


def folded(table: pd.DataFrame, summary: str) -> None:
    """Show a table that opens when its summary is clicked."""
    body = f"<details><summary>{html.escape(summary)}</summary>{table.to_html()}</details>"
    display({"text/html": body, "text/plain": f"{summary}\n{table}"}, raw=True)


def stored_report(model: EvaluatedModel, dataset: Dataset, suite: str, seed: int, split: str = "") -> Report:
    """The report of a model in figures/evaluation.

    split : another one of the same source, whose recordings are not at hand; by default the dataset's own.
    Raises EcgnbError unless these recordings, this model, today's code and these settings made it.
    """
    path = STORED / f"{model.name}-{split or dataset.split}-{suite}.json"
    if not path.exists():
        raise EcgnbError(f"{path}: no such report; {COMPUTE}")
    report = read_report(path)
    expected = describe(dataset, seed=seed, model=model.name, digest=model.digest, suite=suite)
    _check_origin(path, report.about, replace(expected, split=split, signals="") if split else expected)
    return report


def stored_transfer(models: Sequence[EvaluatedModel], dataset: Dataset, seed: int) -> dict[str, Any]:
    """What `engine.transfer` found, from figures/evaluation, for some of its models; as `stored_report`."""
    path, names = STORED / f"transfer-{dataset.split}.json", [model.name for model in models]
    found, about = _stored(path, models)
    _check_origin(path, about, describe(dataset, seed=seed, model=about.model, suite="transfer"))
    return found | {"success": {a: {b: found["success"][a][b] for b in names} for a in names}}


def stored_noise(models: Sequence[EvaluatedModel], dataset: Dataset, seed: int) -> dict[str, Any]:
    """What `ci/noise.py` found on the test fold, of these models among others; as `stored_report`."""
    path = STORED.parent / "results" / "noise_stress.json"
    found, about = _stored(path, models)
    expected = describe(dataset, seed=seed, model=about.model, suite="noise_stress")
    _check_origin(path, about, replace(expected, split="test", signals=""))
    return found


def _stored(path: Path, models: Sequence[EvaluatedModel]) -> tuple[dict[str, Any], About]:
    """A stored result of several models, and where it comes from; EcgnbError if one of them is missing or another."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        about, digests = About(**found["about"]), [found["digests"][model.name] for model in models]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EcgnbError(f"{path}: no such models, or no file ({error}); {COMPUTE}") from error
    if digests != [model.digest for model in models]:
        raise EcgnbError(f"{path}: made with other models of these names; {COMPUTE}")
    return found, about


def _check_origin(path: Path, found: About, expected: About) -> None:
    """Raise EcgnbError if a stored result was made otherwise than `expected`; signals "" : not compared."""
    parts = {
        "recordings": ("data", "split", "protocol", "labels", *(["signals"] if expected.signals else [])),
        "model": ("model", "digest"),
        "settings": ("suite", "seed"),
    }
    other = [what for what, names in parts.items() if any(getattr(found, n) != getattr(expected, n) for n in names)]
    verified = STORED.parent / "verified.json"  # code that gives the same numbers, see ci/verify.py
    codes = [found.code, json.loads(verified.read_text("utf-8"))["code"] if verified.exists() else ""]
    if expected.code not in codes:
        other.append("code")
    if other:
        raise EcgnbError(f"{path}: made with other {', '.join(other)} than those of this notebook; {COMPUTE}")
