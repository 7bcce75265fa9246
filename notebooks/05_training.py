# %% [markdown]
# # 5 · Any defence: train it, select an epoch, evaluate it
#
# **You learn** how a model is trained with any of five defences. You see how robust overfitting and
# catastrophic overfitting show while they happen, by which rule an epoch is selected, and what belongs on
# a model card.
#
# **You should know** notebook 3. Terms are in the [glossary](course/glossary.md).
#
# **You need** about 40 minutes, and 30 more for the exercises. The machine needs about two minutes on two cores
# with a shipped model (`EPOCHS = 0`). Training takes up to a few minutes an epoch; for a lesson, notebook 3
# trains a small network in less than a minute. An interrupted run continues after its last epoch. To run this
# notebook for each row of a table such as `models/runs.csv`, use `python ci/sweep.py`.

# %% tags=["parameters"]
DATA = "auto"  # "auto", "physionet", "demo" (synthetic), or a folder with the challenge's files
PROTOCOL = "leakfree"  # "leakfree", or "original" (the published study's, with its leak)
SPLITS = "validation"  # recordings to evaluate on, split by spaces: validation, test; or "none"
DEFENCE = "fast"  # with EPOCHS: baseline, static, adaptive, all-classes, fast, trades, control, or package.module:Class
START = ""  # to start from: a shipped model, a .keras file, package.module:function; "": the protocol's baseline
MODEL = "fast"  # the shipped model to look at, if EPOCHS is 0
EPOCHS = 0  # 0: look at MODEL; more: train that many epochs
SEED = 2017  # of training, bootstrap and noise
PRECISION = "float32"  # of training: "float32" or "bfloat16"
OVERRIDES = ""  # settings that differ from the defence's own, as in models/ablation.csv
LEAK = ""  # leak experiment: train "with" or "without" the 300 validation recordings; "": no experiment
NAME = ""  # of the run; "" is MODEL's or DEFENCE's
REMAKE = ""  # command that makes the model again, for its card; "" is this notebook's
RESUME = True  # continue from the checkpoint of an interrupted training
OUT = "out"  # folder for figures and runs; all relative paths start at the repository's root

# %% tags=["setup"]
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from ecgnb import notebook
from ecgnb.data.download import cache_dir
from ecgnb.data.leak import load_split
from ecgnb.evaluation import engine, suites
from ecgnb.evaluation.named import from_keras, named_model
from ecgnb.report import card, figures, runs
from ecgnb.training.configuration import defence_name, overrides, shipped_name, training_config

out = notebook.start(OUT)
name = NAME or (defence_name(DEFENCE) if EPOCHS else MODEL)

# %% [markdown]
# ## The training configuration
#
# All defences train on adversarial examples. They differ in what is attacked, and with which weights:
#
# | defence | attacked in training | weights that the attack uses | paper |
# |---|---|---|---|
# | static | half of the AF, towards N | those that training starts from | the original study |
# | adaptive | half of the AF, towards N | those at the start of the epoch | the original study |
# | all-classes | half of every class, untargeted | those at the start of the epoch | Madry et al. 2018 |
# | fast | all, untargeted, by one step from a random start | the current ones, every batch | Wong et al. 2020 |
# | trades | all, away from their clean prediction | the current ones, every batch | Zhang et al. 2019 |
#
# `control` is no defence: it trains on the recordings of static and adaptive, and attacks none. What it changes is not
# due to attacks.
#
# A configuration is data: a defence, its settings and a seed. It is written beside the weights.

# %%
chosen = dict(epochs=EPOCHS, seed=SEED, precision=PRECISION) | overrides(OVERRIDES)
config = training_config(DEFENCE, PROTOCOL, **chosen) if EPOCHS else None
source = dict(protocol=PROTOCOL, data=DATA, leak=LEAK)
splits = [] if SPLITS == "none" else SPLITS.split()
datasets = {split: load_split(split, **source) for split in splits or ["dev"]}
start = START or shipped_name("baseline", PROTOCOL)
model, history, origin = notebook.load_or_train(
    config, name if EPOCHS else MODEL, out, source, start=start, resume=RESUME
)
trained = out / "runs" / config.defence if EPOCHS else notebook.resolve(MODEL)
_, settings, selected = runs.read_training(trained)
print(name, "·", origin, "·", settings["recordings"])

