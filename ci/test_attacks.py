"""Attacks against known answers: linear models, ε = 0, the exact ball; and the baseline itself."""

from __future__ import annotations

from functools import partial

import keras
import numpy as np
import pytest
from conftest import small_network
from keras import layers
from scipy.optimize import linprog

from ecgnb.attacks.apgd import apgd, apgd_targets
from ecgnb.attacks.balls import L2, Ball, BandLimited, Linf
from ecgnb.attacks.fab import fab
from ecgnb.attacks.losses import cross_entropy, logit_ratio
from ecgnb.attacks.noise import NOISE_BASELINES, add_noise, noise_attack
from ecgnb.attacks.pgd import pgd
from ecgnb.attacks.preprocessing import BPDA, EoT, PreprocessedClassifier
from ecgnb.attacks.result import AttackResult
from ecgnb.attacks.smooth import smooth, smooth_kernel
from ecgnb.attacks.square import square
from ecgnb.attacks.threats import AttackProblem, Goal, Threat
from ecgnb.attacks.universal import apply_universal, universal
from ecgnb.constants import CLASSES, FS
from ecgnb.errors import EcgnbError
from ecgnb.models import network
from ecgnb.models.files import load_model
from ecgnb.models.function_classifier import FunctionClassifier
from ecgnb.models.keras_classifier import KerasClassifier

N = 9000
TO_NORMAL = Goal(1)
ATTACKS = {
    "PGD": partial(pgd, steps=8, step=0.2),
    "PGD, random starts": partial(pgd, steps=8, step=0.2, random_start=True, restarts=2),
    "FGSM": partial(pgd, steps=1, step=1.0),
    "APGD-CE": partial(apgd, steps=10),
    "APGD-DLR": partial(apgd, steps=10, loss=logit_ratio),
    "APGD-T": partial(apgd_targets, steps=10),
    "FAB-T": partial(fab, steps=10),
    "Square": partial(square, queries=20),
    "SAP": partial(smooth, steps=10),
}


def ball_of(x, epsilon, kind=Linf, lengths=None) -> Ball:
    lengths = np.full(len(x), N) if lengths is None else np.asarray(lengths)
    mask = (np.arange(N) < lengths[:, None])[..., None]
    return kind(x, np.full(len(x), float(epsilon)), mask)


def problem(x, y, epsilon, goal=TO_NORMAL, kind=Linf, lengths=None) -> AttackProblem:
    return AttackProblem(y, goal, ball_of(x, epsilon, kind, lengths))


def two_sided_model(w) -> KerasClassifier:
    """Logits ∓w·x for A and N, and O and ~ out of the question."""
    inputs = keras.Input((N, 1))
    model = keras.Model(inputs, layers.Dense(4)(layers.Flatten()(inputs)))
    weights = np.stack([-w, w, 0 * w, 0 * w], axis=1)
    model.set_weights([weights.astype(np.float32), np.array([0, 0, -1e5, -1e5])])
    return KerasClassifier(model, 4)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    return rng.normal(size=(5, N, 1)).astype(np.float32), np.array([0, 1, 2, 3, 0])


@pytest.fixture(scope="module")
def two_sided():
    """A classifier whose best perturbation is known in closed form, and its w."""
    w = np.random.default_rng(2).normal(size=N).astype(np.float32)
    return two_sided_model(w), w


def numpy_pgd(x, y, weights, goal, *, epsilon, step, steps):
    """The textbook loop in float64, with the gradient of cross-entropy written out."""
    start, sign = x.astype(float), 1 if goal.target is None else -1
    labels = y if goal.target is None else goal.targets(y)
    now = start.copy()
    for _ in range(steps):
        z = now[..., 0] @ weights.astype(float)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(y)), labels] -= 1
        gradient = (p @ weights.T.astype(float))[..., None]
        now = now + sign * step * epsilon * np.sign(gradient)
        now = np.clip(now, start - epsilon, start + epsilon)
    return now


@pytest.mark.parametrize("goal", [Goal(1), Goal(None)])
def test_pgd_equals_plain_numpy_pgd_on_a_linear_model(linear, batch, goal):
    settings = dict(step=0.2, steps=8)
    result = pgd(KerasClassifier(linear[0], 2), problem(*batch, 0.01, goal), **settings)
    expected = numpy_pgd(*batch, linear[1], goal, epsilon=0.01, **settings)
    # A sample whose gradient is zero to rounding may step either way; all others agree.
    assert np.mean(np.abs(result.x - expected) > 1e-5) < 1e-3
    assert np.abs(result.x - batch[0]).max() > 0.009


