# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1 · The baseline, and how it breaks
#
# **You learn** what a good classifier makes of clean ECGs, how projected gradient descent (PGD) turns atrial
# fibrillation into "normal" with changes that are hard to see, and why noise of the same size does not.
#
# **You need** notebook 0 (for the data) and about one minute on two cores. `EPOCHS = 0` loads the shipped model; any other
# value trains one here first (about 2.5 minutes an epoch, and the 99 MB training archive).

# %% tags=["parameters"]
DATA = "auto"  # "auto", "physionet", "demo" (synthetic), or a folder with the challenge's files
PROTOCOL = "leakfree"  # "leakfree", or "original" (the published study's, with its leak)
LABELS = ""  # label version "v0", "v2" or "v3", to train and judge by; "" is the protocol's own
BAD = "error"  # a bad recording stops the run ("error"), or is left out and counted ("skip")
SPLIT = "validation"  # recordings to judge on: "validation" (300), or "test" (1,198; 99 MB)
MODEL = "baseline"  # a shipped model, or the path of a .keras or .hdf5 file
EPOCHS = 0  # 0: use MODEL; more: train that many epochs
LEARNING_RATE = 2e-3  # of training, at its peak
DROPOUT = 0.2  # of training; the original's is 0.5
BATCH_SIZE = 32  # recordings a step, in training and attack
PRECISION = "float32"  # of training: "float32" or "bfloat16"
EPSILON = 0.2  # L∞ budget, z-units
EPS_STEP = 0.02  # PGD step, z-units
MAX_ITER = 20  # PGD steps
RESTARTS = 1  # PGD starts; more than one are random, and each recording keeps the best
TARGET = "N"  # class that AF shall be read as: "N", "O", "~"; "" is untargeted
SEED = 2017  # of training, random starts and noise
RESUME = True  # go on from a checkpoint of an interrupted training
OUT = "out"  # folder for figures and runs; a relative path counts from the repository's root

# %%
import numpy as np
from IPython.display import display

from ecgnb import metrics, notebook
from ecgnb.attacks.threats import Threat, goal_of
from ecgnb.data import dataset as data
from ecgnb.data.records import CLASSES
from ecgnb.evaluation import old_evaluation as evaluation
from ecgnb.models.classifier import KerasClassifier
from ecgnb.models.network import softmax
from ecgnb.report import figures as plots
from ecgnb.report import old_report as report
from ecgnb.report import style as canvas
from ecgnb.training import configuration as configuration

notebook.check_parameters()
out = notebook.output_folder(OUT)

# %% [markdown]
# ## The model
#
# The 34-layer residual network of Andreotti et al. (2017): 9,000 samples in, four logits out. We attack logits, never
# probabilities: a softmax that saturates hides the gradient and feigns robustness.

# %%
source = dict(protocol=PROTOCOL, labels=LABELS, data=DATA, bad=BAD)
judged = data.load(SPLIT, **source)
changes = dict(
    epochs=EPOCHS,
    learning_rate=LEARNING_RATE,
    dropout=DROPOUT,
    batch_size=BATCH_SIZE,
    precision=PRECISION,
    seed=SEED,
)
config = configuration.training_config("baseline", PROTOCOL, **changes) if EPOCHS else None
model, history, origin = notebook.load_or_train(config, MODEL, out, source, resume=RESUME)
gradient = KerasClassifier(model, BATCH_SIZE)
print(judged.title, "·", origin)

# %% tags=["nbval-check-output"]
print(f"{model.count_params():,} parameters")

# %% [markdown]
# ## Clean recordings
#
# **Look for** the first row: how many AF recordings does it find, and what does it take the others for? Mind the
# intervals: with a few dozen AF recordings, F1 is known to about ±0.1.

# %%
clean = gradient.logits(judged.x).argmax(axis=1)
clean_scores = metrics.scores(judged.y, clean, SEED)
matrix = metrics.confusion(judged.y, clean)
figure = plots.confusion_figure({"clean": matrix}, judged.title, {"clean": clean_scores})
about = report.provenance(judged, SEED, origin)
canvas.save(
    figure, out / "baseline_clean.png", about | {"clean": clean_scores, "confusion clean": matrix}
)
display(figure)

