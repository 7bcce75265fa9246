"""What is in the recordings: counts, lengths, duplicates and the leak, as tables a person can read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ecgnb.constants import CLASSES, FS, WINDOW
from ecgnb.data import dataset as data
from ecgnb.data.download import LABELS_V3, find_archive
from ecgnb.data.own import AS_IT_IS, FOLDS, Reading, is_own, load_own
from ecgnb.data.records import manifest, read_recordings
from ecgnb.errors import EcgnbError


def audit(
    setting: str = "auto", full: bool = True, bad: str = "error", reading: Reading = AS_IT_IS
) -> dict[str, pd.DataFrame]:
    """Tables by title. full : read the training archive of the challenge too (99 MB), and verify all of it.

    Without it, lengths, duplicates and leak come from the shipped manifest, and labels are v3 alone. reading : as in
    `load_data`.
    """
    if is_own(setting, reading):
        return _own(setting, reading, bad)
    folder, _ = data.find_data(setting)
    validation = read_recordings(find_archive("validation", folder), bad)
    skipped = list(validation.skipped)
    if full or folder:
        archive = find_archive("training", folder)
        training = read_recordings(archive, bad)
        digest_of = data.digests(training)
        length_of = dict(zip(training.names, np.diff(training.starts), strict=True))
        versions = [v for v, names in data.LABEL_VERSIONS.items() if v == "v3" or any(map(archive.only, names))]
        skipped += training.skipped
    else:
        digest_of = {name: digest for name, (_, digest) in manifest().items()}
        length_of = {name: samples for name, (samples, _) in manifest().items()}
        versions = ["v3"]
    labels = {v: data.load_labels(v, "training", folder) for v in versions}
    unlabelled = [f"{name} has no label v3" for name in digest_of if name not in labels["v3"]]
    if unlabelled and bad == "error":
        raise EcgnbError(f"{folder}: {unlabelled[0]} ({len(unlabelled)} such); write it into {LABELS_V3}")
    digest_of = {name: digest for name, digest in digest_of.items() if name in labels["v3"]}
    length_of = {name: length_of[name] for name in digest_of}
    skipped += unlabelled
    v3 = labels["v3"]
    return {
        "Recordings by class and label version": _counts(labels),
        "Lengths (labels v3)": _lengths(length_of, v3),
        "Duplicates: byte-identical recordings": _duplicates(digest_of, v3),
        "Leak: validation recordings that are also training recordings": _leak(data.digests(validation), digest_of),
        "Folds of `leakfree` (labels v3)": _folds(digest_of, data.digests(validation), v3),
    } | ({"Bad recordings, skipped": pd.DataFrame({"reason": skipped})} if skipped else {})


def _own(setting: str, reading: Reading, bad: str) -> dict[str, pd.DataFrame]:
    """Tables of recordings of one's own, for each split that they have."""
    found = {}
    for split in FOLDS:
        try:
            found[split] = load_own(Path(setting), split, reading, bad)
        except EcgnbError:
            if split == FOLDS[-1] and not found:
                raise
    counts = {split: np.bincount(d.y, minlength=len(d.classes)) for split, d in found.items()}
    classes = next(iter(found.values())).classes
    seconds = {split: d.lengths / d.fs for split, d in found.items()}
    facts = {
        split: {
            "source": d.source,
            "labels": d.labels,
            "leads": " ".join(d.leads),
            "Hz": d.fs,
            "shortest (s)": round(seconds[split].min(), 1),
            "longest (s)": round(seconds[split].max(), 1),
        }
        for split, d in found.items()
    }
    skipped = [line for d in found.values() for line in d.skipped]
    return {
        "Recordings by split and class": pd.DataFrame(counts, index=list(classes)).T.rename_axis("split"),
        "What they are": pd.DataFrame(facts).T.rename_axis("split"),
    } | ({"Bad recordings, skipped": pd.DataFrame({"reason": skipped})} if skipped else {})


def _counts(labels: dict[str, dict[str, str]]) -> pd.DataFrame:
    table = pd.DataFrame({v: pd.Series(found).value_counts() for v, found in labels.items()}).T
    table = table.reindex(columns=list(CLASSES)).fillna(0).astype(int)
    return table.assign(all=table.sum(axis=1)).rename_axis("labels")


def _lengths(length_of: dict[str, int], label_of: dict[str, str]) -> pd.DataFrame:
    frame = pd.DataFrame({"class": [label_of[n] for n in length_of], "samples": list(length_of.values())})
    sides = np.sign(frame["samples"] - WINDOW).map({-1: "shorter than 30 s", 0: "exactly 30 s", 1: "longer than 30 s"})
    table = pd.crosstab(frame["class"], sides).reindex(
        index=list(CLASSES), columns=["shorter than 30 s", "exactly 30 s", "longer than 30 s"], fill_value=0
    )
    seconds = frame.groupby("class")["samples"].agg(["min", "max"]).reindex(CLASSES) / FS
    table["shortest (s)"], table["longest (s)"] = seconds["min"], seconds["max"]
    table.loc["all"] = [*table.iloc[:, :3].sum(), seconds["min"].min(), seconds["max"].max()]
    return table.astype({name: int for name in table.columns[:3]}).round(1)


def _duplicates(digest_of: dict[str, str], label_of: dict[str, str]) -> pd.DataFrame:
    groups = data.duplicates(digest_of)
    return pd.DataFrame(
        {
            "records": [" = ".join(names) for names in groups],
            "labels": [" ".join(label_of[n] for n in names) for names in groups],
        }
    )


def _leak(validation: dict[str, str], training: dict[str, str]) -> pd.DataFrame:
    same = [name for name, digest in validation.items() if training.get(name) == digest]
    anywhere = sum(digest in set(training.values()) for digest in validation.values())
    rows = {
        "validation recordings": len(validation),
        "byte-identical to a training recording": anywhere,
        "of these, under the same name": len(same),
        "first and last such name": f"{min(same)} … {max(same)}" if same else "none",
    }
    return pd.DataFrame({"": rows.keys(), "count": rows.values()})


def _folds(training: dict[str, str], validation: dict[str, str], label_of: dict[str, str]) -> pd.DataFrame:
    fold_of = data.folds(training, set(validation.values()))
    fold = pd.Series({n: fold_of.get(n, "left out (validation)") for n in training}, name="fold")
    table = pd.crosstab(fold, pd.Series(label_of).reindex(fold.index))
    table = table.reindex(columns=list(CLASSES), fill_value=0)
    return table.assign(all=table.sum(axis=1)).rename_axis(columns=None)


def as_text(tables: dict[str, pd.DataFrame]) -> str:
    """The tables, one under the other, for a terminal."""
    return "\n\n".join(
        f"{title}\n{'-' * len(title)}\n{table.to_string(index=table.index.name is not None)}"
        for title, table in tables.items()
    )
