"""Perturbed passes of models that are not ours: diffusers' U-Net, SD3 and Flux, a timm ViT; held to what their libraries do."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError
from classifier_free_guidance_pytorch.perturb import (
    noisy_output,
    perturbed_attention,
    shuffled_tokens,
    skip_layers,
    skip_random_layers,
    smoothed_attention,
)
from tests.perturb.models import random, run_flux, run_sd3, run_unet

pytest.importorskip('diffusers')


@torch.no_grad()
@pytest.mark.parametrize('skipped', [[0], [1], [0, 1]], ids=str)
def test_skipped_layers_of_two_streams_are_those_of_sd3(sd3, skipped):
    """A batch of two, which a block that returns one stream would be unpacked into."""
    with skip_layers(*[f'transformer_blocks.{i}' for i in skipped]).applied(sd3):
        ours = run_sd3(sd3)
    assert torch.equal(ours, run_sd3(sd3, skip_layers=skipped))
    assert not torch.allclose(ours, run_sd3(sd3))


@torch.no_grad()
@pytest.mark.parametrize('names', [['transformer_blocks.1'], ['single_transformer_blocks.0'], ['*transformer_blocks.1']], ids=str)
def test_skipped_layers_of_flux(flux, names):
    spec = skip_layers(*names)
    chosen = spec.modules(flux).values()
    before = {module: module.forward for module in chosen}
    for module in chosen:
        module.forward = lambda hidden_states, encoder_hidden_states, **_: (encoder_hidden_states, hidden_states)
    try:
        expected = run_flux(flux)
    finally:
        for module in before:
            del module.forward
    with spec.applied(flux):
        assert torch.equal(run_flux(flux), expected)


class Streams(nn.Module):
    """Blocks whose last line names their arguments, names others, or names nothing."""

    def __init__(self, kind):
        super().__init__()
        self.block = {'pair': Pair(), 'made': Made(), 'one': One()}[kind]

    def forward(self, x, text):
        return self.block(text=text, x=x)


class Pair(nn.Module):
    def forward(self, x, text, scale=None):
        if scale:
            return text, x, scale
        x = x * 2
        return text, x


class Made(nn.Module):
    def forward(self, x, text):
        out, weights = x * 2, text * 2
        return out, weights


class One(nn.Module):
    def forward(self, x, text):
        return x * text


def test_blocks_are_bound_by_their_signature():
    x, text = random(2, 3), random(2, 3, seed=1)
    model = Streams('pair')
    with skip_layers('block').applied(model):
        assert [one is two for one, two in zip(model(x, text), (text, x), strict=True)] == [True, True]
    with skip_layers('block', returns=('x', None, 'text')).applied(model):
        assert model(x, text) == (x, None, text)
    with skip_layers('block').applied(Streams('one')) as one:
        assert one(x, text) is x, 'the first of the signature, not of the call'
    with (
        pytest.raises(
            UsageError, match=r"block returns \('out', 'weights'\), of which 'out' is no argument: say which of x, text"
        ),
        skip_layers('block').applied(Streams('made')),
    ):
        pass
    with skip_layers('block', returns=('x', 'text')).applied(Streams('made')) as made:
        assert made(x, text) == (x, text)
    message = "block has no argument 'y'; it takes x, text"
    with pytest.raises(ConfigError, match=message), skip_layers('block', returns=('y',)).applied(model):
        pass
    with pytest.raises(ConfigError, match='returns must be a tuple of the names of arguments, got 3'):
        skip_layers('block', returns=3)


@torch.no_grad()
def test_perturbed_joint_attention_is_that_of_diffusers(sd3):
    """Of the tokens of the image alone: text stays attended to."""
    from diffusers.models.attention_processor import JointAttnProcessor2_0, PAGJointAttnProcessor2_0

    with perturbed_attention('transformer_blocks.1.attn', image_tokens=16).applied(sd3):
        ours = run_sd3(sd3)
    sd3.transformer_blocks[1].attn.set_processor(PAGJointAttnProcessor2_0())
    try:
        plain, theirs = run_sd3(sd3, batch=4).chunk(2)
    finally:
        sd3.transformer_blocks[1].attn.set_processor(JointAttnProcessor2_0())
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(run_sd3(sd3), plain)
    assert F.cosine_similarity((plain - ours).flatten(), (plain - theirs).flatten(), 0) > 0.999


@torch.no_grad()
@pytest.mark.parametrize('names', ['transformer_blocks.*.attn', 'single_transformer_blocks.*.attn'])
def test_perturbed_joint_attention_of_flux(flux, names):
    """Text comes first there, and its single blocks get both in one sequence."""
    seen = torch.ones(19, 19, dtype=torch.bool)
    seen[3:, 3:] = torch.eye(16, dtype=torch.bool)
    chosen = perturbed_attention(names, image_tokens=-16)
    modules = list(chosen.modules(flux).values())
    hooks = [
        one.register_forward_pre_hook(lambda m, a, k: (a, {**k, 'attention_mask': seen}), with_kwargs=True) for one in modules
    ]
    expected = run_flux(flux)
    for hook in hooks:
        hook.remove()
    with chosen.applied(flux):
        torch.testing.assert_close(run_flux(flux), expected)


def test_joint_attention_without_the_number_of_image_tokens(sd3, flux):
    for model, run in ((sd3, run_sd3), (flux, run_flux)):
        for spec in (perturbed_attention('transformer_blocks.0.attn'), smoothed_attention('transformer_blocks.0.attn')):
            message = r'transformer_blocks.0.attn attends jointly to 19 tokens .* image_tokens=, negative where they come last'
            with spec.applied(model), pytest.raises(UsageError, match=message):
                run(model)
    message = 'image_tokens is 64, but the attention has 19 tokens in all'
    too_many = perturbed_attention('transformer_blocks.0.attn', image_tokens=64)
    with too_many.applied(sd3), pytest.raises(ShapeError, match=message):
        run_sd3(sd3)
    with pytest.raises(ConfigError, match=r'image_tokens must be how many tokens are of the image.* got 0'):
        perturbed_attention('a', image_tokens=0)


@torch.no_grad()
@pytest.mark.parametrize('sigma', [0.4, 1.0, 3.0, math.inf])
def test_smoothed_attention_has_the_blur_of_diffusers(unet, sigma):
    from diffusers.hooks.smoothed_energy_guidance_utils import _gaussian_blur_2d

    size = 1 if sigma == math.inf else math.ceil(6 * sigma) + 1 - math.ceil(6 * sigma) % 2
    threshold = math.inf if sigma == math.inf else 0  # there the branches of finite and infinite blur are swapped

    def blurred(module, args, output):
        return _gaussian_blur_2d(output.clone(), size, sigma, threshold)

    names = '*_blocks.*.attn1'
    hooks = [one.to_q.register_forward_hook(blurred) for one in smoothed_attention(names).modules(unet).values()]
    expected = run_unet(unet)
    for hook in hooks:
        hook.remove()
    with smoothed_attention(names, sigma=sigma).applied(unet):
        torch.testing.assert_close(run_unet(unet), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(run_unet(unet), expected, atol=1e-3)


@torch.no_grad()
def test_smoothed_attention_of_images_that_are_no_squares(sd3):
    """Of a blur so narrow that nothing changes; and the grid must fit."""
    for spec in (
        smoothed_attention('*.1.attn', sigma=0.01, image_tokens=16),
        smoothed_attention('*.1.attn', sigma=0.01, grid=(2, 8), image_tokens=16),
    ):
        with spec.applied(sd3):
            torch.testing.assert_close(run_sd3(sd3), run_sd3(sd3))
    with (
        smoothed_attention('*.1.attn', sigma=1.0, image_tokens=15).applied(sd3),
        pytest.raises(ShapeError, match=r'15 tokens are not 3 \* 3'),
    ):
        run_sd3(sd3)
    with pytest.raises(ConfigError, match='sigma must be a positive number, got 0'):
        smoothed_attention('a', sigma=0)


@torch.no_grad()
def test_shuffled_tokens(unet):
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    block = unet.mid_block.attentions[0].transformer_blocks[0]
    hook = block.register_forward_pre_hook(lambda m, a: (a[0][:, order], *a[1:]))
    expected = run_unet(unet)
    hook.remove()
    spec = shuffled_tokens('mid_block.attentions.0.transformer_blocks.0', generator=torch.Generator().manual_seed(3))
    with spec.applied(unet):
        assert torch.equal(run_unet(unet), expected)
        assert not torch.allclose(run_unet(unet), expected), 'drawn anew'
    with (
        shuffled_tokens('conv_in').applied(unet),
        pytest.raises(UsageError, match=r'conv_in is given \(2, 4, 8, 8\) first; only tokens'),
    ):
        run_unet(unet)


@torch.no_grad()
def test_layers_drawn_at_random_are_skipped_layers(sd3):
    names, found = 'transformer_blocks.?', set()
    spec = skip_random_layers(names, count=2, generator=torch.Generator().manual_seed(0))
    for _ in range(8):
        with spec.applied(sd3):
            ours = run_sd3(sd3)
        same = [pair for pair in ([0, 1], [0, 2], [1, 2]) if 2 not in pair and torch.equal(ours, run_sd3(sd3, skip_layers=pair))]
        found.update(map(tuple, same))
        drawn = spec.modules(sd3)
        assert len(drawn) == 2
        found.add(tuple(drawn))
    assert len(found) >= 3
    with pytest.raises(ConfigError, match='count must be a whole number from 1 to the 3 modules, got 4'):
        skip_random_layers(names, count=4).modules(sd3)


@torch.no_grad()
def test_noise_on_the_embedding_of_time(unet):
    hook = unet.time_embedding.register_forward_hook(lambda m, a, out: out + noise_like(out))

    def noise_like(out):
        return 0.5 * torch.randn(out.shape, generator=torch.Generator().manual_seed(1))

    expected = run_unet(unet)
    hook.remove()
    with noisy_output('time_embedding', std=0.5, generator=torch.Generator().manual_seed(1)).applied(unet):
        assert torch.equal(run_unet(unet), expected)
    with pytest.raises(ConfigError, match='std must be a number of at least 0, got -1'):
        noisy_output('a', std=-1)


@torch.no_grad()
def test_perturbed_attention_of_a_vit():
    """Its class token comes first, and sees every patch as before."""
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    vit = timm.create_model(
        'vit_tiny_patch16_224', img_size=32, patch_size=8, depth=2, embed_dim=16, num_heads=2, num_classes=3
    ).eval()
    x = random(2, 3, 32, 32)
    seen = torch.ones(17, 17, dtype=torch.bool)
    seen[1:, 1:] = torch.eye(16, dtype=torch.bool)
    hooks = [
        block.attn.register_forward_pre_hook(lambda m, a, k: (a, {**k, 'attn_mask': seen}), with_kwargs=True)
        for block in vit.blocks
    ]
    expected = vit(x)
    for hook in hooks:
        hook.remove()
    with perturbed_attention('blocks.*.attn', image_tokens=-16).applied(vit):
        torch.testing.assert_close(vit(x), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(vit(x), expected)
