"""The laws that every rule obeys, each over every case of `cases.py`."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.guidance.combine import Rule
from classifier_free_guidance_pytorch.guidance.rule import BaseRule
from tests.guidance.cases import (
    ABSTRACT,
    AFFINE,
    CASES,
    FLOAT32,
    NOT_ANCHORED,
    ONE_RANK,
    PREDICTIONS,
    RANKS,
    ROUNDING,
    Inputs,
    call,
    hidden,
    inputs,
    rounding,
    shape_of,
)

every_rule = pytest.mark.parametrize('name', list(CASES))
every_rank = pytest.mark.parametrize('rank', list(RANKS))
SCALES = [1.0, 3.5, 0.0]


def subclasses(cls):
    return {cls}.union(*map(subclasses, cls.__subclasses__()))


def test_no_rule_escapes_the_laws():
    covered = {type(rule) for rule in CASES.values()}
    ours = {cls for cls in subclasses(Rule) if cls.__module__.startswith(guidance.__name__)}
    missing = {cls.__name__ for cls in ours - covered - ABSTRACT}
    assert not missing, f'no case in tests/guidance/cases.py for {missing}'
    public = {value for value in vars(guidance).values() if inspect.isclass(value) and issubclass(value, Rule)}
    assert ours - ABSTRACT == public - ABSTRACT, 'a rule is not exported, or an export is not a rule of the package'


def test_the_lists_of_exceptions_name_cases():
    assert set(NOT_ANCHORED) <= set(CASES)
    assert set(AFFINE) <= set(CASES)
    assert set(ROUNDING) <= set(CASES)
    assert set(ONE_RANK) <= set(CASES)
    assert set(FLOAT32) <= set(CASES)


# 1. A scale of 1 returns the conditional prediction.


@every_rule
@every_rank
def test_scale_one_returns_cond(name, rank):
    rule, batch = CASES[name], inputs(CASES[name], shape_of(name, rank))
    cond = batch.kwargs['cond']
    if name in NOT_ANCHORED:
        state = rule.init_state()
        call(rule, inputs(rule, shape_of(name, rank), seed=1), 1.0, state)
        assert not torch.allclose(call(rule, batch, 1.0, state), cond, atol=1e-4), 'listed as an exception, but it is none'
        return
    for scale in (1.0, 1, torch.ones(()), torch.ones(3)):
        assert rule.branches(scale, rule.init_state(), 0.5) == ('cond',)
        assert torch.equal(call(rule, batch.only(('cond',)), scale), cond)
    torch.testing.assert_close(call(rule, batch, hidden([1.0, 1.0, 1.0])), cond)


@every_rule
@pytest.mark.parametrize('scale', [0.0, 1.0])
def test_a_skipped_pass_changes_nothing(name, scale):
    """What a rule makes of the branches it asks for is what it makes of all of them."""
    rule, batch = CASES[name], inputs(CASES[name], shape_of(name))
    needed = rule.branches(scale, rule.init_state(), 0.5)
    assert needed == rule.branches(torch.full((3,), scale), rule.init_state(), 0.5)
    assert rule.branches(hidden([scale] * 3), rule.init_state(), 0.5) == rule.branches(3.5, rule.init_state(), 0.5)
    torch.testing.assert_close(call(rule, batch.only(needed), scale), call(rule, batch, hidden([scale] * 3)))


@every_rule
@pytest.mark.parametrize('scale', [0.0, 1.0, 3.5], ids=str)
def test_predictions_that_are_not_needed_are_ignored(name, scale):
    rule = CASES[name]
    batch, spoiled = inputs(rule, shape_of(name)), torch.full(shape_of(name), float('nan'))
    needed = rule.branches(scale, rule.init_state(), 0.5)
    extra = {
        branch: (spoiled,) if branch in ('conds', 'negatives') else spoiled
        for branch in PREDICTIONS
        if branch in rule.needs_of_parts()
    }
    everything = Inputs({**extra, **batch.only(needed).kwargs})
    assert torch.equal(call(rule, everything, scale), call(rule, batch.only(needed), scale))


@every_rule
@pytest.mark.parametrize('scale', [0.0, 1.0, 3.5], ids=str)
def test_guide_asks_nothing_again(name, scale, monkeypatch):
    """What a call does is `branches`, then `guide` with exactly those predictions, which asks for no branches again."""
    rule, batch = CASES[name], inputs(CASES[name], shape_of(name))
    expected, state = call(rule, batch, scale), rule.init_state()
    needed = rule.branches(scale, state, 0.5)
    given = guidance.Predictions.by_branch({branch: batch.kwargs[branch] for branch in needed})
    for cls in subclasses(BaseRule):
        for method in ('branches', 'wanted'):
            if method in vars(cls):
                monkeypatch.setattr(cls, method, lambda *_: pytest.fail('asked again'))
    step = guidance.Step(state, **{key: batch.kwargs[key] for key in ('x', 'sigma', 'progress')})
    assert torch.equal(rule.guide(given, scale, step), expected)


# 2. A sample never depends on its batch-mates.


@every_rule
@pytest.mark.parametrize('rank', [2, 5])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 1000), scales=st.lists(st.sampled_from([0.0, 1.0, 2.0, 7.5]), min_size=9, max_size=9))
def test_samples_do_not_know_their_batch(name, rank, seed, scales):
    rule = CASES[name]
    steps = [(inputs(rule, shape_of(name, rank), seed + i), torch.tensor(scales[3 * i : 3 * i + 3])) for i in range(3)]
    state = rule.init_state()
    together = [call(rule, batch, scale, state) for batch, scale in steps]
    for sample in range(3):
        row = slice(sample, sample + 1)
        alone = rule.init_state()
        for (batch, scale), expected in zip(steps, together, strict=True):
            one = batch.map(lambda tensor: tensor[row])  # noqa: B023
            torch.testing.assert_close(call(rule, one, scale[row], alone), expected[row], rtol=1e-4, atol=1e-5)


@every_rule
def test_a_scale_per_sample_is_a_scale_each(name):
    rule, batch = CASES[name], inputs(CASES[name], shape_of(name))
    mixed = call(rule, batch, torch.tensor([1.0, 3.5, 0.0]))
    for sample, scale in enumerate([1.0, 3.5, 0.0]):
        torch.testing.assert_close(mixed[sample], call(rule, batch, scale)[sample])


def test_a_step_at_scale_one_leaves_momentum_as_it_is():
    """Also where the null pass was made for another rule of a sum."""
    rule = guidance.APG(momentum=-0.5) + guidance.PerpNeg(0.5)
    steps = [inputs(rule, RANKS[4], seed) for seed in range(3)]
    for one in (1.0, torch.ones(3), hidden([1.0, 1.0, 1.0])):
        state, other = rule.init_state(), rule.init_state()
        with_pause = [call(rule, batch, scale, state) for batch, scale in zip(steps, (3.5, one, 3.5), strict=True)]
        without = [call(rule, batch, 3.5, other) for batch in steps[::2]]
        assert torch.equal(with_pause[2], without[1])
        first = rule.init_state()
        call(rule, steps[0], one, first)
        assert torch.equal(call(rule, steps[2], 3.5, first), call(rule, steps[2], 3.5))


# 4. Zero, constant and single-feature inputs stay finite, and so do gradients.


def degenerate(name: str) -> dict[str, Inputs]:
    rule, shape = CASES[name], shape_of(name)
    flat = inputs(rule, shape)
    return {
        'zero': flat.map(lambda tensor: torch.zeros_like(tensor) if tensor.ndim > 1 else tensor),
        'constant': flat.map(lambda tensor: torch.full_like(tensor, 0.3) if tensor.ndim > 1 else tensor),
        'one feature': inputs(rule, (3, 4, 1) if len(shape) == 3 else (3, 1)),
        'zero null': Inputs({**flat.kwargs, **({'null': torch.zeros(shape)} if 'null' in flat.kwargs else {})}),
        'zero cond': Inputs({**flat.kwargs, 'cond': torch.zeros(shape)}),
        'tiny': flat.map(lambda tensor: tensor * 1e-25 if tensor.ndim > 1 else tensor),
        'huge': flat.map(lambda tensor: tensor * 1e15 if tensor.ndim > 1 else tensor),
    }


@every_rule
@pytest.mark.parametrize('kind', ['zero', 'constant', 'one feature', 'zero null', 'zero cond', 'tiny', 'huge'])
def test_degenerate_inputs_stay_finite(name, kind):
    rule, batch = CASES[name], degenerate(name)[kind]
    batch = batch.map(lambda tensor: tensor.clone().requires_grad_(tensor.ndim > 1))
    scale = hidden([1.0, 3.5, 0.0])
    guided = call(rule, batch, scale)
    assert guided.isfinite().all()
    guided.sum().backward()
    for tensor in [*batch.predictions(), scale]:
        assert tensor.grad is None or tensor.grad.isfinite().all()


@every_rule
def test_gradients_are_those_of_the_formula(name):
    """Against finite differences in float64, in the predictions and in the scale."""
    rule = CASES[name]
    shape = (2, 3) if 'OnChannels' in name else (2, 4, 2) if name == 'FDG of tokens' else (2, 5)
    batch = inputs(rule, shape, seed=3, dtype=torch.float64)
    names = [key for key in ('cond', 'null', 'weak', 'stg') if key in batch.kwargs]
    tensors = [batch.kwargs[key].requires_grad_() for key in names]
    scale = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)

    def run(scale: Tensor, *values: Tensor) -> Tensor:
        return call(rule, Inputs({**batch.kwargs, **dict(zip(names, values, strict=True))}), scale)

    assert torch.autograd.gradcheck(run, (scale, *tensors), atol=1e-4)


# 5. Ranks 2 to 5, three precisions, reductions in float32, no float64.


class NoFloat64(TorchDispatchMode):
    """Fails as soon as any operation makes a float64 tensor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            assert not isinstance(tensor, Tensor) or tensor.dtype != torch.float64, f'{func} made a float64 tensor'
        return out


