"""How data, training and attacks are drawn: a function a figure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import seaborn
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, MultipleLocator

from ecgnb.canvas import (
    COLOURS,
    CONTROL,
    DASHES,
    MARKERS,
    OTHERS,
    STYLE,
    PlainFigure,
    colours_of,
    floats,
    head,
    legend_below,
    tidy,
)
from ecgnb.errors import EcgnbError
from ecgnb.records import CLASSES, FS

if TYPE_CHECKING:
    import pandas as pd

WORDS = ("AF", "normal", "other", "noisy")
TITLES = [f"{letter} ({word})" for letter, word in zip(CLASSES, WORDS, strict=True)]

MM = 1 / 25.4  # inches
MM_PER_S, MM_PER_MV = 25, 10  # ECG paper
BOX_S, BOX_MV = 0.2, 0.5  # a big box is 5 mm x 5 mm, of 5 x 5 small ones
PAPER, SMALL_BOX, BIG_BOX = "#fffaf8", "#f9dcd8", "#eca9a4"
LEAD_IN = 2 * BOX_S  # s of paper left of the trace, for the calibration pulse
FACTORS = (50, 20, 10, 5, 2)  # magnifications of a perturbation
STRIP_MV = 1.0  # a magnified perturbation stays within this, if the smallest factor lets it


@style.context(STYLE)
def confusion_figure(
    matrices: dict[str, np.ndarray], subtitle: str, f1: dict[str, dict[str, dict]]
) -> Figure:
    """Confusion matrices side by side, each above its F1 scores with 95 % intervals.

    matrices : title -> (4, 4) int counts, true classes in rows, predicted ones in columns
    f1 : title -> what `metrics.scores` returns for the same predictions
    """
    fig = PlainFigure(figsize=(1.2 + 4.8 * len(matrices), 5.9), layout="constrained")
    head(fig, "Confusion matrices and F1, 95 % intervals", subtitle)
    grid = fig.subplots(2, len(matrices), squeeze=False, height_ratios=[3.4, 1.3])
    for (maps, strip), (name, counts) in zip(grid.T, matrices.items(), strict=True):
        image = _heat_map(maps, np.asarray(counts))
        maps.set_title(textwrap.fill(name, 44), fontweight="bold")
        _score_strip(strip, f1[name], colours_of([name])[0])
    bar = fig.colorbar(image, ax=grid[0, :], label="share of the true class", pad=0.02)
    bar.outline.set_visible(False)
    return fig


def _heat_map(ax: Axes, counts: np.ndarray) -> object:
    """Counts and row shares on colours of the row shares, 0 to 1, with row totals at the right."""
    totals = counts.sum(axis=1)
    share = np.divide(
        counts, totals[:, None], out=np.zeros(counts.shape), where=totals[:, None] > 0
    )
    image = ax.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), count in np.ndenumerate(counts):
        text = f"{count:,}\n{100 * share[i, j]:.0f} %" if totals[i] else "0"
        colour = "white" if share[i, j] > 0.5 else "black"
        ax.text(j, i, text, ha="center", va="center", color=colour)
    for i, total in enumerate(totals):
        ax.text(3.6, i, f"n = {total:,}", va="center", fontsize=9)
    ax.set_xticks(range(4), [title.replace(" ", "\n") for title in TITLES])
    ax.set_yticks(range(4), TITLES)
    ax.set(xlabel="predicted", ylabel="true")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return image


def _score_strip(ax: Axes, scores: dict[str, dict], colour: str) -> None:
    """F1 of each class and the challenge score with 95 % intervals, drawn and in digits."""
    names = [f"F1 {c}" for c in CLASSES] + ["challenge score"]
    for row, name in enumerate(names):
        value, *ends = floats([scores[name]["value"], *scores[name]["ci95"]])
        ax.plot(ends, [row, row], color=colour, lw=1.5, solid_capstyle="butt")
        ax.plot(value, row, "o", color=colour, ms=5)
        text = "none" if np.isnan(value) else f"{value:.2f} [{ends[0]:.2f}, {ends[1]:.2f}]"
        ax.text(1.04, row, text, va="center", fontsize=9)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlim=(0, 1.02), ylim=(len(names) - 0.5, -0.5))
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


@style.context(STYLE)
def learning_curves(
    histories: dict[str, pd.DataFrame], subtitle: str, kept: dict[str, int]
) -> Figure:
    """Training loss and dev scores over epochs, unsmoothed, for one training run or several.

    histories : name -> a run's history as `training.train` returns it
    kept : name -> the epoch whose weights were kept; a vertical line and dots
    """
    panels = {
        "training loss": {"": ("loss", "-")},
        "dev score": {
            "challenge score": ("dev challenge score", "-"),
            "AF F1": ("dev F1 A", "-."),
            "challenge score, every class attacked": ("dev robust challenge score", "--"),
        },
        "share of dev recordings": {
            "AF recall, clean": ("dev AF recall", "-"),
            "AF recall, attacked": ("dev robust AF recall", "--"),
            "N read as AF under random ±ε": ("dev N read as A under random noise", ":"),
        },
    }
    fig = PlainFigure(figsize=(8.6, 7.4), layout="constrained")
    head(fig, "Learning curves (the kept epoch is marked)", subtitle)
    axes = fig.subplots(3, 1, sharex=True)
    colours = colours_of(histories, distinct=True)
    for ax, (label, lines) in zip(axes, panels.items(), strict=True):
        drawn = []
        for (name, history), colour in zip(histories.items(), colours, strict=True):
            if name in kept:
                ax.axvline(kept[name], color=colour, lw=0.8)
            for meaning, (column, dash) in lines.items():
                if column not in history or history[column].isna().all():
                    continue
                known = history[["epoch", column]].dropna()
                ax.plot(known["epoch"], known[column], dash, color=colour, lw=1, marker=".", ms=3)
                dot = known[known["epoch"] == kept.get(name)]
                ax.plot(dot["epoch"], dot[column], "o", color=colour, ms=6)
                drawn.append((meaning, dash))
        if label == "training loss":
            ax.set_ylim(bottom=0)
        else:
            ax.set_ylim(-0.02, 1.02)
            keys = [
                Line2D([], [], color="0.3", ls=dash, label=m) for m, dash in dict(drawn).items()
            ]
            ax.legend(handles=keys, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        tidy(ax, label)
    last = max((history["epoch"].max() for history in histories.values()), default=1)
    axes[-1].set(xlim=(0.5, last + 0.5), xlabel="epoch")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    keys = [Line2D([], [], color=c, lw=3, label=n) for n, c in zip(histories, colours, strict=True)]
    legend_below(fig, keys)
    return fig


@style.context(STYLE)
def robustness_curve(
    curves: dict[str, dict],
    subtitle: str,
    ylabel: str = "AF recall",
    uv_per_z: float | None = None,
    marked_epsilon: float | None = None,
) -> Figure:
    """A share against the size of the attack, with 95 % intervals.

    curves : name -> {"epsilon": z-units, "value": …, "low": …, "high": …}, each (k,); names that
        begin with "random" are controls, drawn grey and dotted
    uv_per_z : median SD of the recordings in µV, for the axis on top
    marked_epsilon : z-units, a vertical line
    """
    fig = PlainFigure(figsize=(8, 5.6), layout="constrained")
    head(fig, f"{ylabel} against the size of the attack, 95 % intervals", subtitle)
    ax = fig.subplots()
    widest = max(max(curve["epsilon"]) for curve in curves.values())
    for number, (name, curve) in enumerate(curves.items()):
        x, value, low, high = (floats(curve[key]) for key in ("epsilon", "value", "low", "high"))
        control = name.startswith("random")
        colour = CONTROL if control else colours_of(list(curves))[number]
        dash = ":" if control else DASHES[number % len(DASHES)]
        marker = MARKERS[number % len(MARKERS)]
        ax.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        ax.plot(
            x, value, ls=dash, marker=marker, color=colour, lw=1.8, ms=5, label=name, clip_on=False
        )
    ax.set(xlim=(0, widest * 1.03), ylim=(-0.02, 1.02), xlabel="ε (L∞), z-units")
    if uv_per_z is not None:
        top = ax.secondary_xaxis("top", functions=(lambda z: z * uv_per_z, lambda v: v / uv_per_z))
        top.set_xlabel(f"µV at the median SD of {uv_per_z:.0f} µV")
    if marked_epsilon is not None:
        ax.axvline(marked_epsilon, color="0.3", lw=1, zorder=1)
        ax.annotate(
            f"ε = {marked_epsilon:g}",
            (marked_epsilon, 1),
            xycoords=ax.get_xaxis_transform(),
            xytext=(3, -4),
            textcoords="offset points",
            va="top",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )
    tidy(ax, ylabel)
    legend_below(fig, ax.get_legend_handles_labels()[0])
    return fig


@style.context(STYLE)
def attack_figure(
    clean_mv: np.ndarray,
    adversarial_mv: np.ndarray,
    panels: tuple[str, str],
    subtitle: str,
    start_s: float = 0.0,
    seconds: float = 6.0,
) -> Figure:
    """A recording, what the attack made of it, and the difference, on ECG paper in true size.

    clean_mv, adversarial_mv : (n,) float, mV at 300 Hz, real samples only
    panels : titles of the two recordings, such as "clean: read as A, 97 %"
    start_s, seconds : the piece shown, s
    """
    if np.shape(clean_mv) != np.shape(adversarial_mv):
        raise EcgnbError("attack_figure: clean and adversarial recording differ in length")
    clean, attacked = (_piece(mv, start_s, seconds) for mv in (clean_mv, adversarial_mv))
    change = attacked - clean
    largest = np.abs(change).max()
    factor = next((f for f in FACTORS if f * largest <= STRIP_MV), FACTORS[-1])
    magnified = (
        f"perturbation, {factor} × magnified; largest {1000 * largest:.0f} µV in the piece shown"
    )
    limits = _limits(clean, attacked, [-0.5, 1.0])  # with room for the calibration pulse
    fig, axes = _ecg_paper(
        {
            panels[0]: limits,
            panels[1]: limits,
            "perturbation, same scale": _limits(change, [-0.5, 0.5]),
            magnified: _limits(factor * change, [-0.5, 0.5]),
        },
        "An adversarial example on ECG paper",
        subtitle,
        start_s,
        seconds,
    )
    signals, colours = (clean, attacked, change, factor * change), ["clean"] + ["attacked"] * 3
    for ax, mv, colour in zip(axes, signals, colours, strict=True):
        _trace(ax, mv, start_s, COLOURS[colour])
    pulse = start_s - LEAD_IN + np.array([0.06, 0.1, 0.1, 0.3, 0.3, 0.34])
    axes[0].plot(pulse, [0, 0, 1, 1, 0, 0], color=COLOURS["clean"], lw=1)
    axes[0].text(pulse.mean(), -0.08, "1 mV", ha="center", va="top", fontsize=9)
    axes[3].yaxis.set_major_formatter(lambda mv, _: f"{1000 * mv / factor:g}".replace("-", "−"))
    axes[3].set_ylabel("µV")
    return fig


@style.context(STYLE)
def class_gallery(
    signals_mv: dict[str, np.ndarray],
    subtitle: str,
    seconds: float = 8.0,
    title: str = "One recording of each class",
) -> Figure:
    """The beginnings of some recordings, one strip each, on ECG paper in true size.

    signals_mv : title, such as "A (AF), A00004" -> (n,) float, mV at 300 Hz, real samples only
    """
    pieces = {title: _piece(mv, 0, seconds) for title, mv in signals_mv.items()}
    limits = {title: _limits(mv, [-0.5, 0.5]) for title, mv in pieces.items()}
    fig, axes = _ecg_paper(limits, title, subtitle, 0, seconds, lead_in=0)
    for ax, mv in zip(axes, pieces.values(), strict=True):
        _trace(ax, mv, 0, COLOURS["clean"])
    return fig


@style.context(STYLE)
def microvolts_figure(sd_uv: dict[str, np.ndarray], epsilon: float, subtitle: str) -> Figure:
    """What an ε in z-units is in µV: its distribution over the recordings of each class.

    sd_uv : class letter -> (n,) SD of each recording, µV; epsilon : z-units
    """
    fig = PlainFigure(figsize=(8, 4.2), layout="constrained")
    head(fig, f"How many µV is ε = {epsilon:g}? Cumulative share of recordings", subtitle)
    ax = fig.subplots()
    colours = [COLOURS["attacked"], *OTHERS]
    for (letter, sd), colour, dash in zip(sd_uv.items(), colours, DASHES, strict=False):
        title = TITLES[CLASSES.index(letter)]
        seaborn.ecdfplot(x=epsilon * sd, ax=ax, color=colour, ls=dash, label=title)
    ax.set_xscale("log")
    ax.set(xlabel="µV", ylim=(0, 1))
    ax.xaxis.set_major_formatter("{x:g}")
    tidy(ax, "share of recordings")
    legend_below(fig, ax.get_legend_handles_labels()[0])
    return fig


def _ecg_paper(
    rows: dict[str, tuple[float, float]],
    title: str,
    subtitle: str,
    start_s: float,
    seconds: float,
    lead_in: float = LEAD_IN,
) -> tuple[Figure, list[Axes]]:
    """Strips of ECG paper, one for each row title -> (lowest, highest) mV, in true size at 100 %.

    Sizes below are in mm, so that a second is 25 mm and a millivolt 10 mm long on the page.
    """
    left, right, above, between, below = 18, 6, 15, 8, 13
    first, last = start_s - lead_in, start_s + BOX_S * np.ceil(seconds / BOX_S - 1e-9)
    length = (last - first) * MM_PER_S
    heights = [(high - low) * MM_PER_MV for low, high in rows.values()]
    width, height = left + length + right, above + sum(heights) + between * len(rows) + below
    fig = PlainFigure(figsize=(width * MM, height * MM))
    head(fig, f"{title}, 25 mm/s, 10 mm/mV", subtitle, y=1 - 3 / height)
    axes, floor = [], height - above
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
        ax.xaxis.set_major_formatter(lambda s, _: f"{s:g}" if s >= start_s else "")
        ax.yaxis.set_major_locator(MultipleLocator(0.5 if high - low <= 2 else 1))
        ax.tick_params(length=0, labelbottom=False)
        ax.spines[:].set_visible(False)
        axes.append(ax)
    axes[-1].tick_params(labelbottom=True)
    axes[-1].set_xlabel("time, s")
    fig.align_ylabels(axes)
    return fig, axes


def _piece(mv: np.ndarray, start_s: float, seconds: float) -> np.ndarray:
    """The samples from `start_s` on for `seconds`, or up to the recording's end."""
    start = round(start_s * FS)
    piece = np.asarray(mv, float)[start : start + round(seconds * FS)]
    if not len(piece):
        raise EcgnbError(f"nothing to draw: the recording ends before {start_s:g} s")
    return piece


def _limits(*values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest of all values in mV, outwards to whole big boxes."""
    boxes = np.concatenate(values) / BOX_MV
    return float(np.floor(boxes.min()) * BOX_MV), float(np.ceil(boxes.max()) * BOX_MV)


def _trace(ax: Axes, mv: np.ndarray, start_s: float, colour: str) -> None:
    seconds = start_s + np.arange(len(mv)) / FS
    ax.plot(seconds, mv, color=colour, lw=0.9, zorder=3, clip_on=False)
