"""The checks of an evaluation: an honest model passes, deliberately broken ones are caught."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

from ecgnb.attacks import AttackResult, Threat
from ecgnb.evaluation import checks
from ecgnb.evaluation.checks import FAIL, PASS, WARN, run_checks
from ecgnb.evaluation.run import EvaluatedModel, Execution, run_attacks
from ecgnb.evaluation.suites import suite
from ecgnb.models import network
from ecgnb.models.classifier import softmax
from ecgnb.models.files import load_model
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
        pytest.param(saturating, {"gradients_are_alive"}, marks=pytest.mark.nightly),
        (quantised, {"gradients_are_alive", "large_epsilon_always_succeeds"}),
        pytest.param(noisy, {"outputs_repeat"}, marks=pytest.mark.nightly),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.slow
def test_broken_models_are_caught_and_the_honest_one_is_not(posed, build, caught_by, tmp_path):
    problem, inner = posed
    inputs = keras.Input(inner.input_shape[1:])
    classifier = KerasClassifier(keras.Model(inputs, build(inner, inputs)))
    evaluated = EvaluatedModel(build.__name__, classifier, build.__name__)
    quick, how = suite("quick").attacks, Execution(tmp_path)
    attacks = run_attacks(quick, evaluated, problem, how)
    surrogate = EvaluatedModel("baseline", KerasClassifier(inner), "baseline")
    found = run_checks(evaluated, surrogate, problem, attacks, quick["pgd"], how)
    failed = {check.name for check in found if check.verdict == FAIL}
    assert caught_by <= failed and bool(caught_by) == bool(failed), [vars(c) for c in found]
    assert all(check.evidence and check.advice for check in found)


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
        (checks.more_work_changes_little(MANY, MANY), PASS),
        (checks.more_work_changes_little(MANY, flags(*range(12))), WARN),
        (checks.more_work_changes_little(FEW, MANY), FAIL),
        (checks.iterating_beats_one_step(FEW, MANY), PASS),
        (checks.iterating_beats_one_step(MANY, FEW), FAIL),
        (checks.full_ball_beats_subset(MANY, FEW), PASS),
        (checks.full_ball_beats_subset(FEW, flags(1, 2, 3)), WARN),
        (checks.full_ball_beats_subset(FEW, MANY), FAIL),
        (checks.white_box_beats_transfer(MANY, FEW, flags(0)), PASS),
        (checks.white_box_beats_transfer(MANY, MORE, FEW), FAIL),
        (checks.white_box_beats_transfer(FEW, FEW, flags(5, 6, 7)), FAIL),
        (checks.square_does_not_win(MANY, FEW), PASS),
        (checks.square_does_not_win(FEW, flags(5)), FAIL),
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
