# %% [markdown]
# # 3 · Adaptive adversarial training
#
# **You learn** what changes if the examples are crafted anew in every epoch, on the network as it is then (Madry et al.
# 2018). You see whether that changes clean scores, and how a detail of batch normalisation affects the result.
#
# **You should know** notebooks 1 and 2, and how a network is trained (epochs, batches, overfitting). Terms are in the
# [glossary](course/glossary.md).
#
# **You need** about an hour, and another for the exercises. The machine needs about two minutes on two cores with the
# shipped model (`EPOCHS = 0`). In less than one of them a small network is trained on the synthetic demo set.
# `EPOCHS = 150` trains as long as the original did: about 40 seconds an epoch, and the 99 MB training archive. With
# `PROTOCOL = "original"` it also trains as the original did. A run that is stopped goes on from its last epoch.

# %% tags=["parameters"]
DATA = "auto"  # "auto", "physionet", "demo" (synthetic), or a folder with the challenge's files
PROTOCOL = "leakfree"  # "leakfree", or "original" (the published study's, with its leak)
LABELS = ""  # labels "v0", "v2" or "v3", to train and evaluate with; "" is the protocol's own
BAD = "error"  # a bad recording stops the run ("error"), or is left out and counted ("skip")
SPLIT = "validation"  # recordings to evaluate on: "validation" (300), or "test" (1,198; 99 MB)
BASELINE = ""  # a shipped model, or a path (relative: from the repository's root); "" is the protocol's own
STATIC = ""  # a shipped model, or a path (relative: from the repository's root); "" is the protocol's own
MODEL = ""  # a shipped model, or a path (relative: from the repository's root); "" is the protocol's own
EPOCHS = 0  # 0: use MODEL; more: train that many epochs from BASELINE (the original: 150)
OVERRIDES = ""  # settings of training that differ from the protocol's, as in models/ablation.csv
PER_CLASS = 300  # most recordings of each class in an epoch; half of the AF are attacked
BATCH_SIZE = 32  # recordings a step, in training and attack
PRECISION = "float32"  # of training: "float32" or "bfloat16"
EPSILON = 0.2  # L∞ budget, z-units
EPS_STEP = 0.02  # PGD step at EPSILON, z-units; at another ε it grows or shrinks with it
MAX_ITER = 20  # PGD steps in evaluation
TRAIN_ITER = 10  # PGD steps in training
TARGET = "N"  # class to be predicted in place of AF: "N", "O", "~"; "" is untargeted
SEED = 2017  # of training and noise
RESUME = True  # go on from a checkpoint of an interrupted training
OUT = "out"  # folder for figures and runs; a relative path counts from the repository's root

# %% tags=["setup"]
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from ecgnb import KerasClassifier, Threat, evaluate, load_data, notebook, pgd, training_config
from ecgnb.data.download import cache_dir
from ecgnb.evaluation.engine import describe
from ecgnb.evaluation.named import from_keras
from ecgnb.evaluation.suites import EPSILONS, notebook_suite, pgd_attack
from ecgnb.metrics import rate
from ecgnb.quiet import keras, layers
from ecgnb.report import comparison, figures, runs, tables
from ecgnb.training.configuration import overrides, shipped_name
from ecgnb.training.selection import best_and_last

out = notebook.start(OUT)

# %% [markdown]
# ## From scratch, on a small network
#
# Training looks for weights that make the loss small. **Adversarial training** looks for weights that make it small
# where an attacker makes it large (Madry et al. 2018):
#
# $$\min_\theta\; \mathbb{E}_{(x, y)} \max_{\|\delta\|_\infty \le \varepsilon} \mathrm{CE}(f_\theta(x + \delta), y)$$
#
# θ are the weights, δ is the perturbation. The inner maximum is an attack, the outer minimum is training. So one line is
# added: attack the batch, then train on what the attack returns.
#
# To see it within a minute, make everything smaller: the synthetic demo set, two classes, ε 0.1, and a network of
# 7,516 parameters. What comes out is no result about ECGs. It shows how the loop works.

# %% tags=["setup"]
lesson = {split: load_data(split, data="demo") for split in ("train", "validation")}
lesson = {split: part.take(part.y < 2) for split, part in lesson.items()}  # AF and normal
print({split: {"AF": int((part.y == 0).sum()), "normal": int((part.y == 1).sum())} for split, part in lesson.items()})

# %% [markdown]
# The first convolution can find beats, and max-pooling keeps where they are. The second one is 2.4 s long, so it can see
# whether the beats are even.