@pytest.mark.parametrize("name", ["PGD", "PGD, random starts", "FGSM", "APGD-CE", "APGD-DLR"])
def test_gradient_attacks_reach_the_closed_form_optimum_in_linf(two_sided, batch, name):
    """From w·x < 0 the goal is w·x > 0; the most that ε buys is ε·sum|w|, and no attack stops short."""
    classifier, w = two_sided
    x = _at_distance(batch[0], w, -0.9 * 0.001 * np.abs(w).sum())
    result = ATTACKS[name](classifier, problem(x, 0 * batch[1], 0.001))
    assert result.success.all()
    out_of_reach = _at_distance(batch[0], w, -1.1 * 0.001 * np.abs(w).sum())
    result = ATTACKS[name](classifier, problem(out_of_reach, 0 * batch[1], 0.001))
    assert not result.success.any()
    most = 0.001 * np.abs(w).sum()
    gained = _gain(result, out_of_reach, w)
    assert (gained > 0.95 * most).all() and (gained < 1.001 * most).all()


@pytest.mark.parametrize("attack", [ATTACKS["PGD"], ATTACKS["APGD-CE"]])
def test_gradient_attacks_reach_the_closed_form_optimum_in_l2(two_sided, batch, attack):
    """The most that a radius r buys is r·|w|, along w."""
    classifier, w = two_sided
    norm = np.sqrt((w.astype(float) ** 2).sum())
    for share, success in ((-0.9, True), (-1.1, False)):
        x = _at_distance(batch[0], w, share * 0.05 * norm)
        result = attack(classifier, problem(x, 0 * batch[1], 0.05, kind=L2))
        assert (result.success == success).all()
        assert success or np.allclose(_gain(result, x, w), 0.05 * norm, rtol=0.05)


def test_fab_finds_the_minimal_perturbation_of_a_linear_model(linear, batch):
    """The nearest boundary of a linear model is (z_y − z_t) / sum|w_y − w_t| away, over the samples that may change."""
    model, weights = linear
    lengths = np.array([N, 4000, 2700, N, N])
    x = np.where(np.arange(N)[:, None] < lengths[:, None, None], batch[0], 0).astype(np.float32)
    z = x[..., 0].astype(float) @ weights
    y = z.argmax(axis=1)
    distances = []
    for row, (true, length) in enumerate(zip(y, lengths, strict=True)):
        slopes = np.abs(weights[:length, [true]] - weights[:length].astype(float)).sum(axis=0)
        distances.append(min((z[row, true] - z[row, c]) / slopes[c] for c in range(4) if c != true))
    least, classifier = np.array(distances), KerasClassifier(model)
    posed = problem(x, y, 1.0, Goal(None), lengths=lengths)
    reachable = fab(classifier, posed.resized(1.02 * least), steps=10)
    assert reachable.success.all() and _inside(posed.resized(1.02 * least), reachable.x)
    assert (posed.ball.size(reachable.x) > 0.999 * least).all()
    assert not fab(classifier, posed.resized(0.98 * least), steps=10).success.any()


def test_fab_towards_a_target_succeeds_where_the_target_is_predicted(linear, batch):
    """Of a success it asks for the target, not for any other class; and it need not pass by the label."""
    posed = problem(batch[0], np.full(5, 3), 0.05, Goal(2))
    found = fab(KerasClassifier(linear[0]), posed, steps=10)
    assert found.success.all() and (found.logits.argmax(axis=1) == 2).all()


def test_smooth_attack_reaches_the_optimum_of_its_smaller_set(two_sided, batch):
    """Every perturbation is some θ smoothed, so the most that ε buys is ε·sum|K∗w|."""
    classifier, w = two_sided
    x = _at_distance(batch[0], w, -1e3)
    result = smooth(classifier, problem(x, 0 * batch[1], 0.1), steps=12)
    smoothed = np.convolve(w, smooth_kernel(), "same")
    assert np.allclose(_gain(result, x, w), 0.1 * np.abs(smoothed).sum(), rtol=0.01)


