"""Cross-attention from hiddens to text tokens, with a learned null key and value to attend to where there is no text.

    hiddens <- hiddens + out(softmax(q k^T / sqrt(dim_head)) v),    k, v = [null, tokens]

One key/value head is shared by all query heads (Shazeer, 2019, arXiv 1911.02150), so the heads fold into the query axis:
`(b, n, heads * dim_head)` is viewed as `heads * n` queries of one head. Nothing is transposed or repeated, and
`scaled_dot_product_attention` keeps its fused kernels with a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifier_free_guidance_pytorch.errors import UsageError
from classifier_free_guidance_pytorch.layers.condition import (
    Condition,
    ConditioningLayer,
    Row,
    from_sequence,
    rows_like,
    to_sequence,
)
from classifier_free_guidance_pytorch.layers.place import place_of

Combine: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(eq=False)
class KeyValues(Condition):
    """Keys and values `(b, 1 + n, dim_head)`, the null ones first, and the mask `(b, 1 + n)`, True where to attend."""

    keys: Tensor
    values: Tensor
    mask: Tensor


@dataclass(eq=False)
class Extrapolated(Condition):
    """Two conditions whose attention features are combined inside the layer, as normalized attention guidance does."""

    positive: KeyValues
    negative: KeyValues
    combine: Combine

    @property
    def rows(self) -> int:
        return max(self.positive.rows, self.negative.rows)


class Attention(nn.Module):
    """The attention block itself, without the residual. See the module docstring for the formula."""

    def __init__(self, dim: int, dim_hidden: int, dim_head: int, heads: int, flash: bool, learned_null: bool) -> None:
        super().__init__()
        self.dim_head, self.heads, self.flash = dim_head, heads, flash
        self.norm = nn.LayerNorm(dim_hidden)
        self.context_norm = nn.LayerNorm(dim)
        self.null_kv = nn.Parameter(torch.randn(2, 1, dim_head)) if learned_null else None
        self.to_q = nn.Linear(dim_hidden, dim_head * heads, bias=False)
        self.to_kv = nn.Linear(dim, dim_head * 2, bias=False)
        self.to_out = nn.Linear(dim_head * heads, dim_hidden, bias=False)
        nn.init.zeros_(self.to_out.weight)

    def key_values(self, tokens: Tensor, mask: Tensor) -> KeyValues:
        """Return keys and values of the tokens `(b, n, dim)`, after the null ones."""
        keys_values = self.to_kv(self.context_norm(tokens))
        null = self.null().to(keys_values.dtype).flatten().expand(tokens.shape[0], 1, -1)  # keys first, as in to_kv
        keys, values = torch.cat((null, keys_values), dim=1).chunk(2, dim=-1)
        return KeyValues(keys, values, F.pad(mask, (1, 0), value=True))

    def null(self) -> Tensor:
        """Return the null key and value, `(2, 1, dim_head)`."""
        return place_of(self).zeros(2, 1, self.dim_head) if self.null_kv is None else self.null_kv

    def null_key_values(self) -> KeyValues:
        """Return the null key and value alone, for any batch."""
        key, value = self.null()  # (1, dim_head) each
        return KeyValues(key[None], value[None], torch.ones(1, 1, dtype=torch.bool, device=key.device))

    def null_row(self) -> Row:
        """Return what `forward` gives at every position where only the null key is left: a softmax over one key is 1."""
        return Row(self.to_out(self.null()[1].repeat(1, self.heads)))

    def queries(self, x: Tensor) -> Tensor:
        """Return queries of the sequence `(b, n, dim_hidden)` with the heads folded in: `(b, n * heads, dim_head)`."""
        queries: Tensor = self.to_q(self.norm(x.to(place_of(self.norm).dtype)))
        return queries.view(x.shape[0], x.shape[1] * self.heads, self.dim_head)

    def attend(self, queries: Tensor, condition: KeyValues) -> Tensor:
        """Return attention features, shaped like the queries."""
        to_text = condition.expand(queries.shape[0])
        q, k, v = queries, to_text.keys.to(queries.dtype), to_text.values.to(queries.dtype)
        if not self.flash:
            logits = torch.einsum('bid,bjd->bij', q, k) * self.dim_head**-0.5
            logits = logits.masked_fill(~to_text.mask.unsqueeze(1), -torch.finfo(logits.dtype).max)
            return torch.einsum('bij,bjd->bid', logits.softmax(dim=-1).to(v.dtype), v)
        mask = to_text.mask[:, None, None]
        try:
            return F.scaled_dot_product_attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), attn_mask=mask).squeeze(1)
        except NotImplementedError as error:  # forward-mode derivatives, as in torch.func.jvp
            raise UsageError(
                'the fused attention kernels have no forward-mode derivative: build the conditioner with flash=False (a '
                'decorated class with text_condition_flash=False), or use torch.nn.attention.sdpa_kernel(SDPBackend.MATH)'
            ) from error

    def forward(self, x: Tensor | Callable[..., Any], *given: Any) -> Any:
        """Run the attention; or another method, `attn(Attention.key_values, tokens, mask)`.

        A library that offloads, gathers or casts weights does so around a call of the module that owns them.
        """
        return self.attended(x, *given) if isinstance(x, Tensor) else x(self, *given)

    def attended(self, x: Tensor, condition: KeyValues | Extrapolated) -> Tensor:
        """Return what every position of the sequence `(b, n, dim_hidden)` reads of its text."""
        q = self.queries(x)
        shape = (x.shape[0], x.shape[1], self.heads * self.dim_head)  # all heads of a token together: NAG's norms run over them
        if isinstance(condition, Extrapolated):
            positive, negative = self.attend(q, condition.positive), self.attend(q, condition.negative)
            features = condition.combine(positive.reshape(shape), negative.reshape(shape))
        else:
            features = self.attend(q, condition).reshape(shape)
        attended: Tensor = self.to_out(features)
        return attended


class CrossAttention(ConditioningLayer):
    """Let every position of the hiddens attend to the tokens of its text; the residual is added outside the attention.

    Starts as a no-op: the output projection is zero.

    Args:
        dim: Width of the text tokens.
        dim_hidden: Width of the hiddens.
        dim_head: Width of a head.
        heads: Number of query heads; they share one key/value head.
        flash: Use the fused kernels of `F.scaled_dot_product_attention`; False writes the softmax out.
        learned_null: Learn the null key and value; False keeps them at zero, which adds nothing to the hiddens.

    Example:
        >>> layer = CrossAttention(dim=16, dim_hidden=8)
        >>> condition = layer.condition(torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool))
        >>> layer(torch.randn(2, 8, 4, 4), condition, channel_first=True).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(
        self, dim: int, dim_hidden: int, dim_head: int = 64, heads: int = 8, flash: bool = True, learned_null: bool = True
    ) -> None:
        super().__init__()
        self.dim_hidden = dim_hidden
        self.attn = Attention(dim, dim_hidden, dim_head, heads, flash, learned_null)

    def condition(self, tokens: Tensor, mask: Tensor) -> KeyValues:
        """Return keys and values of text tokens `(b, n, dim)` with mask `(b, n)`."""
        return self.attn(Attention.key_values, tokens, mask)

    def extrapolated(self, positive: Condition, negative: Condition, combine: Combine) -> Extrapolated:
        """Return a condition that combines the attention features of two texts inside the layer."""
        both = [self.attn(Attention.null_key_values) if isinstance(one, Row) else one for one in (positive, negative)]
        return Extrapolated(both[0], both[1], combine)  # type: ignore[arg-type]

    def null_condition(self) -> Row:
        """Return the condition of a text that is masked out altogether: one vector for any batch, no query and no softmax."""
        return self.attn(Attention.null_row)

    def conditioned(self, hiddens: Tensor, condition: Condition, channel_first: bool) -> Tensor:
        if isinstance(condition, Row):
            return hiddens + rows_like(condition.row, hiddens, channel_first)
        attended = self.attn(to_sequence(hiddens, channel_first), condition)
        return hiddens + from_sequence(attended, hiddens, channel_first).to(hiddens.dtype)
