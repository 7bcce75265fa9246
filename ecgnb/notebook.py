"""Plumbing that keeps the notebooks thin: parameters, folders, model or training run."""

from __future__ import annotations

import ast
from pathlib import Path

import keras
import pandas as pd
from IPython import get_ipython

from ecgnb.data import dataset as data
from ecgnb.errors import EcgnbError
from ecgnb.models import network
from ecgnb.training import loop as training

ROOT = Path(__file__).parents[1]


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


def output_folder(out: str) -> Path:
    """OUT as a folder, created; a relative path counts from the repository's root, not from the caller's.

    So Jupyter, papermill and nbval, which all start elsewhere, write to the same place.
    """
    folder = ROOT / out
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def load_or_train(
    config: training.TrainingConfig | None,
    name: str,
    folder: Path,
    source: dict[str, str],
    *,
    start: str | Path = "baseline",
    resume: bool = True,
) -> tuple[keras.Model, pd.DataFrame | None, str]:
    """The model called `name` (a shipped one, or a path), or one trained by `config` if that is given.

    What is trained is saved by that name in `folder`/models.

    source : which recordings to train on: protocol, labels, data and bad, as in `data.load`.
    Returns the model, its training history (None if none lies beside it) and a description.
    """
    if config is None:
        model = network.load(name)
        csv = network.path_of(name).with_suffix(".csv")
        history = pd.read_csv(csv) if csv.exists() else None
        return model, history, f"shipped {name}" if history is not None else str(name)
    train_set, dev_set = (data.load(split, **source) for split in ("train", "dev"))
    origin = None if config.defence == "baseline" else network.load(start)
    run = folder / "runs" / config.defence
    model, history = training.train(config, train_set, dev_set, run, origin, resume)
    network.save(model, folder / "models" / f"{Path(name).stem}.keras")
    return model, history, f"{config.defence} trained here for {config.epochs} epochs"


def devices() -> str:
    """What this session computes on, in one line."""
    if keras.backend.backend() == "jax":
        import jax

        found = [str(device) for device in jax.devices()]
    else:
        import tensorflow as tf

        found = [device.name for device in tf.config.list_logical_devices()]
    return f"Keras {keras.__version__} on {keras.backend.backend()}: {', '.join(found)}"
