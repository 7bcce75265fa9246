"""A model file is a classifier, or it is refused: no code, logits, finite, with an identity, in every version of Keras."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace

import fuzz_models
import h5py
import keras
import numpy as np
import pytest
from conftest import ROOT, small_network
from keras import layers, ops

from ecgnb import notebook
from ecgnb.__main__ import main
from ecgnb.attacks import Threat, pgd
from ecgnb.constants import CLASSES, FS
from ecgnb.errors import EcgnbError
from ecgnb.evaluation.engine import describe, evaluate, transfer
from ecgnb.evaluation.named import from_keras, named_models
from ecgnb.evaluation.schema import check_free, read_report
from ecgnb.evaluation.suites import results_suite
from ecgnb.models.classifier import signals, softmax
from ecgnb.models.files import load_model
from ecgnb.models.identity import model_digest
from ecgnb.models.keras_classifier import KerasClassifier
from ecgnb.training.configuration import training_config
from ecgnb.training.loop import train

X = signals((9000, 1))


def classifier(end=lambda z: z, front=lambda x: x) -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((9000, 1))
    z = layers.Dense(4, name="head")(layers.Flatten()(layers.AveragePooling1D(50)(front(inputs))))
    return keras.Model(inputs, end(z))


def rewritten(path, change, member=""):
    """The `.keras` file with its configuration changed, as values; or a member of it, as bytes."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if member:
        members[member] = change(members[member])
    else:
        config = json.loads(members["config.json"])
        change(config)
        members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def refused(path, message: str) -> None:
    with pytest.raises(EcgnbError, match=message) as caught:
        load_model(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


# ---- no code of a file is run ----


def head(config) -> dict:
    return next(layer for layer in config["config"]["layers"] if layer["name"] == "head")


def becomes(**fields):
    return lambda config: head(config).update(fields)


def has(**settings):
    return lambda config: head(config)["config"].update(settings)


def function(name, module="keras.visualization") -> dict:
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


HOSTILE = {
    "an operation that calls what its operands name": becomes(module="keras.src.ops.core", class_name="Switch"),
    "a saved model": becomes(class_name="TFSMLayer", config={"filepath": "/tmp/model", "name": "head"}),
    "a Lambda layer": becomes(class_name="Lambda", config={"function": "os.system", "name": "head"}),
    "a Lambda in a wrapper": becomes(
        class_name="TimeDistributed",
        config={"layer": {"module": "keras.layers", "class_name": "Lambda", "config": {"function": "exit"}}},
    ),
    "a registered class": becomes(registered_name="package>Dense"),
    "a class of another module": becomes(module="os", class_name="system"),
    "a function as activation": has(activation=function("plot_model")),
    "a function that is exported": has(activation=function("set_dtype_policy", "keras.config")),
    "a name as activation": has(activation="load_data"),
    "byte code": has(units={"class_name": "__lambda__", "config": {"value": "eJw="}}),
    "an array in the graph": has(units={"class_name": "__numpy__", "config": {"value": [1], "dtype": "O"}}),
    "a type": has(dtype={"class_name": "QuantizedDTypePolicy", "config": {"mode": "int8"}}),
    "code where numbers belong": lambda c: head(c).update(build_config={"class_name": "Lambda", "config": {}}),
    "a layer in training mode": lambda c: head(c)["inbound_nodes"][0]["kwargs"].update(training=True),
    "a layer of 40 GB": lambda c: head(c)["config"].update(units=10**8),
    "a signal of 80 GB": lambda c: c["config"]["layers"][1].update(
        class_name="RepeatVector", config={"n": 10**9, "name": c["config"]["layers"][1]["name"]}
    ),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_configuration_is_refused(change, tmp_path):
    path = tmp_path / "m.keras"
    classifier().save(path)
    rewritten(path, change)
    refused(path, r"m\.keras: ")
    assert [file.name for file in tmp_path.iterdir()] == ["m.keras"]


def test_compiling_is_left_out(tmp_path):
    """What a file says of optimizer and loss is never looked up."""
    path = tmp_path / "m.keras"
    classifier().save(path)
    rewritten(path, lambda config: config.update(compile_config={"optimizer": function("exit", "builtins")}))
    assert np.array_equal(load_model(path)(X), classifier()(X))


def test_a_lambda_is_found_in_sub_models_and_in_hdf5(tmp_path):
    inner = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda z: z)])
    for name in ("m.keras", "m.h5"):
        classifier(inner).save(tmp_path / name)
        refused(tmp_path / name, "Lambda, which is no layer that may be read")


