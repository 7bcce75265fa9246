"""PyTorch modules as classifiers: a copy of the shipped baseline agrees with it; what is no classifier is told.

Not among the tests of `ci/test`, which installs no PyTorch: `pytest ci/test_torch.py` where it is.
"""

from __future__ import annotations

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT

torch = pytest.importorskip("torch", reason="pip install torch")
from torch import nn  # noqa: E402

from ecgnb.attacks import Threat, cross_entropy, divergence, logit_ratio, pgd  # noqa: E402
from ecgnb.constants import CLASSES, FS  # noqa: E402
from ecgnb.errors import EcgnbError  # noqa: E402
from ecgnb.models.files import load_model  # noqa: E402
from ecgnb.models.keras_classifier import KerasClassifier  # noqa: E402
from ecgnb.models.torch_classifier import TorchClassifier  # noqa: E402

BORDERLINE = 1e-2  # a margin of logits that the rounding of 20 steps may move across zero


def conv(kernel: np.ndarray, bias: np.ndarray) -> nn.Conv1d:
    """A convolution with Keras' weights: kernel (width, in, out); padding "same" puts the odd sample at the end."""
    layer = nn.Conv1d(kernel.shape[1], kernel.shape[2], kernel.shape[0])
    layer.weight.data, layer.bias.data = torch.tensor(kernel.transpose(2, 1, 0).copy()), torch.tensor(bias)
    return layer


