"""The shipped models judged by code that is not the project's, but for where the recordings lie.

SciPy reads the recordings, ART attacks (its own PGD, with a mask for the padding), Keras loads the model file. Recall, clean
and under attack, must be that of the stored reports to within one recording.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile

import keras
import numpy as np
import pytest
import scipy.io
from conftest import ROOT
from test_peers import art_attacks, in_art

from ecgnb.data.download import find_archive, find_labels_v3

pytestmark = [pytest.mark.real, pytest.mark.nightly]
MODELS = ("baseline", "static", "adaptive", "fast")
ONE_HOT_NORMAL = np.array([[0, 1, 0, 0]], np.float32)


def samples_of(split: str) -> dict[str, np.ndarray]:
    """record -> its samples, int16, from the zip file."""
    with zipfile.ZipFile(find_archive(split).path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".mat")]
        return {n.split("/")[-1][:-4]: scipy.io.loadmat(io.BytesIO(archive.read(n)))["val"][0] for n in names}


@pytest.fixture(scope="module")
def af() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """split -> windows of its AF recordings (n, 9000, 1), and which of their samples are no padding.

    30 s are cut off first, then standardised, then padded with zeros.
    """
    with find_labels_v3("training").open(encoding="utf-8") as file:
        label = dict(csv.reader(file))
    training, validation = samples_of("training"), samples_of("validation")
    held_out = {samples.tobytes() for samples in validation.values()}
    first: dict[bytes, str] = {}
    for name in sorted(training):
        first.setdefault(training[name].tobytes(), name)

    def in_test(name: str) -> bool:
        key = first[training[name].tobytes()]
        return int(hashlib.sha256(key.encode()).hexdigest(), 16) % 100 < 15

    test = {n: s for n, s in training.items() if s.tobytes() not in held_out and in_test(n)}
    found = {}
    for split, samples in {"validation": validation, "test": test}.items():
        cut = [one[:9000].astype(float) for name, one in sorted(samples.items()) if label[name] == "A"]
        x, mask = np.zeros((len(cut), 9000, 1), np.float32), np.zeros((len(cut), 9000, 1), np.float32)
        for i, one in enumerate(cut):
            x[i, : len(one), 0], mask[i, : len(one)] = (one - one.mean()) / one.std(), 1
        found[split] = x, mask
    return found


@pytest.mark.parametrize("name", MODELS)
def test_recall_is_that_of_the_stored_report(name, af):
    model = keras.models.load_model(ROOT / "models" / f"{name}.keras")
    stored = json.loads((ROOT / "figures" / "results" / f"{name}.json").read_text("utf-8"))["reports"]

    def recognised(x):
        return int((model.predict(x, verbose=0).argmax(axis=1) == 0).sum())

    def expected(split, condition):
        recall = stored[split]["conditions"][condition]["scores"]["recall"]["A"]
        assert recall["n"] == len(af[split][0])
        return recall["count"]

    for split, (x, _) in af.items():
        assert abs(recognised(x) - expected(split, "clean")) <= 1
    x, mask = af["validation"]
    attack = art_attacks.ProjectedGradientDescent(
        in_art(model), np.inf, eps=0.2, eps_step=0.02, max_iter=20, targeted=True, batch_size=len(x), verbose=False
    )
    attacked = attack.generate(x, np.repeat(ONE_HOT_NORMAL, len(x), axis=0), mask=mask)
    assert np.abs(attacked - x).max() < 0.2 + 1e-5 and not (attacked - x)[mask == 0].any()
    assert abs(recognised(attacked) - expected("validation", "pgd20")) <= 1
