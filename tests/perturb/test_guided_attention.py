"""Attention guided in named modules of models that are not ours: cross-attention of a U-Net, joint attention of SD3 and Flux."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError
from classifier_free_guidance_pytorch.perturb import guided_attention
from tests.perturb.models import Model, random, run_flux, run_sd3, run_unet


class ByHand:
    """Cross-attention on a text and on a negative text, guided before the output projection."""

    def __init__(self, negative, scale):
        self.negative, self.scale = negative, scale

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        found = []
        for text in (encoder_hidden_states, self.negative):
            q, k, v = attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text)
            q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
            weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
            found.append((weights @ v).transpose(1, 2).flatten(2))
        return attn.to_out[0](guidance.nag(*found, self.scale, tau=1.2, alpha=0.5))


@torch.no_grad()
def test_normalized_attention_guidance_in_named_modules(unet):
    negative = random(1, 7, 12, seed=5)
    combine = partial(guidance.nag, scale=4.0, tau=1.2, alpha=0.5)
    spec = guided_attention('*.attn2', negative=negative, combine=combine)
    before = {module: module.processor for module in spec.modules(unet).values()}
    for module in before:
        module.set_processor(ByHand(negative.expand(2, -1, -1), 4.0))
    expected = run_unet(unet)
    for module, processor in before.items():
        module.set_processor(processor)
    with spec.applied(unet):
        torch.testing.assert_close(run_unet(unet), expected, rtol=1e-4, atol=1e-5)
    off = guided_attention('*.attn2', negative=negative, combine=partial(guidance.nag, scale=1.0))
    with off.applied(unet):
        torch.testing.assert_close(run_unet(unet), run_unet(unet))
    with (
        guided_attention('*.attn1', negative=negative, combine=combine).applied(unet),
        pytest.raises(
            UsageError, match='was called without encoder_hidden_states, the text it attends to; name it with context='
        ),
    ):
        run_unet(unet)
    with pytest.raises(ShapeError, match=r'negative must be embeddings \(b, m, d\), got \(3,\)'):
        guided_attention('a', negative=torch.ones(3), combine=combine)


class JointlyByHand:
    """SD3's joint attention as the authors of NAG guide it: one image stream, and a stream of either text."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        images = hidden_states.chunk(2)
        torch.testing.assert_close(*images)
        outputs = []
        for image, text in zip(images, encoder_hidden_states.chunk(2), strict=True):
            of_image = (attn.to_q(image), attn.to_k(image), attn.to_v(image))
            of_text = (attn.add_q_proj(text), attn.add_k_proj(text), attn.add_v_proj(text))
            q, k, v = (
                torch.cat(pair, 1).unflatten(-1, (attn.heads, -1)).transpose(1, 2) for pair in zip(of_image, of_text, strict=True)
            )
            weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
            outputs.append((weights @ v).transpose(1, 2).flatten(2).split((image.shape[1], text.shape[1]), 1))
        (p, text), (n, negative_text) = outputs
        z = n + self.scale * (p - n)
        longer = z.abs().sum(-1, keepdim=True) / p.abs().sum(-1, keepdim=True)
        guided = attn.to_out[0](0.5 * z * longer.clamp(max=1.2) / longer + 0.5 * p).repeat(2, 1, 1)
        return guided, None if attn.context_pre_only else attn.to_add_out(torch.cat((text, negative_text)))


GUIDED = partial(guidance.nag, scale=4.0, tau=1.2, alpha=0.5)


@torch.no_grad()
def test_joint_attention_is_guided_as_its_authors_do(sd3):
    texts = random(4, 3, 6, seed=7)
    spec = guided_attention('transformer_blocks.*.attn', image_tokens=16, combine=GUIDED)
    with spec.applied(sd3):
        ours = run_sd3(sd3, 4, texts).chunk(2)[0]
    before = {module: module.processor for module in spec.modules(sd3).values()}
    for module in before:
        module.set_processor(JointlyByHand(4.0))
    expected = run_sd3(sd3, 4, texts).chunk(2)[0]
    for module, processor in before.items():
        module.set_processor(processor)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, run_sd3(sd3, 4, texts).chunk(2)[0])


@torch.no_grad()
@pytest.mark.parametrize(('build', 'run', 'names', 'tokens'), [
    ('sd3', run_sd3, ['transformer_blocks.*.attn'], 16),
    ('flux', run_flux, ['transformer_blocks.*.attn', 'single_transformer_blocks.*.attn'], -16),
])  # fmt: skip
def test_joint_attention_keeps_one_image(request, build, run, names, tokens):
    """Both halves of a batch are the same image; at the scale 1, and for the same text, it is the plain one."""
    model, texts = request.getfixturevalue(build), random(4, 3, 6, seed=7)
    with guided_attention(*names, image_tokens=tokens, combine=GUIDED).applied(model):
        guided, again = run(model, 4, texts).chunk(2)
        same = run(model, 4, texts[:2].repeat(2, 1, 1)).chunk(2)[0]
    torch.testing.assert_close(guided, again)
    plain = run(model, 2, texts[:2])
    torch.testing.assert_close(same, plain)
    assert not torch.allclose(guided, plain)
    with guided_attention(*names, image_tokens=tokens, combine=partial(guidance.nag, scale=1.0)).applied(model):
        torch.testing.assert_close(run(model, 4, texts).chunk(2)[0], plain)


def test_joint_attention_refuses_what_it_cannot_guide(model, x):
    spec = guided_attention('blocks.*.attn', image_tokens=3, combine=GUIDED)
    message = 'needs every sample twice, with its text in the first half .* got a batch of 3'
    with spec.applied(model), pytest.raises(ShapeError, match=message):
        model(x[:1].repeat(3, 1, 1))
    for more, got in (({}, 'neither'), ({'negative': torch.ones(1, 2, 3), 'image_tokens': 4}, 'both')):
        with pytest.raises(ConfigError, match=f'name negative=.*for cross-attention, or image_tokens=.* got {got}'):
            guided_attention('a', combine=GUIDED, **more)
    for more, message in (
        ({'combine': None}, r'combine must be a function of two features, such as partial\(guidance.nag, scale=5.\), got None'),
        ({'combine': GUIDED, 'context': 3}, 'context must be the name of an argument, got 3'),
    ):
        with pytest.raises(ConfigError, match=message):
            guided_attention('a', image_tokens=3, **more)
    never = guided_attention('blocks.0.mlp', image_tokens=3, combine=GUIDED)
    with never.applied(Model()) as other, pytest.raises(UsageError, match=r'never called .* so its attention cannot be guided'):
        other(x)
