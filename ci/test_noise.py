"""Noise at a given SNR, synthetic and from the NSTDB's records: exact, the same for every model, and called what it is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import fuzz_files
import numpy as np
import pytest
import wfdb
from conftest import ROOT

from ecgnb.attacks.noise import Noise
from ecgnb.constants import CLASSES, FS, WINDOW
from ecgnb.data import download
from ecgnb.data.dataset import Dataset
from ecgnb.data.nstdb import RECORDS, load_nstdb
from ecgnb.errors import EcgnbError
from ecgnb.evaluation import noise_stress, signals
from ecgnb.evaluation.run import EvaluatedModel
from ecgnb.report.evaluation_figures import noise_panels
from ecgnb.report.runs import read_run
from ecgnb.report.tables import snr_table

SECONDS, RATE = 40, 360
STORED = ROOT / "figures" / "results" / "noise_stress.json"


@pytest.fixture(scope="module")
def nstdb(tmp_path_factory) -> Path:
    """A folder with records as the NSTDB's, of 40 s: a sine at 3, 4 or 5 Hz, and the same upside down."""
    folder = tmp_path_factory.mktemp("nstdb")
    time = np.arange(SECONDS * RATE) / RATE
    for frequency, record in zip((3, 4, 5), RECORDS.values(), strict=True):
        wave = 0.5 + np.sin(2 * np.pi * frequency * time)
        kind = dict(fmt=["212"] * 2, adc_gain=[200.0] * 2, baseline=[0, 0], write_dir=str(folder))
        wfdb.wrsamp(record, RATE, ["mV"] * 2, ["noise1", "noise2"], p_signal=np.stack([wave, -wave], axis=1), **kind)
    return folder


# ---- noise at an SNR ----


@pytest.mark.real
@pytest.mark.parametrize("kind", [*noise_stress.SYNTHETIC, "recorded"])
def test_the_snr_is_exact_in_mv_over_the_real_samples(kind, validation):
    """And what the model sees is the sum in mV, z-scored, then padded."""
    dataset = validation.take(np.r_[np.flatnonzero(validation.lengths < WINDOW)[:4], 0:4])
    record = np.cumsum(np.random.default_rng(0).standard_normal((2 * WINDOW, 2)), axis=0)
    noise = (noise_stress.SYNTHETIC | {"recorded": noise_stress.recorded(record)})[kind]
    at_0_db = noise_stress.noise_at_0_db(dataset, noise, 2017)
    assert (at_0_db[~dataset.mask] == 0).all()
    for snr_db in noise_stress.SNR_DB:
        noisy = noise_stress.at_snr(dataset, at_0_db, snr_db)
        assert (noisy[~dataset.mask] == 0).all() and noisy.dtype == np.float32
        for i, clean in enumerate(dataset.in_mv(dataset.x)):
            n = len(clean)
            added = 10 ** (-snr_db / 20) * at_0_db[i, :n, 0] * dataset.sd_mv[i]
            assert 10 * np.log10(clean.var() / added.var()) == pytest.approx(snr_db, abs=0.1)
            total = clean + added
            assert np.allclose(noisy[i, :n, 0], (total - total.mean()) / total.std(), atol=1e-4)


def test_noise_depends_on_the_recording_and_the_seed_alone(demo_dev):
    noise = noise_stress.electrode_motion
    all_of_them = noise_stress.noise_at_0_db(demo_dev, noise, 1)
    one = noise_stress.noise_at_0_db(demo_dev.take([7]), noise, 1)
    assert np.array_equal(one[0], all_of_them[7])
    assert not np.allclose(one[0], noise_stress.noise_at_0_db(demo_dev.take([7]), noise, 2)[0])
    assert not np.allclose(all_of_them[6], all_of_them[7])


@pytest.mark.parametrize(
    ("kind", "band"),  # most of its power lies below, within or above 0.5-40 Hz
    [("synthetic_electrode_motion", 1), ("synthetic_muscle_artefact", 2), ("synthetic_baseline_wander", 0)],
)
def test_synthetic_noise_lies_where_it_should(kind, band):
    drawn = noise_stress.SYNTHETIC[kind]((WINDOW, 2), FS, np.random.default_rng(0))
    shares = signals.band_shares(drawn - drawn.mean(axis=0), FS)
    assert drawn.shape == (WINDOW, 2) and shares.argmax() == band


def test_electrode_motion_steps_and_decays():
    drawn = noise_stress.electrode_motion((WINDOW, 1), FS, np.random.default_rng(0))[:, 0]
    change = np.abs(np.diff(drawn))
    steps = np.sort(change)[-15:]  # of 30
    assert np.median(steps) > 20 * np.median(change) > 0


