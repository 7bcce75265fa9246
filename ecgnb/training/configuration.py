"""What decides a training run: the settings of the baseline and of each defence, by protocol."""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

from ecgnb import values
from ecgnb.attacks.threats import Threat
from ecgnb.errors import EcgnbError

DEFENCES = {
    "baseline": "all recordings, none attacked",
    "static": "half of AF attacked, once, with the model that training starts from (the original's)",
    "adaptive": "half of AF attacked anew every epoch (the original's)",
    "all-classes": "half of every class attacked, untargeted, anew every epoch (Madry et al. 2018)",
    "fast": "all attacked by one step from a random start, every batch (Wong et al. 2020)",
    "trades": "all trained for the same prediction clean and attacked, every batch (Zhang et al. 2019)",
    "control": "no defence: the recordings of static and adaptive, none attacked",
}
EPOCHS = {  # the original's for its own two
    "baseline": 24,
    "static": 75,
    "adaptive": 150,
    "all-classes": 20,
    "fast": 20,
    "trades": 8,
    "control": 150,
}


def _setting(default: object, meaning: str, allowed: values.Allowed = "") -> Any:
    """A field with the help text that `python -m ecgnb train --help` prints, and what it may be."""
    return field(default=default, metadata={"help": meaning, "allowed": allowed})


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides what a training run produces, besides the recordings.

    defence : one of DEFENCES; `defences` tells what each does, by which rule its epoch is selected, and how one of
    one's own is added. The others: see each.
    """

    defence: str = field(metadata={"example": "static", "allowed": DEFENCES})
    epochs: int = field(
        metadata={"help": "passes over the recordings, or draws from them", "example": 20, "allowed": values.COUNT}
    )
    seed: int = _setting(2017, "of weights, draws, augmentation and dropout", values.SEED)
    per_class: int = _setting(300, "most recordings of a class in an epoch of a defence", values.COUNT)
    redraw: bool = _setting(True, "draw them anew every epoch; false: once, as the original did")
    dropout: float = _setting(0.0, "share of activations dropped in training", ">= 0 and < 1")
    batch_size: int = _setting(32, "recordings a step", values.COUNT)
    learning_rate: float = _setting(1e-4, "of AdamW; its peak with --cosine", values.POSITIVE)
    weight_decay: float = _setting(0.0, "of AdamW; 0 is Adam", ">= 0")
    label_smoothing: float = _setting(0.0, "share of the label spread over all classes", ">= 0 and < 1")
    cosine: bool = _setting(False, "warm up over 5 %% of the steps, then decay to zero along a cosine")
    plateau: bool = _setting(False, "cut the learning rate by ten after two epochs without a lower training loss")
    class_power: float = _setting(1.0, "class weights are 1 / count**power", ">= 0 and <= 10")
    class_counts: str = _setting(
        "drawn", "recordings whose classes are counted: drawn (for the epoch), or all (of training)", ("drawn", "all")
    )
    shift: bool = _setting(False, "random circular shift; baseline: also a random crop of long recordings")
    amplitude: bool = _setting(False, "random polarity and amplitude (±25 %%)")
    noise: float = _setting(0.0, "largest SD of added white noise, z-units", ">= 0 and <= 1000")
    statistics: str = _setting(
        "recomputed",
        "batch-norm statistics for inference: recomputed (without dropout, after every epoch), or "
        "as_trained (the original's)",
        ("recomputed", "as_trained"),
    )
    epsilon: float = _setting(0.2, "L∞ budget of the attack, z-units", "> 0 and <= 1000")
    step_size: float = _setting(0.02, "PGD step, z-units", "> 0 and <= 1000")
    steps: int = _setting(10, "PGD steps while training; fast takes one of its own", values.COUNT)
    attack_class: str = _setting("A", "class that static and adaptive attack, and whose recall on dev is watched")
    target: str = _setting("N", "what the attack on that class aims at: another class, or empty for untargeted")
    beta: float = _setting(
        6.0, "trades: weight of KL(clean || attacked) beside clean cross-entropy; the paper's is 6", ">= 0"
    )
    mask_padding: bool = _setting(True, "leave zero padding unperturbed")
    precision: str = _setting(
        "float32", "float32 or bfloat16 to compute in; weights stay float32", ("float32", "bfloat16")
    )
    select: str = _setting(
        "best", "epoch to select: best on dev by the defence's rule, or last (the original's)", ("best", "last")
    )

    def __post_init__(self):
        for setting in fields(self):
            object.__setattr__(self, setting.name, read_setting(setting, getattr(self, setting.name)))
        _ = self.class_threat  # raises for a class that is attacked towards itself
        if self.cosine and self.plateau:
            raise EcgnbError("plateau=True: a cosine sets the learning rate already; give cosine=false")

    @property
    def step(self) -> float:
        """The PGD step as a share of ε, as attacks take it."""
        return self.step_size / self.epsilon

    @property
    def class_threat(self) -> Threat:
        """The original's threat model: one class alone is attacked, AF, towards N by default."""
        return Threat(self.attack_class, self.target, self.epsilon, mask_padding=self.mask_padding)

    @property
    def untargeted_threat(self) -> Threat:
        """The same ε on recordings of every class, untargeted."""
        return Threat("", "", self.epsilon, mask_padding=self.mask_padding)


