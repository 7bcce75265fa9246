"""The noise records of PhysioNet's MIT-BIH Noise Stress Test Database (NSTDB): noise without an ECG, as recorders meet it.

Each lasts half an hour and has two leads at 360 Hz (Moody, Muldrow & Mark 1984, A noise stress test for arrhythmia
detectors, Computers in Cardiology 11:381).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ecgnb.constants import FS, WINDOW
from ecgnb.data.download import find_nstdb
from ecgnb.data.own import read_record, resampled
from ecgnb.errors import EcgnbError

RECORDS = {"electrode_motion": "em", "muscle_artefact": "ma", "baseline_wander": "bw"}
SHORTEST_S = WINDOW / FS  # a piece has to be as long as a recording


def load_nstdb(place: str, fs: float) -> dict[str, np.ndarray]:
    """The noise records by kind, (samples, leads) float64 each, mV at `fs` Hz.

    place : a folder with the records em, ma and bw (.hea and .dat), or "physionet": from the mirror's folder `nstdb`,
    the cache, or PhysioNet.
    Raises EcgnbError for a file that is missing or cannot be read, and for a record shorter than a recording.
    """
    folder = find_nstdb(None if place == "physionet" else Path(place))
    noise: dict[str, np.ndarray] = {}
    for kind, name in RECORDS.items():
        mv, rate, _ = read_record(folder, name)
        if len(mv) < SHORTEST_S * rate:
            raise EcgnbError(f"{folder / name}.hea: lasts {len(mv) / rate:.0f} s, not half an hour; fetch it again")
        noise[kind] = resampled(mv, rate, fs)
    return noise