def test_flat_noise_is_refused(demo_dev):
    with pytest.raises(EcgnbError, match="flat"):
        noise_stress.noise_at_0_db(demo_dev.take([0]), lambda shape, fs, rng: np.ones(shape), 3)


# ---- the NSTDB's records ----


def test_records_of_format_212_are_read_in_mv_and_resampled(nstdb):
    found = load_nstdb(str(nstdb), FS)
    assert list(found) == ["electrode_motion", "muscle_artefact", "baseline_wander"]
    time = np.arange(SECONDS * FS) / FS
    for frequency, noise in zip((3, 4, 5), found.values(), strict=True):
        expected = 0.5 + np.sin(2 * np.pi * frequency * time)
        assert noise.shape == (SECONDS * FS, 2)
        assert np.abs(noise - np.stack([expected, -expected], axis=1))[FS:-FS].max() < 0.01  # 12 bits: 0.005 mV


def test_pieces_come_from_every_part_of_both_leads():
    record = np.arange(22.0).reshape(11, 2)
    piece, rng = noise_stress.recorded(record), np.random.default_rng(0)
    seen = {tuple(piece((10, 1), FS, rng)[:, 0]) for _ in range(50)}
    assert seen == {tuple(record[first : first + 10, lead]) for first in (0, 1) for lead in (0, 1)}


def copied(nstdb: Path, folder: Path) -> dict[str, Path]:
    folder.mkdir()
    for path in nstdb.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("ma.dat", None, r"holds no ma\.dat; put the files of https://physionet.org/files/nstdb/1.0.0/ there"),
        ("ma.dat", b"\0" * 300, r"ma\.hea: its signals cannot be read"),
        ("bw.hea", b"<html>", r"bw\.hea: "),
        ("em.hea", b"em 2 360 3600\nem.dat 212 200 12 0 0 0 0 a\nem.dat 212 200 12 0 0 0 0 b\n", "lasts 10 s"),
    ],
)
def test_bad_records_are_named_with_the_remedy(file, content, message, nstdb, tmp_path):
    path = copied(nstdb, tmp_path / "mine")[file]
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EcgnbError, match=message):
        load_nstdb(str(tmp_path / "mine"), FS)


def test_records_are_fetched_once_and_only_whole(nstdb, tmp_path, monkeypatch):
    monkeypatch.setenv("ECGNB_CACHE", str(tmp_path))
    asked, page = [], [b"<html>log in</html>"] * 2

    def serve(request) -> None:
        asked.append(request.path)
        folder, name = request.path.strip("/").split("/")
        assert folder == "nstdb"
        fuzz_files.slowly(page.pop() if page else (nstdb / name).read_bytes(), request, pieces=1)

    with fuzz_files.served(serve) as url:
        monkeypatch.setenv("ECGNB_MIRROR", url)
        with pytest.raises(
            download.NoRecordings, match=r"em\.hea cannot be fetched.*nstdb/em\.hea, or go on without NSTDB"
        ):
            load_nstdb("physionet", FS)
        assert not (tmp_path / "files" / "nstdb" / "em.hea").exists()
        for _ in range(2):
            found = load_nstdb("physionet", FS)
    assert len(asked) == 2 + len(download.NSTDB_FILES)
    here = load_nstdb(str(nstdb), FS)
    assert all(np.array_equal(found[kind], here[kind]) for kind in here)


def test_a_mirrors_folder_comes_before_physionet_whose_address_is_the_databases(nstdb, tmp_path, monkeypatch):
    monkeypatch.setenv("ECGNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ECGNB_MIRROR", str(tmp_path))
    fetched = []
    monkeypatch.setattr(download, "_fetch", lambda url, target, *_: fetched.append(url))
    download.find_nstdb()
    assert fetched == [f"https://physionet.org/files/nstdb/1.0.0/{name}" for name in download.NSTDB_FILES]
    copied(nstdb, tmp_path / "nstdb")
    assert download.find_nstdb() == tmp_path / "nstdb" and len(fetched) == 6


# ---- scores ----


class Rough:
    """A classifier that predicts AF for whatever is rougher than every clean recording, and else knows the class."""

    classes, fs, shape, low_precision = CLASSES, FS, (WINDOW, 1), False

    def __init__(self, dataset: Dataset):
        self.y, self.limit = dataset.y, self.roughness(dataset.x).max()

    @staticmethod
    def roughness(x):
        return np.abs(np.diff(x[..., 0], axis=1)).mean(axis=1)

    def logits(self, x):
        predicted = np.where(self.roughness(x) > self.limit, CLASSES.index("A"), self.y)
        return np.eye(len(CLASSES), dtype=np.float32)[predicted]


