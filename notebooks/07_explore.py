# %% [markdown]
# # 7 · An attack you can touch
#
# **You learn** what an attack does to one recording: how the prediction changes with ε, with the number of steps, with
# the goal, and with the model.
#
# **You need** notebook 1 (for PGD). The machine needs half a minute. Every attack is computed here, while you move a
# slider. In Jupyter the controls work with mouse and keyboard. Elsewhere you see a picture of their first state.

# %% tags=["parameters"]
DATA = "auto"  # "auto", "physionet", "demo" (synthetic), or a folder with the challenge's files
LABELS = ""  # label version "v0", "v2" or "v3"; "" is v3
BAD = "error"  # a bad recording stops the run ("error"), or is left out and counted ("skip")
SPLIT = "validation"  # recordings to choose from: "validation" (300), or "test" (1,198; 99 MB)
MODELS = "baseline static adaptive fast"  # shipped models, or paths (relative: from the repository's root)
RECORD = ""  # the recording shown first; "" is the first AF
TARGET = "N"  # the goal shown first: class to be predicted, "N", "O", "~"; "" is untargeted
EPSILON = 0.2  # the ε shown first: L∞ budget, z-units, at most 0.4
MAX_ITER = 20  # the PGD steps shown first, at most 40
OUT = "out"  # folder for figures; a relative path counts from the repository's root

# %%

import numpy as np

from ecgnb import load_data, notebook
from ecgnb.evaluation.engine import describe
from ecgnb.evaluation.named import named_models
from ecgnb.explore import Explorer

out = notebook.start(OUT)

# %%
dataset = load_data(SPLIT, labels=LABELS, data=DATA, bad=BAD)
models = named_models([notebook.resolve(name) for name in MODELS.split()])
classifiers = {model.name: model.classifier for model in models}
print(dataset.title, "·", *classifiers)

# %% [markdown]
# ## Touch it
#
# The attack wants the class under **goal** to be predicted. It may change each sample by at most ε. It makes **PGD
# steps** of ε/10, each in the direction in which the loss rises fastest. Only the network's gradient tells it where to go.
#
# - **class**, **recording**, **model**, **goal**: what is attacked, and what for.
# - **ε** and **PGD steps**: how strong the attack is. The attack runs when you let go of a slider, or press an arrow key.
# - **iteration**, and the play button: the recording on its way, from the clean one (0) to the last iterate.
# - **start**, **length**: the piece that is drawn.
#
# **Look for** three things. How little the orange line differs from the black one. How early in the iterations the
# prediction changes. How evenly the perturbation is spread: it need not touch the P waves or the beats most.

# %%
explorer = Explorer(dataset, classifiers, RECORD, TARGET, EPSILON, MAX_ITER)
explorer

# %% [markdown]
# The pictures below belong to the state in which these cells were run. Run them again after you have moved the controls.
# The second has, on the left, the probabilities of the clean recording and of the iterate; in the middle, the
# probabilities at each iterate; on the right, the loss that the attack maximises: minus the cross-entropy of the goal.

# %%
about = describe(dataset, seed=2017, model=explorer.model.value)  # nothing here is random
alt = f"One recording on ECG paper, clean and attacked, and the perturbation. {explorer.verdict}"
notebook.show(explorer.paper(), out / "explore_recording.png", about, alt, **explorer.numbers())

# %%
alt = "The probabilities of the four classes: clean, attacked, and at each iterate; and the loss that the attack maximises."
notebook.show(explorer.iterates(), out / "explore_iterates.png", about, alt, **explorer.numbers())

# %% [markdown]
# The attack may not leave its ball, whatever the controls say:

# %% tags=["nbval-check-output"]
delta = explorer.trace.x.astype(np.float64) - explorer.one.x
print("inside the ball:", bool((np.abs(delta) <= explorer.epsilon.value).all()))
print("padding untouched:", bool((delta[:, ~explorer.one.mask[0]] == 0).all()))

# %% [markdown]
# ## In this notebook we saw
#
# - a prediction that changes although the two lines on ECG paper differ little;
# - an attack as a path: most of the change comes before the perturbation reaches ε, and later steps add confidence;
# - that an answer for one recording, one ε and one goal is no measure of robustness. Notebook 4 measures that.
#
# **Questions.** (1) Find the smallest ε at which the attack on the baseline reaches its goal. How many µV is it? Is it the
# same for another AF recording? (2) Take `adaptive` at the same ε. Now set the goal to any wrong class. What does that
# say about training against one target? (3) Give the attack 3 steps, then 40. When do more steps stop helping? (4) Attack
# a normal recording with the goal AF. A false alarm harms, too: how large an ε does it take?
