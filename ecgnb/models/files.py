"""Model files: the shipped models by name, a user's own by path."""

from __future__ import annotations

from pathlib import Path

from ecgnb.constants import CLASSES, WINDOW
from ecgnb.errors import EcgnbError
from ecgnb.files import write_atomically
from ecgnb.models import network
from ecgnb.models.logits import giving_logits
from ecgnb.models.saved import check_finite, naming, read_model
from ecgnb.quiet import keras

CHECKOUT = Path(__file__).parents[2] / "models"
INSTALLED = Path(__file__).parents[1] / "shipped"  # where `pip install .` puts a copy of them


def shipped_folder() -> Path:
    """The folder of the shipped models: in the checkout, or inside the installed package."""
    return CHECKOUT if (CHECKOUT / "baseline.keras").is_file() else INSTALLED


def model_path(name: str | Path) -> Path:
    """A model's file: a shipped one for a bare name, else the path as it is."""
    return Path(name) if Path(name).suffix else shipped_folder() / f"{name}.keras"


def load_model(name: str | Path) -> keras.Model:
    """A classifier that gives logits, by name ("baseline", "static", "adaptive", …) or by path.

    Reads `.keras`, and Keras-2 `.hdf5`/`.h5` such as the released `ResNet_30s_34lay_16conv.hdf5`. No code of a file
    is run (see `saved`), and a softmax at the end is taken off (see `logits`).
    Raises EcgnbError, in one line that names the file, for what cannot be read or is no such classifier.
    """
    path = model_path(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in shipped_folder().glob("*.keras"))) or "none here"
        raise EcgnbError(f"{path}: no such model; give a path or one of the shipped names ({known})")
    with naming(path):
        model = read_model(path)
        inputs, outputs = ([tensor.shape[1:] for tensor in tensors] for tensors in (model.inputs, model.outputs))
        if inputs != [(WINDOW, 1)] or outputs != [(len(CLASSES),)]:
            shapes = " to ".join(" and ".join(map(str, part)) for part in (inputs, outputs))
            raise EcgnbError(f"maps {shapes}, expected ({WINDOW}, 1) to ({len(CLASSES)},)")
        return giving_logits(model)


def save_model(model: keras.Model, path: Path) -> None:
    """Write weights and architecture in float32, without optimizer state, to a `.keras` file, atomically."""
    check_finite(model)
    plain = network.build()
    plain.set_weights(model.get_weights())
    write_atomically(path, plain.save)
