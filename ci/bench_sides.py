"""What `ci/bench.py` times: a function for each side of each case, run in a process of its own.

A side first prepares what users prepare once (model, compiled functions: one step is taken), then works
against the clock. Afterwards the shipped float32 network judges what it made. Imports of what only one side
needs stand in that side, so that its memory is its own.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecgnb import data
from ecgnb.files import write_json
from ecgnb.records import CLASSES

AF, NORMAL = CLASSES.index("A"), CLASSES.index("N")
EPSILON, STEP = 0.2, 0.02  # z-units: the original's attack
BATCH = 32  # recordings that a side reads at a time
RESOLUTION = 0.005  # z-units, of the smallest ε
# Recordings of a class in the epoch that only compiles: its last batch is as large as that of 300 a class.
COMPILING = 36
MAXRSS_GIB = 2**30 if sys.platform == "darwin" else 2**20  # macOS counts bytes, others KiB


@dataclass(frozen=True)
class Size:
    """How much is done.

    per_class : recordings of a class in an epoch; epsilons : points of the grid; trained : recordings of a pass
    of training alone.
    """

    recordings: int
    steps: int
    per_class: int
    epsilons: int
    trained: int


FULL, QUICK = Size(64, 20, 300, 10, 320), Size(4, 3, 8, 3, 32)


def against_the_clock(work: Callable) -> tuple[object, dict[str, float]]:
    """What `work` returns; its seconds, those of the processor, and the process's largest memory until then."""
    wall, processor = time.perf_counter(), time.process_time()
    made = work()
    return made, {
        "seconds": time.perf_counter() - wall,
        "processor seconds": time.process_time() - processor,
        "GiB": largest_memory(),
    }


def largest_memory() -> float:
    """Peak resident memory of this process, GiB."""
    try:  # Linux; there ru_maxrss of a child begins with its parent's
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MAXRSS_GIB


def af_recordings(source: str, most: int) -> np.ndarray:
    """(n, 9000, 1) AF recordings that the model has not seen: of validation, then of the test fold."""
    x = data.load("validation", data=source).of_class("A").x[:most]
    if len(x) < most:
        more = data.load("test", data=source).of_class("A").x
        x = np.concatenate([x, more[: most - len(x)]])
    return x


# PGD and Auto-PGD. A maker takes the model and the problem, and returns steps -> what was made, either an
# AttackResult or (n, 9000, 1).


def ours(attack: str, precision: str = "float32", **settings) -> Callable:
    """An attack of ours, by name, with its settings."""

    def make(model, problem):
        from ecgnb import attacks
        from ecgnb.gradients import InputGradient

        victim = InputGradient(model, BATCH, precision)
        return lambda steps: getattr(attacks, attack)(victim, problem, steps=steps, **settings)

    return make


def bfloat16_alone(model, problem):
    """Ours with a network that computes in bfloat16, and is believed."""
    from ecgnb import attacks
    from ecgnb.gradients import InputGradient
    from ecgnb.model import in_bfloat16

    rough = in_bfloat16(model)
    rough.set_weights(model.get_weights())
    victim = InputGradient(rough, BATCH)
    return lambda steps: attacks.pgd(victim, problem, steps=steps, until_success=True)


def notebook(model, problem):
    """The loop that notebooks have: an eager tape, a call of the model, a sign, a clip."""
    return lambda steps: eager_pgd(model, problem.x, problem.targets, steps)


def eager_pgd(model, x: np.ndarray, targets: np.ndarray, steps: int) -> np.ndarray:
    """Targeted PGD at the original's ε and step, (n, 9000, 1), batch by batch."""
    import keras
    import tensorflow as tf

    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made = []
    for rows in batches(len(x)):
        clean = tf.constant(x[rows])
        now = clean
        for _ in range(steps):
            with tf.GradientTape() as tape:
                tape.watch(now)
                loss = loss_of(targets[rows], model(now, training=False))
            now = now - STEP * tf.sign(tape.gradient(loss, now))
            now = tf.clip_by_value(now, clean - EPSILON, clean + EPSILON)
        made.append(now.numpy())
    return np.concatenate(made)


def art(attack: str, **settings) -> Callable:
    """An attack of the Adversarial Robustness Toolbox, by name (Nicolae et al. 2018)."""

    def make(model, problem):
        import keras
        from art.attacks import evasion
        from art.estimators.classification import TensorFlowV2Classifier

        classifier = TensorFlowV2Classifier(
            model=lambda x, training=False: model(x, training=False),
            nb_classes=len(CLASSES),
            input_shape=problem.x.shape[1:],
            loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
        )
        shared = dict(norm=np.inf, eps=EPSILON, targeted=True, batch_size=BATCH, verbose=False)
        targets = np.eye(len(CLASSES), dtype=np.float32)[problem.targets]

        def run(steps):
            maker = getattr(evasion, attack)
            return maker(classifier, max_iter=steps, **shared, **settings).generate(
                problem.x, targets
            )

        return run

    return make


