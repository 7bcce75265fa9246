"""Is the evaluation itself sound? Checks for masked gradients and weak attacks, each with a verdict.

After Carlini et al. 2019 (1902.06705), Athalye et al. 2018 (1802.00420), Tramèr et al. 2020 (2002.08347)
and the indicators of attack failure of Pintor et al. 2022 (2106.09947). A check is a function of results that
are at hand; `run_checks` makes the results and calls them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from ecgnb.attacks import AttackResult, pgd
from ecgnb.cluster import HERE, Workers
from ecgnb.controls import random_signs, scaled
from ecgnb.gradients import Victim
from ecgnb.robustness import (
    AS_PUBLISHED,
    PUBLISHED,
    Attack,
    Budget,
    Subject,
    cascade,
    judged_by,
    random_pgd,
    run,
    run_each,
)
from ecgnb.threats import Goal, Problem

PASS, WARN, FAIL = "pass", "warn", "fail"


@dataclass(frozen=True)
class Check:
    """A verdict: "pass", "warn" or "fail"; what it rests on; what to do if it is not a pass."""

    name: str
    verdict: str
    evidence: str
    advice: str


def success_grows_with_epsilon(success: dict[float, np.ndarray]) -> Check:
    """A larger ball holds the smaller one. success : ε -> (n,) bool, of the same attack."""
    epsilons = sorted(success)
    counts = [int(success[e].sum()) for e in epsilons]
    lost = max([0, *(a - b for a, b in pairwise(counts))])
    of = len(success[epsilons[0]])
    steps = ", ".join(f"{e:.3g}: {c}" for e, c in zip(epsilons, counts, strict=True))
    return Check(
        "success grows with ε",
        _by_count(lost),
        f"turned of {of}: {steps}",
        "let the step grow with ε, and take more of them: the attack does not use its room",
    )


def a_large_ball_turns_all(success: np.ndarray, epsilon: float) -> Check:
    """Unbounded in practice, an attack that follows a gradient cannot fail (Pintor et al., I6)."""
    return Check(
        "a large ε turns every recording",
        _by_count(int((~success).sum())),
        f"{int(success.sum())} of {len(success)} at ε {epsilon:g} z",
        "the gradient does not lead anywhere: look for quantisation, saturation or noise in the model",
    )


def more_work_changes_little(success: np.ndarray, doubled: np.ndarray) -> Check:
    """Twice the steps and starts should find next to nothing new (Carlini et al.).

    success : (n,) bool, turned by any attack; doubled : (n,) bool, by PGD with twice its steps and starts.
    """
    gained = int((doubled & ~success).sum())
    share = gained / max(1, len(success))
    return Check(
        "twice the work changes little",
        PASS if gained <= 1 or share <= 0.02 else WARN if share <= 0.1 else FAIL,
        f"{gained} of {len(success)} more with twice the steps and starts",
        "report the larger budget, and double again until nothing changes",
    )


def iterating_beats_one_step(one: np.ndarray, many: np.ndarray) -> Check:
    """If one step does better than twenty, the slope along the way misleads (Athalye et al.)."""
    return Check(
        "iterating is no worse than one step",
        _by_count(int((one & ~many).sum())),
        f"{int(one.sum())} turned by one step, {int(many.sum())} by many, "
        f"{int((one & ~many).sum())} by one step only",
        "the gradient is masked, or the step too large: compare losses along the path",
    )


def more_room_is_no_hindrance(free: np.ndarray, bound: np.ndarray) -> Check:
    """What is found in a part of the ball is there in the whole; not finding it is the attack's failure.

    free, bound : (n,) bool, turned by attacks in the whole ball, and by those that keep to a smooth part of it.
    """
    missed = int((bound & ~free).sum())
    return Check(
        "more room is no hindrance",
        _by_count(missed, few=2),
        f"turned: {int(free.sum())} in the whole ball, {int(bound.sum())} by smooth changes only, "
        f"{missed} only by these, of {len(free)}",
        "the model recognises the usual attack: believe the smooth ones, and look for a shortcut",
    )


def white_box_beats_transfer(white: np.ndarray, transfer: np.ndarray, noise: np.ndarray) -> Check:
    """Who knows the model must do at least as well as who does not; both better than noise (I5)."""
    missed = int((transfer & ~white).sum())
    worse = int(noise.sum()) > int(white.sum())
    return Check(
        "white box ≥ transfer ≥ noise",
        FAIL if worse else _by_count(missed, few=2),
        f"turned: {int(white.sum())} white box, {int(transfer.sum())} transferred, "
        f"{int(noise.sum())} noise, of {len(white)}; {missed} by transfer only",
        "the model's own gradient is worse than another's: it is masked",
    )


def no_gradient_does_not_win(white: np.ndarray, blind: np.ndarray) -> Check:
    """An attack without gradients must not find what those with them miss."""
    missed = int((blind & ~white).sum())
    return Check(
        "Square does not beat the white box",
        _by_count(missed, few=0),
        f"{missed} of {len(white)} turned by Square only",
        "the gradient is masked: attack a smooth stand-in for what hides it (BPDA)",
    )


def gradients_are_alive(victim: Victim, problem: Problem) -> Check:
    """Finite and not zero, for the loss that saturates first: untargeted cross-entropy (I4)."""
    _, _, slope = victim.value_and_gradient(problem.x, problem.y, np.full(len(problem), -1))
    finite = np.isfinite(slope).all(axis=(1, 2))
    dead = ~finite | (np.abs(slope).max(axis=(1, 2)) == 0)
    return Check(
        "gradients are finite and not zero",
        PASS if not dead.any() else FAIL,
        f"{int(dead.sum())} of {len(dead)} recordings have none",
        "attack with a loss that does not saturate (logit ratio), or around what rounds or clips",
    )


def outputs_repeat(victim: Victim, problem: Problem) -> Check:
    """The same recording gives the same logits: a second time, and whatever else is in the batch."""
    once, twice = victim.logits(problem.x), victim.logits(problem.x)
    alone = np.concatenate([victim.logits(problem.x[i : i + 1]) for i in range(len(problem))])
    scale = max(1.0, float(np.abs(once).max()))
    again, company = np.abs(once - twice).max() / scale, np.abs(once - alone).max() / scale
    return Check(
        "outputs repeat, whatever the batch",
        PASS if max(again, company) < 1e-4 else FAIL,
        f"largest change, relative: {again:.1e} on repetition, {company:.1e} alone",
        "the model is random or in training mode: fix it, or attack its expectation (EOT)",
    )


def slopes_ignore_company(victim: Victim, problem: Problem) -> Check:
    """A slope that depends on the other recordings is batch normalisation in training mode."""
    some = problem.rows(np.arange(min(4, len(problem))))
    together = victim.value_and_gradient(some.x, some.y, some.targets)[2]
    alone = [
        victim.value_and_gradient(one.x, one.y, one.targets)[2]
        for one in (some.rows(np.array([i])) for i in range(len(some)))
    ]
    change = np.abs(together - np.concatenate(alone)).max() / max(np.abs(together).max(), 1e-30)
    return Check(
        "training mode does not leak into the attack",
        PASS if change < 1e-3 else FAIL,
        f"a slope changes by {change:.1e}, relative, with the batch around it",
        "take gradients in inference mode: dropout and batch statistics frozen",
    )


def logits_are_attacked(victim: Victim, problem: Problem) -> Check:
    """Probabilities saturate; logits do not."""
    z = victim.logits(problem.x)
    probabilities = (z.min() >= 0) and np.allclose(z.sum(axis=1), 1, atol=1e-3)
    return Check(
        "logits are attacked, not probabilities",
        FAIL if probabilities else PASS,
        f"outputs from {z.min():.2g} to {z.max():.2g}, rows summing to {z.sum(axis=1).mean():.2g}",
        "remove the softmax before the attack",
    )


def goals_agree(targeted: np.ndarray, untargeted: np.ndarray) -> Check:
    """Whatever reaches a target has left the true class, so the untargeted attack must reach as much."""
    missed = int((targeted & ~untargeted).sum())
    return Check(
        "untargeted ≥ targeted",
        _by_count(missed, few=2),
        f"turned: {int(targeted.sum())} targeted, {int(untargeted.sum())} untargeted, "
        f"{missed} targeted only, of {len(targeted)}",
        "the untargeted loss saturates: use the logit ratio, or all targets in turn",
    )


def no_silent_success(last: np.ndarray, ever: np.ndarray) -> Check:
    """An attack that passes a success and returns something else understates itself (I1)."""
    silent = int((ever & ~last).sum())
    return Check(
        "no success is passed over",
        PASS if silent == 0 else WARN,
        f"{silent} of {len(last)} reached the goal on the way but not at the last step",
        "count a recording as turned if any iterate turns it",
    )


def the_loss_rises(result: AttackResult) -> Check:
    """The attacker's loss must end above where it began, for nearly all (Pintor et al., I3)."""
    first, last = result.loss[0], result.loss[-1]
    fallen = int((last < first).sum())
    share = fallen / max(1, len(first))
    return Check(
        "the loss rises along the path",
        PASS if share <= 0.02 else WARN if share <= 0.1 else FAIL,
        f"{fallen} of {len(first)} end below where they began",
        "reduce the step, or follow the gradient with momentum (Auto-PGD)",
    )


