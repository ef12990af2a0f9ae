"""The law of states and values: nothing is hidden in a rule, and two runs never see each other."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

from classifier_free_guidance_pytorch import guidance
from tests.guidance.cases import CASES, RANKS, Inputs, call, inputs

every_rule = pytest.mark.parametrize('name', list(CASES))


# 7. State is explicit; rules are values.


@every_rule
def test_two_runs_never_see_each_other(name):
    rule = CASES[name]
    first, second = ([inputs(rule, RANKS[4], seed + 10 * run) for seed in range(4)] for run in range(2))

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
    batches = [inputs(rule, RANKS[4], seed) for seed in range(3)]
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
        batch = inputs(rule, RANKS[4], seed).map(lambda tensor: tensor.requires_grad_(tensor.ndim > 1))
        call(rule, batch, scale, state)
    parts = [state]
    while parts:
        if (part := parts.pop()) is not None:
            parts.extend(part.parts)
            assert not any(value.requires_grad for value in vars(part).values() if isinstance(value, Tensor))


@every_rule
def test_rules_are_values(name):
    rule = CASES[name]
    spelled = eval(repr(rule), {**vars(guidance), 'inf': float('inf')})
    for twin in (copy.deepcopy(rule), pickle.loads(pickle.dumps(rule)), spelled):
        assert twin == rule
        assert hash(twin) == hash(rule)
    assert not any(isinstance(value, Tensor) for value in vars(rule).values())
    with pytest.raises(AttributeError, match='cannot assign'):
        rule.anything = 1
