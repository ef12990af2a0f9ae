"""FiLM: feature-wise linear modulation (Perez et al., 2017, arXiv 1709.07871).

scale, shift = net(feature)
hiddens <- hiddens * (scale + 1) + shift
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from classifier_free_guidance_pytorch.layers.condition import Condition, ConditioningLayer, rows_like


@dataclass(eq=False)
class Modulation(Condition):
    """FiLM's `factor = scale + 1` and `shift`, each `(b, dim_hidden)`."""

    factor: Tensor
    shift: Tensor


class FiLM(ConditioningLayer):
    """Modulate every channel of the hiddens by a scale and a shift read from one feature per text.

    Starts as the identity: the last projection is zero.

    Args:
        dim: Width of the feature.
        dim_hidden: Width of the hiddens.

    Example:
        >>> film = FiLM(dim=16, dim_hidden=8)
        >>> film(torch.randn(2, 8, 4, 4), film.condition(torch.randn(2, 16)), channel_first=True).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(self, dim: int, dim_hidden: int) -> None:
        super().__init__()
        self.dim_hidden = dim_hidden
        last = nn.Linear(dim_hidden * 4, dim_hidden * 2)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(nn.Linear(dim, dim_hidden * 4), nn.SiLU(), last)

    def condition(self, feature: Tensor) -> Modulation:
        """Return scale and shift from the feature `(b, dim)` of each text."""
        scale, shift = self.net(feature).chunk(2, dim=-1)  # (b, dim_hidden) each
        return Modulation(scale + 1, shift)

    def conditioned(self, hiddens: Tensor, condition: Condition, channel_first: bool) -> Tensor:
        assert isinstance(condition, Modulation)
        factor = rows_like(condition.factor, hiddens, channel_first)  # (b, d, 1, ...) or (b, 1, ..., d)
        shift = rows_like(condition.shift, hiddens, channel_first)
        return torch.addcmul(shift, hiddens, factor)  # hiddens * (scale + 1) + shift, in one pass over memory
