"""Text conditioning and guidance as a competent user writes them for one network, without the library.

The formulas and the names of the weights are those of `TextConditioner`, `AttentionTextConditioner` and
`ConcatTextConditioner`, so that both sides share their weights by `load_state_dict`. As is usual, everything is computed where it
is used: what the text alone decides is computed in every forward, and the null branch takes the same road as the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifier_free_guidance_pytorch import TextEncoding

# Whether texts are dropped: all of them, none, or those that are True in `(b, 1)`.
Drop: TypeAlias = bool | Tensor


class FiLM(nn.Module):
    """`hiddens * (scale + 1) + shift`."""

    def __init__(self, dim: int, dim_hidden: int, channel_first: bool) -> None:
        super().__init__()
        self.channel_first = channel_first
        self.net = nn.Sequential(nn.Linear(dim, dim_hidden * 4), nn.SiLU(), nn.Linear(dim_hidden * 4, dim_hidden * 2))

    def forward(self, hiddens: Tensor, stem: Tensor) -> Tensor:
        scale, shift = self.net(stem).chunk(2, dim=-1)
        if self.channel_first:
            scale, shift = scale[:, :, None, None], shift[:, :, None, None]
        else:
            scale, shift = scale[:, None], shift[:, None]
        return hiddens * (scale + 1) + shift


class Concat(nn.Module):
    """`hiddens + out(SiLU(joint([norm(hiddens), stem])))`."""

    def __init__(self, dim: int, dim_hidden: int, channel_first: bool) -> None:
        super().__init__()
        self.channel_first = channel_first
        self.norm = nn.LayerNorm(dim_hidden)
        self.joint = nn.Linear(dim_hidden + dim, dim_hidden)
        self.out = nn.Linear(dim_hidden, dim_hidden)
        self.register_load_state_dict_pre_hook(self._join)

    @staticmethod
    def _join(module: nn.Module, weights: dict[str, Any], prefix: str, *unused: Any) -> None:
        """Join the two layers in which the library keeps `joint`."""
        hidden, text = (weights.pop(f'{prefix}joint_{half}.weight') for half in ('hidden', 'text'))
        weights[f'{prefix}joint.weight'] = torch.cat((hidden, text), dim=1)
        weights[f'{prefix}joint.bias'] = weights.pop(f'{prefix}joint_text.bias')

    def forward(self, hiddens: Tensor, stem: Tensor) -> Tensor:
        x = self.norm(sequence(hiddens) if self.channel_first else hiddens)
        joint = self.joint(torch.cat((x, stem[:, None].expand(-1, x.shape[1], -1)), dim=-1))
        out = self.out(F.silu(joint))
        return hiddens + (picture(out, hiddens) if self.channel_first else out)


class Attention(nn.Module):
    """Cross-attention with a learned null key and value in front, and one key/value head for all query heads."""

    def __init__(self, dim: int, dim_hidden: int, dim_head: int = 64, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim_hidden)
        self.context_norm = nn.LayerNorm(dim)
        self.null_kv = nn.Parameter(torch.randn(2, 1, dim_head))
        self.to_q = nn.Linear(dim_hidden, dim_head * heads, bias=False)
        self.to_kv = nn.Linear(dim, dim_head * 2, bias=False)
        self.to_out = nn.Linear(dim_head * heads, dim_hidden, bias=False)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q = self.to_q(self.norm(x)).view(batch, length, self.heads, -1).transpose(1, 2)
        k, v = self.to_kv(self.context_norm(tokens)).chunk(2, dim=-1)
        k = torch.cat((self.null_kv[0].expand(batch, -1, -1), k), dim=1)
        v = torch.cat((self.null_kv[1].expand(batch, -1, -1), v), dim=1)
        k, v = (t[:, None].expand(-1, self.heads, -1, -1) for t in (k, v))
        mask = F.pad(mask, (1, 0), value=True)[:, None, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.to_out(out.transpose(1, 2).reshape(batch, length, -1))


class CrossAttention(nn.Module):
    """Attention of hiddens in any layout, with its residual."""

    def __init__(self, dim: int, dim_hidden: int, channel_first: bool) -> None:
        super().__init__()
        self.channel_first = channel_first
        self.attn = Attention(dim, dim_hidden)

    def forward(self, hiddens: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        if not self.channel_first:
            return hiddens + self.attn(hiddens, tokens, mask)
        return hiddens + picture(self.attn(sequence(hiddens), tokens, mask), hiddens)


def sequence(hiddens: Tensor) -> Tensor:
    """`(b, d, h, w)` as `(b, h * w, d)`."""
    return hiddens.flatten(2).transpose(1, 2)


def picture(x: Tensor, hiddens: Tensor) -> Tensor:
    """`(b, h * w, d)` as the hiddens it came from."""
    return x.transpose(1, 2).reshape(hiddens.shape)


class OnFeature(nn.Module):
    """FiLM or concatenation: one pooled feature per text, and a learned one where there is none."""

    def __init__(self, layer: type[Any], dim_text: int, hidden_dims: Sequence[int], channel_first: bool) -> None:
        super().__init__()
        self.text_embed_stem_mlp = nn.Sequential(nn.Linear(dim_text, dim_text * 2), nn.SiLU())
        self.null_text_embed = nn.Parameter(torch.randn(dim_text))
        self.conditioners = nn.ModuleList(layer(dim_text * 2, dim, channel_first) for dim in hidden_dims)

    def forward(self, encodings: Sequence[TextEncoding], drop: Drop) -> tuple[Tensor, ...]:
        """What every layer is handed beside its hiddens."""
        feature = encodings[0].pooled if len(encodings) == 1 else torch.cat([e.pooled for e in encodings], dim=-1)
        if isinstance(drop, Tensor):
            feature = torch.where(drop, self.null_text_embed, feature)
        elif drop:
            feature = self.null_text_embed.expand(feature.shape)
        return (self.text_embed_stem_mlp(feature),)


class OnTokens(nn.Module):
    """Cross-attention: the tokens of every text, masked out where there is none."""

    def __init__(self, dim_text: int, hidden_dims: Sequence[int], channel_first: bool) -> None:
        super().__init__()
        self.to_latent_dims = nn.ModuleList([nn.Linear(dim_text, dim_text)])
        self.conditioners = nn.ModuleList(CrossAttention(dim_text, dim, channel_first) for dim in hidden_dims)

    def forward(self, encodings: Sequence[TextEncoding], drop: Drop) -> tuple[Tensor, ...]:
        """What every layer is handed beside its hiddens."""
        (encoding,) = encodings
        mask = encoding.mask
        if isinstance(drop, Tensor):
            mask = mask & ~drop
        elif drop:
            mask = torch.zeros_like(mask)
        return self.to_latent_dims[0](encoding.tokens), mask


def conditioner(kind: str, dim_text: int, hidden_dims: Sequence[int], channel_first: bool) -> nn.Module:
    """The conditioning of one network: 'film', 'attention' or 'concat'."""
    if kind == 'attention':
        return OnTokens(dim_text, hidden_dims, channel_first)
    return OnFeature({'film': FiLM, 'concat': Concat}[kind], dim_text, hidden_dims, channel_first)


def guided(network: nn.Module, x: Tensor, t: Tensor, encodings: Sequence[TextEncoding], scale: float | Tensor) -> Tensor:
    """Two forward passes, and `null + scale * (cond - null)` in one kernel."""
    cond = network(x, t, encodings, False)
    null = network(x, t, encodings, True)
    return torch.lerp(null, cond, scale)


def guided_batched(network: nn.Module, x: Tensor, t: Tensor, encodings: Sequence[TextEncoding], scale: float) -> Tensor:
    """The same in one pass on the doubled batch, as diffusers' pipelines do."""
    batch = x.shape[0]
    doubled = [TextEncoding(*(torch.cat((part, part)) for part in (e.tokens, e.mask, e.pooled))) for e in encodings]
    drop = (torch.arange(2 * batch, device=x.device) < batch)[:, None]
    null, cond = network(torch.cat((x, x)), torch.cat((t, t)), doubled, drop).chunk(2)
    return null + scale * (cond - null)
