"""Captions of the drawn world, token by token: a causal block with a cache, and what a written caption means."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfg_demo.shapes import Scene, parse
from classifier_free_guidance_pytorch.errors import ConfigError


class CausalBlock(nn.Module):
    """Causal self-attention and an MLP, both residual."""

    def __init__(self, dim: int, heads: int, index: int) -> None:
        super().__init__()
        self.heads, self.index = heads, index
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_qkv, self.to_out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, hiddens: Tensor, cache: Any) -> Tensor:
        qkv = self.to_qkv(self.norm_attention(hiddens)).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)  # each (b, heads, n, dim / heads)
        if cache is not None:  # all tokens so far, of which `hiddens` holds the new ones
            keys, values = cache.update(keys, values, self.index)
        new, known = queries.shape[2], keys.shape[2]
        visible = torch.ones(new, known, dtype=torch.bool).tril(known - new)
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=visible)
        hiddens = hiddens + self.to_out(attended.transpose(1, 2).flatten(2))
        changed: Tensor = hiddens + self.mlp(self.norm_mlp(hiddens))
        return changed


def read(tokenizer: Any, tokens: Tensor) -> list[str]:
    """Return the captions of tokens `(b, n)` in words, each up to its end."""
    ends = [(*row, tokenizer.eos_token_id).index(tokenizer.eos_token_id) for row in tokens.tolist()]
    return [tokenizer.decode(row[:end], skip_special_tokens=True) for row, end in zip(tokens, ends, strict=True)]


def means(caption: str, scene: Scene) -> bool:
    """Return whether a caption says a scene, all of it and nothing else."""
    try:
        return parse(caption).canonical() == scene.canonical()
    except ConfigError:  # no caption of this world
        return False
