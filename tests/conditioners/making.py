"""Conditioners that do something: every weight random, none zero."""

import torch

from classifier_free_guidance_pytorch import (
    AttentionTextConditioner,
    ConcatTextConditioner,
    TextConditioner,
    TextEmbeddingReturner,
)
from tests.tiny_models import TinyEncoder

KINDS = {'film': TextConditioner, 'attention': AttentionTextConditioner, 'concat': ConcatTextConditioner}
TEXTS = ['a small red circle', 'a dog', 'the large blue square above a triangle']


def make(kind, hidden_dims=(6,), encoders=None, **arguments):
    """A conditioner of the given kind in eval mode."""
    if kind == 'attention':
        arguments = {'attn_heads': 2, 'attn_dim_head': 4, **arguments}
    conditioner = KINDS[kind](hidden_dims, model_types=encoders or [TinyEncoder()], **arguments)
    return randomised(conditioner).eval()


def make_raw(encoders=None, **arguments):
    return randomised(TextEmbeddingReturner(model_types=encoders or [TinyEncoder()], **arguments)).eval()


def randomised(module, seed=0):
    """The module with other weights, the same in every run."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.4)
    return module


def two_encoders():
    return [TinyEncoder(), TinyEncoder(dim_latent=7, dim_pooled=5)]


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
