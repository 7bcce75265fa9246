"""Plumbing that keeps the notebooks thin: parameters, folders, a model that is loaded or trained."""

from __future__ import annotations

import ast
import base64
import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from ecgnb.data.dataset import load_data
from ecgnb.errors import EcgnbError
from ecgnb.evaluation.run import EvaluatedModel
from ecgnb.evaluation.schema import About, Report, as_json, read_report
from ecgnb.models.devices import describe_devices
from ecgnb.models.files import load_model, model_path, save_model
from ecgnb.quiet import keras
from ecgnb.report import style
from ecgnb.training.configuration import TrainingConfig
from ecgnb.training.loop import train

CHECKOUT = Path(__file__).parents[1]
# Where relative paths start: the repository, or the working folder of a package installed without it.
ROOT = CHECKOUT if (CHECKOUT / "notebooks").is_dir() else Path.cwd()


def start(out: str, show_devices: bool = False) -> Path:
    """What every notebook does first: check the parameters, make the output folder `out`, and return it.

    Raises EcgnbError if papermill gave a parameter that the notebook does not have.
    """
    check_parameters()
    if show_devices:
        print(describe_devices())
    folder = resolve(out)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def resolve(path: str | Path) -> Path:
    """A parameter that is a path, or the name of a shipped model, as a path.

    A relative path counts from the repository's root, not from the folder that Jupyter, papermill or nbval
    happened to start in.
    """
    shipped = model_path(path)
    return shipped if shipped.is_absolute() and shipped.is_file() else ROOT / path


def check_parameters() -> None:
    """Refuse parameters that the notebook does not have (papermill itself only logs a warning).

    Papermill runs the notebook's parameters cell, then a cell of its own that begins with `# Parameters` and
    assigns what `-p` gave. A name that only the second one assigns is a misspelling.
    """
    shell = get_ipython()
    cells = shell.user_ns["In"] if shell else []
    for number, source in enumerate(cells):
        if source.startswith("# Parameters\n"):
            known = {name for cell in cells[:number] for name in _assigned(cell)}
            unknown = sorted(_assigned(source) - known)
            if unknown:
                raise EcgnbError(
                    f"no such parameter: {', '.join(unknown)}; this notebook has "
                    f"{', '.join(sorted(name for name in known if name.isupper()))}"
                )


def _assigned(source: str) -> set[str]:
    """Names that a cell assigns at its top level."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a cell with IPython magic assigns no parameters
        return set()
    targets = [t for node in body if isinstance(node, ast.Assign) for t in node.targets]
    return {t.id for t in targets if isinstance(t, ast.Name)}


def load_or_train(
    config: TrainingConfig | None,
    name: str,
    folder: Path,
    source: dict[str, str],
    *,
    start: str | Path = "baseline",
    resume: bool = True,
) -> tuple[keras.Model, pd.DataFrame | None, str]:
    """The model called `name` (a shipped one, or a path), or one trained by `config` if that is given.

    What is trained is saved by that name in `folder`/models.

    source : which recordings to train on: protocol, labels, data and bad, as in `load_data`; start : the model
    that a defence starts from.
    Returns the model, its training history (None if none lies beside it), and its name or how it was trained.
    """
    if config is None:
        path = resolve(name)
        csv = path.with_suffix(".csv")
        history = pd.read_csv(csv) if csv.exists() else None
        return load_model(path), history, Path(name).stem
    train_set, dev_set = (load_data(split, **source) for split in ("train", "dev"))
    origin = None if config.defence == "baseline" else load_model(resolve(start))
    run = folder / "runs" / config.defence
    model, history = train(config, train_set, dev_set, run, origin, resume)
    save_model(model, folder / "models" / f"{Path(name).stem}.keras")
    return model, history, f"{config.defence} trained here for {config.epochs} epochs"


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


def stored_report(model: EvaluatedModel, split: str, suite: str) -> Report:
    """The report of a model in figures/evaluation. Raises EcgnbError if it was made with other weights."""
    path = _evaluations() / f"{model.name}-{split}-{suite}.json"
    report = read_report(path)
    if report.about.weights != model.digest:
        raise EcgnbError(
            f"{path}: made with other weights than {model.name} has now; make it again: python -m ecgnb "
            f"evaluate {model.name} --split {split} --suite {suite} --out figures/evaluation"
        )
    return report


def stored_transfer(names: Sequence[str], split: str) -> dict[str, Any]:
    """What `engine.transfer` found, from figures/evaluation, for some of its models."""
    path = _evaluations() / f"transfer-{split}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        success = {a: {b: found["success"][a][b] for b in names} for a in names}
    except (OSError, ValueError, KeyError) as error:
        remedy = f"make it again: python -m ecgnb transfer {' '.join(names)} --split {split} --out figures/evaluation"
        raise EcgnbError(f"{path}: no such models, or no file ({error}); {remedy}") from error
    return found | {"success": success}


def _evaluations() -> Path:
    return ROOT / "figures" / "evaluation"
