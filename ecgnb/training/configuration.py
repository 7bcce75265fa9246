"""What decides a training run: the settings of the baseline and of each defence, by protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ecgnb.attacks.threats import Threat
from ecgnb.errors import EcgnbError

DEFENCES = {
    "baseline": "all recordings, none attacked",
    "static": "half of AF attacked, once, with the model that training starts from (the original's)",
    "adaptive": "half of AF attacked anew every epoch (the original's)",
    "all-classes": "half of every class attacked, untargeted, anew every epoch (Madry et al. 2018)",
    "fast": "all attacked by one step from a random start, every batch (Wong et al. 2020)",
    "trades": "all trained for the same prediction clean and attacked, every batch (Zhang et al. 2019)",
}
EPOCHS = {  # the original's for its own two
    "baseline": 24,
    "static": 75,
    "adaptive": 150,
    "all-classes": 20,
    "fast": 20,
    "trades": 8,
}


def true_or_false(text: str) -> bool:
    """A bool from text; ValueError if it is neither."""
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


PARSERS: dict[str, Callable[[str], Any]] = {
    "bool": true_or_false,
    "int": int,
    "float": float,
    "str": str,
}  # type of a setting -> parser


def _setting(default: object, meaning: str) -> Any:
    """A field with the help text that `python -m ecgnb train --help` prints."""
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides what a training run produces, besides the recordings.

    defence : one of DEFENCES; `defences` tells what each does, and by which rule its epoch is selected. The
    others: see each.
    """

    defence: str
    epochs: int = field(metadata={"help": "passes over the recordings, or draws from them"})
    seed: int = _setting(2017, "of weights, draws, augmentation and dropout")
    per_class: int = _setting(300, "most recordings of a class in an epoch of a defence")
    redraw: bool = _setting(True, "draw them anew every epoch; false: once, as the original did")
    dropout: float = _setting(0.0, "share of activations dropped in training")
    batch_size: int = _setting(32, "recordings a step")
    learning_rate: float = _setting(1e-4, "of AdamW; its peak with --cosine")
    weight_decay: float = _setting(0.0, "of AdamW; 0 is Adam")
    label_smoothing: float = _setting(0.0, "share of the label spread over all classes")
    cosine: bool = _setting(False, "warm up over 5 %% of the steps, then decay to zero along a cosine")
    class_power: float = _setting(1.0, "class weights are 1 / count**power")
    shift: bool = _setting(False, "baseline: random crop of long recordings and circular shift")
    amplitude: bool = _setting(False, "baseline: random polarity and amplitude (±25 %%)")
    noise: float = _setting(0.0, "baseline: largest SD of added white noise, z-units")
    statistics: str = _setting(
        "recomputed",
        "batch-norm statistics for inference: recomputed (without dropout, after every epoch), or "
        "as_trained (the original's)",
    )
    epsilon: float = _setting(0.2, "L∞ budget of the attack, z-units")
    step_size: float = _setting(0.02, "PGD step, z-units")
    steps: int = _setting(10, "PGD steps while training; fast takes one of its own")
    target: str = _setting(
        "N", "target class of the attack on AF, in static, adaptive and on dev: N, O, ~, or empty for untargeted"
    )
    beta: float = _setting(6.0, "trades: weight of KL(clean || attacked) beside clean cross-entropy; the paper's is 6")
    mask_padding: bool = _setting(True, "leave zero padding unperturbed")
    precision: str = _setting("float32", "float32 or bfloat16 to compute in; weights stay float32")
    select: str = _setting("best", "epoch to select: best on dev by the defence's rule, or last (the original's)")

    def __post_init__(self):
        allowed = {
            "defence": tuple(DEFENCES),
            "statistics": ("recomputed", "as_trained"),
            "precision": ("float32", "bfloat16"),
            "select": ("best", "last"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise EcgnbError(f"{name}={getattr(self, name)!r}: expected {' or '.join(values)}")
        if self.epochs < 1:
            raise EcgnbError(f"epochs={self.epochs}: training needs at least 1")
        if self.epsilon <= 0:
            raise EcgnbError(f"epsilon={self.epsilon}: a defence trains against more than 0")
        if self.beta < 0:
            raise EcgnbError(f"beta={self.beta}: a weight is not negative")

    @property
    def step(self) -> float:
        """The PGD step as a share of ε, as attacks take it."""
        return self.step_size / self.epsilon

    @property
    def af_threat(self) -> Threat:
        """The original's threat model: AF alone is attacked, targeted."""
        return Threat("A", self.target, self.epsilon, mask_padding=self.mask_padding)

    @property
    def untargeted_threat(self) -> Threat:
        """The same ε on recordings of every class, untargeted."""
        return Threat("", "", self.epsilon, mask_padding=self.mask_padding)


def overrides(text: str) -> dict[str, Any]:
    """Settings from text such as "dropout=0.5 cosine=false", each of its field's type.

    Raises EcgnbError for an unknown setting, and for a value that is not of its type.
    """
    kinds = {setting.name: str(setting.type) for setting in fields(TrainingConfig)}
    settings: dict[str, Any] = {}
    for word in text.split():
        name, _, value = word.partition("=")
        if name not in kinds:
            raise EcgnbError(f"{word!r}: no such setting; there are {', '.join(kinds)}")
        try:
            settings[name] = PARSERS[kinds[name]](value)
        except ValueError as error:
            raise EcgnbError(f"{word!r}: expected {name}=<{kinds[name]}>") from error
    return settings


def training_config(defence: str, protocol: str = "leakfree", **overrides: Any) -> TrainingConfig:
    """The configuration of a defence under a protocol; `overrides` replace any field.

    `original` keeps the original's settings: one fixed draw, dropout 0.5 with batch-norm statistics as trained
    under it, padding attacked, the last epoch. `leakfree` takes what works on dev. Defences of later papers
    start from the settings of the original's two, so that what differs is the defence; but TRADES takes β 1, since
    with its paper's 6 this network soon predicts normal for everything.
    """
    config = TrainingConfig(defence, EPOCHS.get(defence, 0))
    if protocol == "original":
        config = replace(
            config,
            learning_rate=1e-3 if defence == "baseline" else config.learning_rate,
            dropout=0.5,
            redraw=False,
            statistics="as_trained",
            mask_padding=False,
            select="last",
        )
    elif defence == "baseline":
        config = replace(
            config,
            dropout=0.2,
            learning_rate=2e-3,
            weight_decay=1e-2,
            label_smoothing=0.05,
            cosine=True,
            class_power=0.5,
            shift=True,
            amplitude=True,
            noise=0.25,
        )
    elif defence == "trades":
        config = replace(config, beta=1.0)
    return replace(config, **overrides)
