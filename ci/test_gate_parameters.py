"""Settings that people give: each is read as what is meant, or refused in one line; driven by tables."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import numpy as np
import pandas as pd
import pytest
import sweep
import yaml
from conftest import ROOT, small_network
from IPython.core.interactiveshell import InteractiveShell
from papermill.cli import _resolve_type
from papermill.translators import PythonTranslator

from ecgnb import values
from ecgnb.__main__ import main
from ecgnb.attacks import Threat, apgd, apgd_targets, pgd, smooth, square, universal
from ecgnb.data.dataset import balanced_index, find_data
from ecgnb.errors import EcgnbError
from ecgnb.evaluation.engine import evaluate, transfer
from ecgnb.evaluation.named import from_keras
from ecgnb.evaluation.run import Execution
from ecgnb.evaluation.suites import Suite, notebook_suite, pgd_attack, suite
from ecgnb.evaluation.workers import workers
from ecgnb.models.keras_classifier import KerasClassifier
from ecgnb.quiet import keras
from ecgnb.training.configuration import TrainingConfig, overrides, training_config
from ecgnb.training.loop import train
from ecgnb.training.step import recompute_statistics

INF, NAN = float("inf"), float("nan")


# --- one value --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "example", "allowed", "meant"),
    [
        *[(word, True, "", False) for word in (False, "false", "False", " FALSE ", "no", 0, "0", np.False_)],
        *[(word, False, "", True) for word in (True, "true", "TRUE", "yes", 1, "1")],
        *[(20, 1, "", 20), (20.0, 1, "", 20), ("20", 1, "", 20), ("2e1", 1, "", 20), (np.int64(3), 1, "", 3)],
        *[(0.05, 0.2, "", 0.05), ("5e-2", 0.2, "", 0.05), ("1e-4", 0.2, "", 1e-4), ("1/255", 0.2, "", 1 / 255)],
        *[(1, 0.2, "", 1), ("1", 0.2, "", 1.0), (0, 0.2, ">= 0", 0), ("0.999", 0.2, ">= 0 and < 1", 0.999)],
        *[("~", "N", ("N", "O", "~", ""), "~"), ("", "N", ("N", ""), ""), (2018, "out", "", "2018")],
        *[(["baseline", "static"], "baseline", "", "baseline static"), ("", "", "", "")],
    ],
)
def test_a_value_is_read_as_what_is_meant(given, example, allowed, meant):
    found = values.read("NAME", given, example, allowed)
    assert found == meant and isinstance(found, type(meant))


@pytest.mark.parametrize(
    ("given", "example", "allowed", "wanted"),
    [
        *[(word, True, "", "true or false") for word in ("flase", "", None, 2, 1.0, "None", [])],
        *[(word, 20, "", "a whole number, such as 20") for word in (2.5, "2.5", "x", "", None, True, INF, NAN, "nan")],
        *[(word, 0.2, "", "a number, such as 0.2") for word in ("0,2", "1/0", "x/2", "20%", "", None, False, [0.2])],
        *[(word, 0.2, "> 0", "a number > 0, such as 0.2") for word in (0, -0.1, INF, -INF, NAN, "inf", "nan", "1e999")],
        *[(word, 0.2, ">= 0 and < 1", "a number >= 0 and < 1, such as 0.2") for word in (1, 1.5, -1e-9)],
        *[(word, "N", ("N", "~", ""), 'N or ~ or ""') for word in ("A", "n", "N ", None, 1)],
        *[(word, "out", "", 'text, such as "out"') for word in (None, True, 0.5, [1], {"a": 1})],
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_in_one_line(given, example, allowed, wanted):
    with pytest.raises(EcgnbError) as caught:
        values.read("NAME", given, example, allowed)
    assert str(caught.value) == f"NAME={given!r}: expected {wanted}"


# --- attacks, threats, suites, training ---------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *[(lambda e=e: Threat(epsilon=e), "epsilon=") for e in (-0.1, INF, NAN, None, "0,2", 1e7)],
        (lambda: Threat(target="A"), "target='A' is the attacked class itself"),
        (lambda: Threat(attack_class=""), "target='N' needs an attacked class"),
        (lambda: Threat(unit="mV"), "unit='mV': expected z or µV"),
        (lambda: Threat(norm="L1"), "norm='L1'"),
        *[(lambda b=b: Threat(band=b), "band=.*two rising frequencies") for b in ((40, 0.5), (-1, 40), (1, NAN))],
        (lambda: Threat(target="X").goal(("A", "N")), "target='X': expected A or N or \"\""),
        *[(lambda d=d: Suite("mine", {}, draws=d), "draws=") for d in (-5, 2.5, NAN)],
        (lambda: Suite("mine", {}, minimal_steps=-1), "minimal_steps=-1"),
        (lambda: Suite("mine", {}, noise=("brown",)), "noise='brown': expected random_sign or gaussian"),
        (lambda: suite("quik"), "suite='quik': expected results or quick or standard or full"),
        *[(lambda s=s: Execution(Path(), seed=s), "seed=") for s in (-1, 2**32, 0.5, None)],
        *[(lambda b=b: KerasClassifier(None, b), "batch_size=") for b in (0, -32, 1.5)],
        *[(lambda n=n: balanced_index(np.zeros(9, int), n, None), "per_class=") for n in (0, -5)],
        (lambda: training_config("madry"), "defence='madry': expected baseline or static"),
        (lambda: training_config("static", "leaky"), "protocol='leaky': expected leakfree or original"),
        (lambda: training_config("baseline", plateau=True), "plateau=True: a cosine sets the learning rate already"),
        *[
            (lambda text=text: overrides(text), message)
            for text, message in (
                *[("defence=static", "give it as DEFENCE"), ("drop=0.5", "no such setting"), ("steps", "steps=''")],
                *[("steps=x", "steps='x': expected a whole number"), ("cosine=maybe", "true or false")],
                ("dropout=1.5", "dropout='1.5': expected a number >= 0 and < 1"),
                ("class_counts=mix", "class_counts='mix': expected drawn or all"),
            )
        ],
        *[
            (lambda name=name, value=value: training_config("static", **{name: value}), f"^{name}=")
            for name, wrong in {
                **{name: (0, -1, 2.5, "x", NAN) for name in ("epochs", "per_class", "batch_size", "steps")},
                **{name: (0, -0.1, NAN, INF, "0,2") for name in ("learning_rate", "epsilon", "step_size")},
                **{name: (-0.1, NAN, INF) for name in ("weight_decay", "class_power", "noise", "beta")},
                **{name: (-0.1, 1, 1.5, NAN) for name in ("dropout", "label_smoothing")},
                **{name: ("maybe", None, 2) for name in ("redraw", "cosine", "shift", "amplitude", "mask_padding")},
                **{"seed": (-1, 2**32, 0.5), "target": ("A", None), "precision": ("float16",)},
                **{"statistics": ("no",), "select": ("first", ""), "defence": ("madry", "", None)},
            }.items()
            if name != "defence"
            for value in wrong
        ],
    ],
)
def test_a_setting_out_of_range_is_refused_at_construction(make, message):
    with pytest.raises(EcgnbError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_every_setting_of_training_that_is_a_number_has_a_range():
    for setting in TrainingConfig.__dataclass_fields__.values():
        of_the_data = setting.name in ("attack_class", "target")  # training looks at them beside its recordings
        assert setting.metadata["allowed"] or setting.type == "bool" or of_the_data, setting.name


def test_settings_of_training_are_read_from_text():
    text = "dropout=0.5 cosine=false target= steps=3 select=last epsilon=1/255 learning_rate=1e-4 batch_size=2e1"
    settings = overrides(text)
    assert settings == {
        **{"dropout": 0.5, "cosine": False, "target": "", "steps": 3, "select": "last"},
        **{"epsilon": 1 / 255, "learning_rate": 1e-4, "batch_size": 20},
    }
    assert overrides("") == {}
    words = dict(word.split("=") for word in text.split())
    assert training_config("static", **words) == training_config("static", **settings)


ATTACKS = {
    **{f: ("steps", "step", "seed") for f in (pgd, smooth)},
    **{apgd: ("steps", "restarts", "seed"), apgd_targets: ("steps",), square: ("queries", "largest", "seed")},
    **{universal: ("passes", "step")},
}


@pytest.mark.parametrize(
    ("attack", "name", "value"),
    [
        (attack, name, value)
        for attack, names in ATTACKS.items()
        for name in names
        if (attack, name) != (smooth, "seed")
        for value in ((-1, 2**40) if name == "seed" else (0, -1, NAN, INF))
    ],
)
def test_an_attack_refuses_what_would_make_it_fail_in_silence(linear, demo_dev, attack, name, value):
    problem = Threat().on(demo_dev.of_class("A").take([0]))
    more = {"random_start": True} if attack is pgd else {}
    with pytest.raises(EcgnbError, match=f"^{name}="):
        attack(KerasClassifier(linear[0]), problem, **more | {name: value})


def test_a_ball_without_an_inside_is_refused(demo_dev):
    af = demo_dev.of_class("A").take([0])
    for radius in (np.inf, np.nan, -1.0):
        with pytest.raises(EcgnbError, match="finite epsilon"):
            Threat().on(af).resized(np.array([radius]))
    with pytest.raises(EcgnbError, match="hold nothing above 150 Hz"):
        Threat(band=(200, 300)).on(af)
    with pytest.raises(EcgnbError, match="attack_class='X'"):
        Threat("X").is_attacked(af)


@pytest.mark.parametrize("batch_size", [8, 32, 300])
def test_statistics_are_recomputed_with_any_batch_size(demo_train, batch_size):
    """A batch that is larger than the recordings at hand is all of them."""
    keras.utils.set_random_seed(7)
    model, x = small_network(dropout=0.5), demo_train.x[:8]
    recompute_statistics(model, x, batch_size)
    bare = small_network(dropout=0.0)
    bare.set_weights(model.get_weights())
    assert np.allclose(model(x, training=False), bare(x, training=True), atol=1e-3)


# --- a class that is missing --------------------------------------------------------------------


def test_recordings_without_af_are_refused_by_what_needs_them(demo_train, demo_dev, tmp_path):
    model = small_network()
    evaluated, others = from_keras(model, "small"), demo_dev.take(demo_dev.y != 0)
    message = "no recording of class A"
    for chosen in (suite("results"), notebook_suite(Threat(), pgd_attack(1)), suite("quick")):
        with pytest.raises(EcgnbError, match=message):
            evaluate(evaluated, others, chosen, surrogate=evaluated)
    with pytest.raises(EcgnbError, match=message):
        transfer([evaluated], others)
    for folds in ((demo_train.take(demo_train.y != 0), demo_dev), (demo_train, others)):
        with pytest.raises(EcgnbError, match=message):
            train(TrainingConfig("fast", 1), *folds, tmp_path / "run", model)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """A folder with two recordings of the demo set, neither of them AF, in each archive."""
    demo, folder = find_data("demo")[0], tmp_path_factory.mktemp("few")
    labels = dict(line.split(",") for line in (demo / "REFERENCE-v3.csv").read_text().split())
    shutil.copy(demo / "REFERENCE-v3.csv", folder)
    for archive in ("validation", "training"):
        names = [n for n in (demo / archive / "RECORDS").read_text().split() if labels[n] != "A"][:2]
        (folder / archive).mkdir()
        for name in names:
            for ending in (".mat", ".hea"):
                shutil.copy(demo / archive / f"{name}{ending}", folder / archive)
        (folder / archive / "RECORDS").write_text("\n".join(names) + "\n")
        shutil.copy(demo / archive / "REFERENCE.csv", folder / archive)
    return folder


# --- the command line ---------------------------------------------------------------------------

TRAIN, EVALUATE = "train fast {tmp}/run --data demo --epochs 1", "evaluate baseline --out {tmp}/out"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("evaluate", "the following arguments are required: model"),
        ("nonsense", "invalid choice: 'nonsense'"),
        ("evaluate '' --data demo --out {tmp}", "no such model"),
        ("evaluate nowhere --data demo --out {tmp}", "nowhere.keras: no such model"),
        (f"{EVALUATE} --data demo --split tset", "split='tset'"),
        (f"{EVALUATE} --data demo --split ''", "split=''"),
        (f"{EVALUATE} --suite quik", "invalid choice: 'quik'"),
        (f"{EVALUATE} --data demo --surrogate nowhere", "nowhere.keras: no such model"),
        *[(f"{EVALUATE} --seed {seed}", f"--seed='{seed}': expected") for seed in ("-1", "x", "0.5", "4294967296")],
        (f"{EVALUATE} --data nowhere", "DATA='nowhere'"),
        (f"{EVALUATE} --data {{few}}", "no recording of class A"),
        (f"{EVALUATE} --data {{few}} --split test", "recordings is in split 'test'"),
        ("evaluate baseline --data demo --out /etc/passwd", "--out=/etc/passwd: no folder to write to"),
        ("evaluate baseline --data demo --out /proc/no/where", "--out=/proc/no/where: no folder to write to"),
        ("transfer baseline --data {few} --out {tmp}", "no recording of class A"),
        ("transfer baseline --data demo --out /etc/passwd", "no folder to write to"),
        ("results {tmp}", "baseline_attacked.json: cannot be read"),
        ("data --data demo --bad skipp", "bad='skipp'"),
        ("train madry {tmp}/run", "defence='madry': expected baseline or static"),
        (f"{TRAIN} --protocol leaky", "protocol='leaky'"),
        (f"{TRAIN} --epochs 1,5", "epochs='1,5': expected a whole number >= 1, such as 20"),
        (f"{TRAIN} --epsilon=-0.1", "epsilon='-0.1': expected a number > 0"),
        (f"{TRAIN} --dropout 1.5", "dropout='1.5'"),
        (f"{TRAIN} --seed -1", "seed='-1'"),
        (f"{TRAIN} --target A", "target='A'"),
        (f"{TRAIN} --start nowhere", "nowhere.keras: no such model"),
        (f"{TRAIN} --epochs", "expected one argument"),
        ("train fast /etc/passwd --data demo --epochs 1", "folder=/etc/passwd: no folder to write to"),
        ("train baseline {tmp}/run --data {few} --epochs 1", "recordings is in split"),
    ],
)
def test_the_command_line_refuses_in_one_line(command, message, few, tmp_path, capsys):
    words = [word.strip("'") for word in command.format(tmp=tmp_path, few=few).split()]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("ecgnb: ") and error.count("\n") == 1
    assert not list(tmp_path.rglob("*.*"))  # nothing was written


def test_help_shows_the_range_of_a_setting(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "share of activations dropped in training (>= 0 and < 1)" in shown


@pytest.mark.parametrize("where", ["local:0", "local:-1", "local:x", "locally"])
def test_a_cluster_that_is_misspelt_is_named(where):
    with pytest.raises(EcgnbError, match=f"--cluster {where}: expected local, or local:N"), workers(where):
        pass


# --- plans of runs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (b"name,DEFENCE\n../outside,fast\n", "'../outside' names a run; use letters"),
        (b"name,DEFENCE\n/tmp/outside,fast\n", "names a run; use letters"),
        (b"name,DEFENCE\n.hidden,fast\n", "names a run; use letters"),
        (b"name,DEFENSE\none,fast\n", "no such parameter: DEFENSE; there are DATA, DEFENCE"),
        (b"name,OUT\none,/tmp\n", "no such parameter: OUT"),
        (b"name,OVERRIDES\none,dropout=1.5\n", "dropout='1.5': expected a number"),
        (b"name,DEFENCE\none,\xff\n", "no plan to read, a CSV file in UTF-8"),
        (b"name,DEFENCE\n", "no run in this plan"),
        (b"", "no run in this plan"),
    ],
)
def test_a_plan_with_a_wrong_setting_is_refused_before_anything_runs(plan, message, tmp_path, capsys):
    (tmp_path / "plan.csv").write_bytes(plan)
    assert sweep.main([str(tmp_path / "plan.csv"), str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_plan_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "plan.csv").write_bytes(b"\xef\xbb\xbfname,DEFENCE\none,fast\n")
    assert sweep.read_plan(tmp_path / "plan.csv") == {"one": {"DEFENCE": "fast"}}


# --- notebooks ----------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, tmp_path):
    """run(name, given, last) executes code cells as papermill and a kernel do, up to the first that holds `last`."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    shell = InteractiveShell.instance()

    def execute(name: str, given: dict, last: str) -> dict:
        notebook = jupytext.read(ROOT / "notebooks" / f"{name}.py")
        sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        sources.insert(1, PythonTranslator.codify({"OUT": str(tmp_path / "out")} | given))
        for source in sources:
            shell.run_cell(source, store_history=True).raise_error()
            if last in source:
                break
        return shell.user_ns

    yield execute
    InteractiveShell.clear_instance()


