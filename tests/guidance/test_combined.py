"""Rules in rules, rules of several scales, and predictions of one value per sample or of complex numbers: written out."""

from __future__ import annotations

import pytest
import torch

from classifier_free_guidance_pytorch import guidance
from tests.guidance.cases import CASES, call, inputs

SHAPE = (3, 4, 6, 5)


def random(count, shape=SHAPE, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(count)]


# Rules with scales of their own


def proportions(scale, scales):
    """The strongest of `scales` becomes `scale`, and the others keep their ratio to it, all measured from 1."""
    strongest = max(scales, key=lambda value: abs(value - 1))
    return [1 + (scale - 1) / (strongest - 1) * (value - 1) for value in scales]


@pytest.mark.parametrize('scale', [7.5, 1.5, 0.5, 0.0, -1.0])
@pytest.mark.parametrize('scales', [(1.5, 7.5), (8.0, 3.0), (-2.0, 3.0), (0.2, 1.0)])
def test_scales_in_proportion_at_every_scale(scale, scales):
    cond, null, middle = random(3)
    first, second = proportions(scale, scales)
    for given in (scale, torch.full((3,), scale, dtype=torch.float64)):
        guided = guidance.Chain(scales)(cond, null, given, conds=(middle,))
        torch.testing.assert_close(guided, null + first * (middle - null) + second * (cond - middle))
        torch.testing.assert_close(guidance.FDG(scales)(cond, null, given), guidance.fdg(cond, null, (first, second)))


def test_scales_in_proportion_per_sample():
    cond, null, middle = random(3)
    each = torch.tensor([0.5, -1.0, 7.5])
    for rule in (guidance.Chain((1.5, 7.5)), guidance.FDG((8.0, 3.0))):
        given = {'conds': (middle,)} if isinstance(rule, guidance.Chain) else {}
        together = rule(cond, null, each, **given)
        for i, scale in enumerate(each.tolist()):
            torch.testing.assert_close(together[i], rule(cond, null, scale, **given)[i])


CFG, WEAK, FDG, CHAIN = guidance.CFG(), guidance.Weak(2.0), guidance.FDG((10.0, 5.0)), guidance.Chain((1.5, 7.5))
DEFAULTS = [
    (FDG, 10.0), (CHAIN, 7.5), (guidance.FDG((-7.0, 5.0)), -7.0), (guidance.Chain((0.0, 1.5)), 0.0),
    (guidance.Compose(3.0), 1.0), (guidance.PerpNeg(), 1.0), (WEAK, 1.0),
    (CFG, None), (guidance.APG(), None), (guidance.CFGZeroStar(), None), (guidance.TCFG(), None), (guidance.RAAG(), None),
    (guidance.NAG(), None), (guidance.Logits(), None), (guidance.Discrete(), None),
    (CFG + WEAK, 1.0), (CFG + guidance.APG(), None), (WEAK + FDG, 10.0), (CHAIN + FDG, 7.5), (CFG + CHAIN + WEAK, 7.5),
    (FDG.then(guidance.rescale_to_cond()), 10.0), (WEAK.in_x0('v'), 1.0), (CFG.in_x0('v').on_channels(0), None),
    (guidance.Adaptive(FDG), 10.0), (guidance.ReuseDelta(CFG), None), ((CFG + WEAK).then(guidance.renorm_to_cond(0.8)), 1.0),
]  # fmt: skip


@pytest.mark.parametrize(('rule', 'scale'), DEFAULTS, ids=lambda value: repr(value))
def test_the_scale_of_a_call_that_gives_none(rule, scale):
    assert rule.default_scale == scale
    assert scale is None or isinstance(rule.default_scale, float)


@pytest.mark.parametrize('name', list(CASES))
def test_a_rule_without_default_scale_makes_no_null_pass_at_scale_one(name):
    rule = CASES[name]
    if rule.default_scale is None:
        assert rule.branches(1.0, rule.init_state(), 0.5) == ('cond',)
    else:
        assert len(rule.branches(rule.default_scale, rule.init_state(), 0.5)) > 1


