"""The evaluation of one model as a single HTML page: tables and figures, nothing to fetch."""

from __future__ import annotations

import base64
import io
from html import escape

import pandas as pd
from matplotlib.figure import Figure

from ecgnb import plots
from ecgnb.report import spoken

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.9rem }
th, td { text-align: left; padding: 0.3rem 0.7rem; border-bottom: 1px solid #ddd; vertical-align: top }
th { border-bottom: 2px solid #888 }
img { max-width: 100% }
.scroll { overflow-x: auto }
.pass { color: #07614a } .warn { color: #8a5a00; font-weight: bold } .fail { color: #a11; font-weight: bold }
"""


def page(report: dict) -> str:
    """HTML of a report of `assessment.assess`."""
    about = report["about"]
    title = f"How robust is {about['model']}?"
    head = (
        f"{about['data']}, {about['split']}: {about['recordings']} recordings, "
        f"{about['AF recordings']} AF; labels {about['labels']}, protocol {about['protocol']}, seed "
        f"{about['seed']}, budget {about['budget']}. Threat: AF {report['threat']}. "
        "Brackets: 95 % intervals."
    )
    parts = [
        f"<h1>{escape(title)}</h1><p>{escape(head)}</p>",
        _section("In three numbers", _list(three_numbers(report))),
        _section("Attack by attack", _table(attack_table(report))),
        _section("Normal recordings read as AF", _table(alarm_table(report))),
        _section("Recall against ε", _image(curve_figure(report))),
        _section("Is the evaluation itself sound?", _checks(report["checks"])),
    ]
    if "other threats" in report:
        parts.append(_section("Other threats", _table(threat_table(report))))
        parts.append(_section("All classes attacked, untargeted", _table(class_table(report))))
        parts.append(_section("AF recall behind a front end", _table(front_table(report))))
        parts.append(_section("What can be guaranteed", _list(guarantee(report["certified"]))))
    parts.append(_section("Is it an ECG any more? Medians", _table(signal_table(report))))
    parts.append(
        _section("Recording by recording", _table(pd.json_normalize(report["recordings"])))
    )
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>{body}</body></html>\n"
    )


def three_numbers(report: dict) -> dict[str, str]:
    """What to remember: recall clean, recall left in the worst case, the smallest ε of the median recording."""
    median = report["smallest ε, µV"]["median minimum ε"]
    return {
        "AF recall, clean": spoken(report["AF found clean"]),
        "AF found and not turned by any attack": spoken(
            report["worst case"]["AF not turned, of all AF"]
        ),
        "ε that turns the median recording, µV": _number(median),
    }


def attack_table(report: dict) -> pd.DataFrame:
    """One row for each attack and control, and the worst case."""
    equal_rms = report["controls at the attack's RMS"]
    outcomes = report["attacks"] | report["controls"]
    outcomes |= {f"{name}, at PGD's RMS": outcome for name, outcome in equal_rms.items()}
    rows = {
        name: {
            "AF recall": spoken(outcome["AF recall"]),
            "turned, of AF found clean": spoken(outcome["success, of AF found clean"]),
            "reads of the network, median": f"{outcome['median reads']:g}",
        }
        for name, outcome in outcomes.items()
    }
    rows["worst case, recording by recording"] = {
        "AF recall": spoken(report["worst case"]["AF not turned, of all AF"]),
        "turned, of AF found clean": spoken(report["worst case"]["success, of AF found clean"]),
        "reads of the network, median": "",
    }
    return pd.DataFrame(rows).T


def alarm_table(report: dict) -> pd.DataFrame:
    """One row for each kind of noise: how many normal recordings it makes AF."""
    rows = {name: {"read as AF": spoken(r)} for name, r in report["normal read as AF"].items()}
    return pd.DataFrame(rows).T


def threat_table(report: dict) -> pd.DataFrame:
    """One row for each other threat: what the strongest attacks together leave."""
    rows = {
        name: {
            "threat": outcome["threat"],
            "turned, of AF found clean": spoken(outcome["success, of AF found clean"]),
            "AF recall left": spoken(outcome["AF not turned, of all AF"]),
        }
        for name, outcome in report["other threats"].items()
    }
    return pd.DataFrame(rows).T


def class_table(report: dict) -> pd.DataFrame:
    """One row for each class: recall clean, and what an untargeted attack on every recording leaves."""
    rows = {
        letter: {what: spoken(rate) for what, rate in rates.items()}
        for letter, rates in report["all classes"].items()
    }
    return pd.DataFrame(rows).T


def front_table(report: dict) -> pd.DataFrame:
    """AF recall behind each front end, one row for each attack."""
    return pd.DataFrame(
        {
            name: {what: spoken(rate) for what, rate in reads.items()}
            for name, reads in report["front ends"].items()
        }
    )


def guarantee(certified: dict) -> dict[str, str]:
    """What randomized smoothing certifies, beside what the claim would need."""
    return {
        f"AF recall of the smoothed model (noise of SD {certified['sigma']} z)": spoken(
            certified["AF recall, smoothed"]
        ),
        "largest certified radius, L2, z-units": f"{certified['largest radius, L2']:.2f}",
        "the same as ε in L∞, z-units": f"{certified['largest radius, as ε in L∞']:.4f}",
        "radius that the claimed ε would need, L2": (
            f"{certified['radius that the claimed ε would need, L2']:.1f}"
        ),
    }


def signal_table(report: dict) -> pd.DataFrame:
    """Median of every measure of the changed signals."""
    return pd.DataFrame(
        {
            name: {measure: _round(stats["median"]) for measure, stats in measures.items()}
            for name, measures in report["signal"].items()
        }
    )


def curve_figure(report: dict) -> Figure:
    """The robustness curve in z-units, exact for every recording."""
    subtitle = f"{report['about']['data']}, {report['about']['split']}; AF {report['threat']}"
    return plots.robustness_curve(
        {report["about"]["model"]: report["curve"]}, subtitle, marked_epsilon=0.2
    )


def _section(title: str, inner: str) -> str:
    return f'<h2>{escape(title)}</h2>\n<div class="scroll">{inner}</div>'


def _list(lines: dict[str, str]) -> str:
    items = (f"<li>{escape(k)}: <strong>{escape(v)}</strong></li>" for k, v in lines.items())
    return f"<ul>{''.join(items)}</ul>"


def _table(frame: pd.DataFrame) -> str:
    return frame.to_html(border=0, float_format=lambda v: f"{v:.3g}")


def _checks(checks: list[dict]) -> str:
    head = "<tr><th>check</th><th>verdict</th><th>evidence</th><th>what to do</th></tr>"
    rows = "".join(
        f'<tr><td>{escape(c["name"])}</td><td class="{c["verdict"]}">{c["verdict"]}</td>'
        f"<td>{escape(c['evidence'])}</td>"
        f"<td>{escape(c['advice']) if c['verdict'] != 'pass' else ''}</td></tr>"
        for c in checks
    )
    return f"<table>{head}{rows}</table>"


def _image(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=plots.DPI)
    return f'<img alt="figure" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _number(score: dict) -> str:
    low, high = score["ci95"]
    value, low, high = (
        "beyond reach" if v is None else f"{v:.0f}" for v in (score["value"], low, high)
    )
    return f"{value} [{low}, {high}]"


def _round(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
