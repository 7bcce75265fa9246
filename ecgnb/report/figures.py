"""How data, training and attacks are drawn: a function a figure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
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

if TYPE_CHECKING:
    import pandas as pd

MM = 1 / 25.4  # inches
MM_PER_S, MM_PER_MV = 25, 10  # ECG paper
BOX_S, BOX_MV = 0.2, 0.5  # a big box is 5 mm x 5 mm, of 5 x 5 small ones
PAPER, SMALL_BOX, BIG_BOX = "#fffaf8", "#f9dcd8", "#eca9a4"
LEAD_IN = 2 * BOX_S  # s of paper left of the trace, for the calibration pulse
FACTORS = (50, 20, 10, 5, 2)  # magnifications of a perturbation
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
            value, low, high = style.floats([estimate["value"], *estimate["ci95"]])
            text = "none" if np.isnan(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"
            lower.text(1.04, row, text, va="center", fontsize=9)
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
    titles = [style.class_title(symbol) for symbol in classes]
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
            ax.legend(handles=keys, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        style.tidy(ax, label)
    last = max((history["epoch"].max() for history in histories.values()), default=1)
    axes[-1].set(xlim=(0.5, last + 0.5), xlabel="epoch")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    keys = [Line2D([], [], color=look.colour, lw=3, label=name) for name, look in looks.items()]
    style.legend_below(fig, keys)
    return fig


@style.styled
def robustness_curve(
    curves: Mapping[str, dict[str, list[float]]], subtitle: str, uv_per_z: float, marked_epsilon: float
) -> Figure:
    """AF recall against ε, with 95 % intervals.

    curves : name -> {"epsilon": z-units, "value", "low", "high"}, each (k,); a name that begins with the title of a
        noise baseline, such as "random ±ε", is drawn grey and dotted
    uv_per_z : median SD of the recordings in µV, for the axis on top; marked_epsilon : z-units, a vertical line
    """
    fig = style.new_figure(8, 5.6, "AF recall against ε, 95 % intervals", subtitle)
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
    style.tidy(ax, "AF recall")
    style.legend_below(fig)
    return fig


@style.styled
def attack_figure(
    clean_mv: np.ndarray,
    adversarial_mv: np.ndarray,
    panels: tuple[str, str],
    subtitle: str,
    seconds: float = 6.0,
    fs: float = FS,
) -> Figure:
    """A recording, its adversarial example, and the perturbation, on ECG paper in true size.

    clean_mv, adversarial_mv : (n,) float, mV, real samples only; fs : their sampling rate, Hz
    panels : titles of the two recordings, such as "clean: predicted as A, 97 %"
    seconds : how much of them is shown, from their beginning
    """
    if np.shape(clean_mv) != np.shape(adversarial_mv):
        raise EcgnbError("attack_figure: clean and adversarial recording differ in length")
    clean, adversarial = (_piece(mv, seconds, fs) for mv in (clean_mv, adversarial_mv))
    perturbation = adversarial - clean
    largest = np.abs(perturbation).max()
    factor = next((f for f in FACTORS if f * largest <= STRIP_MV), FACTORS[-1])
    limits = _limits(clean, adversarial, [-0.5, 1.0])  # with room for the calibration pulse
    fig, axes = _ecg_paper(
        {
            panels[0]: limits,
            panels[1]: limits,
            "perturbation, same scale": _limits(perturbation, [-0.5, 0.5]),
            f"perturbation, {factor} × magnified; largest {1000 * largest:.0f} µV in the piece shown": (
                _limits(factor * perturbation, [-0.5, 0.5])
            ),
        },
        "An adversarial example on ECG paper",
        subtitle,
        seconds,
    )
    signals = (clean, adversarial, perturbation, factor * perturbation)
    for ax, mv, colour in zip(axes, signals, ["clean"] + ["attacked"] * 3, strict=True):
        _trace(ax, mv, fs, style.COLOURS[colour])
    pulse = np.array([0.06, 0.1, 0.1, 0.3, 0.3, 0.34]) - LEAD_IN
    axes[0].plot(pulse, [0, 0, 1, 1, 0, 0], color=style.COLOURS["clean"], lw=1)
    axes[0].text(pulse.mean(), -0.08, "1 mV", ha="center", va="top", fontsize=9)
    axes[3].yaxis.set_major_formatter(lambda mv, _: f"{1000 * mv / factor:g}".replace("-", "−"))
    axes[3].set_ylabel("µV")
    return fig


@style.styled
def class_gallery(
    signals_mv: Mapping[str, np.ndarray],
    subtitle: str,
    seconds: float = 8.0,
    title: str = "One recording of each class",
    fs: float = FS,
) -> Figure:
    """The beginnings of some recordings, one strip each, on ECG paper in true size.

    signals_mv : title, such as "A (AF), A00004" -> (n,) float, mV at `fs` Hz, real samples only
    """
    pieces = {name: _piece(mv, seconds, fs) for name, mv in signals_mv.items()}
    limits = {name: _limits(mv, [-0.5, 0.5]) for name, mv in pieces.items()}
    fig, axes = _ecg_paper(limits, title, subtitle, seconds, lead_in=0)
    for ax, mv in zip(axes, pieces.values(), strict=True):
        _trace(ax, mv, fs, style.COLOURS["clean"])
    return fig


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
    rows: dict[str, tuple[float, float]], title: str, subtitle: str, seconds: float, lead_in: float = LEAD_IN
) -> tuple[Figure, list[Axes]]:
    """Strips of ECG paper, one for each row title -> (lowest, highest) mV, in true size at 100 %.

    Sizes below are in mm, so that a second is 25 mm and a millivolt 10 mm long on the page.
    """
    left, right, above, between, below = 18, 6, 15, 8, 13
    first, last = -lead_in, BOX_S * np.ceil(seconds / BOX_S - 1e-9)
    length = (last - first) * MM_PER_S
    heights = [(high - low) * MM_PER_MV for low, high in rows.values()]
    width, height = left + length + right, above + sum(heights) + between * len(rows) + below
    fig = style.PlainFigure(figsize=(width * MM, height * MM))
    style.head(fig, f"{title}, 25 mm/s, 10 mm/mV", subtitle, y=1 - 3 / height)
    axes: list[Axes] = []
    floor = height - above
    for (name, (low, high)), tall in zip(rows.items(), heights, strict=True):
        floor -= between + tall
        ax = fig.add_axes((left / width, floor / height, length / width, tall / height))
        for small, box, lines, ends in (
            (BOX_S / 5, BOX_S, ax.vlines, (first, last, low, high)),
            (BOX_MV / 5, BOX_MV, ax.hlines, (low, high, first, last)),
        ):
            for step, colour, lw in ((small, SMALL_BOX, 0.5), (box, BIG_BOX, 0.9)):
                at = np.arange(ends[0], ends[1] + step / 2, step)
                lines(at, *ends[2:], color=colour, lw=lw, zorder=1 + lw, clip_on=False)
        ax.set(xlim=(first, last), ylim=(low, high), ylabel="mV", facecolor=PAPER)
        ax.set_aspect(MM_PER_MV / MM_PER_S)
        ax.set_title(name, loc="left", pad=4, fontweight="bold")
        ax.xaxis.set_major_locator(MultipleLocator(1))
        ax.xaxis.set_major_formatter(lambda s, _: f"{s:g}" if s >= 0 else "")
        ax.yaxis.set_major_locator(MultipleLocator(0.5 if high - low <= 2 else 1))
        ax.tick_params(length=0, labelbottom=False)
        ax.spines[:].set_visible(False)
        axes.append(ax)
    axes[-1].tick_params(labelbottom=True)
    axes[-1].set_xlabel("time, s")
    fig.align_ylabels(axes)
    return fig, axes


def _piece(mv: np.ndarray, seconds: float, fs: float) -> np.ndarray:
    return np.asarray(mv, float)[: round(seconds * fs)]


def _limits(*values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Lowest and highest of all values in mV, outwards to whole big boxes."""
    boxes = np.concatenate(values) / BOX_MV
    return float(np.floor(boxes.min()) * BOX_MV), float(np.ceil(boxes.max()) * BOX_MV)


def _trace(ax: Axes, mv: np.ndarray, fs: float, colour: str) -> None:
    ax.plot(np.arange(len(mv)) / fs, mv, color=colour, lw=0.9, zorder=3, clip_on=False)
