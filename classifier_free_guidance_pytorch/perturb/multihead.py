"""`nn.MultiheadAttention`, whose attention no mode reaches: its values, and the mask that it takes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ARGUMENTS = ('query', 'key', 'value', 'key_padding_mask', 'need_weights', 'attn_mask', 'average_attn_weights', 'is_causal')


def arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by their names."""
    return {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}


def values(module: nn.MultiheadAttention, value: Tensor) -> Tensor:
    """Return the output of a module whose map is the identity, `(b, n, d)`."""
    bias = None if module.in_proj_bias is None else module.in_proj_bias.chunk(3)[2]
    weight = module.v_proj_weight if module.in_proj_weight is None else module.in_proj_weight.chunk(3)[2]
    return F.linear(F.linear(value, weight, bias), module.out_proj.weight, module.out_proj.bias)


def masked(given: dict[str, Any], seen: Tensor) -> dict[str, Any]:
    """Return the arguments of a call in which tokens see only those that they see here `(n, n)`, of those that they saw."""
    mask = given.get('attn_mask')
    hidden = ~seen  # True in a mask of this module is what is not seen
    if mask is not None:
        hidden = mask | hidden if mask.dtype == torch.bool else mask.masked_fill(hidden, float('-inf'))
    return {**given, 'attn_mask': hidden, 'need_weights': False, 'is_causal': False}


def seen(tokens: int, image: slice, device: torch.device) -> Tensor:
    """Return which tokens see which, `(n, n)`: all but those of the image each other."""
    at = torch.arange(tokens, device=device)
    of_image = (at >= image.start) & (at < image.stop)
    return ~(of_image[:, None] & of_image) | (at[:, None] == at)
