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
    'rows must be of the 4 samples of the batch, got [0, 5]': lambda: guidance.CFG()(C, U[:2], 3.0, rows=torch.tensor([0, 5])),
    'dim=9 must be of the 3 dimensions that follow the batch': lambda: guidance.APG(dim=9)(C, U, 3.0),
    'dim=0 must be of the 3 dimensions that follow the batch': lambda: guidance.renorm(C, U, dim=0),
    'dim=-4 must be of the 3 dimensions that follow the batch': lambda: guidance.Logits(dim=-4)(C, U, 1.0),
    'scale has 3 values for a batch of 4': lambda: guidance.CFG()(C, U, torch.ones(3)),
    'scale of shape (4, 1) does not fit': lambda: guidance.CFG()(C, U, torch.ones(4, 1)),
    'apg: delta has shape (1, 3, 8, 8), but cond': lambda: guidance.apg(C, U, 3.0, delta=C[:1]),
    'smc_cfg: before has shape (1, 3, 8, 8), but cond': lambda: guidance.smc_cfg(C, U, 3.0, C[:1]),
    'higs: history has shape (1, 3, 8, 8), but guided': lambda: guidance.higs(C, U[:1], 1.0),
    'takes one progress for all samples, got a tensor of shape (4,)': lambda: guidance.HiGS(guidance.CFG())(
        C, U, 3.0, progress=torch.rand(4), state=guidance.HiGS(guidance.CFG()).init_state()
    ),
    'progress has 3 values for a batch of 4': lambda: guidance.CFGZeroStar(0.5)(C, U, 3.0, progress=torch.linspace(0, 1, 3)),
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
