"""PGD against known answers: a linear model, ε = 0, the exact ball."""

from __future__ import annotations

import numpy as np
import pytest

from ecgnb import attacks, evaluation
from ecgnb import model as network
from ecgnb.attacks import Goal, linf_bounds, pgd, random_noise
from ecgnb.errors import EcgnbError
from ecgnb.gradients import InputGradient

SETTINGS = dict(epsilon=0.01, step_size=0.002, steps=8)


def numpy_pgd(x, y, weights, goal, *, epsilon, step_size, steps):
    """The textbook loop in float64, with the gradient of cross-entropy written out."""
    start, labels = x.astype(float), goal.labels(y)
    now = start.copy()
    for _ in range(steps):
        z = now[..., 0] @ weights.astype(float)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(y)), labels] -= 1
        slope = (p @ weights.T.astype(float))[..., None]
        now = np.clip(
            now + goal.sign * step_size * np.sign(slope), start - epsilon, start + epsilon
        )
    return now


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    return rng.normal(size=(5, 9000, 1)).astype(np.float32), np.array([0, 1, 2, 3, 0])


@pytest.mark.parametrize("goal", [Goal(1), Goal(None)])
def test_pgd_equals_plain_numpy_pgd_on_a_linear_model(linear, batch, goal):
    model, weights = linear
    result = pgd(InputGradient(model, 2), *batch, goal, **SETTINGS)
    expected = numpy_pgd(*batch, weights, goal, **SETTINGS)
    # A sample whose gradient is zero to rounding may step either way; all others agree.
    assert np.mean(np.abs(result.x - expected) > 1e-5) < 1e-3
    assert np.abs(result.x - batch[0]).max() > 0.009


def test_pgd_reaches_the_closed_form_optimum_between_two_classes(batch):
    """With logits ±w·x the best perturbation is ε·sign of the target's weights, everywhere."""
    import keras
    from keras import layers

    rng = np.random.default_rng(2)
    w = rng.normal(size=9000).astype(np.float32)
    inputs = keras.Input((9000, 1))
    model = keras.Model(inputs, layers.Dense(4, use_bias=False)(layers.Flatten()(inputs)))
    model.set_weights([np.stack([-w, w, 0 * w, 0 * w], axis=1)])
    x, y = batch
    result = pgd(
        InputGradient(model), 0.001 * x, y * 0, Goal(1), epsilon=0.0001, step_size=2e-5, steps=8
    )
    best = (0.001 * x[..., 0] + 0.0001 * np.sign(w)) @ w
    assert np.allclose(result.logits[:, 1], best, rtol=1e-3)


def test_epsilon_zero_returns_the_input(linear, batch):
    for random_start in (False, True):
        result = pgd(
            InputGradient(linear[0]), *batch, Goal(1), epsilon=0, steps=3, random_start=random_start
        )
        assert (result.x == batch[0]).all()


@pytest.mark.parametrize("epsilon", [0.2, 0.05, 1e-4, 0.3])
@pytest.mark.parametrize("scale", [1, 30])
def test_results_lie_exactly_in_the_ball_and_spare_the_mask(linear, epsilon, scale):
    rng = np.random.default_rng(3)
    x = (scale * rng.normal(size=(4, 9000, 1))).astype(np.float32)
    mask = np.arange(9000)[None, :, None] < np.array([9000, 4000, 2700, 1])[:, None, None]
    result = pgd(
        InputGradient(linear[0]),
        x,
        np.zeros(4, int),
        Goal(1),
        epsilon=epsilon,
        step_size=epsilon,
        steps=2,
        mask=mask,
        random_start=True,
    )
    for moved in (result.x, random_noise(x, epsilon, mask)):
        delta = moved.astype(np.float64) - x.astype(np.float64)
        assert moved.dtype == np.float32 and np.isfinite(moved).all()
        assert (np.abs(delta) <= epsilon).all() and np.abs(delta).max() > 0.9 * epsilon
        assert (delta[~np.broadcast_to(mask, x.shape)] == 0).all()