def test_a_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "m.keras"
    classifier().save(path)
    rewritten(path, lambda content: bytes(2**25), "metadata.json")
    refused(path, "metadata.json unpacks to 33554432 bytes")
    classifier().save(path)
    rewritten(path, lambda content: b"[" * 10**6, "config.json")
    refused(path, "its configuration is no JSON")


@pytest.mark.parametrize("kind", ["soft", "external", "virtual", "raw", "claims", "twice"])
def test_weights_lie_in_the_file_itself(kind, tmp_path):
    def change(content):
        file = io.BytesIO(content)
        with h5py.File(file, "r+") as weights:
            if kind == "soft":
                weights["other"] = h5py.SoftLink("/layers")
            elif kind == "external":
                weights["other"] = h5py.ExternalLink("/etc/passwd", "/")
            elif kind == "virtual":
                layout = h5py.VirtualLayout((1,), "f4")
                layout[0] = h5py.VirtualSource("/tmp/other.h5", "x", (1,))[0]
                weights.create_virtual_dataset("other", layout)
            elif kind == "raw":
                weights.create_dataset("other", (1,), "f4", external=[("/etc/passwd", 0, 4)])
            elif kind == "claims":
                weights.create_dataset("other", (10**12,), "f4", chunks=(1000,), compression="gzip")
            else:
                weights["other"] = weights["layers"]
        return file.getvalue()

    path = tmp_path / "m.keras"
    classifier().save(path)
    rewritten(path, change, "model.weights.h5")
    refused(path, "other in its weights (is|lies|claims)|linked twice")


# ---- logits ----

PROBABILITIES = {
    "softmax": layers.Softmax(),
    "a dense layer": layers.Dense(4, activation="softmax"),
    "an operation": ops.softmax,
    "an activation that was called": keras.activations.softmax,
    "then Reshape": lambda z: layers.Reshape((4,))(layers.Softmax()(z)),
    "then Dropout": lambda z: layers.Dropout(0.5)(layers.Activation("linear")(layers.Softmax()(z))),
    "in a sub-model": lambda z: keras.Sequential([keras.Input((4,)), layers.Softmax()])(z),
    "an average": lambda z: layers.Average()([layers.Softmax()(z), layers.Softmax()(2 * z)]),
    "a mean by operations": lambda z: (ops.softmax(z) + ops.softmax(2 * z)) / 2,
    "log-softmax": lambda z: ops.softmax(ops.log_softmax(z)),
}


@pytest.mark.parametrize("end", PROBABILITIES.values(), ids=PROBABILITIES)
def test_a_softmax_is_taken_off_wherever_it_hides(end, tmp_path):
    model = classifier(end)
    model.save(tmp_path / "m.keras")
    logits = np.asarray(load_model(tmp_path / "m.keras")(X))
    assert np.allclose(softmax(logits), model(X), atol=1e-6)
    assert not np.allclose(logits.sum(axis=1), 1)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (layers.ReLU(), "behind a ReLU"),
        (ops.relu, "behind a ReLU"),
        (layers.Dense(4, activation="sigmoid"), "choose one label as two classes"),
        (ops.sigmoid, "choose one label as two classes"),
        (lambda z: (ops.softmax(1e5 * z) + ops.softmax(2e5 * z)) / 2, "probabilities of 0"),
        (ops.log, "NaN or infinity for finite signals"),
    ],
)
def test_what_gives_no_logits_is_refused(end, message, tmp_path):
    classifier(end).save(tmp_path / "m.keras")
    refused(tmp_path / "m.keras", message)


@pytest.mark.real
@pytest.mark.slow
def test_the_baseline_is_attacked_alike_however_its_softmax_is_hidden(tmp_path, validation):
    """Ten times its logits, through a softmax: Reshape after it, or the average of two, hides nothing."""
    inner, inputs = load_model("baseline"), keras.Input((9000, 1))
    probabilities = layers.Softmax()(layers.Rescaling(10.0)(inner(inputs)))
    ends = {"reshape": layers.Reshape((4,))(probabilities), "average": layers.Average()([probabilities] * 2)}
    problem = Threat().on(validation.of_class("A").take(np.arange(4)))
    success = []
    for name, output in ends.items():
        keras.Model(inputs, output).save(tmp_path / f"{name}.keras")
        attacked = KerasClassifier(load_model(tmp_path / f"{name}.keras"))
        success.append(pgd(attacked, problem, steps=4).success)
    assert (success[0] == success[1]).all() and success[0].any()


# ---- finite ----


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = classifier()
    model.layers[-1].bias.assign([0, np.nan, 0, 0])
    model.save(tmp_path / "m.keras")
    refused(tmp_path / "m.keras", "bias hold NaN or infinity")


