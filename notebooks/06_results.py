# %% [markdown]
# # 6 · Results, with their uncertainty
#
# **You learn** how far the leak of the original study inflates its scores, and what each defence gains and
# loses. You also learn how much of a difference is due to the seed, and which settings matter for the
# baseline.
#
# **You need** notebooks 4 and 5, and half a minute. Everything here comes from stored results of training
# runs, in `figures/results/`. `python ci/sweep.py models/runs.csv runs` and
# `python ci/sweep.py models/ablation.csv runs/ablation` made them in many hours. `RESULTS.md` beside this
# notebook has the same tables as a page.

# %% tags=["parameters"]
RESULTS = "figures/results"  # folder with a .json for each run, runs.csv and perhaps ablation.csv
RUNS = ""  # runs of the tables, split by spaces; "" is the shipped ones
HISTORIES = "static adaptive fast"  # shipped models whose training is drawn
OUT = "out"  # folder for figures; all relative paths start at the repository's root

# %%
from dataclasses import asdict, replace

import pandas as pd
from IPython.display import HTML, display

from ecgnb import notebook
from ecgnb.report import comparison, evaluation_figures, figures, runs, style, tables

out, stored = notebook.start(OUT), notebook.resolve(RESULTS)
pd.set_option("display.max_colwidth", None)
results = runs.read_runs(stored, RUNS.split() or list(comparison.PRESENTED))
measured = comparison.MEASURES  # title -> condition, measure
first = next(iter(results.values())).reports["validation"]
described = replace(first.about, model=" ".join(results), weights="")
head = f"{described.data}, labels {described.labels}"
print(len(results), "runs ·", head)

# %% [markdown]
# ## The baseline: what was tried
#
# One setting was changed at a time, in short runs. They were evaluated on the dev fold (826 recordings) and
# nowhere else. **Look for** how far the reference runs differ: they differ in their seed alone. A change of
# the score that is not larger shows nothing. A setting that helps in a short run need not help in a long one.

# %%
if (tried := stored / "ablation.csv").exists() and "baseline" in results:
    display(comparison.ablation_table(runs.read_table(tried), results["baseline"].config))

# %% [markdown]
# ## Beside the original study
#
# Protocol `original` trains on all 8,528 recordings, with labels v0 and the original's settings, and takes
# the last epoch. The 300 validation recordings are among those 8,528: that is its leak. Protocol `leakfree`
# trains without them and their copies. **Look at** the AF F1 that was published, and at ours under the
# protocol that shares its leak.

# %%
comparison.original_table(results)

# %% [markdown]
# ## All runs
#
# First the validation set, then the test fold, which protocol `original` cannot have. "Every class
# attacked" is the challenge score under untargeted PGD-20 on recordings of every class. "Normal as AF" is
# the share of normal recordings that random ±ε turns into a prediction of AF.

# %%
short = ["AF F1", "AF recall, PGD-20", "challenge score, every class attacked", "normal as AF, noise"]
comparison.results_table(results, "validation")[short]

# %%
comparison.results_table(results, "test")[short]

# %%
for split in ("validation", "test"):
    body = comparison.results_table(results, split).to_html()
    display(HTML(f"<details><summary>{split}: all measures</summary>{body}</details>"))

# %%
title = "Every model without the leak; 95 % intervals"
figure = evaluation_figures.forest(
    comparison.by_run(results, "test"), f"{head}, test fold", title, "score or share", rules=(2, 6)
)
tested = {name: run.reports["test"] for name, run in results.items() if "test" in run.reports}
measures = {
    name: {"_".join(which): comparison.measure(report, *which) for which in measured.values()}
    for name, report in tested.items()
}
on_test = asdict(replace(described, split="test"))
style.save(figure, out / "results_models.png", {"about": on_test, "measures": measures})
display(figure)

# %% [markdown]
# **How good is the network that is attacked?** The four winners of the Challenge had a score of 0.83 on its
# hidden recordings. They used ensembles and hand-made features. Ours is one network on the raw signal.
# **Look for** whether 0.83 lies in its interval.