def cleverhans(model, problem):
    """CleverHans 4 (Papernot et al. 2018), its TensorFlow 2 attack; it takes all recordings as one batch."""
    from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

    def read(x):
        return model(x, training=False)

    def run(steps):
        made = projected_gradient_descent(
            read,
            problem.x,
            EPSILON,
            STEP,
            steps,
            np.inf,
            y=problem.targets,
            targeted=True,
            rand_init=False,
        )
        return made.numpy()

    return run


def foolbox(model, problem):
    """Foolbox 3 (Rauber et al. 2020); it takes all recordings as one batch."""
    import foolbox
    import tensorflow as tf

    bounds = float(problem.x.min()) - EPSILON, float(problem.x.max()) + EPSILON
    wrapped = foolbox.TensorFlowModel(model, bounds=bounds)

    def run(steps):
        attack = foolbox.attacks.LinfProjectedGradientDescentAttack(
            abs_stepsize=STEP, steps=steps, random_start=False
        )
        goal = foolbox.criteria.TargetedMisclassification(tf.constant(problem.targets))
        return attack(wrapped, tf.constant(problem.x), goal, epsilons=EPSILON)[0].numpy()

    return run


def attack_case(maker: Callable, size: Size, source: str) -> dict:
    """Time an attack. turned : (n,) by the float32 network; claimed : by the side itself, if it says."""
    from ecgnb.attacks import AttackResult
    from ecgnb.gradients import InputGradient
    from ecgnb.model import load

    model, problem = load("baseline"), posed(af_recordings(source, size.recordings))
    attack = maker(model, problem)
    attack(1)
    made, cost = against_the_clock(lambda: attack(size.steps))
    x, gradients, claimed = made, len(problem) * size.steps, None
    if isinstance(made, AttackResult):
        x, gradients, claimed = made.x, made.iterations.sum(), made.success
    # By rounding others leave the ball by a hair.
    if problem.ball.size(x).max() > EPSILON + 1e-5:
        raise SystemExit(f"outside the ball: {problem.ball.size(x).max()}")
    turned = InputGradient(model, BATCH).logits(x).argmax(axis=1) == NORMAL
    return cost | {"turned": turned, "claimed": claimed, "gradients": gradients}


def posed(x: np.ndarray):
    """AF → N in L∞ for recordings, (n, 9000, 1); padding not spared, since others cannot."""
    from ecgnb.geometry import Linf
    from ecgnb.threats import Goal, Problem

    ball = Linf(x, np.full(len(x), EPSILON), np.ones(x.shape, bool))
    return Problem(np.full(len(x), AF), Goal(NORMAL), ball)


def batches(n: int) -> list[slice]:
    return [slice(first, first + BATCH) for first in range(0, n, BATCH)]


# One epoch of the original's adaptive training: attack half of the AF drawn, train on the mix, and attack the
# validation set's AF to watch. A maker returns recordings of a class -> the adversarial AF that was trained on,
# and what sets the weights back.


def our_epoch(precision: str) -> Callable:
    """What `training.train` does in an epoch, by the original's recipe."""

    def make(start, train_set, watched):
        from dataclasses import replace

        from ecgnb import defences, training
        from ecgnb.gradients import InputGradient
        from ecgnb.recipes import recipe_for

        recipe = recipe_for("adaptive", "original", precision=precision, epochs=2)
        folder = Path(os.environ["ECGNB_BENCH"]) / f"epoch-{precision}"
        model, _ = training._open_run(recipe, folder, start, False, train_set)
        victim = InputGradient(model, recipe.batch_size)

        def epoch(per_class):
            drawing = replace(recipe, per_class=per_class)
            defence = defences.Adaptive(drawing, train_set, victim, start)
            attack, made = defence.adversarial, []
            defence.adversarial = lambda rows, rng: made.append(attack(rows, rng)) or made[-1]
            fit = training._fitting(model, defence)
            training._run_epoch(fit, defence, np.random.default_rng(0), "epoch")
            defences.attacked_af(victim, watched, recipe, training.WATCH_STEPS, "")
            return made[-1]

        return epoch, lambda: model.set_weights(start.get_weights())

    return make