def test_band_limited_attack_comes_close_to_the_optimum_by_linear_programming(batch):
    """One second of signal, 1 to 40 Hz: 80 sines and cosines, none of 300 samples above ε."""
    w = np.random.default_rng(2).normal(size=N) * (np.arange(N) < 300)
    rows = np.eye(151)[1:41]
    waves = np.fft.irfft(np.concatenate([rows, 1j * rows]), 300, axis=1)
    limits = dict(A_ub=np.concatenate([waves.T, -waves.T]), b_ub=np.full(600, 0.1))
    most = -linprog(-waves @ w[:300], bounds=(None, None), **limits).fun
    x = _at_distance(batch[0], w, -100)
    posed = problem(x, 0 * batch[1], 0.1, kind=BandLimited, lengths=[300] * 5)
    gained = _gain(pgd(two_sided_model(w), posed, steps=30), x, w)
    assert (gained > 0.9 * most).all() and (gained < 1.001 * most).all()


def test_square_finds_what_segments_can(batch):
    """With one weight for all samples the optimum is one sign everywhere: segments get close to it."""
    classifier = two_sided_model(np.ones(N))
    x = _at_distance(batch[0], np.ones(N, np.float32), -1e4)
    result = square(classifier, problem(x, 0 * batch[1], 0.1), queries=500)
    gained = _gain(result, x, np.ones(N))
    assert (gained > 0.9 * 0.1 * N).all() and (gained <= 0.1 * N * 1.001).all()
    assert (np.diff(np.fmax.accumulate(result.loss, axis=0), axis=0) >= 0).all()


def test_a_universal_perturbation_carries_over_to_recordings_it_has_not_seen():
    """A network that answers to the mean is moved by the same perturbation at any shift."""
    classifier = two_sided_model(np.ones(N) / N)
    rng = np.random.default_rng(3)
    seen, new = (rng.normal(-0.05, 0.1, (4, N, 1)).astype(np.float32) for _ in range(2))
    shared = universal(classifier, problem(seen, np.zeros(4, int), 0.1))
    assert shared.shape == (N, 1) and np.abs(shared).max() <= 1
    result = apply_universal(classifier, problem(new, np.zeros(4, int), 0.1), shared)
    assert result.success.all() and _inside(problem(new, np.zeros(4, int), 0.1), result.x)


@pytest.mark.parametrize("name", ATTACKS)
def test_epsilon_zero_returns_the_input(linear, batch, name):
    result = ATTACKS[name](KerasClassifier(linear[0]), problem(*batch, 0.0))
    assert (result.x == batch[0]).all()


@pytest.mark.parametrize("kind", [Linf, L2, BandLimited])
@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_stays_exactly_in_the_ball_and_spares_the_padding(linear, name, kind):
    rng = np.random.default_rng(3)
    lengths = np.array([N, 4000, 2700])
    x = rng.normal(size=(3, N, 1)).astype(np.float32)
    x[np.arange(N) >= lengths[:, None]] = 0
    posed = problem(x, np.zeros(3, int), 0.2, Goal(None), kind, lengths)
    result = ATTACKS[name](KerasClassifier(linear[0]), posed)
    assert isinstance(result, AttackResult) and result.x.dtype == np.float32
    assert _inside(posed, result.x) and np.isfinite(result.x).all()
    assert result.queries.shape == (3,) and result.loss.shape[1] == 3
    assert np.allclose(KerasClassifier(linear[0]).logits(result.x), result.logits, atol=1e-3)


@pytest.mark.parametrize("epsilon", [0.2, 0.05, 1e-4, 0.3])
@pytest.mark.parametrize("scale", [1, 30])
@pytest.mark.parametrize("kind", [Linf, L2, BandLimited])
def test_projections_lie_exactly_in_the_ball_and_are_near(epsilon, scale, kind):
    rng = np.random.default_rng(3)
    x = (scale * rng.normal(size=(4, N, 1))).astype(np.float32)
    ball = ball_of(x, epsilon, kind, [N, 4000, 2700, 300])
    for point in (x + rng.normal(size=x.shape), x.copy(), ball.random(rng)):
        inside = ball.project(point)
        assert _inside(AttackProblem(np.zeros(4, int), Goal(1), ball), inside)
    assert (ball.size(ball.project(x + rng.normal(size=x.shape))) > 0.5 * epsilon).all()
    assert (ball.project(x) == x).all()


