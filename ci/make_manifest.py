"""Write ecgnb/manifest.csv: record, samples, digest of every training recording (no data, no labels).

Usage: ECGNB_MIRROR=<folder with training2017.zip> python ci/make_manifest.py
"""

from __future__ import annotations

import io
from pathlib import Path

import scipy.io
from tqdm import tqdm

from ecgnb.data.download import find_archive
from ecgnb.data.records import digest
from ecgnb.files import write_atomically

TARGET = Path(__file__).parents[1] / "ecgnb" / "data" / "manifest.csv"


def main() -> None:
    archive = find_archive("training")
    lines = ["record,samples,digest"]
    for name in tqdm(archive.records(), unit="rec"):
        samples = scipy.io.loadmat(io.BytesIO(archive.read(f"{name}.mat")))["val"][0]
        lines.append(f"{name},{len(samples)},{digest(samples)}")
    write_atomically(TARGET, lambda path: path.write_text("\n".join(lines) + "\n"))


if __name__ == "__main__":
    main()
