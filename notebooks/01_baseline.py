# %% [markdown]
# # 1 · The baseline under attack
#
# **You learn** how well a network classifies clean ECGs. Then an attack, projected gradient descent (PGD), makes the
# network predict atrial fibrillation (AF) as normal. Its perturbation is small, and random noise of the same size has
# no such effect.
#
# **You should know** notebook 0, what a neural network and its loss are, and what a gradient is. Terms are in the
# [glossary](course/glossary.md).
#
# **You need** about an hour, and another for the exercises. The machine needs about one minute on two cores.
# `EPOCHS = 0` loads the shipped model. Any other value trains one here first: about 2.5 minutes an epoch, and the 99 MB
# training archive.

# %% tags=["parameters"]
DATA = "auto"  # "auto", "physionet", "demo" (synthetic), or a folder with the challenge's files
PROTOCOL = "leakfree"  # "leakfree", or "original" (the published study's, with its leak)
LABELS = ""  # labels "v0", "v2" or "v3", to train and evaluate with; "" is the protocol's own
BAD = "error"  # a bad recording stops the run ("error"), or is left out and counted ("skip")
SPLIT = "validation"  # recordings to evaluate on: "validation" (300), or "test" (1,198; 99 MB)
MODEL = ""  # a shipped model, or a path (relative: from the repository's root); "" is the protocol's own
EPOCHS = 0  # 0: use MODEL; more: train that many epochs
OVERRIDES = ""  # settings of training that differ from the protocol's, as in models/ablation.csv
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

# %% tags=["setup"]
import numpy as np

from ecgnb import Threat, evaluate, load_data, notebook, pgd, training_config
from ecgnb.attacks import cross_entropy
from ecgnb.data.download import cache_dir
from ecgnb.evaluation.engine import describe
from ecgnb.evaluation.named import from_keras
from ecgnb.evaluation.suites import notebook_suite, pgd_attack
from ecgnb.models.classifier import softmax
from ecgnb.report import figures, tables
from ecgnb.training.configuration import overrides, shipped_name

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
#
# `PROTOCOL` decides all settings of training that are not parameters above, in notebooks 2 and 3 as well. `"original"`
# takes the original study's recordings, labels and settings, and the model `original-baseline`. `OVERRIDES` changes
# single settings.

# %% tags=["setup"]
MODEL = MODEL or shipped_name("baseline", PROTOCOL)
chosen = dict(epochs=EPOCHS, batch_size=BATCH_SIZE, precision=PRECISION, seed=SEED) | overrides(OVERRIDES)
config = training_config("baseline", PROTOCOL, **chosen) if EPOCHS else None

# %% tags=["setup"]
source = dict(protocol=PROTOCOL, labels=LABELS, data=DATA, bad=BAD)
dataset = load_data(SPLIT, **source)
model, history, name = notebook.load_or_train(config, MODEL, out, source, resume=RESUME)
print(dataset.title, "·", name)

# %% tags=["nbval-check-output"]
print(f"{model.count_params():,} parameters")

# %% [markdown]
# ## The attack
#
# A **threat model** says what an attacker knows, wants and may do. This one knows the network and its weights: the
# attack is **white-box**. It wants AF to be predicted as `TARGET`. It may change each sample by at most ε. A bound on
# the largest change of a sample is written **L∞**.
#
# Only AF recordings are attacked. Zero padding is not perturbed, since nobody could inject a signal there.

# %% tags=["setup"]
threat = Threat("A", TARGET, EPSILON, mask_padding=PROTOCOL == "leakfree")
evaluated = from_keras(model, name, BATCH_SIZE)
classifier, af = evaluated.classifier, dataset.of_class("A")
print(threat)

# %% [markdown]
# ### From scratch: one step (FGSM)
#
# Training changes the *weights* so that the loss falls. An attack changes the *input*. It has a loss of its own, which
# it maximises: here minus the cross-entropy (CE) of the target, which is large when the network believes the target.
#
# The gradient of this loss says for each sample which way to move it. The **fast gradient sign method** (FGSM,
# Goodfellow et al. 2015) takes its sign alone, and moves every sample by ε in that direction:
#
# $$x_1 = x_0 + \varepsilon\,\mathrm{sign}\,\nabla_x\bigl[-\mathrm{CE}(f(x_0), \text{target})\bigr]$$
#
# `problem` is one AF recording under the threat model, the first that the network classifies correctly. `low` and `high`
# are the smallest and the largest value that each sample may have: $x_0 - \varepsilon$ and $x_0 + \varepsilon$, and $x_0$
# itself on the padding. All signals between them form the **ε-ball**.

