"""Small models with self-attention, and what their modules hold."""

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    """Self-attention with one value head for all query heads, as many models have it."""

    def __init__(self, dim, heads=4, shared=False):
        super().__init__()
        self.heads, self.kv_heads = heads, 1 if shared else heads
        self.to_q = nn.Linear(dim, dim)
        self.to_kv = nn.Linear(dim, 2 * dim // heads * self.kv_heads)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x, context=None):
        context = x if context is None else context
        q = self.to_q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (t.unflatten(-1, (self.kv_heads, -1)).transpose(1, 2) for t in self.to_kv(context).chunk(2, dim=-1))
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.kv_heads != self.heads)
        return x + self.to_out(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, dim, shared=False):
        super().__init__()
        self.attn = Attention(dim, shared=shared)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, x):
        return self.attn(x) + self.mlp(x)


class Model(nn.Module):
    def __init__(self, dim=16, depth=3, shared=False):
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, shared) for _ in range(depth))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def fingerprint(model):
    return {name: dict(module.__dict__) for name, module in model.named_modules()}


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run_unet(model, texts=None):
    return model(random(2, 4, 8, 8), torch.tensor(300), random(2, 5, 12, seed=1) if texts is None else texts).sample


def repeated(batch, inputs, texts):
    """Two samples as a batch of so many, with texts of their own where they are given."""
    inputs = {name: value.repeat(batch // 2, *[1] * (value.ndim - 1)) for name, value in inputs.items()}
    return inputs if texts is None else {**inputs, 'encoder_hidden_states': texts}


def run_sd3(model, batch=2, texts=None, **more):
    inputs = {'hidden_states': random(2, 4, 8, 8), 'encoder_hidden_states': random(2, 3, 6), 'pooled_projections': random(2, 5)}
    return model(**repeated(batch, inputs, texts), timestep=torch.tensor([300.0] * batch), **more).sample


def run_flux(model, batch=2, texts=None, **more):
    ids = torch.zeros(16, 3)
    ids[:, 1], ids[:, 2] = torch.arange(16) // 4, torch.arange(16) % 4
    inputs = {'hidden_states': random(2, 16, 4), 'encoder_hidden_states': random(2, 3, 6), 'pooled_projections': random(2, 5)}
    return model(
        **repeated(batch, inputs, texts), timestep=torch.tensor([0.3] * batch), img_ids=ids, txt_ids=torch.zeros(3, 3), **more
    ).sample
