# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4 · How robust is it really?
#
# **You learn** how to ask that question so that the answer can be believed: many attacks instead of one, the worst for each
# recording, the smallest change that suffices, checks of the attacks themselves, and what is left of the signal. The last
# notebook ended with a model that looked robust to one attack.
#
# **You need** notebooks 1 to 3, and about two minutes on two cores. The long part (half an hour a model) was run with
# `python -m ecgnb evaluate MODEL --budget standard`; its reports are in `figures/evaluation/` and are read here. `COMPUTE = True` makes
# them anew; it goes on where it was interrupted.

# %% tags=["parameters"]
DATA = "auto"  # "auto", "physionet", "demo" (synthetic), or a folder with the challenge's files
SPLIT = "validation"  # recordings to judge on: "validation" (300), or "test" (1,198; 99 MB)
MODELS = "baseline static adaptive"  # shipped models, or .keras or .hdf5 files
TWINS = "baseline-2018 static-2018 adaptive-2018"  # trained with another seed, for transfer; or ""
COMPUTE = False  # True: evaluate here; False: read the reports in figures/evaluation
BUDGET = "standard"  # "quick", "standard" or "full": what an evaluation may spend
PER_CLASS = 0  # with COMPUTE: recordings of each class to evaluate; 0: all
SEED = 2017  # of noise, random starts and intervals
OUT = "out"  # folder for figures and reports; a relative path counts from the repository's root

# %%
import numpy as np
import pandas as pd
from IPython.display import display

from ecgnb import notebook
from ecgnb.attacks.threats import Threat
from ecgnb.data import dataset as data
from ecgnb.data.records import BAND
from ecgnb.evaluation import engine as assessment
from ecgnb.evaluation import signals as physiology
from ecgnb.evaluation import suites as robustness
from ecgnb.report import evaluation_figures as evaluation_plots
from ecgnb.report import figures as plots
from ecgnb.report import old_report as report
from ecgnb.report import style as canvas
from ecgnb.report import tables

# %%
notebook.check_parameters()
out = notebook.output_folder(OUT)
models = MODELS.split()

# %% [markdown]
# ## What the attacker wants, and how far they may go
#
# A threat model is a value. The one that the original claims robustness against is the first; the others ask
# whether robustness to it means anything more. ε is in z-units (each recording's own SD) or in µV (the same for every patient); the change may
# have to keep to the monitor's pass-band; padding is never touched.

# %%
threats = {"the original's": assessment.CLAIMED} | assessment.OTHER_THREATS
print(pd.Series({name: str(threat) for name, threat in threats.items()}).to_string())

# %% [markdown]
# ## The reports

# %%
judged = data.load(SPLIT, data=DATA)
if PER_CLASS:
    judged = judged.take(data.balanced_index(judged.y, PER_CLASS, np.random.default_rng(SEED)))
if COMPUTE:
    reports = {
        name: assessment.evaluate(name, judged, BUDGET, out / "evaluation", seed=SEED)
        for name in models
    }
else:
    stored = notebook.ROOT / "figures" / "evaluation"
    reports = {name: assessment.read_report(name, SPLIT, BUDGET, stored) for name in models}
about = report.provenance(judged, SEED, ", ".join(models)) | {"budget": BUDGET}
print(judged.title, "·", BUDGET)

# %%
pd.DataFrame({name: tables.headline(r) for name, r in reports.items()})

# %% [markdown]
# ## Attack by attack
#
# Share of AF that is found when clean and not turned normal, under attacks and under noise. **Look for** three things: is any attack
# much stronger than the PGD-20 that the original used? How far is the **worst case**, in which each recording faces the attack that is
# worst *for it*, below the single attacks? And does noise of the same size turn anything?

# %%
kept = {name: tables.kept(r) for name, r in reports.items()}
rules = [0, 1 + len(next(iter(reports.values()))["attacks"])]
title = f"AF found clean and not turned, {assessment.CLAIMED}; 95 % intervals"
figure = evaluation_plots.forest(kept, judged.title, title, "share of AF recordings", rules)
canvas.save(figure, out / "evaluation_attacks.png", about | {"AF not turned": kept})
display(figure)

# %%
pd.concat({name: tables.attack_table(r).iloc[:, [0, 2]] for name, r in reports.items()}, axis=1)

# %% [markdown]
# AF recall is lower than the share not turned where an attack ends in "other" or "noisy": missed, though not as the attacker wanted.
#
# The same on the test fold, 1,198 recordings (104 AF) that no choice was made on, with the quick budget: fewer steps, the same attacks.

# %%
if not COMPUTE and SPLIT == "validation":
    test = {name: assessment.read_report(name, "test", "quick", stored) for name in models}
    shown = {name: tables.attack_table(r).iloc[:, [0, 2]] for name, r in test.items()}
    display(pd.concat(shown, axis=1))

