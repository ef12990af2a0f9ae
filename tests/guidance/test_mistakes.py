"""Arguments that can never work, and what is said of them."""

from __future__ import annotations

import pytest
import torch

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.errors import ConfigError
from tests.guidance.test_errors import HUGE, C, U

MISTAKES = {
    "on_channels: start must be a whole number, got 'a'": lambda: guidance.CFG().on_channels('a', 3),
    'on_channels: stop must be a whole number, got True': lambda: guidance.CFG().on_channels(0, True),
    'energy_guided: energy must be a function of samples, one value for each, got None': lambda: guidance.energy_guided(
        C, None, 1.0, model='flow', x=C, sigma=0.5
    ),
    "energy_guided: of must be one of 'x0', 'x0 through the model', 'x', got 'xt'": lambda: guidance.energy_guided(
        C, lambda x: x.sum((1, 2, 3)), 1.0, model='eps', x=U, sigma=0.5, of='xt'
    ),
    'Renorm: percentiles must be (low, high) in [0, 100], without dim; got (55, 45)': lambda: guidance.renorm_to_cond(
        percentiles=(55, 45)
    ),
    'HiGS: low=0.5 and high=0.4 leave no noise level': lambda: guidance.HiGS(guidance.CFG(), low=0.5, high=0.4),
    'ADG: limit must be a number in [0, 3.14159], got 4': lambda: guidance.ADG(4),
    'beta: a must be a number of at least 1, got 0.5': lambda: guidance.beta(7.5, 0.5),
    'SMCCFG: k must be a number of at least 0, got -1': lambda: guidance.SMCCFG(k=-1),
    'interval: sigma=(5.42, 0.28) is empty; its ends are (lo, hi) with lo < hi': lambda: guidance.interval(
        7.5, sigma=(5.42, 0.28)
    ),
    "interval: lo of sigma must be a finite number, got 'a'": lambda: guidance.interval(7.5, sigma=('a', 'b')),
    'interval: hi of progress must be a finite number, got None': lambda: guidance.interval(7.5, progress=(0.1, None)),
    "Ramp: curve must be 'linear' or 'cosine', got 'sine'": lambda: guidance.from_config(
        {'kind': 'Ramp', 'start': 1, 'stop': 2, 'curve': 'sine'}
    ),
    'exponential: rate must be a number in [-inf, 700], got 1000': lambda: guidance.exponential(3.0, 1000),
    'cfg_plus_plus: a step must lower sigma/alpha, got sigma=tensor([1.])': lambda: guidance.cfg_plus_plus(0.6)(
        sigma=torch.tensor([1.0]), next_sigma=torch.tensor([2.0])
    ),
    'interval: give either sigma=(lo, hi) or progress=(lo, hi)': lambda: guidance.interval(7.5),
    'interval: progress must be a pair (lo, hi), got 0.5': lambda: guidance.interval(7.5, progress=0.5),
    'interval: scale must be a finite number, got nan': lambda: guidance.interval(float('nan'), progress=(0.0, 0.5)),
    "in_space: model: unknown prediction space 'epsilon'; expected one of 'x0', 'eps', 'v', 'flow'": lambda: (
        guidance.CFG().in_x0('epsilon')
    ),
    "in_space: unknown prediction space 'z'": lambda: guidance.CFG().in_space('z', model='v'),
    "CFGZeroStar(zero_init=0.1) is zero at its first steps, which is a velocity: use in_space('flow', model='v')": lambda: (
        guidance.CFGZeroStar(0.1).in_x0('v')
    ),
    "Weak: name must be an identifier, such as 'stg', other than 'cond', 'null'": lambda: guidance.Weak(1.0, name='null'),
    'FDG: grid must be (h, w) or (f, h, w), got 4': lambda: guidance.FDG(grid=4),
    'progress must be a number in [0, 1] for a schedule, got 1.5': lambda: guidance.linear(1.0, 7.5)(1.5),
    'progress must be a number in [0, 1] for a schedule, got nan': lambda: guidance.linear(1.0, 7.5)(float('nan')),
    'progress must be a number in [0, 1] for a schedule, got True': lambda: guidance.linear(1.0, 7.5)(True),
    'progress must be in [0, 1] for a schedule, got tensor': lambda: guidance.cosine(1.0, 7.5)(torch.tensor([0.5, -0.1])),
    'progress must be in [0, 1] for a schedule, got tensor([nan])': lambda: guidance.cosine(1.0, 7.5)(
        torch.tensor([float('nan')])
    ),
    'a schedule takes real numbers as progress, got a tensor of torch.bool': lambda: guidance.linear(1.0, 7.5)(torch.ones(2) > 0),
    'sigma must be a number in [0, inf] for a schedule, got -1.0': lambda: guidance.interval(7.5, sigma=(0.1, 1.0))(sigma=-1.0),
    'cfg_plus_plus: a step must lower sigma/alpha, got sigma=1.0, alpha=1.0 to next_sigma=2.0': lambda: (
        guidance.cfg_plus_plus(0.6)(sigma=1.0, next_sigma=2.0)
    ),
    'interval: outside must be a finite number, got None': lambda: guidance.interval(7.5, progress=(0.0, 0.5), outside=None),
    'raag: alpha must be a number of at least 0, got nan': lambda: guidance.raag(C, U, 3.0, float('nan')),
    'apg: eta must be a finite number, got nan': lambda: guidance.apg(C, U, 3.0, float('nan')),
    'rescale: phi must be a finite number, got nan': lambda: guidance.rescale(C, U, float('nan')),
    'renorm: r must be a number of at least 0, got nan': lambda: guidance.renorm(C, U, float('nan')),
    'nag: tau must be a number of at least 0, got nan': lambda: guidance.nag(C, U, tau=float('nan')),
    'progress must be a number in [0, 1] for CFGZeroStar, got nan': lambda: guidance.CFGZeroStar(0.1).branches(
        progress=float('nan')
    ),
    'scale must be finite, got tensor': lambda: guidance.CFG()(C, U, torch.tensor([1.0, float('nan'), 1.0, 1.0])),
    'convert_scale: value must be finite, got nan': lambda: guidance.convert_scale(torch.tensor(float('nan')), from_='extra'),
    "convert_scale: 0.0 in the convention 'scale' has no value in the convention 'inverse'": lambda: guidance.convert_scale(
        0.0, from_='scale', to='inverse'
    ),
    "convert_scale: tensor([1., 0.]) in the convention 'scale' has no value": lambda: guidance.convert_scale(
        torch.tensor([1.0, 0.0]), from_='scale', to='inverse'
    ),
    "has no weak pass named 'stgg'; it has 'stg', 'weak'": lambda: (guidance.Weak(1.0) + guidance.Weak(1.0, name='stg'))(
        C, scale=3.0, weak={'stgg': U}
    ),
    "to_x0: unknown prediction space 'z'": lambda: guidance.to_x0(C, 'z', C, 0.5),
    "sigma must be a number in [0, 1] for a model of 'v' without alpha=, got 2.0": lambda: guidance.to_x0(C, 'v', C, 2.0),
    "sigma must be a number in [0, 1] for a model of 'flow' without alpha=, got 600": lambda: guidance.APG().in_x0('flow')(
        C, U, 3.0, x=C, sigma=600
    ),
    "sigma must be in [0, 1] for a model of 'flow' without alpha=, got tensor([600.])": lambda: guidance.APG().in_x0('flow')(
        C, U, 3.0, x=C, sigma=torch.tensor([600.0])
    ),
    'sigma must be a number in [0, inf] for x = x0 + sigma * eps, got -1.0': lambda: guidance.to_x0(C, 'eps', C, -1.0),
    'alpha must be a number in [0, inf] for x = alpha * x0 + sigma * eps, got -1.0': lambda: guidance.APG().in_x0('eps')(
        C, U, 3.0, x=C, sigma=1.0, alpha=-1.0
    ),
    "alpha must be a finite number or a tensor, got 'a'": lambda: guidance.APG().in_x0('eps')(
        C, U, 3.0, x=C, sigma=1.0, alpha='a'
    ),
    "at sigma=0.0 and alpha=1.0 a prediction of 'x0' says nothing of 'eps'": lambda: guidance.from_x0(C, 'eps', C, 0.0),
    "at sigma=tensor([0.]) and alpha=1.0 a prediction of 'x0' says nothing of 'eps'": lambda: guidance.from_x0(
        C, 'eps', C, torch.tensor([0.0])
    ),
    'x must be the noisy sample, a tensor like the prediction, got None': lambda: guidance.to_x0(C, 'flow', None, 0.5),
    'energy_guided: alpha is 0.0: pure noise has no clean sample': lambda: guidance.energy_guided(
        C, lambda x: x.sum((1, 2, 3)), 1.0, model='flow', x=C, sigma=1.0
    ),
    'energy_guided: the energy has no gradient': lambda: guidance.energy_guided(
        C, lambda x: x.detach().sum((1, 2, 3)), 1.0, model='flow', x=C, sigma=0.5
    ),
    "APG: dim must be a dimension, a tuple of dimensions or None for all but the batch, got 'a'": lambda: guidance.APG(dim='a'),
    'Renorm: dim must be a dimension': lambda: guidance.renorm_to_cond(dim=1.5),
    'Discrete: dim must be a dimension': lambda: guidance.Discrete(dim=None),
    "APG: rms is True or False, got 'yes'": lambda: guidance.APG(rms='yes'),
    'smc_cfg: k must be a number of at least 0, got nan': lambda: guidance.smc_cfg(C, U, 3.0, C, k=float('nan')),
    'higs: eta must be a finite number, got nan': lambda: guidance.higs(C, U, 1.0, eta=float('nan')),
    'renorm: lo must be a number in [0, 1], got 2.0': lambda: guidance.renorm(C, U, lo=2.0),
    'renorm: percentiles must be (low, high) in [0, 100], without dim; got (55, 45)': lambda: guidance.renorm(
        C, U, percentiles=(55, 45)
    ),
    'on_channels: dim=0 is the batch': lambda: guidance.CFG().on_channels(0, 1, dim=0),
    'fdg: grid must be (h, w) or (f, h, w), got 3': lambda: guidance.fdg(C[0], U[0], (2.0, 3.0), grid=3),
    "from_config: Constant needs 'scale', got {'kind'": lambda: guidance.from_config({'kind': 'Constant'}),
    "from_config: unknown kind ['a']": lambda: guidance.from_config({'kind': ['a']}),
    'Preset: expected a rule, got 3': lambda: guidance.Preset(3, 2.0, 'a model', 'a paper', 'eps'),
    "unknown preset ['a']": lambda: guidance.preset(['a']),
    "convert_scale: unknown convention ['a']": lambda: guidance.convert_scale(1.0, from_=['a']),
    'rows must be what null_rows returned, indices of samples (r,), got [0]': lambda: guidance.CFG()(C, U[:1], 3.0, rows=[0]),
    'rows: cond is torch.float32 on cpu, but null is torch.float64 on cpu': lambda: guidance.CFG()(
        C, U[:1].double(), 3.0, rows=torch.tensor([0])
    ),
    'weak must be a prediction, a tensor (b, ...), got 3.0': lambda: guidance.Weak(1.0)(C, weak=3.0),
    "cond must be a prediction, a tensor (b, ...), got 'c'": lambda: guidance.CFG()('c', scale=1.0),
    'state must be what rule.init_state() returned, got 3': lambda: guidance.APG(momentum=0.5)(C, U, 3.0, state=3),
    'expected what state_dict() returned, a dictionary, got 3': lambda: guidance.SMCCFG().init_state().load_state_dict(3),
    'progress must be a number in [0, 1] for HiGS, got 7.0': lambda: guidance.HiGS(guidance.CFG())(
        C, U, 3.0, progress=7.0, state=guidance.HiGS(guidance.CFG()).init_state()
    ),
    'diffusers_guider: scale must be a finite number, got nan': lambda: guidance.diffusers_guider(guidance.CFG(), float('nan')),
    'diffusers_guider: expected a rule or a preset, got 3.0': lambda: guidance.diffusers_guider(3.0),
    "is zero at its first steps, which is a velocity: use in_space('flow', model='eps')": lambda: (
        guidance.CFGZeroStar(0.1) + guidance.Weak(1.0)
    ).in_x0('eps'),
    "unknown preset 'sdxl'; expected one of 'rescale'": lambda: guidance.preset('sdxl'),
    "convert_scale: unknown convention 'dall-e'; expected one of 'scale', 'extra', 'inverse'": lambda: guidance.convert_scale(
        1.0, from_='dall-e'
    ),
    "convert_scale: -1.0 in the convention 'extra' has no value in the convention 'inverse'": lambda: guidance.convert_scale(
        -1.0, from_='extra', to='inverse'
    ),
    'APG: norm is 0, which removes all guidance': lambda: guidance.APG(norm=0),
    "APG: eta must be a finite number, got 'none'": lambda: guidance.APG(eta='none'),
    'APG: momentum must be a number in [-1, 1], got 2': lambda: guidance.APG(momentum=2),
    'CFGZeroStar: zero_init must be a number in [0, 1], got 4': lambda: guidance.CFGZeroStar(4),
    'RAAG: alpha must be a number of at least 0, got -1': lambda: guidance.RAAG(-1),
    'FDG: scales must be a non-empty tuple of numbers, got [3.0]': lambda: guidance.FDG([3.0]),
    'FDG: every one of scales (1.0, 1) is 1, so nothing is guided': lambda: guidance.FDG((1.0, 1)),
    'Chain: expected at least two scales, not all 1, got (2.0,)': lambda: guidance.Chain((2.0,)),
    'Compose: weights[1] must be a finite number, got True': lambda: guidance.Compose((2.0, True)),
    'PerpNeg: weights must be a finite number, got None': lambda: guidance.PerpNeg(None),
    'Weak: weight must be a finite number, got inf': lambda: guidance.Weak(float('inf')),
    'NAG: tau must be a number of at least 1, got 0.5': lambda: guidance.NAG(tau=0.5),
    'Rescale: phi must be a number in [0, 1], got 7': lambda: guidance.rescale_to_cond(7),
    'Renorm: lo must be a number in [0, 1], got -1': lambda: guidance.renorm_to_cond(lo=-1),
    'Renorm: hi must be a number of at least 1, got 0.5': lambda: guidance.renorm_to_cond(hi=0.5),
    'Sum: expected a rule, got 3': lambda: guidance.Sum((guidance.CFG(), 3)),
    'Sum: expected at least two rules, got 1': lambda: guidance.Sum((guidance.CFG(),)),
    'Sum: NAG(tau=2.5, alpha=0.25) guides inside attention': lambda: guidance.CFG() + guidance.NAG(),
    'Then: NAG(tau=2.5, alpha=0.25) guides inside attention': lambda: guidance.NAG().then(guidance.rescale_to_cond()),
    'then: expected a post-step, a callable of (guided, cond), got 0.7': lambda: guidance.CFG().then(0.7),
    "Adaptive: Weak(weight=1.0, name='weak') cannot do without its null pass": lambda: guidance.Adaptive(guidance.Weak()),
    'skips null passes itself, so the cosine could not be measured; wrap the other way': lambda: guidance.Adaptive(
        guidance.ReuseDelta(guidance.CFG()).then(guidance.rescale_to_cond())
    ),
    'APG: eta must be a finite number, got an integer too large for a float': lambda: guidance.APG(eta=10**400),
    'RAAG: alpha must be a number of at least 0, got an integer too large for a float': lambda: guidance.RAAG(HUGE),
    'Chain: scales[1] must be a finite number, got an integer too large for a float': lambda: guidance.Chain((2.0, HUGE)),
    'linear: stop must be a finite number, got an integer too large for a float': lambda: guidance.linear(1, -HUGE),
    'fdg: scales must hold at least one number, finest level first, got 3.0': lambda: guidance.fdg(C, U, 3.0),
    'ReuseDelta: Then(rule=CFG(), post=Renorm(r=0.8, lo=0.0, dim=None, hi=1.0, percentiles=None)) cannot do without': lambda: (
        guidance.ReuseDelta(guidance.CFG().then(guidance.renorm_to_cond(0.8)))
    ),
    'Adaptive: expected a rule, got 0.9': lambda: guidance.Adaptive(0.9),
    'Adaptive: threshold must be a number in [-1, 1], got 99': lambda: guidance.Adaptive(guidance.CFG(), 99),
    'ReuseDelta: every must be a whole number of steps, at least 1, got 0': lambda: guidance.ReuseDelta(guidance.CFG(), 0),
    'piecewise: knots must be in order of progress, got [0.5, 0.1]': lambda: guidance.piecewise((0.5, 1.0), (0.1, 2.0)),
    'piecewise: expected at least one knot': lambda: guidance.piecewise(),
    'piecewise: expected knots (progress, scale), got 0.5': lambda: guidance.piecewise(0.5),
    'piecewise: the progress of a knot must be a number in [0, 1], got 7.5': lambda: guidance.piecewise((7.5, 0.5)),
    'linear: stop must be a finite number, got None': lambda: guidance.linear(1.0, None),
    'cfg_plus_plus: lam must be a number in [0, 1], got 7.5': lambda: guidance.cfg_plus_plus(7.5),
    'constant: scale must be a finite number': lambda: guidance.constant('7.5'),
    'compose: got 1 weights for 2 conditions; give one each, or a single number': lambda: guidance.compose((C, C), U, (1.0,)),
    'compose: expected at least one conditional prediction, got none': lambda: guidance.compose((), U),
    'chain: got 2 predictions and 2 scales': lambda: guidance.chain((U, C), (1.0, 2.0)),
    'perp_neg: got 2 weights for 1 negatives': lambda: guidance.perp_neg(C, U, (C,), 2.0, (1.0, 2.0)),
    'perp_neg: expected at least one negative prediction, got none': lambda: guidance.perp_neg(C, U, (), 2.0),
    'fdg: scales must hold at least one number': lambda: guidance.fdg(C, U, ()),
}  # fmt: skip


@pytest.mark.parametrize('sentence', list(MISTAKES))
def test_arguments_that_cannot_work(sentence):
    with pytest.raises(ConfigError) as caught:
        MISTAKES[sentence]()
    assert sentence in str(caught.value)
