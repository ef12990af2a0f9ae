"""Weights of weakened passes: numbers, tensors, learned ones and schedules; and several passes told apart by name."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError
from classifier_free_guidance_pytorch.perturb import skip_layers
from tests.conditioners.making import noise
from tests.decorator.models import TEXTS, build
from tests.guidance.test_oracles import pair

C, U = pair(0)
K, M = pair(1)
RULE = guidance.CFG() + guidance.Weak(1.0, name='stg') + guidance.Weak(-0.5, name='modality')


def test_several_passes_are_told_apart():
    expected = U + 3.0 * (C - U) + 1.0 * (C - K) - 0.5 * (C - M)
    assert RULE.branches(3.0) == ('cond', 'null', 'modality', 'stg')
    for given in ({'weak': {'stg': K, 'modality': M}}, {'stg': K, 'modality': M}, {'weak': {'stg': K}, 'modality': M}):
        torch.testing.assert_close(RULE(C, U, 3.0, **given), expected)
    mixed = guidance.Weak(1.0) + guidance.Weak(2.0, name='stg')
    torch.testing.assert_close(mixed(C, weak={'weak': K, 'stg': M}), C + (C - K) + 2 * (C - M))
    with pytest.raises(UsageError, match="'stg' was not given"):
        RULE(C, U, 3.0, weak={'modality': M})


def test_a_weight_per_sample_and_a_learned_one():
    weights = torch.tensor([0.0, 1.0, 2.5])
    guided = guidance.Weak(weights)(C, weak=K)
    torch.testing.assert_close(guided, C + weights.view(3, 1, 1, 1) * (C - K))
    learned = nn.Parameter(torch.tensor(0.0))
    rule = guidance.CFG() + guidance.Weak(learned)
    assert 'weak' in rule.branches(3.0), 'a learned weight is not skipped for being 0 now'
    rule(C, U, 3.0, weak=K).sum().backward()
    torch.testing.assert_close(learned.grad, (C - K).sum())
    assert guidance.Weak(torch.zeros(3)).branches() == ('cond',)


def test_weights_are_values():
    one, same, other = (guidance.Weak(torch.tensor([1.0, value])) for value in (2.0, 2.0, 3.0))
    assert one == same == copy.deepcopy(one)
    assert hash(one) == hash(same)
    assert one != other
    assert guidance.Weak(1.0) not in (one, guidance.Weak(1.0, name='stg'))


def test_a_scheduled_weight_keeps_the_state_of_its_run():
    rule = guidance.APG(momentum=-0.5) + guidance.Weak(guidance.linear(0.0, 2.0))
    plain = guidance.APG(momentum=-0.5)
    state, inner = rule.init_state(), plain.init_state()
    for step in range(4):
        progress = step / 4
        cond, null = pair(step)
        guided = rule(cond, null, 3.0, weak=K, state=state, progress=progress)
        expected = plain(cond, null, 3.0, state=inner) + 2 * progress * (cond - K)
        torch.testing.assert_close(guided, expected)
        assert ('weak' in rule.branches(3.0, state, progress)) == (step > 0)


def test_named_passes_of_a_decorated_model():
    model, x = build(), noise(3, 6)
    skipped, smaller = skip_layers('inner'), build()
    smaller.load_state_dict(model.state_dict())
    with torch.no_grad():
        smaller.inner.weight.mul_(0.5)
    cond, null = model(x, texts=TEXTS), model(x)
    with skipped.applied(model):
        stg = model(x, texts=TEXTS)
    modality = smaller(x, texts=TEXTS)
    expected = null + 3.0 * (cond - null) + (cond - stg) - 0.5 * (cond - modality)
    call = {'texts': TEXTS, 'cond_scale': 3.0, 'guidance': RULE, 'weak': {'stg': skipped, 'modality': smaller}}
    for batched in (False, True):
        torch.testing.assert_close(model(x, cfg_batched=batched, **call), expected)
    off = guidance.CFG() + guidance.Weak(0.0, name='stg') + guidance.Weak(-0.5, name='modality')
    model.passes = 0
    torch.testing.assert_close(model(x, **{**call, 'guidance': off}), null + 3.0 * (cond - null) - 0.5 * (cond - modality))
    assert model.passes == 2


@pytest.mark.parametrize(
    ('weak', 'message'),
    [
        ({'stg': skip_layers('inner')}, "this rule has weak passes named 'modality', 'stg': .* but got \\['stg'\\]"),
        ({'stg': skip_layers('inner'), 'mode': skip_layers('inner')}, "but got \\['mode', 'stg'\\]"),
        (skip_layers('inner'), 'but got SkipLayers'),
    ],
)
def test_names_must_be_those_of_the_rule(weak, message):
    with pytest.raises(ConfigError, match=message):
        build()(noise(3, 6), texts=TEXTS, cond_scale=3.0, guidance=RULE, weak=weak)


def test_names_without_a_rule_that_has_them():
    with pytest.raises(ConfigError, match='asks for no weak pass'):
        build()(noise(3, 6), texts=TEXTS, cond_scale=3.0, weak={'stg': skip_layers('inner')})
