"""Sampling: a perfect model is followed home, an image does not know its batch, guidance is what its formula says."""

from __future__ import annotations

import sys

import pytest
import torch

from cfg_demo.image import settings
from cfg_demo.image.diffusion import SAMPLERS
from demo.tests.image.tiny import TEXTS, Knowing, drawn, pictures, tiny_model


@pytest.fixture(scope='module')
def model():
    return tiny_model()


@pytest.mark.parametrize(('prediction', 'sampler'), [(p, s) for p, samplers in SAMPLERS.items() for s in samplers])
@pytest.mark.parametrize('steps', [1, 2, 5, 20])
def test_a_perfect_model_leads_every_sampler_to_its_image(prediction, sampler, steps):
    image = pictures(1)[0]
    found = drawn(Knowing(image * 2 - 1, prediction), TEXTS[:2], prediction=prediction, sampler=sampler, steps=steps)
    # One step of epsilon divides rounded numbers by the 5e-5 of the image that noise leaves; dpm++ rounds the times of flow.
    rough = (prediction, steps) == ('epsilon', 1) or (prediction, sampler) == ('flow', 'dpm++')
    torch.testing.assert_close(found, image.expand(2, -1, -1, -1), rtol=0, atol=5e-3 if rough else 1e-4)


@pytest.mark.parametrize('rule', ['cfg', 'apg', 'interval', 'rescale', 'nag'])
def test_one_by_one_is_the_same_as_together(model, rule):
    together = drawn(model, rule=rule, seeds=[3, 5, 7])
    alone = [drawn(model, [text], rule=rule, seeds=[seed]) for text, seed in zip(TEXTS, (3, 5, 7), strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)


def test_noise_on_the_way_belongs_to_the_image():
    model = tiny_model(prediction='epsilon')
    options = {'prediction': 'epsilon', 'sampler': 'ddpm', 'scale': 1.0}
    together = drawn(model, seeds=[3, 5, 7], **options)
    alone = [drawn(model, [text], seeds=[seed], **options) for text, seed in zip(TEXTS, (3, 5, 7), strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-3)


def test_a_seed_is_an_image(model):
    first = drawn(model, TEXTS[:1] * 2, seeds=[4, 5])
    torch.rand(3)  # the state of the process has no say
    assert torch.equal(first, drawn(model, TEXTS[:1] * 2, seeds=[4, 5]))
    assert not torch.allclose(first[0], first[1], atol=1e-2)


def euler_by_hand(model, steps, scale, seed, negative=None):
    """Flow from noise to image along the guided velocity, with a pass of its own for each branch."""
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for number in range(steps):
            # as FlowMatchEulerDiscreteScheduler spaces its times: from 1 to 0.001, and then to 0
            here = 1 - number * 0.999 / (steps - 1) if steps > 1 else 1.0
            there = 1 - (number + 1) * 0.999 / (steps - 1) if number + 1 < steps else 0.0
            times = torch.tensor([here])
            cond = model(x, times, texts=TEXTS[:1], cond_drop_prob=0.0)
            null = model(x, times, texts=TEXTS[:1], cond_drop_prob=1.0) if negative is None else model(x, times, texts=[negative])
            x = x + (there - here) * (null + scale * (cond - null))
    return ((x + 1) / 2).clamp(0, 1)


@pytest.mark.parametrize('steps', [1, 3])
@pytest.mark.parametrize('scale', [0.0, 1.0, 3.0])
def test_guidance_is_its_formula(model, steps, scale):
    expected = euler_by_hand(model, steps, scale, seed=2)
    assert (expected % 1 != 0).float().mean() > 0.2  # not all is clamped
    torch.testing.assert_close(drawn(model, TEXTS[:1], scale=scale, seeds=[2], steps=steps), expected, rtol=0, atol=1e-4)


def test_a_negative_prompt_takes_the_place_of_the_null_condition(model):
    expected = euler_by_hand(model, 2, 3.0, seed=2, negative='a blue star')
    found = drawn(model, TEXTS[:1], seeds=[2], negative='a blue star')
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert not torch.allclose(found, drawn(model, TEXTS[:1], seeds=[2]), atol=1e-3)


def test_scale_0_does_not_read_the_text(model):
    zero = drawn(model, scale=0.0, seeds=[1, 1, 1])
    torch.testing.assert_close(zero[0], zero[1], rtol=0, atol=1e-4)
    one = drawn(model, scale=1.0, seeds=[1, 1, 1])
    assert not torch.allclose(one[0], one[1], atol=1e-3)


def test_bfloat16_where_the_machine_has_it(model, monkeypatch):
    exact = drawn(model)
    monkeypatch.setattr(settings, 'multiplies_bfloat16', lambda device_type: True)
    rough = drawn(model)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert (rough - exact).abs().mean() < 0.05


def test_a_bar_is_shown_in_a_terminal_if_asked_for(model, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    drawn(model, TEXTS[:1], progress=True, title='drawing')
    assert 'drawing: 100%' in capsys.readouterr().err
