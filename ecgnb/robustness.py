"""How robust is a model? The worst of many attacks for each recording, and the smallest ε that turns it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ecgnb import metrics
from ecgnb.attacks import (
    AttackResult,
    apgd,
    apgd_targets,
    judged,
    pgd,
    shifted,
    smooth,
    square,
    universal,
)
from ecgnb.cluster import HERE, Workers, map_cached
from ecgnb.controls import CONTROLS, scaled
from ecgnb.evaluation import curve_of
from ecgnb.geometry import Band
from ecgnb.gradients import Victim
from ecgnb.losses import cross_entropy, logit_ratio
from ecgnb.progress import bar
from ecgnb.records import BAND
from ecgnb.store import digest
from ecgnb.threats import Problem

# Recordings that are attacked at a time, and the unit of work that is sent to workers: small enough to keep
# many busy with few recordings, and no slower a recording on CPU than larger ones. It is the same whoever
# does the work, since the network's rounding depends on how many recordings it reads at once.
CHUNK = 8


@dataclass(frozen=True)
class Attack:
    """An attack with its settings, as a value: call it with a victim and a problem.

    together : what it does to a recording depends on the others, so that it must see all of them at once.
    """

    function: Callable[..., AttackResult]
    settings: dict
    together: bool = False

    def __call__(self, victim: Victim, problem: Problem, **more) -> AttackResult:
        return self.function(victim, problem, **self.settings, **more)

    def with_settings(self, **changes) -> Attack:
        """The same attack with some settings changed."""
        return replace(self, settings=self.settings | changes)

    def __str__(self) -> str:
        words = [f"{k}={getattr(v, '__name__', v)}" for k, v in self.settings.items()]
        return f"{self.function.__name__}({', '.join(words)})"


@dataclass(frozen=True)
class Subject:
    """A model under evaluation. digest : of its weights and what stands in front of it."""

    name: str
    victim: Victim
    digest: str


@dataclass(frozen=True)
class Budget:
    """What an evaluation may spend.

    pgd_steps, restarts : of PGD; apgd_steps : of each Auto-PGD; queries : of Square; smooth_steps : of SAP;
    passes : of the universal change over its recordings; minimum_steps : at each ε of the search for the
    smallest; draws : noisy reads of each recording for a certificate.
    """

    pgd_steps: int
    restarts: int
    apgd_steps: int
    queries: int
    smooth_steps: int
    passes: int
    minimum_steps: int
    draws: int


BUDGETS = {
    "quick": Budget(20, 1, 15, 60, 15, 5, 8, 100),
    "standard": Budget(40, 2, 50, 300, 40, 20, 20, 500),
    "full": Budget(100, 10, 100, 5000, 100, 50, 40, 10_000),
}


PUBLISHED = "PGD-20, last iterate"
AS_PUBLISHED = {PUBLISHED: Attack(pgd, dict(steps=20))}  # the original's attack


def random_pgd(steps: int, restarts: int) -> Attack:
    """PGD from random points, until success."""
    settings = dict(steps=steps, restarts=restarts, random_start=True, until_success=True)
    return Attack(pgd, settings)


def suite(budget: Budget) -> dict[str, Attack]:
    """name -> attack, for a goal with a target. All but PGD-20 as published stop at success.

    With a target, APGD-DLR climbs the targeted ratio: it is AutoAttack's APGD-T for that one class.
    """
    return {
        "FGSM": Attack(pgd, dict(steps=1, step=1.0, until_success=True)),
        **AS_PUBLISHED,
        "PGD": random_pgd(budget.pgd_steps, budget.restarts),
        "APGD-CE": Attack(apgd, dict(steps=budget.apgd_steps, loss=cross_entropy)),
        "APGD-DLR": Attack(apgd, dict(steps=budget.apgd_steps, loss=logit_ratio)),
        "PGD in 0.5–40 Hz": Attack(
            _in_band, dict(steps=budget.pgd_steps, restarts=budget.restarts, band=BAND)
        ),
        "SAP": Attack(_smooth_from_pgd, dict(steps=budget.smooth_steps)),
        "Square": Attack(square, dict(queries=budget.queries)),
        "universal, of other recordings": Attack(
            _universal, dict(passes=budget.passes), together=True
        ),
    }


def strongest(budget: Budget) -> dict[str, Attack]:
    """name -> attack, for any goal: what decides a worst case, without what only explains it."""
    whole, by_target = suite(budget), Attack(apgd_targets, dict(steps=budget.apgd_steps))
    return {
        "PGD": whole["PGD"],
        "APGD-CE": whole["APGD-CE"],
        "APGD-T": by_target,
        "SAP": whole["SAP"],
    }


def control_suite() -> dict[str, Attack]:
    """name -> noise that was not made to deceive, as an attack as large as the ball allows."""
    return {
        name: Attack(control, dict(make=make), together=True) for name, make in CONTROLS.items()
    }


def control(
    victim: Victim,
    problem: Problem,
    *,
    make: Callable,
    rms: np.ndarray | None = None,
    seed: int = 0,
    progress: str = "",
) -> AttackResult:
    """Noise of `controls` as an attack: filling the ball, or of a given root mean square, (n,) z-units."""
    noise = make(problem.x.shape, np.random.default_rng(seed))
    return judged(victim, problem, scaled(noise, problem, rms))


def _smooth_from_pgd(victim, problem, *, steps, seed=0, progress=""):
    """SAP as published: begun from what PGD found."""
    start = pgd(victim, problem, steps=20, progress=progress)
    return smooth(victim, problem, steps=steps, start=start.x, progress=progress)


def _in_band(victim, problem, *, steps, restarts, band, seed=0, progress=""):
    """PGD within the pass-band, a part of the ball: free PGD can do all that it does, but may not find it."""
    inner = _narrowed(problem, band)
    return random_pgd(steps, restarts)(victim, inner, seed=seed, progress=progress)


def _narrowed(problem: Problem, band: tuple[float, float]) -> Problem:
    """The same problem for an attacker who keeps to a pass-band in Hz."""
    ball = problem.ball
    return replace(problem, ball=Band(ball.centre, ball.radius, ball.mask, band))


def _universal(victim, problem, *, passes, seed=0, progress=""):
    """Each half of the recordings under the one change made for the other half."""
    halves = np.arange(0, len(problem), 2), np.arange(1, len(problem), 2)
    x = problem.x.copy()
    for makers, others in (halves, halves[::-1]):
        if len(makers) and len(others):
            made = universal(
                victim, problem.rows(makers), passes=passes, seed=seed, progress=progress
            )
            x[others] = shifted(victim, problem.rows(others), made, seed).x
    return judged(victim, problem, x)


def run(
    attacks: dict[str, Attack],
    subject: Subject,
    problem: Problem,
    folder: Path,
    seed: int = 0,
    progress: bool = False,
    workers: Workers = HERE,
) -> dict[str, AttackResult]:
    """name -> result of every attack on every recording; finished chunks are taken from `folder`."""
    return run_each(
        {name: (attack, problem) for name, attack in attacks.items()},
        subject,
        folder,
        seed,
        progress,
        workers,
    )


def run_each(
    posed: dict[str, tuple[Attack, Problem]],
    subject: Subject,
    folder: Path,
    seed: int = 0,
    progress: bool = False,
    workers: Workers = HERE,
) -> dict[str, AttackResult]:
    """As `run`, each attack on a problem of its own: all of them at a time, if there are workers."""
    items, kept, owners = [], [], []
    # What cannot be shared out begins first, so that nobody waits for it at the end.
    for name, (attack, problem) in sorted(posed.items(), key=lambda one: not one[1][0].together):
        for part in [problem] if attack.together else chunks(problem):
            items.append((attack, part))
            key = _key(subject, part) | {"attack": str(attack), "seed": seed}
            kept.append((f"{subject.name}-{name}", key))
            owners.append(name)
    text = f"{subject.name}, {_several(posed)}" if progress else ""
    attack_one = partial(_attacked, seed=seed)
    made = map_cached(workers, attack_one, items, kept, folder, shared=(subject,), text=text)
    of = {name: [] for name in posed}
    for name, arrays in zip(owners, made, strict=True):
        of[name].append(AttackResult(**arrays))
    return {name: _joined(parts) for name, parts in of.items()}


def cascade(
    attacks: dict[str, Attack],
    subject: Subject,
    problem: Problem,
    folder: Path,
    seed: int = 0,
    progress: bool = False,
    workers: Workers = HERE,
) -> np.ndarray:
    """(n,) bool: turned by any of the attacks, each tried only on what those before it left standing."""
    parts, each = chunks(problem), list(attacks.values())
    how = {"cascade": [str(attack) for attack in each], "seed": seed}
    name = f"{subject.name}-{_several(attacks)}"
    kept = [(name, _key(subject, part) | how) for part in parts]
    try_all, text = partial(_cascaded, attacks=each, seed=seed), name if progress else ""
    made = map_cached(workers, try_all, parts, kept, folder, shared=(subject,), text=text)
    return np.concatenate([one["turned"] for one in made])


def chunks(problem: Problem) -> list[Problem]:
    """The recordings in parts of at most `CHUNK`, as equal as can be; one part if there are none."""
    parts = max(1, math.ceil(len(problem) / CHUNK))
    return [problem.rows(rows) for rows in np.array_split(np.arange(len(problem)), parts)]


def _attacked(
    item: tuple[Attack, Problem], subject: Subject, *, seed: int
) -> dict[str, np.ndarray]:
    attack, problem = item
    return vars(attack(subject.victim, problem, seed=seed))


def _cascaded(
    problem: Problem, subject: Subject, *, attacks: list[Attack], seed: int
) -> dict[str, np.ndarray]:
    turned = np.zeros(len(problem), bool)
    for attack in attacks:
        left = np.flatnonzero(~turned)
        if len(left):
            turned[left] = attack(subject.victim, problem.rows(left), seed=seed).success
    return {"turned": turned}


def _joined(parts: list[AttackResult]) -> AttackResult:
    """Results on some recordings each, as one. Losses are NaN after a part's last read."""
    reads = max(len(part.loss) for part in parts)
    losses = [np.full((reads, len(part.x)), np.nan, np.float32) for part in parts]
    for loss, part in zip(losses, parts, strict=True):
        loss[: len(part.loss)] = part.loss
    names = ("x", "logits", "success", "iterations")
    rest = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
    return AttackResult(*rest, np.concatenate(losses, axis=1))


