"""Square attack (Andriushchenko et al. 2020, arXiv 1912.00049) in time × leads: no gradient, only queries."""

from __future__ import annotations

import numpy as np

from ecgnb import values
from ecgnb.attacks.result import AttackResult, Search, check_positive
from ecgnb.attacks.threats import AttackProblem
from ecgnb.models.classifier import Classifier

# Shares of the budget after which segments halve (Andriushchenko et al. 2020, appendix B).
HALVINGS = np.array([10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]) / 10_000


def square(
    classifier: Classifier,
    problem: AttackProblem,
    *,
    queries: int = 500,
    largest: float = 0.8,
    seed: int = 0,
    progress: str = "",
) -> AttackResult:
    """Random search over segments of time in some of the leads.

    Begins with every sample at +radius or -radius; then one segment of time at a time, in as many leads as make it a
    square in shares of time and leads, is set to one of the two in each, and stays if the attacker's margin grows.
    Segments shrink on the paper's schedule.

    largest : size of the first segments, as a share of the recording.
    """
    check_positive(queries=queries)
    values.read("largest", largest, 0.8, "> 0 and <= 1")
    search = Search(classifier, problem, queries, progress)
    rows, generators = search.rows(until_success=True), problem.generators(seed)
    reach, n_leads = problem.ball.reach, problem.x.shape[2]
    lengths = problem.ball.mask.any(axis=2).sum(axis=1)
    signs = np.array([rng.choice((-1.0, 1.0), problem.x.shape[1:]) for rng in generators])
    for query in range(queries):
        trial = signs[rows]
        if query:
            share = largest / 2 ** np.searchsorted(HALVINGS, query / queries, side="right")
            for candidate, row in zip(trial, rows, strict=True):
                leads = np.arange(n_leads)
                if n_leads > 1:
                    leads = generators[row].permutation(n_leads)[: max(1, round(share**0.5 * n_leads))]
                length = max(1, round(min(1, share * n_leads / len(leads)) * lengths[row]))
                begin = generators[row].integers(lengths[row] - length + 1)
                candidate[begin : begin + length, leads] = generators[row].choice((-1.0, 1.0), len(leads))
        part = problem.rows(rows)
        x = part.ball.project(part.x + reach[rows] * trial)
        logits = classifier.logits(x)
        before = search.margin[rows]
        search.count(rows, problem.goal.margin(logits, part.y))
        left = search.update(rows, x, logits)
        better = search.margin[rows] > before
        signs[rows[better]] = trial[better]
        rows = rows[left]
        if not len(rows):
            break
    return search.result()
