"""For maintainers: run notebooks from their .py on the real recordings, store the executed .ipynb and the figures.

An .ipynb whose cells hold edits that its .py lacks is refused, for it would be overwritten.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jupytext
import nbformat
import papermill
from nbclient import NotebookClient

from ecgnb.files import write_atomically

ROOT = Path(__file__).parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"
METADATA = {
    # No header in the .py, and of cells' metadata the tags, as in notebooks/jupytext.toml.
    "jupytext": {"cell_metadata_filter": "tags,-all", "notebook_metadata_filter": "-jupytext,-all"},
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="ci/publish", description=__doc__)
    parser.add_argument("names", nargs="*", help="e.g. 03_adaptive; all without a name")
    parser.add_argument("--check", action="store_true", help="only say which pairs differ")
    options = parser.parse_args()
    sources = [
        source
        for source in sorted((ROOT / "notebooks").glob("*.py"))
        if not options.names or source.stem in options.names
    ]
    if options.check:
        differ = [source for source in sources if not is_paired(source)]
        for source in differ:
            print(
                f"notebooks/{source.name} and its .ipynb differ. To make the .ipynb anew: bash ci/publish "
                f"{source.stem}; the .py: jupytext --to py:percent notebooks/{source.stem}.ipynb"
            )
        return bool(differ)
    refused = [refusal for source in sources if (refusal := refusal_of(source, ROOT / "out"))]
    if refused:
        print("\n".join(refused), file=sys.stderr)
        return 1
    began = time.time()
    for source in sources:
        print(f"== {source.stem}", flush=True)
        publish(source, ROOT / "out")
    for figure in (ROOT / "out").glob("*.png"):
        if figure.stat().st_mtime > began:
            for file in (figure, figure.with_suffix(".json")):
                shutil.copy(file, ROOT / "figures")
    if any(source.stem == "01_baseline" for source in sources):
        store_demo(ROOT / "out" / "demo")
    return 0


def store_demo(out: Path) -> None:
    """Store what the shipped baseline does on the demo set, which the README reports."""
    stored = ROOT / "notebooks" / "01_baseline.ipynb"
    out.mkdir(parents=True, exist_ok=True)
    parameters = {"DATA": "demo", "OUT": str(out)}
    papermill.execute_notebook(stored, out / stored.name, parameters, progress_bar=False)
    shutil.copy(out / "baseline_attacked.json", ROOT / "figures" / "demo_baseline.json")


def as_py(notebook: nbformat.NotebookNode) -> str:
    """The text of the .py that holds the same cells."""
    cells = nbformat.from_dict(notebook | {"metadata": METADATA})
    return jupytext.writes(cells, fmt="py:percent")


def is_paired(source: Path) -> bool:
    """Whether a .py is what Jupytext makes of the .ipynb beside it."""
    stored = source.with_suffix(".ipynb")
    return stored.exists() and as_py(nbformat.read(stored, 4)) == source.read_text("utf-8")


def refusal_of(source: Path, out: Path) -> str:
    """Why the .ipynb beside a .py must not be overwritten; "" if it may be.

    It may if its cells are those of the .py, of the last commit, or of what was published last (kept in `out`):
    then nothing in it is new.
    """
    stored, last = source.with_suffix(".ipynb"), published(source, out)
    if not stored.exists():
        return ""
    cells = as_py(nbformat.read(stored, 4))
    if any(path.exists() and as_py(jupytext.read(path)) == cells for path in (source, last)):
        return ""
    committed = subprocess.run(
        ["git", "show", f"HEAD:./{stored.name}"], cwd=source.parent, capture_output=True, encoding="utf-8", check=False
    )
    if committed.returncode == 0 and as_py(nbformat.reads(committed.stdout, 4)) == cells:
        return ""
    name = f"{source.parent.name}/{stored.name}"
    return (
        f"{name} holds edits that {source.name} lacks. Not published.\n"
        f"  to keep them (this overwrites {source.name}): jupytext --to py:percent {name}\n"
        f"  to drop them: git checkout {name}"
    )


def publish(source: Path, out: Path) -> None:
    """Run a .py in its folder, and store the executed notebook beside it once it has come to its end."""
    notebook = jupytext.read(source)
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{number:02d}"  # the same at every run
    client = NotebookClient(
        notebook,
        timeout=1800,
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(source.parent)}},
    )
    client.execute()
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        output.get("data", {}).pop(WIDGET, None)  # dead without its kernel: the picture beside it stays
    notebook.metadata["language_info"].pop("version")  # see ci/jupyter
    write_atomically(source.with_suffix(".ipynb"), lambda target: nbformat.write(notebook, target))
    source.write_text(as_py(notebook), "utf-8")  # the same cells, as Jupyter would write them
    write_atomically(published(source, out), lambda target: shutil.copy(source, target))


def published(source: Path, out: Path) -> Path:
    """The copy of a .py as it was when last published."""
    return out / "published" / source.name


if __name__ == "__main__":
    os.environ["TQDM_DISABLE"] = "1"  # bars are for people who wait, not for stored outputs
    sys.exit(main())