class Resnet34(nn.Module):
    """The network of `ecgnb.models.network`, with the weights of a Keras model of it, layer by layer."""

    def __init__(self, model: keras.Model):
        super().__init__()
        of_kind = {
            kind: [layer for layer in model.layers if type(layer).__name__ == kind]
            for kind in ("Conv1D", "BatchNormalization", "Dense")
        }
        wide = [layer for layer in of_kind["Conv1D"] if layer.kernel.shape[0] == 16]
        narrow = [layer for layer in of_kind["Conv1D"] if layer.kernel.shape[0] == 1]
        self.convs = nn.ModuleList([conv(*layer.get_weights()) for layer in wide])
        self.shortcuts = nn.ModuleList([conv(*layer.get_weights()) for layer in narrow])
        self.norms = nn.ModuleList([self.norm(layer) for layer in of_kind["BatchNormalization"]])
        kernel, bias = of_kind["Dense"][0].get_weights()
        self.head = nn.Linear(*kernel.shape)
        self.head.weight.data, self.head.bias.data = torch.tensor(kernel.T.copy()), torch.tensor(bias)
        self.dropout = nn.Dropout(0.5)

    @staticmethod
    def norm(layer) -> nn.BatchNorm1d:
        gamma, beta, mean, variance = map(torch.tensor, layer.get_weights())
        norm = nn.BatchNorm1d(len(gamma), eps=layer.epsilon)
        norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var = gamma, beta, mean, variance
        return norm

    def forward(self, x):
        convs, norms, shortcuts = iter(self.convs), iter(self.norms), iter(self.shortcuts)

        def same(x):
            return next(convs)(nn.functional.pad(x, (7, 8)))

        def activate(x):
            return self.dropout(torch.relu(next(norms)(x)))

        def halve(x):
            return nn.functional.max_pool1d(x, 2)

        stem = activate(same(x))
        x = halve(same(activate(same(stem)))) + halve(stem)
        for block in range(1, 16):
            width = 16 * (1 + (block - 1) // 4)
            shortcut = x if width == x.shape[1] else next(shortcuts)(x)
            branch = same(activate(same(activate(x))))
            if block % 2 == 0:
                branch, shortcut = halve(branch), halve(shortcut)
            x = branch + shortcut
        return self.head(activate(x).transpose(1, 2).flatten(1))


@pytest.fixture(scope="module")
def both() -> tuple[KerasClassifier, TorchClassifier]:
    """The shipped baseline, and its copy in PyTorch."""
    model = load_model("baseline")
    return KerasClassifier(model), TorchClassifier(Resnet34(model), CLASSES, FS, (9000, 1))


@pytest.mark.real
def test_logits_and_gradients_are_those_of_the_keras_model(both, validation):
    """To 1e-4; of one recording the gradient may differ more, where rounding decides on which side of a kink it is."""
    x, y = validation.x[:12], validation.y[:12]
    for loss, t in (
        (cross_entropy, np.full(12, 1)),
        (logit_ratio, np.full(12, -1)),
        (divergence, both[0].logits(x + 0.1)),
    ):
        for ours, theirs in zip(*(one.loss_and_gradient(x, y, t, loss) for one in both), strict=True):
            assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == np.float32
            gaps = np.abs(ours - theirs).reshape(12, -1)
            assert (gaps.max(axis=1) < 1e-4).sum() >= (11 if ours.ndim == 3 else 12), loss.__name__
            assert np.linalg.norm(gaps) < 0.02 * np.linalg.norm(ours)
    assert np.abs(both[0].logits(x) - both[1].logits(x)).max() < 1e-4


@pytest.mark.real
@pytest.mark.slow
def test_pgd_has_the_same_verdicts_on_all_af_but_for_borderline_cases(both, validation):
    problem = Threat().on(validation.of_class("A"))
    keras_result, torch_result = (pgd(one, problem, steps=20) for one in both)
    differ = keras_result.success != torch_result.success
    margins = [problem.goal.margin(result.logits, problem.y) for result in (keras_result, torch_result)]
    print(
        f"{differ.sum()} of {len(problem)} differ; largest gap of margins {np.abs(margins[0] - margins[1]).max():.2g}"
    )
    assert len(problem) == 47 and keras_result.success.sum() > 0
    assert (np.abs(margins)[:, differ] < BORDERLINE).all(), np.array(margins)[:, differ]


def small(end: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv1d(12, 4, 9, stride=4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool1d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 3), *([end] if end else []))


class SamplesFirst(nn.Module):
    """A module that takes (n, samples, leads)."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.transpose(1, 2))


X = np.random.default_rng(1).normal(size=(5, 400, 12)).astype(np.float32)
Y, T = np.array([0, 1, 2, 0, 1]), np.array([-1, 2, 0, -1, 0])
ABC = ("A", "B", "C")


def test_both_orders_of_axes_any_length_and_any_batch_size_are_one():
    first = TorchClassifier(small(), ABC, 500, (None, 12)).loss_and_gradient(X, Y, T, cross_entropy)
    others = (
        TorchClassifier(SamplesFirst(small()), ABC, 500, (400, 12), channels_first=False),
        TorchClassifier(small(), ABC, 500, (None, 12), batch_size=2),
    )
    for other in others:
        for a, b in zip(first, other.loss_and_gradient(X, Y, T, cross_entropy), strict=True):
            assert a.shape == b.shape and np.allclose(a, b, atol=1e-6)
    assert np.abs(first[2]).max() > 0


def test_a_module_is_set_to_evaluation_and_may_not_leave_it():
    module = small().train()
    classifier = TorchClassifier(module, ABC, 500, (400, 12))
    assert not module.training and not any(p.requires_grad for p in module.parameters())
    assert np.array_equal(classifier.logits(X), classifier.logits(X))
    module[3].train()
    with pytest.raises(EcgnbError, match=r"training mode, where it is random; call its eval\(\)"):
        classifier.logits(X)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (nn.Softmax(dim=1), "gives probabilities; leave out its softmax"),
        (nn.Sigmoid(), "choose one label as two classes"),
        (nn.Linear(3, 5), "for the 3 classes A,B,C"),
    ],
)
def test_a_module_that_gives_no_logits_is_refused(end, message):
    with pytest.raises(EcgnbError, match=message) as caught:
        TorchClassifier(small(end), ABC, 500, (400, 12))
    assert "\n" not in str(caught.value)


def test_recordings_of_another_shape_are_told():
    classifier = TorchClassifier(small(), ABC, 500, (400, 12))
    with pytest.raises(EcgnbError, match=r"takes \(400 samples, 12 leads\), got \(300, 12\)"):
        classifier.logits(X[:, :300])


def test_a_module_that_cuts_its_gradient_has_a_gradient_of_zero():
    class Cut(nn.Module):
        def forward(self, x):
            return torch.stack([x.detach().mean(dim=(1, 2)) + c for c in range(3)], dim=1)

    assert (TorchClassifier(Cut(), ABC, 500, (400, 12)).loss_and_gradient(X, Y, T, cross_entropy)[2] == 0).all()


def test_the_digest_is_of_weights_layers_and_classes():
    changed = small()
    changed[0].bias.data[0] += 1
    made = [(small(), ABC, 500), (changed, ABC, 500), (small(), ("A", "C", "B"), 500), (small(), ABC, 250)]
    digests = [TorchClassifier(module, classes, fs, (400, 12)).digest for module, classes, fs in made]
    assert len(set(digests)) == 4 and TorchClassifier(small(), ABC, 500, (400, 12)).digest == digests[0]


@pytest.mark.slow
def test_the_page_works_as_written(tmp_path):
    text = (ROOT / "notebooks" / "howto" / "own_torch.md").read_text("utf-8")
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    module, *steps = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    (tmp_path / "my_torch.py").write_text(module)
    for step in steps:
        done = subprocess.run(
            [sys.executable, "-c", step],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
