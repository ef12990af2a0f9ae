"""T5 and its relatives: T5 v1.1, Flan-T5, mT5, UMT5 and ByT5, encoder only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text.base import TextEncoder, cut_to_longest, masked_mean
from classifier_free_guidance_pytorch.text.encoding import TextEncoding
from classifier_free_guidance_pytorch.text.transformers_files import (
    cached_revision,
    read_config,
    read_tokenizer,
    read_weights,
    tokenize,
)

_TYPES = ('t5', 'mt5', 'umt5')
_DEFAULT_MAX_LENGTH = 256  # relative positions set no limit; 256 tokens are what 0.7.1 and Imagen use


class T5Adapter(TextEncoder):
    """The encoder of a T5 model; pooled is the mean of its last hidden state over the real tokens.

    The default is `google/t5-v1_1-base`. Its limit of 256 tokens can be raised with `max_length`: T5 has relative
    positions. In float16 some layers stay in float32, because T5's activations overflow (bfloat16 has no such limit).

    Papers: https://arxiv.org/abs/1910.10683 (T5), https://arxiv.org/abs/2205.11487 (T5 for text to image).
    """

    default_name = 'google/t5-v1_1-base'

    def _read(self, max_length: int | None) -> None:
        config = read_config('T5Adapter', self.name)
        if config.model_type not in _TYPES:
            raise ConfigError(
                f'T5Adapter reads models of type {", ".join(_TYPES)}, but {self.name!r} is of type {config.model_type!r}: '
                "use model_types='hf'"
            )
        self._model_type = config.model_type
        self.revision = cached_revision(self.name)
        self.dim_latent = self.dim_pooled = config.d_model
        self.max_text_len = max_length or _DEFAULT_MAX_LENGTH
        self.tokenizer = read_tokenizer('T5Adapter', self.name)

    def _load(self, dtype: torch.dtype) -> nn.Module:
        return read_weights('T5Adapter', self.name, self._model_type, dtype)

    def _tokenize(self, texts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        ids, mask, truncated = tokenize(self.tokenizer, texts, self.max_text_len)
        if truncated is not None:
            self._warn_truncated(truncated)
        return ids, mask

    def _forward(self, network: Any, ids: Tensor, mask: Tensor) -> TextEncoding:
        ids, mask = cut_to_longest(ids, mask)
        tokens = network(input_ids=ids, attention_mask=mask).last_hidden_state
        return TextEncoding(tokens, mask, masked_mean(tokens, mask))
