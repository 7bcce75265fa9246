"""Defences: the recordings that an epoch of training consists of, and the rule by which an epoch is selected.

One class each. Its docstring says which recordings are attacked, when and why, and which epoch is selected on
dev. `loop.train` runs them all. `register` adds one of one's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np
from tqdm import tqdm

from ecgnb.attacks import AttackProblem, AttackResult, Threat, divergence, pgd
from ecgnb.constants import WINDOW
from ecgnb.data.dataset import Dataset, balanced_index, window
from ecgnb.errors import EcgnbError
from ecgnb.models.classifier import Classifier
from ecgnb.models.keras_classifier import KerasClassifier
from ecgnb.quiet import keras, ops
from ecgnb.training.configuration import DEFENCES, EPOCHS, TrainingConfig
from ecgnb.training.selection import attack_class, catastrophic_overfitting, mean_score, score_name, score_of

FGSM_STEP = 1.25  # radii: the step of Wong et al. 2020
TRADES_START = 0.03  # radii: the SD of TRADES' random start; Zhang et al. took 0.001 at ε 0.031

Arrays = tuple[np.ndarray, np.ndarray]


class Defence:
    """What defences share: a class-balanced draw for every epoch, cross-entropy, and a rule of selection.

    Augmentation (`shift`, `amplitude`, `noise`; off unless asked for) is applied last, to clean and attacked recordings
    alike. So an attack is no less noisy than what it is told from.

    Selected is the epoch with the best mean of two challenge scores on dev: clean, and with recordings of every
    class attacked untargeted. (For other classes than the challenge's, of two means of F1.) So neither accuracy nor robustness can be bought with all of the other, nor
    robustness with label leaking, the guess that every perturbed recording is AF.

    classifier : the network as it trains, so that attacks meet its current weights; start : the model that
    training starts from. name, help, epochs : of a class that `register` adds: what it is called, what it does in one
    sentence, and how many epochs it trains if nobody says so.
    """

    copies = 1  # rows of a training batch that belong to one recording
    attacked_every = 1  # epochs, after which dev is attacked in every class
    name = help = ""
    epochs = 20

    def __init__(self, config: TrainingConfig, train_set: Dataset, classifier: Classifier, start: keras.Model | None):
        self.config, self.train_set, self.classifier = config, train_set, classifier

    @property
    def threat(self) -> Threat:
        """The threat model that training defends against."""
        return self.config.untargeted_threat

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """(n,) recordings of an epoch, shuffled: at most `per_class` of each class."""
        rng = rng if self.config.redraw else np.random.default_rng(self.config.seed)
        return balanced_index(self.train_set.y, self.config.per_class, rng)

    def chunks(self, drawn: np.ndarray, rng: np.random.Generator) -> Iterator[Arrays]:
        """The epoch, piece by piece: (x, y), (k, samples, leads) and (k,).

        A piece is trained on before the next is made, so that its attack meets the weights of that moment.
        """
        raise NotImplementedError

    @staticmethod
    def loss(config: TrainingConfig) -> keras.losses.Loss:
        """What training minimises, of labels and logits, both (k, classes)."""
        return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=config.label_smoothing)

    def own_scores(self, subset: Dataset, history: list[dict], row: dict) -> dict:
        """Columns of the history that this defence alone has.

        subset : the recordings of dev that are attacked; history : the epochs before; row : the present one.
        """
        return {}

    @staticmethod
    def criterion(row: dict) -> float:
        """What `select="best"` maximises, of a row of the history."""
        return mean_score(row)

    def _batches(self, drawn: np.ndarray) -> Iterator[np.ndarray]:
        """The draw in batches of recordings."""
        for first in range(0, len(drawn), self.config.batch_size):
            yield drawn[first : first + self.config.batch_size]

    def _altered(self, x: Iterable[np.ndarray], rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Training recordings `rows`, each clean or attacked as in `x`, `altered` as the configuration says."""
        lengths = self.train_set.lengths[rows].tolist()
        each = zip(x, lengths, strict=True)
        return np.stack([altered(one.copy(), length, self.config, rng) for one, length in each])

    def _problem(self, rows: np.ndarray) -> AttackProblem:
        """Training recordings under the threat model."""
        return self.threat.on(self.train_set.take(rows))


class Baseline(Defence):
    """No defence: all recordings, none attacked. Selected: the best challenge score on dev."""

    def draw(self, rng):
        return rng.permutation(len(self.train_set))

    def chunks(self, drawn, rng):
        data = self.train_set
        if data.signals[0].dtype == np.int16:  # the challenge's, some of which are longer than the window
            yield np.stack([augment(data.signals[i], self.config, rng) for i in drawn])[..., None], data.y[drawn]
        else:
            yield self._altered((data.x[i] for i in drawn), drawn, rng), data.y[drawn]

    @staticmethod
    def criterion(row):
        return row["dev_challenge_score"] if "dev_challenge_score" in row else row["dev_macro_f1"]


class HalfAttacked(Defence):
    """What defences share that mix clean and attacked recordings, all made at the start of the epoch.

    One half of the recordings drawn of each class under threat is attacked. The other half, and all of other
    classes, stay clean. Clean ones in the mix keep clean accuracy (Goodfellow et al. 2015), and half is the
    original's share.
    """

    def chunks(self, drawn, rng):
        clean, attacked = self.split(drawn)
        rows = np.concatenate([clean, attacked])
        x = np.concatenate([self.train_set.x[clean], self.adversarial(attacked, rng)])
        order = rng.permutation(len(rows))
        yield self._altered(x[order], rows[order], rng), self.train_set.y[rows[order]]

    def split(self, drawn: np.ndarray) -> Arrays:
        """(clean, attacked) recordings of a draw."""
        return split_in_halves(drawn, self.train_set.y, self.threat.is_attacked(self.train_set))

    def adversarial(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Adversarial examples of training recordings, (rows, samples, leads)."""
        raise NotImplementedError


class Adaptive(HalfAttacked):
    """The original's second defence: half of the AF drawn, attacked anew every epoch.

    Targeted PGD (AF → N by default; any class by `attack_class`) on AF alone, with the weights at the start of the epoch. Since only AF is
    ever attacked, "perturbed" and "AF" come to mean the same (label leaking, Kurakin et al. 2017).

    Selected is the epoch with the best mean, on dev, of the challenge score and of AF recall under that attack:
    the purpose it was published for. This rule does not see label leaking; the history's other columns do.
    """

    attacked_every = 5  # takes as long as the attack itself, and selects no epoch here

    @property
    def threat(self):
        return self.config.class_threat

    def adversarial(self, rows, rng):
        return self._attack(self.classifier, rows)

    def _attack(self, classifier, rows):
        config = self.config
        attacked = self.train_set.take(rows)
        return attack_class(classifier, attacked, config, config.steps, f"attacking {config.attack_class}").x

    @staticmethod
    def criterion(row):
        (robust,) = (value for column, value in row.items() if column.startswith("dev_robust_recall_"))
        return (Baseline.criterion(row) + robust) / 2


class Static(Adaptive):
    """The original's first defence: as `Adaptive`, but attacked once, with the model that training starts from.

    Selected: by the same rule.
    """

    def __init__(self, config, train_set, classifier, start):
        super().__init__(config, train_set, classifier, start)
        rows = np.flatnonzero(self.threat.is_attacked(train_set))
        if not config.redraw:  # the only draw that there will be
            rows = self.split(self.draw(np.random.default_rng(config.seed)))[1]
        adversarial = self._attack(KerasClassifier(start, classes=train_set.classes, fs=train_set.fs), rows)
        self.stored = dict(zip(rows, adversarial, strict=True))

    def adversarial(self, rows, rng):
        return np.stack([self.stored[i] for i in rows])


class Control(Adaptive):
    """The no-attack control of `Adaptive`: the same recordings in the same order, none of them attacked.

    What it changes is due to the balanced draw and to training on; only what `Adaptive` changes beyond it is due to the
    attacks. Selected: by the same rule.
    """

    def adversarial(self, rows, rng):
        return self.train_set.x[rows]


class AllClasses(HalfAttacked):
    """Adversarial training on every class (Madry et al. 2018, arXiv 1706.06083).

    Untargeted PGD from a random start, with the weights at the start of the epoch, on half of the draw of each
    class. Beside `Adaptive` it is the experiment that isolates label leaking: the same draw, as many recordings
    a step, and half of a class attacked as there; only that a perturbation tells nothing about the class. The
    paper attacks every batch with its current weights and trains on nothing else; here attacks are up to an
    epoch old, as the original's are, and made in few large batches.

    Selected: the best mean of clean and robust challenge score on dev.
    """

    def adversarial(self, rows, rng):
        problem = self._problem(rows)
        return pgd(
            self.classifier,
            problem,
            start=problem.ball.random(rng),
            steps=self.config.steps,
            step=self.config.step,
            progress="attacking all classes",
        ).x


class Fast(Defence):
    """Fast adversarial training (Wong, Rice & Kolter 2020, arXiv 2001.03994).

    Every recording drawn is attacked, untargeted, by one step of 1.25 ε from a random point of the ball,
    batch by batch with the current weights. From one epoch to the next, a network can become robust to this one
    step only: see `catastrophic_overfitting`, which is looked for after every epoch.

    Selected: the best mean of clean and robust challenge score on dev. An epoch with the alarm counts 0.
    """

    def chunks(self, drawn, rng):
        for rows in self._batches(drawn):
            attacked = fgsm(self.classifier, self._problem(rows), rng).x
            yield self._altered(attacked, rows, rng), self.train_set.y[rows]

    def own_scores(self, subset, history, row):
        rng = np.random.default_rng(self.config.seed)
        logits = fgsm(self.classifier, self.threat.on(subset), rng).logits
        columns = {f"dev_fgsm_{score_name(subset.classes)}": score_of(subset, logits)}
        alarm = catastrophic_overfitting([*history, row | columns])
        if alarm:
            tqdm.write(
                f"ALARM: catastrophic overfitting in epoch {row['epoch']}: robust to the one step that it "
                "trains with, no longer to PGD; it counts 0"
            )
        return columns | {"catastrophic_overfitting": alarm}

    @staticmethod
    def criterion(row):
        return 0.0 if row["catastrophic_overfitting"] else Defence.criterion(row)


class Trades(Defence):
    """TRADES (Zhang et al. 2019, arXiv 1901.08573): accuracy on clean recordings, and a stable prediction around.

    Minimises clean cross-entropy + β·KL(p(x) ‖ p(x')). x' maximises that KL by PGD from a small random start
    (at x itself the KL has no gradient), untargeted and without its label, batch by batch with the current
    weights, in inference mode; the training step takes x and x' together. A larger β buys robustness with
    accuracy.

    Selected: the best mean of clean and robust challenge score on dev.
    """

    copies = 2

    def chunks(self, drawn, rng):
        for rows in self._batches(drawn):
            problem = self._problem(rows)
            attacked = kl_ascent(self.classifier, problem, self.config, rng).x
            pairs = np.stack([problem.x, attacked], axis=1).reshape(-1, *attacked.shape[1:])
            yield self._altered(pairs, np.repeat(rows, 2), rng), np.repeat(problem.y, 2)

    @staticmethod
    def loss(config):
        return TradesLoss(config.beta, config.label_smoothing)


BY_NAME: dict[str, type[Defence]] = {
    "baseline": Baseline,
    "static": Static,
    "adaptive": Adaptive,
    "all-classes": AllClasses,
    "fast": Fast,
    "trades": Trades,
    "control": Control,
}


def register(defence: type[Defence]) -> type[Defence]:
    """Add a defence of one's own, a subclass of `Defence` with a `name`, a `help` and `epochs`; use it as decorator.

    It is then known by its name in this process; everywhere else as `package.module:Class`, such as on the command line
    and in notebook 5.
    """
    if not (isinstance(defence, type) and issubclass(defence, Defence)):
        raise EcgnbError(f"{defence!r} is no defence; derive a class from ecgnb.training.defences.Defence")
    if not re.fullmatch(r"[\w-]+", defence.name) or not defence.help:
        raise EcgnbError(
            f"{defence.__qualname__}: name={defence.name!r}, help={defence.help!r}; a name of letters, and a sentence"
        )
    known = BY_NAME.get(defence.name)
    if known and (known.__module__, known.__qualname__) != (defence.__module__, defence.__qualname__):
        raise EcgnbError(f"{defence.__qualname__}: there is a defence {defence.name!r} already; give it another name")
    BY_NAME[defence.name], DEFENCES[defence.name], EPOCHS[defence.name] = defence, defence.help, defence.epochs
    return defence


@keras.saving.register_keras_serializable("ecgnb")
class TradesLoss(keras.losses.Loss):
    """Clean cross-entropy + β·KL(clean ‖ attacked) (Zhang et al. 2019, eq. 5); the gradient goes through both.

    Row 2i of a batch is a recording as it is, row 2i + 1 the same one attacked, so that a batch that several
    devices share still holds pairs. Each row carries its own term, twice: the mean over rows is then the
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
        stability = self.beta * divergence(attacked, None, clean)
        return 2 * ops.reshape(ops.stack([accuracy, stability], axis=1), (-1,))

    def get_config(self):
        own = {"beta": self.beta, "label_smoothing": self.label_smoothing}
        return super().get_config() | own


def fgsm(classifier: Classifier, problem: AttackProblem, rng: np.random.Generator) -> AttackResult:
    """One step of 1.25 radii from a random point of the ball, and back into it (Wong et al. 2020)."""
    return pgd(classifier, problem, start=problem.ball.random(rng), steps=1, step=FGSM_STEP)


def kl_ascent(
    classifier: Classifier, problem: AttackProblem, config: TrainingConfig, rng: np.random.Generator
) -> AttackResult:
    """PGD that maximises the KL divergence from the clean prediction (Zhang et al. 2019)."""
    nearby = TRADES_START * config.epsilon * rng.standard_normal(problem.x.shape)
    return pgd(
        classifier,
        problem,
        loss=divergence,
        targets=classifier.logits(problem.x),
        start=problem.x + nearby,
        steps=config.steps,
        step=config.step,
    )


def split_in_halves(drawn: np.ndarray, y: np.ndarray, is_attacked: np.ndarray) -> Arrays:
    """(clean, attacked) recordings of a draw: half of each class that is under threat is attacked.

    drawn : (n,) indices of recordings; y, is_attacked : classes of all recordings, and whether they are under threat.
    """
    threatened = drawn[is_attacked[drawn]]
    of_class = [threatened[y[threatened] == c] for c in np.unique(y)]
    attacked = np.concatenate([rows[: len(rows) // 2] for rows in of_class])
    return np.setdiff1d(drawn, attacked), attacked


def augment(signal: np.ndarray, config: TrainingConfig, rng: np.random.Generator) -> np.ndarray:
    """One window, (9000,) float32, of a raw recording, (length,) int16, altered at random as `config` says.

    shift : crop (if longer than 30 s) and circular shift of the true samples; amplitude : polarity
    (electrodes swapped, as in part of the recordings) and ±25 %; noise : white, with an SD of up to so many
    z-units (why: models/README.md).
    """
    first = int(rng.integers(0, max(1, len(signal) - WINDOW + 1))) if config.shift else 0
    x, length, _, _ = window(signal, first)
    return altered(x, length, config, rng)


def altered(x: np.ndarray, length: int, config: TrainingConfig, rng: np.random.Generator) -> np.ndarray:
    """One window, (samples,) or (samples, leads), as `augment` alters it but for the crop, in place; length : true samples."""
    if config.shift:
        x[:length] = np.roll(x[:length], int(rng.integers(length)), axis=0)
    if config.amplitude:
        x *= np.float32((-1 if rng.random() < 0.5 else 1) * rng.uniform(0.75, 1.25))
    if config.noise:
        sd = np.float32(rng.uniform(0, config.noise))
        x[:length] += sd * rng.standard_normal(x[:length].shape, np.float32)
    return x