# %% tags=["setup"]
is_correct = classifier.logits(af.x).argmax(axis=1) == af.y
one = af.take([int(np.argmax(is_correct))])
problem = threat.on(one)
x0, y, targets = problem.x, problem.y, problem.targets
low, high = problem.ball.bounds

# %%
loss, logits, gradient = classifier.loss_and_gradient(x0, y, targets, cross_entropy)
fgsm = np.clip(x0 + EPSILON * np.sign(gradient), low, high).astype(np.float32)
for title, signal in {"clean": x0, "FGSM": fgsm}.items():
    print(f"{title:6}", tables.as_prediction(classifier.logits(signal)[0], dataset.classes))

# %% [markdown]
# **Look for** two things in the zoomed beat. The attacked signal jumps between $+\varepsilon$ and $-\varepsilon$, since only
# the sign of the gradient counts. And ε bounds the perturbation everywhere, in the flat parts as on the R-peak.

# %%
predictions = [tables.as_prediction(row, dataset.classes) for row in classifier.logits(np.concatenate([x0, fgsm]))]
labels = (f"{one.names[0]} (AF), clean: {predictions[0]}", f"FGSM: {predictions[1]}")
figure = figures.attack_figure(one.in_mv(x0)[0], one.in_mv(fgsm)[0], labels, dataset.title, fs=dataset.fs)
alt = "An AF recording before and after FGSM, the perturbation, which fills the ball, and one beat four times as large."
about = describe(dataset, seed=SEED, model=name, digest=evaluated.digest)
notebook.show(figure, out / "attack_fgsm.png", about, alt, record=str(one.names[0]))

# %% [markdown]
# ### From scratch: many small steps (PGD)
#
# The gradient is exact only where it was computed. One long step may overshoot. **Projected gradient descent** (PGD,
# Madry et al. 2018) takes many steps of size α, computes the gradient anew after each, and projects (Π) the signal back
# into the ε-ball:
#
# $$x_{t+1} = \Pi_{\|x - x_0\|_\infty \le \varepsilon}\bigl(x_t - \alpha\,\mathrm{sign}\,\nabla_x \mathrm{CE}(f(x_t), \text{target})\bigr)$$
#
# In L∞ the projection is `np.clip`. Compare each line with the formula.

# %%
x, path = x0, []
for _ in range(MAX_ITER):
    loss, logits, gradient = classifier.loss_and_gradient(x, y, targets, cross_entropy)
    path.append((loss[0], softmax(logits)[0], (x - x0)[0, :, 0]))
    x = x + EPS_STEP * np.sign(gradient).astype(np.float64)
    x = np.clip(x, low, high).astype(np.float32)
loss, logits, _ = classifier.loss_and_gradient(x, y, targets, cross_entropy)
path.append((loss[0], softmax(logits)[0], (x - x0)[0, :, 0]))

# %% [markdown]
# **Look for** the step from which N is the most probable class. Then look at the perturbation: its largest sample grows
# by α a step, and reaches ε after ten steps. Afterwards the shape changes, not this size.

