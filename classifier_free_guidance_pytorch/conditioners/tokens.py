"""Conditioners on the tokens of the text: cross-attention, and raw embeddings for networks with an attention of their own.

tokens  = [Linear_e(tokens of encoder e)]   of one width, behind one another, with their masks
dropped texts are masked out, so that attention finds its null key alone
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifier_free_guidance_pytorch.conditioners.base import Conditioner, Null, check_hidden_dims
from classifier_free_guidance_pytorch.conditioners.dropout import DropProb
from classifier_free_guidance_pytorch.conditioners.prepared import BranchCondition, TextCondReturn
from classifier_free_guidance_pytorch.conditioners.text_source import Encodings, TextSource
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, checked
from classifier_free_guidance_pytorch.layers import CrossAttention


@dataclass(eq=False)
class Tokens:
    """Projected tokens and mask of each encoder: `(b, n_e, dim_latent)` and `(b, n_e)`."""

    per_encoder: tuple[tuple[Tensor, Tensor], ...]

    def joined(self) -> tuple[Tensor, Tensor]:
        """All encoders' tokens behind one another."""
        if len(self.per_encoder) == 1:
            return self.per_encoder[0]
        tokens, masks = zip(*self.per_encoder, strict=True)
        return torch.cat(tokens, dim=1), torch.cat(masks, dim=1)


class TokenConditioner(Conditioner[Tokens]):
    """Condition on the tokens of the text, projected to one width."""

    def __init__(
        self,
        hidden_dims: Sequence[int],
        source: TextSource,
        cond_drop_prob: DropProb,
        hiddens_channel_first: bool | Sequence[bool],
        null: Null,
        dim_latent: int | None,
        text_embed_pad_value: float,
    ) -> None:
        super().__init__(hidden_dims, source, cond_drop_prob, hiddens_channel_first, null)
        if dim_latent is not None and dim_latent < 1:
            raise ConfigError(f'dim_latent is a positive integer, but got {dim_latent}')
        self.dim_latent = max(source.dims_latent) if dim_latent is None else dim_latent
        self.text_embed_pad_value = text_embed_pad_value
        self.to_latent_dims = nn.ModuleList(nn.Linear(dim, self.dim_latent) for dim in source.dims_latent)

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self.to_latent_dims[0].weight  # type: ignore[assignment]
        return weight

    def embed_texts(self, texts: Sequence[str]) -> TextCondReturn:
        """The projected tokens and their mask, as 0.7.1's method returned them (there without the mask).

        The projection is trainable, so these freeze it: store what `encode_texts` returns to train on embeddings.
        """
        tokens, mask = self.read_encodings(self.encode_texts(texts)).joined()
        return TextCondReturn(tokens.masked_fill(~mask.unsqueeze(-1), self.text_embed_pad_value), mask)

    def read_encodings(self, encodings: Encodings) -> Tokens:
        weight = self.weight
        if any(encoding.tokens.shape[1] == 0 for encoding in encodings):
            raise ShapeError(
                f'a {type(self).__name__} reads tokens, and these text_embeds hold pooled features only: store tokens as well, '
                'or condition by FiLM'
            )
        return Tokens(
            tuple(
                (project(encoding.tokens.to(weight)), encoding.mask.to(weight.device))
                for project, encoding in zip(self.to_latent_dims, encodings, strict=True)
            )
        )

    def read_embeds(self, embeds: Tensor | TextCondReturn) -> Tokens:
        embed, mask = embeds if isinstance(embeds, TextCondReturn) else (embeds, None)
        if embed is None or embed.ndim != 3 or embed.shape[-1] != self.dim_latent:
            raise ShapeError(
                f'text_embeds of a {type(self).__name__} holds projected tokens, (b, n, {self.dim_latent}), but got '
                f'{None if embed is None else tuple(embed.shape)}: pass what its own embed_texts or encode_texts returns'
            )
        if mask is None:  # a bare tensor comes without padding; nothing is guessed from its values
            mask = torch.ones(embed.shape[:2], dtype=torch.bool, device=embed.device)
        if mask.shape != embed.shape[:2] or mask.dtype != torch.bool:
            raise ShapeError(
                f'the mask of text_embeds {tuple(embed.shape)} is boolean and of shape {tuple(embed.shape[:2])}, '
                f'but got {mask.dtype} of {tuple(mask.shape)}'
            )
        return Tokens(((embed.to(self.weight), mask.to(self.weight.device)),))

    def nothing(self) -> Tokens:
        weight = self.weight
        mask = torch.zeros(1, 1, dtype=torch.bool, device=weight.device)
        pairs = zip(self.to_latent_dims, self.source.dims_latent, strict=True)
        return Tokens(tuple((project(weight.new_zeros(1, 1, dim)), mask) for project, dim in pairs))

    def count(self, features: Tokens) -> int:
        return features.per_encoder[0][0].shape[0]

    def expand(self, features: Tokens, rows: int) -> Tokens:
        return Tokens(tuple((t.expand(rows, -1, -1), m.expand(rows, -1)) for t, m in features.per_encoder))

    def empty(self) -> Tokens:
        """The tokens of the empty string, for one text."""
        return self.read_encodings(self.source.encode_empty(self.weight.device, self.weight.dtype))

    def drop(self, features: Tokens, keep: Tensor) -> Tokens:
        encoders = len(features.per_encoder)
        if keep.shape[1] > 1 and encoders == 1:
            raise ConfigError(
                'a probability per encoder cannot drop the encoders of embed_texts apart, since their tokens are joined: '
                'pass what encode_texts returns, or one cond_drop_prob'
            )
        columns = keep.expand(-1, encoders).unbind(dim=1)
        if self.null != 'empty':
            return Tokens(tuple((t, mask & k.unsqueeze(1)) for (t, mask), k in zip(features.per_encoder, columns, strict=True)))
        empty = self.empty() if len(self.to_latent_dims) == encoders else Tokens((self.empty().joined(),))
        pairs = zip(features.per_encoder, empty.per_encoder, columns, strict=True)
        return Tokens(tuple(_where(k, kept, dropped) for kept, dropped, k in pairs))