def the_loss_has_settled(result: AttackResult) -> Check:
    """Most of the gain comes early: the last quarter of the steps adds little (Pintor et al., I2)."""
    loss = np.maximum.accumulate(result.loss, axis=0)
    whole = loss[-1] - loss[0]
    late = loss[-1] - loss[3 * len(loss) // 4]
    share = np.median(late[whole > 0] / whole[whole > 0]) if (whole > 0).any() else 0.0
    return Check(
        "the loss has settled",
        PASS if share < 0.1 else WARN,
        f"the last quarter of the steps adds {share:.0%} of the gain, in the median",
        "take more steps",
    )


FREE = ("PGD", "APGD-CE", "APGD-DLR")  # gradient attacks that may use the whole ball
BOUND = ("PGD in 0.5–40 Hz", "SAP")  # and those that keep to a smooth part of it
LARGE = 5.0  # z-units: several times a recording's own SD, so that nothing of it need be left


def run_checks(
    subject: Subject,
    problem: Problem,
    attacks: dict[str, AttackResult],
    budget: Budget,
    surrogate: Subject,
    folder: Path,
    *,
    seed: int = 0,
    progress: bool = False,
    workers: Workers = HERE,
) -> list[Check]:
    """All checks of a model; results that take long are kept in `folder`.

    problem : recordings that the model reads rightly, under the threat that is claimed; attacks : what
    `robustness.suite(budget)` made of them; surrogate : another model, to transfer from.
    """
    victim, radius = subject.victim, problem.ball.radius
    kept = dict(folder=folder, seed=seed, progress=progress, workers=workers)
    plain = attacks[PUBLISHED]
    steps = AS_PUBLISHED[PUBLISHED].settings["steps"]
    last = Attack(pgd, dict(steps=steps))
    ever = last.with_settings(until_success=True)
    sizes = {factor: f"PGD, {factor} ε" for factor in (0.25, 0.5, 2)}
    wide = problem.resized(np.full(len(problem), LARGE))
    posed = {
        "PGD, any iterate": (ever, problem),
        **{name: (last, problem.resized(f * radius)) for f, name in sizes.items()},
        "PGD, large ε": (ever.with_settings(steps=2 * steps), wide),
        "PGD, untargeted": (ever, replace(problem, goal=Goal(None))),
    }
    of_model = [outputs_repeat, logits_are_attacked, gradients_are_alive, slopes_ignore_company]
    parts = workers.together(
        {
            "made": lambda: run_each(posed, subject, **kept),
            "lent": lambda: run({f"PGD, for {subject.name}": last}, surrogate, problem, **kept),
            "of model": lambda: workers.map(_applied, of_model, shared=(victim, problem)),
        }
    )
    made, (lent,) = parts["made"], parts["lent"].values()
    strong, large, untargeted = (
        made[name] for name in ("PGD, any iterate", "PGD, large ε", "PGD, untargeted")
    )
    white = strong.success | plain.success
    for name in FREE:
        white = white | attacks[name].success
    bound = np.any([attacks[name].success for name in BOUND], axis=0)
    double = random_pgd(2 * budget.pgd_steps, 2 * budget.restarts)
    doubled, left = white.copy(), np.flatnonzero(~white)
    doubled[left] = cascade({"PGD, doubled": double}, subject, problem.rows(left), **kept)
    success = {f: made[name].success for f, name in sizes.items()} | {1: plain.success}
    grown = {f * float(np.median(radius)): found for f, found in success.items()}
    noise = scaled(random_signs(problem.x.shape, np.random.default_rng(seed)), problem)
    borrowed, noisy = workers.map(judged_by, [lent.x, noise], shared=(subject, problem))
    return [
        *parts["of model"],
        the_loss_rises(plain),
        the_loss_has_settled(plain),
        no_silent_success(plain.success, strong.success),
        success_grows_with_epsilon(grown),
        a_large_ball_turns_all(large.success, LARGE),
        iterating_beats_one_step(attacks["FGSM"].success, strong.success),
        more_work_changes_little(white, doubled),
        more_room_is_no_hindrance(white, bound),
        white_box_beats_transfer(white, borrowed.success, noisy.success),
        no_gradient_does_not_win(white, attacks["Square"].success),
        goals_agree(strong.success, untargeted.success),
    ]


def _applied(check: Callable, victim: Victim, problem: Problem) -> Check:
    return check(victim, problem)


def _by_count(missed: int, few: int = 1) -> str:
    """Pass for none, a warning for a few, else fail."""
    return PASS if missed == 0 else WARN if missed <= few else FAIL
