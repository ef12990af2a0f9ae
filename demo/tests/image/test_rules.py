"""Guidance rules as the demo offers them: each runs, differs where it should, and is off at scale 1."""

from __future__ import annotations

import pytest
import torch

from cfg_demo.image import command
from cfg_demo.image.rules import RULES, SELF_ATTENTION, guided
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.perturb import perturbed_attention
from demo.tests.image.tiny import TEXTS, drawn, tiny_model


@pytest.fixture(scope='module')
def model():
    return tiny_model()


def test_the_command_offers_every_rule():
    assert tuple(RULES) == command.RULES


@pytest.mark.parametrize('rule', [rule for rule in RULES if rule != 'cfg'])
def test_a_rule_is_not_plain_guidance(model, rule):
    plain, ruled = drawn(model, scale=4.0), drawn(model, rule=rule, scale=4.0)
    assert ruled.isfinite().all()
    assert not torch.allclose(plain, ruled, atol=1e-3)


@pytest.mark.parametrize('rule', RULES)
def test_at_scale_1_a_rule_is_the_conditional_prediction(model, rule):
    same = torch.allclose(drawn(model, scale=1.0), drawn(model, rule=rule, scale=1.0), atol=1e-5)
    assert same == (rule != 'pag')  # which steers away from its weak pass at every scale


@pytest.mark.parametrize('prediction', ['v', 'epsilon'])
@pytest.mark.parametrize('rule', RULES)
def test_every_rule_guides_every_prediction(model, rule, prediction):
    assert drawn(model, TEXTS[:1], rule=rule, prediction=prediction).isfinite().all()


def test_rescaling_is_done_on_clean_images(model):
    """One Euler step from pure noise lands on the guided clean image, whose spread is that of the conditional one to 70 %."""
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        cond, null = (x - model(x, torch.ones(1), texts=TEXTS[:1], cond_drop_prob=drop) for drop in (0.0, 1.0))
    plain = null + 4.0 * (cond - null)
    expected = 0.7 * plain * cond.std() / plain.std() + 0.3 * plain
    found = drawn(model, TEXTS[:1], rule='rescale', scale=4.0, seeds=[2], steps=1)
    torch.testing.assert_close(found, ((expected + 1) / 2).clamp(0, 1), rtol=0, atol=1e-3)


def test_interval_leaves_the_ends_alone(model):
    ends = {'seeds': [2], 'steps': 1}  # one step, at pure noise
    assert torch.allclose(drawn(model, TEXTS[:1], rule='interval', **ends), drawn(model, TEXTS[:1], scale=1.0, **ends), atol=1e-5)
    zero = drawn(model, TEXTS[:1], rule='interval', scale=0.0)
    assert torch.allclose(zero, drawn(model, TEXTS[:1], scale=0.0), atol=1e-5)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ConfigError, match=r"^guidance is one of cfg, rescale, .*, nag, but got 'magic'$"):
        guided('magic', 2.0, 'flow')


@pytest.mark.parametrize(('network', 'folder'), [('unet', 'middle'), ('transformer', 'blocks')])
def test_the_weak_pass_perturbs_self_attention_and_nothing_else(network, folder):
    model = tiny_model(network=network)
    names = list(perturbed_attention(SELF_ATTENTION).modules(model))
    assert names == [f'{folder}.{index}.attention' for index in range(len(getattr(model, folder)))]
    plain, ruled = drawn(model, TEXTS[:1]), drawn(model, TEXTS[:1], rule='pag')
    assert not torch.allclose(plain, ruled, atol=1e-4)


@pytest.mark.parametrize('condition', ['film', 'concat'])
def test_attention_guidance_needs_attention(condition):
    with pytest.raises(ConfigError, match='this rule guides inside cross-attention'):
        drawn(tiny_model(condition=condition), TEXTS[:1], rule='nag')
