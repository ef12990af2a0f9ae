"""The embeddings themselves, for networks that condition on text in their own way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from classifier_free_guidance_pytorch.conditioners.base import TextEmbeds
from classifier_free_guidance_pytorch.conditioners.dropout import DropProb
from classifier_free_guidance_pytorch.conditioners.prepared import BranchCondition, CondFns, TextCondReturn
from classifier_free_guidance_pytorch.conditioners.text_source import TextSource
from classifier_free_guidance_pytorch.conditioners.tokens import TokenConditioner, Tokens
from classifier_free_guidance_pytorch.errors import checked
from classifier_free_guidance_pytorch.text import Batch


class TextEmbeddingReturner(TokenConditioner):
    """Return the projected tokens and their mask, with conditional dropout: the network does the rest.

    A call always returns the pair `(cond_fns, TextCondReturn(embed, mask))`; the callables are identities.

    Args:
        dim_latent: Width that the tokens of all encoders are projected to; the widest encoder's by default.
        hidden_dims: Widths for which identity callables are returned, none by default.
        model_types: Text encoder(s): 't5', 'clip', 'bge', 'hf', 'mini', or an object with the encoder interface.
        model_names: A name or local path per encoder, instead of its default model.
        model_kwargs: One dict of encoder options for each encoder.
        cond_drop_prob: Probability in training that a sample loses its text; a tuple drops each encoder independently.
        text_embed_pad_value: What stands in `embed` wherever the mask is False.
        hiddens_channel_first: Accepted for symmetry with the other conditioners; identities have no layout.
        null: A dropped text is masked out and padded ('zeros'), or becomes the tokens of the 'empty' string. There is nothing
            to learn here: the network that reads the mask decides what no text means.

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
    ) -> None:
        source = TextSource.build(model_types, model_names, model_kwargs, text_embed_pad_value)
        super().__init__(hidden_dims, source, cond_drop_prob, hiddens_channel_first, null, dim_latent, text_embed_pad_value)

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

    def condition(self, features: Tokens) -> BranchCondition:
        tokens, mask = features.concatenated()  # (b, n, d), (b, n)
        return BranchCondition((), TextCondReturn(tokens.masked_fill(~mask.unsqueeze(-1), self.text_embed_pad_value), mask))

    def null_condition(self, features: Tokens | None) -> BranchCondition:
        if features is None or self.null == 'empty':
            return self.condition(self.null_features())
        return self.condition(self.drop(features, features.masks[0].new_zeros(features.rows, 1)))