def test_projection_keeps_what_is_inside_and_moves_the_rest_to_the_nearest_point(batch):
    x, delta = batch[0], np.random.default_rng(5).normal(size=batch[0].shape)
    for kind in (Linf, L2):
        ball = ball_of(x, 1e9, kind)
        assert np.allclose(ball.project(x + delta), x + delta, atol=1e-6)
    length = np.sqrt((delta**2).sum(axis=1, keepdims=True))
    assert np.allclose(ball_of(x, 3, L2).project(x + delta), x + 3 * delta / length, atol=1e-5)
    assert np.allclose(ball_of(x, 0.3).project(x + delta), x + delta.clip(-0.3, 0.3), atol=1e-6)


def test_a_band_limited_perturbation_has_no_power_outside_its_band(linear, batch):
    result = pgd(KerasClassifier(linear[0]), problem(*batch, 0.2, kind=BandLimited), steps=5)
    spectrum = np.abs(np.fft.rfft(result.x[..., 0].astype(float) - batch[0][..., 0], axis=1)) ** 2
    frequency = np.arange(N // 2 + 1) * 300 / N
    outside = (frequency < 0.5) | (frequency > 40)
    assert (spectrum[:, outside].sum(axis=1) < 1e-9 * spectrum.sum(axis=1)).all()


def test_float32_addition_alone_would_leave_the_ball():
    """The reason for rounding towards the centre."""
    x = np.random.default_rng(4).normal(size=(1, N, 1)).astype(np.float32)
    naive = x + np.float32(0.2)
    assert (naive.astype(float) - x > 0.2).any()
    assert (ball_of(x, 0.2).project(naive).astype(float) - x <= 0.2).all()


def test_restarts_keep_the_best_of_each_recording_and_never_lose_success(linear, batch):
    gradient = KerasClassifier(linear[0], 2)
    settings = dict(step=0.5, steps=1, random_start=True)
    for goal in (Goal(1), Goal(None)):
        posed = problem(*batch, 0.002, goal)
        one, many = pgd(gradient, posed, **settings), pgd(gradient, posed, restarts=5, **settings)
        assert (many.success >= one.success).all()
        best = [goal.margin(r.logits, batch[1]) for r in (one, many)]
        assert (best[1] >= best[0]).all() and (best[1] > best[0]).any()
        assert many.loss.shape == (5, 5) and (many.queries == 5).all()


@pytest.mark.parametrize("goal", [Goal(1), Goal(None)])
def test_stopping_at_success_counts_any_iterate_and_loses_none(linear, batch, goal):
    gradient, posed = KerasClassifier(linear[0]), problem(*batch, 0.02, goal)
    plain = [pgd(gradient, posed, steps=k).success for k in range(1, 11)]
    stopped = pgd(gradient, posed, steps=10, until_success=True)
    ever = np.any([goal.reached(gradient.logits(batch[0]), batch[1]), *plain], axis=0)
    assert (stopped.success == ever).all() and stopped.success.any()
    first = [next((k for k in range(10) if (k and plain[k - 1][i])), 10) for i in range(5)]
    clean = goal.reached(gradient.logits(batch[0]), batch[1])
    expected = [1 if clean[i] else min(first[i] + 1, 10) for i in range(5)]
    assert stopped.queries.tolist() == expected


@pytest.mark.real
@pytest.mark.slow
def test_stopping_early_changes_no_success_on_the_baseline(validation):
    """Against the plain loop: all steps for all recordings, a success if any iterate reaches the goal.

    Recording by recording, so that rounding does not depend on who else is in the batch.
    """
    classifier, steps = KerasClassifier(load_model("baseline"), batch_size=1), 8
    posed = Threat().on(validation.of_class("A").take(slice(0, 10)))
    now, first = posed.x, np.full(len(posed), np.inf)  # query at which the goal is first reached
    for step in range(1, steps + 2):
        _, logits, gradient = classifier.loss_and_gradient(now, posed.y, posed.targets, cross_entropy)
        first = np.where(posed.goal.reached(logits, posed.y), np.minimum(first, step), first)
        now = posed.ball.project(now + 0.1 * posed.ball.step(gradient))
    found = pgd(classifier, posed, steps=steps, until_success=True)
    assert (found.success == np.isfinite(first)).all()
    assert (found.queries == np.minimum(first, steps)).all()
    assert 0 < found.success.sum() < len(posed)  # else agreement would say nothing


@pytest.mark.parametrize("low_precision_class", [0, 1])
def test_low_precision_logits_decide_nothing(two_sided, batch, low_precision_class):
    """Coarse logits that call every recording a success, or none, change no success and stop no search."""
    classifier, w = two_sided

    class LowPrecision:
        classes, fs, low_precision = CLASSES, FS, True
        logits = staticmethod(classifier.logits)

        def loss_and_gradient(self, x, y, targets, loss):
            value, _, gradient = classifier.loss_and_gradient(x, y, targets, loss)
            return (value, np.eye(4, dtype=np.float32)[np.full(len(x), low_precision_class)], gradient)

    most = 0.001 * np.abs(w).sum()
    x = np.concatenate([_at_distance(batch[0][:2], w, share * most) for share in (-0.5, -1.1)])
    posed = problem(x, np.zeros(4, int), 0.001)
    for name in ("PGD", "FGSM", "APGD-CE", "SAP"):
        plain, coarse = (ATTACKS[name](c, posed) for c in (classifier, LowPrecision()))
        assert (coarse.success == plain.success).all(), name
        assert np.allclose(classifier.logits(coarse.x), coarse.logits, atol=1e-3), name
        assert _inside(posed, coarse.x)
    stopped = pgd(LowPrecision(), posed, steps=8, step=0.2, until_success=True)
    assert stopped.success.tolist() == [True, True, False, False]
    # Unless coarse logits call it a success, exact logits are asked for at the end only.
    assert (stopped.queries[:2] < 8).all() == low_precision_class and (stopped.queries[2:] == 8).all()


def test_bfloat16_takes_gradients_of_the_same_weights_and_float32_decides(batch):
    keras.utils.set_random_seed(3)
    model = small_network()
    plain, coarse = KerasClassifier(model, 4), KerasClassifier(model, 4, precision="bfloat16")
    posed = problem(*batch, 0.05, Goal(None))
    for _ in range(2):
        arguments = (posed.x, posed.y, posed.targets, cross_entropy)
        one, other = (c.loss_and_gradient(*arguments)[2] for c in (plain, coarse))
        assert (one != other).any() and np.linalg.norm(one - other) < 0.1 * np.linalg.norm(one)
        found = pgd(coarse, posed, steps=5, until_success=True)
        assert np.allclose(found.logits, plain.logits(found.x), atol=1e-5)
        assert (found.success == posed.goal.reached(plain.logits(found.x), posed.y)).all()
        model.set_weights([1.5 * w for w in model.get_weights()])  # and follows when they change
    with pytest.raises(EcgnbError, match="precision='float16'"):
        KerasClassifier(model, precision="float16")


def test_batches_that_shrink_compile_nothing_anew(two_sided, batch):
    classifier, w = two_sided
    traced = []

    def counted(z, y, t):
        traced.append(1)
        return cross_entropy(z, y, t)

    most = 0.001 * np.abs(w).sum()
    x = np.concatenate([_at_distance(batch[0][i : i + 1], w, -i * most / 5) for i in range(5)])
    found = pgd(classifier, problem(x, 0 * batch[1], 0.001), loss=counted, steps=9, until_success=True)
    assert len(set(found.queries)) > 2 and len(traced) == 1


def test_the_goal_decides_success_and_direction(linear, batch):
    gradient, y = KerasClassifier(linear[0]), batch[1]
    targeted, untargeted = (
        pgd(gradient, problem(*batch, 0.05, goal), step=0.2, steps=10) for goal in (Goal(2), Goal(None))
    )
    assert (targeted.logits.argmax(axis=1) == 2).all() and targeted.success.all()
    assert (untargeted.logits.argmax(axis=1) != y).all() and untargeted.success.all()


@pytest.mark.parametrize("name", ATTACKS)
def test_batches_do_not_change_the_result(linear, batch, name):
    results = [ATTACKS[name](KerasClassifier(linear[0], n), problem(*batch, 0.01)).x for n in (1, 5)]
    assert np.mean(np.abs(results[0] - results[1]) > 1e-5) < 1e-3


def test_attacks_run_in_inference_mode(batch):
    """Dropout and batch statistics must be off: the same input twice gives the same gradient."""
    gradient = KerasClassifier(network.build(dropout=0.5))
    x, y = batch
    alone = gradient.loss_and_gradient(x[:1], y[:1], -y[:1] - 1, cross_entropy)
    together = gradient.loss_and_gradient(x, y, -y - 1, cross_entropy)
    for one, all_ in zip(alone, together, strict=True):
        assert np.allclose(one[0], all_[0], atol=1e-5 * np.abs(all_).max())


def test_losses_are_those_of_the_papers():
    z = np.array([[3.0, 1.0, 0.5, -1.0], [0.2, 2.0, 1.5, 0.1]], np.float32)
    y = np.array([0, 2])
    softmax = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    assert np.allclose(cross_entropy(z, y, y * 0 - 1), -np.log(softmax[[0, 1], y]), atol=1e-6)
    t = np.array([3, 0])
    assert np.allclose(cross_entropy(z, y, t), np.log(softmax[[0, 1], t]), atol=1e-6)
    assert np.allclose(logit_ratio(z, y, y * 0 - 1), [-2 / 2.5, -(1.5 - 2) / (2 - 0.2)], atol=1e-6)
    wide = [3 - (0.5 - 1) / 2, 2 - (0.2 + 0.1) / 2]
    assert np.allclose(logit_ratio(z, y, t), [-(3 + 1) / wide[0], -(1.5 - 0.2) / wide[1]], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((1, N, 1))}, "float32"),
        ({"x": np.full((1, N, 1), np.nan, np.float32)}, "NaN"),
        ({"restarts": 2}, "random_start"),
    ],
)
def test_a_wrong_setting_is_named(linear, change, message):
    posed = {"x": np.zeros((1, N, 1), np.float32), "y": np.zeros(1, int), "epsilon": 0.1}
    posed |= {key: change[key] for key in change if key in posed}
    settings = {key: change[key] for key in change if key not in posed}
    with pytest.raises(EcgnbError, match=message):
        pgd(KerasClassifier(linear[0]), problem(**posed), **settings)


