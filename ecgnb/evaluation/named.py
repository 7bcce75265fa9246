"""Models under a name, ready to be evaluated: shipped ones, files, and those that code makes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ecgnb import values
from ecgnb.constants import CLASSES, FS
from ecgnb.errors import EcgnbError
from ecgnb.evaluation.run import EvaluatedModel


def named_model(name: str | Path) -> EvaluatedModel:
    """A shipped model by name, or a model of one's own (see `named_models`), ready to be evaluated."""
    return named_models([name])[0]


def named_models(names: Sequence[str | Path], classes: Sequence[str] = (), fs: float = FS) -> list[EvaluatedModel]:
    """Several models, each under another name: shipped ones by name, files, or `package.module:function`.

    classes, fs : of those that do not say so themselves, Keras models: symbols of their classes, in the order of their
    logits, if they are not the challenge's four, and the sampling rate of their input in Hz.
    """
    from ecgnb.models.files import load_classifier, model_path

    unique = unique_names([_place(name) if values.is_import(name) else model_path(name) for name in names])
    models = []
    for name, own in zip(names, unique, strict=True):
        found = load_classifier(name)
        if hasattr(found, "logits"):
            models.append(from_classifier(found, own))
            continue
        (count,) = found.output_shape[1:]
        if not classes and count != len(CLASSES):
            raise EcgnbError(f"{name}: gives {count} logits; name their classes in that order, such as --classes N,A")
        models.append(from_keras(found, own, classes=tuple(classes) or CLASSES, fs=fs))
    return models


def _place(name: str | Path) -> Path:
    """`package.module:function` as if it were a file in the module's folder."""
    return Path(*str(name).replace(":", ".").split("."))


def unique_names(paths: Sequence[Path]) -> list[str]:
    """A name for each file: its own without ending, after as many folders as it takes to tell it from the others.

    >>> unique_names([Path("a/kept.keras"), Path("b/kept.keras"), Path("b/other.keras")])
    ['a-kept', 'b-kept', 'other']
    """
    parts = [path.resolve().with_suffix("").parts for path in paths]
    if twice := [path for path, own in zip(paths, parts, strict=True) if parts.count(own) > 1]:
        raise EcgnbError(f"{twice[0]} and {twice[1]} are one model, or differ in their ending alone; name it once")

    def name(own: tuple[str, ...]) -> str:
        depth = next(k for k in range(1, len(own) + 1) if sum(other[-k:] == own[-k:] for other in parts) == 1)
        return "-".join(own[-depth:])

    return [name(own) for own in parts]


def from_keras(
    model: Any, name: str, batch_size: int = 32, classes: tuple[str, ...] = CLASSES, fs: float = FS
) -> EvaluatedModel:
    """A Keras model that gives logits, ready to be evaluated under a name."""
    from ecgnb.models.keras_classifier import KerasClassifier

    return from_classifier(KerasClassifier(model, batch_size, classes=classes, fs=fs), name)


def from_classifier(classifier: Any, name: str) -> EvaluatedModel:
    """Any classifier, ready to be evaluated under a name. It needs a `digest`, see `EvaluatedModel`."""
    if not getattr(classifier, "digest", ""):
        raise EcgnbError(f"{name}: has no digest; give it an attribute `digest`, a text that changes with its logits")
    return EvaluatedModel(name, classifier, classifier.digest)
