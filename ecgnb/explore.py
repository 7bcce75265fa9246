"""An attack one can touch: PGD on one recording with all its iterates, the verdict in words, and the widgets of notebook 7."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import numpy as np
from matplotlib.figure import Figure

from ecgnb.attacks.losses import cross_entropy
from ecgnb.attacks.result import check_positive
from ecgnb.attacks.threats import AttackProblem, Goal, Threat
from ecgnb.data.dataset import Dataset
from ecgnb.errors import EcgnbError
from ecgnb.models.classifier import Classifier, predicted_classes, softmax
from ecgnb.report import figures, style
from ecgnb.report.tables import class_name

EPSILON_MAX, STEPS_MAX = 0.4, 40
# Sliders and the buttons of Play have no names of their own for a screen reader (ipywidgets 8). An image that cannot be
# loaded gives them theirs, and makes the box of the verdict, which stays when its text changes, a live region.
NAMES = """<img hidden alt="" src="data:," onerror="setTimeout(() => {
  this.closest('.widget-html-content')?.setAttribute('aria-live', 'polite');
  const box = this.closest('.widget-vbox');
  box?.querySelectorAll('.widget-slider').forEach((slider) => slider.querySelector('[role=slider]')
    .setAttribute('aria-label', slider.querySelector('label').textContent));
  const names = ['play or pause the iterations', 'stop playing', 'repeat'];
  box?.querySelectorAll('.widget-play button').forEach((button, i) => button.setAttribute('aria-label', names[i]));
}, 300)">"""
DPI = 144  # of the pictures; they are shown in true size, which is 96 dots an inch to a browser


@dataclass(frozen=True)
class Trace:
    """PGD on one recording: the clean recording, then every iterate.

    x : (steps + 1, samples, leads) float32, z-units; loss : (steps + 1,), what the attack maximises;
    logits : (steps + 1, classes).
    """

    x: np.ndarray
    loss: np.ndarray
    logits: np.ndarray


def pgd_trace(classifier: Classifier, problem: AttackProblem, steps: int = 20, step: float = 0.1) -> Trace:
    """PGD as `attacks.pgd` does it, on a problem of one recording, keeping every iterate."""
    check_positive(steps=steps)
    if len(problem) != 1:
        raise EcgnbError(f"pgd_trace takes one recording, got {len(problem)}; choose one with dataset.take")
    x, passes = problem.x, []
    for _ in range(steps + 1):
        value, logits, gradient = classifier.loss_and_gradient(x, problem.y, problem.targets, cross_entropy)
        passes.append((x[0], value[0], logits[0]))
        x = problem.ball.project(x + step * problem.ball.step(gradient))
    return Trace(*(np.stack(parts) for parts in zip(*passes, strict=True)))


def verdict(goal: Goal, y: int, clean: np.ndarray, attacked: np.ndarray, classes: tuple[str, ...]) -> str:
    """What an attack did to a prediction, in words.

    y : the label; clean, attacked : (classes,) logits. "AF at 0.97 → normal at 0.88: the attack reaches its goal."
    """
    logits = np.stack([clean, attacked])
    before, after = predicted_classes(logits)
    words = " → ".join(f"{class_name(classes[p.argmax()], classes)} at {p.max():.2f}" for p in softmax(logits))
    if (clean == attacked).all():
        return f"{words.split(' → ')[0]}: nothing is perturbed yet."
    if before != y:
        label = class_name(classes[y], classes)
        return f"{words}. The label is {label}: the prediction is wrong before any attack."
    if goal.reached(attacked[None], np.array([y]))[0]:
        return f"{words}: the attack reaches its goal."
    if goal.target is not None and after != y:
        return f"{words}: the attack misses its goal, {class_name(classes[goal.target], classes)}, yet the prediction is wrong."
    return f"{words}: the attack does not reach its goal."


