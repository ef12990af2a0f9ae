"""Conditioners on the tokens of the text: cross-attention, and raw embeddings for networks with an attention of their own.

tokens  = [Linear_e(tokens of encoder e)]   of one width, behind one another, with their masks
dropped texts are masked out, so that attention finds its null key alone
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifier_free_guidance_pytorch.conditioners.base import Null
from classifier_free_guidance_pytorch.conditioners.checks import check_hidden_dims
from classifier_free_guidance_pytorch.conditioners.dropout import DropProb
from classifier_free_guidance_pytorch.conditioners.prepared import BranchCondition, TextCondReturn
from classifier_free_guidance_pytorch.conditioners.reader import TextReader
from classifier_free_guidance_pytorch.conditioners.text_source import Encodings, TextSource
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, checked
from classifier_free_guidance_pytorch.layers import Condition, CrossAttention, Place, place_of
from classifier_free_guidance_pytorch.rows import Rows
from classifier_free_guidance_pytorch.text import Batch, TextEncoding


@dataclass(eq=False)
class Tokens(Rows):
    """Projected tokens `(b, n_e, dim_latent)` and mask `(b, n_e)` of each encoder."""

    tokens: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]

    def concatenated(self) -> tuple[Tensor, Tensor]:
        """Return all encoders' tokens one after the other, and their mask."""
        if len(self.tokens) == 1:
            return self.tokens[0], self.masks[0]
        return torch.cat(self.tokens, dim=1), torch.cat(self.masks, dim=1)


