"""The first hour of a newcomer: start-up without noise, progress bars, Jupyter, papermill, installation."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import nbformat
import publish
import pytest
import reproduce
from conftest import ROOT
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from papermill import inspect_notebook
from test_notebooks import check_demo_figures

from ecgnb.training.configuration import overrides, training_config

TINY = """\
# %% [markdown]
# # 7 · A small notebook

# %% tags=["parameters"]
EPOCHS = 0  # 0: none

# %%
print("epochs", EPOCHS)
"""


def python(code: str, **settings) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **settings)


def terminal(lines: list[str], folder: Path, **environment: str) -> str:
    """What an interactive bash shows on its (pseudo-)terminal when these lines are typed."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))  # rows, columns
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=its,
        stdout=its,
        stderr=its,
        cwd=folder,
        env=os.environ | {"PS1": "$ ", "TERM": "dumb"} | environment,
        start_new_session=True,
    )
    os.close(its)
    os.write(ours, "\n".join([*lines, "exit", ""]).encode())
    shown = b""
    while True:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the shell has ended, and with it the terminal
            break
    shell.wait()
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A repository whose last commit holds one notebook and its .py; the .py."""
    folder = tmp_path / "repository" / "notebooks"
    folder.mkdir(parents=True)
    source = folder / "07_small.py"
    source.write_text(TINY, "utf-8")
    shutil.copy(ROOT / "notebooks" / "jupytext.toml", folder)
    publish.publish(source, tmp_path / "elsewhere")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "a pair"]):
        subprocess.run([*git, *command], cwd=folder.parent, check=True)
    return source


def edit(source: Path, text: str) -> None:
    """Change the last cell of the .ipynb beside a .py, as a program does that knows no pairs."""
    stored = source.with_suffix(".ipynb")
    notebook = nbformat.read(stored, 4)
    notebook.cells[-1].source = text
    nbformat.write(notebook, stored)


# --- noise ------------------------------------------------------------------------------------


def test_keras_starts_without_noise_and_what_matters_still_shows():
    """The last words of a process that aborts, too."""
    done = python(
        "import os, sys, warnings\n"
        "import ecgnb.models.files\n"
        "print('STARTED', file=sys.stderr, flush=True)\n"
        "from ecgnb.quiet import without_start_up_messages\n"
        "with without_start_up_messages():\n"
        "    os.write(2, b'I0000 00:00:1795577381.3 7105 port.cc:153] oneDNN operations are on.\\n')\n"
        "    os.write(2, b'E0000 00:00:1795577381.3 7105 cuda_platform.cc:52] failed call to cuInit: '\n"
        "        b'INTERNAL: CUDA error: Failed call to cuInit: UNKNOWN ERROR (303)\\n')\n"
        "    os.write(2, b'E0000 00:00:1795577381.3 7105 cuda_platform.cc:52] failed call to cuInit: '\n"
        "        b'INTERNAL: CUDA error: Failed call to cuInit: CUDA_ERROR_UNKNOWN: unknown error\\n')\n"
        "    os.write(2, b'W0000 00:00:1795577381.3 7105 gpu_device.cc:1] Cannot dlopen\\n')\n"
        "    warnings.warn('a warning of Python')\n"
        "    os.write(2, b'F0000 00:00:1795577381.3 7105 x.cc:1] compiled to use AVX\\n')\n"
        "    os.abort()\n"
    )
    noise, _, shown = done.stderr.partition("STARTED\n")
    assert noise == ""
    assert "oneDNN" not in shown and "(303)" not in shown
    for real in ("CUDA_ERROR_UNKNOWN", "Cannot dlopen", "a warning of Python", "to use AVX"):
        assert real in shown, real


def test_a_notebook_starts_without_a_red_box_and_keeps_no_bar(monkeypatch):
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # with it, a kernel shows nothing of C++
    notebook = nbformat.v4.new_notebook(metadata=publish.METADATA)
    notebook.cells = [
        nbformat.v4.new_code_cell(source)
        for source in (
            "from ecgnb import notebook",
            "import time\nfrom ecgnb.progress import bar\n"
            "for _ in bar('attack', range(30)): time.sleep(0.1)\nprint('done')",
            "import os\n_ = os.write(2, b'a real warning\\n')\ntime.sleep(1)",
        )
    ]
    NotebookClient(notebook).execute()
    start, work, warning = (cell.outputs for cell in notebook.cells)
    assert start == []
    bars = [output for output in work if output.output_type != "stream"]
    assert [output.data for output in bars] == [{"text/plain": ""}]
    assert [output.name for output in work if output.output_type == "stream"] == ["stdout"]
    assert [(output.name, output.text) for output in warning] == [("stderr", "a real warning\n")]


def test_a_terminal_has_a_bar_that_goes_when_the_work_is_done(tmp_path):
    loop = "import time; from ecgnb.progress import bar; [time.sleep(0.3) for _ in bar('attack', range(8))]"
    command = f'{sys.executable} -c "{loop}"; echo END'
    assert "attack:  75%|" in terminal([command], tmp_path)
    assert "%|" not in terminal([f"TQDM_DISABLE=1 {command}"], tmp_path)
    assert python(loop).stderr == ""  # no terminal, no bar


# --- Jupyter ----------------------------------------------------------------------------------


@pytest.fixture(params=["repository", "notebooks"])
def server(pair, request, tmp_path):
    """A Jupyter server as Lab starts one, in the repository or in notebooks/: ask(method, path, model)."""
    root = pair.parent if request.param == "notebooks" else pair.parent.parent
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyter", "server", "--no-browser", "--allow-root"),
            *("--ServerApp.port=0", f"--ServerApp.root_dir={root}"),
        ],
        env=os.environ | {"JUPYTER_RUNTIME_DIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120

    def ask(method: str, path: Path, model: dict | None = None) -> dict:
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(StopIteration, ConnectionError, urllib.error.URLError):
                address = json.loads(next(tmp_path.glob("jpserver-*.json")).read_text())
                request = urllib.request.Request(
                    f"{address['url']}api/contents/{path.relative_to(root)}",
                    method=method,
                    data=json.dumps(model).encode() if model else None,
                    headers={"Authorization": f"token {address['token']}"},
                )
                return json.load(urllib.request.urlopen(request, timeout=60))
            time.sleep(0.2)  # it is not there yet
        raise AssertionError("no answer from the server")

    yield ask
    process.terminate()
    log = process.communicate(timeout=60)[1]
    assert "Warning" not in log and "Stripping" not in log, log


def changed(source: Path) -> str:
    """Names of the files that differ from the last commit."""
    done = subprocess.run(["git", "diff", "--name-only"], cwd=source.parent, capture_output=True, text=True, check=True)
    return done.stdout


def test_jupyter_saves_a_pair_wherever_it_was_started(server, pair):
    """Unchanged, and by another Python: no difference. Edited: the .py has it, too."""
    stored = pair.with_suffix(".ipynb")
    model = server("GET", stored)
    model["content"]["metadata"]["language_info"]["version"] = "3.13.9"
    server("PUT", stored, model)
    assert changed(pair) == ""
    model["content"]["cells"][-1]["source"] = "print('edited in Jupyter')"
    server("PUT", stored, model)
    assert changed(pair) == "notebooks/07_small.ipynb\nnotebooks/07_small.py\n"
    assert pair.read_text("utf-8").endswith("# %%\nprint('edited in Jupyter')\n")


# --- ci/publish -------------------------------------------------------------------------------


def test_publish_refuses_an_edit_that_the_py_lacks(pair, tmp_path):
    assert publish.refusal_of(pair, tmp_path) == ""
    pair.write_text(TINY.replace("epochs", "EPOCHS"), "utf-8")
    assert publish.refusal_of(pair, tmp_path) == ""  # edited where it should be
    edit(pair, "print('edited elsewhere')")
    refusal = publish.refusal_of(pair, tmp_path)
    assert refusal.startswith("notebooks/07_small.ipynb holds edits that 07_small.py lacks.")
    for remedy in ("jupytext --to py:percent", "git checkout"):
        command = next(line for line in refusal.splitlines() if remedy in line).split(": ")[1]
        subprocess.run(command.split(), cwd=pair.parent.parent, check=True)
        assert publish.refusal_of(pair, tmp_path) == "", command
        edit(pair, "print('edited elsewhere again')")


def test_publish_may_be_repeated_without_a_commit(pair, tmp_path):
    for text in ("print(1)\n", "print(2)\n"):
        pair.write_text(TINY + text, "utf-8")
        assert publish.refusal_of(pair, tmp_path) == ""
        publish.publish(pair, tmp_path)
        assert publish.is_paired(pair)


def test_a_notebook_that_fails_is_not_published(pair, tmp_path):
    before = pair.with_suffix(".ipynb").read_bytes()
    pair.write_text(TINY + "1 / 0\n", "utf-8")
    with pytest.raises(CellExecutionError):
        publish.publish(pair, tmp_path)
    assert pair.with_suffix(".ipynb").read_bytes() == before
    assert not list(pair.parent.glob(".*.ipynb"))


def test_a_published_notebook_holds_nothing_of_its_machine(pair):
    stored = nbformat.read(pair.with_suffix(".ipynb"), 4)
    assert stored.metadata.kernelspec.display_name == "Python 3 (ipykernel)"
    assert "version" not in stored.metadata.language_info
    assert [set(cell.metadata) for cell in stored.cells] == [set(), {"tags"}, set()]
    assert publish.as_py(stored) == TINY


# --- papermill and ci/reproduce ---------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path) -> Path:
    """What `source ci/activate` needs of the repository, where nobody's own results are overwritten."""
    if not (Path(sys.prefix) / ".installed").exists():
        pytest.skip("these tests do not run in the .venv that the scripts in ci/ make")
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT / "ci", copy / "ci", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "notebooks", copy / "notebooks")
    shutil.copy(ROOT / "pyproject.toml", copy)
    (copy / ".venv").symlink_to(sys.prefix)
    return copy


