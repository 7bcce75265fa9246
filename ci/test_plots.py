"""Figures: true ECG paper, the mark of synthetic data, numbers beside every picture."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from ecgnb import metrics
from ecgnb.attacks.noise import NOISE_BASELINES, NOISE_TITLES
from ecgnb.errors import EcgnbError
from ecgnb.report import evaluation_figures, figures, style

MV = np.sin(np.arange(3000) / 20)
RATE = metrics.rate(np.array([True, False, True]))
PATH = ("p5", "median", "p95")


def texts(figure) -> str:
    return " ".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")))


def test_ecg_paper_is_25_mm_per_second_and_10_mm_per_millivolt():
    figure = figures.attack_figure(MV, MV + 0.03, ("clean: predicted as A", "attacked: predicted as N"), "CinC 2017")
    figure.draw_without_rendering()
    for ax, times in zip(figure.axes, (1, 1, 1, figures.ZOOM), strict=True):
        box = ax.get_window_extent()
        (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
        millimetres = 25.4 / figure.dpi
        assert box.width * millimetres / (x1 - x0) == pytest.approx(25 * times, rel=0.02)
        assert box.height * millimetres / (y1 - y0) == pytest.approx(10 * times, rel=0.02)
    for text in ("magnified", "30 µV", "one beat", "attacked: predicted as N"):
        assert text in texts(figure)


def test_beats_are_marked_with_their_rr_in_ms():
    peaks, p_waves = np.array([300, 600, 990]), np.array([250])
    figure = figures.class_gallery({"N": MV}, "CinC 2017", r_peaks={"N": peaks}, p_waves={"N": p_waves})
    assert [t.get_text() for t in figure.axes[0].texts] == ["1000", "1300", "P"]


def test_signals_of_unequal_length_are_refused():
    with pytest.raises(EcgnbError, match="length"):
        figures.attack_figure(MV, MV[:-1], ("", ""), "")


@pytest.mark.parametrize("subtitle", ["DEMO (SYNTHETIC), validation", "CinC 2017, validation"])
def test_only_synthetic_data_is_marked_as_such_across_the_figure(subtitle):
    y = np.array([0, 1, 2, 3, 0])
    scores = metrics.scores(y, y)
    curve = {k: [1.0, 0.5] for k in ("value", "low", "high")} | {"epsilon": [0, 0.2]}
    history = pd.DataFrame({"epoch": [1], "loss": [1.0], "dev_f1_A": [0.5]})
    history = history.assign(dev_challenge_score=0.5, dev_recall_A=0.5)
    drawn = [
        figures.confusion_figure({"clean": scores}, subtitle),
        figures.robustness_curve({"baseline": curve}, subtitle, uv_per_z=169, marked_epsilon=0.2),
        figures.learning_curves({"static": history}, subtitle, {"static": 1}),
        figures.learning_curves({}, subtitle, {}),
        figures.class_gallery({"A": MV}, subtitle),
        figures.ascent_figure(np.arange(3), np.eye(4)[:3], "ANO~", {"after step 1": MV}, subtitle),
        figures.microvolts_figure({"A": 100 + np.arange(9), "N": 90 + np.arange(9)}, 0.2, subtitle),
        evaluation_figures.robustness_panels({"baseline": {"attack": curve, "gaussian": curve}}, subtitle, 0.2),
        evaluation_figures.forest({"baseline": {"PGD": RATE}}, subtitle, "AF recall", "AF recall", [0]),
        evaluation_figures.loss_figure({"baseline": {k: [-9, -1, 0] for k in PATH}}, subtitle, 1),
        evaluation_figures.transfer_figure({"baseline": {"static": RATE}}, subtitle),
    ]
    for figure in drawn:
        marks = [t for t in figure.texts if t.get_text() == "DEMO (SYNTHETIC)"]
        assert bool(marks) == subtitle.startswith("DEMO") and subtitle in texts(figure)


def test_every_model_is_drawn_however_many_there_are():
    models = {f"model {number}": {"PGD": RATE, "FGSM": RATE} for number in range(12)}
    drawn = [
        evaluation_figures.forest(models, "CinC 2017", "AF recall", "AF recall", [0]),
        evaluation_figures.seeds_figure({name: {"AF F1": {1: 0.5}} for name in models}, "CinC"),
        evaluation_figures.loss_figure({n: {k: [-1, 0] for k in PATH} for n in models}, "CinC", 1),
    ]
    for figure in drawn:
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert names == list(models)


def test_a_missing_estimate_leaves_a_gap_in_its_row():
    models = {"baseline": {"clean": RATE, "PGD": None}, "static": {"FGSM": RATE}}
    empty = {"fast": {"clean": metrics.rate(np.array([], bool))}}
    (ax,) = evaluation_figures.forest(models | empty, "CinC", "title", "share").axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["clean", "PGD", "FGSM"]
    dots = [line.get_xydata()[0] for line in ax.lines if len(line.get_xydata()) == 1]
    assert sorted(round(y) for x, y in dots if x == RATE["value"]) == [0, 2]
    assert sum(np.isnan(x) for x, _ in dots) == 7


def test_the_figures_speak_of_every_noise_baseline_and_condition():
    curve = {k: [1.0, 0.5] for k in ("value", "low", "high")} | {"epsilon": [0, 0.2]}
    curves = {name: curve for name in ("attack", *NOISE_TITLES)}
    figure = evaluation_figures.robustness_panels({"static": curves}, "CinC", 0.2)
    assert NOISE_TITLES.keys() == NOISE_BASELINES.keys()
    for title in ("minimal ε found by attack (upper bound)", *NOISE_TITLES.values()):
        assert title in texts(figure)
    transfer = evaluation_figures.transfer_figure({"static": {"adaptive": RATE}}, "CinC")
    assert "2 of 3" in texts(transfer)
    assert {"crafted on", "evaluated on"} == {transfer.axes[0].get_ylabel(), transfer.axes[0].get_xlabel()}


def test_figures_are_drawn_without_tensorflow():
    script = (
        "import sys; from ecgnb.report import evaluation_figures, figures; "
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_save_writes_picture_and_numbers_with_nan_as_null(tmp_path):
    figure = figures.class_gallery({"A": MV}, "CinC 2017")
    numbers = {"share": np.float32(0.5), "counts": np.eye(2, dtype=int), "none": float("nan")}
    for name in ("one", "two"):
        style.save(figure, tmp_path / f"{name}.png", numbers)
    assert json.loads((tmp_path / "one.json").read_text()) == {"share": 0.5, "counts": [[1, 0], [0, 1]], "none": None}
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.json", "one.png", "two.json", "two.png"]


def test_curves_of_one_figure_have_colours_of_their_own():
    names = ["clean", *(f"perturbation, {name}" for name in ("PGD-20", "SAP", "PGD in 0.5–40 Hz", "simulated EMG"))]
    looks = style.looks(names)
    assert len({look.colour for look in looks.values()}) == len(names)


def test_titles_name_the_class_that_is_attacked():
    curve = {"epsilon": [0, 1], "value": [1, 0], "low": [1, 0], "high": [1, 0], "radius": [0, 1]}
    made = (
        evaluation_figures.robustness_panels({"m": {"attack": curve}}, "mine", 0.2, "VT"),
        evaluation_figures.transfer_figure({"m": {"m": RATE}}, "mine", "VT"),
        evaluation_figures.certified_curve({"m": curve}, "mine", "VT"),
        figures.robustness_curve({"m": curve}, "mine", 170, 0.2, "VT"),
    )
    for figure in made:
        assert "VT" in figure.get_suptitle() and "AF" not in figure.get_suptitle()
    assert style.class_title("A") == "A (AF)" and style.class_title("A", ("N", "A")) == "A"