@every_rule
@every_rank
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_ranks_and_precisions(name, rank, dtype):
    scale = torch.tensor([1.0, 3.5, 0.0])
    rule, batch = CASES[name], inputs(CASES[name], shape_of(name, rank), dtype=dtype)
    with NoFloat64():
        guided = call(rule, batch, scale)
    assert guided.dtype == (torch.float32 if name in FLOAT32 else dtype)
    assert guided.shape == shape_of(name, rank)
    exact = call(rule, batch.map(Tensor.double), scale)
    allowed = rounding(name, dtype)
    torch.testing.assert_close(guided.double(), exact, rtol=allowed, atol=allowed)


def test_the_float64_guard_can_fail():
    with pytest.raises(AssertionError, match='made a float64 tensor'), NoFloat64():
        torch.ones(2).double()


@every_rule
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_reductions_are_wide(name, dtype):
    """Vectors whose squared length leaves float16, and whose sum leaves the precision of bfloat16."""
    rule, shape = CASES[name], (2, 4, 4096) if name == 'FDG of tokens' else (2, 4, 64, 64)
    batch = inputs(rule, shape).map(lambda tensor: (40 * tensor).to(dtype) if tensor.ndim > 1 else tensor.to(dtype))
    guided = call(rule, batch, 2.0)
    exact = call(rule, batch.map(Tensor.float), 2.0)
    assert guided.isfinite().all()
    error = (guided.float() - exact).norm() / exact.norm()
    assert error < rounding(name, dtype)


