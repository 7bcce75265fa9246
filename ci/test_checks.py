"""The checks of an evaluation: an honest model passes, deliberately broken ones are caught."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

from ecgnb.attacks import AttackProblem, AttackResult, Goal, Threat, pgd
from ecgnb.attacks.balls import Linf
from ecgnb.constants import CLASSES, FS
from ecgnb.data.dataset import load_data
from ecgnb.evaluation import checks
from ecgnb.evaluation.checks import FAIL, PASS, UNDECIDED, WARN, run_checks
from ecgnb.evaluation.run import EvaluatedModel, Execution, run_attacks
from ecgnb.evaluation.suites import STUDY_ATTACK, suite
from ecgnb.models import network
from ecgnb.models.classifier import predicted_classes, softmax
from ecgnb.models.files import load_model
from ecgnb.models.function_classifier import FunctionClassifier
from ecgnb.models.keras_classifier import KerasClassifier


class Noise(layers.Layer):
    """Gaussian noise at inference: randomness that hides the gradient."""

    def __init__(self):
        super().__init__()
        self.generator = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + 0.3 * keras.random.normal(ops.shape(x), seed=self.generator)


def honest(inner, x):
    return inner(x)


def saturating(inner, x):
    """A softmax temperature of 1/1000: probabilities of exactly 0 and 1, and no gradient."""
    return 1000 * inner(x)


def quantised(inner, x):
    """An input rounded to steps of 0.25 z-units: flat almost everywhere."""
    return inner(ops.round(4 * x) / 4)


def noisy(inner, x):
    return inner(Noise()(x))


@pytest.fixture(scope="module")
def posed(validation):
    """Four AF recordings that the baseline classifies correctly, under the study's threat model; and the baseline."""
    inner = load_model("baseline")
    af = validation.of_class("A")
    correct = np.flatnonzero(KerasClassifier(inner).logits(af.x).argmax(axis=1) == 0)[:4]
    return Threat().on(af.take(correct)), inner


