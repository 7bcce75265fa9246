"""The site: it builds, its links lead somewhere, it asks no network; the course material is whole; its commands work."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from check_site import check
from conftest import ROOT
from papermill import inspect_notebook
from sweep import read_plan
from test_readme import CHEAPER as README_CHEAPER
from test_readme import ELSEWHERE as README_ELSEWHERE

COURSE, HOWTO = ROOT / "notebooks" / "course", ROOT / "notebooks" / "howto"
PAGES = [*sorted(COURSE.glob("*.md")), *sorted(HOWTO.glob("*.md")), ROOT / "ci" / "TESTS.md"]
CHEAPER = {  # the command on a page -> what is run here in its place
    "python -m ecgnb data --data ward.npz": "",
    "python -m ecgnb evaluate ward.keras --data ward.npz --classes N,V --fs 250 --attack-class V": " --help",
    "python -m ecgnb data --data clinic --leads II --resample 125": "",
    "python -m ecgnb data --data my_folder --bad skip": "",
    "python -m ecgnb evaluate my_functions:classifier --data demo": "",
    "python -m ecgnb evaluate my_model.keras --split test": " --help",
    "python -m ecgnb train adaptive runs/mine-own --start my_model.keras --epochs 1 --data demo --per-class 4": "",
    "python -m ecgnb train my_defence:NoiseInstead runs/noise --epochs 1 --data demo --per-class 4": "",
    "python -m ecgnb train --help": "",
    "python -m ecgnb transfer baseline my_model.keras": " --help",
}
ELSEWHERE = {  # run by other tests
    "bash ci/reproduce --demo": "test_first_hour",
    "bash ci/test --quick": "by who changes something",
    "bash ci/test --nightly": "before a release",
    "bash ci/test -k attacks": "this is it",
    "jupyter lab notebooks": "test_readme",
    "pytest ci/test_torch.py": "where PyTorch is installed",
    "python -m ecgnb evaluate my_model.keras --data demo": "test_readme, with another surrogate",
    "python -m ecgnb train fast runs/mine --epochs 1 --data demo --per-class 4": "test_readme, another defence",
    "python ci/sweep.py my_runs.csv runs/mine-too": "test_sweep; its plan below",
} | dict.fromkeys([*README_CHEAPER, *README_ELSEWHERE], "test_readme")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.S)


def commands(page: Path) -> list[str]:
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.strip()]


# --- the site ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `ci/site` builds it, in another folder. Warnings are errors."""
    pytest.importorskip("furo", reason="pip install .[site]")
    folder = tmp_path_factory.mktemp("site")
    line = next(line for line in (ROOT / "ci" / "site").read_text().splitlines() if "sphinx-build" in line)
    words = shlex.split(line.partition("sphinx-build")[2])
    places = {"out/doctrees": folder / "doctrees", "out/site": folder / "site"}
    built = [sys.executable, "-m", "sphinx", *(str(places.get(word, word)) for word in words)]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(built, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "site"


@pytest.mark.nightly
def test_links_lead_somewhere_images_have_a_text_and_nothing_is_fetched(site):
    faults, elsewhere = check(site)
    assert not faults
    assert any("arxiv.org" in address for address in elsewhere)


@pytest.mark.nightly
def test_every_notebook_and_page_is_there_and_is_found_by_search(site):
    sources = [*(ROOT / "notebooks").glob("*.ipynb"), *PAGES, ROOT / "README.md", ROOT / ".github" / "CHANGELOG.md"]
    made = [source.relative_to(ROOT).with_suffix(".html") for source in sources]
    assert not [page for page in made if not (site / page).exists()]
    index = (site / "searchindex.js").read_text("utf-8")
    assert not [source.name for source in sources if f'"{source.relative_to(ROOT).with_suffix("")}"' not in index]
    assert '"fibril"' in index  # the stem of a word


@pytest.mark.nightly
def test_reference_and_slides_are_made(site):
    cli = (site / "notebooks/reference/cli.html").read_text("utf-8")
    assert "--per-class" in cli and "Traceback" not in cli
    modules = (site / "notebooks/reference/modules.html").read_text("utf-8")
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in ROOT.glob("ecgnb/*/*.py")]
    assert not [name for name in names if f'id="module-{name.removesuffix(".__init__")}"' not in modules]
    slides = (site / "notebooks/course/slides.html").read_text("utf-8")
    assert 12 <= len(re.findall("<h2>", slides)) <= 18 and "slides.js" in slides
    assert "<math" in (site / "notebooks/01_baseline.html").read_text("utf-8")


def test_the_checker_finds_what_is_wrong(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html">x</a><a href="#no">x</a><img src="https://cdn.example/x.png"><style>@import "//cdn.example/x"</style>'
    )
    faults, elsewhere = check(tmp_path)
    wrong = (
        "leads nowhere: b.html",
        "no such anchor: #no",
        "image without a text",
        "fetches https://cdn",
        "fetches //cdn",
    )
    assert all(any(words in fault for fault in faults) for words in wrong)
    assert elsewhere == {"https://cdn.example/x.png"}


# --- the course -------------------------------------------------------------------------------


