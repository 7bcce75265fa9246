# %% [markdown]
# # 0 · The recordings
#
# **You learn** what the recordings of the PhysioNet/CinC Challenge 2017 look like, and how they become the input of
# a network. You also see three traps in them: a leak, duplicates, and three versions of the labels.
#
# **You need** 4 MB of data, fetched if absent, and about 10 seconds. No network is trained or loaded here.

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

# %%
from dataclasses import asdict

import numpy as np
import pandas as pd
from IPython.display import display

from ecgnb import load_data, notebook
from ecgnb.data.audit import as_text, audit
from ecgnb.data.dataset import balanced_index, class_weights
from ecgnb.evaluation.engine import describe
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

# %%
dataset = load_data("validation", protocol=PROTOCOL, labels=LABELS, data=DATA, bad=BAD)
about = describe(dataset, seed=SEED, model="none")
print(dataset.title)

# %% tags=["nbval-check-output"]
print("x", dataset.x.shape, dataset.x.dtype, "finite:", bool(np.isfinite(dataset.x).all()))
print(about.class_counts)
print("shorter than 30 s:", int((dataset.lengths < dataset.x.shape[1]).sum()))

# %% [markdown]
# **Look for** the P wave before each QRS complex in the normal recording. In atrial fibrillation (AF) it is absent,
# and the beats are uneven. "Other" is any other rhythm. "Noisy" is too noisy to classify.

# %%
present = [symbol for symbol in dataset.classes if about.class_counts[symbol]]
first = {symbol: dataset.of_class(symbol).take([0]) for symbol in present}
titles = {symbol: f"{style.class_title(symbol)}, {one.names[0]}" for symbol, one in first.items()}
strips = {titles[symbol]: one.in_mv(one.x)[0] for symbol, one in first.items()}
figure = figures.class_gallery(strips, dataset.title)
records = {symbol: str(one.names[0]) for symbol, one in first.items()}
style.save(figure, out / "class_gallery.png", {"about": asdict(about), "records": records})
display(figure)

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
numbers = {"about": asdict(about), "epsilon_z": 0.2, "epsilon_uv": epsilon_uv}
style.save(figure, out / "epsilon_in_microvolts.png", numbers)
display(figure)

# %% [markdown]
# ## The audit
#
# Now the training recordings of the challenge. The package holds a manifest: the length of each recording, and a digest
# of its samples. So the leak and the duplicates show without the large download.
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
# The protocol `leakfree` leaves these 300 and their copies out of training. It divides the rest into three folds:
# `train`, `dev` to choose an epoch, and `test`. A digest of the record name decides the fold. No random generator
# is used, so the folds are the same on every machine.
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
balance = pd.DataFrame({"train fold": counts, "drawn": np.bincount(drawn)}, index=classes)
balance["class weight"] = class_weights(drawn).round(3)
print(balance)

# %% [markdown]
# ## In this notebook we saw
#
# - how a recording becomes 9,000 numbers, and how these become millivolts again;
# - that the same ε in z-units is a different voltage for every patient;
# - that all 300 validation recordings are also training recordings, and how the default protocol avoids this leak.
#
# **Questions.** (1) Set `LABELS="v0"`. How many validation labels change, and in which classes? (2) Set `FULL=True`.
# Which class gains most between the label versions, and why might that be? (3) A network could learn to recognise
# the padding. Would that matter more for AF or for normal recordings? Use the table of lengths.
