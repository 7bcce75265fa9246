"""For maintainers: the shipped models under noise on the test fold, stored in figures/results/noise_stress.json.

Usage: python ci/noise.py [--nstdb physionet | --nstdb FOLDER]        (needs the real recordings; about ten minutes)

Notebook 4 shows the result. Without --nstdb, noise is synthetic, and the result says so.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ecgnb.data.dataset import load_data
from ecgnb.evaluation.named import named_models
from ecgnb.evaluation.noise_stress import noise_kinds, noise_stress
from ecgnb.files import write_json

STORED = Path(__file__).parents[1] / "figures" / "results" / "noise_stress.json"
MODELS = ("baseline", "static", "adaptive", "fast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--nstdb", default="", help="the NSTDB's noise records: a folder with em, ma and bw, or physionet (6 MB)"
    )
    options = parser.parse_args()
    dataset = load_data("test", data="physionet")
    noises = noise_kinds(options.nstdb, dataset.fs)
    write_json(STORED, noise_stress(named_models(MODELS), dataset, noises, progress=True))


if __name__ == "__main__":
    main()
