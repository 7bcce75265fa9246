"""How results are drawn: a function a figure, and `save`, which puts its numbers beside it.

Nothing here is global: each figure is drawn in a style context of its own, and none stays open in pyplot.
A colour means one thing everywhere; all are from seaborn's "colorblind" palette, or grey.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import seaborn
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, MultipleLocator

from ecgnb.data import WINDOW
from ecgnb.errors import EcgnbError
from ecgnb.files import write_atomically, write_json
from ecgnb.records import BAND, CLASSES, FS
from ecgnb.smoothing import l2_equivalent, linf_equivalent

if TYPE_CHECKING:
    import pandas as pd

DPI = 150
STYLE = ["default", {"font.size": 10, "xtick.labelsize": 9, "ytick.labelsize": 9}]
STYLE[1] |= {"legend.fontsize": 9, "axes.titlesize": 10, "figure.titlesize": 11}
COLOURS = {"clean": "#222222", "attacked": "#d55e00"}
COLOURS |= {"baseline": "#0173b2", "static": "#de8f05", "adaptive": "#029e73"}
CONTROL = "#777777"
OTHERS = ("#cc78bc", "#56b4e9", "#ca9161")  # for whatever has no colour of its own
MARKERS, DASHES = "os^Dv", ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))
WORDS = ("AF", "normal", "other", "noisy")
TITLES = [f"{letter} ({word})" for letter, word in zip(CLASSES, WORDS, strict=True)]

MM = 1 / 25.4  # inches
MM_PER_S, MM_PER_MV = 25, 10  # ECG paper
BOX_S, BOX_MV = 0.2, 0.5  # a big box is 5 mm x 5 mm, of 5 x 5 small ones
PAPER, SMALL_BOX, BIG_BOX = "#fffaf8", "#f9dcd8", "#eca9a4"
LEAD_IN = 2 * BOX_S  # s of paper left of the trace, for the calibration pulse
FACTORS = (50, 20, 10, 5, 2)  # magnifications of a perturbation
STRIP_MV = 1.0  # a magnified perturbation stays within this, if the smallest factor lets it
ROUNDING_UV2_PER_HZ = 1 / 12 / (FS / 2)  # noise of rounding to 1 µV: no recording has less


class _Figure(Figure):
    """A Figure that Jupyter shows even if nothing has set up pyplot."""

    @style.context(STYLE)
    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


@style.context(STYLE)
def confusion_figure(
    matrices: dict[str, np.ndarray], subtitle: str, f1: dict[str, dict[str, dict]]
) -> Figure:
    """Confusion matrices side by side, each above its F1 scores with 95 % intervals.

    matrices : title -> (4, 4) int counts, true classes in rows, predicted ones in columns
    f1 : title -> what `metrics.scores` returns for the same predictions
    """
    fig = _Figure(figsize=(1.2 + 4.8 * len(matrices), 5.9), layout="constrained")
    _head(fig, "Confusion matrices and F1, 95 % intervals", subtitle)
    grid = fig.subplots(2, len(matrices), squeeze=False, height_ratios=[3.4, 1.3])
    for (maps, strip), (name, counts) in zip(grid.T, matrices.items(), strict=True):
        image = _heat_map(maps, np.asarray(counts))
        maps.set_title(textwrap.fill(name, 44), fontweight="bold")
        _score_strip(strip, f1[name], _colours([name])[0])
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
        value, *ends = _floats([scores[name]["value"], *scores[name]["ci95"]])
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
        },
        "dev AF recall": {
            "clean": ("dev AF recall", "-"),
            "under attack": ("dev robust AF recall", "--"),
        },
    }
    fig = _Figure(figsize=(8.6, 7.4), layout="constrained")
    _head(fig, "Learning curves (the kept epoch is marked)", subtitle)
    axes = fig.subplots(3, 1, sharex=True)
    colours = _colours(histories, distinct=True)
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
        _tidy(ax, label)
    last = max((history["epoch"].max() for history in histories.values()), default=1)
    axes[-1].set(xlim=(0.5, last + 0.5), xlabel="epoch")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    keys = [Line2D([], [], color=c, lw=3, label=n) for n, c in zip(histories, colours, strict=True)]
    _legend_below(fig, keys)
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
    fig = _Figure(figsize=(8, 5.6), layout="constrained")
    _head(fig, f"{ylabel} against the size of the attack, 95 % intervals", subtitle)
    ax = fig.subplots()
    widest = max(max(curve["epsilon"]) for curve in curves.values())
    for number, (name, curve) in enumerate(curves.items()):
        x, value, low, high = (_floats(curve[key]) for key in ("epsilon", "value", "low", "high"))
        control = name.startswith("random")
        colour = CONTROL if control else _colours(list(curves))[number]
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
    _tidy(ax, ylabel)
    _legend_below(fig, ax.get_legend_handles_labels()[0])
    return fig


@style.context(STYLE)
def robustness_panels(
    models: dict[str, dict[str, dict]],
    subtitle: str,
    marked_epsilon: float | None = None,
) -> Figure:
    """AF recordings kept against ε, a panel for each model: its attack, and noise of the same size.

    models : name -> {"attack": exact curve of `robustness.survival`, control: curve on a grid, …}
    marked_epsilon : z-units, a vertical line
    """
    fig = _Figure(figsize=(1.6 + 3.6 * len(models), 4.8), layout="constrained")
    _head(fig, "AF found clean and not turned, against ε; 95 % intervals", subtitle)
    axes = fig.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for ax, (model, curves), colour in zip(
        axes, models.items(), _colours(list(models)), strict=True
    ):
        for number, (name, curve) in enumerate(curves.items()):
            x, value, low, high = (_floats(curve[k]) for k in ("epsilon", "value", "low", "high"))
            if name == "attack":
                ax.fill_between(x, low, high, step="post", color=colour, alpha=0.15, lw=0)
                ax.step(x, value, where="post", color=colour, lw=2)
            else:
                dash = DASHES[(number - 1) % len(DASHES)]
                ax.plot(
                    x, value, ls=dash, color=CONTROL, lw=1.1, marker=MARKERS[number - 1], ms=3.5
                )
        if marked_epsilon is not None:
            ax.axvline(marked_epsilon, color="0.3", lw=1, zorder=1)
        ax.set_title(model, fontweight="bold")
        ax.set(xlim=(0, x.max() * 1.02), ylim=(-0.02, 1.02), xlabel="ε (L∞), z-units")
        _tidy(ax, "")
    axes[0].set_ylabel("share of AF recordings")
    keys = [Line2D([], [], color="0.1", lw=2, label="strongest change found (exact)")]
    keys += [
        Line2D([], [], color=CONTROL, ls=dash, marker=marker, ms=3.5, label=f"{name}, control")
        for name, dash, marker in zip(list(curves)[1:], DASHES * 2, MARKERS, strict=False)
    ]
    _legend_below(fig, keys)
    return fig


@style.context(STYLE)
def forest(
    models: dict[str, dict[str, dict]], subtitle: str, title: str, xlabel: str, rules: Sequence[int]
) -> Figure:
    """Shares with 95 % intervals, a row for each attack or control, a colour for each model.

    models : name -> {row: what `metrics.rate` returns}; rules : rows after which a line is drawn
    """
    rows = list(next(iter(models.values())))
    fig = _Figure(figsize=(8.6, 1.6 + 0.36 * len(rows)), layout="constrained")
    _head(fig, title, subtitle)
    ax = fig.subplots()
    apart = np.linspace(-0.24, 0.24, len(models)) if len(models) > 1 else [0.0]
    colours = _colours(list(models))
    for (name, rates), colour, offset, marker in zip(
        models.items(), colours, apart, MARKERS, strict=False
    ):
        for row, what in enumerate(rows):
            value, low, high = _floats([rates[what]["value"], *rates[what]["ci95"]])
            ax.plot([low, high], [row + offset] * 2, color=colour, lw=1.5, solid_capstyle="butt")
            label = name if row == 0 else None
            ax.plot(value, row + offset, marker, color=colour, ms=5, label=label, ls="")
    for row in rules:
        ax.axhline(row + 0.5, color="0.4", lw=0.8)
    ax.set_yticks(range(len(rows)), rows)
    ax.set(xlim=(-0.01, 1.01), ylim=(len(rows) - 0.5, -0.5), xlabel=xlabel)
    _tidy(ax, "")
    _legend_below(fig, ax.get_legend_handles_labels()[0])
    return fig


@style.context(STYLE)
def loss_figure(paths: dict[str, dict], subtitle: str, marked_step: int) -> Figure:
    """The attacker's loss at every step: median over recordings, and the middle 90 %.

    paths : model -> {"median", "p5", "p95": (steps,)}; marked_step : where the published attack stops
    """
    fig = _Figure(figsize=(8, 4.4), layout="constrained")
    _head(fig, "What the attacker climbs, step by step: median and middle 90 %", subtitle)
    ax = fig.subplots()
    for (name, path), colour, dash in zip(
        paths.items(), _colours(list(paths)), DASHES, strict=False
    ):
        low, median, high = (_floats(path[key]) for key in ("p5", "median", "p95"))
        ax.fill_between(range(len(median)), low, high, color=colour, alpha=0.12, lw=0)
        ax.plot(median, color=colour, ls=dash, lw=1.8, label=name)
    ax.axvline(marked_step, color="0.3", lw=1, zorder=1)
    ax.set(xlabel="step", xlim=(0, len(median) - 1))
    _tidy(ax, "log-probability of the target")
    _legend_below(fig, ax.get_legend_handles_labels()[0])
    return fig


@style.context(STYLE)
def transfer_figure(success: dict[str, dict[str, dict]], subtitle: str) -> Figure:
    """Who made a change × who reads it: share of the AF that the reader found clean and now calls normal.

    success : maker -> reader -> what `metrics.rate` returns
    """
    makers, readers = list(success), list(next(iter(success.values())))
    values = _floats([[success[m][r]["value"] for r in readers] for m in makers])
    fig = _Figure(
        figsize=(2.6 + 1.1 * len(readers), 2.1 + 0.75 * len(makers)), layout="constrained"
    )
    _head(fig, "Transfer: AF found clean that the change turns normal", subtitle)
    ax = fig.subplots()
    image = ax.imshow(values, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        rate = success[makers[i]][readers[j]]
        ax.text(
            *(j, i, f"{value:.2f}\n{rate['count']} of {rate['of']}"),
            ha="center",
            va="center",
            color="white" if value > 0.6 else "black",
            fontweight="bold" if makers[i] == readers[j] else "normal",
        )
    ax.set_xticks(range(len(readers)), [name.replace("-", "\n") for name in readers])
    ax.set_yticks(range(len(makers)), makers)
    ax.set(xlabel="read by", ylabel="made with")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    fig.colorbar(image, ax=ax, label="share turned").outline.set_visible(False)
    return fig


@style.context(STYLE)
def certified_curve(curves: dict[str, dict], subtitle: str) -> Figure:
    """Certified AF recall against the L2 radius of the certificate, with 95 % intervals.

    curves : name -> what `smoothing.certified_recall` returns, radii rising. Between two radii the value of
        the larger is drawn, so that no point of a line says more than is certified. A line ends at 0.
    """
    fig = _Figure(figsize=(8, 5.6), layout="constrained")
    _head(fig, "Certified AF recall against the certified radius, 95 % intervals", subtitle)
    ax = fig.subplots()
    for number, ((name, curve), colour) in enumerate(
        zip(curves.items(), _colours(list(curves)), strict=True)
    ):
        # Past the first 0 lines and bands of all curves would lie on one another.
        end = [*curve["value"], 0].index(0) + 1
        x, value, low, high = (
            _floats(curve[key][:end]) for key in ("radius", "value", "low", "high")
        )
        ax.fill_between(x, low, high, step="pre", color=colour, alpha=0.15, lw=0)
        dash = DASHES[number % len(DASHES)]
        ax.step(x, value, where="pre", ls=dash, color=colour, lw=1.8, label=name, clip_on=False)
    widest = max(max(curve["radius"]) for curve in curves.values())
    ax.set(xlim=(0, widest * 1.03), ylim=(-0.02, 1.02), xlabel="radius (L2), z-units")
    scales = (lambda r: linf_equivalent(r, WINDOW), lambda e: l2_equivalent(e, WINDOW))
    top = ax.secondary_xaxis("top", functions=scales)
    top.set_xlabel(f"ε of the largest L∞ ball inside, z-units: radius/√{WINDOW}")
    _tidy(ax, "certified AF recall")
    _legend_below(fig, ax.get_legend_handles_labels()[0])
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
    fig = _Figure(figsize=(8, 4.2), layout="constrained")
    _head(fig, f"How many µV is ε = {epsilon:g}? Cumulative share of recordings", subtitle)
    ax = fig.subplots()
    colours = [COLOURS["attacked"], *OTHERS]
    for (letter, sd), colour, dash in zip(sd_uv.items(), colours, DASHES, strict=False):
        title = TITLES[CLASSES.index(letter)]
        seaborn.ecdfplot(x=epsilon * sd, ax=ax, color=colour, ls=dash, label=title)
    ax.set_xscale("log")
    ax.set(xlabel="µV", ylim=(0, 1))
    ax.xaxis.set_major_formatter("{x:g}")
    _tidy(ax, "share of recordings")
    _legend_below(fig, ax.get_legend_handles_labels()[0])
    return fig


@style.context(STYLE)
def spectra_figure(spectra: dict[str, tuple[np.ndarray, np.ndarray]], subtitle: str) -> Figure:
    """Power spectral densities of recordings, attacks and controls, with the monitor's pass-band.

    spectra : name -> (frequency, Hz; density, µV²/Hz), as `physiology.mean_spectrum` returns them
    """
    fig = _Figure(figsize=(8.6, 5.6), layout="constrained")
    _head(fig, "Power spectral density, mean over recordings", subtitle)
    ax = fig.subplots()
    colours = _colours(list(spectra), distinct=True)
    for number, ((name, spectrum), colour) in enumerate(zip(spectra.items(), colours, strict=True)):
        # Not the ends: Welch takes the mean out, and one-sided density halves at Nyquist.
        frequency, density = (values[1:-1] for values in spectrum)
        dash = DASHES[colours[:number].count(colour) % len(DASHES)]
        ax.plot(frequency, density, ls=dash, color=colour, lw=1.3, label=name)
    for edge in BAND:
        ax.axvline(edge, color="0.3", lw=1, zorder=1)
        place = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points"}
        ax.annotate(f"{edge:g} Hz", (edge, 1), (0, 3), ha="center", fontsize=9, **place)
    ax.set_yscale("log")
    ax.set(xlim=(-1.5, FS / 2), xlabel="frequency, Hz")
    ax.set_ylim(bottom=max(ax.get_ylim()[0], ROUNDING_UV2_PER_HZ / 10))
    _tidy(ax, "power spectral density, µV²/Hz")
    _legend_below(fig, ax.get_legend_handles_labels()[0])
    return fig


def save(figure: Figure, path: Path, numbers: dict) -> None:
    """Write a figure as PNG (150 dpi, true size) and its numbers as JSON beside it.

    Never half a file, and the same bytes for the same figure: no date or version is written.
    """
    with style.context(STYLE):
        write_atomically(
            path,
            lambda target: figure.savefig(
                target, format="png", dpi=DPI, metadata={"Software": None}
            ),
        )
    write_json(path.with_suffix(".json"), numbers)


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
    fig = _Figure(figsize=(width * MM, height * MM))
    _head(fig, f"{title}, 25 mm/s, 10 mm/mV", subtitle, y=1 - 3 / height)
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


def _head(fig: Figure, title: str, subtitle: str, y: float | None = None) -> None:
    """Title and subtitle; that a set is a demo is also written all over the figure."""
    width, height = fig.get_size_inches()
    lines = textwrap.wrap(title, int(11 * width)) + textwrap.wrap(subtitle, int(11 * width))
    fig.suptitle("\n".join(lines), **({} if y is None else {"y": y, "va": "top"}))
    if subtitle.startswith("DEMO"):
        size = 72 * 0.75 * np.hypot(width, height) / (0.7 * len("DEMO (SYNTHETIC)"))
        slope = np.degrees(np.arctan2(height, width))
        look = {"color": "0.6", "alpha": 0.45, "fontweight": "bold", "zorder": 1000}
        look |= {"ha": "center", "va": "center", "rotation_mode": "anchor"}
        fig.text(0.5, 0.5, "DEMO (SYNTHETIC)", fontsize=size, rotation=slope, **look)


def _colours(names: Sequence[str], distinct: bool = False) -> list[str]:
    """A colour for each name: that of the first word in it that has one, else one of the others.

    distinct : give no two names the same colour (as long as there are enough).
    """
    spare, found = list(OTHERS) * len(names), []
    for name in names:
        word = re.search(rf"\b({'|'.join(COLOURS)})\b(?! wander)", name)
        if word and not (distinct and COLOURS[word[0]] in found):
            found.append(COLOURS[word[0]])
        else:
            found.append(spare.pop(0))
    return found


def _floats(values: Sequence[float | None]) -> np.ndarray:
    """(k,) float64, with NaN for None."""
    return np.array(values, float)


def _tidy(ax: Axes, ylabel: str) -> None:
    ax.set_ylabel(ylabel)
    ax.grid(color="0.9", lw=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _legend_below(fig: Figure, handles: Sequence[Line2D]) -> None:
    """A legend under the axes, where it hides no data; none without handles."""
    if not handles:
        return
    columns = 2 if max(len(h.get_label()) for h in handles) > 24 else min(4, len(handles))
    fig.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False, handlelength=3.5
    )
