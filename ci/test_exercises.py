"""Exercises: every check fails on the empty answer, with a message that helps, and passes with the solution."""

from __future__ import annotations

import re
import subprocess
import sys

import jupytext
import nbformat
import pytest
import students
from conftest import ROOT

SOURCES = sorted((ROOT / "notebooks").glob("0[0-6]_*.py"))
NEEDED = ("parameters", "setup", "solution", "check")  # what an exercise needs of its notebook


def cells_of(path) -> list[tuple[str, str]]:
    """(tag, source) of the cells that exercises need."""
    tagged = [(set(c.metadata.get("tags", [])) & set(NEEDED), c.source) for c in jupytext.read(path).cells]
    return [(tags.pop(), source) for tags, source in tagged if tags]


# Notebook 4 shows stored reports, which belong to the real recordings. The exercises of notebooks 2 and 4 take half a
# minute each; their solutions are run every time, with the stored notebooks.
MARKS = {"02_static": [pytest.mark.nightly], "04_evaluation": [pytest.mark.nightly, pytest.mark.real]}


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=MARKS.get(p.stem, [])) for p in SOURCES], ids=lambda path: path.stem
)
def test_a_check_fails_on_the_stub_and_passes_on_the_solution(path, tmp_path):
    names: dict = {}

    def run(source: str) -> None:
        exec(compile(source, path.stem, "exec"), names)

    solution, exercises = "", 0
    for tag, source in cells_of(path):
        if tag == "solution":
            solution = source
            continue
        if tag == "check":
            run(students.with_stubs(solution))
            with pytest.raises(AssertionError) as raised:
                run(source)
            assert len(str(raised.value)) > 15, "say what is missing"
            run(solution)
            exercises += 1
        run(source)
        if tag == "parameters":
            names |= {"DATA": "auto" if path.stem == "04_evaluation" else "demo", "OUT": str(tmp_path)}
    assert 2 <= exercises <= 4


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_solution_has_its_markers_and_its_check(path):
    tags = [tag for tag, _ in cells_of(path) if tag in ("solution", "check")]
    assert tags == ["solution", "check"] * (len(tags) // 2)
    for tag, source in cells_of(path):
        markers = re.findall("### (BEGIN|END) SOLUTION", source)
        assert markers == ["BEGIN", "END"] * (len(markers) // 2) and bool(markers) == (tag == "solution")


def test_the_students_notebooks_hold_no_solution_and_no_output_that_shows_one(tmp_path):
    subprocess.run([sys.executable, ROOT / "ci" / "students.py", tmp_path], check=True, capture_output=True)
    made = sorted((tmp_path / "release" / "ecgnb").glob("*.ipynb"))
    assert [path.stem for path in made] == [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    for path in made:
        cells = nbformat.read(path, 4).cells
        solutions = [c for c in cells if students.has_tag(c, "solution")]
        assert all(students.STUB in c.source and "SOLUTION" not in c.source for c in solutions)
        first = next((i for i, c in enumerate(cells) if c.source.startswith("## Exercises")), len(cells))
        assert not any(c.get("outputs") for c in cells[first:])
        assert any(c.get("outputs") for c in cells[:first])
        graded = [c.metadata["nbgrader"]["grade_id"] for c in cells if "nbgrader" in c.metadata]
        assert len(graded) == len(set(graded)) == 2 * len(solutions)
