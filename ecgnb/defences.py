"""Defences: what an epoch of training is made of, and which epoch is kept.

One class each. Its docstring says whom it attacks, when and why, and by which rule on dev an epoch is kept.
`training.train` runs them all on one loop.
"""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
from keras import ops
from tqdm.auto import tqdm

from ecgnb import metrics
from ecgnb.attacks import AttackResult, pgd
from ecgnb.data import WINDOW, Dataset, balanced_index, window
from ecgnb.evaluation import AF, attack_af
from ecgnb.gradients import InputGradient, Victim
from ecgnb.losses import divergence
from ecgnb.recipes import Recipe
from ecgnb.records import CLASSES
from ecgnb.threats import Goal, Problem, Threat, goal_of

FGSM_STEP = 1.25  # radii: the step of Wong et al. 2020
TRADES_START = 0.03  # radii: the SD of TRADES' random start; Zhang et al. took 0.001 at ε 0.031
WORTH_LOSING = 0.1  # a robust score below it halves by chance: 40 recordings a class

Arrays = tuple[np.ndarray, np.ndarray]


class Defence:
    """What defences share: a class-balanced draw for every epoch, cross-entropy, and a rule to select by.

    Kept is the epoch with the best mean of two challenge scores on dev: clean, and with recordings of every
    class attacked untargeted, so that neither accuracy nor robustness can be bought with all of the other, nor
    robustness with the guess that whatever is perturbed is AF.

    victim : the network as it trains, so that attacks meet the weights of the moment; start : the model that
    training starts from.
    """

    copies = 1  # rows that a recording takes up in a training step

    def __init__(
        self, recipe: Recipe, train_set: Dataset, victim: InputGradient, start: keras.Model | None
    ):
        self.recipe, self.train_set, self.victim = recipe, train_set, victim

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """(n,) recordings of an epoch, shuffled: at most `per_class` of each class."""
        rng = rng if self.recipe.redraw else np.random.default_rng(self.recipe.seed)
        return balanced_index(self.train_set.y, self.recipe.per_class, rng)

    def chunks(self, drawn: np.ndarray, rng: np.random.Generator) -> Iterator[Arrays]:
        """The epoch, piece by piece: (x, y), (k, 9000, 1) and (k,).

        A piece is trained on before the next is made, so that its attack meets the weights of then.
        """
        raise NotImplementedError

    @staticmethod
    def loss(recipe: Recipe) -> keras.losses.Loss:
        """What training descends, of labels and logits, both (k, 4)."""
        return keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing
        )

    def watch(self, part: Dataset, history: list[dict], row: dict) -> dict:
        """Columns of the history that this defence has beside those of all.

        part : the recordings of dev that are attacked; history : the epochs before; row : the present one.
        """
        return {}

    @staticmethod
    def criterion(row: dict) -> float:
        """What `select="best"` maximises, of a row of the history."""
        return (row["dev challenge score"] + row["dev robust challenge score"]) / 2

    def _batches(self, drawn: np.ndarray) -> Iterator[np.ndarray]:
        """The draw in batches of recordings."""
        for first in range(0, len(drawn), self.recipe.batch_size):
            yield drawn[first : first + self.recipe.batch_size]

    def _problem(self, rows: np.ndarray) -> Problem:
        """Training recordings under the untargeted attack."""
        return untargeted(self.recipe).on(self.train_set.take(rows))


class Baseline(Defence):
    """No defence: all recordings, nobody attacked. Kept: the best challenge score on dev."""

    def draw(self, rng):
        return rng.permutation(len(self.train_set))

    def chunks(self, drawn, rng):
        signals = self.train_set.signals
        x = np.stack([augment(signals[i], self.recipe, rng) for i in drawn])[..., None]
        yield x, self.train_set.y[drawn]

    @staticmethod
    def criterion(row):
        return row["dev challenge score"]


