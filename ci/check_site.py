"""Check the built site: links inside it lead somewhere, images say what they show, nothing is fetched from elsewhere.

Links to other sites are listed, not followed. usage: python ci/check_site.py [FOLDER]
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {
    ("img", "src"),
    ("script", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("link", "href"),
}  # by a browser, at once
IN_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")


class Page(HTMLParser):
    """What a page holds: anchors, links (tag, attribute, address), and images without a text."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[tuple[str, str, str]] = []
        self.silent: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found[key] for key in ("id", "name") if found.get(key)}
        self.links += [(tag, key, found[key]) for key in ("href", "src") if found.get(key)]
        if tag == "img" and not (found.get("alt") or "").strip():
            self.silent.append(found.get("src", "?"))


def check(site: Path) -> tuple[list[str], set[str]]:
    """(faults, links to other sites) of the pages in a folder."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    faults, elsewhere = [], set()
    for path, page in pages.items():
        where = path.relative_to(site.resolve())
        faults += [f"{where}: image without a text: {image}" for image in page.silent]
        for tag, key, address in page.links:
            link = urlsplit(address)
            if link.scheme == "data":
                continue
            if link.scheme or link.netloc:
                elsewhere.add(address)
                if (tag, key) in FETCHED:
                    faults.append(f"{where}: fetches {address}")
                continue
            target = (path.parent / unquote(link.path)).resolve() if link.path else path
            if not target.exists():
                faults.append(f"{where}: leads nowhere: {address}")
            elif link.fragment and target in pages and unquote(link.fragment) not in pages[target].ids:
                faults.append(f"{where}: no such anchor: {address}")
    for path in [*site.rglob("*.css"), *site.rglob("*.html")]:
        found = IN_STYLE.findall(path.read_text("utf-8"))
        faults += [f"{path.relative_to(site)}: fetches {address}" for address in found]
    return faults, elsewhere


def main() -> int:
    site = Path(sys.argv[1] if len(sys.argv) > 1 else "out/site")
    faults, elsewhere = check(site)
    listed = site.parent / "links_elsewhere.txt"
    listed.write_text("\n".join(sorted(elsewhere)) + "\n", "utf-8")
    for fault in faults:
        print(fault)
    print(f"{site}/index.html: {len(faults)} faults; {len(elsewhere)} links to other sites, in {listed}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
