"""Conditioners on one pooled feature per text: FiLM and concatenation.

feature = [pooled of every encoder]         or the null in its place
stem    = SiLU(Linear(feature))
hiddens <- layer(stem, hiddens)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from classifier_free_guidance_pytorch.conditioners.base import Null
from classifier_free_guidance_pytorch.conditioners.checks import check_hidden_dims
from classifier_free_guidance_pytorch.conditioners.dropout import DropProb
from classifier_free_guidance_pytorch.conditioners.prepared import TextCondReturn
from classifier_free_guidance_pytorch.conditioners.reader import TextReader
from classifier_free_guidance_pytorch.conditioners.text_source import Encodings, TextSource
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, checked
from classifier_free_guidance_pytorch.layers import Concat, Condition, FiLM, Place, place_of
from classifier_free_guidance_pytorch.rows import Rows
from classifier_free_guidance_pytorch.text import Batch


@dataclass(eq=False)
class Pooled(Rows):
    """The pooled features of all encoders side by side, `(b, sum of dim_pooled)`."""

    feature: Tensor


class PooledReader(TextReader[Pooled]):
    """Read the pooled features of the texts, with the null where there is none."""

    def __init__(
        self,
        hidden_dims: Sequence[int],
        source: TextSource,
        cond_drop_prob: DropProb,
        hiddens_channel_first: bool | Sequence[bool],
        null: Null,
    ) -> None:
        if 0 in source.dims_pooled:
            raise ConfigError(
                f'a {type(self).__name__} reads pooled features, and model_types has none of them: pass dim_pooled='
            )
        super().__init__(hidden_dims, source, cond_drop_prob, hiddens_channel_first, null)
        self.dim_pooled = sum(source.dims_pooled)
        if null == 'learned':
            self.null_text_embed = nn.Parameter(torch.randn(self.dim_pooled))

    def embed_texts(self, texts: Batch[str]) -> Tensor:
        """Return the pooled features of all encoders side by side, `(b, sum of dim_pooled)`; frozen, safe to store."""
        return self.read_encodings(self.encode_texts(texts)).feature

    def read_encodings(self, encodings: Encodings) -> Pooled:
        pooled = [encoding.pooled for encoding in encodings]
        if any(feature.shape[-1] == 0 for feature in pooled):
            raise ShapeError(
                f'a {type(self).__name__} reads pooled features, and these text_embeds hold tokens only: store pooled features '
                'as well, or condition by attention'
            )
        return self.read_embeds(pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=-1))  # (b, dim)

    def read_embeds(self, embeds: Tensor | TextCondReturn) -> Pooled:
        if not isinstance(embeds, Tensor) or embeds.ndim != 2 or embeds.shape[-1] != self.dim_pooled:
            got = tuple(embeds.shape) if isinstance(embeds, Tensor) else 'a pair (embed, mask)'
            raise ShapeError(
                f'text_embeds of a {type(self).__name__} is one pooled feature per text, (b, {self.dim_pooled}), but got '
                f'{got}: pass what its own embed_texts or encode_texts returns'
            )
        return Pooled(self.place.put(embeds))

    def null_features(self) -> Pooled:
        if self.null == 'learned':
            return Pooled(nn.Module.__call__(self, PooledReader.learned_null))
        if self.null == 'zeros':
            return Pooled(self.place.zeros(1, self.dim_pooled))
        return self.read_encodings(self.source.encode_empty(self.place))

    def learned_null(self) -> Tensor:
        """Return the learned feature of no text, `(1, dim)`."""
        return self.place.put(self.null_text_embed.unsqueeze(0))

    def drop(self, features: Pooled, keep: Tensor) -> Pooled:
        if keep.shape[1] > 1:  # one column per encoder, as wide as its feature
            columns = [keep[:, e, None].expand(-1, dim) for e, dim in enumerate(self.source.dims_pooled)]
            keep = torch.cat(columns, dim=1)  # (b, dim)
        null = self.null_features().feature.to(features.feature.dtype)
        return Pooled(torch.where(keep, features.feature, null))


class PooledConditioner(PooledReader):
    """Condition hiddens on one feature per text. `layer` says how."""

    layer: ClassVar[type[FiLM] | type[Concat]]

    @checked
    def __init__(
        self,
        hidden_dims: Sequence[int],
        model_types: Any = 't5',
        model_names: Any = None,
        cond_drop_prob: float | Sequence[float] = 0.0,
        hiddens_channel_first: bool | Sequence[bool] = True,
        text_embed_stem_dim_mult: int = 2,
        text_embed_pad_value: float = 0.0,
        model_kwargs: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
        null: Null = 'learned',
        reads_scale: bool = False,
    ) -> None:
        check_hidden_dims(hidden_dims)
        if text_embed_stem_dim_mult < 1:
            raise ConfigError(f'text_embed_stem_dim_mult is a positive integer, but got {text_embed_stem_dim_mult}')
        source = TextSource.build(model_types, model_names, model_kwargs, text_embed_pad_value)
        super().__init__(hidden_dims, source, cond_drop_prob, hiddens_channel_first, null)
        self.dim_latent = dim = self.dim_pooled
        self.text_embed_stem_mlp = nn.Sequential(nn.Linear(dim, dim * text_embed_stem_dim_mult), nn.SiLU())
        self.conditioners.extend(type(self).layer(dim * text_embed_stem_dim_mult, hidden) for hidden in self.hidden_dims)
        if reads_scale:
            self.add_scale_input(dim * text_embed_stem_dim_mult)

    @property
    def place(self) -> Place:
        return place_of(self.text_embed_stem_mlp, self)

    def text_cond(self, features: Pooled) -> TextCondReturn:
        return TextCondReturn(self.text_embed_stem_mlp(features.feature), None)  # (b, mult * dim)

    def layer_conditions(self, text_cond: TextCondReturn) -> tuple[Condition, ...]:
        layers: Iterable[Any] = self.conditioners
        return tuple(layer.condition(text_cond.embed) for layer in layers)


class TextConditioner(PooledConditioner):
    """FiLM: modulate every channel of the hiddens by the text (arXiv 1709.07871), `hiddens * (scale + 1) + shift`.

    Args:
        hidden_dims: Width of each of the hiddens to condition; a call returns one callable for each.
        model_types: Text encoder(s): 't5', 'clip', 'bge', 'hf', 'english', 'mini', or an object with the encoder interface.
        model_names: A name or local path per encoder, instead of its default model.
        cond_drop_prob: Probability in training that a sample loses its text; a tuple drops each encoder independently.
        hiddens_channel_first: `(b, d, ...)` (True) or `(b, ..., d)`; one for all hiddens, or one for each.
        text_embed_stem_dim_mult: Width of the stem, in multiples of the pooled feature's.
        text_embed_pad_value: What the encoders' `embed_text(..., return_text_encodings=True)` writes where there is no token.
        model_kwargs: One dict of encoder options for each encoder (`pretrained`, `dtype`, `device`, `pooling`, ...).
        null: What dropped text becomes: a 'learned' feature, 'zeros', or the encoding of the 'empty' string.
        reads_scale: Let the conditions depend on the guidance scale as well, for guidance in one pass; see `training`.

    Raises:
        ConfigError: An unknown type, name or option, or a value out of range.
        MissingDependencyError: An encoder that cannot be found.

    Example:
        >>> conditioner = TextConditioner(hidden_dims=(256, 512), model_types='mini', hiddens_channel_first=False)
        >>> first, second = conditioner(['a small red circle'])
        >>> first(torch.randn(1, 16, 256)).shape
        torch.Size([1, 16, 256])
    """

    layer = FiLM


class ConcatTextConditioner(PooledConditioner):
    """Concatenation: join the text feature to the hidden feature at every position, and project back to the hidden width.

    `hiddens + out(SiLU(joint([norm(hiddens), feature])))`; starts as a no-op. Arguments as for `TextConditioner`.

    Example:
        >>> conditioner = ConcatTextConditioner(hidden_dims=(64,), model_types='mini')
        >>> (condition,) = conditioner(['a small red circle'])
        >>> condition(torch.randn(1, 64, 8, 8)).shape
        torch.Size([1, 64, 8, 8])
    """

    layer = Concat
