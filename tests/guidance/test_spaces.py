"""The law of spaces, over every case of `cases.py`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.guidance.combine import Rule
from tests.guidance.cases import AFFINE, CASES, NOT_ANCHORED, PREDICTIONS, Inputs, call, inputs, shape_of

every_rule = pytest.mark.parametrize('name', list(CASES))

# 3. Affine rules give the same answer in every prediction space; the others are what they are in the space they are asked for.


def last_of(rule: Rule, steps: list[Inputs], scale: float) -> Tensor:
    state = rule.init_state()
    return [call(rule, batch, scale, state) for batch in steps][-1]


def drawn(rule: Rule, name: str, space: str) -> list[Inputs]:
    """Two steps of what a model predicts in a space: each prediction is one of x0 and of the noise that goes with it and x."""
    steps = []
    for seed in range(2):
        batch = inputs(rule, shape_of(name), seed, dtype=torch.float64)
        x, sigma = batch.kwargs['x'], batch.kwargs['sigma'].view(-1, *[1] * (len(shape_of(name)) - 1))
        alpha = (1 - sigma) * 1.1

        def seen(value: Any, x: Tensor = x, sigma: Tensor = sigma, alpha: Tensor = alpha) -> Any:
            if isinstance(value, tuple):
                return tuple(map(seen, value))
            noise = (x - alpha * value) / sigma
            return {'x0': value, 'eps': noise, 'v': alpha * noise - sigma * value, 'flow': noise - value}[space]

        kwargs = {key: seen(value) if key in PREDICTIONS else value for key, value in batch.kwargs.items()}
        steps.append(Inputs({**kwargs, 'alpha': alpha.flatten()}))
    return steps


@every_rule
@pytest.mark.parametrize('model', guidance.SPACES)
def test_every_pair_of_spaces(name, model):
    """What a rule makes of predictions in `space` is the same clean sample, whichever space the model predicts in."""
    rule = CASES[name]
    if rule.inside_attention or rule.reads_scale:
        with pytest.raises(ConfigError, match=r'guides inside attention|is what the model does by itself'):
            rule.in_space('x0', model=model)
        return
    if rule.zero_space is not None or isinstance(rule, guidance.InSpace) or 'Everything' in name:
        return  # in a space already
    predicted, answers = drawn(rule, name, model), []
    last = predicted[-1].kwargs
    where = {key: last[key] for key in ('x', 'sigma', 'alpha')}
    for space in guidance.SPACES:
        answers.append(guidance.to_x0(last_of(rule.in_space(space, model=model), predicted, 3.5), model, **where))
        native = guidance.to_x0(last_of(rule, drawn(rule, name, space), 3.5), space, **where)
        torch.testing.assert_close(answers[-1], native, rtol=1e-6, atol=1e-6, msg=lambda text, space=space: f'{space}: {text}')
    same = all(torch.allclose(answers[0], other, atol=1e-5) for other in answers[1:])
    assert same == (name in AFFINE), 'affine rules, and no others, give the same answer in every space'


@every_rule
@pytest.mark.parametrize('scale', [1.0, 0.0])
def test_spaces_at_scales_of_one_branch(name, scale):
    rule = CASES[name]
    if not (rule.inside_attention or rule.reads_scale) and rule.zero_space is None:
        batch = inputs(rule, shape_of(name))
        moved = rule.in_space('v', model='flow')
        assert moved.branches(scale, rule.init_state(), 0.5) == rule.branches(scale, rule.init_state(), 0.5)
        expected = batch.kwargs['cond'] if scale == 1 else batch.kwargs.get('null')
        if (scale == 1 and rule.anchored) or (scale == 0 and rule.null_at_zero and name not in NOT_ANCHORED):
            torch.testing.assert_close(call(moved, batch, scale), expected, rtol=1e-4, atol=1e-4)


@every_rule
def test_every_rule_says_the_space_of_its_paper(name):
    space = CASES[name].paper_space
    assert space is None or space in guidance.SPACES