class HalfAttacked(Defence):
    """What defences share that mix clean and attacked recordings, all made at the start of the epoch.

    One half of the recordings drawn of `attacked_classes` is attacked; the other half, and all of other
    classes, stay clean. Clean ones in the mix keep clean accuracy (Goodfellow et al. 2015), and half is the
    original's share.
    """

    attacked_classes = tuple(range(len(CLASSES)))

    def chunks(self, drawn, rng):
        clean, attacked = halves(drawn, self.train_set.y, self.attacked_classes)
        x = np.concatenate([self.train_set.x[clean], self.adversarial(attacked, rng)])
        y = self.train_set.y[np.concatenate([clean, attacked])]
        order = rng.permutation(len(y))
        yield x[order], y[order]

    def adversarial(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Training recordings, attacked, (rows, 9000, 1)."""
        raise NotImplementedError


class Adaptive(HalfAttacked):
    """The original's second defence: half of the AF drawn, attacked anew every epoch.

    Targeted PGD (AF → N by default) on AF alone, with the weights at the start of the epoch. Since only AF is
    ever attacked, "perturbed" and "AF" come to mean the same (label leaking, Kurakin et al. 2017).

    Kept is the epoch with the best mean, on dev, of the challenge score and of AF recall under that attack:
    the purpose it was published for. This rule does not see the shortcut; the history's other columns do.
    """

    attacked_classes = (AF,)

    def adversarial(self, rows, rng):
        return self._attack(self.victim, rows)

    def _attack(self, victim, rows):
        some, steps = self.train_set.take(rows), self.recipe.steps
        return attacked_af(victim, some, self.recipe, steps, "attacking AF").x

    @staticmethod
    def criterion(row):
        return (row["dev challenge score"] + row["dev robust AF recall"]) / 2


class Static(Adaptive):
    """The original's first defence: as `Adaptive`, but attacked once, with the model training starts from.

    Kept: by the same rule.
    """

    def __init__(self, recipe, train_set, victim, start):
        super().__init__(recipe, train_set, victim, start)
        rows = np.flatnonzero(train_set.y == AF)
        if not recipe.redraw:  # the only draw that there will be
            drawn = self.draw(np.random.default_rng(recipe.seed))
            rows = halves(drawn, train_set.y, self.attacked_classes)[1]
        made = self._attack(InputGradient(start, recipe.batch_size), rows)
        self.stored = dict(zip(rows, made, strict=True))

    def adversarial(self, rows, rng):
        return np.stack([self.stored[i] for i in rows])


class AllClasses(HalfAttacked):
    """Adversarial training on every class (Madry et al. 2018, arXiv 1706.06083).

    Untargeted PGD from a random start, with the weights at the start of the epoch, on half of the draw of each
    class. Beside `Adaptive` it is the experiment that isolates the shortcut: the same draw, as many recordings
    a step, and half of a class attacked as there; only that being perturbed tells nothing about the class. The paper
    attacks every batch with the weights of then and trains on nothing else; here attacks are up to an epoch
    old, as the original's are, and made in few large batches.

    Kept: the best mean of clean and robust challenge score on dev.
    """

    def adversarial(self, rows, rng):
        problem = self._problem(rows)
        return pgd(
            self.victim,
            problem,
            start=problem.ball.random(rng),
            steps=self.recipe.steps,
            step=self.recipe.step_size / self.recipe.epsilon,
            progress="attacking all classes",
        ).x


class Fast(Defence):
    """Fast adversarial training (Wong, Rice & Kolter 2020, arXiv 2001.03994).

    Every recording drawn is attacked, untargeted, by one step of 1.25 ε from a random point of the ball,
    batch by batch with the weights of then. A network can learn to be safe from this one step only, from
    one epoch to the next (catastrophic overfitting): see `collapsed`, which is watched.

    Kept: the best mean of clean and robust challenge score on dev. A collapsed epoch counts 0.
    """

    def chunks(self, drawn, rng):
        for rows in self._batches(drawn):
            yield fgsm(self.victim, self._problem(rows), rng).x, self.train_set.y[rows]

    def watch(self, part, history, row):
        problem = untargeted(self.recipe).on(part)
        read = fgsm(self.victim, problem, np.random.default_rng(self.recipe.seed)).logits
        columns = {"dev FGSM challenge score": score(part.y, read)}
        alarm = collapsed([*history, row | columns])
        if alarm:
            tqdm.write(
                f"ALARM: catastrophic overfitting in epoch {row['epoch']}: safe from the one step that it "
                "trains with, no longer from PGD; it counts 0"
            )
        return columns | {"catastrophic overfitting": alarm}

    @staticmethod
    def criterion(row):
        return 0.0 if row["catastrophic overfitting"] else Defence.criterion(row)


class Trades(Defence):
    """TRADES (Zhang et al. 2019, arXiv 1901.08573): accuracy on clean recordings, and steadiness around them.

    Descends clean cross-entropy + β·KL(p(x) ‖ p(x')). x' climbs that KL by PGD from a small random start
    (at x itself the KL has no slope), untargeted and without its label, batch by batch with the weights of
    then, in inference mode; the training step reads x and x' together. A larger β buys robustness with
    accuracy.

    Kept: the best mean of clean and robust challenge score on dev.
    """

    copies = 2

    def chunks(self, drawn, rng):
        for rows in self._batches(drawn):
            problem = self._problem(rows)
            away = astray(self.victim, problem, self.recipe, rng).x
            pairs = np.stack([problem.x, away], axis=1).reshape(-1, *away.shape[1:])
            yield pairs, np.repeat(problem.y, 2)

    @staticmethod
    def loss(recipe):
        return TradesLoss(recipe.beta, recipe.label_smoothing)


BY_NAME: dict[str, type[Defence]] = {
    "baseline": Baseline,
    "static": Static,
    "adaptive": Adaptive,
    "all-classes": AllClasses,
    "fast": Fast,
    "trades": Trades,
}


@keras.saving.register_keras_serializable("ecgnb")
class TradesLoss(keras.losses.Loss):
    """Clean cross-entropy + β·KL(clean ‖ attacked) (Zhang et al. 2019, eq. 5); the slope goes through both.

    Row 2i of a batch is a recording as it is, row 2i + 1 the same one attacked, so that a batch shared out to
    several devices still holds pairs. Each row carries its own term, twice: the mean over rows is then the
    mean of the sum over recordings.
    """

    def __init__(self, beta: float, label_smoothing: float = 0.0, **settings):
        super().__init__(**settings)
        self.beta, self.label_smoothing = beta, label_smoothing

    def call(self, y_true, y_pred):
        clean, attacked = y_pred[::2], y_pred[1::2]
        accuracy = keras.losses.categorical_crossentropy(
            y_true[::2], clean, from_logits=True, label_smoothing=self.label_smoothing
        )
        steadiness = self.beta * divergence(attacked, None, clean)
        return 2 * ops.reshape(ops.stack([accuracy, steadiness], axis=1), (-1,))

    def get_config(self):
        own = {"beta": self.beta, "label_smoothing": self.label_smoothing}
        return super().get_config() | own


def untargeted(recipe: Recipe) -> Threat:
    """The recipe's ε, for recordings of any class: whatever is not their label will do."""
    return Threat(Goal(), recipe.epsilon, spare_padding=recipe.mask_padding)


def attacked_af(
    victim: Victim, dataset: Dataset, recipe: Recipe, steps: int, progress: str
) -> AttackResult:
    """The original's attack, on the AF recordings of a data set: targeted PGD from the recording itself."""
    threat = Threat(goal_of(recipe.target), recipe.epsilon, spare_padding=recipe.mask_padding)
    return attack_af(
        victim, dataset, threat, step_size=recipe.step_size, steps=steps, progress=progress
    )


def fgsm(victim: Victim, problem: Problem, rng: np.random.Generator) -> AttackResult:
    """One step of 1.25 radii from a random point of the ball, and back into it (Wong et al. 2020)."""
    return pgd(victim, problem, start=problem.ball.random(rng), steps=1, step=FGSM_STEP)


def astray(
    victim: Victim, problem: Problem, recipe: Recipe, rng: np.random.Generator
) -> AttackResult:
    """Points of the ball that are read as differently from its centre as can be, in KL (Zhang et al. 2019)."""
    nearby = TRADES_START * recipe.epsilon * rng.standard_normal(problem.x.shape)
    return pgd(
        victim,
        problem,
        loss=divergence,
        aims=victim.logits(problem.x),
        start=problem.x + nearby,
        steps=recipe.steps,
        step=recipe.step_size / recipe.epsilon,
    )


def collapsed(history: list[dict]) -> bool:
    """Is the last epoch overfitted catastrophically (Wong et al. 2020, section 5.4)?

    Yes if, on the attacked recordings of dev, the challenge score under PGD is less than half of its best so far
    (a best of at least 0.1) while that under the one step that training uses is at least half of its own best.
    """
    robust, easy = (
        np.array([row[f"dev {name} challenge score"] for row in history])
        for name in ("robust", "FGSM")
    )
    lost = robust.max() >= WORTH_LOSING and robust[-1] < robust.max() / 2
    return bool(lost and easy[-1] >= easy.max() / 2)


def score(y: np.ndarray, logits: np.ndarray) -> float:
    """Challenge score of logits (n, 4) of recordings of classes y (n,)."""
    return float(metrics.challenge_score(metrics.confusion(y, logits.argmax(axis=1))))


def halves(drawn: np.ndarray, y: np.ndarray, classes: tuple[int, ...]) -> Arrays:
    """(clean, attacked) recordings of a draw: half of those of `classes` are attacked.

    drawn : (n,) indices into y, the classes of all recordings.
    """
    of_class = [drawn[y[drawn] == c] for c in classes]
    attacked = np.concatenate([rows[: len(rows) // 2] for rows in of_class])
    return np.setdiff1d(drawn, attacked), attacked


def augment(signal: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    """One window, (9000,) float32, of a raw recording, (length,) int16, altered at random as `recipe` says.

    shift : crop (if longer than 30 s) and circular shift of the true samples; amplitude : polarity
    (electrodes swapped, as in part of the recordings) and ±25 %; noise : white, with an SD of up to so many
    z-units (why: models/README.md).
    """
    first = int(rng.integers(0, max(1, len(signal) - WINDOW + 1))) if recipe.shift else 0
    x, length, _, _ = window(signal, first)
    if recipe.shift:
        x[:length] = np.roll(x[:length], int(rng.integers(length)))
    if recipe.amplitude:
        x *= np.float32((-1 if rng.random() < 0.5 else 1) * rng.uniform(0.75, 1.25))
    if recipe.noise:
        x[:length] += np.float32(rng.uniform(0, recipe.noise)) * rng.standard_normal(
            length, np.float32
        )
    return x
