"""Arrays, folds, protocols and weights."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecgnb.constants import CLASSES
from ecgnb.data.dataset import DEMO, balanced_index, class_weights, folds, load_data
from ecgnb.data.leak import load_split
from ecgnb.errors import EcgnbError


@pytest.mark.real
def test_validation_is_z_scored_padded_and_goes_back_to_millivolts(validation):
    assert validation.x.shape == (300, 9000, 1) and validation.x.dtype == np.float32
    assert np.isfinite(validation.x).all() and (validation.x[~validation.mask] == 0).all()
    assert [int((validation.y == c).sum()) for c in range(4)] == [47, 148, 65, 40]
    back = validation.in_mv(validation.x)
    for i, (signal, n) in enumerate(zip(validation.signals, validation.lengths, strict=True)):
        real = validation.x[i, :n, 0].astype(float)
        assert abs(real.mean()) < 1e-5 and abs(real.std() - 1) < 1e-5
        assert len(back[i]) == n and np.abs(back[i] * 1000 - signal[:n]).max() < 0.01


@pytest.mark.real
def test_leakfree_folds_share_nothing_with_each_other_or_with_validation(validation):
    sets = {split: load_data(split, data="physionet") for split in ("train", "dev", "test")}
    seen = {split: {s.tobytes() for s in d.signals} for split, d in sets.items()}
    seen["validation"] = {s.tobytes() for s in validation.signals}
    names = list(seen)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not seen[one] & seen[other], (one, other)
    assert len(sets["test"]) == 1198 and int((sets["test"].y == 0).sum()) == 104


@pytest.mark.real
def test_the_original_protocol_trains_on_everything_with_v0_labels():
    train = load_data("train", protocol="original", data="physionet")
    assert len(train) == 8528 and train.labels == "v0"
    assert np.bincount(train.y).tolist() == [771, 5154, 2557, 46]
    with pytest.raises(EcgnbError, match="no test fold"):
        load_data("test", protocol="original", data="physionet")


@pytest.mark.real
def test_sixteen_validation_labels_changed_between_v0_and_v3(validation):
    v0 = load_data("validation", labels="v0", data="physionet")
    assert int((v0.y != validation.y).sum()) == 16


def test_a_fold_is_the_digest_of_the_smallest_name():
    percent = int(hashlib.sha256(b"A00007").hexdigest(), 16) % 100
    expected = "test" if percent < 15 else "dev" if percent < 25 else "train"
    found = folds({"A00009": "same", "A00007": "same", "A00001": "leak"}, {"leak"})
    assert found == {"A00009": expected, "A00007": expected}


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200), st.floats(0, 1))
def test_class_weights_average_to_one(labels, power):
    y = np.array(labels)
    weights = class_weights(y, power)
    assert np.isclose(weights[y].mean(), 1)
    if power == 1:
        sums = [weights[c] * (y == c).sum() for c in set(labels)]
        assert np.allclose(sums, sums[0])


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_a_balanced_draw_is_at_most_so_many_a_class_and_decided_by_the_seed(seed, most):
    y = np.repeat([0, 1, 2, 3], [30, 100, 60, 5])
    draws = [balanced_index(y, most, np.random.default_rng(seed)) for _ in range(2)]
    assert (draws[0] == draws[1]).all() and len(set(draws[0])) == len(draws[0])
    assert np.bincount(y[draws[0]], minlength=4).tolist() == [min(most, n) for n in (30, 100, 60, 5)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "valid"}, "split='valid'"),
        ({"split": "train", "protocol": "leaky"}, "protocol='leaky'"),
        ({"split": "validation", "labels": "v1", "data": "demo"}, "labels='v1'"),
        ({"split": "validation", "data": "/no/such/folder"}, 'expected "auto"'),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(EcgnbError, match=message):
        load_data(**settings)


def test_the_demo_set_says_so_and_has_all_classes(demo_train):
    assert demo_train.source == DEMO and demo_train.title.startswith("DEMO (SYNTHETIC)")
    assert set(demo_train.y) == set(range(len(CLASSES)))
    assert np.isfinite(demo_train.x).all()


@pytest.mark.parametrize("data", ["demo", pytest.param("physionet", marks=pytest.mark.real)])
def test_the_arms_of_the_leak_experiment_differ_in_the_validation_recordings_alone(data):
    validation, plain = (load_data(split, data=data) for split in ("validation", "train"))
    leaky, held_out = (load_split("train", leak=arm, data=data) for arm in ("with", "without"))
    n, own = len(plain), set(plain.names.tolist())
    for arm in (leaky, held_out):
        assert (arm.names[:n] == plain.names).all() and (arm.x[:n] == plain.x).all()
    assert (leaky.names[n:] == validation.names).all() and (leaky.x[n:] == validation.x).all()
    assert not own & set(validation.names.tolist()) and set(held_out.names[n:].tolist()) <= own
    # The same classes in the same rows: so each epoch draws the same rows, and has as many steps.
    assert (leaky.y == held_out.y).all() and (leaky.y[n:] == validation.y).all()
    assert leaky.labels == held_out.labels == plain.labels and len(leaky.signals) == len(held_out.signals) == len(leaky)
    watched = [load_split("dev", leak=arm, data=data) for arm in ("with", "without")]
    assert all((dev.names == validation.names).all() for dev in watched)
    assert [one.protocol for one in (leaky, held_out)] == [
        "leakfree with the validation recordings",
        "leakfree with training recordings repeated",
    ]
    assert load_split("train", data=data).protocol == "leakfree"


def test_what_is_no_arm_of_the_leak_experiment_is_refused():
    with pytest.raises(EcgnbError, match="LEAK='some': expected"):
        load_split("train", leak="some", data="demo")
    with pytest.raises(EcgnbError, match="protocol original has the leak already"):
        load_split("train", leak="with", protocol="original", data="demo")
