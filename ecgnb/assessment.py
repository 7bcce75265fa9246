"""The whole evaluation of one model, as plain numbers: what `python -m ecgnb evaluate` reports."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from ecgnb import checks, metrics
from ecgnb import model as network
from ecgnb.attacks import AttackResult, judged
from ecgnb.controls import CONTROLS
from ecgnb.data import Dataset
from ecgnb.filters import Fronted, filtered, rescaled
from ecgnb.gradients import InputGradient, Victim
from ecgnb.physiology import summary, table
from ecgnb.records import BAND, CLASSES
from ecgnb.report import provenance
from ecgnb.robustness import (
    BUDGETS,
    Budget,
    Minimum,
    Subject,
    control,
    control_suite,
    minimum,
    robustness_summary,
    run,
    suite,
    survival,
    worst_case,
)
from ecgnb.smoothing import certified_recall, certify, l2_equivalent, linf_equivalent
from ecgnb.store import cached, digest
from ecgnb.threats import Problem, Threat, goal_of

AF = CLASSES.index("A")
CLAIMED = Threat()  # the original's: AF read as normal, L∞ 0.2 z-units
PUBLISHED = "PGD-20, last iterate"  # the original's attack
LARGEST = 1.0  # z-units: how far the search for the smallest ε goes
SIGMA = 0.25  # z-units: the SD of the noise that certificates rest on, as the baseline was trained to bear
OTHER_THREATS = {
    "to other": Threat(goal_of("O")),
    "to noisy": Threat(goal_of("~")),
    "untargeted": Threat(goal_of("")),
    # ε 0.2 at the median SD of AF recordings, 169 µV, but the same for every patient.
    "to normal, the same µV for all": Threat(epsilon=34, unit="µV"),
    "to normal, within the pass-band": Threat(band=BAND),
    # The root mean square of a change that fills ε 0.2 is 0.2; this is a quarter of it.
    "to normal, L2": Threat(epsilon=0.05 * 9000**0.5, norm="L2"),
    "to normal, SAP's own 10 µV": Threat(epsilon=10, unit="µV"),
}


def subject_of(name: str, label: str = "") -> Subject:
    """A model by name or path, ready to be attacked."""
    model = network.load(name)
    weights = digest(*(np.asarray(w) for w in model.get_weights()))
    return Subject(label or Path(name).stem, InputGradient(model), weights)


def assess(
    subject: Subject,
    surrogate: Victim,
    dataset: Dataset,
    budget: str,
    folder: Path,
    *,
    seed: int = 0,
    progress: bool = False,
) -> dict:
    """Evaluate `subject` on `dataset`; everything that takes long is kept in `folder` and not done twice.

    surrogate : another model, which attacks are transferred from; budget : a name in `BUDGETS`; "quick"
    leaves out the other threats and the front ends.
    """
    spend = BUDGETS[budget]
    clean = subject.victim.logits(dataset.x).argmax(axis=1)
    af, found = dataset.of_class("A"), clean[dataset.y == AF] == AF
    problem = CLAIMED.on(af)
    attacks = run(suite(spend), subject, problem, folder, seed, progress)
    controls = run(control_suite(), subject, problem, folder, seed, progress)
    worst = worst_case(attacks, problem)
    smallest = _smallest(subject, problem, spend, folder, progress)
    uv = 1000 * af.sd_mv
    sound = checks.run_checks(
        subject,
        problem.rows(found),
        surrogate,
        folder,
        seed=seed,
        progress=progress,
    )
    equal_rms = _equal_rms_controls(subject, problem, attacks[PUBLISHED], seed)
    report = {
        "about": provenance(dataset, seed, subject.name) | {"budget": budget},
        "threat": str(CLAIMED),
        "clean": metrics.scores(dataset.y, clean, seed),
        "AF found clean": metrics.rate(found),
        "attacks": {name: _outcome(result, found) for name, result in attacks.items()},
        "worst case": {
            "success, of AF found clean": metrics.rate(worst.success[found]),
            "AF not turned, of all AF": metrics.rate(found & ~worst.success),
        },
        "controls": {name: _outcome(result, found) for name, result in controls.items()},
        "controls at the attack's RMS": {n: _outcome(r, found) for n, r in equal_rms.items()},
        "smallest ε, z": robustness_summary(smallest.radius, found, LARGEST, seed),
        "smallest ε, µV": robustness_summary(smallest.radius * uv, found, LARGEST * 200, seed),
        "curve": survival(smallest.radius, found, LARGEST),
        "curve, µV": survival(smallest.radius * uv, found, LARGEST * 200),
        "checks": [asdict(check) for check in sound],
        "signal": _signal(af, attacks | controls),
        "recordings": _recordings(af, clean[dataset.y == AF], attacks, worst, smallest),
    }
    if budget != "quick":
        report["other threats"] = _threats(subject, af, found, spend, folder, seed, progress)
        report["front ends"] = _fronts(subject, problem, attacks, spend, folder, seed, progress)
        report["certified"] = _certified(subject, af, spend, folder, seed, progress)
    return report


def _outcome(result: AttackResult, found: np.ndarray) -> dict:
    """Recall and success of one attack, and what it cost in reads of the network."""
    return {
        "AF recall": metrics.rate(result.logits.argmax(axis=1) == AF),
        "success, of AF found clean": metrics.rate(result.success[found]),
        "median reads": float(np.median(result.iterations)),
    }


def _smallest(
    subject: Subject, problem: Problem, spend: Budget, folder: Path, progress: bool
) -> Minimum:
    """`minimum` for every recording, kept in `folder`."""
    wide = problem.resized(np.full(len(problem), LARGEST))

    def make():
        text = f"{subject.name}, smallest ε" if progress else ""
        return vars(minimum(subject.victim, wide, steps=spend.minimum_steps, progress=text))

    key = {"minimum": spend.minimum_steps, "model": subject.digest, "largest": LARGEST}
    key |= {"recordings": digest(problem.x), "goal": problem.goal.target}
    return Minimum(**cached(folder, f"{subject.name}-smallest", key, make))


def _threats(
    subject: Subject, af: Dataset, found: np.ndarray, spend: Budget, folder, seed, progress
) -> dict[str, dict]:
    """Worst case of the strongest attacks under every other threat."""
    attacks = suite(spend)
    outcome = {}
    for name, threat in OTHER_THREATS.items():
        strongest = ("SAP", "PGD") if "SAP" in name else ("PGD", "APGD-CE", "APGD-T")
        chosen = {f"{attack}, {name}": attacks[attack] for attack in strongest}
        problem = threat.on(af)
        results = run(chosen, subject, problem, folder, seed, progress)
        success = worst_case(results, problem).success
        outcome[name] = {
            "threat": str(threat),
            "success, of AF found clean": metrics.rate(success[found]),
            "by attack": {n.split(",")[0]: _outcome(r, found) for n, r in results.items()},
        }
    return outcome


def _fronts(
    subject: Subject, problem: Problem, attacks: dict, spend: Budget, folder, seed, progress
) -> dict[str, dict]:
    """AF recall behind a front end: clean, under the attack that does not know of it, and one that does."""
    knowing = {"PGD": suite(spend)["PGD"]}
    outcome = {}
    for name, front in {"z-scored again": rescaled, "0.5–40 Hz filter": filtered}.items():
        victim = Fronted(subject.victim, front)
        behind = Subject(f"{subject.name}-{front.__name__}", victim, subject.digest + name)
        made = run(knowing, behind, problem, folder, seed, progress)["PGD"]
        reads = {
            "clean": judged(victim, problem, problem.x),
            "attack does not know": judged(victim, problem, attacks[PUBLISHED].x),
            "attack knows": made,
        }
        outcome[name] = {
            what: metrics.rate(read.logits.argmax(axis=1) == AF) for what, read in reads.items()
        }
    return outcome


def _equal_rms_controls(
    subject: Subject, problem: Problem, published: AttackResult, seed: int
) -> dict[str, AttackResult]:
    """Every control, with the power of the published attack instead of its largest sample."""
    delta = problem.ball.delta(published.x)
    rms = np.sqrt((delta**2).sum(axis=(1, 2)) / problem.ball.mask.sum(axis=(1, 2)))
    return {
        name: control(subject.victim, problem, make=make, rms=rms, seed=seed)
        for name, make in CONTROLS.items()
    }


def _certified(
    subject: Subject, af: Dataset, spend: Budget, folder: Path, seed: int, progress: bool
) -> dict:
    """Recall that no attack in L2 can take away, by randomized smoothing, and what it means in L∞."""
    key = digest(af.x, np.array([SIGMA, spend.draws, seed]))[:12]
    made = certify(
        subject.victim.logits,
        af.x,
        af.mask,
        sigma=SIGMA,
        n=spend.draws,
        seed=seed,
        path=folder / f"{subject.name}-certificate-{subject.digest[:12]}-{key}.json",
        progress=f"{subject.name}, certificates" if progress else "",
    )
    right = made.predicted == AF
    return {
        "sigma": SIGMA,
        "draws": spend.draws,
        "AF recall, smoothed": metrics.rate(right),
        "curve": certified_recall(made, af.y, AF, np.unique([0.0, *made.radius[right]])),
        "largest radius, L2": float(made.radius[right].max(initial=0)),
        "largest radius, as ε in L∞": float(
            linf_equivalent(made.radius, af.lengths)[right].max(initial=0)
        ),
        "radius that the claimed ε would need, L2": float(
            l2_equivalent(CLAIMED.epsilon, np.median(af.lengths))
        ),
    }


def _signal(af: Dataset, results: dict[str, AttackResult]) -> dict[str, dict]:
    """Is it an ECG any more: what each attack and each control did to the signal."""
    shown = (PUBLISHED, "SAP", *(n for n in results if n in control_suite()))
    return {name: summary(table(af, results[name].x)) for name in shown}


def _recordings(af, clean, attacks, worst, smallest) -> list[dict]:
    """One entry a recording: how it is read, clean and under each attack, and what turns it."""
    return [
        {
            "record": str(af.names[i]),
            "read as": CLASSES[clean[i]],
            "under attack": {n: CLASSES[r.logits[i].argmax()] for n, r in attacks.items()},
            "turned": bool(worst.success[i]),
            "worst attack": str(worst.name[i]),
            "smallest ε, z": float(smallest.radius[i]),
            "smallest ε, µV": float(1000 * smallest.radius[i] * af.sd_mv[i]),
        }
        for i in range(len(af))
    ]
