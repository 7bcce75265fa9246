"""Put the tables made from figures/*.json between their markers in README.md and ci/CLUSTER.md."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import bench
from bench_cluster import million

from ecgnb.files import write_atomically
from ecgnb.report.comparison import claims_markdown, results_markdown
from ecgnb.report.old_report import demo_line
from ecgnb.report.tables import headline_markdown

ROOT = Path(__file__).parents[1]
TABLES = {
    "README.md": {
        "results": results_markdown,
        "claims": claims_markdown,
        "robustness": headline_markdown,
        "demo": demo_line,
        "bench": bench.table,
        "machines": bench.machines,
    },
    "ci/CLUSTER.md": {"million": million},
}


def with_tables(text: str, tables: dict[str, Callable[[Path], str]], figures: Path) -> str:
    """The text with what stands between its markers made anew from the JSON in `figures`."""
    for name, table in tables.items():
        first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
        if first in text:
            block = f"{first}\n{table(figures)}\n{last}"
            text = re.sub(f"{first}.*{last}", lambda _, block=block: block, text, flags=re.S)
    return text


def main() -> None:
    for file, tables in TABLES.items():
        text = with_tables((ROOT / file).read_text(), tables, ROOT / "figures")
        write_atomically(ROOT / file, lambda path, text=text: path.write_text(text))


if __name__ == "__main__":
    main()
