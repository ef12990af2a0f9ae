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

from classifier_free_guidance_pytorch.guidance._adg import ADG, adg
from classifier_free_guidance_pytorch.guidance._apg import APG, apg
from classifier_free_guidance_pytorch.guidance._cfg import CFG, cfg
from classifier_free_guidance_pytorch.guidance._cfg_zero import CFGZeroStar, cfg_zero_star
from classifier_free_guidance_pytorch.guidance._chain import Chain, chain
from classifier_free_guidance_pytorch.guidance._compose import Compose, compose
from classifier_free_guidance_pytorch.guidance._energy import energy_guided
from classifier_free_guidance_pytorch.guidance._fdg import FDG, fdg
from classifier_free_guidance_pytorch.guidance._higs import HiGS, higs
from classifier_free_guidance_pytorch.guidance._learned import Learned
from classifier_free_guidance_pytorch.guidance._logits import Discrete, Logits, discrete, logits
from classifier_free_guidance_pytorch.guidance._mahiro import Mahiro, mahiro
from classifier_free_guidance_pytorch.guidance._nag import NAG, nag
from classifier_free_guidance_pytorch.guidance._perp_neg import PerpNeg, perp_neg
from classifier_free_guidance_pytorch.guidance._raag import MAMBOG, RAAG, mambo_g, raag
from classifier_free_guidance_pytorch.guidance._rescale import Renorm, Rescale, renorm, renorm_to_cond, rescale, rescale_to_cond
from classifier_free_guidance_pytorch.guidance._search import search
from classifier_free_guidance_pytorch.guidance._smc import SMCCFG, smc_cfg
from classifier_free_guidance_pytorch.guidance._tcfg import TCFG, tcfg
from classifier_free_guidance_pytorch.guidance._weak import Weak, weak
from classifier_free_guidance_pytorch.guidance.combine import InSpace, OnChannels, Rule, Sum, Then
from classifier_free_guidance_pytorch.guidance.configs import from_config, to_config
from classifier_free_guidance_pytorch.guidance.guider import diffusers_guider
from classifier_free_guidance_pytorch.guidance.presets import PRESETS, Preset, preset
from classifier_free_guidance_pytorch.guidance.scales import convert_scale
from classifier_free_guidance_pytorch.guidance.schedule import Schedule
from classifier_free_guidance_pytorch.guidance.schedules import (
    beta,
    cfg_plus_plus,
    clamp_linear,
    constant,
    cosine,
    exponential,
    interval,
    linear,
    piecewise,
    power_cosine,
)
from classifier_free_guidance_pytorch.guidance.skip_null import Adaptive, ReuseDelta
from classifier_free_guidance_pytorch.guidance.spaces import SPACES, convert, from_x0, to_x0
from classifier_free_guidance_pytorch.guidance.step import BRANCHES, Predictions, State, Step

__all__ = [
    'ADG', 'APG', 'BRANCHES', 'CFG', 'FDG', 'MAMBOG', 'NAG', 'PRESETS', 'RAAG', 'SMCCFG', 'SPACES', 'TCFG', 'Adaptive',
    'CFGZeroStar', 'Chain', 'Compose', 'Discrete', 'HiGS', 'InSpace', 'Learned', 'Logits', 'Mahiro', 'OnChannels', 'PerpNeg',
    'Predictions', 'Preset', 'Renorm', 'Rescale', 'ReuseDelta', 'Rule', 'Schedule', 'State', 'Step', 'Sum', 'Then', 'Weak',
    'adg', 'apg', 'beta', 'cfg', 'cfg_plus_plus', 'cfg_zero_star', 'chain', 'clamp_linear', 'compose', 'constant', 'convert',
    'convert_scale', 'cosine', 'diffusers_guider', 'discrete', 'energy_guided', 'exponential', 'fdg', 'from_config',
    'from_x0', 'higs', 'interval', 'linear', 'logits', 'mahiro', 'mambo_g', 'nag', 'perp_neg', 'piecewise', 'power_cosine',
    'preset', 'raag', 'renorm', 'renorm_to_cond', 'rescale', 'rescale_to_cond', 'search', 'smc_cfg', 'tcfg', 'to_config', 'to_x0',
    'weak',
]  # fmt: skip
