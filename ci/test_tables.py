"""Tables and the page say what their report says, and a dash where it says nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest

from ecgnb import metrics
from ecgnb.attacks.threats import Threat
from ecgnb.constants import CLASSES
from ecgnb.evaluation.schema import About, Check, Condition, Report
from ecgnb.report import tables
from ecgnb.report.page import page

LABELS = "A" * 20 + "N" * 30 + "O" * 10 + "~" * 5
STUDY, UNTARGETED = Threat(), Threat(target="")
EVERYONE = Threat(attack_class="", target="")
CHECKS = [
    Check("one", "gradients are alive", "pass", "0 of 9 are zero", "look for saturation"),
    Check("two", "the loss rises", "warn", "1 of 9 <falls>", "reduce the step"),
]


def made_condition(clean: str, predicted: str, title: str, kind: str, threat: Threat | None, queries=None) -> Condition:
    y, before, after = (np.array(list(symbols)) for symbols in (LABELS, clean, predicted))
    robust = success_rate = None
    if threat:
        attacked = y == threat.attack_class if threat.attack_class else np.ones(len(y), bool)
        success = after == threat.target if threat.target else after != y
        robust = metrics.rate(((before == y) & ~success)[attacked])
        success_rate = metrics.rate(success[attacked & (before == y)])
    numbers = [np.array([CLASSES.index(symbol) for symbol in symbols]) for symbols in (LABELS, predicted)]
    scores = metrics.scores(*numbers)
    described = asdict(threat) if threat else None
    return Condition(title, kind, described, predicted, scores, robust, success_rate, queries)


def made_report(model: str = "baseline", left: int = 8, clean: str = LABELS, **parts) -> Report:
    """A report of few conditions. PGD-20 leaves `left` of 20 AF recordings AF, and makes the others normal."""

    def attacked(left: int, other: str = "N") -> str:
        return (clean[:left] + other * 20)[:20] + clean[20:]

    def made(predicted: str, title: str, kind: str = "attack", threat: Threat | None = STUDY, **more):
        return made_condition(clean, predicted, title, kind, threat, **more)

    noisy = clean[:20] + "A" * 3 + clean[23:]
    conditions = {
        "clean": made(clean, "clean", "clean", None),
        "pgd20": made(attacked(left), "PGD-20", queries=20.0),
        "square": made(attacked(left + 1), "Square", queries=60.0),
        "worst_case": made(attacked(left // 2), "worst of 2 attacks", "worst_case"),
        "transferred": made(attacked(left + 5), "PGD-20 crafted on other", "transfer"),
        "pgd20_uv": made(attacked(left), "PGD-20, 34 µV", threat=Threat(epsilon=34, unit="µV")),
        "pgd20_all_classes": made(attacked(0, "O")[:25] + "O" * 40, "PGD-20, every class", threat=EVERYONE),
        "untargeted": made(attacked(1, "O"), "AF, untargeted", "worst_case", UNTARGETED),
        "random_sign": made(noisy, "random ±ε", "noise"),
        "random_sign_rms": made(clean, "random ±ε of the attack's RMS", "noise"),
    }
    counts = {symbol: LABELS.count(symbol) for symbol in CLASSES}
    about = About("made up", "validation", "leakfree", "v3", len(LABELS), counts, 2017, model, "ab" * 32, "standard")
    report = Report(about, asdict(STUDY), CLASSES, [f"R{i}" for i in range(len(LABELS))], LABELS, conditions)
    return replace(report, **parts)


def whole_report(**parts) -> Report:
    """A report with every part."""
    share = metrics.rate(np.arange(20) < 9)
    curve = {"epsilon": [0.0, 0.1, 1.0], "value": [1, 0.5, 0], "low": [0.9, 0.4, 0], "high": [1, 1, 0]}
    recalls = {"clean": share, "pgd20": share, "pgd_aware": share}
    return made_report(
        curves={"attack": curve, "random_sign": curve, "pgd20": curve},
        curve_uv=curve | {"epsilon": [0.0, 20.0, 200.0]},
        minimal_epsilon={
            "z": {"median": {"value": 0.1, "ci95": [0.08, None]}, "area": share},
            "uv": {"median": {"value": None, "ci95": [17.6, None]}, "area": share},
        },
        attacked=[
            {"record": "R0", "minimal_epsilon_z": 0.123, "minimal_epsilon_uv": 20.0, "worst_attack": "square"},
            {"record": "R1", "minimal_epsilon_z": None, "minimal_epsilon_uv": None, "worst_attack": "pgd20"},
        ],
        checks=CHECKS,
        preprocessing={"standardised": recalls, "filtered": recalls},
        certification={
            "sigma": 0.25,
            "draws": 500,
            "smoothed_recall": share,
            "curve": {"radius": [0.0, 0.2, 0.5], "value": [0.45, 0.4, 0.1]},
            "l2_radius_of_study_epsilon": 18.97,
        },
        signals={
            key: {"rms_uv": {"median": 32.9, "p5": 1, "p95": 9}, "snr_db": {"median": None}}
            for key in ("pgd20", "random_sign")
        },
        **parts,
    )


def test_numbers_are_written_one_way():
    share = metrics.rate(np.arange(47) < 44)
    assert tables.with_interval(share) == "0.94 [0.83, 0.98]"
    assert tables.with_counts(share) == "0.94 [0.83, 0.98] (44 of 47)"
    # A bootstrap whose draws are all the same says nothing of how sure a number is.
    assert tables.with_interval({"value": 0.0, "ci95": [0.0, 0.0]}) == "0.00 [—]"
    assert tables.with_interval({"value": 0.5, "ci95": [None, None]}) == "0.50 [—]"
    assert tables.with_interval(None) == tables.with_counts(metrics.rate(np.zeros(0, bool))) == "—"
    assert tables.as_p(0.001, at_floor=True) == "≤ 0.001" and tables.as_p(0.03812) == "0.038"
    assert tables.as_prediction(np.log([0.02, 0.9, 0.05, 0.03]), CLASSES) == "predicted as N, 90 %"


def test_the_headline_fits_a_terminal_and_leaves_out_what_was_not_computed():
    lines = tables.headline(whole_report())
    assert all(len(f"{text}: {value}") <= 100 for text, value in lines.items())
    assert lines["AF recall, clean"].endswith("(20 of 20)")
    assert lines["robust recall, PGD-20"].endswith("(8 of 20)")
    assert lines["robust recall, worst of 2 attacks"].endswith("(4 of 20)")
    assert lines["robust recall, untargeted"].endswith("(1 of 20)")
    assert lines["normal predicted as AF, random ±ε"].endswith("(3 of 30)")
    assert lines["minimal ε, median, µV"] == "> 200 [18, > 200]"
    assert lines["checks that fail"] == "0 of 2"
    assert lines["certified recall at L2 radius 0.5 z-units"].endswith("(2 of 20)")
    few = made_report()
    bare = tables.headline(replace(few, conditions={"clean": few.conditions["clean"]}))
    assert list(bare) == ["AF recall, clean", "normal predicted as AF, clean"]


def test_the_answer_is_a_sentence():
    assert tables.answer(made_report()) == (
        "20 of 20 AF recordings are classified correctly. 4 of 20 withstand all 2 attacks that aim at normal. "
        "1 of 20 withstand attackers who accept any wrong class."
    )


def test_the_attack_table_has_the_study_threat_alone():
    table = tables.attack_table(made_report())
    titles = ["PGD-20", "Square", "worst of 2 attacks", "PGD-20 crafted on other"]
    assert table.index.tolist() == titles
    assert table.loc["PGD-20"].tolist() == [
        "0.40 [0.22, 0.61]",
        "0.40 [0.22, 0.61] (8 of 20)",
        "0.60 [0.39, 0.78] (12 of 20)",
        "20",
    ]
    assert table.loc["worst of 2 attacks", ["AF recall", "queries, median"]].tolist() == ["—", "—"]


def test_other_threat_models_have_their_own_table():
    table = tables.threat_table(made_report())
    assert table.index.tolist() == ["PGD-20, 34 µV", "PGD-20, every class", "AF, untargeted"]
    assert table.loc["AF, untargeted", "threat model"] == "AF, untargeted, L∞ 0.2 z"
    assert table.loc["AF, untargeted", "robust recall"].endswith("(1 of 20)")
    assert len(tables.threat_table(replace(made_report(), conditions={}))) == 0


def test_noise_counts_false_positives_where_every_recording_has_it():
    table = tables.noise_table(made_report())
    assert table.index.tolist() == ["clean", "random ±ε", "random ±ε of the attack's RMS"]
    false = table["normal predicted as AF"]
    assert false["clean"].endswith("(0 of 30)") and false["random ±ε"].endswith("(3 of 30)")
    assert false.iloc[2] == "—" and table["attack success rate"].iloc[0] == "—"


def test_tables_of_the_other_parts():
    report = whole_report()
    assert tables.class_table(report).loc["AF", "PGD-20, every class"].endswith("(0 of 20)")
    behind = tables.preprocessing_table(report)
    assert behind.index.tolist() == ["clean", "PGD-20, unaware of it", "PGD, aware of the transformation"]
    assert tables.signal_table(report).loc["PGD-20"].tolist()[:3] == ["32.9", "—", "—"]
    assert tables.recording_table(report).loc["R1", "minimal ε, µV"] == "above the search limit"
    assert tables.recording_table(report).loc["R0", "strongest attack"] == "Square"
    assert tables.minimal_epsilon(report)["minimal ε, median, z-units"] == "0.10 [0.08, > 1]"


def test_certified_recall_is_read_off_the_curve_and_never_above_what_the_draws_allow():
    report = whole_report()
    found = tables.certification(report)
    counts = [text.split("(")[1] for row, text in found.items() if row.startswith("certified recall at")]
    assert counts == ["8 of 20)", "2 of 20)", "2 of 20)"]  # between two radii that of the larger
    assert found["largest L2 radius that 500 draws can certify, z-units"] == "0.55"
    few = report.certification | {"draws": 100}  # at most 0.37
    assert tables.certified_recall(few, 0.5) is None and tables.certified_recall(few, 0.25)["count"] == 2
    none = report.certification | {"curve": {"radius": [0.0], "value": [0.45]}}
    assert tables.certified_recall(none, 0.1)["count"] == 0


def test_models_stand_side_by_side_with_a_dash_for_what_one_lacks():
    full, few = made_report(), made_report()
    del few.conditions["random_sign"]
    shown = tables.side_by_side(tables.noise_table, {"a": few, "b": full}, "AF recall")
    assert shown.loc["random ±ε", "a"] == "—" and shown.loc["random ±ε", "b"] != "—"
    assert tables.findings_table({"a": few}).loc["a", "normal as AF, noise"] == "—"


def test_models_are_compared_on_the_same_recordings():
    reports = {"weak": made_report(left=8), "strong": made_report(left=20)}
    found = tables.paired_table(reports)
    same = found.loc[("strong − weak", "correctly classified, clean")]
    assert same["difference"] == "+0.00 [—]" and same["p"] == "1"
    attacked = found.loc[("strong − weak", "robust, PGD-20")]
    assert attacked["difference"].startswith("+0.60")
    assert attacked["only one model"] == "12 against 0"
    assert float(attacked["p"]) == pytest.approx(2 * 0.5**12, rel=0.05)
    assert float(attacked["p, Holm"]) == pytest.approx(3 * 2 * 0.5**12, rel=0.05)
    assert len(tables.paired_table({"alone": made_report()})) == 0


def test_tables_fit_where_they_are_read():
    names = ("baseline", "static", "adaptive-as-published")
    reports = {name: made_report(name) for name in names}
    lines = tables.summary_table(reports).to_string().splitlines()
    assert max(map(len, lines)) <= 100
    assert tables.findings_table(reports).shape[1] + 1 <= 6


def test_markdown_has_the_index_if_it_has_a_name():
    table = tables.table_of({"a": {"x": 1}, "b": {"x": 2, "y": 3}}, "row")
    assert tables.markdown(table) == "| row | x | y |\n| --- | --- | --- |\n| a | 1 | — |\n| b | 2 | 3 |"
    assert tables.markdown(table.reset_index(drop=True)).startswith("| x | y |")


def test_the_page_fetches_nothing():
    html = page(whole_report())
    assert "1 of 9 &lt;falls&gt;" in html and "<falls>" not in html
    assert not re.search(r'(src|href)="|url\((?!#)', html)
    assert "Andriushchenko et al. 2020" in html and "reduce the step" in html
    assert "look for saturation" not in html  # advice is for what does not pass
    assert "prefers-color-scheme: dark" in html and "ab" * 32 in html


def test_the_page_of_a_short_report_has_no_empty_parts():
    few = made_report()
    html = page(replace(few, conditions={key: few.conditions[key] for key in ("clean", "pgd20")}))
    heads = ["What it does when nothing is attacked", "Attack by attack", "How it was made"]
    assert re.findall(r"<h2>(.*)</h2>", html) == heads


def test_a_markup_in_a_name_does_no_harm():
    report = made_report("<b>mine</b>")
    assert "<b>mine" not in page(report)


def test_tables_and_cards_need_no_tensorflow():
    code = "import sys, ecgnb.report.card; print({'keras', 'tensorflow', 'requests'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