def stress(dataset: Dataset, noises: dict[str, Noise]) -> dict:
    steady = Rough(dataset)
    steady.limit = np.inf
    models = [EvaluatedModel(name, one, name) for name, one in (("steady", steady), ("rough", Rough(dataset)))]
    return noise_stress.noise_stress(models, dataset, noises)


@pytest.fixture(scope="module")
def found(demo_dev) -> dict:
    return stress(demo_dev, noise_stress.noise_kinds("", FS))


def test_scores_of_known_models_under_noise(found, demo_dev):
    assert found["snr_db"] == [24, 18, 12, 6, 0, -6] and found["digests"] == {"steady": "steady", "rough": "rough"}
    assert found["about"]["model"] == "steady rough" and found["about"]["data"] == "DEMO (SYNTHETIC)"
    assert found["clean"]["rough"] == found["clean"]["steady"]
    muscles = found["noise"]["synthetic_muscle_artefact"]
    assert all(scores == found["clean"]["steady"] for scores in muscles["steady"])
    as_af = [np.sum(scores["confusion"], axis=0)[0] for scores in muscles["rough"]]
    assert as_af == sorted(as_af) and as_af[-1] == len(demo_dev) > as_af[0]
    last = muscles["rough"][-1]
    assert last["recall"]["A"]["value"] == 1 and last["recall"]["N"]["value"] == 0
    change = last["challenge_score"]["value"] - found["clean"]["steady"]["challenge_score"]["value"]
    assert last["difference"]["value"] == pytest.approx(change) and last["difference"]["ci95"][1] < 0


@pytest.mark.parametrize("source", ["synthetic", "NSTDB"])
def test_figure_and_table_say_whether_noise_is_synthetic(source, found, demo_dev, nstdb):
    kinds = ["electrode motion", "muscle artefact", "baseline wander"]
    if source == "NSTDB":
        found = stress(demo_dev.take(slice(4)), noise_stress.noise_kinds(str(nstdb), FS))
        assert list(found["noise"]) == ["nstdb_electrode_motion", "nstdb_muscle_artefact", "nstdb_baseline_wander"]
    figure = noise_panels(found, "DEMO (SYNTHETIC), dev")
    figure.draw_without_rendering()
    assert [ax.get_title() for ax in figure.axes[:3]] == [f"{source} {kind}" for kind in kinds]
    table = snr_table(found, lambda scores: scores["challenge_score"])
    assert list(table) == ["steady", "rough"] and len(table) == 1 + 3 * 6
    assert list(dict.fromkeys(table.index.get_level_values("noise"))) == ["clean", *(f"{source} {k}" for k in kinds)]


# ---- the stored result ----


def test_the_stored_result_is_that_of_the_shipped_models():
    """Digests, and clean predictions as in the reports of the same models on the same recordings."""
    stored = json.loads(STORED.read_text("utf-8"))
    about = stored["about"]
    assert (about["split"], about["recordings"], about["seed"]) == ("test", 1198, 2017)
    assert about["data"] == "PhysioNet/CinC Challenge 2017" and list(stored["digests"]) == about["model"].split()
    assert all(re.match("(synthetic|nstdb)_", kind) for kind in stored["noise"])
    for name, digest in stored["digests"].items():
        report = read_run(STORED.parent / f"{name}.json").reports["test"]  # of the shipped weights, see test_results
        assert (report.about.digest, report.about.signals) == (digest, about["signals"])
        clean = np.array(report.conditions["clean"].scores["confusion"])
        assert np.abs(clean - stored["clean"][name]["confusion"]).sum() <= 4  # two recordings on another processor


def test_notebook_4_says_what_the_stored_result_says():
    stored = json.loads(STORED.read_text("utf-8"))
    changes = {
        (noise, name): [
            one["challenge_score"]["value"] - stored["clean"][name]["challenge_score"]["value"] for one in scores
        ]
        for noise, models in stored["noise"].items()
        for name, scores in models.items()
    }
    lost = {name: f"{-changes['synthetic_muscle_artefact', name][4]:.2f}" for name in stored["digests"]}
    said = "at 0 dB baseline loses {baseline}, static {static}, adaptive {adaptive}, and fast {fast}".format(**lost)
    text = (ROOT / "notebooks" / "04_evaluation.py").read_text("utf-8").replace("\n# ", " ")
    assert said in text and "changes no challenge score by more than 0.02." in text
    assert max(abs(change) for each in changes.values() for change in each[:3]) < 0.0205
    at_0_db = {name: stored["noise"]["synthetic_muscle_artefact"][name][4]["confusion"] for name in stored["digests"]}
    for name, counts in at_0_db.items():
        before = np.array(stored["clean"][name]["confusion"])
        fewer = np.trace(before) - np.trace(counts)
        assert np.array(counts)[:3, 3].sum() - before[:3, 3].sum() > fewer / 2, "most are predicted as noisy"
