"""Attacks: searches for the point of a ball that serves an attacker best.

An attack takes a victim (`InputGradient`, or one behind a front end), a problem (recordings, goal and ball;
see `threats`) and its own settings, and returns an `AttackResult`. Arrays live in NumPy; only the gradient
is the network's, and it is 99 % of the time. All settings of length are shares of the ball's radius.

What is random is drawn for each recording by itself (`Problem.generators`), so that an attack finds the same
in a recording whichever others are attacked with it. Only `universal`, whose change is one for all, differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import convolve1d

from ecgnb.errors import EcgnbError
from ecgnb.gradients import Victim
from ecgnb.losses import cross_entropy, logit_ratio
from ecgnb.progress import bar
from ecgnb.records import CLASSES
from ecgnb.threats import Problem


@dataclass(frozen=True)
class AttackResult:
    """What an attack returns.

    x : (n, 9000, 1) float32, z-units, inside the ball; logits : (n, 4) float32, of x;
    success : (n,) bool, the goal is reached; iterations : (n,) int, reads of the network that it took, up to
    the first success where the attack stops there; loss : (reads, n) float32, what the attacker climbs,
    at every read, NaN where a recording was no longer under attack.
    """

    x: np.ndarray
    logits: np.ndarray
    success: np.ndarray
    iterations: np.ndarray
    loss: np.ndarray

    def rows(self, index: np.ndarray) -> AttackResult:
        """Some of the recordings."""
        picked = (self.x, self.logits, self.success, self.iterations)
        return AttackResult(*(array[index] for array in picked), self.loss[:, index])


class _Search:
    """The best seen so far of each recording, and what it cost."""

    def __init__(self, victim: Victim, problem: Problem, reads: int, progress: str):
        n = len(problem)
        self.victim, self.draft = victim, getattr(victim, "draft", False)
        self.problem, self.x = problem, problem.x.copy()
        self.logits = np.zeros((n, len(CLASSES)), np.float32)
        self.margin, self.iterations = np.full(n, -np.inf), np.zeros(n, int)
        self.loss = []
        self.bar = bar(progress, total=reads, unit="step")

    def rows(self, until_success: bool) -> np.ndarray:
        """Recordings to go on with: all, or those whose goal is not reached."""
        return np.flatnonzero(self.margin <= 0 if until_success else self.margin < np.inf)

    def read(self, rows: np.ndarray, loss: np.ndarray) -> None:
        """Count a read of the network and note the loss, (rows,)."""
        self.iterations[rows] += 1
        self.loss.append(np.full(len(self.x), np.nan, np.float32))
        self.loss[-1][rows] = loss
        self.bar.update()

    def see(
        self, rows: np.ndarray, x: np.ndarray, logits: np.ndarray, draft: bool = False
    ) -> np.ndarray:
        """Keep what is better than before; returns where in `rows` the goal is not reached.

        draft : what reaches the goal by these logits is read again, and only by that is it turned.
        """
        goal, y = self.problem.goal, self.problem.y[rows]
        margin = goal.margin(logits, y)
        claimed = np.flatnonzero(draft & (margin > 0))
        if len(claimed):
            logits[claimed] = self.victim.logits(x[claimed])
            margin[claimed] = goal.margin(logits[claimed], y[claimed])
        better = margin > self.margin[rows]
        self.margin[rows[better]] = margin[better]
        self.x[rows[better]], self.logits[rows[better]] = x[better], logits[better]
        return np.flatnonzero(margin <= 0)

    def result(self) -> AttackResult:
        self.bar.update(self.bar.total - self.bar.n)
        self.bar.close()
        if self.draft:
            rest = np.flatnonzero(self.margin <= 0)
            self.logits[rest] = self.victim.logits(self.x[rest])
        success = self.problem.goal.reached(self.logits, self.problem.y)
        loss = np.array(self.loss, np.float32).reshape(-1, len(self.x))
        return AttackResult(self.x, self.logits, success, self.iterations, loss)


def pgd(
    victim: Victim,
    problem: Problem,
    *,
    loss: Callable = cross_entropy,
    aims: np.ndarray | None = None,
    steps: int = 20,
    step: float = 0.1,
    restarts: int = 1,
    random_start: bool = False,
    until_success: bool = False,
    start: np.ndarray | None = None,
    seed: int = 0,
    progress: str = "",
) -> AttackResult:
    """Projected gradient descent (Madry et al. 2018); with one step of length 1 it is FGSM.

    Each step moves by `step` radii in the steepest direction, then back into the ball. The result of a
    restart is its last iterate; of several, each recording keeps the best for the attacker.

    loss : of `losses`; aims : (n,) or (n, 4), what it steers by, if not the goal's target classes;
    until_success : stop for each recording at the first iterate that reaches the goal; random_start :
    begin at a random point of the ball, not at its centre; start : (n, 9000, 1), begin there; seed : of
    random points; progress : text of a progress bar, none if empty.
    """
    _positive(steps=steps, restarts=restarts)
    if restarts > 1 and not random_start:
        raise EcgnbError("several restarts from the same point are one; set random_start=True")
    aims = problem.targets if aims is None else aims
    search = _Search(victim, problem, restarts * steps, progress)
    for restart in range(restarts):
        rows = search.rows(until_success)
        part = problem.rows(rows)
        now = part.x if start is None else part.ball.project(start[rows])
        if random_start:
            now = random_points(part, seed, restart)
        for _ in range(steps):
            if not len(rows):
                break
            value, logits, slope = victim.value_and_gradient(now, part.y, aims[rows], loss)
            search.read(rows, value)
            if until_success:
                left = search.see(rows, now, logits, search.draft)
                rows, part, now, slope = rows[left], part.rows(left), now[left], slope[left]
            now = part.ball.project(now + step * part.ball.step(slope))
        search.see(rows, now, victim.logits(now))
    return search.result()


def apgd(
    victim: Victim,
    problem: Problem,
    *,
    loss=cross_entropy,
    aim: int | None = None,
    steps: int = 50,
    restarts: int = 1,
    seed: int = 0,
    progress: str = "",
) -> AttackResult:
    """Auto-PGD (Croce & Hein 2020, algorithm 1): momentum, and a step that halves where progress stalls.

    Starts at a random point, stops for each recording at success.

    loss : `cross_entropy` or `logit_ratio`; aim : class that the loss steers to, if not the goal's own.
    """
    _positive(steps=steps, restarts=restarts)
    search = _Search(victim, problem, restarts * steps, progress)
    for restart in range(restarts):
        _climb(victim, search, problem, loss, aim, steps, (seed, restart))
    return search.result()


def _climb(victim, search, problem, loss, aim, steps, seeds) -> None:
    """One run of Auto-PGD on the recordings still standing."""
    rows = search.rows(until_success=True)
    part = problem.rows(rows)
    now = random_points(part, *seeds)
    state = {
        "before": now,  # the iterate before `now`
        "top": now,  # the best iterate
        "top value": np.full(len(rows), -np.inf),
        "top slope": np.zeros_like(now),
        "value": np.full(len(rows), -np.inf),  # of the iterate before
        "rises": np.zeros(len(rows), int),  # since the last checkpoint
        "step": np.full(len(rows), 2.0),  # radii
        "step then": np.full(len(rows), 2.0),  # at the last checkpoint
        "value then": np.full(len(rows), -np.inf),
    }
    checkpoints = _checkpoints(steps)
    for k in range(steps):
        if not len(rows):
            return
        aims = part.targets if aim is None else np.full(len(rows), aim)
        value, logits, slope = victim.value_and_gradient(now, part.y, aims, loss)
        search.read(rows, value)
        left = search.see(rows, now, logits, search.draft)
        rows, part, now, value, slope = (
            rows[left],
            part.rows(left),
            now[left],
            value[left],
            slope[left],
        )
        s = state = {key: array[left] for key, array in state.items()}
        if k == 0:
            s["value then"] = value
        else:
            s["rises"] += value > s["value"]
        s["value"] = value
        better = value > s["top value"]
        for key, new in (("top", now), ("top value", value), ("top slope", slope)):
            s[key][better] = new[better]
        if k in checkpoints:
            stalled = s["rises"] < 0.75 * (k - checkpoints[k])
            stalled |= (s["step then"] == s["step"]) & (s["value then"] == s["top value"])
            s["step then"], s["value then"] = s["step"].copy(), s["top value"].copy()
            s["step"][stalled] /= 2
            now, slope = now.copy(), slope.copy()
            now[stalled], slope[stalled] = s["top"][stalled], s["top slope"][stalled]
            s["rises"][:] = 0
        ahead = part.ball.project(now + s["step"][:, None, None] * part.ball.step(slope))
        if k > 0:
            momentum = 0.75 * (ahead.astype(np.float64) - now) + 0.25 * (
                now.astype(np.float64) - s["before"]
            )
            ahead = part.ball.project(now + momentum)
        s["before"], now = now, ahead
    if len(rows):
        search.see(rows, now, victim.logits(now))


def _checkpoints(steps: int) -> dict[int, int]:
    """Iterations at which Auto-PGD looks back -> the one before (Croce & Hein 2020, section 3.2)."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    at = [int(np.ceil(share * steps)) for share in shares]
    return dict(zip(at[1:], at, strict=False))