# %%
losses, probabilities, perturbations = (np.array(part) for part in zip(*path, strict=True))
beat = slice(int(2 * dataset.fs), int(4 * dataset.fs))
at = sorted({1, MAX_ITER // 4, MAX_ITER // 2, MAX_ITER})
pieces = {f"perturbation after step {t}": 1000 * one.sd_mv[0] * perturbations[t][beat] for t in at}
figure = figures.ascent_figure(losses, probabilities, dataset.classes, pieces, dataset.title, dataset.fs)
alt = "Step by step: the loss rises, the probability of AF falls while that of another class rises, the perturbation grows."
numbers = dict(record=str(one.names[0]), loss=losses, probabilities=probabilities)
notebook.show(figure, out / "attack_steps.png", about, alt, **numbers)

# %% [markdown]
# ### The concise way
#
# `ecgnb.pgd` is the same loop for many recordings, targets and balls. It takes its step as a share of ε. **Look for**
# `True`: both give the same array, to the last bit.

# %% tags=["nbval-check-output"]
step = EPS_STEP / EPSILON if EPSILON else 0.1
result = pgd(classifier, problem, steps=MAX_ITER, step=step)
print("the same as from scratch:", bool((result.x == x).all()))

# %% [markdown]
# The rest of the notebook attacks all AF recordings with it.

# %%
attack = pgd_attack(MAX_ITER, step, RESTARTS)
print(threat, "·", attack.title)

# %% [markdown]
# `evaluate` makes every number of this notebook: predictions of clean recordings, under the attack, and under noise.
# Finished attacks are stored in a cache, so a second run takes less time.

# %%
settings = dict(seed=SEED, progress=True, cache=cache_dir() / "attacks")
report = evaluate(evaluated, dataset, notebook_suite(threat, attack), **settings)
clean, attacked = report.conditions["clean"], report.conditions["pgd20"]

# %% [markdown]
# ## Clean recordings
#
# **Recall** is the share of a class that is predicted as that class. **Precision** is the share of the predictions of a
# class that are right. F1 is their harmonic mean. The **challenge score** is the mean F1 of A, N and O.
#
# **Look for** the first row: how many AF recordings are classified correctly? As what are the others predicted?
#
# Brackets and bars are 95 % intervals. For F1 they come from a **bootstrap**: draw the recordings again, with
# replacement, many times. For shares they come from **Wilson**'s formula, which has a width even at a share of 0 or 1.
# With a few dozen AF recordings, F1 is known to about ±0.1.

# %%
figure = figures.confusion_figure({"clean": clean.scores}, dataset.title)
alt = (
    "Confusion matrix of the clean recordings: rows are true classes, columns predicted ones; below, F1 with intervals."
)
notebook.show(figure, out / "baseline_clean.png", report.about, alt, clean=clean.scores)

# %% [markdown]
# ## Under attack
#
# Check an attack before you trust it. Is it exactly inside the ball? Is the padding as it was?

# %% tags=["nbval-check-output"]
adversarial = report.examples["pgd20"].x
delta = adversarial.astype(np.float64) - af.x
print("inside the ball:", bool((np.abs(delta) <= EPSILON).all()))
print("finite:", bool(np.isfinite(adversarial).all()))
print("padding untouched:", bool((delta[~af.mask] == 0).all()))

# %% [markdown]
# **Look for** the first row again. Which class is predicted now?

# %%
panels = {"clean": clean.scores, f"AF attacked, ε {EPSILON:g}": attacked.scores}
figure = figures.confusion_figure(panels, dataset.title)
alt = "Two confusion matrices, clean and with AF attacked: only the first row, that of AF, differs."
notebook.show(figure, out / "baseline_attacked.png", report, alt)

# %% [markdown]
# Now the same in numbers:
#
# - **AF recall**: AF recordings that are predicted as AF, of all AF. Under attack it also counts recordings that were
#   misclassified when clean, and that the attack itself made AF.
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
# One recording on which the attack succeeds, on ECG paper. **Look for** the signs of notebook 0: are the beats as uneven
# as before? The third strip magnifies the perturbation. Nowhere is it larger than ε times the recording's SD. Notebook 4
# says how large it is over all AF of validation: a signal-to-noise ratio (SNR) of 16 dB, a PRD of 15 %, in the median.

# %%
successes = np.flatnonzero(report.successes("pgd20")[threat.is_attacked(dataset)])
index = int(successes[0]) if len(successes) else 0
logits = classifier.logits(np.stack([af.x[index], adversarial[index]]))
before, after = (tables.as_prediction(row, dataset.classes) for row in logits)
labels = (f"{af.names[index]} (AF), clean: {before}", f"attacked: {after}")
pair = [af.in_mv(x)[index] for x in (af.x, adversarial)]
figure = figures.attack_figure(*pair, labels, dataset.title, fs=dataset.fs)
alt = "An AF recording before and after PGD, one over the other, the perturbation, and one beat four times as large."
probabilities = dict(zip(("clean", "attacked"), softmax(logits), strict=True))
numbers = dict(record=str(af.names[index]), probabilities=probabilities)
notebook.show(figure, out / "attack_visual.png", report.about, alt, **numbers)

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

# %% [markdown]
# ## Exercises
#
# Write your answer where it says `# your code here`. The cell after it checks the answer. The exercises use the first
# eight AF recordings, so that they take seconds.

# %% tags=["setup"]
eight = af.take(slice(8))
study = Threat("A", "N").on(eight)  # AF → N, ε 0.2, whatever the parameters above are

# %% [markdown]
# ### Exercise 1: half the budget
#
# Attack `eight` with half of ε 0.2. The step of `pgd` is a share of ε, so it becomes half as well. Then give the number
# of recordings that the attack makes normal.

# %% tags=["solution"]
half = None  # what pgd returns
made_normal = None  # how many recordings are predicted as N
### BEGIN SOLUTION
half = pgd(classifier, Threat("A", "N", epsilon=0.1).on(eight), steps=20, step=0.1)
made_normal = int(half.success.sum())
### END SOLUTION

# %% tags=["check"]
assert hasattr(half, "x"), "call pgd with a Threat of epsilon=0.1, .on(eight), and keep what it returns"
size = np.abs(half.x.astype(float) - eight.x).max(axis=(1, 2))
assert (size <= 0.1).all() and (size > 0.09).all(), f"the largest perturbation is {size.max():.3f}, expected 0.1"
predicted = classifier.logits(half.x).argmax(axis=1)
assert made_normal == (predicted == dataset.classes.index("N")).sum(), "half.success says which attacks succeeded"
print(f"correct: {made_normal} of {len(eight)}")

# %% [markdown]
# ### Exercise 2: another ball
#
# An L2 attacker may perturb some samples more, if others less: the *length* of the perturbation is bounded. Write PGD in
# an L2 ball. The steepest step of length `step` is along the gradient, not along its sign. The projection shortens a
# perturbation that is too long, and leaves others alone. The loop is given.


# %% tags=["solution"]
def l2_step(gradient, step):
    """gradient : (n, 9000, 1); returns a perturbation of Euclidean length `step` for each recording."""
    ### BEGIN SOLUTION
    return step * gradient / np.linalg.norm(gradient, axis=(1, 2), keepdims=True)
    ### END SOLUTION


def l2_projection(delta, radius):
    """delta : (n, 9000, 1), perturbations; returns the nearest ones of length `radius` or less."""
    ### BEGIN SOLUTION
    length = np.linalg.norm(delta, axis=(1, 2), keepdims=True)
    return delta * np.minimum(1, radius / np.maximum(length, 1e-12))
    ### END SOLUTION


# %% tags=["check"]
radius, delta = 5.0, np.zeros(study.x.shape)
for _ in range(10):
    _, _, gradient = classifier.loss_and_gradient((study.x + delta).astype("f4"), study.y, study.targets, cross_entropy)
    move = l2_step(gradient.astype(float), 1.0)
    assert np.shape(move) == delta.shape, "l2_step: return an array of the shape of the gradient"
    assert np.allclose(np.linalg.norm(move, axis=(1, 2)), 1), "l2_step: every recording's step has length `step`"
    delta = l2_projection(delta + move, radius)
lengths = np.linalg.norm(delta, axis=(1, 2))
assert (lengths <= radius + 1e-6).all(), (
    f"l2_projection: a perturbation has length {lengths.max():.2f}, more than {radius}"
)
assert np.allclose(l2_projection(np.ones((1, 9000, 1)) / 100, radius), 0.01), "l2_projection: leave short ones alone"
logits = classifier.logits((study.x + delta).astype("f4"))
print(int(study.goal.reached(logits, study.y).sum()), "of", len(eight), "predicted as N, with L2 ε", radius)

# %% [markdown]
# ### Exercise 3: an attack without gradients
#
# A **black-box** attacker sees logits alone. Write a random search, simpler than the known attack Square
# (Andriushchenko et al. 2020). Begin with a perturbation of +ε or −ε in segments of 100 samples. Then, `queries` times:
# flip the sign of one random segment in each recording, and keep the flip where the margin is larger.
# `problem.goal.margin(logits, y)` is the logit of N minus the best other logit, `(n,)`; the attack succeeds where it is
# positive. `problem.ball.project` puts a signal back into the ball.


# %% tags=["solution"]
def random_search(classifier, problem, queries, rng):
    """Returns adversarial examples, (n, 9000, 1) float32."""
    sign = rng.choice([-1.0, 1.0], size=(len(problem), 90, 1))
    x = problem.ball.project(problem.x + 0.2 * np.repeat(sign, 100, axis=1))
    margin = problem.goal.margin(classifier.logits(x), problem.y)
    rows = np.arange(len(problem))
    for _ in range(queries):
        ### BEGIN SOLUTION
        flipped = sign.copy()
        flipped[rows, rng.integers(90, size=len(problem))] *= -1
        candidate = problem.ball.project(problem.x + 0.2 * np.repeat(flipped, 100, axis=1))
        new = problem.goal.margin(classifier.logits(candidate), problem.y)
        better = new > margin
        sign[better], x[better], margin[better] = flipped[better], candidate[better], new[better]
        ### END SOLUTION
    return x


# %% tags=["check"]
four = study.rows(np.arange(4))
begin, end = (random_search(classifier, four, queries, np.random.default_rng(1)) for queries in (0, 40))
assert (np.abs(end.astype(float) - four.x) <= 0.2).all(), "a sample lies outside the ball: use problem.ball.project"
before, after = (four.goal.margin(classifier.logits(x), four.y) for x in (begin, end))
assert (after >= before - 1e-4).all(), "keep a flip only in recordings where the margin is larger"
assert after.mean() > before.mean() + 1e-3, (
    "40 queries have not increased the margin: flip a segment, and keep what is better"
)
print("margin:", before.round(1), "→", after.round(1))
