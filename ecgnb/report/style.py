"""What all figures share: colours, titles, legends, drawing idioms, and `save`, which puts the numbers beside a picture.

Nothing here is global: each figure is drawn in a style context of its own, and none stays open in pyplot.
A colour means one thing everywhere; all are from seaborn's "colorblind" palette, or grey.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ecgnb.constants import CLASS_NAMES, CLASSES
from ecgnb.files import write_atomically, write_json
from ecgnb.metrics import Estimate

DPI = 150
SIZES = {"font.size": 10, "axes.titlesize": 10, "figure.titlesize": 11}
SIZES |= dict.fromkeys(["xtick.labelsize", "ytick.labelsize", "legend.fontsize"], 9)
NO_MATHS = {"text.parse_math": False}  # a name with two dollar signs is no formula
styled = style.context(["default", SIZES | NO_MATHS])  # around everything that draws
COLOURS = {"clean": "#222222", "attacked": "#d55e00", "baseline": "#0173b2", "static": "#de8f05"}
NOISE_COLOUR = "#777777"
COLOURS |= {"adaptive": "#029e73", "fast": "#ca9161"}
SPARE_COLOURS = ("#cc78bc", "#56b4e9", "#6a3d9a", "#808000", "#a50026")  # for whatever has no colour of its own
MARKERS, DASHES = "os^DvPX<>", ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))


class Look(NamedTuple):
    """How a name is drawn wherever it appears in a figure."""

    colour: str
    dash: Any
    marker: str


class PlainFigure(Figure):
    """A Figure that Jupyter shows even if nothing has set up pyplot."""

    def _repr_png_(self) -> bytes:
        return png(self, dpi=100)


@styled
def png(figure: Figure, dpi: int = DPI) -> bytes:
    """A figure as PNG, by default in true size: the same bytes for the same figure, without date or version."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save(figure: Figure, path: Path, numbers: dict[str, Any]) -> None:
    """Write a figure as PNG and its numbers as JSON beside it, never half a file."""
    write_atomically(path, lambda target: target.write_bytes(png(figure)))
    write_json(path.with_suffix(".json"), numbers)


def new_figure(width: float, height: float, title: str, subtitle: str) -> Figure:
    """An empty figure with its head; width and height in inches."""
    fig = PlainFigure(figsize=(width, height), layout="constrained")
    head(fig, title, subtitle)
    return fig


def head(fig: Figure, title: str, subtitle: str, y: float | None = None) -> None:
    """Title and subtitle; that a set is a demo is also written all over the figure."""
    width, height = fig.get_size_inches()
    lines = textwrap.wrap(title, int(11 * width)) + textwrap.wrap(subtitle, int(11 * width))
    fig.suptitle("\n".join(lines), **({} if y is None else {"y": y, "va": "top"}))
    if subtitle.startswith("DEMO"):
        mark = "DEMO (SYNTHETIC)"
        look: dict[str, Any] = {"color": "0.6", "alpha": 0.45, "fontweight": "bold", "zorder": 1000}
        look |= {"ha": "center", "va": "center", "rotation_mode": "anchor"}
        look["fontsize"] = 72 * 0.75 * np.hypot(width, height) / (0.7 * len(mark))
        fig.text(0.5, 0.5, mark, rotation=np.degrees(np.arctan2(height, width)), **look)


def class_title(symbol: str, classes: Sequence[str] = CLASSES) -> str:
    """ "A (AF)" for a class of the Challenge 2017; of other data its own name."""
    return f"{symbol} ({CLASS_NAMES[symbol]})" if tuple(classes) == CLASSES and symbol in CLASS_NAMES else symbol


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name; its colour is that of the first word in it that has one and is not taken, else a spare."""
    spare, found = cycle(SPARE_COLOURS), []
    for name in names:
        word = re.search(rf"\b({'|'.join(COLOURS)})\b(?! wander)", name)
        own = COLOURS[word[0]] if word else None
        found.append(next(spare) if own is None or own in found else own)
    each = zip(names, map(Look, found, cycle(DASHES), cycle(MARKERS)), strict=True)
    return dict(each)


def floats(values: Sequence[Any]) -> np.ndarray:
    """The values as float64, with NaN for None."""
    return np.array(values, float)


def band(ax: Axes, curve: Mapping[str, Sequence], x: str, drawstyle: str = "default", **look: Any) -> None:
    """The "value" of a curve against its `x`, in the band from "low" to "high"."""
    at, low, high = (floats(curve[key]) for key in (x, "low", "high"))
    step: Any = drawstyle.removeprefix("steps-") if drawstyle != "default" else None
    ax.fill_between(at, low, high, step=step, color=look["color"], alpha=0.15, lw=0)
    ax.plot(at, floats(curve["value"]), drawstyle=drawstyle, **{"lw": 1.8} | look)


def intervals(ax: Axes, rows: Mapping[str, Estimate | None], colour: str, marker: str = "o", shift: float = 0) -> None:
    """Estimates with 95 % intervals, each in the row of its position; a missing one leaves a gap."""
    for row, found in enumerate(rows.values()):
        value, low, high = floats([found["value"], *found["ci95"]] if found else [None] * 3)
        ax.plot([low, high], [row + shift] * 2, color=colour, lw=1.5, solid_capstyle="butt")
        ax.plot(value, row + shift, marker, color=colour, ms=5, ls="")


def share_rows(ax: Axes, rows: Sequence[str], xlabel: str = "") -> None:
    """Axes from 0 to 1 with a named row for each of `rows`, the first on top."""
    ax.set_yticks(range(len(rows)), rows)
    ax.set(xlim=(-0.01, 1.01), ylim=(max(1, len(rows)) - 0.5, -0.5), xlabel=xlabel)
    tidy(ax, "")


def heat_map(ax: Axes, shares: np.ndarray, cells: Sequence[Sequence[str]], cmap: str) -> AxesImage:
    """Shares, (rows, columns), as colours from 0 to 1, with a text in each cell."""
    image = ax.imshow(shares, cmap=cmap, vmin=0, vmax=1, aspect="auto")
    for (i, j), share in np.ndenumerate(shares):
        colour = "white" if share > 0.6 else "black"
        ax.text(j, i, cells[i][j], ha="center", va="center", color=colour)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return image


def mark(ax: Axes, x: float, text: str = "", offset: tuple[float, float] = (0, 3), **look: Any) -> None:
    """A vertical line at x, with a text at its upper end; offset : of the text, points."""
    ax.axvline(x, color="0.3", lw=1, zorder=1)
    place: dict[str, Any] = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points"}
    ax.annotate(text, (x, 1), offset, fontsize=9, **place, **look)


def top_axis(ax: Axes, factor: float, label: str) -> None:
    """An axis on top for the x axis in another unit, `factor` times its value."""
    scales = (lambda x: np.multiply(x, factor), lambda x: np.divide(x, factor))
    ax.secondary_xaxis("top", functions=scales).set_xlabel(label)


def tidy(ax: Axes, ylabel: str) -> None:
    """A light grid, no frame, and the name of the y axis."""
    ax.set_ylabel(ylabel)
    ax.grid(color="0.9", lw=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def legend_below(fig: Figure, handles: Sequence[Artist] | None = None) -> None:
    """A legend under the axes, where it hides no data: by default of all that has a label in the first axes."""
    handles = fig.axes[0].get_legend_handles_labels()[0] if handles is None else handles
    if not handles:
        return
    columns = 2 if max(len(str(h.get_label())) for h in handles) > 24 else min(4, len(handles))
    fig.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, handlelength=3.5)
