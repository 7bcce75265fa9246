"""The one door for model files: what is in a file is read and checked here before Keras sees any of it.

A model file may come from anybody, and Keras looks up every class and function that its configuration names. So the
configuration is read as JSON, and only layers of the lists below are let through, each by a name that is written anew.
Keras is given a private copy, made of what was checked. Weights are plain arrays; links to other files are refused.
"""

from __future__ import annotations

import functools
import inspect
import io
import json
import math
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ecgnb.errors import EcgnbError
from ecgnb.quiet import keras, layers

LARGEST_FILE = 2**30  # bytes, also of what is packed in it
LARGEST_CONFIG = 2**24  # bytes
LARGEST_ACTIVATION = 2**26  # numbers that a layer makes of one recording
MEMBERS = {"metadata.json": LARGEST_CONFIG, "config.json": LARGEST_CONFIG, "model.weights.h5": LARGEST_FILE}

LAYERS = (
    "InputLayer Dense EinsumDense Conv1D DepthwiseConv1D SeparableConv1D Conv1DTranspose Conv2D DepthwiseConv2D "
    "MaxPooling1D AveragePooling1D MaxPooling2D AveragePooling2D GlobalMaxPooling1D GlobalAveragePooling1D "
    "GlobalMaxPooling2D GlobalAveragePooling2D BatchNormalization LayerNormalization GroupNormalization "
    "UnitNormalization RMSNormalization Normalization Rescaling LSTM GRU SimpleRNN Bidirectional TimeDistributed "
    "MultiHeadAttention GroupQueryAttention Attention AdditiveAttention Activation ReLU LeakyReLU PReLU ELU Softmax "
    "Add Subtract Multiply Average Maximum Minimum Concatenate Dot Flatten Reshape Permute RepeatVector Identity "
    "Cropping1D ZeroPadding1D UpSampling1D Dropout SpatialDropout1D AlphaDropout GaussianDropout GaussianNoise"
)
MODELS = frozenset({"Functional", "Sequential", "Model"})
OPERATIONS = {  # called on tensors of the graph: arithmetic alone
    "keras.src.ops.numpy": "Abs Absolute Add Average Clip Concatenate Divide Exp ExpandDims Log Max Maximum Mean Min "
    "Minimum Multiply Negative Power Reshape Round Sqrt Square Squeeze Stack Subtract Sum Tanh Transpose TrueDivide",
    "keras.src.ops.nn": "Elu Gelu LeakyRelu LogSoftmax Relu Sigmoid Silu Softmax Softplus",
}
ACTIVATIONS = (
    "linear relu relu6 leaky_relu elu selu celu gelu silu swish mish softplus softsign tanh sigmoid hard_sigmoid "
    "hard_silu hard_swish hard_tanh log_sigmoid exponential softmax log_softmax"
)
PRECISIONS = frozenset({"float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16"})
# Settings that newer versions of Keras write for every layer, and that mean nothing where older ones lack them.
UNUSED = {"renorm_momentum"}
OF_ANY_LAYER = {"name", "trainable", "dtype", "autocast", "batch_shape", "batch_input_shape", "input_shape"}
INITIALIZER = "FromFile"


def read_model(path: Path) -> keras.Model:
    """The model of a `.keras` or a Keras-2 `.hdf5`/`.h5` file, not compiled.

    For use within `naming`. Raises EcgnbError for what is refused, and whatever Keras raises.
    """
    content = _content(path)
    legacy = path.suffix != ".keras"
    if legacy:
        text, weights = _legacy_config(content), content
    else:
        members = _members(content)
        text, weights = members["config.json"], members["model.weights.h5"]
    size = _check_weights(weights)
    config = _checked(_json(text))
    config.pop("compile_config", None)
    if config["class_name"] not in MODELS:
        raise EcgnbError(f"is a {config['class_name']}, not a model")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"model{'.h5' if legacy else '.keras'}"
        if legacy:
            copy.write_bytes(content)
            with h5py.File(copy, "r+") as file:
                file.attrs["model_config"] = json.dumps(config)
        else:
            with zipfile.ZipFile(copy, "w") as archive:
                archive.writestr("metadata.json", members["metadata.json"])
                archive.writestr("config.json", json.dumps(config))
                archive.writestr("model.weights.h5", weights)
        return _load(copy, size)


def restore(model: keras.Model, path: Path) -> None:
    """Give a compiled model the weights, and its optimizer the state, of a `.keras` checkpoint of the same network."""
    with naming(path), tempfile.TemporaryDirectory() as folder:
        weights = _members(_content(path))["model.weights.h5"]
        _check_weights(weights)
        copy = Path(folder) / "checkpoint.weights.h5"
        copy.write_bytes(weights)
        model.optimizer.build(model.trainable_variables)
        model.load_weights(copy)
        check_finite(model)