@pytest.mark.parametrize("folder", [".", "notebooks"])
def test_papermill_as_the_user_types_it(checkout, folder):
    activate = "source ci/activate" if folder == "." else "source ../ci/activate"
    shown = terminal(
        [activate, "papermill 03_adaptive.ipynb -p EPOCHS 150 --prepare-only", "echo status $?"], checkout / folder
    )
    assert "\nstatus 0\n" in shown, shown
    executed = checkout / "out" / "notebooks" / "03_adaptive.ipynb"
    assert "EPOCHS = 150" in [c.source.splitlines()[-1] for c in nbformat.read(executed, 4).cells]


@pytest.mark.nightly
def test_papermill_trains_on_a_terminal(checkout):
    """The same words on the demo set, with one epoch and few steps; figures in out/, whatever the folder."""
    shown = terminal(
        [
            "source ci/activate",
            f"papermill 03_adaptive.ipynb -p EPOCHS 1 -p DATA demo -p PER_CLASS 6 -p MAX_ITER 2 "
            f"-p TRAIN_ITER 1 -p OUT {checkout}/out",
            "echo status $?",
        ],
        checkout,
    )
    assert "\nstatus 0\n" in shown, shown
    assert "100%|" in shown and "WARNING" not in shown and not re.search(r"^[IWE]0000", shown, re.M)
    check_demo_figures("03_adaptive", checkout / "out")
    assert (checkout / "out" / "models" / "adaptive.keras").exists()