# %% tags=["setup"]
keras.utils.set_random_seed(2017)
inputs = keras.Input((9000, 1))
h = layers.Conv1D(8, 20, strides=5, padding="same", activation="relu")(inputs)
h = layers.MaxPooling1D(6)(h)
h = layers.Conv1D(16, 24, strides=2, padding="same", activation="relu")(h)
h = layers.Conv1D(32, 8, strides=2, padding="same", activation="relu")(h)
small = keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling1D()(h)))
small.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
small_classifier = KerasClassifier(small)

# %% [markdown]
# An epoch here is 64 AF and 64 normal recordings, in batches of 16, each batch shifted around by a random time. First, 20
# epochs of plain training.

# %% tags=["setup"]
rng, part = np.random.default_rng(2017), lesson["train"]
for _ in range(20):
    drawn = np.concatenate([rng.choice(np.flatnonzero(part.y == c), 64) for c in (0, 1)])
    for rows in rng.permutation(drawn).reshape(-1, 16):
        x = np.roll(part.x[rows], rng.integers(9000), axis=1)
        small.train_on_batch(x, part.y[rows])
plain_weights = small.get_weights()

# %% tags=["setup"]
everyone = Threat("", "", 0.1)  # every class, untargeted
of_lesson = everyone.on(lesson["validation"])
clean_ok = small_classifier.logits(of_lesson.x).argmax(axis=1) == of_lesson.y
robust_ok = ~pgd(small_classifier, of_lesson, steps=10, step=0.25).success
scores = {"plain": {"correct, clean": rate(clean_ok), "correct, clean and attacked": rate(clean_ok & robust_ok)}}

# %% [markdown]
# Now adversarial training goes on from there: the same loop, and one line more. The attack takes five steps, on the
# current weights.

# %%
for _ in range(16):
    drawn = np.concatenate([rng.choice(np.flatnonzero(part.y == c), 64) for c in (0, 1)])
    for rows in rng.permutation(drawn).reshape(-1, 16):
        x = pgd(small_classifier, everyone.on(part.take(rows)), steps=5, step=0.4).x
        x = np.roll(x, rng.integers(9000), axis=1)
        small.train_on_batch(x, part.y[rows])

# %% [markdown]
# **Look for** the second column. Of the recordings that it did not train on, how many does the network classify
# correctly clean *and* under PGD with ten steps? The intervals are wide: there are 36 recordings.

# %%
clean_ok = small_classifier.logits(of_lesson.x).argmax(axis=1) == of_lesson.y
robust_ok = ~pgd(small_classifier, of_lesson, steps=10, step=0.25).success
scores["adversarial"] = {"correct, clean": rate(clean_ok), "correct, clean and attacked": rate(clean_ok & robust_ok)}
tables.table_of(scores, "training", cell=tables.with_counts)

# %% [markdown]
# ### The concise way
#
# `train(training_config("all-classes", …), …)` runs such a loop: with the real network and data, class weights,
# evaluation on dev after every epoch, and checkpoints. The rest of this notebook uses it, with the original study's
# choice of what is attacked.
#
# ## The training configuration
#
# As in notebook 2, half of the AF recordings are attacked. But now the examples are crafted at the start of every epoch
# **with the current weights**: the attack adapts to the defence.
#
# ### Dropout and batch normalisation
#
# **Batch-norm statistics** are the means and variances of activations that batch normalisation stores for inference.
# Under dropout 0.5, activations vary more in training than in inference. So statistics that are collected in training
# do not fit inference (variance shift; Li et al. 2019). The original trains like this.
#
# Under `leakfree` dropout is off, and the statistics are recomputed without dropout after every epoch. `PROTOCOL`
# decides these and all other settings that are not parameters above; `OVERRIDES` changes single ones.
# Notebook 6 compares both configurations after the same number of epochs.

# %% tags=["setup"]
BASELINE = BASELINE or shipped_name("baseline", PROTOCOL)
STATIC = STATIC or shipped_name("static", PROTOCOL)
MODEL = MODEL or shipped_name("adaptive", PROTOCOL)
chosen = dict(
    epochs=EPOCHS,
    per_class=PER_CLASS,
    batch_size=BATCH_SIZE,
    precision=PRECISION,
    epsilon=EPSILON,
    step_size=EPS_STEP,
    steps=TRAIN_ITER,
    target=TARGET,
    seed=SEED,
)
config = training_config("adaptive", PROTOCOL, **chosen | overrides(OVERRIDES)) if EPOCHS else None

