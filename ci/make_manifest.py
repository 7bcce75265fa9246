"""Write ecgnb/data/manifest.csv: name, samples and digest of every training recording. No data, no labels.

Usage: ECGNB_MIRROR=<folder with training2017.zip> python ci/make_manifest.py
"""

from __future__ import annotations

from pathlib import Path

from ecgnb.data.download import find_archive
from ecgnb.data.records import digest, read_mat
from ecgnb.files import write_text
from ecgnb.progress import bar

TARGET = Path(__file__).parents[1] / "ecgnb" / "data" / "manifest.csv"


def main() -> None:
    archive = find_archive("training")
    lines = ["record,samples,digest"]
    for name, stem in bar("recordings", archive.records.items()):
        samples = read_mat(archive.read(f"{stem}.mat"), name)[0]
        lines.append(f"{name},{len(samples)},{digest(samples)}")
    write_text(TARGET, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
