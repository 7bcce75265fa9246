"""Model files: the shipped models by name, a user's own by path."""

from __future__ import annotations

from pathlib import Path

from ecgnb.constants import CLASSES, WINDOW
from ecgnb.errors import EcgnbError
from ecgnb.files import write_atomically
from ecgnb.models import network
from ecgnb.quiet import keras, layers

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

    Reads `.keras`, and Keras-2 `.hdf5`/`.h5` such as the released `ResNet_30s_34lay_16conv.hdf5`. A softmax at
    the end is taken off. Files are loaded in Keras' safe mode, and models with Lambda layers are refused.
    """
    path = model_path(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in shipped_folder().glob("*.keras"))) or "none here"
        raise EcgnbError(f"{path}: no such model; give a path or one of the shipped names ({known})")
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises ValueError, TypeError, OSError, … for foreign files
        reason = str(error).strip().splitlines()[0][:200]
        raise EcgnbError(f"{path}: cannot be loaded as a Keras model ({reason})") from error
    if any(isinstance(layer, layers.Lambda) for layer in model.layers):
        raise EcgnbError(f"{path}: holds a Lambda layer, that is, code; it is refused")
    if model.input_shape[1:] != (WINDOW, 1) or model.output_shape[1:] != (len(CLASSES),):
        raise EcgnbError(
            f"{path}: maps {model.input_shape[1:]} to {model.output_shape[1:]}, expected "
            f"({WINDOW}, 1) to ({len(CLASSES)},)"
        )
    return _without_softmax(model, path)


def save_model(model: keras.Model, path: Path) -> None:
    """Write weights and architecture in float32, without optimizer state, to a `.keras` file, atomically."""
    plain = network.build()
    plain.set_weights(model.get_weights())
    write_atomically(path, plain.save)


def _without_softmax(model: keras.Model, path: Path) -> keras.Model:
    """The same network without its final softmax."""
    last = model.layers[-1]
    if isinstance(last, layers.Softmax) or (
        isinstance(last, layers.Activation) and last.activation is keras.activations.softmax
    ):
        return keras.Model(model.inputs, last.input)
    activation = getattr(last, "activation", keras.activations.linear)
    if activation is keras.activations.softmax:
        last.activation = keras.activations.linear
    elif activation is not keras.activations.linear:
        raise EcgnbError(f"{path}: ends in {activation.__name__}, expected logits or softmax")
    return model