def _several(names: Collection[str]) -> str:
    """What several attacks are called on a progress bar and in the names of files."""
    first, *others = names
    return f"{first} and {len(others)} more" if others else first


def transfer(
    subjects: list[Subject],
    problem: Problem,
    folder: Path,
    progress: bool = False,
    workers: Workers = HERE,
) -> dict[str, dict[str, dict]]:
    """Who made the change × who reads it: maker -> reader -> success among recordings the reader found clean."""
    changed = []
    for maker in subjects:
        (made,) = run(
            AS_PUBLISHED, maker, problem, folder, progress=progress, workers=workers
        ).values()
        changed.append(made.x)
    matrix = {maker.name: {} for maker in subjects}
    for reader in subjects:
        clean, *read = workers.map(judged_by, [problem.x, *changed], shared=(reader, problem))
        right = clean.logits.argmax(axis=1) == problem.y
        for maker, found in zip(subjects, read, strict=True):
            matrix[maker.name][reader.name] = metrics.rate(found.success[right])
    return matrix


def judged_by(x: np.ndarray, reader: Subject, problem: Problem) -> AttackResult:
    """Changed recordings, (n, 9000, 1), as `reader` reads them."""
    return judged(reader.victim, problem, x)


@dataclass(frozen=True)
class WorstCase:
    """The ensemble's verdict on each recording, never the worst of averages.

    success : (n,) bool, any attack reached the goal; name : (n,) the attack with the largest margin; x :
    (n, 9000, 1) float32, what that attack made.
    """

    success: np.ndarray
    name: np.ndarray
    x: np.ndarray


