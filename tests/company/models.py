"""A small network for every kind of conditioning, in which each text has an effect."""

import torch
from torch import nn
from torch.nn import functional as F

from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator
from tests.conditioners.making import noise, randomised
from tests.tiny_models import TinyEncoder

KINDS = ('film', 'attention', 'concat', 'raw', 'pooled')
NULLS = {kind: ('learned', 'zeros', 'empty') if kind != 'raw' else ('zeros', 'empty') for kind in KINDS}
SETTINGS = [(kind, null) for kind in KINDS for null in NULLS[kind]]
TEXTS = ['a small red circle', 'a dog', 'the large blue square above a triangle']
GUIDED = {'texts': TEXTS, 'cond_scale': 3.0}


@classifier_free_guidance_class_decorator
class Net(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.into, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x, cond_fns, raw_text_cond):
        h = self.into(x)
        for condition in cond_fns:
            h = condition(h)
        embed, mask = raw_text_cond
        if embed.ndim == 3:
            h = h + (embed * mask.unsqueeze(-1)).sum(dim=1)[:, :1]
        vector = getattr(raw_text_cond, 'pooled', None)
        if vector is not None:
            h = h + vector.sum(dim=1, keepdim=True)
        return self.out(F.silu(h))


def arguments(kind='film', encoder=None, **more):
    """The arguments of a network of this kind."""
    given = {'type': kind, 'model_types': encoder or [TinyEncoder()], 'hidden_dims': (6,), 'hiddens_channel_first': False}
    if kind == 'attention':
        given |= {'attn_heads': 2, 'attn_dim_head': 4}
    if kind == 'pooled':
        given |= {'dim_latent': 6}
    return {f'text_condition_{name}': value for name, value in {**given, **more}.items()}


def build(kind='film', cls=Net, **more):
    """The network with random weights, none zero, in eval mode."""
    return randomised(cls(**arguments(kind, **more))).eval()


def inputs():
    return noise(3, 6)


def linears(model):
    """The linear layers of its conditioner."""
    conditioner = model.text_conditioner
    return {name: layer for name, layer in conditioner.named_modules() if isinstance(layer, torch.nn.Linear)}