# %% tags=["setup"]
source = dict(protocol=PROTOCOL, labels=LABELS, data=DATA, bad=BAD)
dataset = load_data(SPLIT, **source)
model, history, name = notebook.load_or_train(config, MODEL, out, source, start=BASELINE, resume=RESUME)
print(dataset.title, "·", name)

# %% [markdown]
# ## Learning curves
#
# **Look for** two dashed lines. In the lowest panel: does AF recall under attack come close to clean AF recall? (As in
# the original, it also counts AF that the attack itself made AF. Robust recall does not.) In the
# middle panel every class is attacked, untargeted. Does the challenge score under this attack come close to the clean
# score? As in notebook 2, does the selected epoch stand out from its neighbours?

# %%
histories = {"adaptive": history} if history is not None else {}
column = (config or training_config("adaptive", PROTOCOL)).select
selected = {key: int(best_and_last(h).loc["epoch", column]) for key, h in histories.items()}
fold = dataset.title.split(",")[0] + ", dev fold"
figure = figures.learning_curves(histories, fold, selected)
curves = {key: h.to_dict("list") for key, h in histories.items()}
about = describe(dataset, seed=SEED, model=name)
alt = (
    "Over the epochs: the training loss, dev scores, and AF recall on dev, clean and under attack; one epoch is marked."
)
notebook.show(figure, out / "adaptive_learning_curves.png", about, alt, selected=selected, histories=curves)

# %% [markdown]
# The selected epoch is the best of a noisy curve. Half of its criterion is AF recall under attack, and dev has few AF
# recordings: chance alone moves this recall. **Look for** the width of its 95 % interval (Wilson). How many other epochs
# lie inside it?
#
# The same recordings are evaluated in every epoch, so epochs can be told apart better than two independent samples
# could. But the best of many noisy values is too high on average: expect less on new recordings.

# %%
if history is not None:
    # Shipped models were selected on the challenge's recordings: under `original`, on the validation set.
    n = len(load_data("dev", **source).of_class("A")) if EPOCHS else {"leakfree": 81, "original": 47}[PROTOCOL]
    recalls, epoch = history["dev_robust_recall_A"], selected["adaptive"]
    found = rate(np.arange(n) < round(recalls[epoch - 1] * n))
    inside = int(recalls.between(*found["ci95"]).sum()) - 1
    print(f"AF recall under attack at epoch {epoch}: {tables.with_counts(found)}")
    print(f"other epochs inside the interval: {inside} of {len(recalls) - 1}")

# %% [markdown]
# ## Evaluation
#
# Each of the three models is attacked with examples crafted on itself (white-box).

# %% tags=["setup"]
threat = Threat("A", TARGET, EPSILON, mask_padding=PROTOCOL == "leakfree")
attack = pgd_attack(MAX_ITER, EPS_STEP / EPSILON if EPSILON else 0.1)
others = {"baseline": BASELINE, "static": STATIC}
models = {
    key: from_keras(notebook.load(path, PROTOCOL), Path(path).stem, BATCH_SIZE) for key, path in others.items()
} | {"adaptive": from_keras(model, name, BATCH_SIZE)}
af = dataset.of_class("A")

# %%
suite = notebook_suite(threat, attack, grid=EPSILONS)
settings = dict(seed=SEED, progress=True, cache=cache_dir() / "attacks")
reports = {key: evaluate(one, dataset, suite, **settings) for key, one in models.items()}
report = reports["adaptive"]
print(threat, "·", attack.title)

# %% tags=["nbval-check-output"]
delta = report.examples["pgd20"].x.astype(np.float64) - af.x
print("inside the ball:", bool((np.abs(delta) <= EPSILON).all()))
print("padding untouched:", bool((delta[~af.mask] == 0).all()))

# %% [markdown]
# ## Clean, and under attack
#
# **Look for** a cost of robustness in the left matrix: which F1 is lower than the baseline's in notebook 1, and do the
# intervals overlap? Then compare the first rows of the two matrices.

# %%
clean, attacked = (report.conditions[key].scores for key in ("clean", "pgd20"))
panels = {"adaptive, clean": clean, f"adaptive, white-box attack, ε {EPSILON:g}": attacked}
figure = figures.confusion_figure(panels, dataset.title)
alt = "Two confusion matrices of adaptive, clean and under white-box attack; below, F1 with intervals."
notebook.show(figure, out / "final_clean_matrix.png", report, alt)

# %% [markdown]
# The three models side by side:

# %%
tables.side_by_side(tables.headline, reports)

