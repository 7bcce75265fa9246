"""Mutated model files: each is one line of error, or the same logits as before, or a model with another digest.

Usage: python ci/fuzz_models.py --count 500 [--seed 0]
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from ecgnb.constants import CLASSES, FS
from ecgnb.errors import EcgnbError
from ecgnb.models.classifier import signals
from ecgnb.models.files import load_model
from ecgnb.models.identity import model_digest
from ecgnb.quiet import keras, layers

Rng = np.random.Generator
FOREIGN = (
    *("Lambda", "TFSMLayer", "Switch", "function", "__lambda__", "__numpy__", "Functional", "Layer", "", 7, None),
    *(-1, 0, 3, 2**31, 2**62, 1e300, "relu", "plot_model", ["ecg", 0, 0], {}, [], True, "os.system", "a>b"),
)


def small_model() -> keras.Model:
    """A network with kinds of layers that ECG classifiers have, and little work."""
    inputs = keras.Input((9000, 1), name="ecg")
    x = layers.BatchNormalization()(layers.Conv1D(4, 16, strides=16, name="stem")(inputs))
    x = layers.Add()([layers.ReLU()(x), layers.Conv1D(4, 3, padding="same")(x)])
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling1D()(layers.MaxPooling1D(4)(x)))
    return keras.Model(inputs, layers.Dense(4, name="logits")(x))


def flip(content: bytes, rng: Rng) -> bytes:
    """Some bytes changed."""
    changed = bytearray(content)
    for position in rng.integers(len(content), size=rng.integers(1, 9)):
        changed[position] ^= int(rng.integers(1, 256))
    return bytes(changed)


def truncate(content: bytes, rng: Rng) -> bytes:
    """The end is missing."""
    return content[: rng.integers(len(content))]


def archive(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name, member in members.items():
            packed.writestr(name, member)
    return file.getvalue()


def unpacked(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def swap(content: bytes, rng: Rng) -> bytes:
    """A member is missing, doubled in name, or holds what another should."""
    members = unpacked(content)
    one, other = rng.choice(sorted(members), 2, replace=False)
    kind = rng.integers(3)
    if kind == 0:
        members.pop(one)
    elif kind == 1:
        members[one], members[other] = members[other], members[one]
    else:
        members[f"assets/{one}"] = members[other]
    return archive(members)


def lie(content: bytes, rng: Rng) -> bytes:
    """A size or an offset in the archive's directory says something else."""
    changed, entry = bytearray(content), content.rindex(b"PK\x01\x02")
    position = entry + int(rng.choice([20, 24, 28, 42]))
    changed[position : position + 4] = int(rng.integers(2**32)).to_bytes(4, "little")
    return bytes(changed)


def inner(content: bytes, rng: Rng) -> bytes:
    """Bytes changed within the weights, under a right check sum, so that HDF5 has to notice. Numbers stay."""
    members = unpacked(content)
    weights = bytearray(members["model.weights.h5"])
    with h5py.File(io.BytesIO(bytes(weights)), "r") as file:
        numbers: list[tuple[int, int]] = []
        file.visititems(lambda _, item: numbers.append(extent(item)) if isinstance(item, h5py.Dataset) else None)
    for position in rng.integers(len(weights), size=3):
        if not any(start <= position < end for start, end in numbers):
            weights[position] ^= int(rng.integers(1, 256))
    return archive(members | {"model.weights.h5": bytes(weights)})


def extent(item: h5py.Dataset) -> tuple[int, int]:
    start = item.id.get_offset() or 0
    return start, start + item.nbytes


def rewrite(content: bytes, rng: Rng) -> bytes:
    """A value of the configuration replaced, dropped, or one of its keys renamed."""
    members = unpacked(content)
    config = json.loads(members["config.json"])
    places: list[tuple[dict | list, str | int]] = []

    def collect(value):
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            places.append((value, key))
            collect(value[key])

    collect(config)
    holder, key = places[rng.integers(len(places))]
    kind = rng.integers(4)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[f"{key}s"] = holder.pop(key)
    else:
        holder[key] = FOREIGN[rng.integers(len(FOREIGN))]
    return archive(members | {"config.json": json.dumps(config).encode()})


MUTATIONS: tuple[Callable[[bytes, Rng], bytes], ...] = (flip, truncate, swap, lie, inner, rewrite, rewrite, rewrite)


def fuzz(count: int, seed: int = 0) -> Counter:
    """(mutation, outcome) -> how often. Raises AssertionError, or whatever a reader let through."""
    rng, counts = np.random.default_rng(seed), Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        keras.utils.set_random_seed(seed)
        small_model().save(path)
        content, x = path.read_bytes(), signals((9000, 1))
        model = load_model(path)
        expected, digest = np.asarray(model(x, training=False)), model_digest(model, CLASSES, FS)
        for number in range(count):
            mutate = MUTATIONS[number % len(MUTATIONS)]
            path.write_bytes(mutate(content, rng))
            try:
                model = load_model(path)
            except EcgnbError as error:
                assert str(path) in str(error) and "\n" not in str(error), error
                outcome = "refused in one line"
            else:
                same = np.array_equal(np.asarray(model(x, training=False)), expected)
                assert same or model_digest(model, CLASSES, FS) != digest, f"{number}: other logits, the same digest"
                outcome = "the same logits" if same else "another model, by its digest"
            counts[mutate.__name__, outcome] += 1
            assert [file.name for file in Path(folder).iterdir()] == [path.name]
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts = fuzz(options.count, options.seed)
    for (mutation, outcome), number in sorted(counts.items()):
        print(f"{mutation:9s} {outcome:30s} {number:5d}")
    print(f"{sum(counts.values())} mutated model files, no crash, no traceback")
    return 0


if __name__ == "__main__":
    sys.exit(main())