def breaks_above(limit: float) -> keras.Model:
    """A classifier whose logits are NaN where the mean of the signal is above a limit."""
    inputs = keras.Input((9000, 1))
    mean = layers.Flatten()(layers.GlobalAveragePooling1D()(inputs))
    z = layers.Dense(4, kernel_initializer="ones")(mean) * np.array([-1.0, 1, 0, 0], np.float32)
    return keras.Model(inputs, z + 0 * ops.sqrt(limit - mean) + np.array([1.0, 0, 0, 0], np.float32))


def test_a_model_that_breaks_under_attack_is_never_robust(demo_dev):
    af = demo_dev.of_class("A")
    problem = Threat(mask_padding=False).on(af)
    broken = KerasClassifier(breaks_above(0.1))
    assert np.isfinite(broken.logits(af.x)).all()
    result = pgd(broken, problem, steps=10)
    assert not np.isfinite(result.logits).all(axis=1).any() and result.success.all()
    report = evaluate(from_keras(breaks_above(0.1), "breaks"), af, replace(results_suite(), cases={}))
    assert report.conditions["pgd20"].robust_recall["value"] == 0
    assert set(report.conditions["pgd20"].predictions) == {"?"} and (report.predicted("pgd20") == -1).all()


def test_logits_that_are_not_finite_on_a_clean_recording_name_it(demo_dev):
    model = from_keras(breaks_above(-1.0), "broken")
    with pytest.raises(EcgnbError, match=f"broken gives logits .* for recording {demo_dev.names[0]} and"):
        evaluate(model, demo_dev, results_suite())
    with pytest.raises(EcgnbError, match="broken gives logits"):
        transfer([model], demo_dev)


def test_a_gradient_that_is_not_finite_is_an_error(demo_dev):
    inputs = keras.Input((9000, 1))
    z = layers.Dense(4)(layers.GlobalAveragePooling1D()(inputs))
    model = keras.Model(inputs, z + ops.sqrt(0 * z))  # the slope of a root at 0 is infinite, times 0: NaN
    with pytest.raises(EcgnbError, match="gradients are NaN or infinite for 3 of 3"):
        pgd(KerasClassifier(model), Threat().on(demo_dev.take(np.arange(3))), steps=1)


def test_a_loss_that_is_not_finite_stops_training_and_keeps_nothing(tmp_path, demo_train, demo_dev, monkeypatch):
    monkeypatch.setattr("ecgnb.models.network.build", small_network)
    few = [
        fold.take(np.concatenate([np.flatnonzero(fold.y == c)[:3] for c in range(4)]))
        for fold in (demo_train, demo_dev)
    ]
    config = training_config("baseline", epochs=1, batch_size=4)
    train(config, *few, tmp_path)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    selected = load_model(tmp_path / "selected.keras").get_weights()
    stored = json.loads(kept["config.json"])
    (tmp_path / "config.json").write_text(json.dumps(stored | {"epochs": 3, "learning_rate": 1e30}))
    with pytest.raises(EcgnbError, match=r"epoch 2/3: the loss is (nan|inf); lower the learning rate") as caught:
        train(replace(config, epochs=3, learning_rate=1e30), *few, tmp_path)
    assert "\n" not in str(caught.value)
    for name in kept.keys() - {"config.json", "selected.keras"}:
        assert (tmp_path / name).read_bytes() == kept[name]
    assert {path.name for path in tmp_path.iterdir()} == kept.keys()
    after = load_model(
        tmp_path / "selected.keras"
    ).get_weights()  # written again with the same weights, at another time
    assert all(map(np.array_equal, after, selected))


# ---- identity ----


def test_the_digest_is_of_what_decides_logits():
    digests = [
        model_digest(model, classes, fs)
        for model, classes, fs in (
            (classifier(), CLASSES, FS),
            (classifier(front=layers.Rescaling(0.1)), CLASSES, FS),
            (classifier(front=layers.Rescaling(0.2)), CLASSES, FS),
            (classifier(ops.abs), CLASSES, FS),
            (classifier(), CLASSES[::-1], FS),
            (classifier(), CLASSES, 500),
        )
    ]
    assert len(set(digests)) == len(digests)
    layers.Dense(4)  # shifts Keras' numbers of layers
    assert model_digest(classifier(), CLASSES, FS) == digests[0]


