"""Is the evaluation itself sound? Checks for masked gradients and weak attacks, each with a verdict.

After Carlini et al. 2019 (1902.06705), Athalye et al. 2018 (1802.00420), Tramèr et al. 2020 (2002.08347)
and the indicators of attack failure of Pintor et al. 2022 (2106.09947). A check is a function of results that
are at hand; `run_checks` makes the results and calls them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import wraps
from itertools import pairwise
from typing import Any

import numpy as np

from ecgnb.attacks import AttackProblem, AttackResult, Goal, add_noise, cross_entropy, from_examples
from ecgnb.attacks.losses import class_logit
from ecgnb.attacks.noise import random_sign
from ecgnb.evaluation.run import EvaluatedModel, Execution, cascade, chunks, run_attacks, run_each
from ecgnb.evaluation.schema import Check
from ecgnb.evaluation.suites import STUDY_ATTACK, Attack
from ecgnb.metrics import FEWEST, compare_rates
from ecgnb.models.classifier import Classifier

PASS, WARN, FAIL, UNDECIDED = "pass", "warn", "fail", "undecided"


def check(title: str, advice: str) -> Callable[[Callable], Callable[..., Check]]:
    """Make a `Check`, called like the function, of a function that returns (verdict, evidence)."""

    def decorate(function: Callable) -> Callable[..., Check]:
        @wraps(function)
        def wrapped(*arguments: Any) -> Check:
            verdict, evidence = function(*arguments)
            return Check(function.__name__, title, verdict, evidence, advice)

        return wrapped

    return decorate


@check("success grows with ε", "let the step grow with ε, and take more of them: the attack does not use its room")
def success_grows_with_epsilon(success: Mapping[float, np.ndarray]):
    """A larger ball holds the smaller one. success : ε -> (n,) bool, of the same attack."""
    epsilons = sorted(success)
    counts = [int(success[e].sum()) for e in epsilons]
    lost = max([0, *(a - b for a, b in pairwise(counts))])
    steps = ", ".join(f"{e:.3g}: {c}" for e, c in zip(epsilons, counts, strict=True))
    return _by_count(lost), f"successes of {len(success[epsilons[0]])}: {steps}"


@check(
    "a large ε succeeds on every recording",
    "the gradient does not lead anywhere: look for quantisation, saturation or noise in the model",
)
def large_epsilon_always_succeeds(success: np.ndarray, epsilon: float):
    """Unbounded in practice, an attack that follows a gradient cannot fail (Pintor et al., I6)."""
    evidence = f"{int(success.sum())} of {len(success)} at ε {epsilon:g} z"
    return _by_count(int((~success).sum())), evidence


@check("twice the work changes little", "report the larger budget, and double again until nothing changes")
def more_work_changes_little(success: np.ndarray, doubled: np.ndarray, attack: str):
    """The strongest attack with twice its steps and starts should find next to nothing new (Carlini et al.).

    success : (n,) bool, any attack succeeds; doubled : (n,) bool, also that attack doubled; attack : its title.
    """
    gained, tried, n = int((doubled & ~success).sum()), int((~success).sum()), len(success)
    share = gained / max(1, n)
    verdict = PASS if gained <= 1 or share <= 0.02 else WARN if share <= 0.1 else FAIL
    evidence = f"{gained} of {n} more by {attack} with twice the work; tried on the {tried} that withstood every attack"
    return verdict, evidence


@check(
    "PGD and Auto-PGD find the same recordings",
    "report the worst of both; where Auto-PGD finds many more, PGD's step size misleads it: the loss is not smooth",
)
def pgd_agrees_with_apgd(by_pgd: np.ndarray, by_apgd: np.ndarray):
    """Fixed and adaptive steps, (n,) bool each: where one finds much that the other misses, neither is the worst case."""
    only_pgd, only_apgd, n = int((by_pgd & ~by_apgd).sum()), int((by_apgd & ~by_pgd).sum()), len(by_pgd)
    verdict = PASS if max(only_pgd, only_apgd) <= max(2, AGREEMENT * n) else WARN
    return verdict, f"of {n} recordings {only_pgd} by PGD only, {only_apgd} by Auto-PGD only"


@check(
    "iterating is no worse than one step",
    "the gradient is masked, or the step too large: compare losses along the path",
)
def iterating_beats_one_step(single: np.ndarray, many: np.ndarray):
    """If one step does better than twenty, the gradient along the way misleads (Athalye et al.)."""
    missed, counts = int((single & ~many).sum()), (int(single.sum()), int(many.sum()))
    evidence = f"{counts[0]} successes of one step, {counts[1]} of many, {missed} of one step only"
    return _by_count(missed), evidence


@check(
    "attacks in the full ball are at least as strong as in a subset",
    "the model recognises the usual attack: believe the smooth ones, and look for a shortcut",
)
def full_ball_beats_subset(full: np.ndarray, subset: np.ndarray):
    """What is found in a subset of the ball is there in the full ball; not finding it is the attack's failure.

    full, subset : (n,) bool, successes of attacks in the full ball, and of those that keep to smooth perturbations.
    """
    missed, counts = int((subset & ~full).sum()), (int(full.sum()), int(subset.sum()))
    evidence = f"successes: {counts[0]} in the full ball, {counts[1]} of smooth perturbations, "
    return _by_count(missed, 2), evidence + f"{missed} of these only, of {len(full)}"


@check("white-box ≥ transfer ≥ noise", "the model's own gradient is worse than another's: it is masked")
def white_box_beats_transfer(white: np.ndarray, transfer: np.ndarray, noise: np.ndarray):
    """Who knows the model must do at least as well as who does not; both better than noise (I5)."""
    missed = int((transfer & ~white).sum())
    counts = [int(success.sum()) for success in (white, transfer, noise)]
    evidence = "successes: {} white-box, {} transferred, {} noise".format(*counts)
    evidence = f"{evidence}, of {len(white)}; {missed} by transfer only"
    return (FAIL, evidence) if counts[2] > counts[0] else _with_power(_by_count(missed, 2), evidence, transfer)


@check(
    "Square does not beat the white-box attacks",
    "the gradient is masked: attack a smooth approximation of what hides it (`attacks.BPDA`)",
)
def square_does_not_win(white: np.ndarray, black: np.ndarray):
    """An attack without gradients must not find what those with them miss."""
    missed = int((black & ~white).sum())
    evidence = f"{int(black.sum())} of {len(white)} successes of Square, {missed} of Square only"
    return _with_power(_by_count(missed, 0), evidence, black)


@dataclass(frozen=True)
class GradientPath:
    """Gradients at every other of the first `ITERATES` iterates of the study's attack, recordings last.

    largest : (`GRADIENTS`, iterates, n) largest entry, in absolute value, of the gradient of the untargeted
    cross-entropy, of the attack's loss, and of the two logits of the margin: one that must rise, one that must fall;
    predicted, actual : (iterates, n) change of the attack's loss by the next step, as its gradient has it and in fact;
    is_open : (iterates, n) bool, the goal is not reached there.
    """

    largest: np.ndarray
    predicted: np.ndarray
    actual: np.ndarray
    is_open: np.ndarray


GRADIENTS = ("untargeted cross-entropy", "the attack's loss", "the logit to raise", "the logit to lower")
ITERATES = 10  # as many steps of ε/10 as it takes from the recording to the surface of the ball


def gradient_path(problem: AttackProblem, classifier: Classifier) -> GradientPath:
    """What gradients are worth on the first half of the study's attack."""
    goal, ball, y, x = problem.goal, problem.ball, problem.y, problem.x
    untargeted = np.full(len(y), -1)
    losses, largest, predicted, is_open = [], [], [], []
    for k in range(ITERATES):
        value, logits, gradient = classifier.loss_and_gradient(x, y, problem.targets, cross_entropy)
        ahead = ball.project(x + STUDY_ATTACK.settings["step"] * ball.step(gradient))
        losses.append(value)
        if k % 2 == 0:
            asked = ((y, cross_entropy), *((classes, class_logit) for classes in goal.boundary(logits, y)))
            saturating, up, down = (classifier.loss_and_gradient(x, of, untargeted, loss)[2] for of, loss in asked)
            if logits.shape[1] == 2:  # only their difference matters: one of two may be constant
                up = down = up - down
            gradients = (saturating, gradient, up, down)
            largest.append([np.abs(each * ball.mask).max(axis=(1, 2)) for each in gradients])
            predicted.append((gradient * (ahead.astype(np.float64) - x)).sum(axis=(1, 2)))
            is_open.append(goal.margin(logits, y) <= 0)
        x = ahead
    actual = np.diff(losses, axis=0)[::2]
    return GradientPath(np.swapaxes(largest, 0, 1), np.array(predicted), actual, np.array(is_open))


