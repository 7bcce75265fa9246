"""Attack suites: what an evaluation computes, as values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ecgnb import values
from ecgnb.attacks import (
    NOISE_BASELINES,
    AttackProblem,
    AttackResult,
    Threat,
    apgd,
    apgd_targets,
    apply_universal,
    cross_entropy,
    fab,
    from_examples,
    logit_ratio,
    pgd,
    smooth,
    square,
    universal,
)
from ecgnb.constants import BAND, CLASS_NAMES, CLASSES, FS, WINDOW
from ecgnb.errors import EcgnbError
from ecgnb.models.classifier import Classifier

if TYPE_CHECKING:
    from ecgnb.data.dataset import Dataset


@dataclass(frozen=True)
class Attack:
    """An attack with its settings, as a value: call it with a classifier and a problem.

    title : for people; joint : what it does to a recording depends on the others, so that it must have all of them at
    once.
    """

    title: str
    function: Callable[..., AttackResult]
    settings: Mapping[str, Any]
    joint: bool = False

    def __call__(self, classifier: Classifier, problem: AttackProblem, *, seed: int = 0) -> AttackResult:
        return self.function(classifier, problem, **self.settings, seed=seed)

    def with_settings(self, **changes: object) -> Attack:
        """The same attack with some settings changed."""
        return replace(self, settings={**self.settings, **changes})

    def __str__(self) -> str:
        words = [f"{k}={getattr(v, '__name__', v)}" for k, v in self.settings.items()]
        return f"{self.function.__name__}({', '.join(words)})"


STUDY_THREAT = Threat()  # AF is to be predicted as normal, L∞ ε 0.2 z-units


@dataclass(frozen=True)
class ThreatCase:
    """A threat model besides the study's, with the attacks that are tried under it.

    One attack is run on all recordings of the attacked class; several in turn, each on the correctly classified
    recordings that those before it did not succeed on.
    """

    title: str
    threat: Threat
    attacks: Mapping[str, Attack]


@dataclass(frozen=True)
class Suite:
    """What an evaluation computes; see `schema.Report` for what comes of each part.

    name : in reports and file names; threat : the study's threat model; attacks : white-box, under that threat;
    transferred : crafted on another model; cases : other threat models; noise : names of noise baselines;
    grid : ε in z-units at which recall is computed under the first attack and under random noise;
    minimal_steps : PGD steps at each ε of the search for the minimal ε, 0 for none; draws : noisy predictions of each
    recording for a certificate, 0 for none; checks : of the evaluation itself; extras : also the path of the
    attack's loss, preprocessing, and the search for the minimal ε within the pass-band.
    """

    name: str
    attacks: Mapping[str, Attack]
    threat: Threat = STUDY_THREAT
    transferred: Mapping[str, Attack] = field(default_factory=dict)
    cases: Mapping[str, ThreatCase] = field(default_factory=dict)
    noise: tuple[str, ...] = ("random_sign",)
    grid: tuple[float, ...] = ()
    minimal_steps: int = 0
    draws: int = 0
    checks: bool = False
    extras: bool = False

    def __post_init__(self):
        values.read("minimal_steps", self.minimal_steps, 20, ">= 0")
        values.read("draws", self.draws, 500, ">= 0")
        for noise in self.noise:
            values.read("noise", noise, "gaussian", tuple(NOISE_BASELINES))


def pgd_attack(steps: int = 20, step: float = 0.1, restarts: int = 1) -> Attack:
    """PGD to its last iterate; restarts above 1 begin at random points."""
    settings = dict(steps=steps, step=step, restarts=restarts, random_start=restarts > 1)
    return Attack(f"PGD-{steps}", pgd, settings)


def random_pgd(steps: int, restarts: int) -> Attack:
    """PGD from random points, until success."""
    settings = dict(steps=steps, restarts=restarts, random_start=True, until_success=True)
    return Attack("PGD, random starts", pgd, settings)


STUDY_ATTACK = pgd_attack()  # the original's
EPSILONS = (0.02, 0.05, 0.1, 0.2, 0.3)  # z-units, around the original's 0.2
EQUAL_UV = Threat(epsilon=34, unit="µV")  # ε 0.2 at the median SD of AF, 169 µV
NOISE = ("random_sign", "gaussian", "baseline_wander", "mains", "emg")


def equal_uv(threat: Threat, dataset: Dataset | None = None) -> Threat:
    """A threat with the same µV for every patient: what its ε is at the median SD of the attacked recordings.

    Without a data set, and for the challenge's classes, the median is the challenge's. A data set without millivolts
    has no such threat, and gets the one it was given.
    """
    if dataset is None or (threat == STUDY_THREAT and dataset.classes == CLASSES):
        return replace(threat, epsilon=EQUAL_UV.epsilon, unit="µV")
    if not dataset.has_mv or threat.unit == "µV":
        return threat
    uv = float(np.median(dataset.uv_per_z[threat.is_attacked(dataset)]))
    return replace(threat, epsilon=float(f"{threat.epsilon * uv:.2g}"), unit="µV")


def results_suite(
    threat: Threat = STUDY_THREAT,
    attack: Attack = STUDY_ATTACK,
    *,
    transferred: bool = False,
    dataset: Dataset | None = None,
) -> Suite:
    """The suite of the results table: the study's attack in several ways, and random noise.

    transferred : also crafted on the surrogate, the model that training started from; dataset : as in `threat_cases`.
    """
    everyone, equal = replace(threat, attack_class="", target=""), equal_uv(threat, dataset)
    until_success = Attack("PGD-20", pgd, dict(steps=20, until_success=True))
    cases = {
        "pgd20_uv": ThreatCase(f"PGD-20, {equal.epsilon:g} µV for all", equal, {"pgd20": STUDY_ATTACK}),
        "pgd20_all_classes": ThreatCase("PGD-20, every class, untargeted", everyone, {"pgd20": until_success}),
    }
    return Suite(
        "results",
        {"pgd20": attack},
        threat,
        transferred={"transferred": attack} if transferred else {},
        cases={key: case for key, case in cases.items() if case.threat != threat},
    )


def notebook_suite(threat: Threat, attack: Attack, *, transferred: bool = False, grid: tuple[float, ...] = ()) -> Suite:
    """The suite of notebooks 1 to 3: one attack under one threat, random noise, and a curve over ε."""
    crafted_elsewhere = {"transferred": attack} if transferred else {}
    return Suite("notebook", {"pgd20": attack}, threat, crafted_elsewhere, grid=grid)


@dataclass(frozen=True)
class Budget:
    """What a whole evaluation may cost.

    pgd_steps, restarts : of PGD; apgd_steps : of each Auto-PGD, and of FAB-T; queries : of Square; smooth_steps : of SAP;
    passes : of the universal perturbation over its recordings; minimal_steps : at each ε of the search for the
    minimal ε; draws : noisy predictions of each recording for a certificate.
    """

    pgd_steps: int
    restarts: int
    apgd_steps: int
    queries: int
    smooth_steps: int
    passes: int
    minimal_steps: int
    draws: int


def attack_suite(budget: Budget, fs: float = FS) -> dict[str, Attack]:
    """The nine attacks of every suite. All but FGSM and PGD-20 as in the study stop at success.

    With a target, APGD-DLR maximises the targeted ratio: it is AutoAttack's APGD-T for that one class. fs : sampling
    rate of the recordings, Hz, above half of which no pass-band reaches.
    """
    band = f"PGD in {BAND[0]:g}–{min(BAND[1], fs / 2):g} Hz"
    in_band = dict(steps=budget.pgd_steps, restarts=budget.restarts, band=BAND)
    return {
        "fgsm": Attack("FGSM", pgd, dict(steps=1, step=1.0, until_success=True)),
        "pgd20": STUDY_ATTACK,
        "pgd": random_pgd(budget.pgd_steps, budget.restarts),
        "apgd_ce": Attack("APGD-CE", apgd, dict(steps=budget.apgd_steps, loss=cross_entropy)),
        "apgd_dlr": Attack("APGD-DLR", apgd, dict(steps=budget.apgd_steps, loss=logit_ratio)),
        "pgd_band": Attack(band, _in_band, in_band),
        "sap": Attack("SAP", _smooth_from_pgd, dict(steps=budget.smooth_steps)),
        "square": Attack("Square", square, dict(queries=budget.queries)),
        "universal": Attack("universal", _universal, dict(passes=budget.passes), joint=True),
    }


def strongest(budget: Budget) -> dict[str, Attack]:
    """The attacks that decide a worst case for any goal, without those that only explain it."""
    attacks = attack_suite(budget)
    by_target = Attack("APGD-T", apgd_targets, dict(steps=budget.apgd_steps))
    return {"pgd": attacks["pgd"], "apgd_ce": attacks["apgd_ce"], "apgd_t": by_target, "sap": attacks["sap"]}


def threat_cases(
    budget: Budget, threat: Threat = STUDY_THREAT, dataset: Dataset | None = None
) -> dict[str, ThreatCase]:
    """The threat models besides one's own, each under the strongest attacks.

    dataset : the recordings, whose classes and millivolts decide which cases there are; by default the challenge's.
    """
    classes, shape = (CLASSES, (WINDOW, 1)) if dataset is None else (dataset.classes, dataset.x.shape[1:])
    names = CLASS_NAMES if classes == CLASSES else {}
    source, to = (names.get(symbol, symbol) for symbol in (threat.attack_class or "every class", threat.target))
    goal = f"{source} → {to}" if threat.target else f"{source}, untargeted"
    threats = {}
    if threat.target and len(classes) > 2:
        for symbol in classes:
            if symbol not in (threat.attack_class, threat.target):
                name = names.get(symbol, symbol)
                threats[f"to_{name}"] = f"{source} → {name}", replace(threat, target=symbol)
        threats["untargeted"] = f"{source}, untargeted", replace(threat, target="")
    # The same amplitude for every patient.
    threats["equal_uv"] = f"{goal}, the same µV for all", equal_uv(threat, dataset)
    threats["band"] = f"{goal}, within the pass-band", replace(threat, band=BAND)
    # The root mean square of a perturbation that fills an L∞ ball is ε; this is a quarter of it.
    epsilon = threat.epsilon / 4 * (shape[0] * shape[1]) ** 0.5
    threats["l2"] = f"{goal}, L2", replace(threat, epsilon=epsilon, norm="L2")
    if dataset is None or dataset.has_mv:
        threats["ten_uv"] = f"{goal}, 10 µV as in Han et al. 2020", replace(threat, epsilon=10, unit="µV")
    threats["all_classes"] = "every class, untargeted", replace(threat, attack_class="", target="")
    attacks = strongest(budget)
    return {key: ThreatCase(title, case, attacks) for key, (title, case) in threats.items() if case != threat}


BUDGETS = {
    "quick": Budget(20, 1, 15, 60, 15, 5, 8, 100),
    "standard": Budget(40, 2, 50, 300, 40, 20, 20, 500),
    "full": Budget(100, 10, 100, 5000, 100, 50, 40, 10_000),
}


def whole_suite(name: str, threat: Threat = STUDY_THREAT, dataset: Dataset | None = None) -> Suite:
    """The suite "quick" (one threat model alone), "standard" or "full" (all parts); dataset : as in `threat_cases`."""
    if threat.norm != "L∞" or threat.band:
        raise EcgnbError(f"suite {name} is for L∞ without a band, which its attacks add; L2 and a band are cases of it")
    budget = BUDGETS[name]
    quick = name == "quick"
    attacks = attack_suite(budget, dataset.fs if dataset else FS)
    if name == "full":  # with Auto-PGD and Square that is AutoAttack, whose Square is in 2-D
        attacks |= {"fab": Attack("FAB-T", fab, dict(steps=budget.apgd_steps))}
    return Suite(
        name,
        attacks,
        threat,
        cases={} if quick else threat_cases(budget, threat, dataset),
        noise=NOISE,
        minimal_steps=budget.minimal_steps,
        draws=0 if quick else budget.draws,
        checks=True,
        extras=not quick,
    )


def suite(name: str, threat: Threat = STUDY_THREAT, dataset: Dataset | None = None) -> Suite:
    """A suite by its name. dataset : the recordings, if they are not the challenge's."""
    values.read("suite", name, "quick", SUITE_NAMES)
    return results_suite(threat, dataset=dataset) if name == "results" else whole_suite(name, threat, dataset)


SUITE_NAMES = ("results", *BUDGETS)


def _smooth_from_pgd(classifier, problem, *, steps, seed=0, progress=""):
    """SAP as published: begun from what PGD found."""
    start = pgd(classifier, problem, steps=20, progress=progress)
    return smooth(classifier, problem, steps=steps, start=start.x, progress=progress)


def _in_band(classifier, problem, *, steps, restarts, band, seed=0):
    """PGD within the pass-band, a subset of the ball: PGD in the whole ball could find the same, but may not."""
    return random_pgd(steps, restarts)(classifier, problem.within(band), seed=seed)


def _universal(classifier, problem, *, passes, seed=0):
    """Each half of the recordings under the one perturbation crafted on the other half."""
    halves = np.arange(0, len(problem), 2), np.arange(1, len(problem), 2)
    x = problem.x.copy()
    for crafted_on, applied_to in (halves, halves[::-1]):
        if len(crafted_on) and len(applied_to):
            part = problem.rows(crafted_on)
            shared = universal(classifier, part, passes=passes, seed=seed)
            x[applied_to] = apply_universal(classifier, problem.rows(applied_to), shared, seed).x
    return from_examples(classifier, problem, x)
