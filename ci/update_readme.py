"""Put the results table, made from figures/*.json, between the markers in README.md."""

from __future__ import annotations

import re
from pathlib import Path

from ecgnb.report import results_table

ROOT = Path(__file__).parents[1]


def main() -> None:
    readme = ROOT / "README.md"
    table = f"<!-- results -->\n{results_table(ROOT / 'figures')}\n<!-- /results -->"
    text = re.sub(
        r"<!-- results -->.*<!-- /results -->", lambda _: table, readme.read_text(), flags=re.S
    )
    readme.write_text(text)


if __name__ == "__main__":
    main()