@check(
    "gradients are finite and not zero",
    "attack with a loss that does not saturate (logit ratio), what comes before a clipped logit, or around what rounds "
    "or clips the input (`attacks.BPDA`)",
)
def gradients_are_alive(path: GradientPath):
    """At the start and along the path, for the attack's loss and both logits of its margin (Pintor et al., I4).

    Also for the loss that saturates first, untargeted cross-entropy. A logit's gradient counts as zero, too, if it is
    a thousandth of the other's: logits of one network come from the same layers, and one that is clipped leaves the
    attack with the other alone.
    """
    largest = path.largest
    alive = np.isfinite(largest) & (largest > 0)
    alive[2:] &= largest[2:] > 1e-3 * largest[:1:-1]
    dead = (~alive & path.is_open).any(axis=1)
    evidence = f"{int(dead.any(axis=0).sum())} of {dead.shape[1]} recordings have none at some iterate"
    lost = ", ".join(f"{name} in {count}" for name, count in zip(GRADIENTS, dead.sum(axis=1), strict=True) if count)
    return (FAIL, f"{evidence}: {lost}") if lost else (PASS, evidence)


@check(
    "the gradient predicts what a step does",
    "try shorter steps; if they do no better, the gradient is shattered: attack around what makes the loss rough "
    "(`attacks.BPDA`), or follow the mean gradient of noisy copies (`attacks.EoT`)",
)
def gradient_predicts_the_loss(path: GradientPath):
    """The rise of the attack's loss by its own steps, as a share of the rise that its gradient promises.

    A shattered gradient (Athalye et al. 2018) holds for less than a step. Where the loss is smooth the share is near 1
    at first, and falls as the path bends.
    """
    predicted, actual = (np.where(path.is_open, change, 0).sum(axis=0) for change in (path.predicted, path.actual))
    is_promised = predicted > 0
    share = float(np.median(actual[is_promised] / predicted[is_promised])) if is_promised.any() else 0.0
    verdict = PASS if share >= SMOOTH else WARN if share >= SHATTERED else FAIL
    evidence = f"a step does {share:.0%} of what its gradient promises, in the median of {len(predicted)} recordings"
    return verdict, evidence


