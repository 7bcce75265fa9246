"""What attacks and evaluations need of a model. Nothing here knows Keras or TensorFlow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ecgnb.errors import EcgnbError

if TYPE_CHECKING:
    from ecgnb.data.dataset import Dataset

Shape = tuple[int | None, int]  # samples, None where any number will do, and leads


class Classifier(Protocol):
    """An ECG classifier: logits, and the gradient of a loss with respect to the input.

    classes : symbols of the classes, in the order of the logits; fs : sampling rate of its input, Hz; shape : (samples,
    leads) of its input, samples None where it takes any number;
    low_precision : True where `loss_and_gradient` computes more coarsely than `logits` does; by its logits
    alone no attack counts as a success.
    """

    classes: tuple[str, ...]
    fs: float
    shape: Shape
    low_precision: bool

    def logits(self, x: np.ndarray) -> np.ndarray:
        """(n, classes) float32 logits of x : (n, samples, leads) float32, z-units, any n."""

    def loss_and_gradient(
        self, x: np.ndarray, y: np.ndarray, targets: np.ndarray, loss: Callable
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A loss for each recording (see `attacks.losses`), its logits, and the loss's gradient.

        x : (n, samples, leads) float32, any n; y, targets : (n,) int, true and target classes (-1: untargeted), or
        whatever else the loss steers by, such as reference logits, (n, classes) float32, for `divergence`.
        Returns (n,), (n, classes) and the shape of x, all float32.
        """


UNDEFINED = -1  # the predicted class where logits are not finite


def predicted_classes(logits: np.ndarray) -> np.ndarray:
    """(n,) int, the class with the largest logit; UNDEFINED where any logit is NaN or infinite.

    No other function may turn logits into classes: the largest of four NaN would be the first class, AF.
    """
    return np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), UNDEFINED)


def check_defined(predicted: np.ndarray, names: np.ndarray, model: str) -> None:
    """Raise EcgnbError if a model gives logits that are not finite for clean recordings, (n,), of these names."""
    if len(undefined := names[predicted == UNDEFINED]):
        more = f" and {len(undefined) - 1} more" if len(undefined) > 1 else ""
        raise EcgnbError(f"{model} gives logits that are NaN or infinite for recording {undefined[0]}{more}")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Class probabilities, (n, classes), from logits, (n, classes)."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def check_fits(classifier: Classifier, dataset: Dataset) -> None:
    """Raise EcgnbError, in one line with the remedy, if a classifier does not take a data set's recordings."""
    (samples, leads), (has, has_leads) = classifier.shape, dataset.x.shape[1:]
    if leads != has_leads:
        raise EcgnbError(f"{dataset.title}: has {has_leads} leads, the model takes {leads}; choose {leads} of them")
    if classifier.fs != dataset.fs:
        raise EcgnbError(
            f"{dataset.title}: is at {dataset.fs:g} Hz, the model takes {classifier.fs:g} Hz; resample the recordings, or "
            "say the model's rate"
        )
    if samples not in (None, has):
        raise EcgnbError(f"{dataset.title}: has {has} samples a recording, the model takes {samples}; cut or pad them")
    if tuple(classifier.classes) != tuple(dataset.classes):
        theirs, ours = ",".join(dataset.classes), ",".join(classifier.classes)
        raise EcgnbError(f"{dataset.title}: has the classes {theirs}, the model has {ours}; both in one order")


def check_count(outputs: tuple[int, ...], classes: tuple[str, ...]) -> None:
    """Raise EcgnbError unless what a model gives for a recording, an array of this shape, is a logit for each class."""
    if outputs != (len(classes),):
        raise EcgnbError(
            f"the model gives {outputs} numbers a recording, for the {len(classes)} classes {','.join(classes)}; "
            "name as many classes as there are logits, in their order"
        )


def check_logits(logits: Callable[[np.ndarray], np.ndarray], shape: Shape) -> None:
    """Raise EcgnbError if a function of recordings of this shape gives something else than logits, tried on `signals`."""
    x = signals(shape)
    z = logits(x)
    if not np.isfinite(z).all():
        raise EcgnbError("the model gives NaN or infinity for finite signals")
    if z.min() >= 0 and np.allclose(z.sum(axis=1), 1, atol=1e-3):
        raise EcgnbError("the model gives probabilities; leave out its softmax, so that it gives logits")
    if within_0_and_1(z) and within_0_and_1(logits(1000 * x)):
        raise EcgnbError(f"the model {MULTI_LABEL}")


def within_0_and_1(z: np.ndarray) -> bool:
    """Whether all numbers are from 0 to 1: of small signals and of large ones, that is a sigmoid."""
    return bool(((z >= 0) & (z <= 1)).all())


MULTI_LABEL = (
    "gives numbers from 0 to 1 that are no probabilities, as several sigmoid units do; choose one label as two classes: "
    "logits (0, z) of its unit before the sigmoid"
)


def signals(shape: tuple[int | None, ...]) -> np.ndarray:
    """(4, *shape) float32 z-units: nothing, noise of two sizes, and spikes once a second on a slow wave.

    To try a model on. Of any number of samples it gets 3,000.
    """
    sizes = [size or 3000 for size in shape]
    rng, time = np.random.default_rng(0), np.arange(sizes[0])
    noise = rng.standard_normal(sizes[0])
    rows = [0 * time, noise / 5, 5 * noise, 6.0 * (time % 300 < 10) + np.sin(time / 300)]
    return np.broadcast_to(np.array(rows, np.float32)[..., None], (len(rows), *sizes))


def cut(n: int, most: int, side_by_side: int = 1) -> list[slice]:
    """n rows in parts of at most `most`, as equal as can be, and, where rows suffice, as many as keep all busy.

    >>> cut(47, 64, side_by_side=2)
    [slice(0, 24, None), slice(24, 47, None)]
    """
    rounds = math.ceil(n / (most * side_by_side))
    parts = min(n, rounds * side_by_side)
    ends = [math.ceil(n * k / parts) for k in range(parts + 1)] if parts else [0]
    return [slice(*pair) for pair in itertools.pairwise(ends)]


def steady(gradient: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """The gradient, 0 where logits are not finite: there the model is broken, and the attack has to stay.

    gradient : (n, samples, leads); finite : (n,) bool, of the logits.
    Raises EcgnbError where logits are finite and the gradient is not: no attack could go on from there, and a
    model must not look robust for that.
    """
    lost = finite & ~np.isfinite(gradient).all(axis=(1, 2))
    if lost.any():
        raise EcgnbError(
            f"gradients are NaN or infinite for {lost.sum()} of {len(gradient)} recordings; not to be attacked"
        )
    return np.where(finite[:, None, None], gradient, np.float32(0))