class TokenConditioner(TextReader[Tokens]):
    """Condition on the tokens of the text, projected to one width."""

    # 0.7.1's `embed_texts` returned the padded tensor alone, whose mask was found again by the pad value: see `compat`
    mask_from_pad_value: ClassVar[bool] = False

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
        if 0 in source.dims_latent:
            raise ConfigError(f'a {type(self).__name__} reads tokens, and model_types has none of them: pass dim_latent=')
        if dim_latent is not None and dim_latent < 1:
            raise ConfigError(f'dim_latent is a positive integer, but got {dim_latent}')
        self.dim_latent = max(source.dims_latent) if dim_latent is None else dim_latent
        self.text_embed_pad_value = text_embed_pad_value
        self.to_latent_dims = nn.ModuleList(nn.Linear(dim, self.dim_latent) for dim in source.dims_latent)

    @property
    def place(self) -> Place:
        return place_of(self.to_latent_dims, self)

    def embed_texts(self, texts: Batch[str]) -> Tensor | TextCondReturn:
        """Return the projected tokens and their mask, as 0.7.1's method did (there without the mask).

        The projection is trainable, so these freeze it: store what `encode_texts` returns to train on embeddings.
        """
        tokens, mask = self.read_encodings(self.encode_texts(texts)).concatenated()
        padded = tokens.masked_fill(~mask.unsqueeze(-1), self.text_embed_pad_value)
        return padded if self.mask_from_pad_value else TextCondReturn(padded, mask)

    def read_encodings(self, encodings: Encodings) -> Tokens:
        place = self.place
        if any(encoding.tokens.shape[1] == 0 for encoding in encodings):
            raise ShapeError(
                f'a {type(self).__name__} reads tokens, and these text_embeds hold pooled features only: store tokens as well, '
                'or condition by FiLM'
            )
        pairs = zip(self.to_latent_dims, encodings, strict=True)
        tokens = tuple(project(place.put(encoding.tokens)) for project, encoding in pairs)
        return Tokens(tokens, tuple(encoding.mask.to(place.device) for encoding in encodings))

    def read_embeds(self, embeds: Tensor | TextCondReturn) -> Tokens:
        embed, mask = embeds if isinstance(embeds, TextCondReturn) else (embeds, None)
        if embed is not None and embed.ndim == 3 and embed.shape[-1] in self.source.dims_latent:
            if self.source.is_precomputed or (mask is None and embed.shape[-1] != self.dim_latent):
                return self.read_encodings(self.source.checked([TextEncoding.of(embed, mask=mask)]))
            if mask is None and not self.mask_from_pad_value:
                raise ShapeError(
                    f'text_embeds {tuple(embed.shape)} is a bare tensor, which can be the tokens of the encoder or what '
                    f'embed_texts makes of them, both {self.dim_latent} wide: pass TextEncoding.of(tokens, mask=mask) for tokens '
                    'of the encoder, or (embed, mask) as embed_texts returns them'
                )
        if embed is None or embed.ndim != 3 or embed.shape[-1] != self.dim_latent:
            raise ShapeError(
                f'text_embeds of a {type(self).__name__} holds projected tokens, (b, n, {self.dim_latent}), but got '
                f'{None if embed is None else tuple(embed.shape)}: pass what its own embed_texts or encode_texts returns'
            )
        if mask is None and self.mask_from_pad_value:
            mask = (embed != self.text_embed_pad_value).any(dim=-1)  # (b, n)
        elif mask is None:  # a bare tensor comes without padding; nothing is guessed from its values
            mask = torch.ones(embed.shape[:2], dtype=torch.bool, device=embed.device)
        if mask.shape != embed.shape[:2] or mask.dtype != torch.bool:
            raise ShapeError(
                f'the mask of text_embeds {tuple(embed.shape)} is boolean and of shape {tuple(embed.shape[:2])}, '
                f'but got {mask.dtype} of {tuple(mask.shape)}'
            )
        place = self.place
        embed = place.put(embed)
        if self.training:  # the projection has no part in these tokens, but every parameter needs a gradient, if only zero
            unused = torch.stack(self.null_tokens(place)).sum(dim=0)  # (1, 1, d)
            embed = torch.where(torch.ones(1, 1, 1, dtype=torch.bool, device=place.device), embed, unused)
        return Tokens((embed,), (mask.to(place.device),))

    def null_features(self) -> Tokens:
        place = self.place
        if self.null == 'empty':
            return self.read_encodings(self.source.encode_empty(place))
        masks = tuple(torch.zeros(1, 1, dtype=torch.bool, device=place.device) for _ in self.to_latent_dims)
        return Tokens(self.null_tokens(place), masks)

    def null_tokens(self, place: Place) -> tuple[Tensor, ...]:
        """Return a projected token of zeros for each encoder, `(1, 1, d)`."""
        pairs = zip(self.to_latent_dims, self.source.dims_latent, strict=True)
        return tuple(project(place.zeros(1, 1, dim)) for project, dim in pairs)

    def drop(self, features: Tokens, keep: Tensor) -> Tokens:
        encoders = len(features.tokens)
        if keep.shape[1] > 1 and encoders == 1:
            raise ConfigError(
                'a probability per encoder cannot drop the encoders of embed_texts apart, since their tokens are joined: '
                'pass what encode_texts returns, or one cond_drop_prob'
            )
        columns = keep.expand(-1, encoders).unbind(dim=1)  # one (b,) per encoder
        if self.null != 'empty':
            return Tokens(features.tokens, tuple(m & k.unsqueeze(1) for m, k in zip(features.masks, columns, strict=True)))
        null = self.null_features()
        if len(null.tokens) != encoders:  # what embed_texts returned is joined, so the null is too
            null_tokens, null_mask = null.concatenated()
            null = Tokens((null_tokens,), (null_mask,))
        parts = zip(columns, features.tokens, features.masks, null.tokens, null.masks, strict=True)
        tokens, masks = zip(*(_where(*part) for part in parts), strict=True)
        return Tokens(tokens, masks)


