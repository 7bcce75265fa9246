"""What decides a training run: the settings of the baseline and of each defence, by protocol."""

from __future__ import annotations

from dataclasses import dataclass

from ecgnb.errors import EcgnbError

DEFENCES = ("baseline", "static", "adaptive")
EPOCHS = {"baseline": 14, "static": 75, "adaptive": 150}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run produces, besides the recordings.

    defence : "baseline" (all recordings), "static" (adversarial AF made once, with the baseline) or
        "adaptive" (made anew with the current weights at the start of every epoch)
    per_class : most recordings of each class in an epoch of a defence; half of the AF are adversarial
    redraw : draw them anew every epoch, or (False, as the original did) once
    dropout, batch_size, learning_rate, weight_decay, label_smoothing : the usual
    cosine : warm up over the first 5 % of steps and decay to zero along a cosine, or keep the rate
    class_power : class weights 1 / count**power
    augment : random crop of long recordings, circular shift, polarity and amplitude
    statistics : batch-norm statistics used for inference are collected with dropout off ("clean") after
        every epoch, or left as training under dropout made them ("dropout", as in the original)
    epsilon, step_size, steps, target : the attack of a defence, z-units; mask_padding : spare the padding
    precision : "float32" or "bfloat16"; weights stay float32
    select : keep the epoch that is best on dev ("best"), or the last one ("last", as the original did)
    """

    defence: str
    epochs: int
    seed: int = 2017
    per_class: int = 300
    redraw: bool = True
    dropout: float = 0.0
    batch_size: int = 32
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    cosine: bool = False
    class_power: float = 1.0
    augment: bool = False
    statistics: str = "clean"
    epsilon: float = 0.2
    step_size: float = 0.02
    steps: int = 10
    target: str = "N"
    mask_padding: bool = True
    precision: str = "float32"
    select: str = "best"

    def __post_init__(self):
        if self.defence not in DEFENCES:
            raise EcgnbError(f"defence={self.defence!r}: expected one of {', '.join(DEFENCES)}")
        if self.epochs < 1:
            raise EcgnbError(f"epochs={self.epochs}: training needs at least 1")


def recipe_for(defence: str, protocol: str = "leakfree", **changes) -> Recipe:
    """The recipe of a defence under a protocol; `changes` override any field.

    `original` keeps the original's settings: one fixed draw, dropout 0.5 with the batch-norm statistics that
    come of it, padding attacked, the last epoch. `leakfree` takes what works on dev.
    """
    settings = {}
    if protocol == "original":
        settings = dict(
            dropout=0.5, redraw=False, statistics="dropout", mask_padding=False, select="last"
        )
        if defence == "baseline":
            settings |= dict(learning_rate=1e-3)
    elif defence == "baseline":
        settings = dict(
            dropout=0.2,
            learning_rate=2e-3,
            weight_decay=1e-2,
            label_smoothing=0.05,
            cosine=True,
            class_power=0.5,
            augment=True,
        )
    return Recipe(defence, **{"epochs": EPOCHS.get(defence)} | settings | changes)
