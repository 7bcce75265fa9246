"""What every attack returns, and the bookkeeping that all searches share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecgnb import values
from ecgnb.attacks.threats import AttackProblem
from ecgnb.models.classifier import Classifier
from ecgnb.progress import bar


@dataclass(frozen=True)
class AttackResult:
    """What an attack returns.

    x : (n, samples, leads) float32, z-units, inside the ball; logits : (n, classes) float32, of x;
    success : (n,) bool, the goal is reached; queries : (n,) int, forward passes that it took, up to
    the first success where the attack stops there; loss : (passes, n) float32, what the attack maximises, at
    every pass, NaN where a recording was no longer under attack.
    """

    x: np.ndarray
    logits: np.ndarray
    success: np.ndarray
    queries: np.ndarray
    loss: np.ndarray

    def rows(self, index: np.ndarray) -> AttackResult:
        """Some of the recordings."""
        return AttackResult(
            x=self.x[index],
            logits=self.logits[index],
            success=self.success[index],
            queries=self.queries[index],
            loss=self.loss[:, index],
        )


class Search:
    """The best example found so far for each recording, and what it cost."""

    def __init__(self, classifier: Classifier, problem: AttackProblem, passes: int, progress: str):
        n = len(problem)
        self.classifier, self.low_precision = classifier, classifier.low_precision
        self.problem, self.x = problem, problem.x.copy()
        self.logits = np.zeros((n, len(classifier.classes)), np.float32)
        self.margin, self.queries = np.full(n, -np.inf), np.zeros(n, int)
        self.loss: list[np.ndarray] = []
        self.bar = bar(progress, total=passes, unit="step")

    def rows(self, until_success: bool) -> np.ndarray:
        """Recordings to go on with: all, or those whose goal is not reached."""
        return np.flatnonzero(self.margin <= 0 if until_success else self.margin < np.inf)

    def count(self, rows: np.ndarray, loss: np.ndarray) -> None:
        """Count a forward pass, and note the loss, (rows,)."""
        self.queries[rows] += 1
        self.loss.append(np.full(len(self.x), np.nan, np.float32))
        self.loss[-1][rows] = loss
        self.bar.update()

    def update(self, rows: np.ndarray, x: np.ndarray, logits: np.ndarray, low_precision: bool = False) -> np.ndarray:
        """Keep examples that are better than those before; returns where in `rows` the goal is not reached.

        low_precision : a success by these logits counts only if the classifier's own logits confirm it.
        """
        goal, y = self.problem.goal, self.problem.y[rows]
        margin = goal.margin(logits, y)
        unverified = np.flatnonzero(low_precision & (margin > 0))
        if len(unverified):
            logits[unverified] = self.classifier.logits(x[unverified])
            margin[unverified] = goal.margin(logits[unverified], y[unverified])
        better = margin > self.margin[rows]
        self.margin[rows[better]] = margin[better]
        self.x[rows[better]], self.logits[rows[better]] = x[better], logits[better]
        return np.flatnonzero(margin <= 0)

    def result(self) -> AttackResult:
        """The best examples, with the classifier's own logits."""
        self.bar.update(self.bar.total - self.bar.n)
        self.bar.close()
        if self.low_precision:
            rest = np.flatnonzero(self.margin <= 0)
            self.logits[rest] = self.classifier.logits(self.x[rest])
        success = self.problem.goal.reached(self.logits, self.problem.y)
        loss = np.array(self.loss, np.float32).reshape(len(self.loss), len(self.x))
        return AttackResult(self.x, self.logits, success, self.queries, loss)


def from_examples(classifier: Classifier, problem: AttackProblem, x: np.ndarray) -> AttackResult:
    """Examples that were crafted elsewhere, as the result of one query; they need not lie in the ball."""
    logits = classifier.logits(x)
    margin = problem.goal.margin(logits, problem.y).astype(np.float32)
    success = problem.goal.reached(logits, problem.y)
    return AttackResult(x, logits, success, np.ones(len(x), int), margin[None])


def check_positive(**settings: float) -> None:
    """Raise EcgnbError for a step that is not above 0, and for a number of steps, restarts or queries below 1."""
    for name, value in settings.items():
        if name == "step":
            values.read(name, value, 0.1, values.POSITIVE)
        else:
            values.read(name, value, 20, values.COUNT)
