"""No text at all: the same network, the same call, as a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.conditioners.base import Conditioner, TextEmbeds
from classifier_free_guidance_pytorch.conditioners.dropout import DropProb
from classifier_free_guidance_pytorch.conditioners.prepared import BranchCondition, TextCondReturn
from classifier_free_guidance_pytorch.conditioners.text_source import Encodings, TextSource
from classifier_free_guidance_pytorch.errors import UsageError, checked


class NullConditioner(Conditioner[None]):
    """Identity callables, one per hidden dimension: switches text conditioning off and leaves everything else in place.

    So that one configuration can be run with and without text, texts and the arguments of the other conditioners are accepted
    here and have no effect, by design; no encoder is loaded.

    Args:
        hidden_dims: width of each of the hiddens; a call returns one identity for each.
        **unused: arguments of the other conditioners.

    Example:
        >>> (identity,) = NullConditioner(hidden_dims=(8,))(['any text'])
        >>> hiddens = torch.randn(2, 8)
        >>> identity(hiddens) is hiddens
        True
    """

    @checked
    def __init__(self, hidden_dims: Sequence[int], **unused: Any) -> None:
        super().__init__(hidden_dims, TextSource.without_encoders(), 0.0, True, 'zeros')
        self.register_buffer('_anchor', torch.zeros(()), persistent=False)

    @property
    def weight(self) -> Tensor:
        anchor: Tensor = self._anchor  # type: ignore[assignment]
        return anchor

    def read(self, texts: Sequence[str] | None, text_embeds: TextEmbeds | None) -> None:
        return None

    def branch(self, features: None, drop_prob: DropProb | None = None) -> BranchCondition:
        return self.null_branch()

    def null_branch(self, features: None = None) -> BranchCondition:
        return BranchCondition((), TextCondReturn(None, None))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        raise UsageError('a NullConditioner has no text encoder: choose another text_condition_type to embed texts')

    def encode_texts(self, texts: Sequence[str]) -> Encodings:
        self.embed_texts(texts)
        return ()

    def nothing(self) -> None:
        return None

    def count(self, features: None) -> int:
        return 1

    def expand(self, features: None, rows: int) -> None:
        return None

    def drop(self, features: None, keep: Tensor) -> None:
        return None

    def condition(self, features: None) -> BranchCondition:
        return self.null_branch()

    def read_encodings(self, encodings: Encodings) -> None:
        return None

    def read_embeds(self, embeds: Tensor | TextCondReturn) -> None:
        return None
