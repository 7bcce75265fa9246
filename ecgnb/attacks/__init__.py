"""Attacks: searches for the point of a ball that serves an attacker best.

An attack takes a classifier (see `models.classifier`), an `AttackProblem` (recordings, goal and ball; `Threat.on`
poses it) and settings of its own, and returns an `AttackResult`. Arrays live in NumPy; only the gradient
is the network's, and it is 99 % of the time. All settings of length are shares of the ball's radius.

What is random is drawn for each recording by itself (`AttackProblem.generators`), so that an attack finds the same
in a recording whichever others are attacked with it. Only `universal`, whose perturbation is one for all, differs.
"""

from ecgnb.attacks.apgd import apgd, apgd_targets
from ecgnb.attacks.fab import fab
from ecgnb.attacks.losses import cross_entropy, divergence, logit_margin, logit_ratio
from ecgnb.attacks.noise import NOISE_BASELINES, add_noise, noise_attack
from ecgnb.attacks.pgd import pgd, random_points
from ecgnb.attacks.preprocessing import BPDA, EoT
from ecgnb.attacks.result import AttackResult, from_examples
from ecgnb.attacks.smooth import smooth
from ecgnb.attacks.square import square
from ecgnb.attacks.threats import AttackProblem, Goal, Threat
from ecgnb.attacks.universal import apply_universal, universal

__all__ = [
    "BPDA",
    "NOISE_BASELINES",
    "AttackProblem",
    "AttackResult",
    "EoT",
    "Goal",
    "Threat",
    "add_noise",
    "apgd",
    "apgd_targets",
    "apply_universal",
    "cross_entropy",
    "divergence",
    "fab",
    "from_examples",
    "logit_margin",
    "logit_ratio",
    "noise_attack",
    "pgd",
    "random_points",
    "smooth",
    "square",
    "universal",
]