def test_the_glossary_has_its_terms_once_each_and_explained():
    entries = re.findall(r"^### (.+)\n(\*\*.+)", (COURSE / "glossary.md").read_text("utf-8"), re.M)
    terms = [term for term, _ in entries]
    assert len(terms) >= 40 and len({term.lower() for term in terms}) == len(terms)
    assert terms and len(terms) == (COURSE / "glossary.md").read_text("utf-8").count("\n### ")
    asked = ("APGD", "DLR", "Square", "PRD", "ε-ball", "Challenge score", "EoT", "BPDA", "Label leaking", "P wave")
    assert set(asked) <= set(terms)


def test_the_quiz_has_twelve_questions_each_with_its_answer():
    parts = (COURSE / "quiz.md").read_text("utf-8").split("\n## ")[1:]
    assert [int(part.split(".")[0]) for part in parts] == list(range(1, 13))
    for number, part in enumerate(parts, 1):
        assert part.count(f"<details><summary>Answer {number}</summary>\n\n**") == 1, part
        assert len(part.split("</summary>")[1].split()) > 15, "an answer says why"


def test_every_question_of_a_notebook_has_an_answer():
    text = (COURSE / "answers.md").read_text("utf-8")
    answered = re.findall(r"<summary>Answer (\d\.\d)</summary>", text)
    asked = []
    for path in sorted((ROOT / "notebooks").glob("0*.py")):
        questions = path.read_text("utf-8").partition("**Questions.**")[2]
        asked += [f"{int(path.name[:2])}.{number}" for number in re.findall(r"\((\d)\) ", questions)]
    assert answered == asked
    assert re.findall(r"^### (\d\.\d) ", text, re.M) == asked


def test_papers_have_one_year_and_one_address_each():
    text = "".join((COURSE / name).read_text("utf-8") for name in ("glossary.md", "reading.md"))
    addresses = re.findall(r"https://arxiv\.org/abs/(\S+?)\)", text)
    assert len(set(addresses)) >= 20
    assert all(re.fullmatch(r"\d{4}\.\d{4,5}", address) for address in addresses)
    assert 15 <= (COURSE / "reading.md").read_text("utf-8").count("\n- ") <= 25


# --- the commands -----------------------------------------------------------------------------


def test_every_command_is_known_here():
    used = {command for page in PAGES for command in commands(page) if not command.startswith("papermill ")}
    assert not used - set(CHEAPER) - set(ELSEWHERE)
    assert set(CHEAPER) <= used


def test_papermill_commands_name_parameters_that_exist():
    calls = [shlex.split(c) for page in PAGES for c in commands(page) if c.startswith("papermill ")]
    assert len(calls) >= 6
    for words in calls:
        (notebook,) = (word for word in words if word.endswith(".ipynb"))
        known = inspect_notebook(ROOT / "notebooks" / notebook)
        given = [words[i + 1] for i, word in enumerate(words) if word == "-p"]
        assert set(given) <= set(known), words


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with what the pages' own Python makes: files of the user's, a model, and a folder of recordings."""
    made = tmp_path_factory.mktemp("howto")
    for page in ("own_model", "own_defence", "own_data"):
        saved = dict(saved_as(HOWTO / f"{page}.md"))
        for name, code in saved.items():
            (made / name).write_text(code)
        for code in blocks(HOWTO / f"{page}.md", "python"):
            if code not in saved.values():
                run([sys.executable, "-c", code], made)
    return made


def saved_as(page: Path) -> list[tuple[str, str]]:
    """Names and texts of the files that a page tells to save."""
    return re.findall(r"Save this as `(\w+\.py)`[^`]*```python\n(.*?)```", page.read_text("utf-8"), re.S)


def run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.nightly
@pytest.mark.parametrize("command", CHEAPER)
def test_a_command_of_a_page_works(command, folder):
    assert run(shlex.split(command + CHEAPER[command]), folder)


@pytest.mark.nightly
def test_the_new_defence_of_the_page_runs_in_notebook_5(folder):
    (command,) = (c for c in commands(HOWTO / "own_defence.md") if c.startswith("papermill"))
    words = shlex.split(command)
    words[1:2] = [str(ROOT / "notebooks" / words[1]), "made.ipynb"]
    run([*words, "-p", "SPLITS", "none", "-p", "OUT", str(folder / "out")], folder)
    assert (folder / "out" / "models" / "noise-instead.keras").exists()
    assert "noise-instead: half of every class" in (folder / "out" / "card.md").read_text("utf-8")


def test_the_plan_of_the_page_can_be_read(tmp_path):
    (plan,) = blocks(HOWTO / "own_defence.md", "text")
    (tmp_path / "my_runs.csv").write_text(plan)
    assert list(read_plan(tmp_path / "my_runs.csv")) == ["small-epsilon", "large-epsilon"]


def test_the_page_on_tests_names_files_that_exist():
    named = re.findall(r"`((?:test_\w+|conftest)\.py)`", (ROOT / "ci" / "TESTS.md").read_text("utf-8"))
    assert len(named) > 10 and not [name for name in named if not (ROOT / "ci" / name).exists()]