def worst_case(results: dict[str, AttackResult], problem: Problem) -> WorstCase:
    """The strongest of several attacks, recording by recording."""
    margins = [problem.goal.margin(result.logits, problem.y) for result in results.values()]
    success = np.any([result.success for result in results.values()], axis=0)
    best = np.argmax(margins, axis=0)
    made = list(results.values())
    x = np.stack([made[attack].x[row] for row, attack in enumerate(best)])
    return WorstCase(success, np.array(list(results))[best], x)


@dataclass(frozen=True)
class Minimum:
    """The smallest change found that reaches the goal, for each recording.

    radius : (n,) z-units; 0 where the goal is reached without an attack, infinite where none was found up to
    `largest`; x : (n, 9000, 1) float32, the changed recordings (the clean ones where none was found).
    """

    radius: np.ndarray
    x: np.ndarray
    largest: float


def minimum(
    victim: Victim,
    problem: Problem,
    *,
    known: np.ndarray,
    resolution: float = 0.005,
    steps: int = 20,
    band: tuple[float, float] | None = None,
    progress: str = "",
) -> Minimum:
    """Search each recording's smallest radius by bisection, up to the problem's own.

    Each try begins from the smallest success so far, shrunk to the smaller ball, and stops at success.
    That no attack succeeds below is evidence, not proof. known : (n, 9000, 1), what other attacks made, to
    begin with where it succeeds and is smaller than what PGD finds; resolution : z-units, at which a
    search ends; band : Hz, where PGD fails at a radius, PGD within this pass-band tries too.
    """
    ball, largest = problem.ball, problem.ball.radius
    first = _reached(victim, problem, problem.x, 2 * steps, band, progress)
    x, high = problem.x.copy(), np.full(len(problem), np.inf)
    for made, success in (first, (known, judged(victim, problem, known).success)):
        better = success & (ball.size(made) < high)
        x[better], high[better] = made[better], ball.size(made)[better]
    low = np.zeros(len(problem))
    with bar(progress and f"{progress}, bisection", unit="ε") as tries:
        while len(rows := np.flatnonzero((high - low > resolution) & np.isfinite(high))):
            middle = (low[rows] + high[rows]) / 2
            part = problem.rows(rows).resized(middle)
            shrunk = part.x + (middle / high[rows])[:, None, None] * part.ball.delta(x[rows])
            made, success = _reached(victim, part, shrunk, steps, band)
            hit, missed = rows[success], rows[~success]
            x[hit] = made[success]
            high[hit] = part.ball.size(made)[success]
            low[missed] = middle[~success]
            tries.update()
    return Minimum(high, x, float(largest.max()))