@every_rule
def test_memory_formats_agree(name):
    rule, batch = CASES[name], inputs(CASES[name], shape_of(name))
    last = batch.map(lambda tensor: tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor)
    torch.testing.assert_close(call(rule, last, 3.5), call(rule, batch, 3.5))


@every_rule
def test_inputs_are_not_written_to(name):
    rule, batch = CASES[name], inputs(CASES[name], shape_of(name))
    before = batch.map(Tensor.clone)
    call(rule, batch, torch.tensor([1.0, 3.5, 0.0]))
    for now, then in zip(batch.predictions(), before.predictions(), strict=True):
        assert torch.equal(now, then)


@every_rule
def test_no_rule_waits_for_a_device(name):
    """On the meta device there are no values: whatever looks at one fails, as it would wait for an accelerator."""
    rule = CASES[name]
    batch = inputs(rule, shape_of(name)).map(lambda tensor: tensor.to('meta'))
    scale = torch.ones(3, device='meta')
    for wanted in (rule.branches(scale, rule.init_state(), 0.5), rule.branches(3.5, rule.init_state(), 0.5)):
        assert 'null' in wanted or 'weak' in wanted or rule.reads_scale
    assert call(rule, batch, scale).shape == shape_of(name)


# 6. torch.compile gives one graph over all steps with a changing tensor scale.


@every_rule
def test_one_graph_over_all_steps(name):
    rule = CASES[name]
    steps = [inputs(rule, shape_of(name), seed) for seed in range(3)]
    torch._dynamo.reset()
    counter = CompileCounter()
    like = steps[0].kwargs['cond']
    state, eager_state = rule.init_state(like), rule.init_state(like)
    compiled = torch.compile(lambda kwargs, scale: rule(**kwargs, scale=scale, state=state), backend=counter, fullgraph=True)
    for step, batch in enumerate(steps):
        scale = torch.tensor([1.0 + step, 3.0, 0.5 * step])
        torch.testing.assert_close(compiled(batch.kwargs, scale), call(rule, batch, scale, eager_state))
    assert counter.frame_count == 1
