"""No text at all: the same network, the same call, as a baseline."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from classifier_free_guidance_pytorch.conditioners.base import Conditioner, TextEmbeds
from classifier_free_guidance_pytorch.conditioners.checks import check_hidden_dims, check_repeat
from classifier_free_guidance_pytorch.conditioners.dropout import DropProb
from classifier_free_guidance_pytorch.conditioners.pooled import TextConditioner
from classifier_free_guidance_pytorch.conditioners.prepared import BranchCondition, TextCondReturn
from classifier_free_guidance_pytorch.conditioners.raw import TextEmbeddingReturner
from classifier_free_guidance_pytorch.conditioners.text_source import Encodings, Texts, TextSource
from classifier_free_guidance_pytorch.conditioners.tokens import AttentionTextConditioner
from classifier_free_guidance_pytorch.conditioners.vector import PooledEmbeddingReturner
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError, checked
from classifier_free_guidance_pytorch.text import Batch


class NullConditioner(Conditioner):
    """Identity callables, one per hidden dimension: switches text conditioning off and leaves everything else in place.

    So that one configuration can be run with and without text, texts and the arguments of the other conditioners are accepted
    here and have no effect, by design; no encoder is loaded.

    Args:
        hidden_dims: Width of each of the hiddens, or none; a call returns one identity for each.
        **unused: Arguments of the other conditioners.

    Raises:
        ConfigError: An argument that no conditioner has, or hidden dimensions that are no positive integers.

    Example:
        >>> import torch
        >>> (identity,) = NullConditioner(hidden_dims=(8,))(['any text'])
        >>> hiddens = torch.randn(2, 8)
        >>> identity(hiddens) is hiddens
        True
    """

    @checked
    def __init__(self, hidden_dims: Sequence[int], **unused: Any) -> None:
        if hidden_dims:
            check_hidden_dims(hidden_dims)
        kinds = (TextConditioner, AttentionTextConditioner, TextEmbeddingReturner, PooledEmbeddingReturner)
        known = {name: None for kind in kinds for name in inspect.signature(kind).parameters}
        if unknown := [name for name in unused if name not in known]:
            raise ConfigError(
                f'{", ".join(unknown)} is no argument of any conditioner; a NullConditioner takes those of all, and uses '
                f'hidden_dims alone: {", ".join(known)}'
            )
        super().__init__(hidden_dims, TextSource(), 0.0, True, 'zeros')

    def check_repeat(self, repeat_batch: int | Sequence[int]) -> tuple[int, ...]:
        check_repeat(repeat_batch)
        return (1,) * len(self.hidden_dims)

    def branch(
        self,
        texts: Texts | None,
        text_embeds: TextEmbeds | None = None,
        drop_prob: DropProb | None = None,
        batch: int | None = None,
        repeat_batch: int = 1,
    ) -> BranchCondition:
        return BranchCondition((), TextCondReturn(None, None))

    def null_branch(self, texts: Texts | None = None, text_embeds: TextEmbeds | None = None) -> BranchCondition:
        return BranchCondition((), TextCondReturn(None, None))

    def embed_texts(self, texts: Batch[str]) -> Tensor:
        raise UsageError('a NullConditioner has no text encoder: choose another text_condition_type to embed texts')

    def encode_texts(self, texts: Batch[str]) -> Encodings:
        self.embed_texts(texts)
        return ()
