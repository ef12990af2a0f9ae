"""Every mistake gets a sentence that says what was passed, what was expected and how to fix it."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError

C, U = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
APG = guidance.APG(momentum=-0.5)
FUNCTIONS = {
    'cfg': lambda c, u: guidance.cfg(c, u, 2.0),
    'apg': lambda c, u: guidance.apg(c, u, 2.0),
    'cfg_zero_star': lambda c, u: guidance.cfg_zero_star(c, u, 2.0),
    'tcfg': lambda c, u: guidance.tcfg(c, u, 2.0),
    'raag': lambda c, u: guidance.raag(c, u, 2.0),
    'fdg': guidance.fdg,
    'perp_neg': lambda c, u: guidance.perp_neg(c, u, (c,), 2.0),
    'compose': lambda c, u: guidance.compose((c,), u),
    'chain': lambda c, u: guidance.chain((u, c), (2.0,)),
    'weak': lambda c, u: guidance.weak(c, u, 2.0),
    'logits': lambda c, u: guidance.logits(c, u, 2.0),
    'nag': lambda c, u: guidance.nag(c, u, 2.0),
    'rescale': lambda c, u: guidance.rescale(c, u, 0.7),
    'renorm': guidance.renorm,
}
LINEAR = {'cfg', 'weak', 'compose', 'chain'}
every_function = pytest.mark.parametrize('name', list(FUNCTIONS))


@every_function
def test_predictions_must_fit_together(name):
    with pytest.raises(ShapeError, match=rf'{name}: .*\(4, 3, 8, [89]\), but .*\(4, 3, 8, [89]\)'):
        FUNCTIONS[name](C, torch.randn(4, 3, 8, 9))
    with pytest.raises(ConfigError, match=rf'{name}: .*torch.(bfloat16|float32) on cpu, but .* convert one with'):
        FUNCTIONS[name](C, U.bfloat16())
    with pytest.raises(ConfigError, match=rf'{name}: .* on (meta|cpu), but .* on (meta|cpu)'):
        FUNCTIONS[name](C, U.to('meta'))
    with pytest.raises(ConfigError, match=f'{name}: .* must be a floating point tensor, got torch.int64'):
        FUNCTIONS[name](C.long(), U.long())
    with pytest.raises(ShapeError, match=rf'{name}: .* must be batch first.*, got shape \(\)'):
        FUNCTIONS[name](C[0, 0, 0, 0], U[0, 0, 0, 0])


@every_function
def test_which_functions_take_one_value_per_sample_and_complex_numbers(name):
    """Those that only add multiples of predictions; the others measure samples, and say who does not."""
    flat, wave = (C[:, 0, 0, 0], U[:, 0, 0, 0]), (torch.complex(C, U), torch.complex(U, C))
    if name in LINEAR:
        assert FUNCTIONS[name](*flat).shape == (4,)
        assert FUNCTIONS[name](*wave).dtype == torch.complex64
        return
    who = 'cfg, weak, compose and chain'
    with pytest.raises(ShapeError, match=rf'{name}: .* such as \(b, d\) \({who} also take \(b,\)\), got shape \(4,\)'):
        FUNCTIONS[name](*flat)
    with pytest.raises(ConfigError, match=f'{name}: .* got torch.complex64; complex predictions are for {who}'):
        FUNCTIONS[name](*wave)


@pytest.mark.parametrize(
    ('scale', 'sentence'),
    [
        (torch.ones(3), r'scale has 3 values for a batch of 4 \(predictions of shape \(4, 3, 8, 8\)\)'),
        (torch.ones(4, 2, 1, 1), r'scale of shape \(4, 2, 1, 1\) does not fit predictions of shape \(4, 3, 8, 8\)'),
        (torch.ones(1, 4, 3, 8, 8), r'does not fit .* one value per sample \(4,\), or .* such as \(4, 1, 1, 1\)'),
        (torch.ones(8, 8), r'scale of shape \(8, 8\) does not fit .* or a tensor of 4 dimensions'),  # of the last ones, by chance
        (torch.ones(4, 1), r'scale of shape \(4, 1\) does not fit'),
    ],
)
def test_scales_must_fit(scale, sentence):
    for rule in (guidance.CFG(), guidance.APG(), guidance.TCFG(), guidance.RAAG(), guidance.CFGZeroStar()):
        with pytest.raises(ShapeError, match=sentence):
            rule(C, U, scale * 2)


@pytest.mark.parametrize('scale', [float('nan'), float('inf')])
def test_scales_must_be_finite(scale):
    with pytest.raises(ConfigError, match=f'scale must be a finite number or a tensor, got {scale}'):
        guidance.CFG()(C, U, scale)


HUGE = 10**5000
NO_SCALES = {
    'True': (True, 'must be a finite number or a tensor, got True'),
    'a bool tensor': (torch.ones(4, dtype=torch.bool), r'must hold real numbers, got a tensor of torch.bool; .*\.float\(\)'),
    'a complex tensor': (torch.ones(4, dtype=torch.complex64), 'must hold real numbers, got a tensor of torch.complex64'),
    'a string': ('7.5', "must be a finite number or a tensor, got '7.5'"),
    'None': (None, 'must be a finite number or a tensor, got None'),
    'a list': ([7.5], r'must be a finite number or a tensor, got \[7.5\]'),
    'nan': (float('nan'), 'must be a finite number or a tensor, got nan'),
    '10**400': (10**400, 'must be a finite number or a tensor, got an integer too large for a float'),
    '10**5000': (HUGE, 'must be a finite number or a tensor, got an integer too large for a float'),
    'a fraction': (Fraction(10**400, 3), 'must be a finite number or a tensor, got Fraction'),
    'a schedule': (guidance.linear(1.0, 7.5), r'is the schedule .*; call it first, as in .*\(progress\)'),
}
TAKE_SCALES = {
    'scale': [lambda s, f=f: f(C, U, s) for f in (guidance.cfg, guidance.apg, guidance.cfg_zero_star, guidance.tcfg)]
    + [lambda s, f=f: f(C, U, s) for f in (guidance.raag, guidance.logits, guidance.discrete, guidance.nag)]
    + [lambda s: guidance.perp_neg(C, U, (C,), s), lambda s: guidance.CFG().branches(s)]
    + [lambda s, rule=rule: rule(C, U, s, weak=C, conds=(C,), negatives=(C,), state=rule.init_state()) for rule in (
        guidance.CFG(), guidance.FDG(), guidance.Chain(), guidance.Compose(), guidance.Weak(), guidance.NAG(),
        guidance.Logits(), guidance.CFG() + guidance.Weak(), guidance.Adaptive(guidance.CFG()),
    )],
    'weight': [lambda s: guidance.weak(C, U, s)],
    'perp_neg: weights[1]': [lambda s: guidance.perp_neg(C, U, (C, C), 2.0, (1.0, s))],
    'compose: weights[1]': [lambda s: guidance.compose((C, C), U, (1.0, s))],
    'chain: scales[0]': [lambda s: guidance.chain((U, C, C), (s, 1.0))],
    'chain: scales[1]': [lambda s: guidance.chain((U, C, C), (1.0, s))],
    'fdg: scales[0]': [lambda s: guidance.fdg(C, U, (s, 1.0))],
    'fdg: scales[1]': [lambda s: guidance.fdg(C, U, (1.0, s))],
    'sigma': [lambda s: guidance.to_x0(C, 'eps', C, s), lambda s: guidance.APG().in_x0('v')(C, U, 2.0, x=C, sigma=s)],
    'alpha': [lambda s: guidance.from_x0(C, 'flow', C, 0.5, s)],
    'convert_scale: value': [lambda s: guidance.convert_scale(s, from_='extra')],
}  # fmt: skip


@pytest.mark.parametrize('kind', list(NO_SCALES))
@pytest.mark.parametrize('name', list(TAKE_SCALES))
def test_what_is_no_scale_is_refused_wherever_one_is_taken(name, kind):
    value, sentence = NO_SCALES[kind]
    if value is None and name in ('sigma', 'alpha'):
        return  # the same as not given
    for take in TAKE_SCALES[name]:
        with pytest.raises(ConfigError, match=f'{re.escape(name)} {sentence}'):
            take(value)


def test_numbers_of_other_libraries_are_scales():
    for number in (np.float32(2.5), np.float64(2.5), Fraction(5, 2)):
        assert torch.equal(guidance.CFG()(C, U, number), guidance.CFG()(C, U, 2.5))
        assert torch.equal(guidance.FDG()(C, U, number), guidance.FDG()(C, U, 2.5))
    for number in (2, np.int64(2)):
        assert torch.equal(guidance.APG()(C, U, number), guidance.APG()(C, U, 2.0))
    assert guidance.CFG().branches(np.float32(1)) == ('cond',)


def test_one_tensor_is_no_sequence_of_predictions():
    with pytest.raises(ConfigError, match=r'conds must be a sequence of predictions, .*write conds=\(prediction,\)'):
        guidance.Compose()(C, U, 2.0, conds=C)
    with pytest.raises(ConfigError, match='negatives must be a sequence'):
        guidance.PerpNeg()(C, U, 2.0, negatives=C)


def test_rules_that_measure_samples_say_so_around_rules_that_do_not():
    adaptive, rescaled = guidance.Adaptive(guidance.CFG()), guidance.CFG().then(guidance.rescale_to_cond(0.5))
    with pytest.raises(ShapeError, match=r'Adaptive: cond must be batch first with at least one more dimension'):
        adaptive(C[:, 0, 0, 0], U[:, 0, 0, 0], 2.0, state=adaptive.init_state())
    with pytest.raises(ConfigError, match=r'Adaptive: cond must be a floating point tensor, got torch.complex64'):
        adaptive(torch.complex(C, U), torch.complex(U, C), 2.0, state=adaptive.init_state())
    with pytest.raises(ShapeError, match=r'rescale: guided must be batch first with'):
        rescaled(C[:, 0, 0, 0], U[:, 0, 0, 0], 2.0)


def test_a_schedule_is_not_a_scale():
    with pytest.raises(ConfigError, match=r'scale is the schedule .*; call it first, as in .*\(progress\)'):
        guidance.CFG()(C, U, guidance.linear(1.0, 7.5))


def test_scales_of_every_shape_that_broadcasts_work():
    frames, channels = torch.rand(4, 1, 8, 1), torch.rand(1, 3, 1, 1)
    for scale in (frames, channels, torch.rand(()), torch.rand(1), torch.rand(4), torch.rand(4, 3, 8, 8)):
        aligned = scale.view(4, 1, 1, 1) if scale.shape == (4,) else scale
        torch.testing.assert_close(guidance.CFG()(C, U, scale), U + aligned * (C - U))


def test_a_branch_that_was_not_given():
    with pytest.raises(UsageError, match=r"CFG needs 'cond', 'null' at this scale, but 'null' was not given \(got 'cond'\)"):
        guidance.CFG()(C, scale=3.0)
    with pytest.raises(UsageError, match=r"Sum needs 'cond', 'null', 'weak' .*, but 'null', 'weak' were not given"):
        (guidance.CFG() + guidance.Weak(2.0))(C, scale=3.0)
    with pytest.raises(UsageError, match=r"PerpNeg needs .*'negatives' was not given"):
        guidance.PerpNeg()(C, U, 3.0, negatives=())
    with pytest.raises(UsageError, match=r'rule.branches\(scale\) says what to run'):
        guidance.Chain()(C, U, 3.0)


def test_states():
    with pytest.raises(
        UsageError, match=r'APG\(.*\) remembers between steps, so it needs a state: make one with rule.init_state\(\)'
    ):
        APG(C, U, 3.0)
    with pytest.raises(UsageError, match=r'the state given to APG\(.*momentum=0.2.* was made by APG\(.*momentum=-0.5'):
        guidance.APG(momentum=0.2)(C, U, 3.0, state=APG.init_state())
    with pytest.raises(UsageError, match=r'CFG\(\) remembers nothing between steps, but was given the state of APG'):
        guidance.CFG()(C, U, 3.0, state=APG.init_state())
    for rule in (APG, guidance.ReuseDelta(guidance.CFG()), APG + guidance.CFG(), APG.then(guidance.rescale_to_cond())):
        state = rule.init_state()
        rule(C, U, 3.0, state=state)
        with pytest.raises(ShapeError, match=r'state holds .* \(4, 3, 8, 8\), but the predictions have shape \(2, 3, 8, 8\)'):
            rule(C[:2], U[:2], 3.0, state=state)
    equal = guidance.APG(momentum=-0.5)  # rules are values: an equal one may use the state
    assert equal(C, U, 3.0, state=APG.init_state()).shape == C.shape


def test_an_adaptive_state_of_another_batch():
    rule = guidance.Adaptive(guidance.CFG())
    state = rule.init_state()
    rule(C, U, 3.0, state=state)
    with pytest.raises(ShapeError, match=r'state holds flags of shape \(4, 1, 1, 1\), but .* \(2, 3, 8, 8\)'):
        rule(C[:2], U[:2], 3.0, state=state)
    with pytest.raises(ShapeError, match=r'state holds flags of shape \(4, 1, 1, 1\), but .* \(4, 3\)'):
        rule(C[..., 0, 0], U[..., 0, 0], 3.0, state=state)


MISTAKES = {
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
    'CFGZeroStar: progress must be a number in [0, 1], got nan': lambda: guidance.CFGZeroStar(0.1).branches(
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
    "without alpha= the space 'v' is variance preserving: sigma <= 1": lambda: guidance.to_x0(C, 'v', C, 2.0),
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


SHAPES = {
    'energy_guided: the energy must be one value per sample, of shape (4,), got ()': lambda: guidance.energy_guided(
        C, lambda x: x.sum(), 1.0, model='eps', x=U, sigma=0.5
    ),
    'fdg: predictions of shape (4, 3, 8) may be tokens (b, n, d) or a signal (b, c, n)': lambda: guidance.fdg(
        C[..., 0], U[..., 0]
    ),
    'fdg: predictions of shape (4, 3, 8, 8) with a grid; a grid is for tokens': lambda: guidance.FDG(grid=(8, 8))(C, U, 10.0),
    'fdg: grid=(2, 2) has 4 places, but there are 3 tokens': lambda: guidance.FDG(grid=(2, 2))(C[..., 0], U[..., 0], 10.0),
    'null has shape (3, 3, 8, 8) for rows=(2,)': lambda: guidance.CFG()(C, U[:3], 3.0, rows=torch.tensor([0, 1])),
    'x has shape (4, 3), but the prediction has shape (4, 3, 8, 8)': lambda: guidance.to_x0(C, 'eps', C[:, :, 0, 0], 0.5),
    'sigma has 3 values for a batch of 4': lambda: guidance.to_x0(C, 'eps', C, torch.ones(3)),
    'fdg: scales[0] has shape (4, 3) for a batch of 4': lambda: guidance.fdg(C, U, (torch.ones(4, 3), 2.0)),
    'on_channels: channels 3 to 5 of dimension 1 are empty': lambda: guidance.CFG().on_channels(3, 5)(C, U, 2.0),
    'on_channels: channels 0 to 1 of dimension 7 are empty': lambda: guidance.CFG().on_channels(0, 1, dim=7)(C, U, 2.0),
}


@pytest.mark.parametrize('sentence', list(SHAPES))
def test_shapes_that_cannot_work(sentence):
    with pytest.raises(ShapeError) as caught:
        SHAPES[sentence]()
    assert sentence in str(caught.value)


USAGE = {
    "of='x0 through the model' needs x.requires_grad_() before": lambda: guidance.energy_guided(
        C, lambda x: x.sum((1, 2, 3)), 1.0, model='eps', x=U, sigma=0.5, of='x0 through the model'
    ),
    'needs progress=, from 0 (pure noise) to 1, to know how strongly to act': lambda: guidance.HiGS(guidance.CFG())(
        C, U, 2.0, state=guidance.HiGS(guidance.CFG()).init_state()
    ),
    'needs the noisy sample x= and its noise level sigma=; x= was not given': lambda: guidance.APG().in_x0('v')(
        C, U, 2.0, sigma=0.5
    ),
    'sigma= was not given': lambda: guidance.APG().in_x0('v')(C, U, 2.0, x=C),
    'CFGZeroStar(zero_init=0.04) needs progress=, from 0 (pure noise) to 1': lambda: guidance.CFGZeroStar(0.04)(C, U, 2.0),
    'is zero at this step; give x=, or any prediction, so that its shape is known': lambda: guidance.CFGZeroStar(0.04)(
        scale=2.0, progress=0.0
    ),
    'is a function of progress; call it with progress=': lambda: guidance.linear(1.0, 7.5)(sigma=3.0),
    'is a function of next_sigma; call it with next_sigma=': lambda: guidance.cfg_plus_plus(0.6)(sigma=3.0),
    'is a function of sigma; call it with sigma=': lambda: guidance.interval(7.5, sigma=(0.1, 1.0))(0.5),
}  # fmt: skip


@pytest.mark.parametrize('sentence', list(USAGE))
def test_calls_that_lack_something(sentence):
    with pytest.raises(UsageError) as caught:
        USAGE[sentence]()
    assert sentence in str(caught.value)


def test_rules_add_only_to_rules():
    with pytest.raises(TypeError, match='unsupported operand'):
        guidance.CFG() + 3
