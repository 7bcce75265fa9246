"""Runs beside each other: what a leak, a defence, a setting or a seed is worth. One function a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ecgnb import metrics
from ecgnb.recipes import changes
from ecgnb.report import ORIGINAL, brief, read_json
from ecgnb.scoring import EVERY_CLASS, NOISE, STORED, THREATS, classes

Z, UV = THREATS
TURNED = "AF read as N under attack, of AF found clean"
PRESENTED = (  # the runs of the results table, in its order
    *("original-baseline", "original-static", "original-adaptive"),
    *("baseline", "static", "adaptive", "all-classes", "fast"),
    *("baseline-as-published", "adaptive-as-published"),
)
CLEAN = "nothing attacked"


class Claim(NamedTuple):
    """A difference between two sides, the second less the first, and what it comes to where it is shown."""

    before: tuple[str, str]  # run, attack: a key of "read as" in `scoring.score`
    after: tuple[str, str]
    measure: str  # of MEASURES
    if_more: str
    if_less: str

    @property
    def fair(self) -> bool:
        """Whether the test fold may judge it: protocol original has trained on that fold."""
        return not any(run.startswith("original") for run, _ in (self.before, self.after))


PLAIN, LEAKY = ("baseline-as-published", CLEAN), ("original-baseline", CLEAN)
LEAK = ("the leak inflates it", "lower in spite of the leak")
MEMORY = ("no memorising", "static memorises")
PRICE = ("adaptive improves it", "adaptive costs some")
CLAIMS = {
    "what the leak adds": Claim(PLAIN, LEAKY, "F1 A", *LEAK),
    "what the leak adds, all classes": Claim(PLAIN, LEAKY, "challenge score", *LEAK),
    "static: fresh attack less stored one": Claim(
        ("static", STORED), ("static", Z), "AF recall", *MEMORY
    ),
    "static: fresh attack less stored one, with the leak": Claim(
        ("original-static", STORED), ("original-static", Z), "AF recall", *MEMORY
    ),
    "adaptive less baseline, clean": Claim(
        ("baseline", CLEAN), ("adaptive", CLEAN), "F1 A", *PRICE
    ),
    "adaptive less baseline, clean, its statistics as published": Claim(
        ("baseline", CLEAN), ("adaptive-as-published", CLEAN), "F1 A", *PRICE
    ),
    "adaptive less baseline, clean, with the leak": Claim(
        LEAKY, ("original-adaptive", CLEAN), "F1 A", *PRICE
    ),
}
FAIR = {words: claim for words, claim in CLAIMS.items() if claim.fair}
MEASURES: dict[str, Callable] = {
    "F1 A": lambda counts: metrics.f1_scores(counts)[..., 0],
    "challenge score": metrics.challenge_score,
    "AF recall": metrics.recall,
}


def read_results(folder: Path, names: list[str]) -> dict[str, dict]:
    """name -> `cards.result` of runs, from JSON files in a folder."""
    return {name: read_json(folder / f"{name}.json") for name in names}


def results_table(results: dict[str, dict], splits: tuple[str, ...]) -> pd.DataFrame:
    """Every run on every split it was scored on: clean, and under fresh attacks, with 95 % intervals.

    The original's figures stand beside those of its own three models.
    """
    rows = {}
    for name, found in results.items():
        kind, protocol = found["recipe"]["defence"], found["recipe"]["recordings"]
        protocol = "original" if "protocol original" in protocol else "leakfree"
        for split in (s for s in splits if s in found["scores"]):
            scores = found["scores"][split]
            clean, fresh, uv = scores["clean"], scores["attacked"][Z], scores["attacked"][UV]
            published = ORIGINAL.get(kind, ("—", "—")) if split == "validation" else ("—", "—")
            rows[name, protocol, split] = {
                **{f"F1 {c}": brief(clean[f"F1 {c}"]) for c in "ANO~"},
                "F1 A, original": published[0],
                "challenge score": brief(clean["challenge score"]),
                "AF recall": brief(clean["AF recall"]),
                f"AF recall, {Z}": brief(fresh["AF recall"]),
                f"F1 A, {Z}": brief(fresh["F1 A"]),
                f"F1 A, {Z}, original": published[1],
                f"turned, {Z}": brief(fresh[TURNED]),
                f"AF recall, {UV}": brief(uv["AF recall"]),
                f"F1 A, {UV}": brief(uv["F1 A"]),
                f"turned, {UV}": brief(uv[TURNED]),
                "challenge score, every class attacked": brief(
                    scores[EVERY_CLASS]["challenge score"]
                ),
                f"N read as A, {NOISE}": brief(scores[NOISE]["N read as A"]),
            }
    table = pd.DataFrame(rows).T
    return table.rename_axis(["run", "protocol", "split"])


def results_markdown(folder: Path) -> str:
    """`results_table` of the shipped models, from their stored results, as the README has it."""
    results = read_results(folder / "results", list(PRESENTED))
    table = results_table(results, ("validation", "test"))
    few = ["F1 N", "F1 O", "F1 ~", f"F1 A, {UV}", f"turned, {UV}"]
    lines = table.drop(columns=few).reset_index()
    heads = {
        "{data}, labels {labels}, seed {seed}".format(**scores["about"])
        for found in results.values()
        for scores in found["scores"].values()
    }
    return "\n".join([*sorted(heads), "", markdown(lines)])


def claims_markdown(folder: Path) -> str:
    """`CLAIMS` tested on the validation set, and on the test fold where both models may be judged there."""
    results = read_results(folder / "results", list(PRESENTED))
    tables = {
        "validation": paired(results, "validation", CLAIMS),
        "test": paired(results, "test", FAIR),
    }
    both = pd.concat(tables, names=["split", "claim"]).reset_index()
    return markdown(both[["claim", "split", "measure", "difference", "p", "p, Holm", "so"]])


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown, without its index."""
    rows = [table.columns, ["---"] * table.shape[1], *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def by_measure(results: dict[str, dict], split: str) -> dict[str, dict[str, dict]]:
    """run -> {measure: value with interval} of the runs scored on a split, as `evaluation_plots.forest` takes it."""
    return {
        name: {
            "AF F1, clean": (scores := found["scores"][split])["clean"]["F1 A"],
            "challenge score, clean": scores["clean"]["challenge score"],
            "AF recall, clean": scores["clean"]["AF recall"],
            f"AF recall, {Z}": scores["attacked"][Z]["AF recall"],
            f"AF recall, {UV}": scores["attacked"][UV]["AF recall"],
            "challenge score, every class attacked": scores[EVERY_CLASS]["challenge score"],
            f"N read as AF, {NOISE}": scores[NOISE]["N read as A"],
        }
        for name, found in results.items()
        if split in found["scores"]
    }


def paired(results: dict[str, dict], split: str, claims: dict[str, Claim]) -> pd.DataFrame:
    """Claims as paired differences on the same recordings, with 95 % intervals and p, adjusted by Holm.

    claims : words -> what is compared; those on runs that are not among the results are left out. Column "so" :
    what the difference means if its adjusted p is below 0.05.
    """
    found = {}
    for words, claim in claims.items():
        if any(run not in results for run, _ in (claim.before, claim.after)):
            continue
        y, before, after = (
            classes(results[claim.before[0]]["scores"][split]["labels"]),
            *(
                classes(results[run]["scores"][split]["read as"][attack])
                for run, attack in (claim.before, claim.after)
            ),
        )
        found[words] = metrics.compare_scores(y, before, after, MEASURES[claim.measure])
    adjusted = metrics.holm(np.array([one["p"] for one in found.values()]))
    rows = {}
    for (words, one), holm in zip(found.items(), adjusted, strict=True):
        claim = claims[words]
        meaning = claim.if_more if one["value"] > 0 else claim.if_less
        rows[words] = {
            "measure": claim.measure,
            "difference": "{:+.2f} [{:+.2f}, {:+.2f}]".format(one["value"], *one["ci95"]),
            "p": f"{one['p']:.2g}",
            "p, Holm": f"{holm:.2g}",
            "so": meaning if holm < 0.05 else "not shown",
        }
    return pd.DataFrame(rows).T


def seeds(table: pd.DataFrame, split: str) -> dict[str, dict[str, dict[int, float]]]:
    """defence -> {measure: {seed: value}}, for each defence that was run with several seeds, leak-free.

    Runs that differ in more than their seed do not count. table : of `sweeps.tidy`.
    """
    picked = {
        "F1 A": ("none", "F1 A"),
        "challenge score": ("none", "challenge score"),
        "AF recall": ("none", "AF recall"),
        f"AF recall, {Z}": (Z, "AF recall"),
        f"F1 A, {Z}": (Z, "F1 A"),
        "challenge score, every class attacked": (EVERY_CLASS, "challenge score"),
        f"N read as A, {NOISE}": (NOISE, "N read as A"),
    }
    leakfree = table[(table["split"] == split) & (table["protocol"] == "leakfree")]
    found = {}
    recipe = [c for c in ("defence", "start", "epochs", "changes") if c in table]
    for (defence, *_), runs in leakfree.groupby(recipe, sort=False, dropna=False):
        if runs["seed"].nunique() > 1:
            found[defence] = {
                words: runs[(runs["attack"] == attack) & (runs["measure"] == measure)]
                .set_index("seed")["value"]
                .astype(float)
                .to_dict()
                for words, (attack, measure) in picked.items()
            }
    return found


def seeds_table(found: dict[str, dict[str, dict[int, float]]]) -> pd.DataFrame:
    """Every seed's value of `seeds`, their mean and standard deviation."""
    rows = {
        (defence, measure): {
            **{f"seed {seed}": f"{value:.2f}" for seed, value in values.items()},
            "mean": f"{np.mean(list(values.values())):.2f}",
            "SD": f"{np.std(list(values.values()), ddof=1):.2f}",
        }
        for defence, measures in found.items()
        for measure, values in measures.items()
    }
    return pd.DataFrame(rows).T.rename_axis(["defence", "measure"])


def ablation_table(table: pd.DataFrame, recipe: dict) -> pd.DataFrame:
    """What was tried for the baseline, judged on the dev fold: a row for each change of one thing.

    table : of `sweeps.tidy`; its runs without changes, of one seed or several, are the reference; recipe :
    the shipped baseline's settings, which tell whether a change was taken over.
    """
    dev = table[table["split"] == "dev"]
    scores = dev.pivot(index="run", columns="measure", values="value").astype(float)
    tried = dev.drop_duplicates("run").set_index("run")["changes"].fillna("")
    reference = scores[tried[scores.index] == ""]
    mean = reference.mean()

    def row(one: pd.Series, kept: str) -> dict[str, str]:
        change = one["challenge score"] - mean["challenge score"]
        return {
            "challenge score": f"{one['challenge score']:.3f}",
            "less the reference": f"{change:+.3f}",
            "AF F1": f"{one['F1 A']:.2f}",
            "kept": kept,
        }

    rows = {
        f"reference, run {i + 1}": row(one, "yes")
        for i, (_, one) in enumerate(reference.iterrows())
    }
    for run, text in tried[tried != ""].items():
        taken = all(recipe[name] == value for name, value in changes(text).items())
        rows[text] = row(scores.loc[run], "yes" if taken else "no")
    return pd.DataFrame(rows).T.rename_axis("change")