def test_papermill_with_an_output_path_and_for_help_is_as_it_always_is(checkout):
    shown = terminal(
        [
            "source ci/activate",
            "papermill --help",
            "papermill --help-notebook 03_adaptive.ipynb",
            "papermill notebooks/03_adaptive.ipynb mine.ipynb -p EPOCHS 1 --prepare-only",
            "deactivate; type papermill",
        ],
        checkout,
    )
    assert "Usage: papermill [OPTIONS] NOTEBOOK_PATH [OUTPUT_PATH]" in shown
    assert "EPOCHS: Unknown type (default 0)" in shown
    assert (checkout / "mine.ipynb").exists() and not (checkout / "out").exists()
    assert f"{checkout}/ci/bin/papermill" not in shown


@pytest.mark.parametrize("mode", ["quick", "full", "demo"])
def test_reproduce_gives_parameters_that_the_notebooks_have(mode, tmp_path):
    for name, given in reproduce.parameters(mode, tmp_path).items():
        assert set(given) <= set(inspect_notebook(ROOT / "notebooks" / f"{name}.ipynb")), name


def test_reproduce_trains_what_is_shipped(tmp_path):
    given = reproduce.parameters("full", tmp_path)
    for notebook, name in (("01_baseline", "baseline"), ("02_static", "static"), ("03_adaptive", "adaptive")):
        shipped = json.loads((ROOT / "models" / f"{name}.json").read_text("utf-8"))
        settings = {key: given[notebook][key.upper()] for key in ("epochs", "seed", "precision")}
        settings |= overrides(given[notebook].get("OVERRIDES", ""))
        config = vars(training_config(name, **settings))
        assert not [key for key, value in shipped.items() if key != "recordings" and config[key] != value]


