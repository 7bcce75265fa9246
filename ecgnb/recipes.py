"""What decides a training run: the settings of the baseline and of each defence, by protocol."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from ecgnb.errors import EcgnbError

DEFENCES = {
    "baseline": "all recordings, nobody attacked",
    "static": "half of AF attacked, once, with the model it starts from (the original's)",
    "adaptive": "half of AF attacked anew every epoch (the original's)",
    "all-classes": "half of every class attacked, untargeted, anew every epoch (Madry et al. 2018)",
    "fast": "all attacked by one step from a random start, every batch (Wong et al. 2020)",
    "trades": "all pushed to be read alike clean and attacked, every batch (Zhang et al. 2019)",
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


READ = {"bool": true_or_false, "int": int, "float": float, "str": str}  # a setting from text


def _setting(default: object, meaning: str) -> object:
    """A field with the help text that `python -m ecgnb train --help` prints."""
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run produces, besides the recordings.

    defence : one of DEFENCES; what each does, and by which rule an epoch is kept, is told in `defences`. The
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
    cosine: bool = _setting(
        False, "warm up over 5 %% of the steps, then decay to zero along a cosine"
    )
    class_power: float = _setting(1.0, "class weights are 1 / count**power")
    averaging: float = _setting(
        0.0, "momentum of the weights' moving average over steps, which is what is kept; 0: none"
    )
    shift: bool = _setting(False, "baseline: random crop of long recordings and circular shift")
    amplitude: bool = _setting(False, "baseline: random polarity and amplitude (±25 %%)")
    noise: float = _setting(0.0, "baseline: largest SD of added white noise, z-units")
    statistics: str = _setting(
        "clean",
        "batch-norm statistics for inference: clean (collected with dropout off after every epoch), "
        "or dropout (as training left them, the original's)",
    )
    epsilon: float = _setting(0.2, "L∞ budget of the attack, z-units")
    step_size: float = _setting(0.02, "PGD step, z-units")
    steps: int = _setting(10, "PGD steps while training; fast takes one of its own")
    target: str = _setting(
        "N",
        "class that AF is pushed to: N, O, ~, or empty for untargeted; on dev, and in static and adaptive",
    )
    beta: float = _setting(
        6.0, "trades: weight of KL(clean || attacked) beside clean cross-entropy; the paper's is 6"
    )
    mask_padding: bool = _setting(True, "leave zero padding unperturbed")
    precision: str = _setting("float32", "float32 or bfloat16 to compute in; weights stay float32")
    select: str = _setting(
        "best", "keep the epoch that is best on dev by the defence's rule, or (original) the last"
    )

    def __post_init__(self):
        allowed = {
            "defence": DEFENCES,
            "statistics": ("clean", "dropout"),
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
        if not 0 <= self.averaging < 1:
            raise EcgnbError(f"averaging={self.averaging}: a momentum is at least 0 and below 1")
        if self.beta < 0:
            raise EcgnbError(f"beta={self.beta}: a weight is not negative")


def changes(text: str) -> dict[str, object]:
    """Settings from text such as "dropout=0.5 cosine=false", each of its field's type.

    Raises EcgnbError for what is no setting, and for a value that is not of its type.
    """
    kinds = {field.name: field.type for field in fields(Recipe)}
    found = {}
    for word in text.split():
        name, _, value = word.partition("=")
        if name not in kinds:
            raise EcgnbError(f"{word!r}: no such setting; there are {', '.join(kinds)}")
        try:
            found[name] = READ[kinds[name]](value)
        except ValueError as error:
            raise EcgnbError(f"{word!r}: expected {name}=<{kinds[name]}>") from error
    return found


def recipe_for(defence: str, protocol: str = "leakfree", **changes) -> Recipe:
    """The recipe of a defence under a protocol; `changes` override any field.

    `original` keeps the original's settings: one fixed draw, dropout 0.5 with the batch-norm statistics that
    come of it, padding attacked, the last epoch. `leakfree` takes what works on dev. Defences of later papers
    start from the settings of the original's two, so that what differs is the defence; but TRADES takes β 1, since
    with its paper's 6 this network soon reads everything as normal.
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
            shift=True,
            amplitude=True,
            noise=0.25,
        )
    elif defence == "trades":
        settings = dict(beta=1.0)
    return Recipe(defence, **{"epochs": EPOCHS.get(defence)} | settings | changes)
