"""Put the tables made from figures/*.json between their markers in README.md."""

from __future__ import annotations

import re
from pathlib import Path

import bench

from ecgnb.comparisons import claims_markdown, results_markdown
from ecgnb.files import write_atomically
from ecgnb.report import demo_line
from ecgnb.tables import headline_markdown

ROOT = Path(__file__).parents[1]
TABLES = {
    "results": results_markdown,
    "claims": claims_markdown,
    "robustness": headline_markdown,
    "demo": demo_line,
    "bench": bench.table,
}


def with_tables(text: str, figures: Path) -> str:
    """The README's text with its tables made anew. The benchmark's comes in with its JSON, before the limits."""
    if (figures / "bench.json").exists() and "<!-- bench -->" not in text:
        text = text.replace("\n## Limits\n", "\n<!-- bench -->\n<!-- /bench -->\n\n## Limits\n")
    for name, table in TABLES.items():
        marked = f"<!-- {name} -->.*<!-- /{name} -->"
        if re.search(marked, text, flags=re.S):
            block = f"<!-- {name} -->\n{table(figures)}\n<!-- /{name} -->"
            text = re.sub(marked, lambda _, block=block: block, text, flags=re.S)
    return text


def main() -> None:
    readme = ROOT / "README.md"
    text = with_tables(readme.read_text(), ROOT / "figures")
    write_atomically(readme, lambda path: path.write_text(text))


if __name__ == "__main__":
    main()