class Explorer:
    """Widgets that attack one recording at a time; a notebook shows them when a cell ends in an Explorer.

    classifiers : name -> the classifier to attack; record : the recording shown first, "" for the first AF; target,
    epsilon, steps : the attack shown first, as in `Threat` and `pgd_trace`.
    Where no kernel runs, as on GitHub, the verdict at the time of saving is shown.
    Raises EcgnbError for a recording, target, ε or number of steps that the controls do not have.
    """

    def __init__(
        self,
        dataset: Dataset,
        classifiers: Mapping[str, Classifier],
        record: str = "",
        target: str = "N",
        epsilon: float = 0.2,
        steps: int = 20,
    ):
        record = record or str(dataset.names[np.argmin(dataset.y)])  # classes begin with AF
        if record not in dataset.names:
            raise EcgnbError(f"RECORD={record!r}: not in {dataset.title}; its first is {dataset.names[0]}")
        if not (0 <= epsilon <= EPSILON_MAX and 1 <= steps <= STEPS_MAX):
            raise EcgnbError(f"EPSILON={epsilon}, MAX_ITER={steps}: expected 0 to {EPSILON_MAX}, and 1 to {STEPS_MAX}")
        Threat(target=target).goal(dataset.classes)
        self.dataset, self.classifiers = dataset, dict(classifiers)
        present = [(style.class_title(c, dataset.classes), c) for c in dataset.classes if len(dataset.of_class(c))]
        menu, whole, real = widgets.Dropdown, widgets.IntSlider, widgets.FloatSlider
        self.label = _control(menu, "class", "label of the recordings in the next list", options=present)
        self.record = _control(menu, "recording", "the recording to attack")
        self.model = _control(menu, "model", "the network to attack", options=list(self.classifiers))
        self.goal = _control(menu, "goal", "the class that the attack wants to be predicted")
        self.epsilon = _control(real, "ε, z-units", "largest change of a sample", max=EPSILON_MAX, step=0.01)
        self.steps = _control(whole, "PGD steps", "steps of the attack, ε/10 each", min=1, max=STEPS_MAX)
        self.iteration = _control(whole, "iteration", "the iterate that is shown; 0 is the clean recording")
        self.play = _control(widgets.Play, "play", "play through the iterations", interval=600)
        self.start = _control(whole, "start, s", "the first second that is shown")
        self.seconds = _control(whole, "length, s", "how many seconds are shown", min=5, max=10)
        self.words, self.pictures = widgets.HTML(), widgets.HTML()
        controls = [self.label, self.record, self.model, self.goal, self.epsilon, self.steps]
        controls += [self.iteration, self.play, self.start, self.seconds]
        row = widgets.HBox(controls, layout=widgets.Layout(flex_flow="row wrap"))
        self.box = widgets.VBox([row, self.words, self.pictures])

        self.label.value = dataset.classes[dataset.y[list(dataset.names).index(record)]]
        self._fit_menus()
        self.record.value, self.goal.value = record, "" if target == self.label.value else target
        self.epsilon.value, self.steps.value, self.seconds.value = epsilon, steps, 8
        self._attack: tuple | None = None  # what `trace` was made of
        self._updating = False
        self._update()
        widgets.link((self.play, "value"), (self.iteration, "value"))
        for control in controls:
            control.observe(self._update, "value")

    def _update(self, _: Any = None) -> None:
        """Follow the controls: attack if need be, and draw. A control that is set in here calls for no update."""
        if self._updating:
            return
        self._updating = True
        try:
            self._fit_menus()
            attack = (self.record.value, self.model.value, self.goal.value, self.epsilon.value, self.steps.value)
            if attack != self._attack:
                self._run()
                self._attack = attack
            self._draw()
        finally:
            self._updating = False

    def _fit_menus(self) -> None:
        """The recordings of the class, and the goals that are no mistake of its own."""
        classes, own = self.dataset.classes, self.label.value
        names = tuple(map(str, self.dataset.of_class(own).names))
        goals = (*((class_name(c, classes), c) for c in classes if c != own), ("any wrong class (untargeted)", ""))
        if self.record.options != names:
            self.record.options = names
        if self.goal.options != goals:
            self.goal.options = goals

    def _run(self) -> None:
        """Attack the recording, and show the last iterate."""
        self.one = self.dataset.take(self.dataset.names == self.record.value)
        self.threat = Threat(self.label.value, self.goal.value, self.epsilon.value)
        self.problem = self.threat.on(self.one)
        steps = self.steps.value
        self.trace = pgd_trace(self.classifiers[self.model.value], self.problem, steps)
        self.iteration.max = self.play.max = steps
        self.iteration.value = self.play.value = steps

    @property
    def verdict(self) -> str:
        """What the iterate that is shown does to the prediction, in words."""
        clean, shown = self.trace.logits[[0, self.iteration.value]]
        return verdict(self.problem.goal, self.one.y[0], clean, shown, self.one.classes)

    @property
    def title(self) -> str:
        """Which recordings, which of them, on which network, and under which threat."""
        what = f"{self.record.value} on {self.model.value}: {self.threat}"
        return f"{self.dataset.title} · {what}, iteration {self.iteration.value} of {self.steps.value}"

    def paper(self) -> Figure:
        """The recording and the iterate on ECG paper."""
        x = self.trace.x[self.iteration.value][None]
        clean, adversarial = self.one.in_mv(self.one.x)[0], self.one.in_mv(x)[0]
        bound = self.epsilon.value * self.one.sd_mv[0]
        piece = dict(start=self.start.value, seconds=self.seconds.value, fs=self.one.fs)
        return figures.overlay_figure(clean, adversarial, bound, self.title, **piece)

    def iterates(self) -> Figure:
        """Probabilities and loss of every iterate."""
        found = softmax(self.trace.logits), self.trace.loss
        return figures.iterates_figure(*found, self.one.classes, self.iteration.value, self.title)

    def numbers(self) -> dict[str, Any]:
        """What the figures show, for the JSON beside them."""
        found = {"record": self.record.value, "verdict": self.verdict, "uv": self._uv()}
        return found | {"probabilities": softmax(self.trace.logits).tolist(), "loss": self.trace.loss.tolist()}

    def _uv(self) -> float:
        return float(1000 * self.epsilon.value * self.one.sd_mv[0])

    def _draw(self) -> None:
        seconds = self.one.lengths[0] / self.one.fs
        self.start.max = max(0, int(seconds) - self.seconds.value)
        rows = zip(self.one.classes, *softmax(self.trace.logits[[0, self.iteration.value]]), strict=True)
        numbers = "; ".join(f"{class_name(c, self.one.classes)} {p:.2f}, under attack {q:.2f}" for c, p, q in rows)
        last = self.start.value + self.seconds.value
        alternatives = (
            f"ECG of {self.title}, second {self.start.value} to {last}; below it the perturbation, magnified",
            f"Probabilities: {numbers}. Loss over the iterations: {self.trace.loss[0]:.2g} to {self.trace.loss[-1]:.2g}",
        )
        each = zip((self.paper(), self.iterates()), alternatives, strict=True)
        self.pictures.value = "".join(_as_html(figure, text) for figure, text in each)
        words = f"<b>{html.escape(self.verdict)}</b><br>ε is {self._uv():.0f} µV in this recording."
        self.words.value = f'<p style="font-size: 1.2em">{words}</p>{NAMES}'

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """The widgets, and for readers that have none the verdict."""
        return self.box._repr_mimebundle_() | {"text/plain": self.verdict}


def _control(kind: type, description: str, tooltip: str, **settings: Any) -> Any:
    """A widget with its label. A slider's value counts when it is let go of, or at a key: nothing queues up."""
    if issubclass(kind, widgets.IntSlider | widgets.FloatSlider):
        settings = {"min": 0, "continuous_update": False} | settings
    return kind(description=description, tooltip=tooltip, **settings)


def _as_html(figure: Figure, alternative: str) -> str:
    """A figure in true size where there is room, with its alternative text."""
    data, width = base64.b64encode(style.png(figure, DPI)).decode(), figure.get_figwidth()
    look = f"width: {width:.2f}in; max-width: 100%"
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(alternative)}" style="{look}">'