def test_threats_say_what_they_are_and_convert_their_unit(demo_dev):
    af = demo_dev.of_class("A")
    posed = Threat(target="", epsilon=10, unit="µV").on(af)
    assert np.allclose(posed.ball.radius * af.sd_mv * 1000, 10)
    assert str(Threat()) == "A → N, L∞ 0.2 z"
    banded = Threat("", "", 10, "µV", band=(0.5, 40))
    assert str(banded) == "every class, untargeted, L∞ 10 µV, 0.5–40 Hz"
    assert (posed.ball.mask == af.mask).all()
    assert Threat(mask_padding=False).on(af).ball.mask.all()


def test_a_threat_names_the_recordings_that_it_attacks(demo_dev):
    for symbol in CLASSES:
        attacked = Threat(symbol, "").is_attacked(demo_dev)
        assert (attacked == (demo_dev.y == CLASSES.index(symbol))).all() and attacked.any()
    assert Threat("", "").is_attacked(demo_dev).all()


@pytest.mark.parametrize("name", NOISE_BASELINES)
def test_noise_of_a_recording_is_the_same_whichever_others_are_there(demo_dev, name):
    noise, posed = NOISE_BASELINES[name], Threat().on(demo_dev.take(slice(0, 6)))
    together = add_noise(posed, noise, seed=7)
    for rows in (np.array([2]), np.array([4, 2, 0])):
        assert (add_noise(posed.rows(rows), noise, seed=7) == together[rows]).all()
    perturbation = together.astype(np.float64) - posed.x
    assert len({row.tobytes() for row in perturbation}) == 6
    assert (add_noise(posed, noise, seed=8) != together).any()


