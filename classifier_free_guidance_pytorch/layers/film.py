"""FiLM: feature-wise linear modulation (Perez et al., 2017, arXiv 1709.07871).

scale, shift = net(feature)
hiddens <- hiddens * (scale + 1) + shift
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from classifier_free_guidance_pytorch.layers.condition import Condition, ConditioningLayer, Map
from classifier_free_guidance_pytorch.layers.layout import rows_like


@dataclass(eq=False)
class Modulation(Condition):
    """`gain = scale + 1` and `shift`, each `(b, dim_hidden)`."""

    gain: Tensor
    shift: Tensor

    @property
    def rows(self) -> int:
        return self.gain.shape[0]

    def map(self, fn: Map) -> Modulation:
        return Modulation(fn(self.gain), fn(self.shift))

    def joined(self, other: Condition) -> Condition:
        if not isinstance(other, Modulation):
            return super().joined(other)
        return Modulation(torch.cat((self.gain, other.gain)), torch.cat((self.shift, other.shift)))


class FiLM(ConditioningLayer):
    """Modulate every channel of the hiddens by a scale and a shift read from one feature per text.

    Starts as the identity: the last projection is zero.

    Args:
        dim: width of the feature.
        dim_hidden: width of the hiddens.

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
        """Scale and shift from the feature `(b, dim)` of each text."""
        scale, shift = self.net(feature).chunk(2, dim=-1)
        return Modulation(scale + 1, shift)

    def conditioned(self, hiddens: Tensor, condition: Condition, channel_first: bool) -> Tensor:
        assert isinstance(condition, Modulation)
        gain = rows_like(condition.gain, hiddens, channel_first)
        shift = rows_like(condition.shift, hiddens, channel_first)
        return torch.addcmul(shift, hiddens, gain)  # hiddens * (scale + 1) + shift, in one pass over memory