@check(
    "outputs repeat, whatever the batch",
    "the model is random or in training mode: fix it, or attack its expectation (`attacks.EoT`)",
)
def outputs_repeat(classifier: Classifier, problem: AttackProblem):
    """The same recording gives the same logits: a second time, and whatever else is in the batch."""
    first, second = classifier.logits(problem.x), classifier.logits(problem.x)
    alone = np.concatenate([classifier.logits(problem.x[i : i + 1]) for i in range(len(problem))])
    scale = max(1.0, float(np.abs(first).max()))
    repeated, single = np.abs(first - second).max() / scale, np.abs(first - alone).max() / scale
    evidence = f"largest relative change: {repeated:.1e} on repetition, {single:.1e} alone"
    return PASS if max(repeated, single) < 1e-4 else FAIL, evidence


@check(
    "gradients are independent of the batch", "take gradients in inference mode: dropout and batch statistics frozen"
)
def gradients_ignore_the_batch(classifier: Classifier, problem: AttackProblem):
    """A gradient that depends on the other recordings is batch normalisation in training mode."""
    subset = problem.rows(np.arange(min(4, len(problem))))
    singles = [subset.rows(np.array([i])) for i in range(len(subset))]

    def gradient(part: AttackProblem) -> np.ndarray:
        return classifier.loss_and_gradient(part.x, part.y, part.targets, cross_entropy)[2]

    batch, alone = gradient(subset), np.concatenate([gradient(single) for single in singles])
    change = np.abs(batch - alone).max() / max(np.abs(batch).max(), 1e-30)
    evidence = f"a gradient changes by {change:.1e}, relative, with the batch around it"
    return PASS if change < 1e-3 else FAIL, evidence


@check("logits are attacked, not probabilities", "remove the softmax before the attack")
def logits_are_attacked(classifier: Classifier, problem: AttackProblem):
    """Probabilities saturate; logits do not."""
    z = classifier.logits(problem.x)
    sums = z.sum(axis=1)
    evidence = f"outputs from {z.min():.2g} to {z.max():.2g}, rows summing to {sums.mean():.2g}"
    return FAIL if z.min() >= 0 and np.allclose(sums, 1, atol=1e-3) else PASS, evidence


@check("untargeted ≥ targeted", "the untargeted loss saturates: use the logit ratio, or all targets in turn")
def untargeted_beats_targeted(targeted: np.ndarray, untargeted: np.ndarray):
    """Whatever reaches a target has left the true class, so the untargeted attack must reach as much."""
    missed, counts = int((targeted & ~untargeted).sum()), (targeted.sum(), untargeted.sum())
    evidence = f"successes: {counts[0]} targeted, {counts[1]} untargeted, {missed} targeted only"
    return _by_count(missed, 2), f"{evidence}, of {len(targeted)}"