START = "notebook.start("  # where parameters are checked


def given(text: str) -> dict:
    """What papermill makes of options such as -p NAME VALUE, -r NAME VALUE and -y YAML."""
    option, _, rest = text.partition(" ")
    if option == "-y":
        return yaml.safe_load(rest)
    name, _, value = rest.partition(" ")
    return {name: _resolve_type(value) if option == "-p" else value}


@pytest.mark.parametrize(
    ("name", "option", "parameter", "meant"),
    [
        ("01_baseline", "-p RESUME false", "RESUME", False),
        ("00_data", "-p FULL false", "FULL", False),
        ("00_data", "-y {FULL: no}", "FULL", False),
        ("01_baseline", '-y {TARGET: "~"}', "TARGET", "~"),
        ("01_baseline", "-p TARGET ~", "TARGET", "~"),
        ("01_baseline", "-r TARGET ", "TARGET", ""),
        ("01_baseline", "-p MAX_ITER 2e1", "MAX_ITER", 20),
        ("01_baseline", "-y {MAX_ITER: 2e1}", "MAX_ITER", 20),
        ("01_baseline", "-y {EPSILON: 5e-2}", "EPSILON", 0.05),
        ("01_baseline", "-y {EPS_STEP: 1e-2}", "EPS_STEP", 1e-2),
        ("02_static", "-p MODEL ", "MODEL", ""),
        ("01_baseline", "-p EPSILON 1/255", "EPSILON", 1 / 255),
        ("01_baseline", "-p EPSILON 0", "EPSILON", 0),
        ("01_baseline", "-r EPOCHS 0", "EPOCHS", 0),
        ("05_training", "-p NAME 2018", "NAME", "2018"),
        ("05_training", "-y {SPLITS: [validation, test]}", "SPLITS", "validation test"),
        ("06_results", "-p HISTORIES ", "HISTORIES", ""),
        ("00_data", "-y {PAPERMILL_INPUT_PATH: in.ipynb, PAPERMILL_OUTPUT_PATH: out.ipynb}", "SEED", 2017),
    ],
)
def test_a_parameter_is_read_as_its_default_is(run, name, option, parameter, meant):
    found = run(name, given(option), START)[parameter]
    assert found == meant and isinstance(found, type(meant))


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("01_baseline", "-y {TARGET: ~}", "TARGET=None: YAML's ~ and papermill's None are no text"),
        ("01_baseline", "-p TARGET None", "TARGET=None"),
        ("01_baseline", "-p TARGET A", "TARGET='A': expected N or O or ~"),
        ("01_baseline", "-p EPSILON 0,2", "EPSILON='0,2': expected a number >= 0 and <= 1000, such as 0.2"),
        *[("01_baseline", f"-p EPSILON {value}", "EPSILON=") for value in ("-0.1", "inf", "nan", "True")],
        ("01_baseline", "-p EPS_STEP 0", "EPS_STEP=0: expected a number > 0, such as 0.02"),
        *[("01_baseline", f"-p {name} 0", f"{name}=0") for name in ("MAX_ITER", "RESTARTS", "BATCH_SIZE")],
        ("02_static", "-p TRAIN_ITER 0", "TRAIN_ITER=0"),
        ("02_static", "-p PER_CLASS -5", "PER_CLASS=-5"),
        ("03_adaptive", "-p EPOCHS -1", "EPOCHS=-1: expected a whole number >= 0"),
        ("03_adaptive", "-p SPLIT ", 'SPLIT="": expected text, such as "validation"'),
        ("03_adaptive", "-p DROPOUT 0.5", "no such parameter: DROPOUT; this notebook has BAD, BASELINE"),
        ("03_adaptive", "-p RESUME maybe", "RESUME='maybe': expected true or false"),
        ("04_evaluation", "-p SUITE results", "SUITE='results': expected quick or standard or full"),
        ("05_training", "-p DEFENCE madry", "DEFENCE='madry': expected baseline or static"),
        ("05_training", "-p BUDGET quick", "no such parameter: BUDGET; this notebook has DATA, DEFENCE"),
        ("06_results", "-p OUT /etc/passwd", "OUT=/etc/passwd: no folder to write to"),
        ("06_results", "-p OUT ", 'OUT="": expected text, such as "out"'),
    ],
)
def test_a_parameter_that_cannot_be_is_refused_before_any_work(run, name, option, message):
    with pytest.raises(EcgnbError) as caught:
        run(name, given(option), START)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("runs", "histories", "message"),
    [("baseline", "static adaptive fast", ""), ("original-baseline", "", ""), ("fast", "nowhere", "nowhere.csv")],
)
def test_notebook_6_takes_any_of_its_runs(run, runs, histories, message):
    settings = {"RUNS": runs, "HISTORIES": histories}
    if not message:
        assert runs.split()[0] in run("06_results", settings, 'print("correct")')["results"]
        return
    with pytest.raises(EcgnbError, match=message):
        run("06_results", settings, "leaky =")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"OVERRIDES": "defence=static"}, "give it as DEFENCE"),
        ({"SPLITS": "validation tset"}, "split='tset'"),
        ({"EPOCHS": 1, "PROTOCOL": "original", "SPLITS": "test"}, "no test fold"),
        ({"MODEL": "{model}"}, "small.csv, small.json: no history and settings of a training"),
    ],
)
def test_notebook_5_refuses_before_it_trains(run, settings, message, tmp_path):
    small_network().save(tmp_path / "small.keras")
    settings = {
        key: value.format(model=tmp_path / "small.keras") if key == "MODEL" else value
        for key, value in settings.items()
    }
    with pytest.raises(EcgnbError, match=message):
        run("05_training", {"DATA": "demo"} | settings, "read_training")


