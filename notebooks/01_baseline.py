# %% [markdown]
# # 1 · The baseline under attack
#
# **You learn** how well a network classifies clean ECGs. Then an attack, projected gradient descent (PGD), makes the
# network predict atrial fibrillation (AF) as normal. Its perturbation is small, and random noise of the same size has
# no such effect.
#
# **You need** notebook 0 (for the data) and about one minute on two cores. `EPOCHS = 0` loads the shipped model. Any
# other value trains one here first: about 2.5 minutes an epoch, and the 99 MB training archive.

# %% tags=["parameters"]
DATA = "auto"  # "auto", "physionet", "demo" (synthetic), or a folder with the challenge's files
PROTOCOL = "leakfree"  # "leakfree", or "original" (the published study's, with its leak)
LABELS = ""  # labels "v0", "v2" or "v3", to train and evaluate with; "" is the protocol's own
BAD = "error"  # a bad recording stops the run ("error"), or is left out and counted ("skip")
SPLIT = "validation"  # recordings to evaluate on: "validation" (300), or "test" (1,198; 99 MB)
MODEL = "baseline"  # a shipped model, or a path (relative: from the repository's root)
EPOCHS = 0  # 0: use MODEL; more: train that many epochs
LEARNING_RATE = 2e-3  # of training, at its peak
DROPOUT = 0.2  # of training; the original's is 0.5
BATCH_SIZE = 32  # recordings a step, in training and attack
PRECISION = "float32"  # of training: "float32" or "bfloat16"
EPSILON = 0.2  # L∞ budget, z-units
EPS_STEP = 0.02  # PGD step, z-units
MAX_ITER = 20  # PGD steps
RESTARTS = 1  # PGD starts; more than one are random, and each recording keeps the best
TARGET = "N"  # class to be predicted in place of AF: "N", "O", "~"; "" is untargeted
SEED = 2017  # of training, random starts and noise
RESUME = True  # go on from a checkpoint of an interrupted training
OUT = "out"  # folder for figures and runs; a relative path counts from the repository's root

# %%
from dataclasses import asdict

import numpy as np
from IPython.display import display

from ecgnb import Threat, evaluate, load_data, notebook, training_config
from ecgnb.data.download import cache_dir
from ecgnb.evaluation.engine import from_keras
from ecgnb.evaluation.schema import as_json
from ecgnb.evaluation.suites import notebook_suite, pgd_attack
from ecgnb.models.classifier import softmax
from ecgnb.report import figures, style, tables

out = notebook.start(OUT)

# %% [markdown]
# ## The model
#
# The network is a residual network with 34 convolution layers (Andreotti et al. 2017). It takes 9,000 samples and gives
# four **logits**, one unbounded score for each class. The largest logit decides the prediction, and a softmax turns
# logits into probabilities.
#
# The attack uses logits, not probabilities. The gradient of a saturated softmax is almost zero. Then an attack fails
# although the network is not robust; this is called gradient masking (Athalye et al. 2018).

# %%
source = dict(protocol=PROTOCOL, labels=LABELS, data=DATA, bad=BAD)
dataset = load_data(SPLIT, **source)
overrides = dict(
    epochs=EPOCHS, learning_rate=LEARNING_RATE, dropout=DROPOUT, batch_size=BATCH_SIZE, precision=PRECISION, seed=SEED
)
config = training_config("baseline", PROTOCOL, **overrides) if EPOCHS else None
model, history, name = notebook.load_or_train(config, MODEL, out, source, resume=RESUME)
print(dataset.title, "·", name)

# %% tags=["nbval-check-output"]
print(f"{model.count_params():,} parameters")

# %% [markdown]
# ## The attack
#
# A **threat model** says what an attacker knows, wants and may do. This one knows the network and its weights: the
# attack is **white-box**. It wants AF to be predicted as `TARGET`. It may change each sample by at most ε.
#
# PGD (Madry et al. 2018) takes small steps, of size α, that reduce the cross-entropy (CE) of the target. A step uses the
# sign of the gradient. Then the projection Π puts the signal back into the ε-ball: all signals that the attacker may
# make.
#
# $$x_{t+1} = \Pi_{\|x - x_0\|_\infty \le \varepsilon}\bigl(x_t - \alpha\,\mathrm{sign}\,\nabla_x \mathrm{CE}(f(x_t), \text{target})\bigr)$$
#
# Only AF recordings are attacked. Zero padding is not perturbed, since nobody could inject a signal there.

# %%
threat = Threat("A", TARGET, EPSILON, mask_padding=PROTOCOL == "leakfree")
attack = pgd_attack(MAX_ITER, EPS_STEP / EPSILON if EPSILON else 0.1, RESTARTS)
print(threat, "·", attack.title)