@pytest.mark.real
@pytest.mark.parametrize(
    ("build", "caught_by"),
    [
        (honest, set()),
        (saturating, {"gradients_are_alive"}),
        (quantised, {"gradients_are_alive", "large_epsilon_always_succeeds"}),
        (noisy, {"outputs_repeat"}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.nightly
def test_broken_models_are_caught_and_the_honest_one_is_not(posed, build, caught_by, tmp_path):
    problem, inner = posed
    inputs = keras.Input(inner.input_shape[1:])
    classifier = KerasClassifier(keras.Model(inputs, build(inner, inputs)))
    evaluated = EvaluatedModel(build.__name__, classifier, build.__name__)
    quick, how = suite("quick").attacks, Execution(tmp_path)
    attacks = run_attacks(quick, evaluated, problem, how)
    surrogate = EvaluatedModel("baseline", KerasClassifier(inner), "baseline")
    found = run_checks(evaluated, surrogate, problem, quick, attacks, how)
    failed = {check.name for check in found if check.verdict == FAIL}
    assert caught_by <= failed and bool(caught_by) == bool(failed), [vars(c) for c in found]
    assert all(check.evidence and check.advice for check in found)


# ---- in closed form: models that fool PGD, and no other check ----

N = 300  # samples
SCALES = np.array([0.1, 0.5, 0.1, 0.1])  # of the weights of A, N, O and ~
W = np.random.default_rng(0).normal(size=(N, 4)) * SCALES


def closed_form(logits, gradient) -> EvaluatedModel:
    """A model of one second of signal; gradient : of a weighted sum of logits, (n, 300)."""
    name = logits.__name__
    classifier = FunctionClassifier(
        lambda x: logits(x[..., 0].astype(np.float64)),
        lambda x, weights: gradient(x[..., 0].astype(np.float64), weights)[..., None],
        classes=CLASSES,
        fs=FS,
        shape=(N, 1),
        digest=name,
    )
    return EvaluatedModel(name, classifier, classifier.digest)


def linear(x):
    return x @ W


def linear_gradient(x, weights):
    return weights @ W.T


def floored(x):
    """The logit of N is never below 0: where it is, nothing leads an attack to it."""
    z = linear(x)
    return np.where(np.arange(4) == 1, np.maximum(z, 0), z)


def floored_gradient(x, weights):
    return linear_gradient(x, np.where((np.arange(4) == 1) & (linear(x) < 0), 0, weights))


def shattered(x):
    """A ripple on each sample, far smaller than ε, whose slope outweighs that of the sample itself."""
    return linear(x + 0.01 * np.sin(150 * x))


def shattered_gradient(x, weights):
    return linear_gradient(x, weights) * (1 + 1.5 * np.cos(150 * x))


@pytest.fixture(scope="module")
def second():
    """Twelve AF recordings of a second; the largest gain within ε 0.2 is 24 in the logit of N, 5 in that of A."""
    z = np.tile([6.0, 0.0, -20.0, -20.0], (12, 1))
    z[:, 1] = np.linspace(-8, -14, 12)
    x = np.random.default_rng(1).normal(size=(12, N))
    x += (z - x @ W) @ np.linalg.inv(W.T @ W) @ W.T
    x = x.astype(np.float32)[..., None]
    return AttackProblem(np.zeros(12, int), Goal(1), Linf(x, np.full(12, 0.2), np.ones(x.shape, bool)))


MODELS = {
    "linear": (linear, linear_gradient),
    "floored": (floored, floored_gradient),
    "shattered": (shattered, shattered_gradient),
}


@pytest.mark.parametrize(
    ("name", "caught_by", "missed"),
    [("linear", set(), 0), ("floored", {"gradients_are_alive"}, 12), ("shattered", {"gradient_predicts_the_loss"}, 6)],
)
def test_models_that_fool_pgd_are_caught_by_the_check_made_for_them(second, name, caught_by, missed, tmp_path):
    """missed : recordings on which PGD fails and an informed attacker succeeds, who has the gradient of `linear`."""
    model, informed = closed_form(*MODELS[name]), closed_form(MODELS[name][0], linear_gradient)
    quick, how = suite("quick").attacks, Execution(tmp_path)
    assert (predicted_classes(model.classifier.logits(second.x)) == 0).all()
    by_pgd, by_informed = (pgd(one.classifier, second).success for one in (model, informed))
    assert by_informed.all() and (~by_pgd).sum() >= missed
    found = run_checks(model, None, second, quick, run_attacks(quick, model, second, how), how)
    failed = {check.name for check in found if check.verdict == FAIL}
    assert caught_by <= failed and bool(caught_by) == bool(failed), [vars(c) for c in found]


def test_of_two_logits_one_may_be_constant(second):
    """A model with a single number has the logits 0 and z."""
    w = W[:, 1] - W[:, 0]
    single = FunctionClassifier(
        lambda x: x[..., 0] @ w, lambda x, weight: (weight[:, None] * w)[..., None], ("A", "N"), FS, (N, 1), "one"
    )
    path = checks.gradient_path(second, single)
    assert path.is_open.any() and checks.gradients_are_alive(path).verdict == PASS


def test_a_gradient_that_is_not_finite_is_none(second):
    path = checks.gradient_path(second, closed_form(*MODELS["linear"]).classifier)
    path.largest[1, 0, 3] = np.inf
    found = checks.gradients_are_alive(path)
    assert found.verdict == FAIL and "1 of 12" in found.evidence and "the attack's loss in 1" in found.evidence


def test_the_attack_that_is_doubled_is_the_strongest():
    attacks = suite("quick").attacks
    counts = {"apgd_ce": 7, "pgd": 6, "pgd20": 9, "fgsm": 9}  # those two are not made to be strong
    results = {name: AttackResult(None, None, flags(*range(counts.get(name, 0))), None, None) for name in attacks}
    assert str(checks.doubled_strongest(attacks, results)) == "apgd(steps=30, loss=cross_entropy)"
    results["pgd"] = results["fgsm"]
    twice = checks.doubled_strongest(attacks, results).settings
    assert twice["steps"] == 40 and twice["restarts"] == 2


@pytest.mark.real
@pytest.mark.nightly
def test_label_leaking_is_seen_in_adaptive_and_not_in_the_baseline():
    """The attack of training on recordings of class O of the test fold."""
    others = load_data("test", data="physionet").of_class("O").take(slice(160))
    baseline, adaptive = (KerasClassifier(load_model(name)) for name in ("baseline", "adaptive"))
    crafted = STUDY_ATTACK(baseline, Threat().on(others))
    verdicts = []
    for classifier in (baseline, adaptive):
        clean, attacked = (predicted_classes(classifier.logits(x)) == 0 for x in (others.x, crafted.x))
        verdicts.append(checks.no_label_leaking(clean, attacked).verdict)
    assert verdicts == [PASS, FAIL]


# ---- verdicts ----


def flags(*ones, of=20):
    return np.isin(np.arange(of), ones)


def path(*loss):
    """A result with the losses of some recordings, one list each."""
    return AttackResult(None, None, None, None, np.array(loss, float).T)


FEW, MANY, MORE = flags(0, 1), flags(*range(10)), flags(*range(5, 18))


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (checks.success_grows_with_epsilon({0.1: FEW, 0.2: MANY}), PASS),
        (checks.success_grows_with_epsilon({0.2: FEW, 0.1: MANY}), FAIL),
        (checks.large_epsilon_always_succeeds(flags(*range(20)), 5), PASS),
        (checks.large_epsilon_always_succeeds(flags(*range(19)), 5), WARN),
        (checks.large_epsilon_always_succeeds(MANY, 5), FAIL),
        (checks.more_work_changes_little(MANY, MANY, "PGD"), PASS),
        (checks.more_work_changes_little(MANY, flags(*range(12)), "PGD"), WARN),
        (checks.more_work_changes_little(FEW, MANY, "PGD"), FAIL),
        (checks.pgd_agrees_with_apgd(MANY, flags(*range(13))), PASS),
        (checks.pgd_agrees_with_apgd(MANY, MORE), WARN),
        (checks.pgd_agrees_with_apgd(MORE, MANY), WARN),
        (checks.iterating_beats_one_step(FEW, MANY), PASS),
        (checks.iterating_beats_one_step(MANY, FEW), FAIL),
        (checks.full_ball_beats_subset(MANY, FEW), PASS),
        (checks.full_ball_beats_subset(FEW, flags(1, 2, 3)), WARN),
        (checks.full_ball_beats_subset(FEW, MANY), FAIL),
        (checks.white_box_beats_transfer(MANY, FEW, flags(0)), PASS),
        (checks.white_box_beats_transfer(MANY, MORE, FEW), FAIL),
        (checks.white_box_beats_transfer(FEW, FEW, flags(5, 6, 7)), FAIL),
        (checks.white_box_beats_transfer(MANY, flags(0), flags()), UNDECIDED),
        (checks.white_box_beats_transfer(FEW, flags(5), flags()), WARN),
        (checks.square_does_not_win(MANY, FEW), PASS),
        (checks.square_does_not_win(MANY, flags(0)), UNDECIDED),
        (checks.square_does_not_win(FEW, flags(5)), FAIL),
        (checks.no_label_leaking(MANY, FEW), PASS),
        (checks.no_label_leaking(FEW, flags(*range(7))), PASS),
        (checks.no_label_leaking(FEW, flags(*range(8))), WARN),
        (checks.no_label_leaking(FEW, flags(*range(10))), FAIL),
        (checks.untargeted_beats_targeted(FEW, MANY), PASS),
        (checks.untargeted_beats_targeted(MANY, FEW), FAIL),
        (checks.no_success_is_passed_over(MANY, MANY), PASS),
        (checks.no_success_is_passed_over(FEW, MANY), WARN),
        (checks.loss_rises(path([0, 1, 2, 3], [0, 2, 1, 3])), PASS),
        (checks.loss_rises(path([3, 2, 1, 0], [0, 2, 1, 3])), FAIL),
        (checks.loss_has_settled(path([0, 5, 9, 9.1, 9.1], [0, 3, 8, 8, 8])), PASS),
        (checks.loss_has_settled(path([0, 1, 2, 3, 4], [0, 2, 4, 6, 8])), WARN),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_verdicts(check, verdict):
    assert check.verdict == verdict, check.evidence


def test_probabilities_are_told_from_logits(posed_demo):
    classifier, problem = posed_demo

    class Softmaxed:
        def logits(self, x):
            return softmax(classifier.logits(x))

    assert checks.logits_are_attacked(classifier, problem).verdict == PASS
    assert checks.logits_are_attacked(Softmaxed(), problem).verdict == FAIL


def test_batch_statistics_in_the_attack_are_caught(posed_demo):
    """A classifier in training mode: its gradients depend on the rest of the batch."""
    classifier, problem = posed_demo

    class Training:
        def loss_and_gradient(self, x, y, targets, loss):
            value, logits, gradient = classifier.loss_and_gradient(x, y, targets, loss)
            return value, logits, gradient * x.std()

    assert checks.gradients_ignore_the_batch(classifier, problem).verdict == PASS
    assert checks.gradients_ignore_the_batch(Training(), problem).verdict == FAIL


@pytest.fixture(scope="module")
def posed_demo(demo_dev):
    keras.utils.set_random_seed(3)
    return KerasClassifier(network.build()), Threat().on(demo_dev.take(np.arange(3)))
