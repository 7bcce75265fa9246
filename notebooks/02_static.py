# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2 · Static adversarial training
#
# **You learn** the first idea everyone has: make adversarial examples once, add them to the training set, train again. And
# why the number it is usually judged by says little.
#
# **You need** notebook 1 (for PGD) and about two minutes on two cores with the shipped model (`EPOCHS = 0`). Training as the
# original did is `EPOCHS = 75`: about 30 seconds an epoch, and the 99 MB training archive.

# %% tags=["parameters"]
DATA = "auto"  # "auto", "physionet", "demo" (synthetic), or a folder with the challenge's files
PROTOCOL = "leakfree"  # "leakfree", or "original" (the published study's, with its leak)
LABELS = ""  # label version "v0", "v2" or "v3", to train and judge by; "" is the protocol's own
BAD = "error"  # a bad recording stops the run ("error"), or is left out and counted ("skip")
SPLIT = "validation"  # recordings to judge on: "validation" (300), or "test" (1,198; 99 MB)
BASELINE = "baseline"  # the undefended model: a shipped one, or a .keras or .hdf5 file
MODEL = "static"  # the defended model: a shipped one, or a .keras or .hdf5 file
EPOCHS = 0  # 0: use MODEL; more: train that many epochs from BASELINE (the original: 75)
LEARNING_RATE = 1e-4  # of training (Adam)
DROPOUT = 0.0  # of training; the original's is 0.5
STATISTICS = "clean"  # of batch-norm: "clean" (dropout off), or "dropout" (the original)
PER_CLASS = 300  # most recordings of each class in an epoch; half of the AF are attacked
BATCH_SIZE = 32  # recordings a step, in training and attack
PRECISION = "float32"  # of training: "float32" or "bfloat16"
EPSILON = 0.2  # L∞ budget, z-units
EPS_STEP = 0.02  # PGD step at EPSILON, z-units; at another ε it grows or shrinks with it
MAX_ITER = 20  # PGD steps when judging
TRAIN_ITER = 20  # PGD steps when training
TARGET = "N"  # class that AF shall be read as: "N", "O", "~"; "" is untargeted
SEED = 2017  # of training and noise
RESUME = True  # go on from a checkpoint of an interrupted training
OUT = "out"  # folder for figures and runs; a relative path counts from the repository's root

# %%
import numpy as np
from IPython.display import display

from ecgnb import metrics, notebook
from ecgnb.attacks.threats import Threat, goal_of
from ecgnb.data import dataset as data
from ecgnb.evaluation import old_evaluation as evaluation
from ecgnb.models.classifier import KerasClassifier
from ecgnb.models.network import load
from ecgnb.report import figures as plots
from ecgnb.report import old_report as report
from ecgnb.report import style as canvas
from ecgnb.training import configuration as configuration

notebook.check_parameters()
out = notebook.output_folder(OUT)
threat = Threat(goal_of(TARGET), EPSILON, spare_padding=PROTOCOL == "leakfree")

# %% [markdown]
# ## The config
#
# Each epoch draws at most `PER_CLASS` recordings a class from the training fold. Half of the AF among them are replaced by
# adversarial versions, **made once, with the baseline**, before training begins. In the original these stay
# the same for 75 epochs.

# %%
changes = dict(
    epochs=EPOCHS,
    learning_rate=LEARNING_RATE,
    dropout=DROPOUT,
    statistics=STATISTICS,
    per_class=PER_CLASS,
    batch_size=BATCH_SIZE,
    precision=PRECISION,
    epsilon=EPSILON,
    step_size=EPS_STEP,
    steps=TRAIN_ITER,
    target=TARGET,
    seed=SEED,
)
config = configuration.training_config("static", PROTOCOL, **changes) if EPOCHS else None

# %%
source = dict(protocol=PROTOCOL, labels=LABELS, data=DATA, bad=BAD)
judged = data.load(SPLIT, **source)
model, history, origin = notebook.load_or_train(
    config, MODEL, out, source, start=BASELINE, resume=RESUME
)
gradient = KerasClassifier(model, BATCH_SIZE)
undefended = KerasClassifier(load(BASELINE), BATCH_SIZE)
about = report.provenance(judged, SEED, origin)
print(judged.title, "·", origin)

# %% [markdown]
# ## How it learnt
#
# **Look for** the lowest panel: recall of AF on the dev fold, clean and under a *fresh* attack, made anew with the weights of
# that epoch. How long does resistance to fresh attacks keep up with the score on clean recordings? The kept epoch is the best
# on dev by the mean of the two, a kinder choice than the original's last epoch.

