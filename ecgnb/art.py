"""To and from the Adversarial Robustness Toolbox, ART (Nicolae et al. 2018, arXiv 1807.01069): `pip install .[art]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ecgnb.attacks.losses import Loss, class_logit, cross_entropy
from ecgnb.errors import EcgnbError
from ecgnb.models.classifier import Classifier
from ecgnb.models.function_classifier import FunctionClassifier

try:
    from art.estimators import BaseEstimator, LossGradientsMixin
    from art.estimators.classification.classifier import ClassGradientsMixin, ClassifierMixin
except ImportError as missing:
    raise EcgnbError("ecgnb.art needs the Adversarial Robustness Toolbox; pip install .[art]") from missing


class ArtClassifier(ClassGradientsMixin, ClassifierMixin, LossGradientsMixin, BaseEstimator):
    """A classifier of ours as an ART estimator, for ART's attacks by gradient, and by class gradient.

    Its loss is cross-entropy. It predicts logits, and is trained elsewhere.
    """

    estimator_params = BaseEstimator.estimator_params + ClassifierMixin.estimator_params

    def __init__(self, classifier: Classifier):
        super().__init__(model=classifier, clip_values=None)
        self.nb_classes = len(classifier.classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(samples, leads)"""
        return self.model.shape

    def predict(self, x: np.ndarray, **_: Any) -> np.ndarray:
        """(n, classes) logits."""
        return self.model.logits(x.astype(np.float32))

    def fit(self, x: np.ndarray, y: np.ndarray, **_: Any) -> None:
        """Not here."""
        raise NotImplementedError("train the model itself; ecgnb.train does")

    def compute_loss(self, x: np.ndarray, y: np.ndarray, **_: Any) -> np.ndarray:
        """(n,) cross-entropy; y : (n,) or one-hot."""
        return self._of(x, y, cross_entropy)[0]

    def loss_gradient(self, x: np.ndarray, y: np.ndarray, **_: Any) -> np.ndarray:
        """Its gradient with respect to x."""
        return self._of(x, y, cross_entropy)[2]

    def class_gradient(self, x: np.ndarray, label: Any = None, **_: Any) -> np.ndarray:
        """(n, classes, samples, leads) the gradient of each logit, or (n, 1, …) of that of a class, or of one for each x."""
        labels = range(self.nb_classes) if label is None else [label]
        found = [self._of(x, np.broadcast_to(c, len(x)), class_logit)[2] for c in labels]
        return np.stack(found, axis=1)

    def _of(self, x: np.ndarray, y: np.ndarray, loss: Loss) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        classes = np.asarray(y.argmax(axis=1) if y.ndim == 2 else y, np.int64)
        return self.model.loss_and_gradient(x.astype(np.float32), classes, np.full(len(x), -1), loss)


def as_art(classifier: Classifier) -> ArtClassifier:
    """A classifier of ours as an estimator for ART's attacks; x as ours, (n, samples, leads), z-units."""
    return ArtClassifier(classifier)


def from_art(
    classifier: Any, classes: Sequence[str], fs: float, *, digest: str, channels_first: bool = False
) -> FunctionClassifier:
    """An ART classifier that predicts logits, as ours.

    classes : symbols, in the order of the logits; fs : sampling rate of its input, Hz; digest : see
    `FunctionClassifier`; channels_first : it takes (n, leads, samples).
    Raises EcgnbError if it predicts probabilities.
    """

    def arranged(x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.swapaxes(x, -1, -2)) if channels_first else x

    def gradient(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        each = arranged(classifier.class_gradient(arranged(x)))
        return np.einsum("nc,ncsl->nsl", weights, each)

    shape = tuple(classifier.input_shape)[:: -1 if channels_first else 1]
    return FunctionClassifier(
        lambda x: classifier.predict(arranged(x)), gradient, tuple(classes), fs, (shape[0], shape[1]), digest
    )
