"""The task of the PhysioNet/CinC Challenge 2017, in numbers. Data sets and classifiers carry their own copies."""

from __future__ import annotations

CLASSES = ("A", "N", "O", "~")  # the index is the class number
CLASS_NAMES = {"A": "AF", "N": "normal", "O": "other", "~": "noisy"}
FS = 300  # Hz
UNITS_PER_MV = 1000
WINDOW = 30 * FS  # samples that the network takes
BAND = (0.5, 40.0)  # Hz, pass-band of an ECG monitor
