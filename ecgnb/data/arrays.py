"""A data set: recordings as arrays, with all that turns them back into millivolts and says where they come from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ecgnb.constants import CLASSES, FS
from ecgnb.errors import EcgnbError

CHALLENGE = "PhysioNet/CinC Challenge 2017"


@dataclass(frozen=True)
class Dataset:
    """Windows ready for the network, with all that turns them back into millivolts.

    x : (n, samples, leads) float32, z-units: x * sd_mv + mean_mv is in mV; zero after the recording's end
    y : (n,) int64, index into `classes`
    names : (n,) str
    lengths : (n,) int64, true samples in the window
    mean_mv, sd_mv : float64, mV, over the true samples: (n,), or (n, leads) if each lead is standardised by itself.
        NaN if recordings of one's own were given in z-units, so that nobody knows their millivolts
    signals : n arrays, the whole recordings (some are longer than the window): the challenge's (length,) int16, in
        1/1000 mV; those of one's own (length, leads) float32, as they were given
    split, protocol, labels : which recordings these are and whose labels they carry
    source : where they come from: `CHALLENGE` only if their digests say so, `DEMO`, or the name of a folder or file
    skipped : one line for each bad recording of the archive that was left out, with the reason
    classes : symbols of the classes, in the order of `y`; fs : sampling rate, Hz; leads : their names
    standardise : how x was made: "recording", "lead", "none" or "fixed", see `own.dataset_from_arrays`
    r_peak_lead : name of the lead that R-peaks are looked for in; "": lead II, or the first if there is none
    """

    x: np.ndarray
    y: np.ndarray
    names: np.ndarray
    lengths: np.ndarray
    mean_mv: np.ndarray
    sd_mv: np.ndarray
    signals: tuple[np.ndarray, ...]
    split: str
    protocol: str
    labels: str
    source: str
    skipped: tuple[str, ...] = ()
    classes: tuple[str, ...] = CLASSES
    fs: float = FS
    leads: tuple[str, ...] = ("ECG",)
    standardise: str = "recording"
    r_peak_lead: str = ""

    def __len__(self) -> int:
        return len(self.y)

    @property
    def mask(self) -> np.ndarray:
        """The shape of x, bool: True on real samples, False on zero padding."""
        real = (np.arange(self.x.shape[1]) < self.lengths[:, None])[..., None]
        return np.broadcast_to(real, self.x.shape)

    @property
    def has_mv(self) -> bool:
        """Whether millivolts are known."""
        return bool(np.isfinite(self.sd_mv).all())

    @property
    def uv_per_z(self) -> np.ndarray:
        """(n,) µV in one z-unit; the mean over leads, if each is standardised by itself."""
        return 1000 * by_lead(self.sd_mv).mean(axis=1)

    @property
    def title(self) -> str:
        """The words that stand on every figure and table made from these recordings."""
        short = self.source.replace(CHALLENGE, "CinC 2017", 1)
        return f"{short}, {self.split}, labels {self.labels}{self.left_out}"

    @property
    def left_out(self) -> str:
        """How many bad recordings were left out, to end a title with; "" if none."""
        return f", bad recordings skipped: {len(self.skipped)}" if self.skipped else ""

    @property
    def rhythm(self) -> int:
        """Which lead R-peaks are looked for in."""
        wanted = self.r_peak_lead or ("II" if "II" in self.leads else self.leads[0])
        return self.leads.index(wanted)

    def leads_in_mv(self, x: np.ndarray) -> list[np.ndarray]:
        """Windows of these recordings, (n, samples, leads) z-units, as n arrays (length, leads) float64, mV, unpadded.

        Where millivolts are not known, they stay in z-units.
        """
        sds, means = by_lead(self.sd_mv), by_lead(self.mean_mv)
        if not self.has_mv:
            sds, means = np.ones_like(sds), np.zeros_like(means)
        facts = zip(x, self.lengths, sds, means, strict=True)
        return [w[:length].astype(np.float64) * sd + mean for w, length, sd, mean in facts]

    def in_mv(self, x: np.ndarray) -> list[np.ndarray]:
        """As `leads_in_mv`, of the one lead in which R-peaks are looked for: n arrays (length,)."""
        return [mv[:, self.rhythm] for mv in self.leads_in_mv(x)]

    def take(self, index: np.ndarray) -> Dataset:
        """The recordings at `index` (integers or booleans), in that order."""
        index = np.arange(len(self))[index]
        arrays = {key: getattr(self, key)[index] for key in ("x", "y", "names", "lengths", "mean_mv", "sd_mv")}
        return replace(self, **arrays, signals=tuple(self.signals[i] for i in index))

    def of_class(self, symbol: str) -> Dataset:
        """The recordings of class `symbol`."""
        if symbol not in self.classes:
            raise EcgnbError(f"{self.title}: no class {symbol!r}; its classes are {', '.join(self.classes)}")
        return self.take(self.y == self.classes.index(symbol))

    def with_classes(self, classes: tuple[str, ...]) -> Dataset:
        """The same recordings with labels as indices into other `classes`, such as a model's.

        Raises EcgnbError if a recording is of a class that is not among them.
        """
        unknown = [symbol for c, symbol in enumerate(self.classes) if symbol not in classes and (self.y == c).any()]
        if unknown:
            raise EcgnbError(
                f"{self.title}: has recordings of class {unknown[0]}, and the model's classes are "
                f"{', '.join(classes)}; name its classes in the order of its outputs, or label them so"
            )
        numbers = np.array([classes.index(c) if c in classes else -1 for c in self.classes], np.int64)
        return replace(self, y=numbers[self.y], classes=tuple(classes))


def by_lead(values: np.ndarray) -> np.ndarray:
    """(n,) or (n, leads) as (n, 1) or (n, leads)."""
    return values[:, None] if values.ndim == 1 else values
