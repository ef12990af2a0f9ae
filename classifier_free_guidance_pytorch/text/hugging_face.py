"""Any text encoder or decoder of transformers, by name or path, and BGE."""

from __future__ import annotations

from os import PathLike
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifier_free_guidance_pytorch.errors import ConfigError, checked
from classifier_free_guidance_pytorch.text.base import TextEncoder, cut_to_longest, masked_mean
from classifier_free_guidance_pytorch.text.encoding import TextEncoding
from classifier_free_guidance_pytorch.text.transformers_files import (
    cached_revision,
    read_config,
    read_tokenizer,
    read_weights,
    text_config_of,
    text_tower_of,
    token_limit,
    tokenize,
)

Pooling = Literal['mean', 'cls', 'eos', 'last']

# Their text towers saw every text padded to one length, with the padding attended to, and never saw anything else.
_FIXED_LENGTH_TYPES = ('siglip', 'siglip_text_model', 'siglip2', 'siglip2_text_model')


class HFTextAdapter(TextEncoder):
    """Any text model of transformers: BERT, CLIP, SigLIP, T5, Gemma, Qwen, Llama and so on.

    Padding is on the right whatever the tokenizer's default, so that real tokens keep their positions and, in a decoder, never
    see padding. A tokenizer without a padding token pads with its end token; the mask tells the two apart. Of an
    encoder-decoder the encoder is used, of a model of several modalities the text tower.

    Args:
        name: a model name on the hub, or a local folder; there is no default.
        pooling: `'mean'` of the real tokens; `'cls'`, the first token; `'eos'`, the first end-of-text token; `'last'`, the last
            real token, which is where a decoder has read the whole text. SigLIP reads every text padded to one length
            and sums it up at the end of the padding, so there `'last'` is that position.
        layer: -1, the last hidden state, after the model's final norm; -2 and below, the hidden state that many blocks from
            the end as it is, without the norm (as Stable Diffusion XL takes CLIP's, https://arxiv.org/abs/2307.01952).
        device: keep the network on this device; None follows the caller.
        dtype: run the network in this precision; None follows the caller.
        max_length: truncate texts at this many tokens; None for the model's own limit.
        text_embed_pad_value: written at padding by `embed_text(..., return_text_encodings=True)`.

    Raises:
        ConfigError: an unknown pooling, a layer that the model does not have, a limit above the model's.
        MissingDependencyError: the configuration or the tokenizer cannot be read.
    """

    normalize_pooled = False

    @checked
    def __init__(
        self,
        name: str | PathLike[str] | None = None,
        *,
        pooling: Pooling = 'mean',
        layer: int = -1,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        max_length: int | None = None,
        text_embed_pad_value: float | int = 0.0,
    ) -> None:
        if name is None and not hasattr(self, 'default_name'):
            raise ConfigError("model_types='hf' has no default model: pass its name or path, model_names='org/model'")
        if layer >= 0:
            raise ConfigError(f'layer counts from the end, -1 is the last, but got {layer}')
        self.pooling = pooling
        self.layer = layer
        super().__init__(
            name, device=device, dtype=dtype, max_length=max_length, text_embed_pad_value=text_embed_pad_value
        )  # fmt: skip

    @property
    def _source(self) -> str:
        """Where the files are."""
        return self.name

    def _read(self, max_length: int | None) -> None:
        what = type(self).__name__
        config = read_config(what, self._source)
        text_config = text_config_of(what, self.name, config)
        depth = text_config.num_hidden_layers
        if self.layer < -depth:
            raise ConfigError(f'layer={self.layer} is beyond the {depth} layers of {self.name!r}: -1 to -{depth}')
        self._model_type = config.model_type
        self.revision = cached_revision(self._source)
        self.dim_latent = self.dim_pooled = text_config.hidden_size
        self.tokenizer = read_tokenizer(what, self._source)
        self.max_text_len = token_limit(self.name, text_config, self.tokenizer, max_length)
        self._padded_length = text_config.max_position_embeddings if self._model_type in _FIXED_LENGTH_TYPES else None
        if self.pooling == 'eos' and self._end_id() not in self.tokenizer('a')['input_ids']:
            raise ConfigError(f"pooling='eos' needs a tokenizer that ends a text, and that of {self.name!r} does not: use 'last'")

    def _settings(self) -> dict[str, Any]:
        return {'layer': self.layer, 'pooling': self.pooling}

    def _load(self, dtype: torch.dtype) -> nn.Module:
        return text_tower_of(read_weights(type(self).__name__, self._source, self._model_type, dtype))

    def _forward(self, network: Any, ids: Tensor, mask: Tensor) -> TextEncoding:
        if self._padded_length is None:
            ids, mask = cut_to_longest(ids, mask)
        output = network(input_ids=ids, **self._attention(mask), output_hidden_states=self.layer != -1)
        tokens = output.last_hidden_state if self.layer == -1 else output.hidden_states[self.layer]
        pooled = self._pool(tokens, mask, ids)
        if self.normalize_pooled:
            pooled = F.normalize(pooled, dim=-1)
        longest = int(mask.sum(dim=1).max())
        return TextEncoding(tokens[:, :longest], mask[:, :longest], pooled)

    def _tokenize(self, texts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, `(b, n)`, of the length that the model wants."""
        ids, mask, truncated = tokenize(self.tokenizer, texts, self.max_text_len)
        if truncated is not None:
            self._warn_truncated(truncated)
        if self._padded_length is not None:
            missing = self._padded_length - ids.shape[1]
            ids, mask = F.pad(ids, (0, missing), value=self.tokenizer.pad_token_id), F.pad(mask, (0, missing))
        return ids, mask

    def _attention(self, mask: Tensor) -> dict[str, Tensor]:
        """The mask for the model; none for one that attends to padding."""
        return {} if self._padded_length is not None else {'attention_mask': mask.long()}

    def _pool(self, tokens: Tensor, mask: Tensor, ids: Tensor) -> Tensor:
        """One feature per text, `(b, dim_latent)`."""
        if self.pooling == 'mean':
            return masked_mean(tokens, mask)
        if self.pooling == 'cls':
            return tokens[:, 0]
        if self.pooling == 'last' and self._padded_length is not None:
            return tokens[:, -1]
        positions = mask.sum(dim=1) - 1
        if self.pooling == 'eos':
            ends = (ids == self._end_id()) & mask
            # A truncated text may have lost its end token; it ends where it was cut.
            positions = torch.where(ends.any(dim=1), ends.int().argmax(dim=1), positions)
        return tokens[torch.arange(len(tokens), device=tokens.device), positions]

    def _end_id(self) -> int | None:
        """The token that ends a text: BERT calls it separator."""
        end: int | None = self.tokenizer.eos_token_id
        return self.tokenizer.sep_token_id if end is None else end


class BGEAdapter(HFTextAdapter):
    """A BGE embedding model, `BAAI/bge-base-en-v1.5` by default; pooled is the l2-normalised CLS token.

    Paper: https://arxiv.org/abs/2309.07597.
    """

    default_name = 'BAAI/bge-base-en-v1.5'
    normalize_pooled = True

    @checked
    def __init__(
        self,
        name: str | PathLike[str] | None = None,
        *,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        max_length: int | None = None,
        text_embed_pad_value: float | int = 0.0,
    ) -> None:
        super().__init__(
            name, pooling='cls', device=device, dtype=dtype, max_length=max_length, text_embed_pad_value=text_embed_pad_value
        )