def test_at_their_default_scale_rules_guide_at_exactly_their_scales():
    cond, null, middle = random(3)
    torch.testing.assert_close(FDG(cond, null, FDG.default_scale), guidance.fdg(cond, null, (10.0, 5.0)))
    chained = CHAIN(cond, null, CHAIN.default_scale, conds=(middle,))
    torch.testing.assert_close(chained, guidance.chain((null, middle, cond), (1.5, 7.5)))


# Sums

SUMMED = ('CFG', 'APG', 'TCFG', 'FDG', 'Chain', 'Compose', 'PerpNeg', 'Weak', 'Logits', 'Then rescale', 'InSpace', 'OnChannels')


@pytest.mark.parametrize('scale', [0.0, 1.0, 3.5, torch.tensor([0.0, 1.0, 3.5])], ids=['0', '1', '3.5', 'per sample'])
@pytest.mark.parametrize('one', SUMMED)
def test_a_sum_is_the_sum_of_deltas(one, scale):
    """Whatever single predictions its parts are content with at this scale, each alone and next to the other."""
    for other in SUMMED:
        rule = CASES[one] + CASES[other]
        batch = inputs(rule, SHAPE, dtype=torch.float64)
        given = batch.only(rule.branches(scale))
        expected = call(CASES[one], batch, scale) + call(CASES[other], batch, scale) - batch.kwargs['cond']
        torch.testing.assert_close(call(rule, given, scale), expected, msg=lambda text, other=other: f'{other}: {text}')


# Spaces and channels in each other


def to_x0(prediction, x, sigma):
    return (1 - sigma**2) ** 0.5 * x - sigma * prediction  # of a velocity: alpha * x - sigma * v


def from_x0(x0, x, sigma):
    return ((1 - sigma**2) ** 0.5 * x - x0) / sigma


@pytest.mark.parametrize('order', ['channels in x0', 'x0 of channels'])
@pytest.mark.parametrize('start_stop', [(0, 2), (1, 3), (2, None), (-1, None)])
def test_channels_and_spaces_in_each_other(order, start_stop):
    """Both orders guide the clean samples of these channels alone, and leave the others to cond."""
    cond, null, x = random(3)
    sigma = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    level = sigma.view(3, 1, 1, 1)
    start, stop = start_stop
    rule, channels = guidance.APG(eta=0.2, norm=2.0), slice(start, stop)
    rule = rule.on_channels(start, stop).in_x0('v') if order == 'channels in x0' else rule.in_x0('v').on_channels(start, stop)

    part = [to_x0(tensor[:, channels], x[:, channels], level) for tensor in (cond, null)]
    expected = cond.clone()
    expected[:, channels] = from_x0(guidance.apg(*part, 3.0, 0.2, 2.0), x[:, channels], level)
    torch.testing.assert_close(rule(cond, null, 3.0, x=x, sigma=sigma), expected)
    assert torch.equal(rule(cond, null, 1.0, x=x, sigma=sigma), cond)


@pytest.mark.parametrize('mean', [slice(0, 2), slice(2, 4)], ids=str)
def test_the_sample_of_a_model_that_also_predicts_its_variance(mean):
    """Such a model predicts twice the channels of its noisy sample, which is then as wide as the guided channels."""
    cond, null = random(2)
    (x,) = random(1, (3, 2, 6, 5))
    guided = guidance.APG().in_x0('v').on_channels(mean.start, mean.stop)(cond, null, 3.0, x=x, sigma=0.6)
    clean = guidance.apg(to_x0(cond[:, mean], x, 0.6), to_x0(null[:, mean], x, 0.6), 3.0)
    expected = cond.clone()
    expected[:, mean] = from_x0(clean, x, 0.6)
    torch.testing.assert_close(guided, expected)


# A scale for each place


PLACED = {
    'CFG': guidance.CFG(),
    'APG with memory': guidance.APG(momentum=-0.5),
    'a sum': guidance.CFG() + guidance.APG(eta=1.0),
    'a saver': guidance.ReuseDelta(guidance.CFG(), every=2),
    'adaptive': guidance.Adaptive(guidance.CFG(), threshold=0.999),
    'SMC': guidance.SMCCFG(k=0.0),
    'in a space': guidance.CFG().in_space('eps', model='flow'),
}