# %%
histories = {"static": history} if history is not None else {}
kept = {name: int(h["epoch"][h["criterion"].idxmax()]) for name, h in histories.items()}
figure = plots.learning_curves(histories, f"{judged.title.split(',')[0]}, dev fold", kept)
curves = {name: h.to_dict("list") for name, h in histories.items()}
canvas.save(figure, out / "static_learning_curves.png", about | {"kept": kept, "histories": curves})
display(figure)

# %% [markdown]
# ## Clean recordings
#
# **Look for** what the defence cost: compare the other classes with the baseline's matrix in notebook 1.

# %%
clean = gradient.logits(judged.x).argmax(axis=1)
clean_scores = metrics.scores(judged.y, clean, SEED)
matrix = metrics.confusion(judged.y, clean)
figure = plots.confusion_figure(
    {"static, clean": matrix}, judged.title, {"static, clean": clean_scores}
)
numbers = about | {"clean": clean_scores, "confusion clean": matrix}
canvas.save(figure, out / "confusion_matrix_static.png", numbers)
display(figure)

# %% [markdown]
# ## Two attacks, two answers
#
# The *stored* attack was made with the baseline: it asks whether this model resists somebody else's examples. The *fresh*
# attack is made with this very model, which is what an attacker who has the model would do. **Look for** the
# difference between the two AF rows: only the right one is evidence of robustness.

# %%
settings = dict(step_size=EPS_STEP, steps=MAX_ITER)
attack = {"threat": str(threat), "epsilon": EPSILON} | settings
stored = evaluation.attack_af(undefended, judged, threat, progress="stored attack", **settings)
fresh = evaluation.attack_af(gradient, judged, threat, progress="fresh attack", **settings)

# %% tags=["nbval-check-output"]
af = judged.of_class("A")
for name, made in {"stored": stored.x, "fresh": fresh.x}.items():
    delta = made.astype(np.float64) - af.x
    print(f"{name} attack inside the ball: {bool((np.abs(delta) <= EPSILON).all())}")

# %%
by_stored = evaluation.judge(gradient, judged, stored.x)
by_fresh = evaluation.judge(gradient, judged, fresh.x)
noisy = evaluation.noisy(judged.of_class("A"), threat, SEED)
numbers = about | by_fresh.numbers(threat.goal, SEED) | {"attack": attack}
numbers["stored attack"] = metrics.scores(judged.y, by_stored.attacked, SEED)
numbers["confusion stored attack"] = metrics.confusion(judged.y, by_stored.attacked)
noise_read = gradient.logits(noisy).argmax(axis=1)
numbers["AF recall under random noise"] = metrics.rate(noise_read == evaluation.AF)

# %%
maps = {f"static, stored attack, ε {EPSILON}": "stored attack", "static, fresh attack": "attacked"}
figure = plots.confusion_figure(
    {name: numbers[f"confusion {key}"] for name, key in maps.items()},
    judged.title,
    {name: numbers[key] for name, key in maps.items()},
)
canvas.save(figure, out / "static_matrix_attacked.png", numbers)
display(figure)

# %%
print(f"{'AF recall, stored attack':60s} {report.spoken(numbers['stored attack']['AF recall'])}")
for name, score in report.headline(numbers).items():
    print(f"{name:60s} {score}")

# %% [markdown]
# ## Stress test
#
# One ε proves nothing. **Look for** how far the curve of fresh attacks stays above the baseline's, and where it reaches
# zero: a robust model degrades slowly; a masked one falls late but all at once.

# %%
sweep = dict(steps=MAX_ITER, step_per_epsilon=EPS_STEP / EPSILON if EPSILON else 0.1)
curves = {
    "baseline": evaluation.robustness_curve(
        undefended, judged, threat, progress="baseline", **sweep
    ),
    "static": evaluation.robustness_curve(gradient, judged, threat, progress="static", **sweep),
    "random ±ε on static": evaluation.noise_curve(gradient, judged, threat, seed=SEED),
}

# %%
uv_per_z = float(np.median(af.sd_mv) * 1000)
figure = plots.robustness_curve(curves, judged.title, uv_per_z=uv_per_z, marked_epsilon=EPSILON)
facts = {"curves": curves, "µV per z-unit, median": uv_per_z, "attack": {"goal": TARGET} | sweep}
canvas.save(figure, out / "static_stress_test.png", about | facts)
display(figure)

# %% [markdown]
# ## In this notebook we saw
#
# - on dev, resistance to fresh attacks that comes within a few epochs and goes again while the score on clean recordings still
#   rises: the network learns the stored examples by heart;
# - that the stored attack does not show this, because it follows another network's gradient;
# - how to read a robustness curve: at every ε, with its interval, and with noise beside it.
#
# **Questions.** (1) Attack with `TARGET="O"` a model trained against `TARGET="N"`: what is protected? (2) The stored attack is
# a transfer attack. How would it change if it were made with a third model? (3) Why would a defender who publishes
# only the stored attack's number not notice?