@pytest.mark.parametrize("name", NOISE_BASELINES)
def test_noise_fills_the_ball_or_has_the_power_asked_for(demo_dev, name):
    noise, posed = NOISE_BASELINES[name], Threat().on(demo_dev.take(slice(0, 6)))
    filled = add_noise(posed, noise)
    assert _inside(posed, filled) and posed.ball.size(filled) == pytest.approx(0.2, rel=1e-5)
    rms = np.linspace(0.05, 0.3, 6)
    added = add_noise(posed, noise, rms=rms).astype(np.float64) - posed.x
    power = (added**2).sum(axis=(1, 2)) / posed.ball.mask.sum(axis=(1, 2))
    assert np.sqrt(power) == pytest.approx(rms, rel=1e-4)
    assert (added[~posed.ball.mask] == 0).all()


@pytest.mark.real
@pytest.mark.slow
def test_the_baseline_falls_to_pgd_and_not_to_noise_of_the_same_size(validation):
    classifier, threat = KerasClassifier(load_model("baseline")), Threat()
    af = validation.of_class("A").take(slice(16))
    posed = threat.on(af)
    clean = (classifier.logits(af.x).argmax(axis=1) == 0).mean()
    noisy = noise_attack(classifier, posed, noise=NOISE_BASELINES["random_sign"])
    attacked = pgd(classifier, posed, steps=20)
    noisy_recall, attacked_recall = ((result.logits.argmax(axis=1) == 0).mean() for result in (noisy, attacked))
    assert clean > 0.7 and abs(clean - noisy_recall) < 0.15 and attacked_recall < 0.3
    assert _inside(posed, attacked.x) and _inside(posed, noisy.x)


