"""How an evaluation of robustness is drawn: a function a figure, each from parts of `evaluation.schema.Report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ecgnb.attacks.noise import NOISE_TITLES
from ecgnb.constants import BAND, WINDOW
from ecgnb.metrics import Estimate
from ecgnb.report import style
from ecgnb.report.tables import noise_title

Curve = Mapping[str, Sequence[float]]


@style.styled
def robustness_panels(
    models: Mapping[str, Mapping[str, Curve]], subtitle: str, marked_epsilon: float, attacked: str = "AF"
) -> Figure:
    """Robust recall of the attacked class against ε, a panel for each model: under attack, and under noise of the same size.

    models : name -> {"attack" or a noise baseline's name: robustness curve}, of `Report.curves`
    marked_epsilon : z-units, a vertical line
    """
    title = f"Robust recall of {attacked} against ε, 95 % intervals"
    fig = style.new_figure(max(8.6, 1.6 + 3.6 * len(models)), 4.8, title, subtitle)
    axes = fig.subplots(1, len(models), sharey=True, squeeze=False)[0]
    noise = [name for name in NOISE_TITLES if any(name in c for c in models.values())]
    looks = {
        name: dict(color=style.NOISE_COLOUR, lw=1.1, ls=dash, marker=marker, ms=3.5)
        for name, (_, dash, marker) in style.looks(noise).items()
    }
    for ax, (model, look) in zip(axes, style.looks(models).items(), strict=True):
        curves = models[model]
        style.band(ax, curves["attack"], "epsilon", "steps-post", color=look.colour, lw=2)
        for name in (name for name in noise if name in curves):
            ax.plot(curves[name]["epsilon"], style.floats(curves[name]["value"]), **looks[name])
        style.mark(ax, marked_epsilon)
        ax.set_title(model, fontweight="bold")
        widest = max(max(curve["epsilon"]) for curve in curves.values())
        ax.set(xlim=(0, widest * 1.02), ylim=(-0.02, 1.02), xlabel="ε (L∞), z-units")
        style.tidy(ax, "")
    axes[0].set_ylabel(f"robust recall of {attacked}")
    keys = [Line2D([], [], color="0.1", lw=2, label="minimal ε found by attack (upper bound)")]
    keys += [Line2D([], [], label=f"{NOISE_TITLES[name]} (noise baseline)", **look) for name, look in looks.items()]
    style.legend_below(fig, keys)
    return fig


@style.styled
def forest(
    models: Mapping[str, Mapping[str, Estimate | None]],
    subtitle: str,
    title: str,
    xlabel: str,
    rules: Sequence[int] = (),
) -> Figure:
    """Shares or scores with 95 % intervals, a row for each condition or measure, a colour for each model.

    models : name -> {row: estimate}; a row that a model lacks, or that is None, leaves a gap. rules : rows after
    which a line is drawn
    """
    rows = list(dict.fromkeys(row for found in models.values() for row in found))
    height = max(0.36, 0.1 * len(models))
    fig = style.new_figure(8.6, 1.6 + height * len(rows), title, subtitle)
    ax = fig.subplots()
    reach = min(0.38, 0.12 * (len(models) - 1))
    shifts, keys = np.linspace(-reach, reach, len(models)), []
    for shift, (name, (colour, _, marker)) in zip(shifts, style.looks(models).items(), strict=True):
        found = {row: models[name].get(row) for row in rows}
        style.intervals(ax, found, colour, marker, shift)
        keys.append(Line2D([], [], color=colour, marker=marker, ls="", ms=5, label=name))
    for row in rules:
        ax.axhline(row + 0.5, color="0.4", lw=0.8)
    style.share_rows(ax, rows, xlabel)
    style.legend_below(fig, keys)
    return fig


@style.styled
def seeds_figure(configurations: Mapping[str, Mapping[str, Mapping[int, float]]], subtitle: str) -> Figure:
    """Every seed's value as a dot, their mean as a bar: a row for each measure, a colour for each configuration.

    configurations : name -> {measure: {seed: value}}
    """
    rows = list(next(iter(configurations.values()), {}))
    title = "The same training configuration, other seeds: dots are runs, bars their means"
    fig = style.new_figure(8.6, 1.8 + 0.42 * len(rows), title, subtitle)
    ax = fig.subplots()
    shifts = np.linspace(-0.26, 0.26, len(configurations)) if len(configurations) > 1 else [0.0]
    looks = style.looks(configurations).items()
    for shift, (name, (colour, _, marker)) in zip(shifts, looks, strict=True):
        for row, measure in enumerate(rows):
            values = list(configurations[name][measure].values())
            at, label = row + shift, name if row == 0 else None
            ax.plot(values, [at] * len(values), marker, color=colour, ms=4.5, ls="", label=label)
            ax.plot([np.mean(values)] * 2, [at - 0.11, at + 0.11], color=colour, lw=2)
    style.share_rows(ax, rows, "score or share")
    style.legend_below(fig)
    return fig


@style.styled
def loss_figure(paths: Mapping[str, Curve], subtitle: str, marked_step: int) -> Figure:
    """The attack loss at every step: median over recordings, and the middle 90 %.

    paths : model -> `Report.loss_path`; marked_step : where the study's attack stops
    """
    fig = style.new_figure(8, 4.4, "Attack loss, step by step: median and middle 90 %", subtitle)
    ax = fig.subplots()
    for name, (colour, dash, _) in style.looks(paths).items():
        median, low, high = (paths[name][key] for key in ("median", "p5", "p95"))
        curve = {"step": range(len(median)), "value": median, "low": low, "high": high}
        style.band(ax, curve, "step", color=colour, ls=dash, label=name)
    style.mark(ax, marked_step)
    ax.set(xlabel="step", xlim=(0, max(len(path["median"]) for path in paths.values()) - 1))
    style.tidy(ax, "attack loss (log-probability of the target)")
    style.legend_below(fig)
    return fig


@style.styled
def transfer_figure(success: Mapping[str, Mapping[str, Estimate]], subtitle: str, attacked: str = "AF") -> Figure:
    """Attack success rate of examples crafted on one model and evaluated on another.

    success : crafted on -> evaluated on -> estimate, of the attacked class's recordings that the model evaluated on
    classifies correctly
    """
    crafted, evaluated = list(success), list(next(iter(success.values())))
    table = [[success[row][column] for column in evaluated] for row in crafted]
    shares = style.floats([[rate["value"] for rate in row] for row in table])
    counts = [[f"{rate['count']} of {rate['n']}" for rate in row] for row in table]
    cells = [
        [f"{share:.2f}\n{count}" for share, count in zip(*row, strict=True)] for row in zip(shares, counts, strict=True)
    ]
    title = f"Transfer: attack success rate on correctly classified {attacked}"
    size = 2.6 + 1.1 * len(evaluated), 2.1 + 0.75 * len(crafted)
    fig = style.new_figure(*size, title, subtitle)
    ax = fig.subplots()
    image = style.heat_map(ax, shares, cells, "Oranges")
    for text, (row, column) in zip(ax.texts, np.ndindex(len(crafted), len(evaluated)), strict=True):
        text.set_fontweight("bold" if crafted[row] == evaluated[column] else "normal")
    ax.set_xticks(range(len(evaluated)), [name.replace("-", "\n") for name in evaluated])
    ax.set_yticks(range(len(crafted)), crafted)
    ax.set(xlabel="evaluated on", ylabel="crafted on")
    bar = fig.colorbar(image, ax=ax, label="attack success rate")
    bar.outline.set_visible(False)
    return fig


@style.styled
def noise_panels(found: Mapping[str, Any], subtitle: str) -> Figure:
    """Challenge score and AF recall against SNR: a column for each noise, a colour for each model, clean at the left.

    found : what `noise_stress.noise_stress` returns
    """
    noises, snr_db = found["noise"], found["snr_db"]
    at = range(len(snr_db) + 1)  # clean, then every SNR
    fig = style.new_figure(10.5, 6.6, "Scores under noise, 95 % intervals", subtitle)
    axes = fig.subplots(2, len(noises), sharex=True, sharey=True, squeeze=False)
    for column, (noise, models) in zip(axes.T, noises.items(), strict=True):
        for name, (colour, dash, marker) in style.looks(models).items():
            scores = [found["clean"][name], *models[name]]
            for ax, estimates in zip(
                column,
                ([one["challenge_score"] for one in scores], [one["recall"]["A"] for one in scores]),
                strict=True,
            ):
                low, high = zip(*(estimate["ci95"] for estimate in estimates), strict=True)
                curve = {"at": at, "value": [estimate["value"] for estimate in estimates], "low": low, "high": high}
                style.band(ax, curve, "at", color=colour, ls=dash, marker=marker, ms=4, label=name)
        column[0].set_title(noise_title(noise), fontweight="bold")
        column[1].set_xlabel("SNR, dB")
    for ax in axes.flat:
        ax.set_xticks(at, ["clean", *snr_db])
        ax.set_ylim(-0.02, 1.02)
        style.tidy(ax, "")
    axes[0, 0].set_ylabel("challenge score")
    axes[1, 0].set_ylabel("AF recall")
    style.legend_below(fig)
    return fig


@style.styled
def certified_curve(curves: Mapping[str, Curve], subtitle: str, attacked: str = "AF") -> Figure:
    """Certified recall of the attacked class against the L2 radius of the certificate, with 95 % intervals.

    curves : model -> {"radius", "value", "low", "high"}, radii rising. Between two radii the value of the larger is
        drawn, so that no point of a line says more than is certified. A line ends at 0.
    """
    title = f"Certified {attacked} recall against the certified radius, 95 % intervals"
    fig = style.new_figure(8, 5.6, title, subtitle)
    ax = fig.subplots()
    for name, (colour, dash, _) in style.looks(curves).items():
        # Past the first 0 lines and bands of all curves would lie on one another.
        end = [*curves[name]["value"], 0].index(0) + 1
        curve = {key: values[:end] for key, values in curves[name].items()}
        look = dict(color=colour, ls=dash, label=name, clip_on=False)
        style.band(ax, curve, "radius", "steps-pre", **look)
    widest = max(max(curve["radius"]) for curve in curves.values())
    ax.set(xlim=(0, widest * 1.03), ylim=(-0.02, 1.02), xlabel="radius (L2), z-units")
    label = f"ε of the largest L∞ ball inside, z-units: radius/√{WINDOW}"
    style.top_axis(ax, WINDOW**-0.5, label)
    style.tidy(ax, f"certified {attacked} recall")
    style.legend_below(fig)
    return fig


@style.styled
def spectra_figure(spectra: Mapping[str, tuple[np.ndarray, np.ndarray]], subtitle: str) -> Figure:
    """Power spectral densities of recordings and perturbations, with the monitor's pass-band.

    spectra : name -> (frequency, Hz; density, µV²/Hz), as `signals.mean_spectrum` returns them
    """
    fig = style.new_figure(8.6, 5.6, "Power spectral density, mean over recordings", subtitle)
    ax = fig.subplots()
    for name, (colour, dash, _) in style.looks(spectra).items():
        # Not the ends: Welch takes the mean out, and one-sided density halves at Nyquist.
        frequency, density = (values[1:-1] for values in spectra[name])
        ax.plot(frequency, density, ls=dash, color=colour, lw=1.3, label=name)
    for edge in BAND:
        style.mark(ax, edge, f"{edge:g} Hz", ha="center")
    nyquist = next(iter(spectra.values()))[0][-1]
    rounding = 1 / 12 / nyquist  # µV²/Hz, noise of rounding to 1 µV: no recording has less
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
    ax.set(xlim=(-1.5, nyquist), xlabel="frequency, Hz")
    ax.set_ylim(bottom=max(ax.get_ylim()[0], rounding / 10))
    style.tidy(ax, "power spectral density, µV²/Hz")
    style.legend_below(fig)
    return fig