# %% [markdown]
# ## Label leaking
#
# In this training only AF recordings are attacked. So a perturbation means AF, and the network can learn that instead
# of robustness. This is **label leaking** (Kurakin et al. 2017), a form of shortcut learning.
#
# **Look for** normal recordings that are predicted as AF, in the table above: clean, and with random noise of the same
# size. A network that predicts AF for every perturbation would do so for most normal recordings with noise.
#
# This test is weak, since adversarial perturbations are not random noise. A network may predict AF for perturbations
# like those of its training, and still not for noise. A stronger test applies the attack of training, towards normal, to
# recordings of class other. Stored counts of the test fold, for the shipped models (`python ci/controls.py`):

# %%
controls = runs.read_controls(notebook.resolve("figures/results"))["test"]["models"]
comparison.controls_table({key: controls[key] for key in ("baseline", "static", "adaptive", "fast")}).iloc[:, :4]

# %% [markdown]
# **Look for** models that predict *more* of them as AF under an attack that pushes towards normal. `fast` was trained
# with every class attacked. Question 4 lets you repeat the test.
#
# ## Is the difference more than chance?
#
# The models are evaluated on the same recordings, so compare them recording by recording. The difference has a
# bootstrap interval, or a dash where all draws of the bootstrap are the same. **McNemar**'s exact test uses the
# recordings on which only one of two models is right or robust. Its p is the chance of so uneven a split if neither
# model were better. **Holm**'s method raises p for all tests of the table together.
#
# Where few recordings differ, interval and test may disagree: then claim no difference.
#
# **Look for** adaptive − static. With so few AF recordings a difference of this size may be chance. The test fold
# (`SPLIT="test"`) has more of them.

# %%
tables.paired_table(reports)

# %% [markdown]
# ## AF recall against ε
#
# **Look for** where a curve reaches one half, if it does, and where bands overlap. (These curves are AF recall, as the
# original's: they also count AF that the attack itself made AF.)

# %%
curves = {key: one.curves["pgd20"] for key, one in reports.items()}
curves["random ±ε on adaptive"] = report.curves["random_sign_recall"]
uv_per_z = float(np.median(af.sd_mv) * 1000)
figure = figures.robustness_curve(curves, dataset.title, uv_per_z, EPSILON)

# %%
curves = {key: one.curves for key, one in reports.items()}
numbers = dict(threat=asdict(threat), uv_per_z=uv_per_z, curves=curves)
alt = "AF recall against ε under white-box attack, one curve for each model, and that of adaptive under random noise."
notebook.show(figure, out / "final_robustness_curve.png", report.about, alt, **numbers)

# %% [markdown]
# ## What this does not show
#
# The model was trained against PGD with the target normal, and evaluated with PGD and the same target. Notebook 4 tries
# other attacks, other targets and other units. The original calls its model "robust across all ε". One attack with one
# target cannot show that.
#
# Notebook 5 trains models under attacks on all classes (`DEFENCE`). There a perturbation does not mean AF.
#
# ## In this notebook we saw
#
# - adversarial training with examples that are crafted anew in every epoch, and its AF recall under white-box attack;
# - why AF recall under attack alone is weak evidence: a model that predicts AF for perturbed recordings has it too, and
#   attacks on another class show that static and adaptive do so more often than when clean;
# - clean scores beside those of the baseline, with intervals.
#
# **Questions.** (1) Set `TARGET=""`. How much robust recall is left when AF may become anything? (2) Train with
# `-p OVERRIDES "dropout=0.5 statistics=as_trained" -p EPOCHS 12` and compare the curves. (3) The selected epoch has the
# best mean of clean challenge score and AF recall under attack on dev. Which epoch would each of the two have selected?
# (4) As in notebook 2, craft examples on the baseline, but of class other: `Threat("O", "N")`. How many does this model
# predict as AF, clean and perturbed? `report.rate("transferred", "O", "A")` counts them.

# %% [markdown]
# ## Exercises
#
# Write your answer where it says `# your code here`. The cell after it checks the answer.
#
# ### Exercise 1: one step in place of five
#
# **Fast adversarial training** (Wong et al. 2020) attacks with one step of 1.25 ε from a random point of the ball. Train
# the small network for 16 epochs in this way, from the weights of plain training. Change one line of the loop above.
# `pgd` has arguments `steps`, `step` (a share of ε), `random_start` and `seed`. Give every batch another seed.

# %% tags=["solution"]
small.set_weights(plain_weights)
rng = np.random.default_rng(2017)
for _ in range(16):
    drawn = np.concatenate([rng.choice(np.flatnonzero(part.y == c), 64) for c in (0, 1)])
    for rows in rng.permutation(drawn).reshape(-1, 16):
        x = part.x[rows]
        ### BEGIN SOLUTION
        seed = int(rng.integers(2**31))
        x = pgd(small_classifier, everyone.on(part.take(rows)), steps=1, step=1.25, random_start=True, seed=seed).x
        ### END SOLUTION
        x = np.roll(x, rng.integers(9000), axis=1)
        small.train_on_batch(x, part.y[rows])