def _reached(
    victim: Victim,
    problem: Problem,
    start: np.ndarray,
    steps: int,
    band: tuple[float, float] | None,
    progress: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """PGD from `start` until success and, where it fails, PGD within `band`: (x, success)."""
    settings = dict(steps=steps, until_success=True, progress=progress)
    free = pgd(victim, problem, start=start, **settings)
    left = np.flatnonzero(~free.success)
    if band and len(left):
        narrow = _narrowed(problem.rows(left), band)
        inside = pgd(victim, narrow, start=start[left], **settings)
        free.x[left[inside.success]] = inside.x[inside.success]
        free.success[left] = inside.success
    return free.x, free.success


def run_minimum(
    subject: Subject,
    problem: Problem,
    known: np.ndarray,
    folder: Path,
    steps: int,
    band: tuple[float, float] | None,
    progress: bool = False,
    workers: Workers = HERE,
) -> Minimum:
    """`minimum` for every recording; finished chunks are taken from `folder`."""
    parts = chunks(problem)
    items = list(zip(parts, np.array_split(known, len(parts)), strict=True))
    how = {"minimum": steps, "band": band}
    kept = [
        (f"{subject.name}-smallest", _key(subject, part) | how | {"known": digest(made)})
        for part, made in items
    ]
    text = f"{subject.name}, smallest ε" if progress else ""
    search = partial(_smallest, steps=steps, band=band)
    found = map_cached(workers, search, items, kept, folder, shared=(subject,), text=text)
    radius, x = (np.concatenate([one[name] for one in found]) for name in ("radius", "x"))
    return Minimum(radius, x, max(float(one["largest"]) for one in found))


def _smallest(
    item: tuple[Problem, np.ndarray], subject: Subject, **settings
) -> dict[str, np.ndarray]:
    problem, known = item
    return vars(minimum(subject.victim, problem, known=known, **settings))


def survival(radius: np.ndarray, found: np.ndarray, largest: float) -> dict[str, list[float]]:
    """Share of recordings that are read rightly and not turned, at every ε where it changes: no grid.

    radius : (n,) smallest radius that turns each recording, in any unit, up to `largest` in the same;
    found : (n,) bool, read rightly when clean. In the form of `evaluation.curve_of`.
    """
    radius = np.where(found, radius, 0.0)
    epsilons = [0.0, *np.unique(radius[(radius > 0) & (radius <= largest)]), largest]
    return curve_of(epsilons, [metrics.rate(radius > epsilon) for epsilon in epsilons])


def robustness_summary(
    radius: np.ndarray, found: np.ndarray, largest: float, seed: int = 0
) -> dict[str, dict]:
    """Two numbers of a survival curve, with 95 % bootstrap intervals over recordings.

    "median minimum ε": over recordings read rightly when clean, None beyond `largest`; "area under the
    curve": mean share still read rightly for an ε drawn evenly from 0 to `largest`.
    """
    held = np.minimum(np.where(found, radius, 0.0), largest) / largest
    rng = np.random.default_rng(seed)
    median = np.where(found, radius, np.nan)
    draws = rng.integers(len(radius), size=(metrics.BOOTSTRAPS, len(radius)))
    low, high = metrics.interval(held[draws].mean(axis=1))
    medians = np.nanpercentile(median[draws], 50, axis=1, method="higher")
    bounds = np.percentile(medians, [2.5, 97.5], method="higher")
    values = [np.nanpercentile(median, 50, method="higher"), *bounds]
    value, *ends = (float(v) if v <= largest else None for v in values)
    return {
        "median minimum ε": {"value": value, "ci95": ends},
        "area under the curve": {"value": float(held.mean()), "ci95": [low, high]},
    }


def _key(subject: Subject, problem: Problem) -> dict:
    """What decides a result, besides the attack: the weights, the recordings, the goal, the ball."""
    ball = problem.ball
    return {
        "model": subject.digest,
        "recordings": digest(problem.y, ball.centre, ball.radius, ball.mask),
        "goal": problem.goal.target,
        "ball": type(ball).__name__,
        "band": getattr(ball, "band", None),
    }
