"""What all figures share: style, colours, titles, legends, and `save`, which puts the numbers beside the picture.

Nothing here is global: each figure is drawn in a style context of its own, and none stays open in pyplot.
A colour means one thing everywhere; all are from seaborn's "colorblind" palette, or grey.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ecgnb.files import write_atomically, write_json

DPI = 150
STYLE = ["default", {"font.size": 10, "xtick.labelsize": 9, "ytick.labelsize": 9}]
STYLE[1] |= {"legend.fontsize": 9, "axes.titlesize": 10, "figure.titlesize": 11}
COLOURS = {"clean": "#222222", "attacked": "#d55e00"}
COLOURS |= {
    "baseline": "#0173b2",
    "static": "#de8f05",
    "adaptive": "#029e73",
    "fast": "#ca9161",
}
CONTROL = "#777777"
OTHERS = ("#cc78bc", "#56b4e9", "#6a3d9a")  # for whatever has no colour of its own
MARKERS, DASHES = "os^DvPX<>", ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))


class PlainFigure(Figure):
    """A Figure that Jupyter shows even if nothing has set up pyplot."""

    @style.context(STYLE)
    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


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


def head(fig: Figure, title: str, subtitle: str, y: float | None = None) -> None:
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


def colours_of(names: Sequence[str], distinct: bool = False) -> list[str]:
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


def floats(values: Sequence[float | None]) -> np.ndarray:
    """(k,) float64, with NaN for None."""
    return np.array(values, float)


def tidy(ax: Axes, ylabel: str) -> None:
    ax.set_ylabel(ylabel)
    ax.grid(color="0.9", lw=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def legend_below(fig: Figure, handles: Sequence[Line2D]) -> None:
    """A legend under the axes, where it hides no data; none without handles."""
    if not handles:
        return
    columns = 2 if max(len(h.get_label()) for h in handles) > 24 else min(4, len(handles))
    fig.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False, handlelength=3.5
    )
