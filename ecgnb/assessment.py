"""The whole evaluation of one model, as plain numbers: what `python -m ecgnb evaluate` reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from ecgnb import checks, metrics
from ecgnb import model as network
from ecgnb.attacks import AttackResult
from ecgnb.cluster import HERE, Workers
from ecgnb.controls import CONTROLS
from ecgnb.data import Dataset
from ecgnb.errors import EcgnbError
from ecgnb.evaluation import AF, curve_of
from ecgnb.files import write_json
from ecgnb.filters import Fronted, filtered, rescaled
from ecgnb.gradients import InputGradient
from ecgnb.physiology import summary, table
from ecgnb.records import BAND, CLASSES
from ecgnb.report import provenance
from ecgnb.robustness import (
    AS_PUBLISHED,
    BUDGETS,
    PUBLISHED,
    Budget,
    Subject,
    cascade,
    control,
    control_suite,
    judged_by,
    robustness_summary,
    run,
    run_minimum,
    strongest,
    suite,
    survival,
    transfer,
    worst_case,
)
from ecgnb.smoothing import certified_recall, certify, l2_equivalent, linf_equivalent
from ecgnb.store import code_digest, digest
from ecgnb.threats import Problem, Threat, goal_of

CLAIMED = Threat()  # the original's: AF read as normal, L∞ 0.2 z-units
LARGEST = 1.0  # z-units: how far the search for the smallest ε goes
LARGEST_UV = 200.0  # the same in µV
BATCH = 64  # recordings that a worker reads at a time
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


def subject_of(name: str) -> Subject:
    """A model by name or path, ready to be attacked."""
    model = network.load(name)
    weights = digest(*(np.asarray(w) for w in model.get_weights()))
    return Subject(Path(name).stem, InputGradient(model), weights)


def report_path(folder: Path, name: str, split: str, budget: str) -> Path:
    """Where the report of a model's evaluation lies."""
    return folder / f"{Path(name).stem}-{split}-{budget}.json"


def evaluate(
    name: str,
    dataset: Dataset,
    budget: str,
    folder: Path,
    *,
    surrogate: str = "",
    whole: bool = True,
    seed: int = 2017,
    progress: bool = True,
    workers: Workers = HERE,
) -> dict:
    """`assess` a model by name or path, and write its report into `folder` as JSON.

    surrogate : model that attacks are transferred from; by default the baseline, or for it the adaptive one;
    workers : who does the work, see `cluster`: they change the time it takes, not the report.
    """
    other = surrogate or ("adaptive" if name == "baseline" else "baseline")
    report = assess(
        subject_of(name),
        subject_of(other),
        dataset,
        budget,
        folder / "cache",
        whole=whole,
        seed=seed,
        progress=progress,
        workers=workers,
    )
    write_json(report_path(folder, name, dataset.split, budget), report)
    return report


def read_report(name: str, split: str, budget: str, folder: Path) -> dict:
    """The report that `evaluate` wrote, if it is of this model with these weights."""
    path = report_path(folder, name, split, budget)
    remedy = f"make it: python -m ecgnb evaluate {name} --split {split} --budget {budget}"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EcgnbError(f"{path}: no report ({error}); {remedy}") from error
    if report["about"]["weights"] != subject_of(name).digest:
        raise EcgnbError(f"{path}: made with other weights than {name} has; {remedy}")
    return report


