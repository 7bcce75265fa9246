# %% [markdown]
# # 0 · The recordings
#
# **You learn** what the recordings of the PhysioNet/CinC Challenge 2017 look like, and how they become the input of
# a network. You also see three traps in them: a leak, duplicates, and three versions of the labels.
#
# **You should know** Python with NumPy, and the words *mean* and *standard deviation*. No medicine: the heart is
# explained where it matters. The [glossary](course/glossary.md) has every term of the course.
#
# **You need** about 40 minutes, and 40 more for the exercises. The machine needs about 15 seconds, and 4 MB of data,
# fetched if absent. No network is trained or loaded here.

# %% tags=["parameters"]
DATA = "auto"  # "auto", "physionet", "demo" (synthetic), or a folder with the challenge's files
PROTOCOL = "leakfree"  # "leakfree", or "original" (the published study's, with its leak)
LABELS = ""  # label version "v0", "v2" or "v3"; "" is the protocol's own
BAD = "error"  # a bad recording stops the run ("error"), or is left out and counted ("skip")
FULL = False  # True: also read and verify training2017.zip (99 MB), all label versions
PER_CLASS = 300  # most recordings of each class in a balanced subset
SEED = 2017  # of the balanced draw
OUT = "out"  # folder for figures; a relative path counts from the repository's root

# %% [markdown]
# The package `ecgnb` holds the methods. The notebooks hold decisions and results.

# %% tags=["setup"]
from hashlib import sha256

import numpy as np
import pandas as pd

from ecgnb import load_data, notebook
from ecgnb.data.audit import as_text, audit
from ecgnb.data.dataset import CHALLENGE, balanced_index, class_weights
from ecgnb.data.records import manifest
from ecgnb.evaluation.engine import describe
from ecgnb.evaluation.signals import r_peaks
from ecgnb.report import figures, style

out = notebook.start(OUT, show_devices=True)

# %% [markdown]
# ## The input of the network
#
# The challenge calls 300 of its recordings "validation". Each is cut to 30 s, z-scored, and then padded with zeros
# to 9,000 samples. This is the order of the released predictor (Andreotti et al. 2017).
#
# To z-score a recording, subtract its mean and divide by its standard deviation (SD). So `x` is in **z-units**:
# multiples of the recording's own SD. `mean_mv` and `sd_mv` turn it back into millivolts.

# %% tags=["setup"]
dataset = load_data("validation", protocol=PROTOCOL, labels=LABELS, data=DATA, bad=BAD)
about = describe(dataset, seed=SEED, model="none")
print(dataset.title)

# %% tags=["nbval-check-output"]
print("x", dataset.x.shape, dataset.x.dtype, "finite:", bool(np.isfinite(dataset.x).all()))
print(about.class_counts)
print("shorter than 30 s:", int((dataset.lengths < dataset.x.shape[1]).sum()))

# %% [markdown]
# **Look for** two signs by which a cardiologist tells a normal rhythm from atrial fibrillation (AF):
#
# - **P waves.** Before each beat the atria, the upper chambers of the heart, contract. In a normal recording this makes
#   a small hump, the P wave, before each tall spike, the R-peak. In AF the atria only tremble, and there is no P wave.
# - **RR intervals**, the time from one R-peak to the next. In a normal recording they are nearly equal, or change
#   slowly. In AF each differs from the one before, without a pattern.
#
# Triangles mark the R-peaks that a program finds (the detector XQRS). The numbers are RR intervals in ms. "Other" is any
# other rhythm; here it is regular but fast. "Noisy" is too noisy to classify, so no R-peaks are marked.
#
# These four were chosen by eye, because the signs can be seen. Many recordings are less clear.

# %%
chosen = ["A00232", "A00441", "A00203", "A04216", "D00121", "D00045", "D00353", "D00296"]  # D: of the demo set
present = [symbol for symbol in dataset.classes if about.class_counts[symbol]]
shown, strips, peaks = {}, {}, {}
for symbol in sorted(present, key="NAO~".index):
    members = dataset.of_class(symbol)
    one = members.take([np.isin(members.names, chosen).argmax()])  # the first, if none is there
    title = f"{style.class_title(symbol)}, {one.names[0]}"
    shown[symbol], strips[title] = str(one.names[0]), one.in_mv(one.x)[0]
    if symbol != "~":
        peaks[title] = r_peaks(strips[title], dataset.fs)

