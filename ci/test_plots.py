"""Figures: true ECG paper, the mark of synthetic data, numbers beside every picture."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from ecgnb import canvas, evaluation_plots, metrics, plots
from ecgnb.errors import EcgnbError

MV = np.sin(np.arange(3000) / 20)
RATE = metrics.rate(np.array([True, False, True]))
PATH = ("p5", "median", "p95")


def texts(figure) -> str:
    return " ".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")))


def test_ecg_paper_is_25_mm_per_second_and_10_mm_per_millivolt():
    figure = plots.attack_figure(
        MV, MV + 0.03, ("clean: read as A", "attacked: read as N"), "CinC 2017"
    )
    figure.draw_without_rendering()
    for ax in figure.axes[:4]:
        box = ax.get_window_extent()
        (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
        millimetres = 25.4 / figure.dpi
        assert box.width * millimetres / (x1 - x0) == pytest.approx(25, rel=0.02)
        assert box.height * millimetres / (y1 - y0) == pytest.approx(10, rel=0.02)
    assert "magnified" in texts(figure) and "30 µV" in texts(figure)


def test_signals_of_unequal_length_are_refused():
    with pytest.raises(EcgnbError, match="length"):
        plots.attack_figure(MV, MV[:-1], ("", ""), "")


@pytest.mark.parametrize("subtitle", ["DEMO (SYNTHETIC), validation", "CinC 2017, validation"])
def test_only_synthetic_data_is_marked_as_such_across_the_figure(subtitle):
    y = np.array([0, 1, 2, 3, 0])
    scores, counts = metrics.scores(y, y), metrics.confusion(y, y)
    curve = {k: [1.0, 0.5] for k in ("value", "low", "high")} | {"epsilon": [0, 0.2]}
    history = pd.DataFrame({"epoch": [1], "loss": [1.0], "dev F1 A": [0.5]})
    history = history.assign(**{"dev challenge score": 0.5, "dev AF recall": 0.5})
    figures = [
        plots.confusion_figure({"clean": counts}, subtitle, {"clean": scores}),
        plots.robustness_curve({"baseline": curve}, subtitle, uv_per_z=169, marked_epsilon=0.2),
        plots.learning_curves({"static": history}, subtitle, {"static": 1}),
        plots.learning_curves({}, subtitle, {}),
        plots.class_gallery({"A": MV}, subtitle),
        plots.microvolts_figure({"A": 100 + np.arange(9), "N": 90 + np.arange(9)}, 0.2, subtitle),
        evaluation_plots.robustness_panels(
            {"baseline": {"attack": curve, "Gaussian": curve}}, subtitle, 0.2
        ),
        evaluation_plots.forest(
            {"baseline": {"PGD": RATE}}, subtitle, "AF recall", "AF recall", [0]
        ),
        evaluation_plots.loss_figure({"baseline": {k: [-9, -1, 0] for k in PATH}}, subtitle, 1),
        evaluation_plots.transfer_figure({"baseline": {"static": RATE}}, subtitle),
    ]
    for figure in figures:
        marks = [t for t in figure.texts if t.get_text() == "DEMO (SYNTHETIC)"]
        assert bool(marks) == subtitle.startswith("DEMO") and subtitle in texts(figure)


def test_every_model_is_drawn_however_many_there_are():
    models = {f"model {number}": {"PGD": RATE, "FGSM": RATE} for number in range(12)}
    figures = [
        evaluation_plots.forest(models, "CinC 2017", "AF recall", "AF recall", [0]),
        evaluation_plots.seeds_figure({name: {"F1 A": {1: 0.5}} for name in models}, "CinC 2017"),
        evaluation_plots.loss_figure({n: {k: [-1, 0] for k in PATH} for n in models}, "CinC", 1),
    ]
    for figure in figures:
        drawn = [text.get_text() for text in figure.legends[0].get_texts()]
        assert drawn == list(models)


def test_save_writes_picture_and_numbers_with_nan_as_null(tmp_path):
    figure = plots.class_gallery({"A": MV}, "CinC 2017")
    numbers = {"share": np.float32(0.5), "counts": np.eye(2, dtype=int), "none": float("nan")}
    for name in ("one", "two"):
        canvas.save(figure, tmp_path / f"{name}.png", numbers)
    assert json.loads((tmp_path / "one.json").read_text()) == {
        "share": 0.5,
        "counts": [[1, 0], [0, 1]],
        "none": None,
    }
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "one.json",
        "one.png",
        "two.json",
        "two.png",
    ]