def apgd_targets(
    victim: Victim, problem: Problem, *, steps: int = 50, seed: int = 0, progress: str = ""
) -> AttackResult:
    """Auto-PGD on the targeted logit ratio, towards each class that would do, one after the other."""
    search = _Search(victim, problem, steps * (len(CLASSES) - 1), progress)
    for aim in range(len(CLASSES)):
        if problem.goal.target in (None, aim):
            _climb(victim, search, problem, logit_ratio, aim, steps, (seed, aim))
    return search.result()


def square(
    victim: Victim,
    problem: Problem,
    *,
    queries: int = 500,
    largest: float = 0.8,
    seed: int = 0,
    progress: str = "",
) -> AttackResult:
    """Square attack (Andriushchenko et al. 2020) in one dimension: no gradient, only reads.

    Begins with every sample at +radius or -radius; then one segment of time at a time is set to one of
    the two, and kept if the attacker's margin grows. Segments shorten on the paper's schedule.

    largest : length of the first segments, as a share of the recording.
    """
    _positive(queries=queries)
    search = _Search(victim, problem, queries, progress)
    rows, rngs = search.rows(until_success=True), problem.generators(seed)
    wide = problem.ball.radius[:, None, None]
    lengths = problem.ball.mask.sum(axis=(1, 2))
    signs = np.array([rng.choice((-1.0, 1.0), problem.x.shape[1:]) for rng in rngs])
    for query in range(queries):
        trial = signs[rows]
        if query:
            share = largest / 2 ** np.searchsorted(HALVINGS, query / queries, side="right")
            for one, row in zip(trial, rows, strict=True):
                piece = max(1, round(share * lengths[row]))
                begin = rngs[row].integers(lengths[row] - piece + 1)
                one[begin : begin + piece] = rngs[row].choice((-1.0, 1.0))
        part = problem.rows(rows)
        x = part.ball.project(part.x + wide[rows] * trial)
        logits = victim.logits(x)
        before = search.margin[rows]
        search.read(rows, problem.goal.margin(logits, part.y))
        left = search.see(rows, x, logits)
        better = search.margin[rows] > before
        signs[rows[better]] = trial[better]
        rows = rows[left]
        if not len(rows):
            break
    return search.result()