# ---- around what hides the gradient ----

SIGNS = np.random.default_rng(0).choice([-1.0, 1.0], 300)


def mean_of_signs(ripple: float) -> FunctionClassifier:
    """Logits ∓Σ w·(x + ripple·sin(1000 x)/1000): the ripple moves no decision, and may be most of the gradient."""

    def logits(x):
        z = (x[..., 0] + ripple * np.sin(1000.0 * x[..., 0]) / 1000) @ SIGNS
        return np.stack([-z, z], axis=1)

    def gradient(x, weights):
        return (weights[:, 1] - weights[:, 0])[:, None, None] * SIGNS[:, None] * (1 + ripple * np.cos(1000.0 * x))

    return FunctionClassifier(logits, gradient, ("A", "N"), FS, (300, 1), f"signs, {ripple}")


@pytest.fixture(scope="module")
def second():
    """Four recordings of a second. They are 20 from the boundary, and ε 0.1 gains at most 30."""
    x = np.random.default_rng(1).normal(size=(4, 300, 1)).astype(np.float32)
    x = _at_distance(x, SIGNS, -20.0)
    return AttackProblem(np.zeros(4, int), Goal(1), Linf(x, np.full(4, 0.1), np.ones(x.shape, bool)))


def test_eot_finds_what_randomness_hides(second):
    """Noise on the input: each draw has a gradient of its own, nearly of random sign, and their mean is that of the signal."""
    rng, model = np.random.default_rng(5), mean_of_signs(10.0)

    def noisy(x, fs):
        return (x + 0.01 * rng.standard_normal(x.shape)).astype(np.float32), np.asarray

    random = PreprocessedClassifier(model, noisy)
    plain, averaged = pgd(random, second), pgd(EoT(random, 200), second)
    assert not model.logits(plain.x).argmax(axis=1).any() and not plain.success.any()
    assert model.logits(averaged.x).argmax(axis=1).all() and averaged.success.all()


def rounded(x):
    return (np.round(x / 0.05) * 0.05).astype(np.float32)


def test_bpda_finds_what_rounding_hides(second):
    model = mean_of_signs(0.0)
    quantised = PreprocessedClassifier(model, lambda x, fs: (rounded(x), np.zeros_like))
    plain, around = pgd(quantised, second), pgd(BPDA(model, rounded), second)
    assert (plain.x == second.x).all() and not plain.success.any()
    assert around.success.all() and quantised.logits(around.x).argmax(axis=1).all()


def test_bpda_takes_another_gradient_backwards(second):
    """Polarity is turned, then rounded: the gradient as it is would lead away from the goal."""
    model = mean_of_signs(0.0)
    posed = AttackProblem(second.y, second.goal, Linf(-second.x, second.ball.radius, second.ball.mask))
    assert pgd(BPDA(model, lambda x: rounded(-x), np.negative), posed).success.all()
    assert not pgd(BPDA(model, lambda x: rounded(-x)), posed).success.any()


def _at_distance(x, w, value):
    """Recordings moved along w so that w·x is `value`."""
    w = w.astype(float)
    moved = x[..., 0] + np.outer(value - x[..., 0].astype(float) @ w, w / (w @ w))
    return moved.astype(np.float32)[..., None]


def _gain(result, x, w):
    """(n,) by how much an attack raised w·x."""
    return result.logits[:, 1] - x[..., 0].astype(float) @ w


def _inside(posed, x) -> bool:
    """In the ball exactly, in float64, and equal to the centre outside the mask."""
    delta = x.astype(np.float64) - posed.x
    size = np.abs(delta).max(axis=(1, 2))
    if isinstance(posed.ball, L2):
        size = np.sqrt((delta**2).sum(axis=(1, 2)))
    spared = delta[~np.broadcast_to(posed.ball.mask, delta.shape)]
    return bool((size <= posed.ball.radius).all() and (spared == 0).all())