# %% [markdown]
# ## Learning curves
#
# After every epoch the model is evaluated on the dev fold, clean and attacked. **Look for** four things.
#
# 1. Does the dashed line of the middle panel rise with the solid one? It is the challenge score when
#    recordings of every class are attacked.
# 2. Does it fall again while the clean score does not? That is **robust overfitting**: more training
#    makes the model less robust to attacks on recordings that it was not trained on (Rice et al. 2020).
# 3. Does it break down from one epoch to the next? That is **catastrophic overfitting**: the model
#    resists the one step that it is trained against, and no longer resists PGD (Wong et al. 2020). The
#    history of `fast` has a column for it.
# 4. Does the dotted line below rise? Then the model predicts AF for whatever is perturbed (label
#    leaking), and its AF recall under attack proves nothing. If it stays low, noise does not show label
#    leaking. That does not exclude it (notebook 4).

# %%
first = next(iter(datasets.values()))
evaluated = from_keras(model, name, settings["batch_size"], first.classes, first.fs)
described = engine.describe(first, seed=SEED, model=origin, digest=evaluated.digest)

# %%
ends = runs.best_and_last(history)
figure = figures.learning_curves({name: history}, settings["recordings"], {name: selected})
numbers = dict(selected=selected, history=history.to_dict("list"), config=settings)
alt = "Over the epochs: the training loss, and dev scores, clean and under attack; the selected epoch is marked."
notebook.show(figure, out / "training_curves.png", described, alt, **numbers)

# %% [markdown]
# The epoch that is best by the rule of selection, and the last one. The rule was fixed before training and
# uses the dev fold alone. Its value is the row `criterion`. For static and adaptive that is the mean of the
# challenge score and of AF recall under attack. For the others it is the mean of the challenge score, clean
# and with every class attacked.
#
# **Look for** robust rows that are worse in the last epoch. There, training longer may have done harm. A
# difference no larger than between neighbouring epochs may be chance.

# %%
ends.drop(index="loss").astype(float).round(3)

# %% [markdown]
# ## Evaluation
#
# On recordings that played no part in training or selection. (Under `PROTOCOL="original"` they did: that is
# its leak.) PGD-20 attacks AF towards normal, as in the original study. A second attack has 34 µV for every
# patient in place of 0.2 SD. A third is **transferred**: its examples are crafted on the model that
# training started from. Then recordings of every class are attacked, untargeted.

# %%
start = START or ("" if settings["defence"] == "baseline" else shipped_name("baseline", PROTOCOL))
surrogate = named_model(notebook.resolve(start)) if start else None
suite = suites.results_suite(transferred=bool(start))
how = dict(surrogate=surrogate, cache=cache_dir() / "attacks", seed=SEED, progress=True)
reports = {split: engine.evaluate(evaluated, datasets[split], suite, **how) for split in splits}

# %% [markdown]
# ## The model card
#
# A model card says what a model is, what it was trained on, and how well it does (Mitchell et al. 2019).
# It also says what the model is not for, and how to make it again.

# %%
given = dict(DEFENCE=DEFENCE, EPOCHS=EPOCHS, PROTOCOL=PROTOCOL, START=START, DATA=DATA)
given |= dict(SEED=SEED, PRECISION=PRECISION, OVERRIDES=OVERRIDES, LEAK=LEAK)
words = [f"-p {key} '{value}'" for key, value in given.items() if value]
command = " ".join(["papermill notebooks/05_training.ipynb out/05_training.ipynb", *words])
if not EPOCHS:
    command = f"python ci/sweep.py models/runs.csv runs --only {MODEL}"

# %%
result = runs.run_result(name, settings, history, model.get_weights(), reports)
runs.write_run(out / "result.json", result)
text = card.card(result, start, REMAKE or command)
(out / "card.md").write_text(text, encoding="utf-8")
display(Markdown(text))

# %% tags=["nbval-check-output"]
epochs, dev = history["epoch"].tolist(), ends.filter(like="dev_", axis=0).astype(float)
print("epochs in order, none missing:", epochs == list(range(1, len(epochs) + 1)))
print("scores between 0 and 1:", bool(dev.stack().between(0, 1).all()))

# %% [markdown]
# ## In this notebook we saw
#
# - that a training configuration is data: a defence, a few settings and a seed;
# - how two kinds of overfitting show in the dev scores of every epoch;
# - that the selected epoch follows from a rule that was fixed before training;
# - what a model card says.
#
# **Questions.** (1) Train with `-p DEFENCE fast -p EPOCHS 6 -p OVERRIDES "epsilon=0.5 step_size=0.05"`. Does
# catastrophic overfitting occur at this larger ε? (`step_size` is only the step of the PGD that watches the dev fold.
# The training step of `fast` is always 1.25 ε.) (2) Which epoch would be selected if only the clean score counted?
# (3) Notebook 6 compares all runs. Before you look: which defence reduces clean scores least?