# %% [markdown]
# ## The exact curve
#
# For each recording the smallest ε that turns it is found by bisection, so that the curve is not a grid: it
# steps down at every recording. **Look for** the noise beside it, and for whether a curve falls gradually or off a cliff. The search begins with
# the worst case at ε 0.2 and goes on with PGD: away from 0.2 a curve says what PGD can do, which other attacks may exceed.

# %%
curves = {name: {"attack": r["curve"]} | r["control curves"] for name, r in reports.items()}
figure = evaluation_plots.robustness_panels(curves, judged.title, assessment.CLAIMED.epsilon)
summaries = {n: {k: r[k] for k in ("smallest ε, z", "smallest ε, µV")} for n, r in reports.items()}
canvas.save(figure, out / "evaluation_curves.png", about | {"curves": curves} | summaries)
display(figure)

# %%
pd.DataFrame({name: tables.curve_numbers(r) for name, r in reports.items()})

# %% [markdown]
# ## Is the evaluation itself sound?
#
# A defence can look robust because the attack is poor, and an attack is poor when the gradient is masked (Athalye et al. 2018). Each check
# says whether there is a sign of it. A "fail" means: do not believe the numbers above for this model.

# %%
with pd.option_context("display.max_colwidth", None):
    display(tables.check_table(reports))
    if not COMPUTE and SPLIT == "validation":
        display(tables.check_table({f"{name}, test fold": r for name, r in test.items()}))

# %% [markdown]
# And the loss that the attack climbs, gone on to twice its steps. **Look for** a curve that is still rising at the line: such an
# attack has not been given time.

# %%
paths = {name: r["loss"] for name, r in reports.items()}
figure = evaluation_plots.loss_figure(paths, judged.title, marked_step=20)
canvas.save(figure, out / "evaluation_loss.png", about | {"loss": paths})
display(figure)

# %% [markdown]
# ## A defence, or a shortcut?
#
# Normal recordings, with noise that nobody made to deceive. A robust model reads them as normal. A model that has learnt "perturbed
# means AF" does not, and then its recall of AF under attack proves nothing.

# %%
pd.DataFrame({name: tables.alarm_table(r).iloc[:, 0] for name, r in reports.items()})

# %% [markdown]
# ## Other threats
#
# The defences were trained against AF → normal. **Look for** what is left when the attacker may end in any other class, has the same
# µV for every patient, is bound to the pass-band, or counts in L2; and when recordings of every class are attacked.

# %%
pd.DataFrame({name: tables.threat_table(r).iloc[:, 2] for name, r in reports.items()})

# %%
pd.concat({name: tables.class_table(r) for name, r in reports.items()}, axis=1)

# %% [markdown]
# ## Transfer: what did static training memorise?
#
# Who made the change, in rows, and who reads it. Each model was trained once more with another seed. The original says that
# static training memorises its examples. **Look at** the column "static": does it withstand the baseline's change (which it was
# trained on), that of the *other* baseline (which it never saw), and its own?

# %%
makers = models + TWINS.split()
if COMPUTE:
    matrix = assessment.transfers(makers, judged, out / "evaluation", seed=SEED)
else:
    matrix = report.read_json(stored / f"transfer-{SPLIT}.json")
figure = evaluation_plots.transfer_figure(
    matrix["success"], f"{judged.title}; {matrix['attack']}, ε 0.2"
)
canvas.save(figure, out / "evaluation_transfer.png", matrix)
display(figure)

# %% [markdown]
# ## Is it an ECG any more?
#
# Three attacks on the first model, made here: the original's; SAP, which is smooth by construction (Han et al. 2020); and PGD that is
# bound to 0.5–40 Hz inside its loop. Beside them simulated muscle noise (EMG), which the original says that PGD mimics.

# %%
af = judged.of_class("A")
evaluated = assessment.subject_of(models[0])
chosen = {
    "PGD": (robustness.AS_PUBLISHED[robustness.PUBLISHED], assessment.CLAIMED),
    "SAP": (robustness.suite(robustness.BUDGETS["quick"])["SAP"], assessment.CLAIMED),
    "PGD, 0.5–40 Hz": (robustness.AS_PUBLISHED[robustness.PUBLISHED], Threat(band=BAND)),
    "simulated EMG": (robustness.control_suite()["simulated EMG"], assessment.CLAIMED),
}
made = {
    name: attack(evaluated.classifier, threat.on(af), seed=SEED, progress=name)
    for name, (attack, threat) in chosen.items()
}

