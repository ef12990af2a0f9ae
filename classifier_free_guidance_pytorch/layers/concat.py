"""Concatenation: the text feature is joined to the hidden feature at every position and projected back.

    hiddens <- hiddens + out(SiLU(joint([norm(hiddens), feature])))

`joint` is linear, so it is the sum of two layers, `joint_hidden(norm(hiddens)) + joint_text(feature)`. The second is the same at
every position of a sample: it is computed once per text, and the concatenation is never made in memory.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from classifier_free_guidance_pytorch.layers.condition import Condition, ConditioningLayer, Row, from_sequence, to_sequence
from classifier_free_guidance_pytorch.layers.place import place_of


class Concat(ConditioningLayer):
    """Join the text feature to the hidden feature and project back to the hidden width.

    Starts as a no-op: the last projection is zero.

    Args:
        dim: Width of the text feature.
        dim_hidden: Width of the hiddens.

    Example:
        >>> import torch
        >>> layer = Concat(dim=16, dim_hidden=8)
        >>> layer(torch.randn(2, 8, 4, 4), layer.condition(torch.randn(2, 16)), channel_first=True).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(self, dim: int, dim_hidden: int) -> None:
        super().__init__()
        self.dim_hidden = dim_hidden
        self.norm = nn.LayerNorm(dim_hidden)
        self.joint_hidden = nn.Linear(dim_hidden, dim_hidden, bias=False)
        self.joint_text = nn.Linear(dim, dim_hidden)
        bound = (dim_hidden + dim) ** -0.5  # as torch initialises one layer of both widths
        for weight in (*self.joint_hidden.parameters(), *self.joint_text.parameters()):
            nn.init.uniform_(weight, -bound, bound)
        self.out = nn.Linear(dim_hidden, dim_hidden)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def condition(self, feature: Tensor) -> Row:
        """Return the text's half of `joint`, from the feature `(b, dim)` of each text."""
        return Row(self.joint_text(feature))

    def conditioned(self, hiddens: Tensor, condition: Condition, channel_first: bool) -> Tensor:
        assert isinstance(condition, Row)
        joint = self.joint_hidden(self.norm(to_sequence(hiddens, channel_first).to(place_of(self.norm).dtype)))  # (b, n, d)
        joint = joint + condition.row.to(joint.dtype).unsqueeze(1)
        return hiddens + from_sequence(self.out(F.silu(joint)), hiddens, channel_first).to(hiddens.dtype)
