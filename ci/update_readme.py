"""Put the tables made from figures/*.json between their markers in README.md and ci/CLUSTER.md."""

from __future__ import annotations

import re
from pathlib import Path

from bench_cluster import million

from ecgnb.files import write_atomically
from ecgnb.report import demo_line, results_table
from ecgnb.tables import headline_markdown

ROOT = Path(__file__).parents[1]


TABLES = {
    "README.md": {"results": results_table, "robustness": headline_markdown, "demo": demo_line},
    "ci/CLUSTER.md": {"million": million},
}


def main() -> None:
    for file, tables in TABLES.items():
        text = (ROOT / file).read_text()
        for name, table in tables.items():
            block = f"<!-- {name} -->\n{table(ROOT / 'figures')}\n<!-- /{name} -->"
            pattern = f"<!-- {name} -->.*<!-- /{name} -->"
            text = re.sub(pattern, lambda _, block=block: block, text, flags=re.S)
        write_atomically(ROOT / file, lambda path, text=text: path.write_text(text))


if __name__ == "__main__":
    main()
