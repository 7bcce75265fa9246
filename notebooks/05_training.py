# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5 · Any config: train, watch, keep, score
#
# **You learn** how a defended model is trained by any of six configuration, how one sees robust overfitting and catastrophic overfitting
# while it happens, by which rule an epoch is kept, and what belongs on a model card.
#
# **You need** notebook 3, and about two minutes on two cores with a shipped model (`EPOCHS = 0`). Training takes a few minutes an epoch at
# most; a run that is stopped goes on from its last epoch. This is the notebook that `python -m ecgnb sweep` runs, once for each row of
# a plan such as `models/runs.csv`.

# %% tags=["parameters"]
DATA = "auto"  # "auto", "physionet", "demo" (synthetic), or a folder with the challenge's files
PROTOCOL = "leakfree"  # "leakfree", or "original" (the published study's, with its leak)
SPLITS = "validation"  # recordings to score on, split by spaces: validation, test; "none" is none
DEFENCE = "fast"  # baseline, static, adaptive, all-classes, fast or trades
START = ""  # model to start from: a shipped one or a .keras file; "" is the baseline, for a baseline none
MODEL = "fast"  # the shipped model to look at, if EPOCHS is 0
EPOCHS = 0  # 0: look at MODEL; more: train that many epochs
SEED = 2017  # of training, bootstrap and noise
PRECISION = "float32"  # of training: "float32" or "bfloat16"
CHANGES = ""  # settings that differ from the config's, as in column CHANGES of models/ablation.csv
NAME = ""  # of the run; "" is MODEL's or DEFENCE's
REMAKE = ""  # command that makes the model again, for its card; "" is this notebook's
RESUME = True  # go on from a checkpoint of an interrupted training
OUT = "out"  # folder for figures and runs; a relative path counts from the repository's root

# %%
from IPython.display import Markdown, display

from ecgnb import notebook
from ecgnb.data import dataset as data
from ecgnb.evaluation import old_scoring as scoring
from ecgnb.files import write_json
from ecgnb.models.classifier import KerasClassifier
from ecgnb.models.network import load, path_of
from ecgnb.report import card as cards
from ecgnb.report import figures as plots
from ecgnb.report import old_report as report
from ecgnb.report import style as canvas
from ecgnb.training import configuration as configuration

notebook.check_parameters()
out = notebook.output_folder(OUT)
name = NAME or (DEFENCE if EPOCHS else MODEL)

# %% [markdown]
# ## The config
#
# | | whom it attacks in training | with which weights | paper |
# |---|---|---|---|
# | static | half of the AF, to N | those it started from | the original |
# | adaptive | half of the AF, to N | those at the start of the epoch | the original |
# | all-classes | half of every class, untargeted | those at the start of the epoch | Madry et al. 2018 |
# | fast | everyone, one step from a random start | those of the moment | Wong et al. 2020 |
# | trades | everyone, away from their own clean reading | those of the moment | Zhang et al. 2019 |
#
# **Look for** the rule of selection: it is fixed before training, and uses the dev fold alone.

# %%
changes = dict(epochs=EPOCHS, seed=SEED, precision=PRECISION) | configuration.changes(CHANGES)
config = configuration.training_config(DEFENCE, PROTOCOL, **changes) if EPOCHS else None
start = START or ("" if DEFENCE == "baseline" else "baseline")
source = dict(protocol=PROTOCOL, data=DATA)
model, history, origin = notebook.load_or_train(
    config, name if EPOCHS else MODEL, out, source, start=start, resume=RESUME
)
beside = out / "runs" / DEFENCE / "config.json" if EPOCHS else path_of(MODEL).with_suffix(".json")
settings = report.read_json(beside)
judged_on = [] if SPLITS == "none" else SPLITS.split()
sets = {split: data.load(split, **source) for split in judged_on}
about = report.provenance(next(iter(sets.values())), SEED, origin) if sets else {"seed": SEED}
print(name, "·", origin, "·", settings["recordings"])

# %% [markdown]
# ## How it learnt
#
# **Look for** four things. (1) Does the dashed line of the middle panel, the score with every class attacked, rise with the solid one? (2) Does it
# fall again while the clean score still rises? That is *robust overfitting* (Rice et al. 2020). (3) Does it break down from one epoch to
# the next? That is *catastrophic overfitting* (Wong et al. 2020); `fast` raises an alarm. (4) Does the dotted line below rise? Then the
# network has learnt that whatever is perturbed is AF, and its AF recall under attack means nothing.

# %%
ends = report.best_and_last(history)
kept = int(ends["last" if settings["select"] == "last" else "best"]["epoch"])
figure = plots.learning_curves({name: history}, settings["recordings"], {name: kept})
curve = {"kept": kept, "history": history.to_dict("list"), "config": settings}
canvas.save(figure, out / "training_curves.png", about | curve)
display(figure)

# %% [markdown]
# The epoch that is best by the rule, and the last one. Where the last is worse in a robust column, training longer did harm, and the
# rule saved us from it.

# %%
ends.drop(index="loss").round(3)

# %% [markdown]
# ## What it scores
#
# On recordings that played no part in training or selection (under `PROTOCOL="original"` they did: that is its leak). PGD-20 on AF alone, to normal, as in
# the original: with ε as a share of each recording's own SD, with the same µV for all, and made with the model that training started from, whose examples a
# static defence has seen. Then every recording is attacked, and any wrong class will do.

# %%
classifier = KerasClassifier(model, settings["batch_size"])
origin_victim = KerasClassifier(load(start)) if start else None
scores = {
    split: scoring.score(classifier, judged, name, start=origin_victim, seed=SEED, progress=True)
    for split, judged in sets.items()
}

# %%
found = cards.result(name, settings, history, scores, model)
remake = REMAKE or f"papermill 05_training.ipynb out.ipynb -p DEFENCE {DEFENCE} -p EPOCHS {EPOCHS}"
card = cards.card(found, start, remake)
write_json(out / "result.json", found)
(out / "card.md").write_text(card, encoding="utf-8")
display(Markdown(card))

# %% tags=["nbval-check-output"]
epochs = history["epoch"].tolist()
print("epochs in order, none missing:", epochs == list(range(1, len(epochs) + 1)))
print("scores between 0 and 1:", bool(ends.filter(like="dev", axis=0).stack().between(0, 1).all()))

# %% [markdown]
# ## In this notebook we saw
#
# - that a config is data: a defence, a few settings and a seed, written beside the weights;
# - how to see overfitting of two kinds, and a shortcut, in the dev scores of every epoch;
# - that the kept epoch follows from a rule fixed beforehand;
# - what a model card has to say.
#
# **Questions.** (1) `-p DEFENCE fast -p EPOCHS 6 -p CHANGES "step_size=0.05"`: does the alarm ring? (2) Which epoch would be kept if only the clean score
# counted? (3) Notebook 6 compares all runs. Before you look: which defence do you expect to lose least on clean recordings?
