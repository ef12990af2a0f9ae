"""Dropout and guidance by hand: what the example does with the library's functions is what the decorator would do."""

from __future__ import annotations

import pytest
import torch

EXAMPLE = '03_conditioners_by_hand'
TEXTS = ['a red circle', 'a blue square', 'a green star']


@pytest.fixture(scope='module')
def unet(example):
    torch.manual_seed(0)
    unet = example.TextUNet(dim=16)
    with torch.no_grad():  # conditioners start as the identity: let them act
        for weight in unet.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return unet.eval()


@pytest.fixture(scope='module')
def inputs(example):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 3, example.SIZE, example.SIZE, generator=generator), torch.rand(3, generator=generator)


@torch.no_grad()
@pytest.mark.parametrize('training', [False, True])
def test_a_sample_loses_its_text_in_both_conditioners_at_once(unet, inputs, training):
    unet.train(training)
    encodings, others = unet.film.encode_texts(TEXTS), unet.film.encode_texts(TEXTS[::-1])
    cond, null = unet(*inputs, encodings, 0.0), unet(*inputs, encodings, 1.0)
    unet.eval()
    torch.testing.assert_close(null, unet(*inputs, others, 1.0))
    assert (cond - null).abs().amax(dim=(1, 2, 3)).min() > 1e-3
    mixed = unet(*inputs, encodings, torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(mixed, torch.stack((cond[0], null[1], cond[2])))


@torch.no_grad()
@pytest.mark.parametrize('scale', [0.0, 1.0, 4.0])
def test_guidance_is_the_line_through_both_predictions(example, unet, inputs, scale):
    encodings = unet.film.encode_texts(TEXTS)
    cond, null = unet(*inputs, encodings, 0.0), unet(*inputs, encodings, 1.0)
    found = example.guided(unet, *inputs, encodings, scale)
    torch.testing.assert_close(found, null + scale * (cond - null), rtol=1e-4, atol=1e-5)


def test_it_runs_and_draws(example, tmp_path):
    shares = example.main(steps=2, each=2, out=tmp_path / 'new' / 'unet.png')
    assert (tmp_path / 'new' / 'unet.png').stat().st_size > 10_000
    assert list(shares) == [0.0, 1.0, 2.0, 4.0, 7.5]


def test_every_weight_learns(example):
    torch.manual_seed(0)
    unet = example.TextUNet(dim=16)
    before = {name: weight.clone() for name, weight in unet.named_parameters()}
    example.train(unet, steps=3, batch=8, drop_prob=0.5)
    unchanged = [name for name, weight in unet.named_parameters() if torch.equal(weight, before[name])]
    assert unchanged == []