# Shares of the budget after which Square's segments halve (Andriushchenko et al. 2020, appendix B).
HALVINGS = np.array([10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]) / 10_000


def smooth_kernel() -> np.ndarray:
    """(19,) the mean of the 25 Gaussian kernels of Han et al. 2020: 5 lengths × 5 widths.

    A mean of convolutions is the convolution with the mean, so one kernel does the work of 25.
    """
    total = np.zeros(19)
    for length in (5, 7, 11, 15, 19):
        at = np.arange(length) - length // 2
        for sigma in (1, 3, 5, 7, 10):
            bell = np.exp(-(at**2) / (2 * sigma**2))
            total[9 - length // 2 : 10 + length // 2] += bell / bell.sum()
    return total / 25


def smooth(
    victim: Victim,
    problem: Problem,
    *,
    steps: int = 40,
    step: float = 0.1,
    start: np.ndarray | None = None,
    progress: str = "",
) -> AttackResult:
    """Smooth adversarial perturbation, SAP (Han et al. 2020): PGD on θ, where the change is θ smoothed.

    start : (n, 9000, 1), a point of the ball to begin from, such as PGD's (as the paper does).
    """
    _positive(steps=steps)
    kernel = smooth_kernel()

    def change(delta):  # symmetric, so that it is its own adjoint
        return convolve1d(delta, kernel, axis=1, mode="constant")

    search = _Search(victim, problem, steps, progress)
    rows, part = search.rows(until_success=True), problem
    theta = problem.x if start is None else problem.ball.project(start)
    for _ in range(steps):
        if not len(rows):
            break
        x = part.ball.project(part.x + change(part.ball.delta(theta)))
        loss, logits, slope = victim.value_and_gradient(x, part.y, part.targets)
        search.read(rows, loss)
        left = search.see(rows, x, logits, search.draft)
        rows, part, theta, slope = rows[left], part.rows(left), theta[left], slope[left]
        uphill = change(slope * part.ball.mask)
        theta = part.ball.project(theta + step * part.ball.step(uphill))
    if len(rows):
        x = part.ball.project(part.x + change(part.ball.delta(theta)))
        search.see(rows, x, victim.logits(x))
    return search.result()


def universal(
    victim: Victim,
    problem: Problem,
    *,
    passes: int = 10,
    step: float = 0.1,
    seed: int = 0,
    progress: str = "",
) -> np.ndarray:
    """One change for all recordings, wherever it falls in time; (9000,), as a share of the radius.

    Each pass reads every recording with the change at a random circular shift and follows the mean of the
    slopes, shifted back (Moosavi-Dezfooli et al. 2017, by gradient). `shifted` applies it to others.
    """
    rng, shared = np.random.default_rng(seed), np.zeros(problem.x.shape[1])
    for _ in bar(progress, range(passes), unit="pass"):
        shifts = rng.integers(problem.x.shape[1], size=len(problem))
        x = _shift(problem, shared, shifts)
        _, _, slope = victim.value_and_gradient(x, problem.y, problem.targets)
        back = [
            np.roll(s[:, 0], -by) for s, by in zip(slope * problem.ball.mask, shifts, strict=True)
        ]
        shared = np.clip(shared + step * np.sign(np.sum(back, axis=0)), -1, 1)
    return shared


def shifted(victim: Victim, problem: Problem, shared: np.ndarray, seed: int = 0) -> AttackResult:
    """A universal change, (9000,), on recordings that it was not made for, each at a random shift."""
    shifts = np.random.default_rng(seed).integers(problem.x.shape[1], size=len(problem))
    return judged(victim, problem, _shift(problem, shared, shifts))


def random_points(problem: Problem, *seeds: int) -> np.ndarray:
    """A random point of each recording's ball, (n, 9000, 1) float32: the same whatever else is attacked."""
    points = [
        problem.rows(np.array([i])).ball.random(rng)
        for i, rng in enumerate(problem.generators(*seeds))
    ]
    return np.concatenate([problem.x[:0], *points])


def judged(victim: Victim, problem: Problem, x: np.ndarray) -> AttackResult:
    """Points that somebody else made, as the result of one read; they need not lie in the ball."""
    logits = victim.logits(x)
    margin = problem.goal.margin(logits, problem.y).astype(np.float32)
    reached = problem.goal.reached(logits, problem.y)
    return AttackResult(x, logits, reached, np.ones(len(x), int), margin[None])


def _shift(problem: Problem, shared: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    rolled = np.stack([np.roll(shared, by) for by in shifts])[..., None]
    return problem.ball.project(problem.x + problem.ball.radius[:, None, None] * rolled)


def _positive(**settings: int) -> None:
    for name, value in settings.items():
        if value < 1:
            raise EcgnbError(f"attack needs {name} >= 1, got {value}")