def check_finite(model: keras.Model) -> None:
    """Raise EcgnbError for weights that hold NaN or infinity."""
    for weight in model.weights:
        if not np.isfinite(np.asarray(weight, np.float32)).all():
            raise EcgnbError(f"weights {weight.path} hold NaN or infinity")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file is one line that names it."""
    try:
        yield
    except EcgnbError as error:
        raise EcgnbError(f"{path}: {error}") from error
    except Exception as error:  # Keras, h5py and zipfile raise nearly anything for foreign files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise EcgnbError(f"{path}: cannot be loaded as a Keras model ({reason})") from error


def _content(path: Path) -> bytes:
    if path.suffix not in (".keras", ".h5", ".hdf5"):
        raise EcgnbError("expected a .keras, .h5 or .hdf5 file")
    if path.stat().st_size > LARGEST_FILE:
        raise EcgnbError(f"has {path.stat().st_size} bytes; more than {LARGEST_FILE} are not read")
    return path.read_bytes()


def _members(content: bytes) -> dict[str, bytes]:
    """The three members of a `.keras` archive, none larger than allowed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        found = archive.infolist()
        if sorted(member.filename for member in found) != sorted(MEMBERS):
            raise EcgnbError(f"expected an archive of {', '.join(MEMBERS)} and nothing else")
        for member in found:
            if member.file_size > MEMBERS[member.filename]:
                raise EcgnbError(f"{member.filename} unpacks to {member.file_size} bytes, which is too large")
        return {member.filename: archive.read(member) for member in found}


def _legacy_config(content: bytes) -> str | bytes:
    with h5py.File(io.BytesIO(content), "r") as file:
        if "model_config" not in file.attrs:
            raise EcgnbError("holds weights, but no model; save the whole model")
        return file.attrs["model_config"]


def _check_weights(content: bytes) -> int:
    """Refuse what is no plain array inside this very file; returns how many numbers there are."""
    with h5py.File(io.BytesIO(content), "r") as file:
        _check_attributes(file, len(content))
        return sum(math.prod(dataset.shape) for dataset in _datasets(file, set(), len(content)))


def _datasets(group: h5py.Group, seen: set[int], size: int) -> Iterator[h5py.Dataset]:
    """Every array below a group of a file of `size` bytes."""
    for name in group:
        if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise EcgnbError(f"{name} in its weights is a link to another place or file; it is refused")
        item = group[name]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            raise EcgnbError(f"{name} in its weights is linked twice; it is refused")
        seen.add(address)
        _check_attributes(item, size)
        if isinstance(item, h5py.Group):
            yield from _datasets(item, seen, size)
        elif not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiubSV" or item.dtype.hasobject:
            raise EcgnbError(f"{name} in its weights is no array of numbers")
        elif item.is_virtual or item.external:
            raise EcgnbError(f"{name} in its weights lies in another file; it is refused")
        elif item.shape is None or item.nbytes > size:
            raise EcgnbError(f"{name} in its weights claims more than the file holds")
        else:
            yield item


def _check_attributes(item: h5py.HLObject, size: int) -> None:
    if h5py.h5a.get_num_attrs(item.id):
        for name in item.attrs:
            claimed = item.attrs.get_id(name)
            if math.prod(claimed.shape or ()) * claimed.dtype.itemsize > size:
                raise EcgnbError(f"attribute {name} of its weights claims more than the file holds")


def _json(text: str | bytes) -> Any:
    def refuse(constant):
        raise EcgnbError(f"configuration holds {constant}")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise EcgnbError(f"its configuration is no JSON ({error})") from error


def _checked(value: Any) -> Any:
    """A part of a configuration as Keras may read it: the same, but for names, which are written anew."""
    if isinstance(value, list):
        return [_checked(part) for part in value]
    if not isinstance(value, dict):
        return value
    if "class_name" in value:
        return _object(value)
    return {key: _checked(part) for key, part in value.items()}