# %% [markdown]
# The P wave is the highest point between 250 and 80 ms before an R-peak, if there is a P wave at all. So P is marked in
# the normal recording alone.

# %%
before, p_waves = (np.array([0.25, 0.08]) * dataset.fs).astype(int), {}
for title in [title for title, symbol in zip(strips, shown, strict=True) if symbol == "N"]:
    inside = peaks[title][peaks[title] > before[0]]
    pieces = [strips[title][peak - before[0] : peak - before[1]] for peak in inside]
    p_waves[title] = inside - before[0] + np.array([piece.argmax() for piece in pieces], int)
figure = figures.class_gallery(strips, dataset.title, r_peaks=peaks, p_waves=p_waves)
alt = (
    "Four recordings on ECG paper: normal, with a P before each beat and RR intervals that change little; AF, with RR "
    "intervals that differ from beat to beat; other; and noisy."
)
rr_ms = {title: np.diff(found) * 1000 / dataset.fs for title, found in peaks.items()}
notebook.show(figure, out / "class_gallery.png", about, alt, records=shown, rr_ms=rr_ms)

# %% [markdown]
# ## How large is ε = 0.2?
#
# The attacks in the next notebooks change each sample by at most ε, and ε is given in z-units. **Look for** the
# spread: the same ε is several times more µV for one patient than for another.

# %%
sd_uv = {symbol: 1000 * dataset.of_class(symbol).sd_mv for symbol in present}
figure = figures.microvolts_figure(sd_uv, 0.2, dataset.title)
quantiles = {symbol: np.quantile(0.2 * sd, [0.05, 0.5, 0.95]) for symbol, sd in sd_uv.items()}
epsilon_uv = {s: dict(zip(("p5", "median", "p95"), q, strict=True)) for s, q in quantiles.items()}
alt = "The share of recordings of each class in which ε = 0.2 is at most so many µV: most lie between 10 and 100 µV."
notebook.show(figure, out / "epsilon_in_microvolts.png", about, alt, epsilon_z=0.2, epsilon_uv=epsilon_uv)

# %% [markdown]
# ## The leak, in five lines
#
# How does one find out whether a recording is in two sets? A **digest** is a short text computed from the samples. Two
# recordings with the same digest are the same, sample by sample, whatever their names are.
#
# The package holds the digests of all training recordings, so that no large download is needed. (For the demo set they
# are computed.) **Look for** the number of validation recordings that the training set holds, too.

# %%
digest = {
    name: sha256(signal.astype("<i2").tobytes()).hexdigest()[:32]
    for name, signal in zip(dataset.names, dataset.signals, strict=True)
}
training = {name: found for name, (_, found) in manifest().items()}
if dataset.source != CHALLENGE:  # the demo set, or a folder of your own
    everything = load_data("train", protocol="original", data=DATA, bad=BAD)
    training = {
        n: sha256(x.tobytes()).hexdigest()[:32] for n, x in zip(everything.names, everything.signals, strict=True)
    }
leaked = [name for name in digest if digest[name] in set(training.values())]

# %% tags=["nbval-check-output"]
print(len(leaked), "of", len(digest), "validation recordings are also training recordings")

# %% [markdown]
# ## The audit
#
# `audit` does the same, and counts what else an evaluation must know: how long recordings are, which occur twice, and
# how many are in each **fold**, a part of the data with one purpose.
#
# **Look for** three numbers: validation recordings that are also training recordings, recordings that occur twice, and
# noisy recordings.

# %%
tables = audit(DATA, full=FULL, bad=BAD)

# %% tags=["nbval-check-output"]
print(as_text(tables))

# %% [markdown]
# All 300 validation recordings are also training recordings, under the same name. The original study trains on the
# training set and tests on the validation set. So it tests on recordings that the network has seen.
#
# A **protocol** is the set of rules of a run. `leakfree` leaves these 300 and their copies out of training (301 in the
# table: one normal recording has a copy). It divides the rest into three folds: `train`, `dev` to choose an epoch, and
# `test`. A digest of the record name decides the fold, so the folds are the same on every machine.
#
# ## Balance
#
# AF is rare. The original draws at most 300 recordings of each class. Class weights, factors in the training loss,
# balance what is still unequal. The defences in notebooks 2 and 3 do the same for every epoch.

# %%
classes = list(dataset.classes)
counts = tables["Folds of `leakfree` (labels v3)"].loc["train", classes].to_numpy()
y = np.repeat(np.arange(len(classes)), counts)
drawn = y[balanced_index(y, PER_CLASS, np.random.default_rng(SEED))]