def assess(
    subject: Subject,
    surrogate: Subject,
    dataset: Dataset,
    budget: str,
    folder: Path,
    *,
    whole: bool,
    seed: int = 0,
    progress: bool = False,
    workers: Workers = HERE,
) -> dict:
    """Evaluate `subject` on `dataset`; everything that takes long is kept in `folder` and not done twice.

    surrogate : another model, which attacks are transferred from; budget : a name in `BUDGETS`; whole :
    search for the smallest ε within the pass-band too, and go on with a longer path of the loss, the other
    threats, all classes, front ends, certificates.
    """
    spend = BUDGETS[budget]
    parts = np.split(dataset.x, range(BATCH, len(dataset), BATCH))
    clean = np.concatenate(workers.map(_classes_read, parts, shared=(subject,)))
    af, found = dataset.of_class("A"), clean[dataset.y == AF] == AF
    if not found.any():
        raise EcgnbError(f"{subject.name} finds no AF in {dataset.title}: nothing to attack")
    problem = CLAIMED.on(af)
    kept = dict(folder=folder, seed=seed, progress=progress, workers=workers)
    first = {
        "attacks": lambda: run(suite(spend), subject, problem, **kept),
        "controls": lambda: run(control_suite(), subject, problem, **kept),
        "normal read as AF": lambda: _false_alarms(subject, dataset, clean, seed, workers),
        "control curves": lambda: _control_curves(subject, problem, found, seed, workers),
    }
    if whole:
        first |= {
            "loss": lambda: _loss_path(subject, problem, found, **kept),
            "other threats": lambda: _threats(subject, af, found, spend, **kept),
            "all classes": lambda: _all_classes(subject, dataset, clean, spend, **kept),
            "certified": lambda: _certified(subject, af, spend, **kept),
        }
    made = workers.together(first)
    attacks, controls = made["attacks"], made["controls"]

    worst = worst_case(attacks, problem)
    wide = problem.resized(np.full(len(problem), LARGEST))
    narrow = BAND if whole else None  # twice the time
    of_found = {name: result.rows(found) for name, result in attacks.items()}
    then = {
        "checks": lambda: checks.run_checks(
            subject, problem.rows(found), of_found, spend, surrogate, **kept
        ),
        "smallest": lambda: run_minimum(
            subject, wide, worst.x, folder, spend.minimum_steps, narrow, progress, workers
        ),
        "equal RMS": lambda: _equal_rms_controls(
            subject, problem, attacks[PUBLISHED], seed, workers
        ),
        "signal": lambda: _signal(af, attacks | controls, workers),
    }
    if whole:
        then["front ends"] = lambda: _fronts(subject, problem, attacks, spend, **kept)
    made |= workers.together(then)
    smallest, uv = made["smallest"], 1000 * af.sd_mv
    report = {
        "about": provenance(dataset, seed, subject.name)
        | {"budget": budget, "weights": subject.digest},
        "threat": str(CLAIMED),
        "clean": metrics.scores(dataset.y, clean, seed),
        "AF found clean": metrics.rate(found),
        "attacks": {name: _outcome(result, found) for name, result in attacks.items()},
        "worst case": {
            "success, of AF found clean": metrics.rate(worst.success[found]),
            "AF not turned, of all AF": metrics.rate(found & ~worst.success),
        },
        "controls": {name: _outcome(result, found) for name, result in controls.items()},
        "controls at the attack's RMS": {
            n: _outcome(r, found) for n, r in made["equal RMS"].items()
        },
        "normal read as AF": made["normal read as AF"],
        "smallest ε, z": robustness_summary(smallest.radius, found, LARGEST, seed),
        "smallest ε, µV": robustness_summary(smallest.radius * uv, found, LARGEST_UV, seed),
        "curve": survival(smallest.radius, found, LARGEST),
        "control curves": made["control curves"],
        "curve, µV": survival(smallest.radius * uv, found, LARGEST_UV),
        "checks": [asdict(check) for check in made["checks"]],
        "signal": made["signal"],
        "recordings": _recordings(af, clean[dataset.y == AF], attacks, worst, smallest),
    }
    if whole:
        for part in ("loss", "other threats", "all classes", "front ends", "certified"):
            report[part] = made[part]
    return report


def transfers(
    names: list[str],
    dataset: Dataset,
    folder: Path,
    *,
    seed: int = 2017,
    progress: bool = True,
    workers: Workers = HERE,
) -> dict:
    """Who made the change × who reads it, for models by name or path; written into `folder` as JSON."""
    subjects = [subject_of(name) for name in names]
    problem = CLAIMED.on(dataset.of_class("A"))
    matrix = transfer(subjects, problem, folder / "cache", progress, workers)
    about = provenance(dataset, seed, ", ".join(subject.name for subject in subjects))
    found = about | {"threat": str(CLAIMED), "attack": PUBLISHED, "success": matrix}
    write_json(folder / f"transfer-{dataset.split}.json", found)
    return found


