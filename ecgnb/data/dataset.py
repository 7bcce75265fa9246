"""From recordings to arrays: z-scored windows, labels, folds, protocols, class weights."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ecgnb import values
from ecgnb.constants import CLASSES, UNITS_PER_MV, WINDOW
from ecgnb.data import demo
from ecgnb.data.archive import Archive
from ecgnb.data.arrays import CHALLENGE, Dataset
from ecgnb.data.download import NoRecordings, cache_dir, find_archive, find_labels_v3
from ecgnb.data.own import AS_IT_IS, FOLDS, Reading, is_own, load_own
from ecgnb.data.records import Recordings, manifest, read_labels, read_recordings
from ecgnb.errors import EcgnbError
from ecgnb.files import has_arrays, load_arrays, save_arrays

PROTOCOLS = ("leakfree", "original")
# Label version -> names of its file in the training archive: PhysioNet's unpacked layout, then its zip.
LABEL_VERSIONS: dict[str, tuple[str, ...]] = {
    "v0": ("REFERENCE-v0.csv", "REFERENCE-original.csv"),
    "v2": ("REFERENCE-v2.csv", "REFERENCE.csv"),
    "v3": ("REFERENCE-v3.csv",),
}
SPLITS = FOLDS

DEMO = "DEMO (SYNTHETIC)"
# (archive, labels) -> `_digest` of the published recordings with those labels.
PUBLISHED = {
    ("training", "v0"): "ff608415edc3a117",
    ("training", "v2"): "c2069442aaa643c7",
    ("training", "v3"): "b40a0a0fe5fa2dfc",
    ("validation", "v0"): "edb417bc2cfb55a1",
    ("validation", "v2"): "204076d088c908b3",
    ("validation", "v3"): "3bf6588444472905",
}


def window(signal: np.ndarray, start: int = 0) -> tuple[np.ndarray, int, float, float]:
    """One network input from a raw recording: truncate to 30 s, z-score, then pad with zeros.

    That order is the released predictor's (Andreotti et al. 2017). signal : (length,) int16, 1/1000 mV.
    Returns (9000,) float32 in z-units, true samples, mean and SD in mV.
    """
    piece = signal[start : start + WINDOW].astype(np.float64) / UNITS_PER_MV
    mean, sd = piece.mean(), piece.std()
    if sd == 0:
        raise EcgnbError("a recording is flat over its first 30 s and has no z-score; skip it")
    x = np.zeros(WINDOW, np.float32)
    x[: len(piece)] = (piece - mean) / sd
    return x, len(piece), mean, sd


def fold(key: str) -> str:
    """The `leakfree` fold of a record name, by digest: no random generator, the same for ever."""
    percent = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 100
    return "test" if percent < 15 else "dev" if percent < 25 else "train"


def folds(training: dict[str, str], validation: set[str]) -> dict[str, str]:
    """record -> fold, for `leakfree`.

    training : record -> digest of its samples; validation : digests of the validation recordings.
    Byte-identical recordings share a fold (that of the smallest name); copies of a validation recording
    are left out.
    """
    first: dict[str, str] = {}
    for name in sorted(training):
        first.setdefault(training[name], name)
    return {name: fold(first[d]) for name, d in training.items() if d not in validation}


def duplicates(training: dict[str, str]) -> list[list[str]]:
    """Groups of record names whose samples are byte-identical."""
    groups = defaultdict(list)
    for name in sorted(training):
        groups[training[name]].append(name)
    return [names for names in groups.values() if len(names) > 1]


def find_data(data: str = "auto") -> tuple[Path | None, bool]:
    """(folder, synthetic) for a DATA setting: "auto", "physionet", "demo", or a folder of one's own.

    "auto" is the real recordings, and the demo set, said loudly, only if none can be had.
    """
    if data == "auto":
        try:
            find_archive("validation")
            return None, False
        except NoRecordings as error:
            tqdm.write(f"NO RECORDINGS: {error}\nGOING ON WITH THE DEMO SET (SYNTHETIC).")
            return find_data("demo")
    if data == "physionet":
        return None, False
    if data == "demo":
        folder = cache_dir() / f"demo-{demo.VERSION}"
        demo.write_demo(folder)
        return folder, True
    if Path(data).is_dir():
        return Path(data).resolve(), False
    raise EcgnbError(f'DATA={data!r}: expected "auto", "physionet", "demo", an existing folder or an .npz file')


def load_data(
    split: str,
    *,
    protocol: str = "leakfree",
    labels: str = "",
    data: str = "auto",
    bad: str = "error",
    reading: Reading = AS_IT_IS,
) -> Dataset:
    """The recordings of one split as a Dataset.

    split : "validation" (the challenge's 300), or "train", "dev", "test". Under `original` all 8,528 are
        "train" (validation included: that is its leak), and "dev" is the validation set it watched.
    labels : "v0", "v2", "v3"; "" means the protocol's own (v3 for leakfree; v0 to train and v3 to evaluate
        for original).
    data : see `find_data`; an `.npz` file or a folder with labels.csv is read by `own.load_own`, as `reading` says.
    bad : "error" or "skip", see `read_recordings`.
    """
    if protocol not in PROTOCOLS or split not in SPLITS:
        raise EcgnbError(f"{protocol=}, {split=}: expected one of {PROTOCOLS} and one of {SPLITS}")
    if is_own(data, reading):
        return load_own(Path(data), split, reading, bad)
    if reading != AS_IT_IS:
        raise EcgnbError(f"DATA={data!r}: is read as it is; rates, leads and units are settings of .npz and WFDB alone")
    if protocol == "original" and split == "dev":
        split = "validation"
    if protocol == "original" and split == "test":
        raise EcgnbError('protocol "original" trains on every recording, so it has no test fold')
    folder, synthetic = find_data(data)
    if not labels and (protocol, split) == ("original", "train"):
        archive = find_archive("training", folder)  # recordings of one's own have one version of labels
        labels = "v0" if not folder or any(map(archive.only, LABEL_VERSIONS["v0"])) else "v3"
    labels = labels or "v3"

    archive = find_archive("validation", folder)
    recordings = validation = read_recordings(archive, bad)
    if split != "validation":
        archive = find_archive("training", folder)
        recordings = read_recordings(archive, bad)
    keep = np.arange(len(recordings))
    if split != "validation" and protocol == "leakfree":
        fold_of = folds(digests(recordings), set(digests(validation).values()))
        keep = np.flatnonzero([fold_of.get(name) == split for name in recordings.names.tolist()])
    label_of = load_labels(labels, split, folder)
    kind = "validation" if split == "validation" else "training"
    table = find_labels_v3(kind, folder) if folder and labels == "v3" else Path(LABEL_VERSIONS[labels][0])
    names = recordings.names[keep].tolist()
    unlabelled = [f"{archive.path}: {name} has no label {labels}" for name in names if name not in label_of]
    if unlabelled and bad == "error":
        raise EcgnbError(f"{unlabelled[0]} ({len(unlabelled)} such); write it into {table.name}")
    keep = keep[[name in label_of for name in names]]
    if not len(keep):
        raise EcgnbError(f"{archive.path}: none of its {len(recordings)} recordings is in split {split!r}; add more")
    # Of all recordings a view will do, which copies nothing.
    rows = slice(None) if len(keep) == len(recordings) else keep
    arrays = {name: array[rows] for name, array in windows(recordings).items()}
    source = DEMO if synthetic else _source(archive, recordings, keep, label_of, (kind, labels))
    return Dataset(
        x=arrays["x"],
        lengths=arrays["lengths"],
        mean_mv=arrays["mean_mv"],
        sd_mv=arrays["sd_mv"],
        y=np.array([CLASSES.index(label_of[name]) for name in recordings.names[keep].tolist()], np.int64),
        names=recordings.names[keep],
        signals=tuple(recordings.signal(int(i)) for i in keep),
        split=split,
        protocol=protocol,
        labels=labels if source in (DEMO, CHALLENGE) else table.name,
        source=source,
        skipped=(*recordings.skipped, *unlabelled),
    )


def _source(
    archive: Archive, recordings: Recordings, keep: np.ndarray, label_of: dict[str, str], published_as: tuple[str, str]
) -> str:
    """Where the recordings at index `keep` come from, by their digests and labels, not by the names of files.

    `CHALLENGE` is an archive with all of the published recordings and labels; a part of them says how many.
    """
    if _digest(recordings, np.arange(len(recordings)), label_of) == PUBLISHED[published_as]:
        return CHALLENGE
    code = _digest(recordings, keep, label_of)[:8]
    place = f'"{archive.path.parent.name}" {code}'
    published = sum(manifest().get(recordings.names[i], ("", ""))[1] == recordings.digests[i] for i in keep)
    if published == len(keep):
        return f"{CHALLENGE} ({published} recordings; labels from {place})"
    return f"own recordings ({place}" + f"; {published} of {len(keep)} from {CHALLENGE}" * bool(published) + ")"


def _digest(recordings: Recordings, index: np.ndarray, label_of: dict[str, str]) -> str:
    """First 64 bits of the SHA-256 of names, digests and labels of recordings, in hexadecimal."""
    each = zip(recordings.names[index].tolist(), recordings.digests[index].tolist(), strict=True)
    text = "".join(sorted(f"{name},{digest},{label_of.get(name)}\n" for name, digest in each))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digests(recordings: Recordings) -> dict[str, str]:
    """record -> digest of its samples."""
    return dict(zip(recordings.names.tolist(), recordings.digests.tolist(), strict=True))


def load_labels(version: str, split: str, folder: Path | None = None) -> dict[str, str]:
    """record -> label letter in label version v0, v2 or v3.

    v3 is a file of its own; v0 and v2 lie in the training archive. The validation archive's own
    REFERENCE.csv is v0, so that validation with v0 needs no large download.
    """
    if version not in LABEL_VERSIONS:
        raise EcgnbError(f"labels={version!r}: expected one of {', '.join(LABEL_VERSIONS)}")
    if version == "v3":
        path = find_labels_v3("validation" if split == "validation" else "training", folder)
        try:
            return read_labels(path.read_bytes(), str(path))
        except OSError as error:
            raise EcgnbError(f"{path} cannot be read ({error.strerror}); mend its permissions") from error
    own = split == "validation" and version == "v0"
    files = (LABEL_VERSIONS["v0"][0], "REFERENCE.csv") if own else LABEL_VERSIONS[version]
    archive = find_archive("validation" if own else "training", folder)
    inside = next(filter(None, map(archive.only, files)), "")
    if not inside:
        raise EcgnbError(f"{archive.path}: holds no {' or '.join(files)} with labels {version}; put it there")
    return read_labels(archive.read(inside), f"{archive.path}: {inside}")


def windows(recordings: Recordings) -> dict[str, np.ndarray]:
    """The `window` of every recording: x (n, 9000, 1), and lengths, mean_mv and sd_mv, (n,), as in `Dataset`.

    Made once, then mapped from the cache, read-only.
    """
    names = ("x", "lengths", "mean_mv", "sd_mv")
    if recordings.cache and has_arrays(recordings.cache, names):
        return load_arrays(recordings.cache, names)
    n = len(recordings)
    x = np.empty((n, WINDOW, 1), np.float32)
    lengths, means, sds = np.empty(n, np.int64), np.empty(n), np.empty(n)
    for i in range(n):
        x[i, :, 0], lengths[i], means[i], sds[i] = window(recordings.signal(i))
    arrays: dict[str, np.ndarray] = {"x": x, "lengths": lengths, "mean_mv": means, "sd_mv": sds}
    if recordings.cache:
        save_arrays(recordings.cache, arrays)
        return load_arrays(recordings.cache, names)
    return arrays


def balanced_index(y: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of at most `most` recordings of each class, drawn without replacement, shuffled."""
    values.read("per_class", most, 300, values.COUNT)
    drawn = [rng.permutation(np.flatnonzero(y == c))[:most] for c in np.unique(y)]
    return rng.permutation(np.concatenate(drawn))


def class_weights(y: np.ndarray, power: float = 1.0, n_classes: int = len(CLASSES)) -> np.ndarray:
    """(n_classes,) weights that make classes count alike (power 1) or half-way so (0.5); mean over `y` is 1.

    A class without recordings gets weight 0.
    """
    counts = np.bincount(y, minlength=n_classes).astype(float)
    weights = np.divide(1.0, counts**power, out=np.zeros_like(counts), where=counts > 0)
    return weights / (weights * counts).sum() * counts.sum()