# %% tags=["nbval-check-output"]
deltas = {name: result.x.astype(np.float64) - af.x for name, result in made.items()}
print("inside the ball:", all((np.abs(d) <= 0.2).all() for d in deltas.values()))
print("padding untouched:", all((d[~af.mask] == 0).all() for d in deltas.values()))

# %%
one = int(np.flatnonzero(made["PGD"].success)[0])
strips = {f"{af.names[one]} (AF), clean": af.in_mv(af.x)[one]}
for name, result in made.items():
    read = tables.read_as(result.logits[one])
    strips[f"{name}: {read}"] = af.in_mv(result.x)[one]
figure = plots.class_gallery(strips, judged.title, 6.0, "One recording, four changes of ε 0.2")
shown = {"record": str(af.names[one]), "strips": list(strips)}
canvas.save(figure, out / "evaluation_waveforms.png", about | shown)
display(figure)

# %% [markdown]
# **Look for** where each change has its power. What lies above 40 Hz is taken out by a monitor's filter.

# %%
spectra = {"clean": physiology.mean_spectrum(af.in_mv(af.x))}
for name, result in made.items():
    change = [a - b for a, b in zip(af.in_mv(result.x), af.in_mv(af.x), strict=True)]
    spectra[f"change by {name}"] = physiology.mean_spectrum(change)
figure = evaluation_plots.spectra_figure(spectra, judged.title)
canvas.save(figure, out / "evaluation_spectra.png", about | {"Hz and µV²/Hz": spectra})
display(figure)

# %% [markdown]
# In numbers, for all attacks and controls on the first model: medians over recordings. R-peaks are found by the same
# detector before and after; R-peak F1 counts matches within 50 ms.

# %%
tables.signal_table(reports[models[0]])

# %% [markdown]
# Does PGD mimic EMG? **Compare** where the power is, and remember what each of the two did to the recall above.

# %%
above = f"change above {BAND[1]:g} Hz, share of power"
for name in (robustness.PUBLISHED, "SAP", "simulated EMG"):
    share = reports[models[0]]["signal"][name][above]["median"]
    print(f"{name:22s} share of its power above {BAND[1]:g} Hz, median: {share:.0%}")

# %% [markdown]
# ## Behind a filter, and z-scored again
#
# What reaches a network has passed the monitor's filter and was z-scored after the change was added, not before. AF recall of the
# first model behind either, clean, under attacks that do not know of it, and under PGD that does.

# %%
tables.front_table(reports[models[0]])

# %% [markdown]
# ## What can be guaranteed
#
# Attacks show what is not robust. Randomized smoothing (Cohen et al. 2019) shows what is: within the certified radius no change
# whatever turns the recording, with 99.9 % confidence each. **Look at** the scale on top: the ε in L∞ that such a radius covers for certain.
# The curves end where the number of noisy reads ends: ten times as many would reach a third farther. And **mind** where a curve begins:
# a model that takes noise itself for AF would have more AF certified than it finds when clean.

# %%
certified = {name: r["certified"]["curve"] for name, r in reports.items()}
figure = evaluation_plots.certified_curve(certified, judged.title)
facts = {name: r["certified"] for name, r in reports.items()}
canvas.save(figure, out / "evaluation_certified.png", about | {"certified": facts})
display(figure)

# %%
pd.DataFrame({name: tables.guarantee(r["certified"]) for name, r in reports.items()})

# %% [markdown]
# ## How sure are we?
#
# All models read the same recordings, so they are compared pair by pair: McNemar's exact test on the recordings where only one is
# right, and Holm's correction, because this is several tests at once.

# %%
if len(models) > 1:
    display(tables.paired_table(reports, robustness.PUBLISHED))

# %% [markdown]
# ## In this notebook we saw
#
# - that one attack says little: stronger ones of the same size turn most of what PGD-20 leaves of the baseline, some of static's, and little of
#   adaptive's, whose resistance to this aim is real as far as nine attacks can tell;
# - that one target says little: it is resistance in the direction that was taught. Next to nothing withstands an attacker to whom any
#   wrong class will do;
# - that an evaluation can check itself, by signs that its attacks are too weak;
# - that static training learnt more than its examples: it withstands the change made with a baseline it never saw, but not its own;
# - that most of PGD's power lies where the ECG has its own, unlike muscle noise: a filter helps against an attacker who does not know
#   of it, and little against one who does;
# - that what can be guaranteed is far smaller than what is claimed.
#
# **Questions.** (1) Which model would you put into a monitor, and which number decides it? (2) Evaluate a model of your own with
# `-p MODELS my_model.keras -p TWINS "" -p COMPUTE True -p BUDGET quick`. Does every check pass? (3) Break a model on purpose, for
# instance by rounding its input, and see which checks catch it (`ci/test_checks.py` does).
