"""The leak experiment: what a model gains on the validation recordings if it was trained on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ecgnb import values
from ecgnb.data.dataset import Dataset, load_data
from ecgnb.errors import EcgnbError

# What training holds besides the training fold -> how its protocol is named.
ARMS = {"": "", "with": " with the validation recordings", "without": " with training recordings repeated"}


def protocol_name(protocol: str, leak: str = "") -> str:
    """How a protocol is named in an arm of the experiment. Raises EcgnbError if it has no such arm."""
    values.read("LEAK", leak, "", tuple(ARMS))
    if leak and protocol != "leakfree":
        raise EcgnbError(f"LEAK={leak!r}: protocol {protocol} has the leak already; give protocol leakfree")
    return protocol + ARMS[leak]


def load_split(split: str, *, leak: str = "", **source: Any) -> Dataset:
    """The recordings of one split, as `load_data`, or those of an arm of the leak experiment.

    leak : "with" adds the validation recordings to "train". "without" adds as many recordings of "train" itself, of
        the same classes, so that they are there twice. Row by row the two differ in the added recordings alone: labels,
        classes and the number of steps are the same. In both arms "dev" is the validation set, so that the
        history holds its scores after every epoch. "": no experiment.
    source : the other arguments of `load_data`.
    """
    protocol_name(source.get("protocol", "leakfree"), leak)
    if not leak:
        return load_data(split, **source)
    dataset = load_data("validation" if split == "dev" else split, **source)
    if split == "train":
        validation = load_data("validation", **source)
        dataset = _joined(dataset, validation if leak == "with" else dataset.take(_of_classes(dataset, validation.y)))
    return replace(dataset, protocol=dataset.protocol + ARMS[leak])


def _of_classes(dataset: Dataset, y: np.ndarray) -> np.ndarray:
    """(n,) indices of recordings of the classes `y`, the first of each class first; again from there if too few."""
    rows = np.empty(len(y), np.int64)
    for c in np.unique(y):
        found = np.flatnonzero(dataset.y == c)
        if not len(found):
            raise EcgnbError(f"{dataset.title}: no recording of class {dataset.classes[c]}; the experiment needs some")
        rows[y == c] = np.resize(found, np.sum(y == c))
    return rows


def _joined(first: Dataset, second: Dataset) -> Dataset:
    """The recordings of two sets of the same kind, one after the other."""
    names = ("x", "y", "names", "lengths", "mean_mv", "sd_mv")
    arrays: dict[str, Any] = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in names}
    return replace(first, **arrays, signals=(*first.signals, *second.signals))