def notebook_epoch(start, train_set, watched):
    """The same the notebook way: eager attacks and `model.fit`."""
    import keras

    from ecgnb import data
    from ecgnb import model as network
    from ecgnb.defences import halves
    from ecgnb.recipes import recipe_for
    from ecgnb.training import WATCH_STEPS

    recipe = recipe_for("adaptive", "original")
    model = network.build(recipe.dropout)
    model.compile(
        keras.optimizers.Adam(recipe.learning_rate),
        keras.losses.CategoricalCrossentropy(from_logits=True),
    )
    y, one_hot = train_set.y, np.eye(len(CLASSES), dtype=np.float32)

    def epoch(per_class):
        drawn = data.balanced_index(y, per_class, np.random.default_rng(recipe.seed))
        clean, attacked = halves(drawn, y, (AF,))
        weights = dict(enumerate(data.class_weights(y[drawn])))
        aims = np.full(len(attacked), NORMAL)
        made = eager_pgd(model, train_set.x[attacked], aims, recipe.steps)
        x = np.concatenate([train_set.x[clean], made])
        labels = one_hot[y[np.concatenate([clean, attacked])]]
        model.fit(x, labels, batch_size=recipe.batch_size, class_weight=weights, verbose=0)
        seen = eager_pgd(model, watched.x, np.full(len(watched), NORMAL), WATCH_STEPS)
        model.predict(seen, verbose=0)
        return made

    return epoch, lambda: model.set_weights(start.get_weights())


def epoch_case(maker: Callable, size: Size, source: str) -> dict:
    """Time an epoch from the baseline's weights, after a short one that compiles. turned : as the baseline reads."""
    from ecgnb.gradients import InputGradient
    from ecgnb.model import load

    start = load("baseline")
    train_set = data.load("train", data=source)
    watched = data.load("validation", data=source).of_class("A").take(slice(0, size.per_class))
    epoch, rewind = maker(start, train_set, watched)
    epoch(min(COMPILING, size.per_class))
    rewind()
    made, cost = against_the_clock(lambda: epoch(size.per_class))
    turned = InputGradient(start, BATCH).logits(made).argmax(axis=1) == NORMAL
    return cost | {"turned": turned}


# Training alone, and what its input takes. A maker takes recordings to train on, and returns () -> their number.


def training_pass(precision: str, dropout: float = 0.2) -> Callable:
    """A pass of the baseline's training, on whatever backend Keras has."""

    def make(train_set):
        import keras

        from ecgnb import model as network

        model = network.build(dropout, precision)
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        model.compile(
            keras.optimizers.AdamW(1e-3), loss, jit_compile=keras.config.backend() == "jax"
        )
        labels = np.eye(len(CLASSES), dtype=np.float32)[train_set.y]

        def run():
            model.fit(train_set.x, labels, batch_size=BATCH, shuffle=False, verbose=0)
            return len(train_set)

        return run

    return make


def input_alone(train_set):
    """Shift, amplitude, polarity and noise, as the baseline's recipe has them; nothing is trained."""
    from ecgnb.defences import augment
    from ecgnb.recipes import recipe_for

    recipe, rng = recipe_for("baseline"), np.random.default_rng(0)
    return lambda: len(np.stack([augment(signal, recipe, rng) for signal in train_set.signals]))


def step_case(maker: Callable, size: Size, source: str) -> dict:
    """Time a pass over some recordings; the first compiles."""
    run = maker(data.load("train", data=source).take(slice(0, size.trained)))
    run()
    recordings, cost = against_the_clock(run)
    return cost | {"recordings": recordings}


# The robustness curve. A maker takes a victim, a problem as wide as the curve, and a size, and returns
# () -> (n,) the smallest ε that turns each recording.


def search(victim, wide, size):
    """Ours: bisection, each try from the smallest success so far."""
    from ecgnb.robustness import minimum

    settings = dict(known=wide.x, resolution=RESOLUTION, steps=size.steps)
    return lambda: minimum(victim, wide, **settings).radius


def grid(victim, wide, size):
    """All steps for all recordings at every ε of a grid."""
    from ecgnb.attacks import pgd

    def run():
        smallest = np.full(len(wide), np.inf)
        for share in np.linspace(1, 0, size.epsilons, endpoint=False):
            part = wide.resized(share * wide.ball.radius)
            smallest[pgd(victim, part, steps=size.steps).success] = share * wide.ball.radius[0]
        return smallest

    return run


