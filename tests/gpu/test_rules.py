"""The laws of the rules, on the device and in its precisions."""

import pytest
import torch
from torch import Tensor

from classifier_free_guidance_pytorch import guidance
from tests.guidance.cases import CASES, FLOAT32, NOT_ANCHORED, call, hidden, inputs, rounding
from tests.guidance.test_costs import NULL_SKIPPING
from tests.guidance.test_laws import degenerate

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPE = (3, 4, 16, 8)
TOKENS = 'FDG of tokens'
every_rule = pytest.mark.parametrize('name', list(CASES))
every_dtype = pytest.mark.parametrize('dtype', DTYPES, ids=str)


@pytest.fixture
def given(device):
    """Inputs of a rule on the device."""

    def make(name, dtype=torch.float32, seed=0):
        shape = SHAPE[:3] if name == TOKENS else SHAPE
        return inputs(CASES[name], shape, seed, dtype).map(lambda t: t.to(device))

    return make


@every_rule
@every_dtype
def test_precisions(name, dtype, given, device):
    """Against the same rule in float64 on the CPU."""
    batch, scale = given(name, dtype), torch.tensor([1.0, 3.5, 0.0])
    exact = call(CASES[name], batch.map(lambda tensor: tensor.cpu().double()), scale)
    guided = call(CASES[name], batch, scale.to(device))
    assert (guided.dtype, guided.device.type) == (torch.float32 if name in FLOAT32 else dtype, device.type)
    allowed = rounding(name, dtype)
    torch.testing.assert_close(guided.cpu().double(), exact, rtol=allowed, atol=allowed)


@every_rule
@every_dtype
def test_scale_one_returns_cond(name, dtype, given):
    if name in NOT_ANCHORED:
        return
    batch = given(name, dtype)
    assert torch.equal(call(CASES[name], batch.only(('cond',)), 1.0), batch.kwargs['cond'])
    ones = hidden([1.0] * 3).to(batch.kwargs['cond'].device)
    allowed = 4 * rounding(name, dtype)
    torch.testing.assert_close(call(CASES[name], batch, ones), batch.kwargs['cond'], rtol=allowed, atol=allowed)


@every_rule
@every_dtype
def test_samples_do_not_know_their_batch(name, dtype, given, device):
    rule, scale = CASES[name], torch.tensor([2.0, 0.0, 7.5], device=device)
    together, alone = rule.init_state(), [rule.init_state() for _ in range(3)]
    allowed = 8 * rounding(name, dtype)
    for seed in range(2):
        batch = given(name, dtype, seed)
        guided = call(rule, batch, scale, together)
        for sample, state in enumerate(alone):
            one = batch.map(lambda tensor, sample=sample: tensor[sample : sample + 1])
            expected = guided[sample : sample + 1]
            torch.testing.assert_close(call(rule, one, scale[sample : sample + 1], state), expected, rtol=allowed, atol=allowed)


@every_rule
def test_scales_of_every_form(name, given, device):
    batch, expected = given(name), call(CASES[name], given(name), 3.5)
    shapes = ((), (3,)) if name.startswith('FDG') else ((), (3,), (3, 1, 1, 1))  # a level has no dimensions of its own
    for scale in (torch.full(shape, 3.5) for shape in shapes):
        for placed in (scale, scale.to(device)):
            torch.testing.assert_close(call(CASES[name], batch, placed), expected, rtol=1e-4, atol=1e-4)


@every_rule
@pytest.mark.parametrize('kind', ['zero', 'constant', 'zero null', 'zero cond', 'tiny', 'huge'])
def test_degenerate_inputs_stay_finite(name, kind, device):
    batch = degenerate(name)[kind].map(lambda tensor: tensor.to(device).requires_grad_(tensor.ndim > 1))
    guided = call(CASES[name], batch, torch.tensor([1.0, 3.5, 0.0], device=device))
    assert guided.isfinite().all()
    guided.sum().backward()
    assert all(tensor.grad is None or tensor.grad.isfinite().all() for tensor in batch.predictions())


@every_rule
@every_dtype
def test_reductions_are_wide(name, dtype, device):
    """Vectors whose squared length leaves float16, and whose sum leaves the precision of bfloat16."""
    shape = (2, 4, 4096) if name == TOKENS else (2, 4, 64, 64)
    batch = inputs(CASES[name], shape).map(lambda t: ((40 if t.ndim > 1 else 1) * t).to(device, dtype))
    guided, exact = (call(CASES[name], one, 2.0) for one in (batch, batch.map(Tensor.float)))
    assert guided.isfinite().all()
    assert (guided.float() - exact).norm() / exact.norm() < rounding(name, dtype)


@pytest.mark.parametrize('name', [name for name in CASES if name not in NULL_SKIPPING])
@pytest.mark.parametrize('form', ['number', 'on the device', 'on the CPU'])
def test_a_step_never_waits(name, form, given, device, never_waiting):
    if device.type == 'cpu' and form != 'number':
        pytest.skip('a scale on the CPU is read, and may be')
    rule, state = CASES[name], CASES[name].init_state()
    steps = [given(name, seed=seed) for seed in range(3)]
    scale = {'number': 3.5, 'on the device': torch.full((3,), 3.5, device=device), 'on the CPU': torch.full((3,), 3.5)}[form]
    call(rule, steps[0], scale, state)
    with never_waiting():
        for batch in steps[1:]:
            call(rule, batch.only(rule.branches(scale, state, 0.5)), scale, state)


@pytest.mark.parametrize('name', sorted(NULL_SKIPPING))
def test_guiding_never_waits_where_one_flag_is_read_for_the_branches(name, given, never_waiting):
    rule, state = CASES[name], CASES[name].init_state()
    for seed in range(4):
        batch, needed = given(name, seed=seed), rule.branches(3.5, state, 0.5)
        predictions = guidance.Predictions.by_branch({branch: batch.kwargs[branch] for branch in needed})
        with never_waiting():
            rule.guide(predictions, 3.5, guidance.Step(state, batch.kwargs['x'], batch.kwargs['sigma'], progress=0.5))


def test_waiting_is_noticed(device, never_waiting):
    with pytest.raises((RuntimeError, AssertionError)), never_waiting():
        torch.ones(3, device=device).sum().item()


def test_channels_last(given, device):
    for name in CASES:
        batch = given(name)
        last = batch.map(lambda tensor: tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor)
        torch.testing.assert_close(call(CASES[name], last, 3.5), call(CASES[name], batch, 3.5), rtol=1e-4, atol=1e-4)
