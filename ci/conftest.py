"""Fixtures: real recordings where they can be had, small archives and models made on the spot."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import scipy.io

from ecgnb.constants import FS, WINDOW
from ecgnb.data.dataset import Dataset, load_data
from ecgnb.data.download import find_archive
from ecgnb.errors import EcgnbError
from ecgnb.quiet import keras, layers

ROOT = Path(__file__).parents[1]
# PyTorch is no part of `ci/test`: where it is missing, its tests do not count as skipped.
collect_ignore = [] if importlib.util.find_spec("torch") else ["test_torch.py"]

hypothesis.settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("no deadline")


def pytest_runtest_setup(item):
    """Tests of real recordings are skipped without them, except in CI, where that is a failure."""
    if item.get_closest_marker("real"):
        try:
            find_archive("validation")
        except EcgnbError as error:
            if os.environ.get("CI") == "true":
                pytest.fail(f"CI=true needs the real recordings: {error}")
            pytest.skip(f"no real recordings: {error}")


@pytest.fixture(scope="session")
def validation() -> Dataset:
    """The 300 real validation recordings."""
    return load_data("validation", data="physionet")


@pytest.fixture(scope="session")
def demo_train() -> Dataset:
    return load_data("train", data="demo")


@pytest.fixture(scope="session")
def demo_dev() -> Dataset:
    return load_data("dev", data="demo")


@pytest.fixture(scope="session")
def linear() -> tuple[keras.Model, np.ndarray]:
    """A linear classifier, logits = flatten(x) @ w, and its weights w : (9000, 4)."""
    rng = np.random.default_rng(0)
    inputs = keras.Input((WINDOW, 1))
    model = keras.Model(inputs, layers.Dense(4, use_bias=False)(layers.Flatten()(inputs)))
    weights = rng.normal(scale=0.01, size=(WINDOW, 4)).astype(np.float32)
    model.set_weights([weights])
    return model, weights


@pytest.fixture(scope="session")
def browser():
    """Chromium, driven by Playwright; without one of them a test is skipped, except in CI, where that is a failure."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install .[browser]")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on PATH")
    with playwright.sync_playwright() as driver, driver.chromium.launch(executable_path=path) as chromium:
        yield chromium


@pytest.fixture
def working_folder(tmp_path, monkeypatch):
    """An empty folder to work in, from which modules of the user's are imported, and forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def ecg(seconds: float = 30.0) -> np.ndarray:
    """An int16 signal that passes every check (a sine; no claim to be an ECG)."""
    time = np.arange(int(seconds * FS)) / FS
    return np.round(500 * np.sin(2 * np.pi * time)).astype(np.int16)


def mat_bytes(signal: np.ndarray, name: str = "val") -> bytes:
    """A MATLAB v4 file with one row vector."""
    file = io.BytesIO()
    scipy.io.savemat(file, {name: signal[None]}, format="4")
    return file.getvalue()


def header(
    name: str, fs: str = "300", gain: str = "1000/mV", length: str = "9000", rest: str = "16 0 0 0 0 ECG"
) -> str:
    """A WFDB header as the challenge has them."""
    return f"{name} 1 {fs} {length}\r\n{name}.mat 16+24 {gain} {rest}\r\n"


def small_network(dropout: float = 0.3, precision: str = "float32") -> keras.Model:
    """A network with the same kinds of layers and settings as the real one, a thousandth of its work."""
    policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"
    inputs = keras.Input((WINDOW, 1))
    x = layers.Conv1D(4, 16, strides=16, dtype=policy)(inputs)
    x = layers.ReLU(dtype=policy)(layers.BatchNormalization(dtype=policy)(x))
    x = layers.Flatten(dtype=policy)(layers.Dropout(dropout, dtype=policy)(x))
    return keras.Model(inputs, layers.Dense(4, dtype="float32")(x))


def recordings(demo: Dataset, samples: int, leads: int, classes: tuple[str, ...], fs: float) -> Dataset:
    """The recordings of a set, cut, with as many equal leads, and as if they had these classes."""
    x = np.ascontiguousarray(np.repeat(demo.x[:, :samples], leads, axis=2))
    y = demo.y % len(classes)
    return replace(demo, x=x, y=y, lengths=np.minimum(demo.lengths, samples), classes=classes, fs=fs)