def some_cells(name: str, given: dict, *wanted: str) -> dict:
    """What the parameters, the imports and the first cells that hold each of `wanted` leave."""
    notebook = jupytext.read(ROOT / "notebooks" / f"{name}.py")
    parameters, *sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    found: dict = {}
    exec(parameters, found)
    assert set(given) <= set(found)
    found |= given
    for text in (START, *wanted):
        exec(next(source for source in sources if text in source), found)
    return found


DEFENCE_OF = {"01_baseline": "baseline", "02_static": "static", "03_adaptive": "adaptive"}
CONFIG, MODEL = "config = training_config(", "load_or_train("


@pytest.mark.parametrize("protocol", ["leakfree", "original"])
@pytest.mark.parametrize("name", DEFENCE_OF)
def test_a_notebook_trains_as_a_sweep_does(name, protocol, tmp_path):
    settings = {"PROTOCOL": protocol, "EPOCHS": 3, "OUT": str(tmp_path)}
    found = some_cells(name, settings, CONFIG)
    assert found["config"] == training_config(DEFENCE_OF[name], protocol, epochs=3)
    own = {"BASELINE": "baseline", "STATIC": "static", "MODEL": DEFENCE_OF[name]}
    prefix = "original-" * (protocol == "original")
    assert all(found[key] == prefix + model for key, model in own.items() if key in found)
    changed = some_cells(name, settings | {"OVERRIDES": "dropout=0.1 select=best"}, CONFIG)["config"]
    assert (changed.dropout, changed.select, changed.epochs) == (0.1, "best", 3)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("02_static", {"PROTOCOL": "original"}, ""),
        ("01_baseline", {"PROTOCOL": "original", "MODEL": "baseline"}, "baseline: trained under protocol leakfree"),
        ("03_adaptive", {"MODEL": "original-adaptive"}, "original-adaptive: trained under protocol original"),
        (
            "02_static",
            {"PROTOCOL": "original", "EPOCHS": 1, "BASELINE": "baseline"},
            "this run is of protocol original",
        ),
        ("05_training", {"PROTOCOL": "original"}, "fast: trained under protocol leakfree"),
    ],
)
def test_no_model_is_labelled_with_a_protocol_that_it_was_not_trained_under(name, settings, message, tmp_path):
    settings |= {"DATA": "demo", "OUT": str(tmp_path)}
    wanted = [CONFIG, MODEL] if name != "05_training" else [MODEL]
    if not message:
        found = some_cells(name, settings, *wanted)
        assert found["name"] == "original-static" and found["dataset"].protocol == "original"
        assert found["history"].equals(pd.read_csv(ROOT / "models" / "original-static.csv"))
        return
    with pytest.raises(EcgnbError, match=message) as caught:
        some_cells(name, settings, *wanted)
    assert "\n" not in str(caught.value)


def test_a_model_is_not_evaluated_on_recordings_that_it_was_trained_on(tmp_path, capsys):
    """The shipped model says under which protocol it was trained, and `original` has no test fold."""
    command = ["evaluate", "original-baseline", "--data", "demo", "--out", str(tmp_path), "--split", "test"]
    assert main(command) == 2
    assert "trains on every recording, so it has no test fold" in capsys.readouterr().err


def test_papermill_ends_in_one_line_with_an_unknown_parameter(tmp_path):
    """As `source ci/activate` gives it; what it adds by itself, and what is meant, are no mistakes."""
    command = [sys.executable, str(ROOT / "ci" / "bin" / "papermill"), str(ROOT / "notebooks" / "00_data.ipynb")]
    options = [
        "--inject-paths",
        "--no-progress-bar",
        "--log-level",
        "ERROR",
        "-p",
        "FULL",
        "false",
        "-p",
        "EPOCS",
        "150",
    ]
    done = subprocess.run(
        [*command, str(tmp_path / "out.ipynb"), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "EcgnbError: no such parameter: EPOCS; this notebook has BAD, DATA" in done.stderr
    assert "Traceback" not in (tmp_path / "out.ipynb").read_text("utf-8")