def read_setting(setting: Field, value: object) -> Any:
    """A value for a field of `TrainingConfig`, of its type. Raises EcgnbError for one that it cannot have."""
    example = setting.metadata.get("example", setting.default)
    return values.read(setting.name, value, example, setting.metadata["allowed"])


def defence_name(defence: str) -> str:
    """The name of a defence; of `package.module:Class`, a class of the user's, that by which it is registered."""
    if not values.is_import(defence):
        return defence
    name = getattr(values.imported(defence), "name", "")
    if name not in DEFENCES:
        raise EcgnbError(
            f"{defence}: is no registered defence; put @register from ecgnb.training.defences above the class"
        )
    return name


def overrides(text: str) -> dict[str, Any]:
    """Settings from text such as "dropout=0.5 cosine=false", each of its field's type.

    Raises EcgnbError for an unknown setting, and for a value that it cannot have.
    """
    known = {setting.name: setting for setting in fields(TrainingConfig) if setting.name != "defence"}
    settings: dict[str, Any] = {}
    for word in text.split():
        name, _, value = word.partition("=")
        if name == "defence":
            raise EcgnbError(f"{word!r}: the defence is no setting among others; give it as DEFENCE")
        if name not in known:
            raise EcgnbError(f"{word!r}: no such setting; there are {', '.join(known)}")
        settings[name] = read_setting(known[name], value)
    return settings


def shipped_name(defence: str, protocol: str) -> str:
    """The name of the shipped model that was trained by a defence under a protocol.

    >>> shipped_name("baseline", "leakfree"), shipped_name("baseline", "original")
    ('baseline', 'original-baseline')
    """
    return f"original-{defence}" if protocol == "original" else defence


def training_config(defence: str, protocol: str = "leakfree", **overrides: Any) -> TrainingConfig:
    """The configuration of a defence under a protocol; `overrides` replace any field.

    `original` keeps the original's settings: one fixed draw, dropout 0.5 with batch-norm statistics as trained
    under it, padding attacked, the last epoch. The weights that the original started from were trained with Adam at
    1e-3, cut by ten on a plateau (Andreotti et al. 2017). `leakfree` takes what works on dev. Defences of later papers
    start from the settings of the original's two, so that what differs is the defence; but TRADES takes β 1, since
    with its paper's 6 this network soon predicts normal for everything.
    """
    values.read("protocol", protocol, "leakfree", ("leakfree", "original"))
    defence = defence_name(defence)
    config = TrainingConfig(defence, EPOCHS.get(defence, 1), steps=20 if defence == "static" else 10)
    if protocol == "original":
        config = replace(
            config,
            learning_rate=1e-3 if defence == "baseline" else config.learning_rate,
            plateau=defence == "baseline",
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