def test_reproduce_shows_a_bar_a_line_a_notebook_and_where_the_pictures_are(pair, tmp_path):
    """With small notebooks and a command that prints a table."""
    shown = terminal(
        [
            f"{sys.executable} -c 'import pathlib, reproduce, sys; "
            f'reproduce.ROOT = pathlib.Path("{pair.parent.parent}"); '
            'sys.argv = ["", "quick", "out"]; sys.exit(reproduce.main())'
            "'"
        ],
        ROOT / "ci",
    )
    assert "%|" in shown and "cell/s" in shown
    assert "07_small       7 · A small notebook" in shown
    assert "pictures: out   executed notebooks: out/notebooks" in shown
    assert (pair.parent.parent / "out" / "notebooks" / "07_small.ipynb").exists()


def test_reproduce_says_which_cell_failed(pair, monkeypatch, capsys):
    pair.write_text(TINY + "1 / 0\n", "utf-8")
    subprocess.run([sys.executable, "-m", "jupytext", "--quiet", "--update", "--to", "ipynb", pair])
    monkeypatch.setattr(reproduce, "ROOT", pair.parent.parent)
    monkeypatch.setattr(sys, "argv", ["", "quick", "out"])
    assert reproduce.main() == 1
    assert "07_small: ZeroDivisionError: division by zero\nsee " in capsys.readouterr().err


# --- installation -----------------------------------------------------------------------------


@pytest.mark.nightly
def test_an_installed_package_has_the_models_and_needs_no_checkout(tmp_path):
    """A wheel built from a copy, unpacked elsewhere and used from there."""
    copy, installed = tmp_path / "copy", tmp_path / "installed"
    for folder in ("ecgnb", "models"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"),
            *("--no-build-isolation", "--wheel-dir", str(tmp_path), str(copy)),
        ],
        check=True,
    )
    with zipfile.ZipFile(next(tmp_path.glob("ecgnb-*.whl"))) as wheel:
        wheel.extractall(installed)
    package = installed / "ecgnb"
    source = {path.relative_to(ROOT / "ecgnb") for path in (ROOT / "ecgnb").rglob("*.py")}
    data = {Path("data/manifest.csv"), Path("report/page.html.j2")}
    assert not {path for path in source | data if not (package / path).is_file()}
    for pattern in ("*.keras", "*.csv", "*.json"):
        shipped = {path.name for path in (package / "shipped").glob(pattern)}
        assert shipped == {path.name for path in (ROOT / "models").glob(pattern)}
    settings = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(installed)}}
    help_text = subprocess.run([sys.executable, "-m", "ecgnb", "--help"], capture_output=True, text=True, **settings)
    assert "evaluate" in help_text.stdout, help_text.stderr
    done = python(
        "import ecgnb\nfrom ecgnb.models.files import load_model, model_path\n"
        "print(ecgnb.__file__, model_path('baseline'), load_model('baseline').count_params())",
        **settings,
    )
    assert done.stdout.split() == [
        str(package / "__init__.py"),
        str(package / "shipped" / "baseline.keras"),
        "843780",
    ], done.stderr
