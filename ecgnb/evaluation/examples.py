"""Adversarial examples as a file, for people to read and for other tools."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ecgnb.attacks import Threat
from ecgnb.data.dataset import Dataset
from ecgnb.evaluation.engine import worst_case
from ecgnb.evaluation.schema import Report
from ecgnb.files import write_atomically
from ecgnb.models.classifier import predicted_classes


def save_examples(path: Path, report: Report, dataset: Dataset) -> None:
    """Write the adversarial examples of a report that was just made, as an `.npz` file of plain arrays.

    dataset : what was evaluated. Of the n recordings of the attacked class the file has
    names, labels, lengths : (n,), labels as symbols, lengths in samples; classes, leads : symbols and names; fs : Hz
    x : (n, samples, leads) float32, z-units, clean; mean_mv, sd_mv : x * sd_mv + mean_mv is in mV
    and of PGD-20, if the suite has it, and of the worst case, each key beginning with `pgd20_` or `worst_case_`:
    perturbation : (n, samples, leads) float32, z-units: add it to x; perturbation_uv : the same in µV, NaN where
    millivolts are not known; predicted : (n,), symbols, "?" where logits are not finite
    worst_case_attack : (n,), name of the attack that is the worst case.
    """
    threat = Threat(**report.threat)
    attacked = dataset.take(threat.is_attacked(dataset))
    symbols = np.array([*dataset.classes, "?"])  # UNDEFINED is -1
    worst = worst_case(report.examples, threat.on(attacked))
    found = {"worst_case": (worst.x, worst.predicted)}
    if "pgd20" in report.examples:
        pgd20 = report.examples["pgd20"]
        found["pgd20"] = pgd20.x, predicted_classes(pgd20.logits)
    sd = attacked.sd_mv.reshape(len(attacked), 1, -1)
    arrays = {
        "names": attacked.names,
        "labels": symbols[attacked.y],
        "lengths": attacked.lengths,
        "classes": np.array(dataset.classes),
        "leads": np.array(dataset.leads),
        "fs": np.array(dataset.fs),
        "x": attacked.x,
        "mean_mv": attacked.mean_mv,
        "sd_mv": attacked.sd_mv,
        "worst_case_attack": worst.attack,
    }
    for name, (x, predicted) in found.items():
        perturbation = x - attacked.x
        arrays |= {
            f"{name}_perturbation": perturbation,
            f"{name}_perturbation_uv": (1000 * sd * perturbation).astype(np.float32),
            f"{name}_predicted": symbols[predicted],
        }

    def write(target: Path) -> None:
        with target.open("wb") as file:
            np.savez_compressed(file, **arrays)

    write_atomically(path, write)