def curve_case(maker: Callable, size: Size, source: str) -> dict:
    """Time a curve up to where evaluations end. smallest : (n,) ε, z-units, infinite where none was found."""
    from ecgnb.assessment import LARGEST
    from ecgnb.gradients import InputGradient
    from ecgnb.model import load

    wide = posed(data.load("validation", data=source).of_class("A").x[: size.recordings])
    wide = wide.resized(np.full(len(wide), LARGEST))
    victim = InputGradient(load("baseline"), BATCH)
    victim.value_and_gradient(wide.x[:BATCH], wide.y[:BATCH], wide.targets[:BATCH])
    victim.logits(wide.x[:BATCH])
    smallest, cost = against_the_clock(maker(victim, wide, size))
    return cost | {"smallest": smallest}


def loading_case(first: bool, size: Size, source: str) -> dict:
    """Time the loading of all recordings, and a look at every sample. first : nothing is cached."""
    cache = Path(os.environ["ECGNB_BENCH"]) / "cache"
    if source != "demo":  # whose recordings lie in the cache itself
        os.environ["ECGNB_CACHE"] = str(cache)
        if first:
            shutil.rmtree(cache, ignore_errors=True)

    def load():
        dataset = data.load("train", protocol="original", data=source)
        return len(dataset), float(sum(np.abs(x).sum(dtype=float) for x in dataset.x))

    (recordings, total), cost = against_the_clock(load)
    return cost | {"recordings": recordings, "total": total}


def floor_case(_: None, size: Size, source: str) -> dict:
    """What the hardware allows: the arithmetic of a gradient, and the rate of a large matrix product."""
    import tensorflow as tf

    from ecgnb.model import load

    side, rates = 2048, {}
    for kind in ("float32", "bfloat16"):
        a = tf.cast(tf.random.normal((side, side)), kind)
        seconds = [
            against_the_clock(lambda a=a: tf.matmul(a, a).numpy())[1]["seconds"] for _ in range(10)
        ]
        rates[kind] = 2 * side**3 / min(seconds)
    # The slope of the input costs as much as the reading: each product once more, transposed.
    return {"FLOP a gradient": 2 * reading_flop(load("baseline")), "FLOP a second": rates}


def reading_flop(model) -> int:
    """Multiplications and additions in the convolutions and dense layers of one reading."""
    total = 0
    for layer in model.layers:
        kernel = getattr(layer, "kernel", None)
        if kernel is not None:
            positions = np.prod(layer.output.shape[1:-1], dtype=int)
            total += 2 * int(np.prod(kernel.shape)) * int(positions)
    return total


# case -> (how it is timed, side -> maker), in the order of running; others are compared with the first side.
CASES: dict[str, tuple[Callable, dict[str, Callable]]] = {
    "pgd": (
        attack_case,
        {
            "ecgnb, until turned": ours("pgd", until_success=True),
            "ecgnb, until turned, slopes in bfloat16": ours("pgd", "bfloat16", until_success=True),
            "ecgnb, until turned, JAX": ours("pgd", until_success=True),
            "ecgnb, all steps for all": ours("pgd"),
            "ecgnb, until turned, bfloat16 believed": bfloat16_alone,
            "ART": art("ProjectedGradientDescent", eps_step=STEP),
            "CleverHans": cleverhans,
            "eager loop of a notebook": notebook,
            "Foolbox": foolbox,
        },
    ),
    "apgd": (
        attack_case,
        {
            "ecgnb": ours("apgd"),
            "ecgnb, slopes in bfloat16": ours("apgd", "bfloat16"),
            "ART": art(
                "AutoProjectedGradientDescent",
                eps_step=2 * EPSILON,  # as ours and the paper's begin
                nb_random_init=1,
                loss_type="cross_entropy",
            ),
        },
    ),
    "epoch": (
        epoch_case,
        {
            "ecgnb, in bfloat16": our_epoch("bfloat16"),
            "ecgnb, in float32": our_epoch("float32"),
            "notebook: eager attacks, model.fit": notebook_epoch,
        },
    ),
    "step": (
        step_case,
        {
            "in bfloat16": training_pass("bfloat16"),
            "in bfloat16, no dropout": training_pass("bfloat16", 0.0),
            "in float32": training_pass("float32"),
            "in float32, JAX": training_pass("float32"),
            "its input alone, augmented": input_alone,
        },
    ),
    "curve": (curve_case, {"ecgnb, smallest ε of each": search, "grid of full PGD": grid}),
    "loading": (loading_case, {"first": True, "later": False}),
    "floor": (floor_case, {"matrix product": None}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("side")
    parser.add_argument("target", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data", default="physionet")
    options = parser.parse_args()
    if "JAX" in options.side:
        os.environ["KERAS_BACKEND"] = "jax"  # before anything imports Keras
    measure, sides = CASES[options.case]
    size = QUICK if options.quick else FULL
    write_json(options.target, measure(sides[options.side], size, options.data))


if __name__ == "__main__":
    sys.exit(main())