@check("no success is passed over", "count a recording as a success if any iterate reaches the goal")
def no_success_is_passed_over(last: np.ndarray, ever: np.ndarray):
    """An attack that passes a success and returns something else understates itself (I1)."""
    silent = int((ever & ~last).sum())
    evidence = f"{silent} of {len(last)} reached the goal on the way but not at the last step"
    return WARN if silent else PASS, evidence


@check("the attack loss rises along the path", "reduce the step, or follow the gradient with momentum (Auto-PGD)")
def loss_rises(result: AttackResult):
    """The attack loss must end above where it began, for nearly all recordings (Pintor et al., I3)."""
    first, last = result.loss[0], result.loss[-1]
    fallen = int((last < first).sum())
    share = fallen / max(1, len(first))
    verdict = PASS if share <= 0.02 else WARN if share <= 0.1 else FAIL
    return verdict, f"{fallen} of {len(first)} end below where they began"


@check("the attack loss has settled", "take more steps")
def loss_has_settled(result: AttackResult):
    """Most of the gain comes early: the last quarter of the steps adds little (Pintor et al., I2)."""
    loss = np.maximum.accumulate(result.loss, axis=0)
    total, late = loss[-1] - loss[0], loss[-1] - loss[3 * len(loss) // 4]
    share = np.median(late[total > 0] / total[total > 0]) if (total > 0).any() else 0.0
    evidence = f"the last quarter of the steps adds {share:.0%} of the gain, in the median"
    return PASS if share < 0.1 else WARN, evidence


@check(
    "no label leaking: the attack does not create the class that it attacks",
    "part of the recall under attack is label leaking (Kurakin et al. 2017): count recordings correct before and under "
    "the attack, and attack every class in training",
)
def no_label_leaking(clean: np.ndarray, attacked: np.ndarray):
    """A model that learnt "whatever is perturbed is AF" keeps its AF recall under attack, without being robust.

    clean, attacked : (n,) bool, recordings of other classes predicted as the attacked class, before and under the
    attack of training. A rise is tested by McNemar's exact test.
    """
    before, under, p = int(clean.sum()), int(attacked.sum()), compare_rates(clean, attacked)["p"]
    verdict = PASS if under <= before or p >= 0.05 else WARN if p >= 0.01 else FAIL
    evidence = (
        f"{before} of {len(clean)} recordings of other classes predicted as the attacked one, {under} under attack"
    )
    return verdict, f"{evidence}; p {p:.1g}"


OF_MODEL = (outputs_repeat, logits_are_attacked, gradients_ignore_the_batch)
FULL_BALL = ("pgd", "apgd_ce", "apgd_dlr", "fab")  # gradient attacks that may use the full ball, where a suite has them
SUBSET = ("pgd_band", "sap")  # and those that keep to smooth perturbations
# Shares of a promised rise, in the median of 16 AF recordings. Baseline, static, adaptive: 0.83, 0.80, 0.81; at ε 0.5,
# where steps are longer, 0.65, 0.57, 0.61. Baseline and adaptive with a ripple 0.01·sin(150 x) on their input: 0.25 and
# 0.23; at ε 0.05, where it hinders PGD less, 0.52 and 0.51.
SMOOTH, SHATTERED = 0.55, 0.4
AGREEMENT = 0.15  # share of recordings that one of PGD and Auto-PGD may find alone; on shipped models at most 0.10
LARGE = 5.0  # z-units: several times a recording's own SD, so that nothing of it need be left


def run_checks(
    model: EvaluatedModel,
    surrogate: EvaluatedModel | None,
    problem: AttackProblem,
    attacks: Mapping[str, Attack],
    results: Mapping[str, AttackResult],
    how: Execution,
    leaking: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[Check]:
    """All checks of an evaluation.

    problem : recordings that the model classifies correctly, under the study's threat model; attacks : of a whole
    suite; results : theirs on these recordings; surrogate : another model, to transfer from; leaking : what
    `no_label_leaking` takes. Without one of the last two its check is left out. Fewer recordings than
    `metrics.FEWEST` can show that something is wrong, not that nothing is: then no check passes.
    """
    classifier, radius = model.classifier, problem.ball.radius
    study, steps = results["pgd20"], 20
    until_success = STUDY_ATTACK.with_settings(until_success=True)
    sizes = {factor: f"pgd20, {factor} ε" for factor in (0.25, 0.5, 2)}
    large = problem.resized(np.full(len(problem), LARGE))
    posed = {
        "any_iterate": (until_success, problem),
        **{name: (STUDY_ATTACK, problem.resized(factor * radius)) for factor, name in sizes.items()},
        "large": (until_success.with_settings(steps=2 * steps), large),
        "untargeted": (until_success, replace(problem, goal=Goal(None))),
    }
    parts: dict[str, Any] = how.workers.run_all(
        {
            "attacks": lambda: run_each(posed, model, how),
            "surrogate": lambda: (
                run_attacks({f"pgd20 for {model.name}": STUDY_ATTACK}, surrogate, problem, how) if surrogate else {}
            ),
            "of_model": lambda: how.workers.map(_applied, OF_MODEL, shared=(classifier, problem)),
            "path": lambda: how.workers.map(gradient_path, chunks(problem, how.workers), shared=(classifier,)),
        }
    )
    made, crafted = parts["attacks"], [result.x for result in parts["surrogate"].values()]
    strong = made["any_iterate"]
    by_pgd = _any(study, strong, results["pgd"])
    by_apgd = _any(results["apgd_ce"], results["apgd_dlr"])
    white = by_pgd | _any(*(results[name] for name in FULL_BALL if name in results))
    subset = _any(*(results[name] for name in SUBSET))
    twice = doubled_strongest(attacks, results)
    by_any = _any(strong, *results.values())
    doubled, left = by_any.copy(), np.flatnonzero(~by_any)
    doubled[left], _ = cascade({f"{twice.title}, doubled": twice}, model, problem.rows(left), how)
    success = {factor: made[name].success for factor, name in sizes.items()} | {1: study.success}
    by_epsilon = {factor * float(np.median(radius)): found for factor, found in success.items()}
    noise = add_noise(problem, random_sign, seed=how.seed)
    noisy, *transferred = how.workers.map(_examples_of, [noise, *crafted], shared=(classifier, problem))
    path = _joined(parts["path"])
    found = [
        *parts["of_model"],
        gradients_are_alive(path),
        gradient_predicts_the_loss(path),
        loss_rises(study),
        loss_has_settled(study),
        no_success_is_passed_over(study.success, strong.success),
        success_grows_with_epsilon(by_epsilon),
        large_epsilon_always_succeeds(made["large"].success, LARGE),
        iterating_beats_one_step(results["fgsm"].success, strong.success),
        pgd_agrees_with_apgd(by_pgd, by_apgd),
        more_work_changes_little(by_any, doubled, twice.title),
        full_ball_beats_subset(white, subset),
        *(white_box_beats_transfer(white, result.success, noisy.success) for result in transferred),
        square_does_not_win(white, results["square"].success),
        untargeted_beats_targeted(strong.success, made["untargeted"].success),
        *([no_label_leaking(*leaking)] if leaking else []),
    ]
    if len(problem) >= FEWEST:
        return found
    return [replace(one, verdict=UNDECIDED) if one.verdict == PASS else one for one in found]


def doubled_strongest(attacks: Mapping[str, Attack], results: Mapping[str, AttackResult]) -> Attack:
    """The gradient attack of a suite with the most successes, with twice its steps and, where it has some, starts."""
    names = [name for name in (*FULL_BALL, *SUBSET) if name in attacks]
    strongest = attacks[max(names, key=lambda name: results[name].success.sum())]
    amounts = {name: 2 * value for name, value in strongest.settings.items() if name in ("steps", "restarts")}
    return strongest.with_settings(**amounts)


def _applied(function: Callable, classifier: Classifier, problem: AttackProblem) -> Check:
    return function(classifier, problem)


def _examples_of(x: np.ndarray, classifier: Classifier, problem: AttackProblem) -> AttackResult:
    return from_examples(classifier, problem, x)


def _joined(parts: Sequence[GradientPath]) -> GradientPath:
    """Paths of some recordings each, as one."""
    return GradientPath(*(np.concatenate([getattr(p, f.name) for p in parts], axis=-1) for f in fields(GradientPath)))


def _any(*results: AttackResult) -> np.ndarray:
    """(n,) bool: one of the attacks succeeds."""
    return np.any([result.success for result in results], axis=0)


def _by_count(missed: int, warn_up_to: int = 1) -> str:
    """Pass for none, a warning for a few, else fail."""
    return PASS if missed == 0 else WARN if missed <= warn_up_to else FAIL


def _with_power(verdict: str, evidence: str, success: np.ndarray) -> tuple[str, str]:
    """Undecided instead of pass where an attack that should find no more than another succeeds on next to nothing."""
    if verdict == PASS and success.sum() <= max(1, 0.05 * len(success)):
        return UNDECIDED, f"{evidence}: no power to show a masked gradient"
    return verdict, evidence