@pytest.mark.parametrize('name', list(PLACED))
@pytest.mark.parametrize('shape', [(3, 4, 6, 5), (3, 7, 4)], ids=['regions', 'tokens'])
def test_a_scale_for_each_place(name, shape):
    """Every place is guided as if its scale were that of the whole sample; one where it is 1 is that of cond."""
    rule = PLACED[name]
    c, u, x = random(3, shape)
    scale = torch.ones(3, 1, 6, 5) if len(shape) == 4 else torch.ones(3, 7, 1)
    scale[:2, :, 2:] = 4.0
    state = rule.init_state()
    for _ in range(2):
        guided = rule(c, u, scale, state=state, x=x, sigma=0.5)
    whole = rule.init_state()
    for _ in range(2):
        everywhere = rule(c, u, 4.0, state=whole, x=x, sigma=0.5)
    on = (scale != 1).expand(shape)
    torch.testing.assert_close(guided[~on], c[~on])
    torch.testing.assert_close(guided[on], everywhere[on])


# One value per sample, and complex numbers


@pytest.mark.parametrize('dtype', [torch.float32, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize('shape', [(3,), (3, 5)], ids=str)
@pytest.mark.parametrize('scale', [3.5, torch.tensor([1.0, 3.5, 0.0])], ids=['number', 'per sample'])
def test_lines_through_predictions_of_any_kind(dtype, shape, scale):
    c, u, k, m = random(4, shape, dtype)
    s = scale.view(3, *[1] * (len(shape) - 1)) if isinstance(scale, torch.Tensor) else scale
    found = {
        'cfg': (guidance.cfg(c, u, scale), u + s * (c - u)),
        'CFG': (guidance.CFG()(c, u, scale), u + s * (c - u)),
        'weak': (guidance.weak(c, k, scale), c + s * (c - k)),
        'Weak': (guidance.Weak(1.5)(c, scale=scale, weak=k), c + 1.5 * (c - k)),
        'compose': (guidance.compose((c, m), u, (2.0, scale)), u + 2 * (c - u) + s * (m - u)),
        'Compose': (guidance.Compose((2.0, -1.0))(c, u, scale, conds=(m,)), u + s * (2 * (c - u) - (m - u))),
        'chain': (guidance.chain((u, m, c), (scale, 1.5)), u + s * (m - u) + 1.5 * (c - m)),
        'Chain': (guidance.Chain((1.5, 1.5))(c, u, scale, conds=(m,)), u + s * (c - u)),
        'Sum': ((guidance.CFG() + guidance.Weak(1.5))(c, u, scale, weak=k), u + s * (c - u) + 1.5 * (c - k)),
        'InSpace': (guidance.CFG().in_x0('flow')(c, u, scale, x=k, sigma=torch.tensor([0.1, 0.5, 0.9])), u + s * (c - u)),
    }
    for name, (ours, expected) in found.items():
        assert ours.dtype == dtype, name
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f'{name}: {text}')


@pytest.mark.parametrize('dtype', [torch.float32, torch.complex64], ids=str)
def test_reused_deltas_of_any_kind(dtype):
    rule = guidance.ReuseDelta(guidance.CFG(), every=2)
    state = rule.init_state()
    (c, u, later, _), scale = random(4, (3,), dtype), torch.tensor([1.0, 3.5, 0.0])
    rule(c, u, 3.5, state=state)
    torch.testing.assert_close(rule(later, scale=scale, state=state), later + (scale - 1) * (c - u))


def test_a_complex_prediction_is_guided_as_its_two_parts():
    batch = inputs(guidance.CFG(), (3, 2, 5, 2))
    whole = batch.map(lambda tensor: torch.view_as_complex(tensor) if tensor.ndim > 1 else tensor)
    guided = call(guidance.CFG(), whole, 3.5)
    torch.testing.assert_close(torch.view_as_real(guided), call(guidance.CFG(), batch, 3.5))


def test_a_batch_of_no_samples():
    none = torch.empty(0, 4)
    for rule in (guidance.CFG(), guidance.APG(), guidance.CFG().then(guidance.rescale_to_cond())):
        for scale in (3.5, torch.empty(0)):
            assert rule.branches(scale) == ('cond', 'null')
            assert rule(none, none, scale).shape == (0, 4)


def test_levels_take_one_scale_per_sample_in_any_form():
    cond, null = random(2)
    scale = torch.tensor([1.0, 3.0, 7.0], dtype=torch.float64)
    expected = guidance.FDG((6.0, 2.0))(cond, null, scale)
    torch.testing.assert_close(guidance.FDG((6.0, 2.0))(cond, null, scale.view(3, 1, 1, 1)), expected)


# Some channels only


@pytest.mark.parametrize(
    'rule',
    [
        guidance.APG(momentum=-0.5),
        guidance.SMCCFG(),
        guidance.HiGS(guidance.CFG(), cutoff=0.0),
        guidance.ReuseDelta(guidance.CFG()),
        guidance.Adaptive(guidance.CFG()),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_the_memory_of_some_channels_is_laid_out_for_them(rule):
    part, (cond, null) = rule.on_channels(1, -1), random(2)
    runs = [(part, part.init_state(like=cond), cond, null), (part, part.init_state(), cond, null)]
    runs.append((rule, rule.init_state(), cond[:, 1:-1], null[:, 1:-1]))
    for step in range(3):
        laid_out, grown, alone = (one(c + step, n, 3.0, state=state, progress=0.2 * step) for one, state, c, n in runs)
        torch.testing.assert_close(laid_out, grown, rtol=0, atol=0)
        torch.testing.assert_close(laid_out[:, 1:-1], alone)


def test_a_scale_per_channel_is_that_of_the_channels_that_are_guided():
    cond, null = random(2)
    scale = torch.tensor([9.0, 2.0, 3.0, 9.0], dtype=torch.float64).view(1, 4, 1, 1)
    guided = guidance.CFG().on_channels(1, 3)(cond, null, scale)
    expected = null + scale * (cond - null)
    expected[:, [0, 3]] = cond[:, [0, 3]]
    torch.testing.assert_close(guided, expected)


# Zero steps of some samples


@pytest.mark.parametrize(
    'rule',
    [
        guidance.CFGZeroStar(0.3),
        guidance.CFGZeroStar(0.3).in_space('flow', model='eps'),
        guidance.CFGZeroStar(0.3) + guidance.Weak(2.0),
        (guidance.Weak(2.0) + guidance.CFGZeroStar(0.3).in_space('flow', model='x0')).then(guidance.rescale_to_cond(0.5)),
        guidance.CFGZeroStar(0.3).on_channels(0, 2),
    ],
    ids=['alone', 'in a space', 'in a sum', 'in a sum in a space', 'on channels'],
)
@pytest.mark.parametrize('scale', [3.0, 1.0, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)], ids=['3', '1', 'per sample'])
def test_each_sample_has_its_own_zero_steps(rule, scale):
    """As a batch of training is, of which every sample stands somewhere else: the same as one by one."""
    cond, null, weak, x = random(4)
    progress, sigma = torch.tensor([0.1, 0.5, 0.29], dtype=torch.float64), torch.tensor([0.9, 0.5, 0.71], dtype=torch.float64)
    together = rule(cond, null, scale, weak=weak, x=x, sigma=sigma, progress=progress)
    for i in range(3):
        now = {'x': x[i : i + 1], 'sigma': float(sigma[i]), 'progress': float(progress[i])}
        own = scale[i : i + 1] if isinstance(scale, torch.Tensor) else scale
        alone = rule(cond[i : i + 1], null[i : i + 1], own, weak=weak[i : i + 1], **now)
        torch.testing.assert_close(together[i : i + 1], alone)
    assert rule.branches(scale, progress=0.1) == rule.branches(scale, progress=torch.tensor([0.1, 0.2])) == ()
