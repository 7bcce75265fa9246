"""Model files: the shipped models by name, a user's own by path."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ecgnb import values
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
    """A classifier that gives logits, by name ("baseline", "static", "adaptive", …), by path, or made by a function.

    Reads `.keras`, and Keras-2 `.hdf5`/`.h5` such as the released `ResNet_30s_34lay_16conv.hdf5`: models that map
    (samples, leads) to any number of classes. No code of a file is run (see `saved`), and a softmax at the end is taken
    off (see `logits`). `package.module:function` is a function of the user's that returns a Keras model.
    Raises EcgnbError, in one line that names the file, for what cannot be read or is no such classifier.
    """
    found = load_classifier(name)
    if not isinstance(found, keras.Model):
        raise EcgnbError(f"{name}: gives a {type(found).__name__}, expected a Keras model here")
    return found


def load_classifier(name: str | Path) -> Any:
    """As `load_model`; but a function of the user's may also return any `Classifier`."""
    if values.is_import(name):
        made = values.imported(str(name))()
        if hasattr(made, "logits") and hasattr(made, "loss_and_gradient"):
            return made
        if not isinstance(made, keras.Model):
            raise EcgnbError(
                f"{name}: gives a {type(made).__name__}, expected a Keras model or a classifier; a PyTorch module in a "
                "TorchClassifier, which says its classes, rate and shape"
            )
        with naming(Path(name)):
            return _checked(made)
    path = model_path(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in shipped_folder().glob("*.keras"))) or "none here"
        raise EcgnbError(f"{path}: no such model; give a path, package.module:function or a shipped name ({known})")
    with naming(path):
        return _checked(read_model(path))


def _checked(model: keras.Model) -> keras.Model:
    """A Keras model that maps (samples, leads) to logits."""
    inputs, outputs = ([tensor.shape[1:] for tensor in tensors] for tensors in (model.inputs, model.outputs))
    if [len(shape) for shape in (*inputs, *outputs)] != [2, 1] or None in (inputs[0][1], outputs[0][0]):
        shapes = " to ".join(" and ".join(map(str, part)) for part in (inputs, outputs))
        raise EcgnbError(f"maps {shapes}, expected (samples, leads) to (classes,); a Reshape or Permute may do it")
    return giving_logits(model)


def save_model(model: keras.Model, path: Path) -> None:
    """Write weights and architecture in float32, without optimizer state, to a `.keras` file, atomically."""
    check_finite(model)
    plain = network.copied(model)
    plain.set_weights(model.get_weights())
    write_atomically(path, plain.save)


def check_readable(model: keras.Model) -> None:
    """Raise EcgnbError, before any work, for a model that could be saved and not be read again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        try:
            save_model(model, path)
            load_model(path)
        except Exception as error:  # layers of one's own raise nearly anything when they are copied
            reason = " ".join(str(error).replace(f"{path}: ", "").split())[:200]
            raise EcgnbError(f"this model could not be read again once it is saved: {reason}") from error