def _classes_read(x: np.ndarray, subject: Subject) -> np.ndarray:
    return subject.victim.logits(x).argmax(axis=1)


def _outcome(result: AttackResult, found: np.ndarray) -> dict:
    """What one attack leaves, and what it cost in reads of the network.

    A recording that is read as neither AF nor normal lowers the recall, but is not turned.
    """
    return {
        "AF recall": metrics.rate(result.logits.argmax(axis=1) == AF),
        "AF not turned, of all AF": metrics.rate(found & ~result.success),
        "success, of AF found clean": metrics.rate(result.success[found]),
        "median reads": float(np.median(result.iterations)),
    }


def _control_curves(
    subject: Subject, problem: Problem, found: np.ndarray, seed: int, workers: Workers
) -> dict[str, dict]:
    """`survival` under every control, on a grid: noise has no smallest ε to search for."""
    epsilons = np.linspace(0, LARGEST, 11)
    items = [(make, epsilon, None) for make in CONTROLS.values() for epsilon in epsilons[1:]]
    made = workers.map(partial(_under_noise, seed=seed), items, shared=(subject, problem))
    success = iter(result.success for result in made)
    return {
        name: curve_of(
            epsilons,
            [metrics.rate(found), *(metrics.rate(found & ~next(success)) for _ in epsilons[1:])],
        )
        for name in CONTROLS
    }


def _false_alarms(
    subject: Subject, dataset: Dataset, clean: np.ndarray, seed: int, workers: Workers
) -> dict:
    """Normal recordings that are read as AF: clean, and with every control.

    A network that takes whatever is perturbed for AF has a high recall under attack and is not robust.
    """
    normal = CLAIMED.on(dataset.of_class("N"))
    items = [(make, CLAIMED.epsilon, None) for make in CONTROLS.values()]
    made = workers.map(partial(_under_noise, seed=seed), items, shared=(subject, normal))
    alarms = {"clean": clean[dataset.y == CLASSES.index("N")] == AF}
    for name, read in zip(CONTROLS, made, strict=True):
        alarms[name] = read.logits.argmax(axis=1) == AF
    return {name: metrics.rate(alarm) for name, alarm in alarms.items()}


def _under_noise(
    item: tuple[Callable, float, np.ndarray | None],
    subject: Subject,
    problem: Problem,
    *,
    seed: int,
) -> AttackResult:
    """Recordings under a control at some ε, filling the ball or of a given root mean square."""
    make, epsilon, rms = item
    posed = problem.resized(np.full(len(problem), epsilon))
    return control(subject.victim, posed, make=make, rms=rms, seed=seed)


def _loss_path(subject: Subject, problem: Problem, found: np.ndarray, **kept) -> dict:
    """The attacker's loss at every step of PGD as published, gone on to twice its steps."""
    steps = 2 * AS_PUBLISHED[PUBLISHED].settings["steps"]
    longer = {"PGD-40, last iterate": AS_PUBLISHED[PUBLISHED].with_settings(steps=steps)}
    (made,) = run(longer, subject, problem, **kept).values()
    p5, median, p95 = np.percentile(made.loss[:, found], [5, 50, 95], axis=1)
    return {"p5": p5, "median": median, "p95": p95, "success": metrics.rate(made.success[found])}


def _threats(subject: Subject, af: Dataset, found: np.ndarray, spend: Budget, **kept) -> dict:
    """Worst case of the strongest attacks under every other threat, on what is read rightly."""
    right = af.take(np.flatnonzero(found))
    outcome = {}
    for name, threat in OTHER_THREATS.items():
        attacks = {f"{attack}, {name}": how for attack, how in strongest(spend).items()}
        turned = cascade(attacks, subject, threat.on(right), **kept)
        outcome[name] = {
            "threat": str(threat),
            "success, of AF found clean": metrics.rate(turned),
            "AF not turned, of all AF": metrics.rate(_among(found, ~turned)),
        }
    return outcome


