"""One vector per sample, for networks that add it to their time embedding: `emb = time_embed(t) + raw_text_cond.pooled`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from classifier_free_guidance_pytorch.conditioners.base import Null, TextEmbeds
from classifier_free_guidance_pytorch.conditioners.dropout import DropProb
from classifier_free_guidance_pytorch.conditioners.pooled import Pooled, PooledReader
from classifier_free_guidance_pytorch.conditioners.prepared import CondFns, RawTextCond, TextCondReturn
from classifier_free_guidance_pytorch.conditioners.text_source import TextSource
from classifier_free_guidance_pytorch.errors import ConfigError, checked
from classifier_free_guidance_pytorch.layers import Place, place_of
from classifier_free_guidance_pytorch.text import Batch


class PooledEmbeddingReturner(PooledReader):
    """Return one vector per text, with conditional dropout: the network adds it where it adds its time embedding.

    A call always returns the pair `(cond_fns, text_cond)`, with the vector as `text_cond.pooled` and as `text_cond.embed`; the
    callables are identities.

    Args:
        dim_latent: Width that the pooled features of all encoders are projected to, without a bias; None hands them on as they
            are, side by side.
        hidden_dims: Widths for which identity callables are returned, none by default.
        model_types: Text encoder(s): 't5', 'clip', 'bge', 'hf', 'english', 'mini', or an object with the encoder interface.
        model_names: A name or local path per encoder, instead of its default model.
        model_kwargs: One dict of encoder options for each encoder.
        cond_drop_prob: Probability in training that a sample loses its text; a tuple drops each encoder independently.
        hiddens_channel_first: Accepted for symmetry with the other conditioners; identities have no layout.
        null: What dropped text becomes: a 'learned' feature, 'zeros' (a vector of zeros), or that of the 'empty' string.
        reads_scale: Let the vector depend on the guidance scale as well, for guidance in one pass; see `training`.

    Raises:
        ConfigError: An unknown type, name or option, or a value out of range.
        MissingDependencyError: An encoder that cannot be found.

    Example:
        >>> returner = PooledEmbeddingReturner(model_types='mini', dim_latent=32)
        >>> _, text_cond = returner(['a small red circle', 'two blue squares'])
        >>> text_cond.pooled.shape
        torch.Size([2, 32])
    """

    return_text_cond: ClassVar[bool] = True

    @checked
    def __init__(
        self,
        dim_latent: int | None = None,
        hidden_dims: Sequence[int] = (),
        model_types: Any = 't5',
        model_names: Any = None,
        model_kwargs: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
        cond_drop_prob: float | Sequence[float] = 0.0,
        hiddens_channel_first: bool | Sequence[bool] = True,
        null: Null = 'learned',
        reads_scale: bool = False,
    ) -> None:
        if dim_latent is not None and dim_latent < 1:
            raise ConfigError(f'dim_latent is a positive integer, but got {dim_latent}')
        source = TextSource.build(model_types, model_names, model_kwargs, 0.0)
        super().__init__(hidden_dims, source, cond_drop_prob, hiddens_channel_first, null)
        self.dim_latent = self.dim_pooled if dim_latent is None else dim_latent
        self.project = nn.Identity() if dim_latent is None else nn.Linear(self.dim_pooled, dim_latent, bias=False)
        # says where this was moved, if there are no weights; no buffer, which may be lost
        self._moved = torch.empty(0, device='cpu')
        if reads_scale:
            self.add_scale_input(self.dim_latent)

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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        moved = fn(self._moved)
        self._moved = self._moved if moved.is_meta else moved
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    @property
    def place(self) -> Place:
        return place_of(self.project, self)

    def text_cond(self, features: Pooled) -> RawTextCond:
        vector = self.project(features.feature)  # (b, d)
        return RawTextCond.of(vector, None, vector)

    def shifted(self, text_cond: TextCondReturn, added: Sequence[Tensor]) -> RawTextCond:
        vector = super().shifted(text_cond, added).embed
        return RawTextCond.of(vector, None, vector)
