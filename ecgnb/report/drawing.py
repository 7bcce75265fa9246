"""Drawings of the HTML page, as paths of SVG: they take its colours, light or dark, and stay sharp at any width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ecgnb.attacks.threats import Threat
from ecgnb.data.dataset import Dataset
from ecgnb.evaluation.schema import Report

MM_PER_S, MM_PER_MV, BOX_MM, MARGIN_MM = 25, 10, 5, 1  # ECG paper: a big box is 0.2 s by 0.5 mV
SECONDS, ZOOMED = 6.0, 2.0  # of a recording that are shown: from its beginning, and larger, around its largest beat
FACTORS = (50, 20, 10, 5, 2)  # magnifications of a perturbation, which then stays within 1 mV


def path(x: Iterable[float], y: Iterable[float], digits: int = 2) -> str:
    """A line through points, as the "d" of an SVG path."""
    return "M" + "L".join(f"{a:.{digits}f} {b:.{digits}f}" for a, b in zip(x, y, strict=True))


def curve(found: Mapping[str, Sequence[float]], largest: float, steps: bool) -> dict[str, str]:
    """A robustness curve and its band in the unit square, y downwards: {"line", "band"}.

    found : {"epsilon", "value", "low", "high"}; largest : ε at the right end; steps : it falls at its points, instead
    of straight from one to the next
    """
    x, *heights = (np.array(found[key], float) for key in ("epsilon", "value", "low", "high"))
    value, low, high = (1 - y for y in heights)
    x = x / largest
    if steps:
        x, value, low, high = np.repeat(x, 2)[1:], *(np.repeat(y, 2)[:-1] for y in (value, low, high))
    band = path([*x, *x[::-1]], [*low, *high[::-1]], 4) + "Z"
    return {"line": path(x, value, 4), "band": band}


def waveform(report: Report, dataset: Dataset) -> dict[str, Any]:
    """One recording, clean and attacked, on ECG paper; {} if the report holds no examples, or millivolts are not known.

    Of those that the attack succeeds on (else: that are classified correctly) the one whose SD, and so ε in µV, is the
    median. dataset : what the report was made from.
    {"record", "title" of the attack, "of" how many, "succeeds", "sd_uv", "before" and "after" (classes predicted),
    "largest_uv", "factor", "strips"}; a strip is
    {"traces": [(name, path in mm)], "left", "top", "width", "height" in mm}.
    """
    key = next((name for name in ("pgd20", *report.examples) if name in report.examples), "")
    rows = np.flatnonzero(Threat(**report.threat).is_attacked(dataset))
    correct = (report.predicted("clean") == report.y)[rows]
    if not key or not correct.any() or not np.isfinite(dataset.sd_mv).all():
        return {}
    result = report.examples[key]
    succeeds = bool((correct & result.success).any())
    chosen = np.flatnonzero(correct & result.success if succeeds else correct)
    sd = dataset.sd_mv[rows].reshape(len(rows), -1).mean(axis=1)[chosen]
    median = np.argsort(sd, kind="stable")[(len(sd) - 1) // 2]
    row = chosen[median]
    one = dataset.take(rows[[row]])
    clean, attacked = (one.in_mv(x)[0][: round(SECONDS * one.fs)] for x in (one.x, result.x[[row]]))
    perturbation = attacked - clean
    largest = float(np.abs(perturbation).max())
    factor = next((f for f in FACTORS if f * largest <= 1), 1)
    half = round(ZOOMED * one.fs / 2)
    inside = np.abs(clean - np.median(clean))[half : max(len(clean) - half, half + 1)]
    beat = slice(int(inside.argmax()), int(inside.argmax()) + 2 * half)
    return {
        "record": report.records[rows[row]],
        "title": report.conditions[key].title,
        "of": len(chosen),
        "succeeds": succeeds,
        "sd_uv": 1000 * sd[median],
        "before": report.classes[report.predicted("clean")[rows[row]]],
        "after": report.classes[report.predicted(key)[rows[row]]],
        "largest_uv": 1000 * largest,
        "factor": factor,
        "strips": {
            "clean": _strip({"clean": clean}, one.fs),
            "adversarial": _strip({"attacked": attacked}, one.fs),
            "both": _strip({"attacked": attacked[beat], "clean": clean[beat]}, one.fs, ZOOMED, beat.start),
            "perturbation": _strip({"attacked": factor * perturbation}, one.fs),
        },
    }


def _strip(traces: Mapping[str, np.ndarray], fs: float, seconds: float = SECONDS, start: int = 0) -> dict[str, Any]:
    """Traces, name -> (n,) mV from sample `start` on, on a strip of paper that is as high as they need."""
    mm = {name: -MM_PER_MV * mv for name, mv in traces.items()}
    top, bottom = min(y.min() for y in mm.values()) - MARGIN_MM, max(y.max() for y in mm.values()) + MARGIN_MM
    return {
        "traces": [(name, path(MM_PER_S * (start + np.arange(len(y))) / fs, y)) for name, y in mm.items()],
        "left": MM_PER_S * start / fs,
        "top": top,
        "width": MM_PER_S * seconds,
        "height": max(bottom - top, 2 * BOX_MM),
    }
