# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 0 · The recordings
#
# **You learn** what the PhysioNet/CinC Challenge 2017 recordings look like, how they become numbers for a
# network, and which traps they hold: a leak, duplicates, three versions of the labels.
#
# **You need** 4 MB of data (fetched if absent) and about 10 seconds. No network is trained or loaded here.

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
# Everything that is mechanism lives in the package `ecgnb`; the notebook holds decisions and results.

# %%
import numpy as np
import pandas as pd
from IPython.display import display

from ecgnb import notebook
from ecgnb.data import audit
from ecgnb.data import dataset as data
from ecgnb.data.records import CLASSES
from ecgnb.report import figures as plots
from ecgnb.report import old_report as report
from ecgnb.report import style as canvas

notebook.check_parameters()
out = notebook.output_folder(OUT)
print(notebook.devices())

# %% [markdown]
# ## What the network reads
#
# The challenge's 300 "validation" recordings, as a data set. Each is cut to 30 s, z-scored, then padded with
# zeros to 9,000 samples, in this order (the released predictor's). `x` is in units of the recording's own
# standard deviation ("z-units"); `mean_mv` and `sd_mv` turn it back into millivolts.

# %%
validation = data.load("validation", protocol=PROTOCOL, labels=LABELS, data=DATA, bad=BAD)
print(validation.title)

# %% tags=["nbval-check-output"]
print("x", validation.x.shape, validation.x.dtype, "finite:", bool(np.isfinite(validation.x).all()))
print({letter: int((validation.y == c).sum()) for c, letter in enumerate(CLASSES)})
print("shorter than 30 s:", int((validation.lengths < data.WINDOW).sum()))

# %% [markdown]
# **Look for** the P wave before each QRS complex in the normal recording, and its absence, with uneven beats,
# in the AF one. "Other" is whatever is neither; "noisy" defeats the cardiologist too.

# %%
first = {letter: validation.of_class(letter).take([0]) for letter in CLASSES}
strips = {f"{letter}: {one.names[0]}": one.in_mv(one.x)[0] for letter, one in first.items()}
gallery = plots.class_gallery(strips, validation.title)
shown = {"records": [str(one.names[0]) for one in first.values()]}
about = report.provenance(validation, SEED, "none")
canvas.save(gallery, out / "class_gallery.png", about | shown)
display(gallery)

# %% [markdown]
# ## How big is ε = 0.2?
#
# The attack's budget is given in z-units, so it is a different voltage for every patient. **Look for** the
# spread: the same ε is several times larger for one patient than for another.

# %%
sd_uv = {letter: 1000 * validation.of_class(letter).sd_mv for letter in CLASSES}
figure = plots.microvolts_figure(sd_uv, 0.2, validation.title)
quantiles = {c: np.quantile(0.2 * sd, [0.05, 0.5, 0.95]) for c, sd in sd_uv.items()}
canvas.save(figure, out / "epsilon_in_microvolts.png", about | {"µV at 5, 50, 95 %": quantiles})
display(figure)

# %% [markdown]
# ## The audit
#
# Now the whole challenge. A manifest of digests ships with the package, so that the leak and the duplicates show
# without the large download. **Look for** three things: how many validation recordings are training recordings
# too; which recordings are there twice; how few noisy ones there are.

# %%
tables = audit.audit(DATA, full=FULL, bad=BAD)

# %% tags=["nbval-check-output"]
print(audit.as_text(tables))

# %% [markdown]
# Every one of the 300 "validation" recordings is a training recording under the same name. A study that trains on the
# training set and tests on the validation set, as the original did, tests on what it has learnt.
#
# The protocol `leakfree` leaves these 300 and their copies out of training and cuts the rest into train, dev
# and test by a digest of the name: no random generator, the same folds on every machine for ever.
#
# ## Balance
#
# AF is rare. The original draws at most 300 of each class and weighs what imbalance is left; so do the
# defences here, per epoch.

# %%
table = tables["Folds of `leakfree` (labels v3)"]
counts = table.loc["train", list(CLASSES)].to_numpy()
y = np.repeat(np.arange(len(CLASSES)), counts)
drawn = y[data.balanced_index(y, PER_CLASS, np.random.default_rng(SEED))]

# %% tags=["nbval-check-output"]
balance = pd.DataFrame({"train fold": counts, "drawn": np.bincount(drawn)}, index=list(CLASSES))
balance["class weight"] = data.class_weights(drawn).round(3)
print(balance)

# %% [markdown]
# ## In this notebook we saw
#
# - how a recording becomes 9,000 numbers, and back;
# - that ε in z-units is another voltage for every patient;
# - that all 300 validation recordings leak from the training set, and how the default protocol avoids it.
#
# **Questions.** (1) Set `LABELS="v0"`: how many validation labels change, and in which classes? (2) Set `FULL=True`:
# which class gained most between the label versions, and why might that be? (3) A network tested on padded recordings
# could learn the padding: would you expect that to matter more for AF or for normal? Use the table of lengths.
