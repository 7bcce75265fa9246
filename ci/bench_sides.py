"""What `ci/bench.py` times: one side of one case, in a process of its own.

A side first prepares what users prepare once, such as compiled functions. Then the clock starts. The shipped
float32 network decides which attacks succeed. A side imports what only it needs, so that its memory is its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_cluster import cluster_case, timed

from ecgnb.constants import CLASSES, WINDOW
from ecgnb.data.dataset import balanced_index, class_weights, load_data
from ecgnb.files import write_json

AF, NORMAL = CLASSES.index("A"), CLASSES.index("N")
ONE_HOT = np.eye(len(CLASSES), dtype=np.float32)
BATCHES = (16, 32, 64)  # recordings, of which each peer gets the one that is fastest for it
EPSILON, STEP_SIZE = 0.2, 0.02  # z-units: the original's attack
LARGEST, RESOLUTION = 1.0, 0.005  # z-units, of minimal ε


@dataclass(frozen=True)
class Size:
    """How much is done.

    recordings, steps : of attacks; batch : recordings that a peer attacks at a time; per_class : recordings of a
    class in an epoch; of_half : the same where half of each batch is attacked; compiling : the same, in the epoch
    before the clock starts, whose last batch must be as large; grid : values of ε on a curve; evaluated : AF
    recordings on a cluster, 0 for all of validation.
    """

    recordings: int = 64
    steps: int = 20
    batch: int = 32
    per_class: int = 300
    of_half: int = 64
    compiling: int = 36
    grid: int = 10
    evaluated: int = 0


FULL, QUICK = Size(), Size(4, steps=3, per_class=8, of_half=8, compiling=8, grid=3, evaluated=8)


def baseline() -> Any:
    from ecgnb.models.files import load_model

    return load_model("baseline")


def classifier_of(model: Any, precision: str = "float32") -> Any:
    from ecgnb.models.keras_classifier import KerasClassifier

    return KerasClassifier(model, precision=precision)


def attack_problem(x: np.ndarray, epsilon: float = EPSILON) -> Any:
    """AF → N in L∞ for recordings, (n, 9000, 1). Padding is attacked too: other libraries cannot mask it."""
    from ecgnb.attacks import AttackProblem, Goal
    from ecgnb.attacks.balls import Linf

    ball = Linf(x, np.full(len(x), epsilon), np.ones(x.shape, bool))
    return AttackProblem(np.full(len(x), AF), Goal(NORMAL), ball)


# PGD and Auto-PGD. A side takes a model, an attack problem and a batch size, which only peers heed; it returns
# steps -> AttackResult, or (n, 9000, 1).


def attack_case(side: Callable, size: Size, data: str) -> dict[str, Any]:
    """Time an attack on AF recordings of validation, then of the test fold: the model has seen neither.

    success : by the float32 network; claimed : by the side itself, where it says.
    """
    parts = (load_data(split, data=data).of_class("A").x for split in ("validation", "test"))
    problem = attack_problem(np.concatenate(list(parts))[: size.recordings])
    model = baseline()
    attack = side(model, problem, size.batch)
    attack(1)
    found, cost = timed(lambda: attack(size.steps))
    x, claimed, gradients = found, None, len(problem) * size.steps
    if not isinstance(found, np.ndarray):
        x, claimed, gradients = found.x, found.success, found.queries.sum()
    if problem.ball.size(x).max() > EPSILON + 1e-5:  # others leave the ball by rounding
        raise SystemExit(f"outside the ball: {problem.ball.size(x).max()}")
    success = classifier_of(model).logits(x).argmax(axis=1) == NORMAL
    return cost | {"success": success, "claimed": claimed, "gradients": gradients}


def ours(name: str, precision: str = "float32", **settings: bool) -> Callable:
    """An attack of ours, by name."""

    def side(model, problem, _):
        from ecgnb import attacks

        attack, classifier = getattr(attacks, name), classifier_of(model, precision)
        return lambda steps: attack(classifier, problem, steps=steps, **settings)

    return side


def unverified_bfloat16(model, problem, batch):
    """Ours on a network that computes in bfloat16; nothing is verified in float32."""
    from ecgnb.models.network import in_bfloat16

    low_precision = in_bfloat16(model)
    low_precision.set_weights(model.get_weights())
    return ours("pgd", until_success=True)(low_precision, problem, batch)


def notebook_loop(model, problem, batch):
    return lambda steps: eager_pgd(model, problem.x, steps, batch)


def eager_pgd(model, x: np.ndarray, steps: int, batch: int) -> np.ndarray:
    """Targeted PGD as in many notebooks, (n, 9000, 1): eager tape, sign, clip; batch by batch."""
    import keras
    import tensorflow as tf

    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    batches = []
    for first in range(0, len(x), batch):
        clean = current = tf.constant(x[first : first + batch])
        for _ in range(steps):
            with tf.GradientTape() as tape:
                tape.watch(current)
                logits = model(current, training=False)
                loss = cross_entropy(np.full(len(clean), NORMAL), logits)
            current = current - STEP_SIZE * tf.sign(tape.gradient(loss, current))
            current = tf.clip_by_value(current, clean - EPSILON, clean + EPSILON)
        batches.append(current.numpy())
    return np.concatenate(batches)


def art(name: str, **settings: Any) -> Callable:
    """An attack of the Adversarial Robustness Toolbox, by name (Nicolae et al. 2018)."""

    def side(model, problem, batch):
        from art.attacks import evasion

        classifier = art_classifier(lambda x, training=False: model(x, training=False))
        shared = dict(norm=np.inf, eps=EPSILON, targeted=True, batch_size=batch, verbose=False)

        def run(steps):
            attack = getattr(evasion, name)(classifier, max_iter=steps, **shared, **settings)
            return attack.generate(problem.x, ONE_HOT[problem.targets])

        return run

    return side


def art_classifier(model, **settings: Any) -> Any:
    import keras
    from art.estimators.classification import TensorFlowV2Classifier

    cross_entropy = keras.losses.CategoricalCrossentropy(from_logits=True)
    shape = dict(nb_classes=len(CLASSES), input_shape=(WINDOW, 1))
    return TensorFlowV2Classifier(model=model, loss_object=cross_entropy, **shape, **settings)


def cleverhans(model, problem, batch):
    """CleverHans 4 (Papernot et al. 2018), for TensorFlow 2."""
    from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

    def logits(x):
        return model(x, training=False)

    def run(steps):
        budget = (EPSILON, STEP_SIZE, steps, np.inf)
        parts = []
        for first in range(0, len(problem), batch):
            rows = slice(first, first + batch)
            goal = dict(y=problem.targets[rows], targeted=True, rand_init=False)
            parts.append(projected_gradient_descent(logits, problem.x[rows], *budget, **goal).numpy())
        return np.concatenate(parts)

    return run


def foolbox(model, problem, batch):
    """Foolbox 3 (Rauber et al. 2020)."""
    import foolbox
    import tensorflow as tf

    bounds = float(problem.x.min()) - EPSILON, float(problem.x.max()) + EPSILON
    wrapped = foolbox.TensorFlowModel(model, bounds=bounds)

    def run(steps):
        attack = foolbox.attacks.LinfProjectedGradientDescentAttack(
            abs_stepsize=STEP_SIZE, steps=steps, random_start=False
        )
        parts = []
        for first in range(0, len(problem), batch):
            x, targets = (tf.constant(part[first : first + batch]) for part in (problem.x, problem.targets))
            goal = foolbox.criteria.TargetedMisclassification(targets)
            parts.append(attack(wrapped, x, goal, epsilons=EPSILON)[0].numpy())
        return np.concatenate(parts)

    return run


# An epoch of adaptive training. A side is a precision, and model -> ((x, steps) -> adversarial x).


def epoch_case(side: tuple[str, Callable], size: Size, data: str) -> dict[str, Any]:
    """Time what `train` does in an epoch of the original's adaptive training.

    It attacks half of the AF drawn, trains on the mix, and attacks AF of validation to watch it. success : of the
    attacks on training recordings, with the baseline's weights.
    """
    import keras

    from ecgnb.models import network
    from ecgnb.progress import bar
    from ecgnb.training.configuration import training_config
    from ecgnb.training.defences import split_in_halves
    from ecgnb.training.step import fit_function

    (precision, attack_with), start = side, baseline()
    config = training_config("adaptive", "original")
    train, watched = load_data("train", data=data), load_data("validation", data=data).of_class("A")
    model = network.build(config.dropout, precision)
    adam = keras.optimizers.Adam(config.learning_rate)
    model.compile(adam, keras.losses.CategoricalCrossentropy(from_logits=True))
    attack = attack_with(model)
    fit = fit_function(model, config.batch_size, copies=1)

    def epoch(per_class: int) -> np.ndarray:
        model.set_weights(start.get_weights())
        drawn = balanced_index(train.y, per_class, np.random.default_rng(config.seed))
        clean, attacked = split_in_halves(drawn, train.y, train.y == AF)
        adversarial = attack(train.x[attacked], config.steps)
        x = np.concatenate([train.x[clean], adversarial])
        y = train.y[np.concatenate([clean, attacked])]
        weights = class_weights(train.y[drawn])[y]
        if attack_with is our_attack:
            fit(x, ONE_HOT[y], weights.astype(np.float32), bar(""))
        else:
            model.fit(x, ONE_HOT[y], sample_weight=weights, batch_size=config.batch_size, verbose=0)
        attack(watched.x[:per_class], config.steps)
        return adversarial

    epoch(size.compiling)
    adversarial, cost = timed(lambda: epoch(size.per_class))
    success = classifier_of(start).logits(adversarial).argmax(axis=1) == NORMAL
    return cost | {"success": success}


def our_attack(model):
    from ecgnb.attacks import pgd

    classifier = classifier_of(model)
    return lambda x, steps: pgd(classifier, attack_problem(x), steps=steps).x


def notebook_attack(model):
    return lambda x, steps: eager_pgd(model, x, steps, 32)


# Adversarial training of half of each batch. A side takes a model and returns (x, y, steps) -> None.


def half_case(side: Callable, size: Size, data: str) -> dict[str, Any]:
    """Time an epoch in which half of each batch of 32 is attacked, untargeted, with the weights of that moment.

    success : of all recordings attacked once more, by the trained network; it shows that training took place.
    """
    import keras

    from ecgnb.attacks import AttackProblem, Goal, pgd
    from ecgnb.models import network

    train, start = load_data("train", data=data), baseline()
    model = network.build(0.0)
    model.compile(keras.optimizers.Adam(1e-4), keras.losses.CategoricalCrossentropy(from_logits=True))
    train_epoch = side(model)

    def epoch(per_class: int):
        model.set_weights(start.get_weights())
        drawn = balanced_index(train.y, per_class, np.random.default_rng(0))
        train_epoch(train.x[drawn], train.y[drawn], size.steps // 2)
        return drawn

    epoch(8)  # one batch
    drawn, cost = timed(lambda: epoch(size.of_half))
    ball = attack_problem(train.x[drawn]).ball
    found = pgd(classifier_of(model), AttackProblem(train.y[drawn], Goal(), ball), steps=size.steps // 2)
    return cost | {"robust_accuracy": float(1 - found.success.mean())}


def our_training(model):
    from ecgnb.attacks import AttackProblem, Goal, pgd
    from ecgnb.progress import bar
    from ecgnb.training.step import fit_function

    classifier, fit = classifier_of(model), fit_function(model, 32, copies=1)

    def train_epoch(x, y, steps):
        for first in range(0, len(x), 32):
            batch, labels = x[first : first + 32].copy(), y[first : first + 32]
            half = len(batch) // 2
            problem = AttackProblem(labels[:half], Goal(), attack_problem(batch[:half]).ball)
            batch[:half] = pgd(classifier, problem, steps=steps).x
            fit(batch, ONE_HOT[labels], np.ones(len(batch), np.float32), bar(""))

    return train_epoch


def art_training(model):
    """The AdversarialTrainer of ART, after Goodfellow et al. 2015."""
    from art.attacks.evasion import ProjectedGradientDescent
    from art.defences.trainer import AdversarialTrainer

    classifier = art_classifier(model, optimizer=model.optimizer)

    def train_epoch(x, y, steps):
        budget = dict(eps=EPSILON, eps_step=STEP_SIZE, max_iter=steps, batch_size=32)
        attack = ProjectedGradientDescent(classifier, np.inf, **budget, verbose=False)
        AdversarialTrainer(classifier, attack, ratio=0.5).fit(x, ONE_HOT[y], batch_size=32, nb_epochs=1)

    return train_epoch


# The robustness curve. A side takes a classifier, a problem as wide as the curve, and a size.


def curve_case(side: Callable, size: Size, data: str) -> dict[str, Any]:
    """Time a curve. minimal_epsilon : (n,) z-units, infinite where none was found."""
    from ecgnb.attacks import pgd

    x = load_data("validation", data=data).of_class("A").x[: size.recordings]
    classifier, problem = classifier_of(baseline()), attack_problem(x, LARGEST)
    pgd(classifier, problem, steps=1)
    minimal, cost = timed(lambda: side(classifier, problem, size))
    return cost | {"minimal_epsilon": minimal}


def search(classifier, problem, size):
    """Ours: bisection for each recording, each try from the smallest success so far."""
    from ecgnb.evaluation.minimal import minimal_perturbation

    how = dict(known=problem.x, resolution=RESOLUTION, steps=size.steps)
    return minimal_perturbation(classifier, problem, **how).radius


def grid(classifier, problem, size):
    """All steps for all recordings at every ε of a grid."""
    from ecgnb.attacks import pgd

    minimal = np.full(len(problem), np.inf)
    for epsilon in np.linspace(LARGEST, 0, size.grid, endpoint=False):
        part = problem.resized(np.full(len(problem), epsilon))
        minimal[pgd(classifier, part, steps=size.steps).success] = epsilon
    return minimal


# Loading, and what the hardware allows.


def loading_case(is_first: bool, size: Size, data: str) -> dict[str, Any]:
    """Time the loading of all recordings, and a sum over every sample. is_first : nothing is cached."""
    if data != "demo":  # whose recordings lie in the cache itself
        cache = Path(os.environ["ECGNB_BENCH"]) / "cache"
        os.environ["ECGNB_CACHE"] = str(cache)
        if is_first:
            shutil.rmtree(cache, ignore_errors=True)

    def load():
        dataset = load_data("train", protocol="original", data=data)
        return len(dataset), float(sum(np.abs(x).sum(dtype=float) for x in dataset.x))

    (recordings, total), cost = timed(load)
    return cost | {"recordings": recordings, "total": total}


def floor_case(_: None, size: Size, data: str) -> dict[str, Any]:
    """The arithmetic of a gradient, FLOP, and the rate of a large matrix product, FLOP/s."""
    import tensorflow as tf

    n, rates = 2048, {}
    for kind in ("float32", "bfloat16"):
        a = tf.cast(tf.random.normal((n, n)), kind)
        costs = [timed(lambda a=a: tf.matmul(a, a).numpy())[1] for _ in range(10)]
        rates[kind] = 2 * n**3 / min(cost["seconds"] for cost in costs)
    # The gradient of the input costs as much as the forward pass: each product once more, transposed.
    return {"gradient_flop": 2 * forward_flop(baseline()), "flop_per_second": rates}


def forward_flop(model) -> int:
    """Multiplications and additions in the convolutions and dense layers, for one recording."""
    total = 0
    for layer in model.layers:
        kernel = getattr(layer, "kernel", None)
        if kernel is not None:
            positions = np.prod(layer.output.shape[1:-1], dtype=int)
            total += 2 * int(np.prod(kernel.shape)) * int(positions)
    return total


# case -> (how it is timed, key of a side -> side); others are compared with the first side.
CASES: dict[str, tuple[Callable[[Any, Size, str], dict[str, Any]], dict[str, Any]]] = {
    "pgd": (
        attack_case,
        {
            "ecgnb": ours("pgd", until_success=True),
            "ecgnb_bfloat16": ours("pgd", "bfloat16", until_success=True),
            "ecgnb_jax": ours("pgd", until_success=True),
            "ecgnb_all_steps": ours("pgd"),
            "ecgnb_unverified": unverified_bfloat16,
            "art": art("ProjectedGradientDescent", eps_step=STEP_SIZE),
            "cleverhans": cleverhans,
            "notebook": notebook_loop,
            "foolbox": foolbox,
        },
    ),
    "apgd": (
        attack_case,
        {
            "ecgnb": ours("apgd"),
            "ecgnb_bfloat16": ours("apgd", "bfloat16"),
            "art": art(
                "AutoProjectedGradientDescent",
                eps_step=2 * EPSILON,  # the first step of ours, and of the paper's
                nb_random_init=1,
                loss_type="cross_entropy",
            ),
        },
    ),
    "epoch": (
        epoch_case,
        {
            "ecgnb_all_bfloat16": ("bfloat16", our_attack),
            "ecgnb": ("float32", our_attack),
            "notebook": ("float32", notebook_attack),
        },
    ),
    "half": (half_case, {"ecgnb": our_training, "art": art_training}),
    "curve": (curve_case, {"ecgnb": search, "grid": grid}),
    "cluster": (cluster_case, {"two_workers": 2, "one_worker": 1, "this_process": 0}),
    "loading": (loading_case, {"first": True, "later": False}),
    "floor": (floor_case, {"matrix_product": None}),
}


ATTACKING = ("pgd", "apgd", "curve")  # cases in which nothing is trained
PEERS = ("art", "cleverhans", "foolbox", "notebook")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("side")
    parser.add_argument("target", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--batch", type=int, help="recordings that a peer attacks at a time")
    parser.add_argument("--steps", type=int, help="of an attack")
    parser.add_argument("--data", default="physionet")
    options = parser.parse_args()
    if "jax" in options.side:
        os.environ["KERAS_BACKEND"] = "jax"  # before anything imports Keras
    measure, sides = CASES[options.case]
    size = QUICK if options.quick else FULL
    size = replace(size, batch=options.batch or size.batch, steps=options.steps or size.steps)
    if options.case in ATTACKING and (options.side.startswith("ecgnb") or options.case == "curve"):
        from ecgnb.models.devices import one_core_a_batch

        one_core_a_batch()  # as the command and the notebooks do
    write_json(options.target, measure(sides[options.side], size, options.data))


if __name__ == "__main__":
    main()
