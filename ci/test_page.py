"""The page of a report: the answer first, its charts, one recording on ECG paper, any classes; seen in Chromium."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import asdict, replace

import numpy as np
import pytest
from test_tables import made_report, whole_report

from ecgnb import metrics
from ecgnb.attacks import AttackResult, Threat
from ecgnb.evaluation.schema import About, Check, Condition, Report, as_json, from_json
from ecgnb.report import comparison, drawing, tables
from ecgnb.report.page import page

VT = Threat("VT", "sinus rhythm")
OWN = ("VT", "sinus rhythm", "A")
TRUE = ["VT"] * 12 + ["sinus rhythm"] * 6 + ["A"] * 3


def own_report(found: int = 12, threat: Threat = VT, **parts) -> Report:
    """Of data with other classes: `found` of 12 VT are classified correctly, and half of these withstand PGD-20."""

    def made(predicted: list[str], title: str, kind: str, threat: Threat | None = None) -> Condition:
        numbers = [np.array([OWN.index(name) for name in names]) for names in (TRUE, predicted)]
        robust = success = None
        if threat:
            robust, success = (metrics.rate(np.arange(n) < k) for n, k in ((12, found // 2), (found, found // 2)))
        described = asdict(threat) if threat else None
        return Condition(title, kind, described, predicted, metrics.scores(*numbers, OWN), robust, success)

    clean = ["VT"] * found + ["A"] * (12 - found) + TRUE[12:]
    conditions = {
        "clean": made(clean, "clean", "clean"),
        "pgd20": made(["sinus rhythm"] * (found // 2) + clean[found // 2 :], "PGD-20", "attack", threat),
    }
    counts = {name: TRUE.count(name) for name in OWN}
    about = About("my records", "validation", "", "labels.csv", len(TRUE), counts, 1, "mine")
    return Report(about, asdict(threat), OWN, [f"R{i}" for i in range(len(TRUE))], TRUE, conditions, **parts)


def test_the_answer_and_a_chart_come_first_then_what_is_clean():
    html = page(whole_report())
    parts = [tables.answer(whole_report()), 'class="track worst"', "What it does when nothing is attacked", "Attack by"]
    places = [html.index(part) for part in parts]
    assert places == sorted(places) and html.index("<table") > places[2]
    kinds = re.findall(r'class="track (clean|attack|worst)"', html[: places[2]])
    assert kinds == ["clean"] + ["attack"] * 3 + ["worst"] * 2


def test_checks_are_grouped_by_verdict():
    checks = [Check(v, f"check {v}", v, "seen", f"remedy of {v}") for v in ("pass", "undecided", "warn", "fail")]
    html = page(replace(whole_report(), checks=checks))
    heads = re.findall(r'<h3 class="(\w+)">(\w+): 1 of 4', html)
    assert heads == [("fail", "Failed"), ("warn", "Warnings"), ("undecided", "Undecided"), ("pass", "Passed")]
    assert "remedy of warn" in html and "remedy of pass" not in html and "remedy of undecided" not in html


def test_the_page_says_how_it_was_made():
    html = page(whole_report(), made={"command": "python -m ecgnb evaluate <mine>", "date": "2026-01-31"})
    made = html[html.index("How it was made") :]
    for fact in ("python -m ecgnb evaluate &lt;mine&gt;", "2026-01-31", "ab" * 32, "AF 20, normal 30, other 10"):
        assert fact in made, fact


def test_any_classes_and_threat_stand_in_report_tables_and_page():
    report = own_report()
    assert from_json(json.loads(json.dumps(as_json(report)))) == report and report.labels == TRUE
    assert tables.threat_in_words(report) == "VT → sinus rhythm, L∞ 0.2 z"
    assert tables.answer(report) == "12 of 12 VT recordings are classified correctly. 6 of 12 withstand PGD-20."
    assert next(iter(tables.headline(report))) == "VT recall, clean"
    assert tables.clean_table(report).loc["VT", "as A"] == "0"
    assert "VT recall, clean" in tables.findings_table({"mine": report})
    assert "VT F1, clean" in tables.summary_table({"mine": report})
    card = comparison.score_table({"validation": report})
    assert {"sinus rhythm F1", "macro F1", "robust recall, PGD-20"} <= set(card.index)
    everyone = own_report(threat=Threat("", ""))
    assert tables.recall_name(everyone) == "accuracy" and "macro F1, clean" in tables.summary_table({"": everyone})
    for made in (report, everyone):
        said = [
            page(made).split("</style>")[1],
            tables.description(made),
            comparison.score_table({"": made}).to_string(),
        ]
        assert not re.search(r"\b(AF|CinC|normal)\b", " ".join(said))


def test_few_correctly_classified_recordings_are_not_flattered():
    few = own_report(found=2)
    said = "undecided: too few correctly classified recordings (2 of 12) to conclude"
    assert tables.undecided(few) == said and tables.headline(few)["verdict"] == said
    assert tables.answer(few).startswith("U" + said[1:] + ". 2 of 12 VT")
    assert 'class="answer doubt"' in page(few)
    enough = own_report(found=metrics.FEWEST)
    assert not tables.undecided(enough) and "verdict" not in tables.headline(enough)


def test_many_classes_have_their_recall_without_a_matrix():
    report = own_report()
    few = page(report)
    more = tuple(f"class {i}" for i in range(11))
    scores = metrics.scores(np.arange(14), np.arange(14), (*OWN, *more))
    clean = replace(report.conditions["clean"], scores=scores)
    many = page(replace(report, classes=(*OWN, *more), conditions=report.conditions | {"clean": clean}))
    assert few.count('<td class="cell') == 9 and many.count('<td class="cell') == 0
    assert many.count('<td class="recall">') == 14


@pytest.fixture(scope="module")
def shown(demo_dev):
    """A report of demo recordings and their examples, of which PGD-20 succeeds on all AF but the first."""
    rows = np.concatenate([np.flatnonzero(demo_dev.y == 0)[:4], np.flatnonzero(demo_dev.y == 1)[:2]])
    dataset, records = demo_dev.take(rows), [str(name) for name in demo_dev.names[rows]]
    x = dataset.x[:4] + np.float32(0.2) * dataset.mask[:4] * np.float32([[[1.0]], [[-1]], [[1]], [[1]]])
    success = np.arange(4) > 0
    result = AttackResult(x, np.zeros((4, 4), np.float32), success, np.ones(4, int), np.zeros((1, 4)))
    conditions = {}
    for key, predicted in {"clean": "AAAANN", "pgd20": "ANNNNN"}.items():
        y, z = (np.array(["ANO~".index(s) for s in symbols]) for symbols in ("AAAANN", predicted))
        conditions[key] = replace(
            made_report().conditions[key], predictions=predicted, scores=metrics.scores(y, z), title=key
        )
    report = replace(made_report(), records=records, labels="AAAANN", conditions=conditions, examples={"pgd20": result})
    return report, dataset


def test_the_recording_shown_is_the_median_of_those_that_the_attack_succeeds_on(shown):
    report, dataset = shown
    found = drawing.waveform(report, dataset)
    sd = dataset.sd_mv[1:4]
    row = 1 + int(np.argsort(sd)[1])
    assert found["record"] == str(dataset.names[row]) and found["of"] == 3 and found["succeeds"]
    assert (found["before"], found["after"]) == ("A", "N")
    assert found["largest_uv"] == pytest.approx(200 * dataset.sd_mv[row], rel=1e-3)
    ((_, d),) = found["strips"]["clean"]["traces"]
    points = np.array([part.split() for part in d[1:].split("L")], float)
    (mv,) = dataset.take(np.array([row])).in_mv(dataset.x[[row]])
    assert len(points) == 6 * dataset.fs and np.allclose(points[:, 1], -10 * mv[:1800], atol=0.006)
    assert points[300, 0] == pytest.approx(25)  # mm/s
    assert report.records[row] in page(report, dataset) and "ECG paper" not in page(report)
    assert "url(#paper)" not in page(report)


def test_a_curve_falls_at_its_points():
    curve = {"epsilon": [0.0, 0.5, 2.0], "value": [1.0, 0.5, 0.0], "low": [0.9, 0.4, 0.0], "high": [1.0, 0.6, 0.1]}
    made = drawing.curve(curve, 2.0, steps=True)
    assert made["line"] == "M0.0000 0.0000L0.2500 0.0000L0.2500 0.5000L1.0000 0.5000L1.0000 1.0000"
    straight = drawing.curve(curve, 2.0, steps=False)["line"]
    assert straight == "M0.0000 0.0000L0.2500 0.5000L1.0000 1.0000"


def test_the_drawings_are_well_formed(shown):
    drawings = re.findall(r"<svg.*?</svg>", page(*shown), re.S)
    assert len(drawings) > 4
    for one in drawings:
        ET.fromstring(one)


@pytest.mark.slow
def test_in_a_browser_nothing_scrolls_sideways(shown, browser, tmp_path):
    report, dataset = shown
    files = {"waveform": page(report, dataset), "tables": page(whole_report()), "own": page(own_report(found=2))}
    for name, html in files.items():
        (tmp_path / f"{name}.html").write_text(html, encoding="utf-8")
        for scheme in ("light", "dark"):
            seen = browser.new_page(viewport={"width": 1000, "height": 900}, color_scheme=scheme)
            seen.goto((tmp_path / f"{name}.html").as_uri())
            for width in (1000, 800, 390):
                seen.set_viewport_size({"width": width, "height": 900})
                assert seen.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, width)
            colour = seen.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", colour)[:3])) > 380) == (scheme == "light")
            seen.close()
