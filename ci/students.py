"""Make the students' notebooks: the stored ones, with `# your code here` in the place of every solution.

usage: python ci/students.py [FOLDER]      (default: out/students)

FOLDER/release/ecgnb holds what students get. From the exercises on it has no outputs, for these would show the answers.
FOLDER/source/ecgnb has the solutions, and with nbgrader_config.py FOLDER is a course of nbgrader: a lecturer collects
and grades with `nbgrader autograde ecgnb`.

The solution stands in the notebook itself, between nbgrader's own markers `### BEGIN SOLUTION` and
`### END SOLUTION`, in a cell tagged `solution`; a cell tagged `check` tests it. Markers inside a cell, because the lines
around them can hold what a student is given (a name, a loop, the head of a function), and because nbgrader knows them.
Tags, because Jupytext keeps them in the .py. The metadata by which nbgrader knows a cell are made here from the tags.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
ASSIGNMENT = "ecgnb"
STUB = "...  # your code here"
REGION = re.compile(r"^( *)### BEGIN SOLUTION\n.*?### END SOLUTION", re.M | re.S)
CONFIG = f"""\
c = get_config()
c.CourseDirectory.course_id = "{ASSIGNMENT}"
c.ClearSolutions.code_stub = {{"python": {STUB!r}}}
c.ExecutePreprocessor.timeout = 600
"""


def has_tag(cell: nbformat.NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def with_stubs(source: str) -> str:
    """The source of a cell, with a stub for each solution in it."""
    return REGION.sub(rf"\g<1>{STUB}", source)


def source_notebook(stored: Path) -> nbformat.NotebookNode:
    """A notebook with its solutions, with nbgrader's metadata, and without outputs from the exercises on."""
    notebook = nbformat.read(stored, 4)
    notebook.metadata.pop("jupytext", None)  # it has no .py beside it
    is_exercise, number = False, 0
    for cell in notebook.cells:
        is_exercise |= cell.cell_type == "markdown" and cell.source.startswith("## Exercises")
        if is_exercise and cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        number += has_tag(cell, "solution")
        for tag, own in {"solution": {"grade": False}, "check": {"grade": True, "points": 1}}.items():
            if has_tag(cell, tag):
                name = f"{stored.stem}-{number}-{tag}"
                common = {"grade_id": name, "schema_version": 3, "task": False, "cell_type": "code"}
                cell.metadata["nbgrader"] = {**common, **own, "solution": tag == "solution", "locked": tag == "check"}
    return notebook


def student_notebook(stored: Path) -> nbformat.NotebookNode:
    """The same with stubs in the place of solutions."""
    notebook = source_notebook(stored)
    for cell in notebook.cells:
        if has_tag(cell, "solution"):
            cell.source = with_stubs(cell.source)
    return notebook


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "out" / "students"
    for part, make in {"source": source_notebook, "release": student_notebook}.items():
        (folder / part / ASSIGNMENT).mkdir(parents=True, exist_ok=True)
        for stored in sorted((ROOT / "notebooks").glob("*.ipynb")):
            nbformat.write(make(stored), folder / part / ASSIGNMENT / stored.name)
    (folder / "nbgrader_config.py").write_text(CONFIG, "utf-8")
    print(f"for students: {folder / 'release' / ASSIGNMENT}   with solutions, for nbgrader: {folder / 'source'}")


if __name__ == "__main__":
    main()