def _where(keep: Tensor, tokens: Tensor, mask: Tensor, null_tokens: Tensor, null_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return tokens and mask where `keep` `(b,)`, else the one row of the null, both padded to the longer."""
    longest = max(tokens.shape[1], null_tokens.shape[1])
    tokens, null_tokens = (F.pad(t, (0, 0, 0, longest - t.shape[1])) for t in (tokens, null_tokens))
    mask, null_mask = (F.pad(m, (0, longest - m.shape[1])) for m in (mask, null_mask))
    return torch.where(keep[:, None, None], tokens, null_tokens), torch.where(keep[:, None], mask, null_mask)


class AttentionTextConditioner(TokenConditioner):
    """Cross-attention: every position of the hiddens attends to the tokens of its text.

    `hiddens + out(softmax(q k^T / sqrt(attn_dim_head)) v)`, with a null key and value before the tokens'.

    Args:
        hidden_dims: Width of each of the hiddens to condition; a call returns one callable for each.
        model_types: Text encoder(s): 't5', 'clip', 'bge', 'hf', 'english', 'mini', or an object with the encoder interface.
        model_names: A name or local path per encoder, instead of its default model.
        cond_drop_prob: Probability in training that a sample loses its text; a tuple drops each encoder independently.
        hiddens_channel_first: `(b, d, ...)` (True) or `(b, ..., d)`; one for all hiddens, or one for each.
        dim_latent: Width that the tokens of all encoders are projected to; the widest encoder's by default.
        attn_dim_head: Width of an attention head.
        attn_heads: Number of query heads; they share one key/value head.
        flash: Use the fused attention kernels; False writes the softmax out.
        text_embed_pad_value: What `embed_texts` writes where there is no token.
        model_kwargs: One dict of encoder options for each encoder (`pretrained`, `dtype`, `device`, `pooling`, ...).
        null: What a dropped text leaves: a 'learned' key and value, 'zeros' (attention adds nothing), or the tokens of the
            'empty' string.
        reads_scale: Let the conditions depend on the guidance scale as well, for guidance in one pass; see `training`.

    Raises:
        ConfigError: An unknown type, name or option, or a value out of range.
        MissingDependencyError: An encoder that cannot be found.

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
        reads_scale: bool = False,
    ) -> None:
        check_hidden_dims(hidden_dims)
        if attn_dim_head < 1 or attn_heads < 1:
            raise ConfigError(f'attn_dim_head and attn_heads are positive integers, but got {attn_dim_head} and {attn_heads}')
        source = TextSource.build(model_types, model_names, model_kwargs, text_embed_pad_value)
        super().__init__(hidden_dims, source, cond_drop_prob, hiddens_channel_first, null, dim_latent, text_embed_pad_value)
        self.conditioners.extend(
            CrossAttention(self.dim_latent, hidden, attn_dim_head, attn_heads, flash, learned_null=null != 'zeros')
            for hidden in self.hidden_dims
        )
        if reads_scale:
            self.add_scale_input(self.dim_latent)

    def text_cond(self, features: Tokens) -> TextCondReturn:
        return TextCondReturn(*features.concatenated())  # (b, n, d), (b, n)

    def layer_conditions(self, text_cond: TextCondReturn) -> tuple[Condition, ...]:
        layers: Iterable[Any] = self.conditioners
        return tuple(layer.condition(*text_cond) for layer in layers)

    def null_condition(self, features: Tokens | None) -> BranchCondition:
        if self.null == 'empty':
            return self.condition(self.null_features())
        (device, dtype), layers = self.place, cast(Iterable[Any], self.conditioners)
        if torch.is_autocast_enabled(device.type) and dtype is not torch.float64:  # which projected tokens would have
            dtype = torch.get_autocast_dtype(device.type)
        embed = torch.zeros(1, 1, self.dim_latent, device=device, dtype=dtype)  # (1, 1, d)
        text_cond = TextCondReturn(embed, torch.zeros(1, 1, device=device, dtype=torch.bool))
        return BranchCondition(tuple(layer.null_condition() for layer in layers), text_cond)

    def check_attention(self) -> None:
        pass

    def extrapolated(
        self, cond: BranchCondition, null: BranchCondition, combine: Callable[[Tensor, Tensor], Tensor]
    ) -> BranchCondition:
        layers: Iterable[Any] = zip(self.conditioners, cond.layers, null.layers, strict=True)
        return BranchCondition(tuple(layer.extrapolated(c, n, combine) for layer, c, n in layers), cond.text_cond)