def test_models_of_the_same_file_name_get_names_of_their_own(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        classifier().save(tmp_path / folder / "kept.keras")
    paths = [str(tmp_path / folder / "kept.keras") for folder in ("a", "b")]
    assert [model.name for model in named_models(paths)] == ["a-kept", "b-kept"]
    with pytest.raises(EcgnbError, match="are one model"):
        named_models([paths[0], paths[0]])


def test_a_report_is_not_overwritten_by_that_of_another_model(tmp_path, capsys):
    report = json.loads((ROOT / "figures" / "evaluation" / "baseline-test-quick.json").read_text("utf-8"))
    (tmp_path / "kept-validation-quick.json").write_text(json.dumps(report))
    classifier().save(tmp_path / "kept.keras")
    assert main(["evaluate", str(tmp_path / "kept.keras"), "--data", "demo", "--out", str(tmp_path)]) == 2
    assert "is the report of another model named baseline" in capsys.readouterr().err


def test_a_report_is_not_overwritten_by_that_of_another_threat_or_other_recordings(tmp_path):
    path = ROOT / "figures" / "evaluation" / "baseline-test-quick.json"
    about = read_report(path).about
    check_free(path, about.digest, asdict(Threat()), about.data)
    check_free(tmp_path / "none.json", "", {}, "")
    with pytest.raises(EcgnbError, match="is the report under another threat model; give another --out"):
        check_free(path, about.digest, asdict(Threat(epsilon=0.1)), about.data)
    with pytest.raises(EcgnbError, match="is the report of other recordings"):
        check_free(path, about.digest, asdict(Threat()), "my ward")


def test_a_stored_report_is_used_for_what_made_it_alone(demo_dev):
    (model,) = named_models(["baseline"])
    with pytest.raises(EcgnbError, match=r"no such report; evaluate here: -p COMPUTE True"):
        notebook.stored_report(model, demo_dev, "standard", 2017)
    demo = replace(demo_dev, split="validation")
    with pytest.raises(EcgnbError, match=r"made with other recordings.* than those of this notebook"):
        notebook.stored_report(model, demo, "standard", 2017)
    with pytest.raises(EcgnbError, match=r"other recordings.* than those"):
        notebook.stored_transfer([model], demo, 2017)


@pytest.mark.real
def test_each_part_of_the_origin_counts(validation, monkeypatch):
    (model,) = named_models(["baseline"])
    verified = json.loads((ROOT / "figures" / "verified.json").read_text())["code"]
    monkeypatch.setattr(notebook, "describe", lambda *a, **k: replace(describe(*a, **k), code=verified))
    assert notebook.stored_report(model, validation, "standard", 2017).about.model == "baseline"
    assert notebook.stored_report(model, validation, "quick", 2017, "test").about.split == "test"
    for other, message in (
        (dict(model=replace(model, digest="0")), "other model "),
        (dict(seed=1), "other settings "),
        (dict(dataset=replace(validation, y=validation.y[::-1])), "other recordings "),
    ):
        given = dict(model=model, dataset=validation, suite="standard", seed=2017) | other
        with pytest.raises(EcgnbError, match=message):
            notebook.stored_report(**given)


# ---- every version of Keras ----

LOAD_ALL = """
import sys, numpy as np
from ecgnb.constants import CLASSES, FS
from ecgnb.models.files import load_model, shipped_folder
from ecgnb.models.identity import model_digest
from ecgnb.models.classifier import signals
from ecgnb.quiet import keras
print(keras.__version__)
for path in sorted(shipped_folder().glob("*.keras")):
    model = load_model(path)
    z = np.asarray(model(signals((9000, 1))[:1], training=False)).astype(float).ravel()
    print(path.stem, model_digest(model, CLASSES, FS), *z)
"""


def load_all(*first: str) -> tuple[str, dict[str, list[str]]]:
    """Keras' version, and for each shipped model its digest and logits, with some folders before all others."""
    script = f"import sys; sys.path[:0] = {[*first, str(ROOT)]!r}\n{LOAD_ALL}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    version, *lines = done.stdout.splitlines()
    return version, {line.split()[0]: line.split()[1:] for line in lines}


@pytest.mark.nightly
def test_every_shipped_model_loads_with_the_lowest_and_the_highest_keras():
    lowest = re.search(r'"keras>=([\d.]+),<', (ROOT / "pyproject.toml").read_text()).group(1) + ".0"
    folder = ROOT / "out" / f"keras-{lowest}"
    if not (folder / "keras").is_dir():  # `out` is ignored by git, and kept between runs
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*pip, f"keras=={lowest}"], check=True)
    version, low = load_all(str(folder))
    newest, high = load_all()
    assert version == lowest and newest == keras.__version__ and len(high) >= 10
    for name, (digest, *logits) in high.items():
        assert low[name][0] == digest
        assert np.allclose(np.array(low[name][1:], float), np.array(logits, float), atol=1e-4)


def test_mutated_files_change_no_number_unseen():
    counts = fuzz_models.fuzz(24, seed=1)
    assert sum(counts.values()) == 24 and {outcome for _, outcome in counts} >= {"refused in one line"}