# %% [markdown]
# `evaluate` makes every number of this notebook: predictions of clean recordings, under the attack, and under noise.
# Finished attacks are stored in a cache, so a second run takes less time.

# %%
evaluated = from_keras(model, name, BATCH_SIZE)
settings = dict(seed=SEED, progress=True, cache=cache_dir() / "attacks")
report = evaluate(evaluated, dataset, notebook_suite(threat, attack), **settings)
clean, attacked = report.conditions["clean"], report.conditions["pgd20"]

# %% [markdown]
# ## Clean recordings
#
# F1 is the harmonic mean of recall and precision. The **challenge score** is the mean F1 of A, N and O.
#
# **Look for** the first row: how many AF recordings are classified correctly? As what are the others predicted?
#
# Brackets and bars are 95 % intervals: for F1 by bootstrap, for shares by **Wilson**'s formula. A Wilson interval has
# a width even where a share is 0 or 1. With a few dozen AF recordings, F1 is known to about ±0.1.

# %%
figure = figures.confusion_figure({"clean": clean.scores}, dataset.title)
numbers = {"about": asdict(report.about), "clean": clean.scores}
style.save(figure, out / "baseline_clean.png", numbers)
display(figure)

# %% [markdown]
# ## Under attack
#
# Check an attack before you trust it. Is it exactly inside the ball? Is the padding as it was?

# %% tags=["nbval-check-output"]
af, adversarial = dataset.of_class("A"), report.examples["pgd20"].x
delta = adversarial.astype(np.float64) - af.x
print("inside the ball:", bool((np.abs(delta) <= EPSILON).all()))
print("finite:", bool(np.isfinite(adversarial).all()))
print("padding untouched:", bool((delta[~af.mask] == 0).all()))

# %% [markdown]
# **Look for** the first row again. Which class is predicted now?

# %%
panels = {"clean": clean.scores, f"AF attacked, ε {EPSILON:g}": attacked.scores}
figure = figures.confusion_figure(panels, dataset.title)
style.save(figure, out / "baseline_attacked.png", as_json(report))
display(figure)

# %% [markdown]
# Now the same in numbers:
#
# - **AF recall**: AF recordings that are predicted as AF, of all AF.
# - **Robust recall**: AF recordings that are classified correctly when clean, and on which the attack fails, of all AF.
# - **Attack success rate**: of the AF classified correctly when clean, those on which the attack succeeds.
# - **Queries**: forward passes through the network.
#
# The attack succeeds where `TARGET` is predicted. If it ends in "other" instead, it fails, although AF is missed.

# %%
tables.attack_table(report)

# %% [markdown]
# ## Noise of the same size
#
# Compare the attack with a **noise baseline**: every sample is changed by +ε or −ε at random. If this noise lowered AF
# recall as much, the network would be sensitive to any perturbation. **Look for** AF recall.

# %%
tables.noise_table(report)

# %% [markdown]
# ## What it looks like
#
# One recording on which the attack succeeds, on ECG paper. **Look for** what a cardiologist would see: the beats are as
# uneven as before. The last strip magnifies the perturbation. Nowhere is it larger than ε times the recording's SD.

# %%
successes = np.flatnonzero(report.successes("pgd20")[threat.is_attacked(dataset)])
index = int(successes[0]) if len(successes) else 0
logits = evaluated.classifier.logits(np.stack([af.x[index], adversarial[index]]))
before, after = (tables.as_prediction(row, dataset.classes) for row in logits)
panels = (f"{af.names[index]} (AF), clean: {before}", f"attacked: {after}")
pair = [af.in_mv(x)[index] for x in (af.x, adversarial)]
figure = figures.attack_figure(*pair, panels, dataset.title, fs=dataset.fs)

# %%
probabilities = dict(zip(("clean", "attacked"), softmax(logits), strict=True))
numbers = {"about": asdict(report.about), "record": str(af.names[index])}
style.save(figure, out / "attack_visual.png", numbers | {"probabilities": probabilities})
display(figure)

# %% [markdown]
# ## In this notebook we saw
#
# - a network that classifies most AF correctly when clean, and little of it under a targeted attack with ε 0.2;
# - random noise of the same size that hardly changes AF recall: the direction of a perturbation matters, not only its
#   size;
# - an attack that stays exactly inside its ball and leaves the padding alone.
#
# **Questions.** (1) Halve `EPSILON` and `EPS_STEP`. Does the attack still succeed? (2) With `TARGET=""` any wrong class
# is a success. Which class is predicted most often, and what does that say about the targeted attack? (3) Is
# `MAX_ITER=20` enough? Double it and compare. (4) An ECG monitor filters to 0.5–40 Hz. Would the perturbation in the
# figure remain?
