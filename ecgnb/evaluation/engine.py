"""The one engine: `evaluate` runs a suite on a model and a data set, and makes every number of the study."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ecgnb import metrics
from ecgnb.attacks import NOISE_BASELINES, AttackProblem, AttackResult, Threat, add_noise, from_examples
from ecgnb.attacks.noise import NOISE_TITLES, possible_noise
from ecgnb.attacks.preprocessing import PreprocessedClassifier, filtered, standardised
from ecgnb.constants import BAND
from ecgnb.data.dataset import Dataset
from ecgnb.errors import EcgnbError
from ecgnb.evaluation import signals
from ecgnb.evaluation.cache import NUMBERS, code_digest
from ecgnb.evaluation.certification import certified_recall, certify, l2_equivalent
from ecgnb.evaluation.checks import run_checks
from ecgnb.evaluation.minimal import MinimalPerturbation, curve, robustness_curve, run_minimal, summarise
from ecgnb.evaluation.run import EvaluatedModel, Execution, cascade, run_attacks, run_each
from ecgnb.evaluation.schema import About, Condition, Report, Symbols
from ecgnb.evaluation.suites import STUDY_ATTACK, STUDY_THREAT, Suite
from ecgnb.evaluation.workers import HERE, Workers, map_cached
from ecgnb.files import array_digest
from ecgnb.models.classifier import UNDEFINED, check_defined, check_fits, predicted_classes

LARGEST = 1.0  # z-units: the limit of the search for the minimal ε
LARGEST_UV = 200.0  # the same in µV
BATCH = 128  # recordings that a worker predicts at a time
SIGMA = 0.25  # z-units: the SD of the noise that certificates rest on, as the baseline was trained to bear
PACKAGES = ("ecgnb", "keras", "numpy", "scipy", "tensorflow", "jax")
TRANSFORMATIONS = {"standardised": standardised, "filtered": filtered}


def evaluate(
    model: EvaluatedModel,
    dataset: Dataset,
    suite: Suite,
    *,
    surrogate: EvaluatedModel | None = None,
    cache: Path | None = None,
    seed: int = 2017,
    progress: bool = False,
    workers: Workers = HERE,
) -> Report:
    """Evaluate a model on a data set by a suite.

    surrogate : another model, which attacks are transferred from; without one that check is left out; cache : folder
    in which finished chunks are stored, so that an interrupted evaluation goes on there; seed : of random starts, noise and bootstrap;
    progress : show bars; workers : who computes, see `workers`.
    Raises EcgnbError if the suite has checks and the model classifies no recording of the attacked class correctly.
    """
    with tempfile.TemporaryDirectory() as temporary:
        how = Execution(cache or Path(temporary), seed, progress, workers)
        return _Evaluation(model, dataset, suite, surrogate, how).report()


class _Evaluation:
    """One call of `evaluate`: the parts of a suite, each a method, and the report that they make."""

    def __init__(
        self, model: EvaluatedModel, dataset: Dataset, suite: Suite, surrogate: EvaluatedModel | None, how: Execution
    ):
        self.model, self.dataset, self.suite, self.how = model, dataset, suite, how
        check_fits(model.classifier, dataset)
        if surrogate is None and suite.transferred:
            raise EcgnbError(f"suite {suite.name} needs a surrogate model to transfer from")
        self.surrogate = surrogate
        self.suite, self.left_out = possible_suite(suite, dataset)
        self.rows = np.flatnonzero(suite.threat.is_attacked(dataset))
        self.subset = dataset.take(self.rows)
        if not len(self.subset):
            raise EcgnbError(f"{dataset.title}: no recording of class {suite.threat.attack_class}, nothing to attack")
        if suite.checks:
            self.left_out += signals.left_out(self.subset)
            if surrogate is None:
                self.left_out += [
                    "the check of transferred attacks: no shipped model takes such recordings; --surrogate gives one"
                ]
        self.other_rows = self._other_rows()
        if suite.checks and not len(self.other_rows):
            self.left_out += [
                f"the check for label leaking: it needs a target, and {metrics.FEWEST} recordings of classes that are "
                "neither the target nor attacked"
            ]
        self.problem = suite.threat.on(self.subset)
        self.clean = self._predict(dataset.x)
        check_defined(self.clean, dataset.names, model.name)
        self.correct = self.clean == dataset.y
        self.is_correct = self.correct[self.rows]
        if suite.checks and not self.is_correct.any():
            raise EcgnbError(
                f"{model.name} classifies no {suite.threat.attack_class} correctly in "
                f"{dataset.title}: nothing to attack"
            )

    def report(self) -> Report:
        """Run everything that the suite asks for."""
        suite, how = self.suite, self.how
        first: dict[str, Callable[[], Any]] = {
            "attacks": lambda: run_attacks(suite.attacks, self.model, self.problem, how),
            "transferred": self._transferred,
            "cases": self._cases,
            "noise": self._noise,
            "grid": self._grid,
        }
        if len(self.other_rows):
            first["other_classes"] = self._other_classes
        if suite.minimal_steps:
            first["noise_curves"] = self._noise_curves
        if suite.extras:
            first["loss_path"] = self._loss_path
        if suite.draws:
            first["certification"] = self._certification
        parts = how.workers.run_all(first)
        attacks: dict[str, AttackResult] = parts["attacks"]
        worst = worst_case(attacks, self.problem)
        second: dict[str, Callable[[], Any]] = {}
        if suite.checks:
            second["checks"] = lambda: run_checks(
                self.model,
                self.surrogate,
                self.problem.rows(self.is_correct),
                suite.attacks,
                {name: result.rows(self.is_correct) for name, result in attacks.items()},
                how,
                self._leaking(parts["other_classes"]) if "other_classes" in parts else None,
            )
            second["noise_rms"] = lambda: self._noise_at_rms(attacks["pgd20"])
            second["signals"] = lambda: self._signals(attacks, parts["noise"])
        if suite.minimal_steps:
            second["minimal"] = lambda: self._minimal(worst.x)
        if suite.extras:
            second["preprocessing"] = lambda: self._preprocessing(attacks)
        parts |= how.workers.run_all(second)
        return self._assemble(parts, attacks, worst)

    # ---- parts ----

    def _predict(self, x: np.ndarray) -> np.ndarray:
        """(n,) predicted classes."""
        batches = np.split(x, range(BATCH, len(x), BATCH))
        return np.concatenate(self.how.workers.map(_predicted, batches, shared=(self.model,)))

    def _transferred(self) -> dict[str, np.ndarray]:
        """name -> predicted classes of examples crafted on the surrogate."""
        if not self.suite.transferred or self.surrogate is None:
            return {}
        made = run_attacks(self.suite.transferred, self.surrogate, self.problem, self.how)
        return {name: self._predict(result.x) for name, result in made.items()}

    def _other_rows(self) -> np.ndarray:
        """Recordings of the classes that the threat model leaves alone, if the suite has checks and they suffice for one."""
        threat, symbols = self.suite.threat, np.array(self.dataset.classes)[self.dataset.y]
        rows = np.flatnonzero((symbols != threat.attack_class) & (symbols != threat.target))
        return rows if self.suite.checks and threat.target and len(rows) >= metrics.FEWEST else rows[:0]

    def _other_classes(self) -> np.ndarray:
        """Predicted classes of those recordings under the study's attack, crafted on the surrogate if there is one."""
        problem = self.suite.threat.on(self.dataset.take(self.other_rows))
        attack = {"pgd20 on other classes": STUDY_ATTACK}
        (made,) = run_attacks(attack, self.surrogate or self.model, problem, self.how).values()
        return self._predict(made.x)

    def _leaking(self, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What `checks.no_label_leaking` takes."""
        attacked = self.dataset.classes.index(self.suite.threat.attack_class)
        return self.clean[self.other_rows] == attacked, predicted == attacked

    def _cases(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """name -> (rows of the data set, predicted classes there) under every other threat model."""
        found = {}
        for name, case in self.suite.cases.items():
            attacked = case.threat.is_attacked(self.dataset)
            if len(case.attacks) == 1:
                rows = np.flatnonzero(attacked)
                problem = case.threat.on(self.dataset.take(rows))
                attacks = {f"{name}-{key}": attack for key, attack in case.attacks.items()}
                (result,) = run_attacks(attacks, self.model, problem, self.how).values()
                found[name] = rows, predicted_classes(result.logits)
                continue
            rows = np.flatnonzero(attacked & self.correct)
            problem = case.threat.on(self.dataset.take(rows))
            _, predicted = cascade(case.attacks, self.model, problem, self.how, name)
            found[name] = rows, predicted
        return found

    def _noise(self) -> dict[str, np.ndarray]:
        """Noise baseline -> predicted classes of every recording with that noise."""
        problem = self.suite.threat.on(self.dataset)
        items = [(name, None) for name in self.suite.noise]
        return dict(zip(self.suite.noise, self._under_noise(items, problem), strict=True))

    def _noise_at_rms(self, attack: AttackResult) -> dict[str, np.ndarray]:
        """Every noise baseline on the attacked class, with the power of an attack instead of its largest sample."""
        ball = self.problem.ball
        delta = ball.delta(attack.x)
        rms = np.sqrt((delta**2).sum(axis=(1, 2)) / ball.mask.sum(axis=(1, 2)))
        items = [(name, rms) for name in self.suite.noise]
        return dict(zip(self.suite.noise, self._under_noise(items, self.problem), strict=True))

    def _noise_curves(self) -> dict[str, dict[str, list[float]]]:
        """Robust recall under every noise baseline, on a grid: noise has no minimal ε to search for."""
        epsilons = np.linspace(0, LARGEST, 11)
        goal, curves = self.problem.goal, {}
        for name in self.suite.noise:
            rates = [metrics.rate(self.is_correct)]
            for epsilon in epsilons[1:]:
                posed = self.problem.resized(np.full(len(self.problem), epsilon))
                (predicted,) = self._under_noise([(name, None)], posed)
                success = goal.is_success(predicted, self.problem.y)
                rates.append(metrics.rate(self.is_correct & ~success))
            curves[name] = curve(epsilons.tolist(), rates)
        return curves

    def _under_noise(self, items: Sequence[tuple[str, np.ndarray | None]], problem: AttackProblem) -> list[np.ndarray]:
        parts = [
            (name, problem.rows(rows), None if rms is None else rms[rows])
            for name, rms in items
            for rows in np.array_split(np.arange(len(problem)), max(1, len(problem) // BATCH))
        ]
        shared = (self.model, self.how.seed)
        predicted = np.concatenate(self.how.workers.map(_under_noise, parts, shared=shared))
        return np.split(predicted, len(items))

    def _grid(self) -> dict[str, dict[str, list[float]]]:
        """Recall of the attacked class at each ε of the suite's grid: under the first attack, and under random noise."""
        if not self.suite.grid:
            return {}
        (name, attack), *_ = self.suite.attacks.items()
        threats = [replace(self.suite.threat, epsilon=epsilon) for epsilon in self.suite.grid]
        problems = [threat.on(self.subset) for threat in threats]
        posed = {
            f"{name}, ε {threat.epsilon:g}": (attack, problem)
            for threat, problem in zip(threats, problems, strict=True)
        }
        attacked = run_each(posed, self.model, self.how)
        noisy = [self._under_noise([("random_sign", None)], problem)[0] for problem in problems]
        clean = metrics.rate(self.is_correct)
        epsilons = (0.0, *self.suite.grid)
        return {
            name: curve(epsilons, [clean, *(self._recall(r.logits) for r in attacked.values())]),
            "random_sign_recall": curve(epsilons, [clean, *(metrics.rate(p == self.subset.y) for p in noisy)]),
        }

    def _recall(self, logits: np.ndarray) -> metrics.Estimate:
        return metrics.rate(predicted_classes(logits) == self.subset.y)

    def _minimal(self, known: np.ndarray) -> MinimalPerturbation:
        wide = self.problem.resized(np.full(len(self.problem), LARGEST))
        band = BAND if self.suite.extras else None  # twice the time
        return run_minimal(self.model, wide, known, self.how, self.suite.minimal_steps, band)

    def _loss_path(self) -> dict[str, Any]:
        """The loss at every step of the study's attack, gone on to twice its steps."""
        longer = STUDY_ATTACK.with_settings(steps=40)
        (made,) = run_attacks({"pgd40": longer}, self.model, self.problem, self.how).values()
        loss = made.loss[:, self.is_correct]
        p5, median, p95 = np.percentile(loss, [5, 50, 95], axis=1)
        success = metrics.rate(made.success[self.is_correct])
        return {"p5": p5, "median": median, "p95": p95, "success": success}

    def _preprocessing(self, attacks: Mapping[str, AttackResult]) -> dict[str, dict[str, metrics.Estimate]]:
        """Recall behind an input transformation: clean, under attacks unaware of it, and under one that is aware."""
        if self.dataset.standardise not in ("recording", "lead"):
            return {}
        outcome, together = {}, self.dataset.standardise == "recording" and len(self.dataset.leads) > 1
        for name, transformation in TRANSFORMATIONS.items():
            transformed = partial(transformation, together=True) if together else transformation
            classifier = PreprocessedClassifier(self.model.classifier, transformed)
            digest = self.model.digest + name
            behind = EvaluatedModel(f"{self.model.name}-{name}", classifier, digest)
            examples = [self.problem.x, *(result.x for result in attacks.values())]
            shared = (behind, self.problem)
            found = self.how.workers.map(_examples_of, examples, shared=shared)
            results = dict(zip(["clean", *attacks], found, strict=True))
            aware = {"pgd_aware": self.suite.attacks["pgd"]}
            results |= run_attacks(aware, behind, self.problem, self.how)
            outcome[name] = {key: self._recall(result.logits) for key, result in results.items()}
        return outcome

    def _certification(self) -> dict[str, Any]:
        """Recall that no attack in L2 can take away, by randomized smoothing, and what it means in L∞."""
        subset, draws, seed = self.subset, self.suite.draws, self.how.seed
        text = f"{self.model.name}, certificates" if self.how.progress else ""
        key = {"model": self.model.digest, "sigma": SIGMA, "draws": draws, "seed": seed}

        def mapper(function, items):
            name = f"{self.model.name}-certificate"
            stored = [(name, key | {"index": i, "x": array_digest(x, m)}) for i, x, m in items]
            shared = (self.model.classifier,)
            return map_cached(self.how.workers, function, items, stored, self.how.cache, shared=shared, text=text)

        certificates = certify(
            self.model.classifier, subset.x, subset.mask, sigma=SIGMA, n=draws, seed=seed, mapper=mapper
        )
        is_certified = certificates.predicted == subset.y
        numbers, attacked = subset.lengths * subset.x.shape[2], self.suite.threat.attack_class
        label = subset.classes.index(attacked) if attacked else None
        radii = np.unique([0.0, *certificates.radius[is_certified]])
        return {
            "sigma": SIGMA,
            "draws": draws,
            "smoothed_recall": metrics.rate(is_certified),
            "curve": certified_recall(certificates, subset.y, label, radii),
            "l2_radius_of_study_epsilon": float(l2_equivalent(self._epsilon(), np.median(numbers))),
        }

    def _epsilon(self) -> float:
        """ε of the threat in z-units, the median over recordings if it is in µV."""
        return (
            self.suite.threat.epsilon if self.suite.threat.unit == "z" else float(np.median(self.problem.ball.radius))
        )

    def _signals(self, attacks: Mapping[str, AttackResult], noise: Mapping[str, np.ndarray]) -> dict[str, dict]:
        """What each attack and each noise baseline did to the signal."""
        problem, seed = self.problem, self.how.seed
        examples = {name: result.x for name, result in attacks.items()}
        for name in noise:
            examples[name] = add_noise(problem, NOISE_BASELINES[name], seed=seed)
        found = self.how.workers.map(_measured, list(examples.values()), shared=(self.subset,))
        return dict(zip(examples, found, strict=True))

    # ---- the report ----

    def _assemble(self, parts: dict[str, Any], attacks: dict[str, AttackResult], worst: WorstCase) -> Report:
        suite = self.suite
        conditions = {"clean": self._condition("clean", "clean", None, self.clean)}
        for name, result in attacks.items():
            predicted = predicted_classes(result.logits)
            queries = float(np.median(result.queries)) if len(result.queries) else None
            conditions[name] = self._attacked(suite.attacks[name].title, "attack", predicted, queries)
        if len(attacks) > 1:
            title = f"worst of {len(attacks)} attacks"
            conditions["worst_case"] = self._attacked(title, "worst_case", worst.predicted)
        for name, predicted in parts["transferred"].items():
            source = self.surrogate.name if self.surrogate else ""
            title = f"{suite.transferred[name].title} crafted on {source}"
            conditions[name] = self._attacked(title, "transfer", predicted)
        for name, (rows, predicted) in parts["cases"].items():
            case = suite.cases[name]
            kind = "attack" if len(case.attacks) == 1 else "worst_case"
            everyone = self._spread(rows, predicted)
            conditions[name] = self._condition(case.title, kind, case.threat, everyone)
        if "other_classes" in parts:
            title = f"{STUDY_ATTACK.title} on other classes, crafted on {(self.surrogate or self.model).name}"
            everyone = self._spread(self.other_rows, parts["other_classes"])
            conditions["other_classes"] = self._condition(title, "other_classes", None, everyone)
        for name, predicted in parts["noise"].items():
            title = NOISE_TITLES[name]
            conditions[name] = self._condition(title, "noise", suite.threat, predicted)
        for name, predicted in parts.get("noise_rms", {}).items():
            title = f"{NOISE_TITLES[name]} of the attack's RMS"
            conditions[f"{name}_rms"] = self._attacked(title, "noise", predicted)
        report = Report(
            about=describe(
                self.dataset, seed=self.how.seed, model=self.model.name, digest=self.model.digest, suite=suite.name
            ),
            threat=asdict(suite.threat),
            classes=tuple(self.dataset.classes),
            records=[str(name) for name in self.dataset.names],
            labels=self._symbols(self.dataset.y),
            conditions=conditions,
            curves=parts["grid"] | parts.get("noise_curves", {}),
            checks=parts.get("checks", []),
            loss_path=parts.get("loss_path", {}),
            preprocessing=parts.get("preprocessing", {}),
            certification=parts.get("certification", {}),
            signals=parts.get("signals", {}),
            left_out=self.left_out,
            examples=attacks,
        )
        return self._with_minimal(report, parts["minimal"], worst) if "minimal" in parts else report

    def _with_minimal(self, report: Report, minimal: MinimalPerturbation, worst: WorstCase) -> Report:
        uv, seed, correct = self.subset.uv_per_z, self.how.seed, self.is_correct
        radius, radius_uv = minimal.radius, minimal.radius * uv
        scales = {"z": (radius, LARGEST)} | ({"uv": (radius_uv, LARGEST_UV)} if self.subset.has_mv else {})
        return replace(
            report,
            curves={"attack": robustness_curve(radius, correct, LARGEST)} | report.curves,
            curve_uv=robustness_curve(radius_uv, correct, LARGEST_UV) if self.subset.has_mv else {},
            minimal_epsilon={unit: summarise(r, correct, most, seed) for unit, (r, most) in scales.items()}
            if correct.any()
            else {},
            attacked=[
                {
                    "record": str(self.subset.names[i]),
                    "minimal_epsilon_z": float(radius[i]),
                    "minimal_epsilon_uv": float(radius_uv[i]),
                    "worst_attack": str(worst.attack[i]),
                }
                for i in range(len(self.subset))
            ],
        )

    def _attacked(self, title: str, kind: str, predicted: np.ndarray, queries: float | None = None) -> Condition:
        """A condition under the study's threat; predicted : of the attacked class alone."""
        everyone = self._spread(self.rows, predicted)
        return self._condition(title, kind, self.suite.threat, everyone, queries)

    def _condition(
        self, title: str, kind: str, threat: Threat | None, predicted: np.ndarray, queries: float | None = None
    ) -> Condition:
        """predicted : (n,) of all recordings."""
        dataset, robust, success_rate = self.dataset, None, None
        if threat is not None:
            attacked = threat.is_attacked(dataset)
            goal = threat.goal(dataset.classes)
            success = goal.is_success(predicted, dataset.y)
            robust = metrics.rate((self.correct & ~success)[attacked])
            success_rate = metrics.rate(success[attacked & self.correct])
        return Condition(
            title=title,
            kind=kind,
            threat=asdict(threat) if threat else None,
            predictions=self._symbols(predicted),
            scores=metrics.scores(dataset.y, predicted, dataset.classes, self.how.seed),
            robust_recall=robust,
            attack_success_rate=success_rate,
            median_queries=queries,
        )

    def _spread(self, rows: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Predicted classes of all recordings: clean, but for those at `rows`."""
        everyone = self.clean.copy()
        everyone[rows] = predicted
        return everyone

    def _symbols(self, classes: np.ndarray) -> Symbols:
        symbols = ["?" if c == UNDEFINED else self.dataset.classes[c] for c in classes]
        return "".join(symbols) if all(len(symbol) == 1 for symbol in self.dataset.classes) else symbols


@dataclass(frozen=True)
class WorstCase:
    """The strongest of several attacks, recording by recording: never the worst of averages.

    x : (n, samples, leads) float32; predicted : (n,) int, class predicted for it; attack : (n,) name of the attack.
    """

    x: np.ndarray
    predicted: np.ndarray
    attack: np.ndarray


def worst_case(attacks: Mapping[str, AttackResult], problem: AttackProblem) -> WorstCase:
    """For each recording the attack with the largest margin; a success wherever any attack succeeds."""
    results = list(attacks.values())
    margins = [problem.goal.margin(result.logits, problem.y) for result in results]
    best = np.argmax(margins, axis=0)
    x = np.array([results[attack].x[row] for row, attack in enumerate(best)])
    logits = np.array([results[attack].logits[row] for row, attack in enumerate(best)])
    predicted = predicted_classes(logits.reshape(len(best), -1)) if len(best) else best
    return WorstCase(x, predicted, np.array(list(attacks))[best])


def possible_suite(suite: Suite, dataset: Dataset) -> tuple[Suite, list[str]]:
    """A suite without what a data set does not allow, and a sentence for each part that is left out."""
    samples, fs, said = dataset.x.shape[1], dataset.fs, []
    noise = tuple(name for name in suite.noise if possible_noise(name, samples, fs))
    said += [
        f"{NOISE_TITLES[name]}: recordings of {samples / fs:.3g} s at {fs:g} Hz cannot hold it"
        for name in suite.noise
        if name not in noise
    ]
    cases = {key: case for key, case in suite.cases.items() if dataset.has_mv or case.threat.unit == "z"}
    if not dataset.has_mv:
        said.append("everything in µV: the recordings were given in z-units")
    if suite.checks and fs / 2 < BAND[1]:
        said.append(f"the pass-band from {fs / 2:g} to {BAND[1]:g} Hz: half the sampling rate ends it")
    if suite.extras and dataset.standardise not in ("recording", "lead"):
        said.append("input transformations: the recordings are not standardised one by one")
    return replace(suite, noise=noise, cases=cases), said


def describe(dataset: Dataset, *, seed: int, model: str, digest: str = "", suite: str = "") -> About:
    """Where numbers made from a data set come from."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        if package in sys.modules:
            versions[package] = importlib.metadata.version(package)
    counts = np.bincount(dataset.y, minlength=len(dataset.classes))
    return About(
        data=dataset.source + dataset.left_out,
        split=dataset.split,
        protocol=dataset.protocol,
        labels=dataset.labels,
        recordings=len(dataset),
        class_counts=dict(zip(dataset.classes, counts.tolist(), strict=True)),
        seed=seed,
        model=model,
        digest=digest,
        suite=suite,
        code=code_digest(NUMBERS),
        signals=array_digest(*dataset.signals, dataset.names, dataset.y),
        versions=versions,
    )


def transfer(
    models: Sequence[EvaluatedModel],
    dataset: Dataset,
    threat: Threat = STUDY_THREAT,
    *,
    cache: Path | None = None,
    seed: int = 2017,
    progress: bool = False,
    workers: Workers = HERE,
) -> dict[str, Any]:
    """The study's attack, under any threat, crafted on each model and evaluated on each, as plain values.

    "success": crafted on -> evaluated on -> attack success rate among the recordings that the latter classifies
    correctly when clean; "digests": name -> digest of each model.
    """
    for model in models:
        check_fits(model.classifier, dataset)
    attacked_set = dataset.take(threat.is_attacked(dataset))
    if not len(attacked_set):
        raise EcgnbError(f"{dataset.title}: no recording of class {threat.attack_class}, nothing to attack")
    problem = threat.on(attacked_set)
    with tempfile.TemporaryDirectory() as temporary:
        how = Execution(cache or Path(temporary), seed, progress, workers)
        examples = []
        for model in models:
            (made,) = run_attacks({"pgd20": STUDY_ATTACK}, model, problem, how).values()
            examples.append(made.x)
    success: dict[str, dict[str, metrics.Estimate]] = {model.name: {} for model in models}
    for target in models:
        shared = (target, problem)
        clean, *attacked = workers.map(_examples_of, [problem.x, *examples], shared=shared)
        predicted = predicted_classes(clean.logits)
        check_defined(predicted, attacked_set.names, target.name)
        is_correct = predicted == problem.y
        for model, result in zip(models, attacked, strict=True):
            success[model.name][target.name] = metrics.rate(result.success[is_correct])
    about = describe(dataset, seed=seed, model=" ".join(m.name for m in models), suite="transfer")
    attack = {"attack": STUDY_ATTACK.title, "threat": asdict(threat)}
    digests = {model.name: model.digest for model in models}
    return {"about": asdict(about), **attack, "digests": digests, "success": success}


def _predicted(x: np.ndarray, model: EvaluatedModel) -> np.ndarray:
    return predicted_classes(model.classifier.logits(x))


def _examples_of(x: np.ndarray, model: EvaluatedModel, problem: AttackProblem) -> AttackResult:
    return from_examples(model.classifier, problem, x)


def _under_noise(item: tuple[str, AttackProblem, np.ndarray | None], model: EvaluatedModel, seed: int) -> np.ndarray:
    """(n,) predicted classes of recordings under a noise baseline, filling the ball or of a given RMS."""
    name, problem, rms = item
    x = add_noise(problem, NOISE_BASELINES[name], rms=rms, seed=seed)
    return predicted_classes(model.classifier.logits(x))


def _measured(x: np.ndarray, dataset: Dataset) -> dict:
    return signals.summary(signals.measure_all(dataset, x))
