"""The front page: every command on it is run as it stands, but for its cost, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from conftest import ROOT, small_network

from ecgnb.data.demo import write_demo

README = (ROOT / "README.md").read_text("utf-8")
CHEAPER = {  # the command on the page -> what is run here in its place
    "python -m ecgnb evaluate my_model.keras": " --data demo --surrogate my_model.keras --save-examples",
    "python -m ecgnb evaluate my_model.keras --suite standard": " --help",
    "python -m ecgnb train adaptive runs/mine --epochs 150": " --epochs 1 --data demo --per-class 4 --steps 1",
    "python -m ecgnb data --data my_folder": "",
    "python -m ecgnb evaluate baseline --data my_folder": " --suite results",
    "jupyter lab notebooks": " --version",
}
LONGEST = (
    "python -m ecgnb evaluate baseline --data my_folder",
    "python -m ecgnb train adaptive runs/mine --epochs 150",
)
ELSEWHERE = {  # run by other tests
    "bash ci/reproduce": "test_first_hour, test_notebooks",
    "bash ci/site": "test_site",
    "bash ci/test": "this is it",
    "python ci/students.py": "test_exercises",
    "source ci/activate": "test_first_hour",
    "papermill 03_adaptive.ipynb -p EPOCHS 150": "test_first_hour",
    "papermill --help-notebook 03_adaptive.ipynb": "test_first_hour",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def commands() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.strip()]


def test_every_command_is_known_here():
    assert sorted(commands()) == sorted([*CHEAPER, *ELSEWHERE])


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """What git tracks, or would, in another folder, with a model and a folder of recordings of the user's own."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["git", "init", "-q", folder], check=True)
    for name in files.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(ROOT / name, folder / name)
    keras.utils.set_random_seed(1)
    small_network(dropout=0).save(folder / "my_model.keras")
    write_demo(folder / "my_folder")
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [pytest.param(c, marks=pytest.mark.nightly) if c in LONGEST else c for c in CHEAPER]
)
def test_a_command_of_the_page_works_and_leaves_no_untracked_file(command, checkout):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(checkout), "TQDM_DISABLE": "1"}
    done = subprocess.run(
        command + CHEAPER[command],
        shell=True,
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    status = ["git", "status", "--porcelain"]
    left = subprocess.run(status, cwd=checkout, capture_output=True, text=True, check=True).stdout
    assert not [line for line in left.splitlines() if line.startswith("??")]


@pytest.mark.slow
@pytest.mark.real
def test_the_python_of_the_page_runs():
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0.5 < float(done.stdout) < 1  # of AF recordings become normal


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [t for t in targets if not t.startswith("http") and not (ROOT / t).exists()]
    assert not missing