def _object(value: dict) -> Any:
    """A checked part that names a class."""
    name, module, config = value["class_name"], value.get("module"), value.get("config")
    if name == "__keras_tensor__":
        return {"class_name": name, "config": _plain(config)}
    if not isinstance(config, dict) or not isinstance(name, str):
        raise EcgnbError(f"{name} is not configured by name and value; it is refused")
    parts = {key: _checked(value[key]) for key in ("name", "inbound_nodes", "shared_object_id") if key in value}
    if any(_says_training(node) for node in parts.get("inbound_nodes") or []):
        raise EcgnbError(f"layer {value.get('name')} is called in training mode; it would be random")
    if "build_config" in value:
        parts["build_config"] = _plain(value["build_config"])
    own = {"class_name": name, "registered_name": None} if module else {"class_name": name}
    where = None if module is None else "keras.models" if name in MODELS else "keras.layers"
    if name in MODELS and value.get("registered_name") in (None, name):
        of_model = {key: _precision(part) if key == "dtype" else _checked(part) for key, part in config.items()}
        if module and name == "Functional":
            own["registered_name"], where = name, "keras.src.models.functional"
        return own | {"module": where, "config": of_model} | parts if module else own | {"config": of_model} | parts
    if name in OPERATIONS.get(str(module), "").split() and value.get("registered_name") in (None, name):
        return own | {"module": module, "registered_name": name, "config": _checked(config)} | parts
    known = module in (None, "keras.layers") or str(module).startswith("keras.src.layers.")
    if not (known and name in LAYERS.split() and hasattr(layers, name)) or value.get("registered_name") not in (
        None,
        name,
    ):
        shown = ".".join(str(part) for part in (module, value.get("registered_name") or name) if part)
        raise EcgnbError(f"holds {shown[:100]}, which is no layer that may be read from a file; it is refused")
    return own | ({"module": where} if where else {}) | {"config": _settings(getattr(layers, name), config)} | parts


def _settings(kind: type, config: dict) -> dict:
    """A layer's settings, all of which its class has in this version of Keras."""
    checked: dict[str, Any] = {}
    known = _parameters(kind)
    for key, value in config.items():
        if key.endswith("_initializer"):
            continue
        if key.endswith(("_regularizer", "_constraint")):
            checked[key] = None  # they act in training alone
        elif key.endswith("activation"):
            checked[key] = _activation(value)
        elif key == "dtype" and value is not None:
            checked[key] = _precision(value)
        elif key in known or not (key in UNUSED or value is None or value is False):
            checked[key] = _checked(value)
    # Whatever a layer would start with, its weights are in the file.
    return checked | {name: INITIALIZER for name in known if name.endswith("_initializer")}


@functools.cache
def _parameters(kind: Any) -> set[str]:
    own = (inspect.signature(parent.__init__).parameters for parent in kind.__mro__[:-1] if "__init__" in vars(parent))
    return OF_ANY_LAYER.union(*own)


def _activation(value: Any) -> Any:
    if isinstance(value, dict) and value.get("class_name") == "function":
        value = value.get("config")
    if isinstance(value, dict):
        return _checked(value)  # a layer as activation
    if value is not None and value not in ACTIVATIONS.split():
        raise EcgnbError(f"holds the activation {str(value)[:100]!r}, which may not be read from a file; it is refused")
    return value


def _precision(value: Any) -> str:
    if isinstance(value, dict) and isinstance(value.get("config"), dict):
        value = value["config"].get("name")
    if value not in PRECISIONS:
        raise EcgnbError(f"computes in {str(value)[:100]!r}, expected one of {', '.join(sorted(PRECISIONS))}")
    return value


def _plain(value: Any) -> Any:
    """A part that names no class."""
    if isinstance(value, dict) and "class_name" in value:
        raise EcgnbError(f"names {str(value['class_name'])[:100]} where only numbers belong; it is refused")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _plain(part)
    return value


def _says_training(node: Any) -> bool:
    if isinstance(node, dict):
        return bool(node.get("training")) or any(_says_training(part) for part in node.values())
    return isinstance(node, list) and any(_says_training(part) for part in node)


def _load(path: Path, numbers: int) -> keras.Model:
    """What Keras makes of a checked file, with no more weights than the file holds numbers."""
    left = 4 * numbers  # a layer within a wrapper is made more than once

    class FromFile(keras.Initializer):
        def __call__(self, shape, dtype=None, **_):
            nonlocal left
            left -= math.prod(shape)
            if left < 0:
                raise EcgnbError("its layers need more weights than it holds")
            return keras.ops.zeros(shape, dtype)

    with keras.saving.custom_object_scope({INITIALIZER: FromFile}):
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    for layer in model._flatten_layers():
        for name, value in vars(layer).items():
            if isinstance(value, FromFile):
                setattr(layer, name, keras.initializers.Zeros())
        for tensor in keras.tree.flatten(getattr(layer, "output", [])) if layer._inbound_nodes else []:
            if math.prod(size or 1 for size in tensor.shape) > LARGEST_ACTIVATION:
                raise EcgnbError(f"layer {layer.name} makes {tensor.shape} numbers of one recording, which is too many")
    check_finite(model)
    return model