def _where(keep: Tensor, kept: tuple[Tensor, Tensor], dropped: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Tokens and mask of `kept` where `keep` `(b,)`, else the one row of `dropped`, both padded to the longer."""
    longest = max(kept[0].shape[1], dropped[0].shape[1])
    (kept_tokens, kept_mask), (null_tokens, null_mask) = (
        (F.pad(t, (0, 0, 0, longest - t.shape[1])), F.pad(m, (0, longest - m.shape[1]))) for t, m in (kept, dropped)
    )
    return torch.where(keep[:, None, None], kept_tokens, null_tokens), torch.where(keep[:, None], kept_mask, null_mask)


class AttentionTextConditioner(TokenConditioner):
    """Cross-attention: every position of the hiddens attends to the tokens of its text.

    `hiddens + out(softmax(q k^T / sqrt(attn_dim_head)) v)`, with a null key and value before the tokens'.

    Args:
        hidden_dims: width of each of the hiddens to condition; a call returns one callable for each.
        model_types: text encoder(s): 't5', 'clip', 'bge', 'hf', 'mini', or an object with the encoder interface.
        model_names: a name or local path per encoder, in place of its default model.
        cond_drop_prob: probability in training that a sample loses its text; a tuple drops each encoder independently.
        hiddens_channel_first: `(b, d, ...)` (True) or `(b, ..., d)`; one for all hiddens, or one for each.
        dim_latent: width that the tokens of all encoders are projected to; the widest encoder's by default.
        attn_dim_head: width of an attention head.
        attn_heads: number of query heads; they share one key/value head.
        flash: use the fused attention kernels; False writes the softmax out.
        text_embed_pad_value: what `embed_texts` writes where there is no token.
        model_kwargs: one dict of encoder options for each encoder (`pretrained`, `dtype`, `device`, `pooling`, ...).
        null: what a dropped text leaves: a 'learned' key and value, 'zeros' (attention adds nothing), or the tokens of the
            'empty' string.

    Raises:
        ConfigError: an unknown type, name or option, or a value out of range.
        MissingDependencyError: an encoder that cannot be found.

    Example:
        >>> conditioner = AttentionTextConditioner(hidden_dims=(64,), model_types='mini')
        >>> (condition,) = conditioner(['a small red circle', 'two blue squares'])
        >>> condition(torch.randn(2, 64, 8, 8)).shape
        torch.Size([2, 64, 8, 8])
    """

    @checked
    def __init__(
        self,
        hidden_dims: Sequence[int],
        model_types: Any = 't5',
        model_names: Any = None,
        cond_drop_prob: float | Sequence[float] = 0.0,
        hiddens_channel_first: bool | Sequence[bool] = True,
        dim_latent: int | None = None,
        attn_dim_head: int = 64,
        attn_heads: int = 8,
        flash: bool = True,
        text_embed_pad_value: float = 0.0,
        model_kwargs: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
        null: Null = 'learned',
    ) -> None:
        check_hidden_dims(hidden_dims)
        if attn_dim_head < 1 or attn_heads < 1:
            raise ConfigError(f'attn_dim_head and attn_heads are positive integers, but got {attn_dim_head} and {attn_heads}')
        source = TextSource(model_types, model_names, model_kwargs, text_embed_pad_value)
        super().__init__(hidden_dims, source, cond_drop_prob, hiddens_channel_first, null, dim_latent, text_embed_pad_value)
        self.conditioners.extend(
            CrossAttention(self.dim_latent, hidden, attn_dim_head, attn_heads, flash, learned_null=null != 'zeros')
            for hidden in self.hidden_dims
        )

    def condition(self, features: Tokens) -> BranchCondition:
        tokens, mask = features.joined()
        layers: Iterable[Any] = self.conditioners
        return BranchCondition(tuple(layer.condition(tokens, mask) for layer in layers), TextCondReturn(tokens, mask))

    def check_attention(self) -> None:
        pass

    def extrapolated(
        self, cond: BranchCondition, null: BranchCondition, combine: Callable[[Tensor, Tensor], Tensor]
    ) -> BranchCondition:
        layers: Iterable[Any] = zip(self.conditioners, cond.layers, null.layers, strict=True)
        return BranchCondition(tuple(layer.extrapolated(c, n, combine) for layer, c, n in layers), cond.text_cond)

    def null_branch(self, features: Tokens | None = None) -> BranchCondition:
        if self.null == 'empty':
            return self.condition(self.empty())
        like = self.weight if features is None else features.per_encoder[0][0]  # autocast may have chosen another dtype for it
        text_cond = TextCondReturn(like.new_zeros(1, 1, self.dim_latent), like.new_zeros(1, 1, dtype=torch.bool))
        layers: Iterable[Any] = self.conditioners
        return BranchCondition(tuple(layer.null_condition() for layer in layers), text_cond)