# %% tags=["check"]
clean_ok = small_classifier.logits(of_lesson.x).argmax(axis=1) == of_lesson.y
robust_ok = ~pgd(small_classifier, of_lesson, steps=10, step=0.25).success
before, after = scores["plain"]["correct, clean and attacked"]["count"], int((clean_ok & robust_ok).sum())
print("robust:", before, "→", after, "of", len(of_lesson))
assert after >= before + 3, f"robust recordings: {before} after plain training, {after} now; is x attacked?"

# %% [markdown]
# ### Exercise 2: does the network predict AF for whatever is perturbed? (question 4)
#
# In the training of static and adaptive only AF was perturbed. So a network can learn "perturbed means AF" in place of
# robustness. On AF recordings both look the same. On recordings of class O they do not.
#
# Craft PGD-20 examples of `others` on the baseline, with the target N and ε 0.2, as in training. For each model, count
# the recordings that it predicts as AF: clean, and perturbed.
#
# **Think before you look:** what would you expect of a robust model? Of one that has learnt the shortcut? And of the
# baseline, on which the examples were crafted? Then look at the counts of each model. With 12 recordings a difference
# of two or three proves little: `-p SPLIT test` has 320 of this class, and notebook 4 shows their counts.

# %% tags=["solution"]
others = dataset.of_class("O").take(slice(12))
crafted = None  # what pgd returns
as_af = {}  # model -> (count clean, count perturbed)
### BEGIN SOLUTION
crafted = pgd(models["baseline"].classifier, Threat("O", "N").on(others))
for key, one in models.items():
    predicted = [one.classifier.logits(x).argmax(axis=1) for x in (others.x, crafted.x)]
    as_af[key] = tuple(int((p == dataset.classes.index("A")).sum()) for p in predicted)
### END SOLUTION

# %% tags=["check"]
assert crafted is not None, "call pgd with the classifier of the baseline and a Threat on `others`"
size = np.abs(crafted.x.astype(float) - others.x).max()
assert 0.19 < size <= 0.2 and len(crafted.x) == len(others), f"the perturbation of `others` is {size:.2f}, expected 0.2"
assert set(as_af) == set(models), f"as_af needs an entry for each of {', '.join(models)}"
for key, one in models.items():
    predicted = [one.classifier.logits(x).argmax(axis=1) for x in (others.x, crafted.x)]
    assert as_af[key] == tuple((p == 0).sum() for p in predicted), f"{key}: count class 0, clean and perturbed"
print(pd.DataFrame(as_af, index=["predicted as AF, clean", "perturbed"]).T)

# %% [markdown]
# ### Exercise 3: an attack with another loss
#
# Cross-entropy is one loss that an attack can maximise. Carlini & Wagner (2017) maximise the **margin**: the logit of
# the target minus the best other logit. Write it with `keras.ops`, so that Keras can take its gradient. `z` are logits
# `(n, 4)`, `t` the target classes `(n,)`; return `(n,)`. `ops.one_hot(t, 4)` is 1 at the target and 0 elsewhere.


# %% tags=["solution"]
def margin(z, y, t):
    ops = keras.ops
    ### BEGIN SOLUTION
    target = ops.one_hot(t, 4)
    best_other = ops.max(z - 1e9 * target, axis=1)
    return ops.sum(z * target, axis=1) - best_other
    ### END SOLUTION


# %% tags=["check"]
found = margin(np.array([[1.0, 4.0, 2.0, 0.0], [5.0, 1.0, 2.0, 0.0]], "f4"), None, np.array([1, 1]))
assert found is not None, "margin returns nothing yet"
assert np.allclose(found, [2, -4]), f"expected 4 − 2 = 2 and 1 − 5 = −4, got {np.array(found)}"
af_of_lesson = Threat("A", "N", 0.1).on(lesson["validation"].of_class("A"))
logits = [small_classifier.logits(af_of_lesson.x), pgd(small_classifier, af_of_lesson, loss=margin).logits]
clean, attacked = (af_of_lesson.goal.margin(z, af_of_lesson.y) for z in logits)
assert attacked.mean() > clean.mean(), "PGD does not increase your loss: is it larger the closer N comes?"
print(f"the small network, mean margin of N over its AF recordings: {clean.mean():.1f} → {attacked.mean():.1f}")
