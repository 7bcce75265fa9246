"""The evaluation of one model as a single HTML page: tables and figures, nothing to fetch."""

from __future__ import annotations

import base64
import io
from html import escape

import pandas as pd
from matplotlib.figure import Figure

from ecgnb.report import evaluation_figures as evaluation_plots
from ecgnb.report import style as canvas
from ecgnb.report.tables import (
    alarm_table,
    attack_table,
    class_table,
    front_table,
    guarantee,
    headline,
    signal_table,
    threat_table,
)

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
        _section("The answer", _list(headline(report))),
        _section("Attack by attack", _table(attack_table(report))),
        _section("Normal recordings read as AF", _table(alarm_table(report))),
        _section("What is left, against ε", _image(curve_figure(report))),
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


def curve_figure(report: dict) -> Figure:
    """The robustness curve, exact for every recording, beside the controls."""
    subtitle = f"{report['about']['data']}, {report['about']['split']}; AF {report['threat']}"
    curves = {"attack": report["curve"]} | report["control curves"]
    return evaluation_plots.robustness_panels({report["about"]["model"]: curves}, subtitle, 0.2)


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
    figure.savefig(file, format="png", dpi=canvas.DPI)
    return f'<img alt="figure" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'
