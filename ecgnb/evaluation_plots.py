"""How an evaluation of robustness is drawn: a function a figure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ecgnb.canvas import (
    CONTROL,
    DASHES,
    MARKERS,
    STYLE,
    PlainFigure,
    colours_of,
    floats,
    head,
    legend_below,
    tidy,
)
from ecgnb.data import WINDOW
from ecgnb.records import BAND, FS
from ecgnb.smoothing import l2_equivalent, linf_equivalent

ROUNDING_UV2_PER_HZ = 1 / 12 / (FS / 2)  # noise of rounding to 1 µV: no recording has less


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
    fig = PlainFigure(figsize=(1.6 + 3.6 * len(models), 4.8), layout="constrained")
    head(fig, "AF found clean and not turned, against ε; 95 % intervals", subtitle)
    axes = fig.subplots(1, len(models), sharey=True, squeeze=False)[0]
    controls = [name for name in next(iter(models.values())) if name != "attack"]
    looks = dict(zip(controls, zip(cycle(DASHES), cycle(MARKERS), strict=False), strict=False))
    for ax, (model, curves), colour in zip(
        axes, models.items(), colours_of(list(models)), strict=True
    ):
        for name, curve in curves.items():
            x, value, low, high = (floats(curve[k]) for k in ("epsilon", "value", "low", "high"))
            if name == "attack":
                ax.fill_between(x, low, high, step="post", color=colour, alpha=0.15, lw=0)
                ax.step(x, value, where="post", color=colour, lw=2)
            else:
                dash, marker = looks[name]
                ax.plot(x, value, ls=dash, color=CONTROL, lw=1.1, marker=marker, ms=3.5)
        if marked_epsilon is not None:
            ax.axvline(marked_epsilon, color="0.3", lw=1, zorder=1)
        ax.set_title(model, fontweight="bold")
        ax.set(xlim=(0, x.max() * 1.02), ylim=(-0.02, 1.02), xlabel="ε (L∞), z-units")
        tidy(ax, "")
    axes[0].set_ylabel("share of AF recordings")
    keys = [Line2D([], [], color="0.1", lw=2, label="strongest change found (exact)")]
    keys += [
        Line2D([], [], color=CONTROL, ls=dash, marker=marker, ms=3.5, label=f"{name}, control")
        for name, (dash, marker) in looks.items()
    ]
    legend_below(fig, keys)
    return fig


@style.context(STYLE)
def forest(
    models: dict[str, dict[str, dict]], subtitle: str, title: str, xlabel: str, rules: Sequence[int]
) -> Figure:
    """Shares with 95 % intervals, a row for each attack or control, a colour for each model.

    models : name -> {row: what `metrics.rate` returns}; rules : rows after which a line is drawn
    """
    rows = list(next(iter(models.values())))
    height = max(0.36, 0.1 * len(models))
    fig = PlainFigure(figsize=(8.6, 1.6 + height * len(rows)), layout="constrained")
    head(fig, title, subtitle)
    ax = fig.subplots()
    reach = min(0.38, 0.12 * (len(models) - 1))
    apart = np.linspace(-reach, reach, len(models))
    looks = zip(colours_of(list(models), distinct=True), cycle(MARKERS), strict=False)
    for (name, rates), offset, (colour, marker) in zip(models.items(), apart, looks, strict=True):
        for row, what in enumerate(rows):
            value, low, high = floats([rates[what]["value"], *rates[what]["ci95"]])
            ax.plot([low, high], [row + offset] * 2, color=colour, lw=1.5, solid_capstyle="butt")
            label = name if row == 0 else None
            ax.plot(value, row + offset, marker, color=colour, ms=5, label=label, ls="")
    for row in rules:
        ax.axhline(row + 0.5, color="0.4", lw=0.8)
    ax.set_yticks(range(len(rows)), rows)
    ax.set(xlim=(-0.01, 1.01), ylim=(len(rows) - 0.5, -0.5), xlabel=xlabel)
    tidy(ax, "")
    legend_below(fig, ax.get_legend_handles_labels()[0])
    return fig


@style.context(STYLE)
def seeds_figure(found: dict[str, dict[str, dict[int, float]]], subtitle: str) -> Figure:
    """Every seed's value as a dot, their mean as a bar: a row for each measure, a colour for each defence.

    found : defence -> {measure: {seed: value}}, of `comparisons.seeds`
    """
    rows = list(next(iter(found.values())))
    fig = PlainFigure(figsize=(8.6, 1.8 + 0.42 * len(rows)), layout="constrained")
    head(fig, "The same recipe, other seeds: dots are runs, bars their means", subtitle)
    ax = fig.subplots()
    apart = np.linspace(-0.26, 0.26, len(found)) if len(found) > 1 else [0.0]
    looks = zip(found.items(), colours_of(list(found)), apart, cycle(MARKERS), strict=False)
    for (defence, measures), colour, offset, marker in looks:
        for row, what in enumerate(rows):
            values = list(measures[what].values())
            at, label = row + offset, defence if row == 0 else None
            ax.plot(values, [at] * len(values), marker, color=colour, ms=4.5, ls="", label=label)
            ax.plot([np.mean(values)] * 2, [at - 0.11, at + 0.11], color=colour, lw=2)
    ax.set_yticks(range(len(rows)), rows)
    ax.set(xlim=(-0.01, 1.01), ylim=(len(rows) - 0.5, -0.5), xlabel="score or share")
    tidy(ax, "")
    legend_below(fig, ax.get_legend_handles_labels()[0])
    return fig


@style.context(STYLE)
def loss_figure(paths: dict[str, dict], subtitle: str, marked_step: int) -> Figure:
    """The attacker's loss at every step: median over recordings, and the middle 90 %.

    paths : model -> {"median", "p5", "p95": (steps,)}; marked_step : where the published attack stops
    """
    fig = PlainFigure(figsize=(8, 4.4), layout="constrained")
    head(fig, "What the attacker climbs, step by step: median and middle 90 %", subtitle)
    ax = fig.subplots()
    for (name, path), colour, dash in zip(
        paths.items(), colours_of(list(paths)), cycle(DASHES), strict=False
    ):
        low, median, high = (floats(path[key]) for key in ("p5", "median", "p95"))
        ax.fill_between(range(len(median)), low, high, color=colour, alpha=0.12, lw=0)
        ax.plot(median, color=colour, ls=dash, lw=1.8, label=name)
    ax.axvline(marked_step, color="0.3", lw=1, zorder=1)
    ax.set(xlabel="step", xlim=(0, len(median) - 1))
    tidy(ax, "log-probability of the target")
    legend_below(fig, ax.get_legend_handles_labels()[0])
    return fig


@style.context(STYLE)
def transfer_figure(success: dict[str, dict[str, dict]], subtitle: str) -> Figure:
    """Who made a change × who reads it: share of the AF that the reader found clean and now calls normal.

    success : maker -> reader -> what `metrics.rate` returns
    """
    makers, readers = list(success), list(next(iter(success.values())))
    values = floats([[success[m][r]["value"] for r in readers] for m in makers])
    fig = PlainFigure(
        figsize=(2.6 + 1.1 * len(readers), 2.1 + 0.75 * len(makers)), layout="constrained"
    )
    head(fig, "Transfer: AF found clean that the change turns normal", subtitle)
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
    fig = PlainFigure(figsize=(8, 5.6), layout="constrained")
    head(fig, "Certified AF recall against the certified radius, 95 % intervals", subtitle)
    ax = fig.subplots()
    for number, ((name, curve), colour) in enumerate(
        zip(curves.items(), colours_of(list(curves)), strict=True)
    ):
        # Past the first 0 lines and bands of all curves would lie on one another.
        end = [*curve["value"], 0].index(0) + 1
        x, value, low, high = (
            floats(curve[key][:end]) for key in ("radius", "value", "low", "high")
        )
        ax.fill_between(x, low, high, step="pre", color=colour, alpha=0.15, lw=0)
        dash = DASHES[number % len(DASHES)]
        ax.step(x, value, where="pre", ls=dash, color=colour, lw=1.8, label=name, clip_on=False)
    widest = max(max(curve["radius"]) for curve in curves.values())
    ax.set(xlim=(0, widest * 1.03), ylim=(-0.02, 1.02), xlabel="radius (L2), z-units")
    scales = (lambda r: linf_equivalent(r, WINDOW), lambda e: l2_equivalent(e, WINDOW))
    top = ax.secondary_xaxis("top", functions=scales)
    top.set_xlabel(f"ε of the largest L∞ ball inside, z-units: radius/√{WINDOW}")
    tidy(ax, "certified AF recall")
    legend_below(fig, ax.get_legend_handles_labels()[0])
    return fig


@style.context(STYLE)
def spectra_figure(spectra: dict[str, tuple[np.ndarray, np.ndarray]], subtitle: str) -> Figure:
    """Power spectral densities of recordings, attacks and controls, with the monitor's pass-band.

    spectra : name -> (frequency, Hz; density, µV²/Hz), as `physiology.mean_spectrum` returns them
    """
    fig = PlainFigure(figsize=(8.6, 5.6), layout="constrained")
    head(fig, "Power spectral density, mean over recordings", subtitle)
    ax = fig.subplots()
    colours = colours_of(list(spectra), distinct=True)
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
    tidy(ax, "power spectral density, µV²/Hz")
    legend_below(fig, ax.get_legend_handles_labels()[0])
    return fig
