"""A diffusers U-Net in its wrapper against the doubled batch that diffusers' pipelines write by hand."""

from __future__ import annotations

import pytest
import torch

diffusers = pytest.importorskip('diffusers')

EXAMPLE = '06_diffusers_unet'
TEXTS = ['a red circle', 'a small blue square on a dark background']


@pytest.fixture(scope='module')
def model(example):
    torch.manual_seed(0)
    return example.build(width=16).eval()


@torch.no_grad()
def by_hand(example, model, scale, steps, images):
    """The loop of a pipeline: one pass of the U-Net for the null and the conditional half of a doubled batch."""
    embed, mask = model.embed_texts(TEXTS)
    states, masks = torch.cat((torch.zeros_like(embed), embed)), torch.cat((torch.zeros_like(mask), mask))
    scheduler = diffusers.DPMSolverMultistepScheduler(**example.NOISE)
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        doubled = torch.cat((images, images))
        predicted = model.unet(doubled, timestep, encoder_hidden_states=states, encoder_attention_mask=masks).sample
        null, cond = predicted.chunk(2)
        images = scheduler.step(null + scale * (cond - null), timestep, images).prev_sample
    return (images / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize('scale', [0.0, 1.0, 3.0, 7.5])
def test_sampling_is_that_of_the_doubled_batch(example, model, scale):
    noise = torch.randn(2, 3, example.SIZE, example.SIZE, generator=torch.Generator().manual_seed(3))
    expected = by_hand(example, model, scale, 4, noise)
    found = example.sample(model, TEXTS, scale, seed=3, steps=4)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_one_pass_and_two_agree_and_the_text_and_the_scale_count(example, model):
    images, timestep = torch.randn(2, 3, example.SIZE, example.SIZE), torch.tensor([500, 20])
    guided = model(images, timestep, texts=TEXTS, cond_scale=4.0)
    torch.testing.assert_close(guided, model(images, timestep, texts=TEXTS, cond_scale=4.0, cfg_batched=True))
    assert not torch.allclose(guided, model(images, timestep, texts=TEXTS), atol=1e-4)
    assert not torch.allclose(guided, model(images, timestep, texts=TEXTS[::-1], cond_scale=4.0), atol=1e-4)


def test_the_unet_is_diffusers_own(model):
    assert type(model.unet) is diffusers.UNet2DConditionModel
    theirs = {f'unet.{name}' for name in model.unet.state_dict()}
    assert {name for name in model.state_dict() if not name.startswith('text_conditioner.')} == theirs


def test_it_runs_and_draws(example, tmp_path):
    shares = example.main(steps=2, each=2, out=tmp_path / 'new' / 'unet.png')
    assert (tmp_path / 'new' / 'unet.png').stat().st_size > 10_000
    assert list(shares) == [0.0, 1.0, 2.0, 4.0, 7.5]