# %% tags=["nbval-check-output"]
balance = pd.DataFrame({"train fold": counts, "drawn": np.bincount(drawn, minlength=len(classes))}, index=classes)
balance["class weight"] = class_weights(drawn).round(3)
print(balance)

# %% [markdown]
# ## In this notebook we saw
#
# - how a recording becomes 9,000 numbers, and how these become millivolts again;
# - that the same ε in z-units is a different voltage for every patient;
# - that all 300 validation recordings are also training recordings, and how the default protocol avoids this leak.
#
# **Questions.** (1) Load the labels v0 beside those of the notebook (exercise 1). How many differ, and between which
# classes? Why do the class counts alone not tell? (2) Set `FULL=True`. Which class gains most between the label
# versions, and why might that be? (3) A network could learn to recognise the padding. Would that matter more for AF or
# for normal recordings? Use the table of lengths.

# %% [markdown]
# ## Exercises
#
# Write your answer where it says `# your code here`. The cell after it checks the answer.
#
# ### Exercise 1: sixteen labels
#
# Three versions of the labels were published: the original study trained on v0, and v3 is the last. Load the validation
# recordings with labels v0 and with v3, and count the recordings whose label changed. (Equal counts of a class would
# prove nothing: two changes in opposite directions cancel.)

# %% tags=["solution"]
changed = None
### BEGIN SOLUTION
old, new = (load_data("validation", labels=version, data=DATA, bad=BAD) for version in ("v0", "v3"))
changed = int((old.y != new.y).sum())
### END SOLUTION

# %% tags=["check"]
answer = [load_data("validation", labels=version, data=DATA, bad=BAD).y for version in ("v0", "v3")]
assert changed is not None, "give the number of recordings the name `changed`"
assert changed == np.count_nonzero(np.subtract(*answer)), "compare recording by recording: old.y with new.y"
print("correct:", changed, "labels changed")

# %% [markdown]
# ### Exercise 2: make the input of the network
#
# `signal` is a recording, `(length,)` int16 in 1/1000 mV. Return `(9000,)` values in z-units: cut to 9,000 samples,
# z-score, then pad with zeros at the end. Mind the order. What would happen if you padded first?


# %% tags=["solution"]
def to_input(signal):
    ### BEGIN SOLUTION
    piece = signal[:9000].astype(float)
    z = (piece - piece.mean()) / piece.std()
    return np.pad(z, (0, 9000 - len(z)))
    ### END SOLUTION


# %% tags=["check"]
for signal, x, name in zip(dataset.signals, dataset.x[..., 0], dataset.names, strict=True):
    made = to_input(signal)
    assert np.shape(made) == (9000,), f"{name}: expected 9,000 values, got {np.shape(made)}"
    assert np.allclose(made, x, atol=1e-4), f"{name}, {len(signal)} samples: cut, then z-score, then pad"
print("correct for all", len(dataset), "recordings")

# %% [markdown]
# ### Exercise 3: a classifier without a network
#
# In AF the RR intervals are irregular. One number says how irregular: the **coefficient of variation** of RR, its
# standard deviation divided by its mean. Write a function that computes it from R-peaks, `(k,)` sample numbers.
#
# The check computes it for ten AF and ten normal recordings, and then the **AUROC**: the chance that an AF recording has
# a larger value than a normal one. 0.5 is guessing, 1 is perfect. Keep this rule in mind: it looks at nothing but the
# times of the beats. Notebook 4 measures whether attacks on the network move them (R-peak F1).


# %% tags=["solution"]
def irregularity(peaks):
    ### BEGIN SOLUTION
    rr = np.diff(peaks)
    return rr.std() / rr.mean()
    ### END SOLUTION


# %% tags=["check"]
assert irregularity(np.array([0, 100, 300])) is not None, "irregularity returns nothing yet"
assert np.isclose(irregularity(np.array([0, 100, 300])), 1 / 3), "RR of 100 and 200 samples: SD 50, mean 150"
values = {}
for symbol in ("A", "N"):
    some = dataset.of_class(symbol).take(slice(10))
    values[symbol] = np.array([irregularity(r_peaks(mv, dataset.fs)) for mv in some.in_mv(some.x)])
auroc = (values["A"][:, None] > values["N"]).mean()
print(f"AUROC {auroc:.2f}")
