"""How data, training and attacks are drawn: a function a figure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, MultipleLocator

from ecgnb.attacks.noise import NOISE_TITLES
from ecgnb.constants import FS
from ecgnb.errors import EcgnbError
from ecgnb.report import style
from ecgnb.report.tables import with_interval

if TYPE_CHECKING:
    import pandas as pd

MM = 1 / 25.4  # inches
MM_PER_S, MM_PER_MV = 25, 10  # ECG paper
BOX_S, BOX_MV = 0.2, 0.5  # a big box is 5 mm x 5 mm, of 5 x 5 small ones
PAPER, SMALL_BOX, BIG_BOX = "#fffaf8", "#f9dcd8", "#eca9a4"
LEAD_IN = 2 * BOX_S  # s of paper left of the trace, for the calibration pulse
ZOOM = 4  # how much larger one beat is drawn
FACTORS = (50, 20, 10, 5, 2)  # magnifications of a perturbation
CLASS_COLOURS = (style.COLOURS["attacked"], style.COLOURS["baseline"], style.SPARE_COLOURS[0], style.NOISE_COLOUR)
BESIDE: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "frameon": False}
STRIP_MV = 1.0  # a magnified perturbation stays within this, if the smallest factor lets it
PANELS = {  # of learning curves: y label -> legend -> (column of a history, dash)
    "training loss": {"": ("loss", "-")},
    "dev score": {
        "challenge score": ("dev_challenge_score", "-"),
        "AF F1": ("dev_f1_A", "-."),
        "challenge score, all classes attacked": ("dev_robust_challenge_score", "--"),
    },
    "share of dev recordings": {
        "AF recall, clean": ("dev_recall_A", "-"),
        "AF recall under attack": ("dev_robust_recall_A", "--"),
        "normal predicted as AF under random ±ε": ("dev_noise_false_positive_rate", ":"),
    },
}


@style.styled
def confusion_figure(scores: Mapping[str, dict[str, Any]], subtitle: str) -> Figure:
    """Confusion matrices side by side, each above its F1 scores with 95 % intervals.

    scores : title -> what `metrics.scores` returns
    """
    title = "Confusion matrices and F1, 95 % intervals"
    fig = style.new_figure(1.2 + 4.8 * len(scores), 5.9, title, subtitle)
    grid = fig.subplots(2, len(scores), squeeze=False, height_ratios=[3.4, 1.3])
    for (upper, lower), (name, found) in zip(grid.T, scores.items(), strict=True):
        image = _confusion_matrix(upper, np.asarray(found["confusion"]), list(found["f1"]))
        upper.set_title(textwrap.fill(name, 44), fontweight="bold")
        rows = {f"F1 {symbol}": f1 for symbol, f1 in found["f1"].items()}
        if "challenge_score" in found:
            rows["challenge score"] = found["challenge_score"]
        style.intervals(lower, rows, style.looks([name])[name].colour)
        style.share_rows(lower, list(rows))
        for row, estimate in enumerate(rows.values()):
            lower.text(1.04, row, with_interval(estimate), va="center", fontsize=9)
    bar = fig.colorbar(image, ax=grid[0, :], label="share of the true class", pad=0.02)
    bar.outline.set_visible(False)
    return fig


def _confusion_matrix(ax: Axes, counts: np.ndarray, classes: Sequence[str]) -> AxesImage:
    """Counts and row shares on colours of the row shares, with row totals at the right."""
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    cells = [
        [f"{n:,}\n{100 * n / total:.0f} %" if total else "0" for n in row]
        for row, total in zip(counts, totals.ravel(), strict=True)
    ]
    image = style.heat_map(ax, shares, cells, "Blues")
    for i, total in enumerate(totals.ravel()):
        ax.text(len(classes) - 0.4, i, f"n = {total:,}", va="center", fontsize=9)
    titles = [style.class_title(symbol, classes) for symbol in classes]
    ax.set_xticks(range(len(classes)), [title.replace(" ", "\n") for title in titles])
    ax.set_yticks(range(len(classes)), titles)
    ax.set(xlabel="predicted", ylabel="true")
    return image


@style.styled
def learning_curves(histories: Mapping[str, pd.DataFrame], subtitle: str, selected: Mapping[str, int]) -> Figure:
    """Training loss and dev scores over epochs, unsmoothed, for one training run or several.

    histories : name -> a run's history, as the training loop writes it
    selected : name -> the selected epoch; a vertical line and dots
    """
    fig = style.new_figure(8.6, 7.4, "Learning curves; the selected epoch is marked", subtitle)
    axes = fig.subplots(3, 1, sharex=True)
    looks = style.looks(histories)
    for ax, (label, lines) in zip(axes, PANELS.items(), strict=True):
        drawn = {}
        for name, history in histories.items():
            colour = looks[name].colour
            if name in selected:
                ax.axvline(selected[name], color=colour, lw=0.8)
            for meaning, (column, dash) in lines.items():
                if column not in history or history[column].isna().all():
                    continue
                known = history[["epoch", column]].dropna()
                ax.plot(known["epoch"], known[column], dash, color=colour, lw=1, marker=".", ms=3)
                dot = known[known["epoch"] == selected.get(name)]
                ax.plot(dot["epoch"], dot[column], "o", color=colour, ms=6)
                drawn[meaning] = dash
        if label == "training loss":
            ax.set_ylim(bottom=0)
        else:
            ax.set_ylim(-0.02, 1.02)
            keys = [Line2D([], [], color="0.3", ls=dash, label=m) for m, dash in drawn.items()]
            ax.legend(handles=keys, **BESIDE)
        style.tidy(ax, label)
    last = max((history["epoch"].max() for history in histories.values()), default=1)
    axes[-1].set(xlim=(0.5, last + 0.5), xlabel="epoch")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    keys = [Line2D([], [], color=look.colour, lw=3, label=name) for name, look in looks.items()]
    style.legend_below(fig, keys)
    return fig


@style.styled
def robustness_curve(
    curves: Mapping[str, dict[str, list[float]]],
    subtitle: str,
    uv_per_z: float,
    marked_epsilon: float,
    attacked: str = "AF",
) -> Figure:
    """Recall of the attacked class against ε, with 95 % intervals.

    curves : name -> {"epsilon": z-units, "value", "low", "high"}, each (k,); a name that begins with the title of a
        noise baseline, such as "random ±ε", is drawn grey and dotted
    uv_per_z : median SD of the recordings in µV, for the axis on top; marked_epsilon : z-units, a vertical line
    """
    fig = style.new_figure(8, 5.6, f"{attacked} recall against ε, 95 % intervals", subtitle)
    ax = fig.subplots()
    noise = tuple(NOISE_TITLES.values())
    for name, (colour, dash, marker) in style.looks(curves).items():
        if name.startswith(noise):
            colour, dash = style.NOISE_COLOUR, ":"
        look = dict(ls=dash, marker=marker, color=colour, ms=5, label=name, clip_on=False)
        style.band(ax, curves[name], "epsilon", **look)
    widest = max(max(curve["epsilon"]) for curve in curves.values())
    ax.set(xlim=(0, widest * 1.03), ylim=(-0.02, 1.02), xlabel="ε (L∞), z-units")
    style.top_axis(ax, uv_per_z, f"µV at the median SD of {uv_per_z:.0f} µV")
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    style.mark(ax, marked_epsilon, f"ε = {marked_epsilon:g}", (3, -4), va="top", bbox=box)
    style.tidy(ax, f"{attacked} recall")
    style.legend_below(fig)
    return fig


@style.styled
def attack_figure(
    clean_mv: np.ndarray,
    adversarial_mv: np.ndarray,
    labels: tuple[str, str],
    subtitle: str,
    seconds: float = 6.0,
    fs: float = FS,
    beat: int = 0,
) -> Figure:
    """A recording and its adversarial example, one over the other, and the perturbation, on ECG paper in true size.

    Below, the second around one beat, four times as large.

    clean_mv, adversarial_mv : (n,) float, mV, real samples only; fs : their sampling rate, Hz
    labels : of the two, such as "clean: predicted as A, 97 %"
    seconds : how much of them is shown, from their beginning; beat : sample number in the middle of the zoom; by
        default the largest deviation from the median between the first and the last second shown
    """
    if np.shape(clean_mv) != np.shape(adversarial_mv):
        raise EcgnbError("attack_figure: clean and adversarial recording differ in length")
    clean, adversarial = (_piece(mv, seconds, fs) for mv in (clean_mv, adversarial_mv))
    perturbation = adversarial - clean
    largest = np.abs(perturbation).max()
    factor = next((f for f in FACTORS if f * largest <= STRIP_MV), FACTORS[-1])
    inner = slice(round(fs), max(len(clean) - round(fs), round(fs) + 1))
    beat = beat or inner.start + int(np.argmax(np.abs(clean - np.median(clean))[inner]))
    zoom = slice(max(beat - round(0.8 * fs), 0), beat + round(0.8 * fs))  # as wide as the strips
    fig, axes = _ecg_paper(
        {
            "clean and attacked": _limits(clean, adversarial, [-0.5, 1.0]),  # with room for the calibration pulse
            "perturbation, same scale": _limits(perturbation, [-0.5, 0.5]),
            f"perturbation, {factor} × magnified; largest {1000 * largest:.0f} µV in the piece shown": (
                _limits(factor * perturbation, [-0.5, 0.5])
            ),
        },
        "An adversarial example on ECG paper",
        subtitle,
        seconds,
        zoom=(
            f"one beat, {ZOOM} × as large",
            zoom.start / fs,
            zoom.stop / fs,
            *_limits(clean[zoom], adversarial[zoom]),
        ),
    )
    for ax in (axes[0], axes[-1]):
        _trace(ax, adversarial, fs, style.COLOURS["attacked"], labels[1])
        _trace(ax, clean, fs, style.COLOURS["clean"], labels[0])
    for ax, mv in zip(axes[1:3], (perturbation, factor * perturbation), strict=True):
        _trace(ax, mv, fs, style.COLOURS["attacked"])
    axes[0].axvspan(zoom.start / fs, zoom.stop / fs, color="0.3", alpha=0.1, lw=0, zorder=1)
    pulse = np.array([0.06, 0.1, 0.1, 0.3, 0.3, 0.34]) - LEAD_IN
    axes[0].plot(pulse, [0, 0, 1, 1, 0, 0], color=style.COLOURS["clean"], lw=1)
    axes[0].text(pulse.mean(), -0.08, "1 mV", ha="center", va="top", fontsize=9)
    _in_microvolts(axes[2], factor)
    axes[-1].legend(loc="upper left", framealpha=0.9, reverse=True)
    return fig


@style.styled
def overlay_figure(
    clean_mv: np.ndarray,
    adversarial_mv: np.ndarray,
    bound_mv: float,
    subtitle: str,
    start: float = 0.0,
    seconds: float = 8.0,
    fs: float = FS,
) -> Figure:
    """A recording with its adversarial example over it, and the perturbation at a scale of its own, on ECG paper.

    clean_mv, adversarial_mv : (n,) float, mV, real samples only; bound_mv : the largest perturbation allowed, mV,
    which sets that scale and is drawn as two lines; start, seconds : the piece shown; fs : sampling rate, Hz
    """
    clean, adversarial = (_piece(mv, seconds, fs, start) for mv in (clean_mv, adversarial_mv))
    factor = next((f for f in FACTORS if f * bound_mv <= STRIP_MV), FACTORS[-1])
    perturbation = factor * (adversarial - clean)
    fig, (upper, lower) = _ecg_paper(
        {
            "clean (black), adversarial (orange)": _limits(clean, adversarial, [-0.5, 0.5]),
            f"perturbation, {factor} × magnified; dashed: ±ε, {1000 * bound_mv:.0f} µV": (
                _limits(perturbation, [factor * bound_mv, -factor * bound_mv, -0.5, 0.5])
            ),
        },
        "A recording under attack",
        subtitle,
        seconds,
        lead_in=0,
        start=start,
    )
    _trace(upper, clean, fs, style.COLOURS["clean"], lw=1.4)
    _trace(upper, adversarial, fs, style.COLOURS["attacked"])
    _trace(lower, perturbation, fs, style.COLOURS["attacked"])
    lower.hlines([-factor * bound_mv, factor * bound_mv], 0, seconds, color="0.3", lw=0.8, ls="--", zorder=4)
    _in_microvolts(lower, factor)
    return fig


@style.styled
def iterates_figure(
    probabilities: np.ndarray, loss: np.ndarray, classes: Sequence[str], iteration: int, subtitle: str
) -> Figure:
    """What a network says of an attack's iterates: probabilities of one as bars, and of all, with the loss.

    probabilities : (steps + 1, classes), of the clean recording first; loss : (steps + 1,); iteration : the one shown
    """
    fig = style.new_figure(9, 3.4, "Probabilities and loss over the iterations of the attack", subtitle)
    bars, curves, path = fig.subplots(1, 3, width_ratios=[1.2, 1, 1])
    rows = np.arange(len(classes))
    for name, shift, values in (("clean", -0.2, probabilities[0]), ("attacked", 0.2, probabilities[iteration])):
        bars.barh(rows + shift, values, 0.38, color=style.COLOURS[name], label=name)
        for row, value in enumerate(values):
            bars.text(value + 0.02, row + shift, f"{value:.2f}", va="center", fontsize=9)
    style.share_rows(bars, [style.class_title(symbol, classes) for symbol in classes], "probability")
    bars.set_xlim(0, 1.18)
    steps = np.arange(len(loss))
    looks = zip(classes, probabilities.T, cycle(CLASS_COLOURS), cycle(style.DASHES), strict=False)
    for symbol, values, colour, dash in looks:
        curves.plot(steps, values, color=colour, ls=dash, lw=1.5, label=style.class_title(symbol, classes))
    curves.set(ylim=(-0.02, 1.02), xlabel="iteration")
    style.tidy(curves, "probability")
    path.plot(steps, loss, color=style.COLOURS["clean"], lw=1.5)
    path.set_xlabel("iteration")
    style.tidy(path, "loss that the attack maximises")
    for ax in (curves, path):
        ax.axvline(iteration, color="0.3", lw=1, zorder=1)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = [handle for ax in (bars, curves) for handle in ax.get_legend_handles_labels()[0]]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return fig


@style.styled
def ascent_figure(
    loss: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    perturbations_uv: Mapping[str, np.ndarray],
    subtitle: str,
    fs: float = FS,
) -> Figure:
    """What an attack does to one recording, iteration by iteration.

    loss : (iterations + 1,), what the attack maximises; probabilities : (iterations + 1, classes); perturbations_uv :
    title, such as "after 5 steps" -> (n,) µV, a piece of the perturbation at `fs` Hz
    """
    fig = style.new_figure(8.6, 3.1 + 0.8 * len(perturbations_uv), "The attack, step by step", subtitle)
    grid = fig.add_gridspec(1 + len(perturbations_uv), 2, height_ratios=[3, *[1] * len(perturbations_uv)])
    left, right = (fig.add_subplot(grid[0, column]) for column in (0, 1))
    left.plot(loss, color="0.2", marker=".")
    style.tidy(left, "loss")
    for row, (symbol, dash) in enumerate(zip(classes, cycle(style.DASHES), strict=False)):
        right.plot(
            probabilities[:, row],
            ls=dash,
            color=CLASS_COLOURS[row % len(CLASS_COLOURS)],
            label=style.class_title(symbol, classes),
        )
    right.set_ylim(-0.02, 1.02)
    style.tidy(right, "probability")
    right.legend(**BESIDE)
    for ax in (left, right):
        ax.set_xlabel("steps")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    largest = max(1e-9, *(np.abs(uv).max() for uv in perturbations_uv.values()))
    for row, (name, uv) in enumerate(perturbations_uv.items(), start=1):
        ax = fig.add_subplot(grid[row, :])
        ax.plot(np.arange(len(uv)) / fs, uv, color=style.COLOURS["attacked"], lw=0.9)
        ax.set_ylim(-1.1 * largest, 1.1 * largest)
        ax.set_title(name, loc="left", pad=2)
        style.tidy(ax, "µV")
        ax.tick_params(labelbottom=row == len(perturbations_uv))
    ax.set_xlabel("time in the piece shown, s")
    return fig


@style.styled
def class_gallery(
    signals_mv: Mapping[str, np.ndarray],
    subtitle: str,
    seconds: float = 8.0,
    title: str = "One recording of each class",
    fs: float = FS,
    r_peaks: Mapping[str, np.ndarray] | None = None,
    p_waves: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """The beginnings of some recordings, one strip each, on ECG paper in true size.

    signals_mv : title, such as "A (AF), A00004" -> (n,) float, mV at `fs` Hz, real samples only
    r_peaks, p_waves : title -> (k,) int, sample numbers: a triangle above each R-peak and the RR in ms between two, a
        P above each P wave
    """
    pieces = {name: _piece(mv, seconds, fs) for name, mv in signals_mv.items()}
    peaks, ps = ({name: at[at < seconds * fs] for name, at in (marks or {}).items()} for marks in (r_peaks, p_waves))
    room = {name: BOX_MV if name in peaks else 0 for name in pieces}
    limits = {name: _limits(mv, [-0.5, 0.5], [mv.max() + room[name]]) for name, mv in pieces.items()}
    fig, axes = _ecg_paper(limits, title, subtitle, seconds, lead_in=0)
    for ax, (name, mv) in zip(axes, pieces.items(), strict=True):
        _trace(ax, mv, fs, style.COLOURS["clean"])
        if name in peaks:
            _mark_rr(ax, peaks[name], fs)
        for at in ps.get(name, []):
            look: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 9, "color": style.COLOURS["baseline"]}
            ax.text(at / fs, mv[at] + 0.08, "P", fontweight="bold", zorder=4, **look)
    return fig


def _mark_rr(ax: Axes, peaks: np.ndarray, fs: float) -> None:
    """R-peaks, (k,) sample numbers, as triangles along the upper edge, with the RR in ms between two."""
    height = ax.get_ylim()[1] - 0.2
    colour = style.COLOURS["attacked"]
    ax.plot(peaks / fs, np.full(len(peaks), height), "v", color=colour, ms=5, zorder=4)
    for first, second in pairwise(peaks):
        text = f"{1000 * (second - first) / fs:.0f}"
        ax.text((first + second) / 2 / fs, height, text, ha="center", va="center", fontsize=9, color=colour, zorder=4)


@style.styled
def microvolts_figure(sd_uv: Mapping[str, np.ndarray], epsilon: float, subtitle: str) -> Figure:
    """What an ε in z-units is in µV: its distribution over the recordings of each class.

    sd_uv : class symbol -> (n,) SD of each recording, µV; epsilon : z-units
    """
    title = f"How many µV is ε = {epsilon:g}? Cumulative share of recordings"
    fig = style.new_figure(8, 4.2, title, subtitle)
    ax = fig.subplots()
    colours = cycle([style.COLOURS["attacked"], *style.SPARE_COLOURS])
    for (symbol, sd), colour, dash in zip(sd_uv.items(), colours, cycle(style.DASHES), strict=False):
        seaborn.ecdfplot(x=epsilon * sd, ax=ax, color=colour, ls=dash, label=style.class_title(symbol))
    ax.set_xscale("log")
    ax.set(xlabel="µV", ylim=(0, 1))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")
    style.tidy(ax, "share of recordings")
    style.legend_below(fig)
    return fig


def _ecg_paper(
    rows: dict[str, tuple[float, float]],
    title: str,
    subtitle: str,
    seconds: float,
    lead_in: float = LEAD_IN,
    start: float = 0.0,
    zoom: tuple[str, float, float, float, float] | None = None,
) -> tuple[Figure, list[Axes]]:
    """Strips of ECG paper, one for each row title -> (lowest, highest) mV, in true size at 100 %.

    start : the time, s, that stands at the beginning of the traces; zoom : title, first and last second, lowest and
    highest mV of a piece that is shown below, `ZOOM` times as large.
    Sizes below are in mm, so that a second is 25 mm and a millivolt 10 mm long on the page.
    """
    left, right, above, between, below = 18, 6, 15, 8, 13
    first, last = -lead_in, BOX_S * np.ceil(seconds / BOX_S - 1e-9)
    length = (last - first) * MM_PER_S
    heights = [(high - low) * MM_PER_MV for low, high in rows.values()]
    zoomed = ZOOM * MM_PER_MV * (zoom[4] - zoom[3]) + between + below if zoom else 0
    width, height = left + length + right, above + sum(heights) + between * len(rows) + below + zoomed
    fig = style.PlainFigure(figsize=(width * MM, height * MM))
    style.head(fig, f"{title}, 25 mm/s, 10 mm/mV", subtitle, y=1 - 3 / height)
    axes: list[Axes] = []
    floor = height - above
    for (name, (low, high)), tall in zip(rows.items(), heights, strict=True):
        floor -= between + tall
        ax = fig.add_axes((left / width, floor / height, length / width, tall / height))
        _rule(ax, name, first, last, low, high, start)
        ax.xaxis.set_major_locator(MultipleLocator(1))
        axes.append(ax)
    _name_time(axes[-1])
    fig.align_ylabels(axes)
    if zoom:
        name, first, last, low, high = zoom
        size = ZOOM * MM_PER_S * (last - first) / width, ZOOM * MM_PER_MV * (high - low) / height
        axes.append(fig.add_axes((left / width, below / height, *size)))
        _rule(axes[-1], name, first, last, low, high, start)
        _name_time(axes[-1])
    return fig, axes


def _rule(ax: Axes, title: str, first: float, last: float, low: float, high: float, start: float) -> None:
    """Axes from `first` to `last` s and `low` to `high` mV, with the boxes of ECG paper; `start`: see `_ecg_paper`."""
    for small, box, lines, ends in (
        (BOX_S / 5, BOX_S, ax.vlines, (first, last, low, high)),
        (BOX_MV / 5, BOX_MV, ax.hlines, (low, high, first, last)),
    ):
        for step, colour, lw in ((small, SMALL_BOX, 0.5), (box, BIG_BOX, 0.9)):
            at = np.arange(np.ceil(ends[0] / step - 1e-9) * step, ends[1] + step / 1e3, step)
            lines(at, *ends[2:], color=colour, lw=lw, zorder=1 + lw, clip_on=False)
    ax.set(xlim=(first, last), ylim=(low, high), ylabel="mV", facecolor=PAPER)
    ax.set_aspect(MM_PER_MV / MM_PER_S)
    ax.set_title(title, loc="left", pad=4, fontweight="bold")
    ax.xaxis.set_major_formatter(lambda s, _: f"{s + start:g}" if s >= 0 else "")
    ax.yaxis.set_major_locator(MultipleLocator(0.5 if high - low <= 2 else 1))
    ax.tick_params(length=0, labelbottom=False)
    ax.spines[:].set_visible(False)


def _name_time(ax: Axes) -> None:
    ax.tick_params(labelbottom=True)
    ax.set_xlabel("time, s")


def _piece(mv: np.ndarray, seconds: float, fs: float, start: float = 0.0) -> np.ndarray:
    return np.asarray(mv, float)[round(start * fs) : round((start + seconds) * fs)]


def _limits(*values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Lowest and highest of all values in mV, outwards to whole big boxes."""
    boxes = np.concatenate(values) / BOX_MV
    return float(np.floor(boxes.min()) * BOX_MV), float(np.ceil(boxes.max()) * BOX_MV)


def _trace(ax: Axes, mv: np.ndarray, fs: float, colour: str, label: str = "", lw: float = 0.9) -> None:
    """A signal that begins at 0 s, as far as the axes reach."""
    time = np.arange(len(mv)) / fs
    first, last = ax.get_xlim()
    shown = (time >= first - 1 / fs) & (time <= last + 1 / fs)
    ax.plot(time[shown], mv[shown], color=colour, lw=lw, zorder=3, clip_on=False, label=label)


def _in_microvolts(ax: Axes, factor: float) -> None:
    """Label the y axis of a strip, mV times `factor`, in µV."""
    ax.yaxis.set_major_formatter(lambda mv, _: f"{1000 * mv / factor:g}".replace("-", "−"))
    ax.set_ylabel("µV")