# %% [markdown]
# ## The attack
#
# PGD (Madry et al. 2018) looks for the point of a small ball around the recording that the network reads as `TARGET`:
#
# $$x_{t+1} = \Pi_{\|x - x_0\|_\infty \le \varepsilon}\bigl(x_t - \alpha\,\mathrm{sign}\,\nabla_x \mathrm{CE}(f(x_t), \text{target})\bigr)$$
#
# Only AF recordings are attacked, and only their real samples: zero padding is no signal that anyone could inject.

# %%
threat = Threat(goal_of(TARGET), EPSILON, spare_padding=PROTOCOL == "leakfree")
settings = dict(step_size=EPS_STEP, steps=MAX_ITER, restarts=RESTARTS, random_start=RESTARTS > 1)
result = evaluation.attack_af(gradient, judged, threat, seed=SEED, progress="PGD on AF", **settings)

# %% [markdown]
# Never trust an attack that has not been checked. Is it inside the ball, exactly? Is the padding as it was?

# %% tags=["nbval-check-output"]
af = judged.of_class("A")
delta = result.x.astype(np.float64) - af.x
print("inside the ball:", bool((np.abs(delta) <= EPSILON).all()))
print("finite:", bool(np.isfinite(result.x).all()))
print("padding untouched:", bool((delta[~af.mask] == 0).all()))

# %% [markdown]
# **Look for** the AF row again. And compare it with the control: every sample moved by +ε or −ε at random, the
# same size as the attack. If noise did the same, the network would be fragile, not attacked.

# %%
verdicts = evaluation.judge(gradient, judged, result.x)
numbers = verdicts.numbers(threat.goal, SEED)
noisy = evaluation.noisy(judged.of_class("A"), threat, SEED)
noise_recall = metrics.rate(gradient.logits(noisy).argmax(axis=1) == evaluation.AF)
attack = {"threat": str(threat), "epsilon": EPSILON} | settings
numbers |= about | {"AF recall under random noise": noise_recall, "attack": attack}
maps = {"clean": verdicts.clean, f"AF attacked, ε {EPSILON}": verdicts.attacked}
figure = plots.confusion_figure(
    {name: metrics.confusion(judged.y, predicted) for name, predicted in maps.items()},
    judged.title,
    dict(zip(maps, (numbers["clean"], numbers["attacked"]), strict=True)),
)
canvas.save(figure, out / "baseline_attacked.png", numbers)
display(figure)

# %%
for name, score in report.headline(numbers).items():
    print(f"{name:60s} {score}")

# %% [markdown]
# ## What it looks like
#
# One recording that the attack turned, on ECG paper (25 mm/s, 10 mm/mV). **Look for** what a cardiologist would see:
# the rhythm is as irregular as before. The perturbation is magnified in the last strip; its largest value is ε times
# this recording's standard deviation.

# %%
turned = np.flatnonzero((gradient.logits(af.x).argmax(axis=1) == evaluation.AF) & result.success)
one = int(turned[0]) if len(turned) else 0
pair = [af.in_mv(x)[one] for x in (af.x, result.x)]
chances = softmax(gradient.logits(np.stack([af.x[one], result.x[one]])))
read = [f"read as {CLASSES[p.argmax()]}, {p.max():.0%}" for p in chances]
titles = (f"{af.names[one]} (AF), clean: {read[0]}", f"attacked: {read[1]}")
figure = plots.attack_figure(*pair, titles, judged.title)
shown = {"record": af.names[one], "probabilities clean, attacked": chances, "attack": attack}
canvas.save(figure, out / "attack_visual.png", about | shown)
display(figure)

# %% [markdown]
# ## In this notebook we saw
#
# - a network that finds most AF in clean recordings and little of it under a targeted attack of ε 0.2;
# - that random noise of the same size hardly moves it: the direction matters, not the size;
# - that the attack stays inside its ball to the last bit and leaves the padding alone.
#
# **Questions.** (1) Halve `EPSILON`, and `EPS_STEP` with it: does the attack still succeed? (2) `TARGET=""` lets the attacker take
# any wrong class. Which one do they end in, and what does that say of the targeted attack? (3) Is `MAX_ITER=20` enough?
# Double it and look. (4) Which of these perturbations would survive the ECG device's own 0.5–40 Hz filter?
