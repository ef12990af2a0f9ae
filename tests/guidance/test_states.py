"""The law of states and values: nothing is hidden in a rule, and two runs never see each other."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.errors import ConfigError
from tests.guidance.cases import CASES, Inputs, call, inputs, shape_of

every_rule = pytest.mark.parametrize('name', list(CASES))


# 7. State is explicit; rules are values.


@every_rule
def test_two_runs_never_see_each_other(name):
    rule = CASES[name]
    first, second = ([inputs(rule, shape_of(name), seed + 10 * run) for seed in range(4)] for run in range(2))

    def alone(batches: list[Inputs]) -> list[Tensor]:
        state = rule.init_state()
        return [call(rule, batch, 3.5, state) for batch in batches]

    states = rule.init_state(), rule.init_state()
    interleaved = [
        (call(rule, one, 3.5, states[0]), call(rule, other, 3.5, states[1])) for one, other in zip(first, second, strict=True)
    ]
    for (one, other), expected_one, expected_other in zip(interleaved, alone(first), alone(second), strict=True):
        torch.testing.assert_close(one, expected_one, rtol=0, atol=0)
        torch.testing.assert_close(other, expected_other, rtol=0, atol=0)


@every_rule
def test_a_state_that_is_reset_is_a_new_one(name):
    rule = CASES[name]
    if (state := rule.init_state()) is None:
        assert not rule.remembers
        return
    batches = [inputs(rule, shape_of(name), seed) for seed in range(3)]
    runs = []
    for _ in range(2):
        runs.append([call(rule, batch, 3.5, state) for batch in batches])
        state.reset()
    for one, other in zip(*runs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@every_rule
@pytest.mark.parametrize('scale', [3.5, torch.tensor([1.0, 3.5, 0.0])], ids=['number', 'per sample'])
def test_a_state_keeps_no_graph(name, scale):
    """Sampling with gradients, as through a reward, must not hold on to every step before."""
    rule = CASES[name]
    state = rule.init_state()
    for seed in range(2):
        batch = inputs(rule, shape_of(name), seed).map(lambda tensor: tensor.requires_grad_(tensor.ndim > 1))
        call(rule, batch, scale, state)
    parts = [state]
    while parts:
        if (part := parts.pop()) is not None:
            parts.extend(part.parts)
            assert not any(value.requires_grad for value in vars(part).values() if isinstance(value, Tensor))


@every_rule
def test_rules_are_values(name):
    rule = CASES[name]
    spelled = eval(repr(rule), {**vars(guidance.schedules), **vars(guidance), 'inf': float('inf')})
    for twin in (copy.deepcopy(rule), pickle.loads(pickle.dumps(rule)), spelled):
        assert twin == rule
        assert hash(twin) == hash(rule)
    assert not any(isinstance(value, Tensor) for value in vars(rule).values())
    with pytest.raises(AttributeError, match='cannot assign'):
        rule.anything = 1


@every_rule
def test_resumed_sampling_goes_on_bit_by_bit(name, tmp_path):
    rule = CASES[name]
    if (state := rule.init_state()) is None:
        return
    batches, scale = [inputs(rule, shape_of(name), seed) for seed in range(5)], torch.tensor([3.5, 1.0, 2.0])
    whole = [call(rule, batch, scale, state) for batch in batches]
    for stop in range(5):
        first, resumed = rule.init_state(), rule.init_state()
        for batch in batches[:stop]:
            call(rule, batch, scale, first)
        torch.save(first.state_dict(), tmp_path / 'state.pt')
        resumed.load_state_dict(torch.load(tmp_path / 'state.pt', weights_only=True))
        assert resumed.to('cpu', torch.float32) is resumed
        for batch, expected in zip(batches[stop:], whole[stop:], strict=True):
            assert torch.equal(call(rule, batch, scale, resumed), expected)


@every_rule
def test_states_survive_a_change_of_autocast(name):
    """A run whose predictions change their precision goes on, with errors of the lower one."""
    rule = CASES[name]
    if (state := rule.init_state()) is None:
        return
    plain = rule.init_state()
    for seed, dtype in enumerate((torch.bfloat16, torch.float32, torch.bfloat16, torch.bfloat16)):
        batch = inputs(rule, shape_of(name), seed)
        low = batch.map(lambda tensor, dtype=dtype: tensor.to(dtype))
        guided = call(rule, low, 3.5, state)
        assert guided.dtype == dtype
        expected = call(rule, batch, 3.5, plain)
        assert (guided.float() - expected).norm() < 0.05 * expected.norm()


def test_a_state_moves_with_its_tensors():
    rule = guidance.Adaptive(guidance.APG(momentum=-0.5))
    state = rule.init_state(torch.zeros(2, 3))
    moved = state.to('meta', torch.float64)
    assert moved is state
    assert state.can_skip.is_meta
    assert state.can_skip.dtype == torch.bool
    assert state.parts[0].average.is_meta
    assert state.parts[0].average.dtype == torch.float64


def test_a_state_is_loaded_into_that_of_an_equal_rule():
    saved = guidance.APG(momentum=-0.5).init_state().state_dict()
    for other in (guidance.ReuseDelta(guidance.CFG()), guidance.APG(momentum=-0.5) + guidance.APG(momentum=-0.5)):
        with pytest.raises(ConfigError, match=r'does not fit what was saved: .* load it into the state of an equal rule'):
            other.init_state().load_state_dict(saved)