# %%
if "baseline" in tested:
    score = tested["baseline"].conditions["clean"].scores["challenge_score"]
    low, high = score["ci95"]
    print(f"baseline, test fold, challenge score: {tables.with_interval(score)}")
    print(f"0.83 lies {'in' if low <= 0.83 <= high else 'outside'} the interval")

# %% [markdown]
# ## Claims, tested
#
# Each line compares two models, or one model under two conditions, on the same recordings. The interval
# comes from a **paired bootstrap**: recordings are drawn again with replacement, and the difference is
# computed for each draw. Holm's method adjusts p for all tests of a table together. **Look for** intervals
# that hold zero: there the table shows no difference. That is not evidence that there is none.

# %%
comparison.claims_table(results, "validation")

# %%
comparison.claims_table(results, "test")

# %% [markdown]
# ## How much is due to the seed?
#
# The same configurations were trained from the same baseline with other seeds. **Look for** bars that are
# farther apart than the dots around them.

# %%
by_seed = comparison.seeds(runs.read_table(stored / "runs.csv"), "test")
figure = evaluation_figures.seeds_figure(by_seed, f"{head}, test fold")
numbers = {
    defence: {"_".join(measured[title]): values for title, values in found.items()}
    for defence, found in by_seed.items()
}
style.save(figure, out / "results_seeds.png", {"about": on_test, "seeds": numbers})
display(figure)

# %%
comparison.seeds_table(by_seed)

# %% [markdown]
# ## Longer is not better
#
# Dev scores during training. **Look for** dashed lines that fall while solid ones do not: robust overfitting
# (notebook 5). The dotted line shows normal recordings that are predicted as AF under random noise. It does
# not rise. But noise is a weak test of label leaking: notebook 4 has a stronger one.

# %%
trained = {name: runs.read_training(notebook.resolve(name)) for name in HISTORIES.split()}
histories = {name: history for name, (history, _, _) in trained.items()}
selected = {name: epoch for name, (_, _, epoch) in trained.items()}
figure = figures.learning_curves(histories, f"{head}, dev fold", selected)
curves = {name: history.to_dict("list") for name, history in histories.items()}
numbers = {"about": asdict(replace(described, split="dev")), "selected": selected}
style.save(figure, out / "results_training.png", numbers | {"histories": curves})
display(figure)

# %% [markdown]
# ## Dropout against batch normalisation
#
# Two adaptive runs started from one baseline. The table shows them on the dev fold after as many epochs.
# `adaptive` has no dropout, and its batch-norm statistics are recomputed after every epoch.
# `adaptive-as-published` has dropout 0.5 and the statistics that training leaves, as in the original study.
# **Look for** AF recall under attack (`dev_robust_recall_A`).

# %%
ours, published = "adaptive", "adaptive-as-published"
if {ours, published} <= set(results) and ours in histories:
    last = pd.Series(results[published].last)
    same = histories[ours].set_index("epoch", drop=False).loc[int(last["epoch"])]
    display(pd.DataFrame({ours: same, published: last}).drop(index="criterion").round(2))

# %% tags=["nbval-check-output"]
splits = sorted({split for result in results.values() for split in result.reports})
leaky = [n for n, r in results.items() if r.protocol == "original" and "test" in r.reports]
print("evaluated on:", ", ".join(splits), "· with leak on the test fold:", len(leaky))

# %% [markdown]
# ## In this notebook we saw
#
# - how the scores with the leak compare with those without it, and whether a difference is shown;
# - what each defence gains and loses on recordings that it was not trained on, with intervals;
# - how far runs of one configuration differ by their seed alone.
#
# **Questions.** (1) Which differences in the test table are smaller than the spread of the seeds? (2) The
# original study reports AF F1 0.87 for its adaptive model. With which cell of these tables do you compare
# it? (3) Add a run to a copy of `models/runs.csv` and train it with `python ci/sweep.py`. Compare its model
# card with these tables.
