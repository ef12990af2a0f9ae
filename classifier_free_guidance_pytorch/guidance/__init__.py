"""Guidance rules: pure functions of predictions, and frozen rule objects that compose.

In every formula `c` is the prediction under the condition, `u` under the null condition or negative prompt, `k` that of a
weakened pass, `d = c - u` and `s` the scale: **1 means off, 0 means unconditional**, `guided = u + s * d`. Projections, norms
and standard deviations are per sample, over all non-batch dimensions, unless a rule says otherwise.

    guided = guidance.cfg(cond, null, 7.5)                                      # functions on tensors
    rule = (guidance.APG(norm=15.) + guidance.Weak(2.8)).then(guidance.rescale_to_cond(0.7))
    guided = rule(cond, null, 7.5, weak=weak)                                   # rules hold only their parameters

Nothing here knows of texts, modules or models.
"""

from __future__ import annotations

from .attention_features import nag
from .combine import InX0, OnChannels, Sum, Then
from .conventions import convert_scale
from .distributions import discrete, logits
from .frequencies import fdg
from .lines import cfg, chain, compose, weak
from .many_rules import Chain, Compose, PerpNeg, Weak
from .post_steps import Renorm, Rescale, renorm, renorm_to_cond, rescale, rescale_to_cond
from .presets import PRESETS, Preset, preset
from .projections import apg, cfg_zero_star, perp_neg, raag, tcfg
from .rule import BRANCHES, Predictions, Rule, Step
from .rules import APG, CFG, FDG, NAG, RAAG, TCFG, CFGZeroStar, Discrete, Logits
from .savers import Adaptive, ReuseDelta
from .schedules import Schedule, cfg_plus_plus, clamp_linear, constant, cosine, interval, linear, piecewise, power_cosine
from .spaces import SPACES, from_x0, to_x0
from .state import State

__all__ = [
    'APG', 'BRANCHES', 'CFG', 'FDG', 'NAG', 'PRESETS', 'RAAG', 'SPACES', 'TCFG',
    'Adaptive', 'CFGZeroStar', 'Chain', 'Compose', 'Discrete', 'InX0', 'Logits', 'OnChannels', 'PerpNeg', 'Predictions',
    'Preset', 'Renorm', 'Rescale', 'ReuseDelta', 'Rule', 'Schedule', 'State', 'Step', 'Sum', 'Then', 'Weak',
    'apg', 'cfg', 'cfg_plus_plus', 'cfg_zero_star', 'chain', 'clamp_linear', 'compose', 'constant', 'convert_scale', 'cosine',
    'discrete', 'fdg', 'from_x0', 'interval', 'linear', 'logits', 'nag', 'perp_neg', 'piecewise', 'power_cosine', 'preset',
    'raag', 'renorm', 'renorm_to_cond', 'rescale', 'rescale_to_cond', 'tcfg', 'to_x0', 'weak',
]  # fmt: skip
