"""Put the tables made from figures/*.json between their markers in README.md."""

from __future__ import annotations

import re
from pathlib import Path

from ecgnb.comparisons import claims_markdown, results_markdown
from ecgnb.files import write_atomically
from ecgnb.report import demo_line
from ecgnb.tables import headline_markdown

ROOT = Path(__file__).parents[1]


def main() -> None:
    figures, readme = ROOT / "figures", ROOT / "README.md"
    text = readme.read_text()
    tables = {
        "results": results_markdown,
        "claims": claims_markdown,
        "robustness": headline_markdown,
        "demo": demo_line,
    }
    for name, table in tables.items():
        block = f"<!-- {name} -->\n{table(figures)}\n<!-- /{name} -->"
        pattern = f"<!-- {name} -->.*<!-- /{name} -->"
        text = re.sub(pattern, lambda _, block=block: block, text, flags=re.S)
    write_atomically(readme, lambda path: path.write_text(text))


if __name__ == "__main__":
    main()
