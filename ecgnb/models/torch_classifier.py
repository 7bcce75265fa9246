"""A PyTorch module as a classifier, by PyTorch's own forward and backward pass. PyTorch is imported when it is used."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ecgnb.errors import EcgnbError
from ecgnb.files import array_digest
from ecgnb.models.classifier import Shape
from ecgnb.models.closed_form import ClosedFormClassifier


class TorchClassifier(ClosedFormClassifier):
    """The `Classifier` that is a `torch.nn.Module`, in evaluation mode, on the device that its parameters are on.

    module : takes (n, leads, samples), or (n, samples, leads) with `channels_first=False`, and gives logits. It is set
    to `eval()`, and the gradients of its weights are switched off. It may not go back to training mode: that is looked
    at in every call. The others: see `ClosedFormClassifier`.
    """

    def __init__(
        self,
        module: Any,
        classes: tuple[str, ...],
        fs: float,
        shape: Shape,
        channels_first: bool = True,
        batch_size: int = 32,
    ):
        self.module, self.channels_first = module.eval().requires_grad_(False), channels_first
        super().__init__(classes, fs, shape, batch_size)

    @property
    def digest(self) -> str:
        """SHA-256 of its layers as they are printed, its class, its weights, and what they are given.

        It does not see the code of `forward`: give a class another name when you change that.
        """
        state = self.module.state_dict()
        text = f"{type(self.module)} {self.module} {list(state)} {self.classes} {self.fs} {self.channels_first}"
        arrays = array_digest(*(value.detach().cpu().float().numpy() for value in state.values()))
        return hashlib.sha256(f"{text} {arrays}".encode()).hexdigest()

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
        """As `ClosedFormClassifier.forward`."""
        import torch

        if any(part.training for part in self.module.modules()):
            raise EcgnbError("the PyTorch module is in training mode, where it is random; call its eval() before")
        where = next((p for p in self.module.parameters()), torch.empty(0))
        arranged = np.swapaxes(x, 1, 2) if self.channels_first else x
        inputs = torch.tensor(np.ascontiguousarray(arranged), device=where.device, dtype=where.dtype)
        with torch.enable_grad():
            logits = self.module(inputs.requires_grad_())

        def back(weights: np.ndarray) -> np.ndarray:
            if not logits.requires_grad:  # a module that cuts the path of its gradient: that is a gradient of zero
                return np.zeros_like(x)
            upstream = torch.tensor(weights, device=logits.device, dtype=logits.dtype)
            (gradient,) = torch.autograd.grad(logits, inputs, upstream, materialize_grads=True)
            found = gradient.float().cpu().numpy()
            return np.swapaxes(found, 1, 2) if self.channels_first else found

        return logits.detach().float().cpu().numpy(), back