def test_bounds_without_rounding_inwards_would_leave_the_ball():
    """The reason for `linf_bounds`: float32 addition alone is wrong for some samples."""
    x = np.random.default_rng(4).normal(size=(1, 9000, 1)).astype(np.float32)
    naive = x + np.float32(0.2)
    assert (naive.astype(float) - x > 0.2).any()
    low, high = linf_bounds(x, 0.2, None)
    assert (high.astype(float) - x <= 0.2).all() and (x - low.astype(float) <= 0.2).all()


def test_restarts_keep_the_best_of_each_recording_and_never_lose_success(linear, batch):
    gradient = InputGradient(linear[0], 2)
    settings = dict(epsilon=0.002, step_size=0.001, steps=1, random_start=True)
    for goal in (Goal(1), Goal(None)):
        one = pgd(gradient, *batch, goal, **settings)
        many = pgd(gradient, *batch, goal, restarts=5, **settings)
        assert (many.success >= one.success).all()
        best = [attacks._attacker_score(r.logits, batch[1], goal) for r in (one, many)]
        assert (best[1] >= best[0]).all() and (best[1] > best[0]).any()
        assert many.loss.shape == (5, 1, 5)
        assert np.allclose(gradient.logits(many.x), many.logits, atol=1e-4)


def test_the_goal_decides_success_and_direction(linear, batch):
    gradient = InputGradient(linear[0])
    x, y = batch
    strong = dict(epsilon=0.05, step_size=0.01, steps=10)
    targeted, untargeted = (pgd(gradient, x, y, goal, **strong) for goal in (Goal(2), Goal(None)))
    assert (targeted.logits.argmax(axis=1) == 2).all() and targeted.success.all()
    assert (untargeted.logits.argmax(axis=1) != y).all() and untargeted.success.all()


def test_batches_do_not_change_the_result(linear, batch):
    results = [
        pgd(InputGradient(linear[0], n), *batch, Goal(1), **SETTINGS).x for n in (1, 2, 5, 32)
    ]
    assert all(np.abs(results[0] - other).max() < 1e-6 for other in results)


def test_attacks_run_in_inference_mode(batch):
    """Dropout and batch statistics must be off: the same input twice gives the same gradient."""
    gradient = InputGradient(network.build(dropout=0.5))
    x, y = batch
    alone = gradient.value_and_gradient(x[:1], y[:1])
    together = gradient.value_and_gradient(x, y)
    for one, all_ in zip(alone, together, strict=True):
        assert np.allclose(one[0], all_[0], atol=1e-5 * np.abs(all_).max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((1, 9000, 1))}, "float32"),
        ({"x": np.full((1, 9000, 1), np.nan, np.float32)}, "NaN"),
        ({"epsilon": -0.1}, "epsilon"),
        ({"steps": 0}, "steps"),
        ({"restarts": 2}, "random_start"),
    ],
)
def test_a_wrong_setting_is_named(linear, change, message):
    call = {
        "x": np.zeros((1, 9000, 1), np.float32),
        "y": np.zeros(1, int),
        "goal": Goal(1),
    } | change
    with pytest.raises(EcgnbError, match=message):
        pgd(InputGradient(linear[0]), **call)


@pytest.mark.real
def test_the_baseline_falls_to_pgd_and_not_to_noise_of_the_same_size(validation):
    gradient = InputGradient(network.load("baseline"))
    af = validation.of_class("A")
    clean, noisy = (
        (gradient.logits(x).argmax(axis=1) == 0).mean()
        for x in (af.x, random_noise(af.x, 0.2, af.mask))
    )
    result = evaluation.attack_af(gradient, validation, Goal(1), mask_padding=True)
    attacked = (result.logits.argmax(axis=1) == 0).mean()
    assert clean > 0.7 and abs(clean - noisy) < 0.15 and attacked < 0.3
    assert (result.x[~af.mask] == 0).all()
