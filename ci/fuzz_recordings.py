"""Mutate recordings, headers, label tables, lists and zips, and read them: no crash, no changed number without an error.

Usage: python ci/fuzz_recordings.py [--count 10000] [--seed 2017]

Each case is three recordings of the demo set or of the challenge, in a folder or a zip, with one fault. Allowed is
either an error of one line that names the place, or the very numbers of the unharmed recordings; with bad ones
skipped, those of the rest. A label may differ only if the mutated table says so in a plain line. Published recordings
have digests; others have WFDB's check sum, a sum modulo 65536: what keeps it is another valid recording, and is counted
apart. Prints how many cases ended how; exit status 1 if one ended otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import sys
import tempfile
import traceback
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

from ecgnb.data.archive import Archive
from ecgnb.data.dataset import CHALLENGE, Dataset, find_data, load_data, load_labels
from ecgnb.data.download import NoRecordings, find_archive
from ecgnb.data.records import manifest
from ecgnb.errors import EcgnbError
from ecgnb.progress import bar

KINDS = ("mat", "hea", "labels", "RECORDS", "zip", "files")
TOKENS = [
    *b"0 1 -1 2 00 300 250 500 300Hz 300.0 3e2 1e999 nan 200/mV 1000/uV 1/uV 1000/V 1000000/V 1000(5)/mV 1000.0(0)/mV".split(),
    *b"1000 -1000/mV 1000/MV 16 16+0 212 16x2 99999999999999999999 \xff\xfe \xc2\xb5 A N O ~ Q \x00 # , ; / ../ \xef\xbb\xbf".split(),
    b" ", b"", b"\n", b"\r", b"\t", b'"', b"\x1c", b"A00/",
]  # fmt: skip
INTEGERS = [0, 1, 2, 10, 30, 40, 52, 101, 1000, 1030, 4711, 2**31 - 1, -1, -(2**31), 9000, 2**24]

Files = dict[str, bytes]


def sources() -> list[tuple[Archive, dict[str, str]]]:
    """(archive, labels) of the demo set, and of the challenge where it can be had."""
    found = []
    for data in ("demo", "physionet"):
        folder, _ = find_data(data)
        try:
            found.append((find_archive("validation", folder), load_labels("v3", "validation", folder)))
        except NoRecordings as error:
            print(f"demo set alone: {error}")
    return found


def three_recordings(archive: Archive, labels: dict[str, str], rng: np.random.Generator) -> Files:
    """Path -> content of three recordings with RECORDS and labels."""
    names = sorted(rng.choice(list(archive.records), 3, replace=False).tolist())
    files = {f"{n}.{end}": archive.read(f"{archive.records[n]}.{end}") for n in names for end in ("mat", "hea")}
    files["RECORDS"] = "".join(f"{n}\n" for n in names).encode()
    files["labels"] = "".join(f"{n},{labels[n]}\n" for n in names).encode()
    return files


def mutated(content: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """`content` with a fault: bits, bytes, lengths, text, encoding, or a part of `other`."""
    data = bytearray(content)
    at = int(rng.integers(len(data))) if rng.random() < 0.5 else int(rng.integers(min(len(data), 32)))
    length = int(rng.integers(1, 9))
    match rng.integers(10 if content.startswith(b"\x1e\0\0\0") else 12):  # .mat files have no lines
        case 0 | 1:
            for _ in range(length):
                data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        case 2:
            data[at] ^= 1 << int(rng.integers(8))
        case 3:
            del data[at:]
        case 4:
            del data[at : at + length]
        case 5:
            data[at:at] = rng.bytes(length)
        case 6:
            data[at // 4 * 4 : at // 4 * 4 + 4] = int(rng.choice(INTEGERS)).to_bytes(
                4, str(rng.choice(["little", "big"])), signed=True
            )
        case 7:
            data[at : at + 64 * length] = other[at : at + 64 * length]
        case 8:
            words = re.split(rb"([\s,/()]+)", bytes(data))
            words[int(rng.integers(len(words)))] = TOKENS[int(rng.integers(len(TOKENS)))]
            data = bytearray(b"".join(words))
        case 9:
            codec = str(rng.choice(["utf-16", "utf-16-le", "utf-8-sig", "utf-32", "cp500"]))
            data = bytearray(content.decode("latin-1").encode(codec, errors="replace"))
        case _:
            lines = bytes(data).splitlines(keepends=True)
            line = lines[int(rng.integers(len(lines)))]
            lines.insert(int(rng.integers(len(lines) + 1)), line)
            if rng.random() < 0.5:
                lines.remove(line)
            data = bytearray(b"".join(lines))
    return bytes(data)


def rearranged(files: Files, rng: np.random.Generator) -> None:
    """Rename, copy, swap or lose a file, in place."""
    one, two = rng.choice([name for name in files if name != "labels"], 2, replace=False).tolist()
    match rng.integers(5):
        case 0:
            files[two] = files[one]
        case 1:
            files[one], files[two] = files[two], files[one]
        case 2:
            files[str(rng.choice(["old/", "._", "__MACOSX/._", "A00/", "../"])) + one] = files[two]
        case 3:
            files[one.upper()] = files.pop(one)
        case 4:
            del files[one]


def write(folder: Path, files: Files, as_zip: bool, compression: int) -> None:
    """The files as a data folder: an archive of recordings, and the table of labels beside it."""
    folder.mkdir()
    (folder / "REFERENCE-v3.csv").write_bytes(files["labels"])
    inside = {name: content for name, content in files.items() if name != "labels"}
    if as_zip:
        with zipfile.ZipFile(folder / "sample2017.zip", "w", compression) as archive:
            for name, content in inside.items():
                archive.writestr(f"sample2017/{name}", content)
        return
    for name, content in inside.items():
        path = folder / "validation" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def numbers(dataset: Dataset) -> dict[str, str]:
    """record -> digest of everything read from it."""
    each = zip(dataset.names, dataset.x, dataset.signals, dataset.mean_mv, dataset.sd_mv, dataset.lengths, strict=True)
    return {
        str(name): hashlib.sha256(x.tobytes() + signal.tobytes() + repr(rest).encode()).hexdigest()
        for name, x, signal, *rest in each
    }


def outcome(folder: Path, truth: Dataset) -> str:
    """How reading a mutated folder ends; starts with FAULT if it must not end so, also when bad ones are skipped."""
    ends = [_outcome(folder, truth, bad) for bad in ("error", "skip")]
    return ends[1] if ends[1].startswith("FAULT") else ends[0]


def _outcome(folder: Path, truth: Dataset, bad: str) -> str:
    try:
        with contextlib.redirect_stdout(None):  # what is skipped is told
            dataset = load_data("validation", data=str(folder), bad=bad)
    except EcgnbError as error:
        text = str(error)
        named = str(folder) in text and text.isprintable() and len(text) < 600
        return "refused in one line" if named else f"FAULT: unclear error: {text!r}"
    except Exception:
        return f"FAULT: {traceback.format_exc()}"
    if len(dataset) + len(dataset.skipped) < len(truth):
        return "FAULT: a recording is lost"
    if not numbers(dataset).items() <= numbers(truth).items():
        sums = [{n: sum(s.tolist()) % 65536 for n, s in zip(d.names, d.signals, strict=True)} for d in (dataset, truth)]
        published = manifest().keys() & set(truth.names)
        return (
            "FAULT: other numbers"
            if published or not sums[0].items() <= sums[1].items()
            else "other recording, same sum"
        )
    if dataset.source == CHALLENGE or dataset.source.startswith("DEMO"):
        return f"FAULT: called {dataset.source}"
    right = dict(zip(truth.names, truth.y, strict=True))
    wrong = [n for n, y in zip(dataset.names, dataset.y, strict=True) if y != right[n]]
    if not wrong:
        return "right numbers"
    table = (folder / "REFERENCE-v3.csv").read_bytes().decode("latin-1")
    labels = dict(zip(dataset.names, (dataset.classes[y] for y in dataset.y), strict=True))
    said = all(re.search(rf'(^|[\n\r/"])\W*{n}"?[ \t]*,[ \t"]*{labels[n]}[ \t"]*($|[\n\r\x1c])', table) for n in wrong)
    return "label as the table says" if said else f"FAULT: label of {wrong}"


def fuzz(
    found: list[tuple[Archive, dict[str, str]]], count: int, seed: int, place: Path, progress: str = ""
) -> tuple[Counter, list[str]]:
    """Counts of (kind, outcome), and a line for each fault; found : of `sources`; place : an empty folder to work in."""
    counts: Counter = Counter()
    faults = []
    os.environ["ECGNB_CACHE"] = str(place / "cache")
    for number in bar(progress, range(count), unit="case"):
        rng = np.random.default_rng([seed, number])
        files = three_recordings(*found[int(rng.integers(len(found)))], rng)
        kind, as_zip = KINDS[number % len(KINDS)], bool(rng.random() < 0.5)
        compression = int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
        write(place / "right", files, as_zip, compression)
        truth = load_data("validation", data=str(place / "right"))
        if kind == "zip":
            write(place / "case", files, True, compression)
            path = place / "case" / "sample2017.zip"
            path.write_bytes(mutated(path.read_bytes(), rng, rng.bytes(600)))
        elif kind == "files":
            rearranged(files, rng)
            write(place / "case", files, as_zip, compression)
        else:
            targets = [name for name in files if name.endswith(kind)]
            target, other = targets[int(rng.integers(len(targets)))], targets[-1]
            files[target] = mutated(files[target], rng, files[other])
            write(place / "case", files, as_zip, compression)
        result = outcome(place / "case", truth)
        counts[kind, result.split(":")[0]] += 1
        if result.startswith("FAULT"):
            faults.append(f"case {number}, {kind}: {result}")
        shutil.rmtree(place)
        place.mkdir()
    return counts, faults


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=2017)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        counts, faults = fuzz(sources(), options.count, options.seed, Path(place), "fuzzing")
    for (kind, result), number in sorted(counts.items()):
        print(f"{kind:8} {result:28} {number:6}")
    print("\n".join(faults) or f"{options.count} cases, no fault")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