# %% [markdown]
# ## Exercises
#
# Write your answer where it says `# your code here`. The cell after it checks the answer. No exercise trains a
# network: the histories of shipped models are enough.

# %% tags=["setup"]
histories = {key: pd.read_csv(notebook.resolve(key).with_suffix(".csv")) for key in ("static", "adaptive", "fast")}

# %% [markdown]
# ### Exercise 1: another rule of selection (question 2)
#
# Which epoch of each history has the best clean challenge score on dev (`dev_challenge_score`)? Compare it with the
# epoch that was selected. What would have changed in robustness?

# %% tags=["solution"]
clean_best = {}  # model -> epoch
### BEGIN SOLUTION
for key, table in histories.items():
    clean_best[key] = int(table.loc[table["dev_challenge_score"].idxmax(), "epoch"])
### END SOLUTION

# %% tags=["check"]
assert set(clean_best) == set(histories), "clean_best needs an epoch for static, adaptive and fast"
for key, table in histories.items():
    by_epoch = table.set_index("epoch")
    best = by_epoch["dev_challenge_score"].max()
    assert by_epoch["dev_challenge_score"].get(clean_best[key]) == best, f"{key}: no epoch reaches more than {best:.3f}"
    columns = ["dev_challenge_score", "dev_robust_challenge_score"]
    rows = {"selected": int(runs.best_and_last(table).loc["epoch", "best"]), "best clean": clean_best[key]}
    print(key, {name: (epoch, *by_epoch.loc[epoch, columns].round(2)) for name, epoch in rows.items()})

# %% [markdown]
# ### Exercise 2: an alarm for robust overfitting
#
# Write a function that says at which epoch robust overfitting shows: the first epoch at which the robust score is more
# than 0.05 below its best value so far, while the clean score of the same epoch is at most 0.02 below *its* best value
# so far. Return `None` if there is no such epoch. `np.maximum.accumulate` gives the best value so far.


# %% tags=["solution"]
def robust_overfitting(clean, robust):
    """clean, robust : (epochs,) scores; returns an epoch, the first is 1, or None."""
    epoch = 0
    ### BEGIN SOLUTION
    loss_of_clean = np.maximum.accumulate(clean) - clean
    loss_of_robust = np.maximum.accumulate(robust) - robust
    alarms = np.flatnonzero((loss_of_robust > 0.05) & (loss_of_clean <= 0.02))
    epoch = int(alarms[0]) + 1 if len(alarms) else None
    ### END SOLUTION
    return epoch


# %% tags=["check"]
clean = np.array([0.70, 0.75, 0.80, 0.80])
cases = {"falls": [0.3, 0.5, 0.4, 0.4], "rises": [0.3, 0.4, 0.5, 0.6], "falls a little": [0.3, 0.5, 0.46, 0.47]}
expected = {"falls": 3, "rises": None, "falls a little": None}
for name_of_case, robust in cases.items():
    answer = robust_overfitting(clean, np.array(robust))
    assert answer == expected[name_of_case], f"robust score {robust}: expected {expected[name_of_case]}, got {answer}"
both_fall = robust_overfitting(np.array([0.8, 0.5]), np.array([0.5, 0.2]))
assert both_fall is None, "where the clean score falls as well, it is not robust overfitting"
for key, table in histories.items():
    known = table.dropna(subset=["dev_robust_challenge_score"])
    print(key, robust_overfitting(*(known[f"dev_{c}challenge_score"].to_numpy() for c in ("", "robust_"))))

# %% [markdown]
# ### Exercise 3: a training configuration of your own
#
# Make the configuration of question 1: `fast`, protocol `leakfree`, 6 epochs, ε 0.5, a PGD step of 0.05, and seed 1.
# `training_config` takes settings as keyword arguments; `python -m ecgnb train --help` lists them. Then train with it,
# if you have the recordings and half an hour.

# %% tags=["solution"]
mine = None
### BEGIN SOLUTION
mine = training_config("fast", "leakfree", epochs=6, epsilon=0.5, step_size=0.05, seed=1)
### END SOLUTION

# %% tags=["check"]
assert mine is not None, "call training_config"
wanted = dict(defence="fast", epochs=6, epsilon=0.5, step_size=0.05, seed=1)
wrong = {key: getattr(mine, key) for key, value in wanted.items() if getattr(mine, key) != value}
assert not wrong, f"these settings are not those of the exercise: {wrong}"
print("threat model of this training:", mine.untargeted_threat)