def _all_classes(
    subject: Subject, dataset: Dataset, clean: np.ndarray, spend: Budget, **kept
) -> dict:
    """Every recording attacked, untargeted: share of each class that is read rightly, and stays so."""
    right = clean == dataset.y
    part = dataset.take(np.flatnonzero(right))
    attacks = {f"{name}, all classes": how for name, how in strongest(spend).items()}
    turned = cascade(attacks, subject, Threat(goal_of("")).on(part), **kept)
    stays = _among(right, ~turned)
    return {
        letter: {
            "read rightly": metrics.rate(right[dataset.y == label]),
            "and not turned": metrics.rate(stays[dataset.y == label]),
        }
        for label, letter in enumerate(CLASSES)
    }


def _among(rows: np.ndarray, flags: np.ndarray) -> np.ndarray:
    """`flags` of the recordings where `rows` is True, as (n,) bool, False elsewhere."""
    spread = np.zeros(len(rows), bool)
    spread[rows] = flags
    return spread


def _fronts(
    subject: Subject,
    problem: Problem,
    attacks: dict[str, AttackResult],
    spend: Budget,
    workers: Workers,
    **kept,
) -> dict[str, dict]:
    """AF recall behind a front end: clean, under attacks that do not know of it, and under one that does."""
    knowing = {"PGD": suite(spend)["PGD"]}
    outcome = {}
    for name, front in {"z-scored again": rescaled, "0.5–40 Hz filter": filtered}.items():
        victim = Fronted(subject.victim, front)
        behind = Subject(f"{subject.name}-{front.__name__}", victim, subject.digest + name)
        names = ["clean", *(f"{attack}, unaware" for attack in attacks)]
        changed = [problem.x, *(made.x for made in attacks.values())]
        read = workers.map(judged_by, changed, shared=(behind, problem))
        reads = dict(zip(names, read, strict=True))
        reads["PGD, aware"] = run(knowing, behind, problem, workers=workers, **kept)["PGD"]
        outcome[name] = {
            what: metrics.rate(read.logits.argmax(axis=1) == AF) for what, read in reads.items()
        }
    return outcome


def _equal_rms_controls(
    subject: Subject, problem: Problem, published: AttackResult, seed: int, workers: Workers
) -> dict[str, AttackResult]:
    """Every control, with the power of the published attack instead of its largest sample."""
    delta = problem.ball.delta(published.x)
    rms = np.sqrt((delta**2).sum(axis=(1, 2)) / problem.ball.mask.sum(axis=(1, 2)))
    items = [(make, CLAIMED.epsilon, rms) for make in CONTROLS.values()]
    made = workers.map(partial(_under_noise, seed=seed), items, shared=(subject, problem))
    return dict(zip(CONTROLS, made, strict=True))


def _certified(
    subject: Subject,
    af: Dataset,
    spend: Budget,
    folder: Path,
    seed: int,
    progress: bool,
    workers: Workers,
) -> dict:
    """Recall that no attack in L2 can take away, by randomized smoothing, and what it means in L∞."""
    code = np.frombuffer(code_digest().encode(), np.uint8)
    key = digest(af.x, np.array([SIGMA, spend.draws, seed]), code)[:12]
    made = certify(
        subject.victim.logits,
        af.x,
        af.mask,
        sigma=SIGMA,
        n=spend.draws,
        seed=seed,
        path=folder / f"{subject.name}-certificate-{subject.digest[:12]}-{key}.json",
        progress=f"{subject.name}, certificates" if progress else "",
        workers=workers,
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


def _signal(af: Dataset, results: dict[str, AttackResult], workers: Workers) -> dict[str, dict]:
    """Is it an ECG any more: what each attack and each control did to the signal."""
    made = workers.map(_measured, [result.x for result in results.values()], shared=(af,))
    return dict(zip(results, made, strict=True))


def _measured(x: np.ndarray, af: Dataset) -> dict:
    return summary(table(af, x))


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
