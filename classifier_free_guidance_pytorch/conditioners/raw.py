"""The embeddings themselves, for networks that condition on text in their own way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from classifier_free_guidance_pytorch.conditioners.base import TextEmbeds
from classifier_free_guidance_pytorch.conditioners.dropout import DropProb
from classifier_free_guidance_pytorch.conditioners.prepared import BranchCondition, CondFns, RawTextCond, TextCondReturn
from classifier_free_guidance_pytorch.conditioners.text_source import Encodings, TextSource
from classifier_free_guidance_pytorch.conditioners.tokens import TokenConditioner, Tokens
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, checked
from classifier_free_guidance_pytorch.text import Batch


@dataclass(eq=False)
class TokensAndPooled(Tokens):
    """Tokens, and the pooled feature of each encoder, `(b, dim_pooled)`, where it is known."""

    pooled: tuple[Tensor, ...] | None


class TextEmbeddingReturner(TokenConditioner):
    """Return the projected tokens and their mask, with conditional dropout: the network does the rest.

    A call always returns the pair `(cond_fns, TextCondReturn(embed, mask))`; the callables are identities.

    Args:
        dim_latent: Width that the tokens of all encoders are projected to; the widest encoder's by default.
        hidden_dims: Widths for which identity callables are returned, none by default.
        model_types: Text encoder(s): 't5', 'clip', 'bge', 'hf', 'english', 'mini', or an object with the encoder interface.
        model_names: A name or local path per encoder, instead of its default model.
        model_kwargs: One dict of encoder options for each encoder.
        cond_drop_prob: Probability in training that a sample loses its text; a tuple drops each encoder independently.
        text_embed_pad_value: What stands in `embed` wherever the mask is False.
        hiddens_channel_first: Accepted for symmetry with the other conditioners; identities have no layout.
        null: A dropped text is masked out and padded ('zeros'), or becomes the tokens of the 'empty' string. There is nothing
            to learn here: the network that reads the mask decides what no text means.
        pad_to: Number of tokens that every text is padded to, for networks that read no mask: without it the number of tokens
            is that of the longest text of the batch, and such a network would read the padding.
        reads_scale: Let tokens and pooled feature depend on the guidance scale as well, for guidance in one pass; see `training`.

    Raises:
        ConfigError: An unknown type, name or option, or a value out of range.
        MissingDependencyError: An encoder that cannot be found.

    Example:
        >>> returner = TextEmbeddingReturner(model_types='mini', dim_latent=32)
        >>> _, (embed, mask) = returner(['a small red circle', 'two blue squares'])
        >>> embed.shape[-1], mask.dtype
        (32, torch.bool)
    """

    return_text_cond: ClassVar[bool] = True
    null_depends_on_text: ClassVar[bool] = True

    @checked
    def __init__(
        self,
        dim_latent: int | None = None,
        hidden_dims: Sequence[int] = (),
        model_types: Any = 't5',
        model_names: Any = None,
        model_kwargs: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
        cond_drop_prob: float | Sequence[float] = 0.0,
        text_embed_pad_value: float = 0.0,
        hiddens_channel_first: bool | Sequence[bool] = True,
        null: Literal['zeros', 'empty'] = 'zeros',
        pad_to: int | None = None,
        reads_scale: bool = False,
    ) -> None:
        if pad_to is not None and pad_to < 1:
            raise ConfigError(f'pad_to is the number of tokens that every text is padded to, at least 1, but got {pad_to}')
        source = TextSource.build(model_types, model_names, model_kwargs, text_embed_pad_value)
        super().__init__(hidden_dims, source, cond_drop_prob, hiddens_channel_first, null, dim_latent, text_embed_pad_value)
        self.pad_to = pad_to
        if reads_scale:
            widths = (self.dim_latent, sum(source.dims_pooled))
            self.add_scale_input(*[width for width in widths if width])  # there may be no pooled feature

    if TYPE_CHECKING:

        def __call__(  # type: ignore[override]  # always the pair
            self,
            texts: Batch[str] | None = None,
            text_embeds: TextEmbeds | None = None,
            *,
            cond_drop_prob: DropProb | None = None,
            repeat_batch: int | Sequence[int] = 1,
            return_text_cond: bool | None = None,
        ) -> tuple[CondFns, TextCondReturn]: ...

    def read_encodings(self, encodings: Encodings) -> TokensAndPooled:
        read, put = super().read_encodings(encodings), self.place.put
        pooled = tuple(put(encoding.pooled) for encoding in encodings)
        return TokensAndPooled(read.tokens, read.masks, pooled)

    def null_features(self) -> Tokens:
        null = super().null_features()
        if isinstance(null, TokensAndPooled):  # the tokens of the empty string were read
            return null
        return TokensAndPooled(null.tokens, null.masks, tuple(self.place.zeros(1, dim) for dim in self.source.dims_pooled))

    def drop(self, features: Tokens, keep: Tensor) -> TokensAndPooled:
        dropped = super().drop(features, keep)
        if not isinstance(features, TokensAndPooled) or features.pooled is None:  # what embed_texts returned is of tokens alone
            return TokensAndPooled(dropped.tokens, dropped.masks, None)
        columns = torch.split(keep.expand(-1, len(features.pooled)), 1, dim=1)  # one (b, 1) per encoder
        if self.null == 'empty':
            empty = self.read_encodings(self.source.encode_empty(self.place))
            nulls = empty.pooled or ()
        else:
            nulls = tuple(pooled.new_zeros(1, 1) for pooled in features.pooled)
        parts = zip(columns, features.pooled, nulls, strict=True)  # encodings of tokens alone have pooled features of width 0
        pooled = tuple(torch.where(keep, feature, null[:, : feature.shape[1] or 1]) for keep, feature, null in parts)
        return TokensAndPooled(dropped.tokens, dropped.masks, pooled)

    def text_cond(self, features: Tokens) -> RawTextCond:
        tokens, mask = features.concatenated()  # (b, n, d), (b, n)
        if self.pad_to is not None:
            tokens, mask = self._padded(tokens, mask)
        embed = tokens.masked_fill(~mask.unsqueeze(-1), self.text_embed_pad_value)
        pooled = features.pooled if isinstance(features, TokensAndPooled) else None
        return RawTextCond.of(embed, mask, None if pooled is None else torch.cat(pooled, dim=-1))

    def shifted(self, text_cond: TextCondReturn, added: Sequence[Tensor]) -> RawTextCond:
        (embed, mask), pooled = super().shifted(text_cond, added), text_cond.pooled
        assert embed is not None
        assert mask is not None
        embed = embed.masked_fill(~mask.unsqueeze(-1), self.text_embed_pad_value)
        return RawTextCond.of(embed, mask, pooled if pooled is None or len(added) == 1 else pooled + added[1])

    def _padded(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens and mask with `pad_to` tokens.

        Raises:
            ShapeError: There are more.
        """
        assert self.pad_to is not None
        more = self.pad_to - tokens.shape[1]
        if more < 0:
            raise ShapeError(
                f'the texts have {tokens.shape[1]} tokens, but pad_to={self.pad_to}: raise it, up to max_cond_text_len='
                f'{self.max_text_len}, or give the encoder a max_length in model_kwargs'
            )
        return F.pad(tokens, (0, 0, 0, more)), F.pad(mask, (0, more))

    def null_condition(self, features: Tokens | None) -> BranchCondition:
        if features is None or self.null == 'empty':
            return self.condition(self.null_features())
        return self.condition(self.drop(features, features.masks[0].new_zeros(features.rows, 1)))
