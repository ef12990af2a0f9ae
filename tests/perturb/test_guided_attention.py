"""Attention guided in named modules of a U-Net that is not ours."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.errors import ShapeError, UsageError
from classifier_free_guidance_pytorch.perturb import guided_attention
from tests.perturb.models import random, run_unet


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
