"""Any text encoder or decoder of transformers, by name or path, and BGE."""

from __future__ import annotations

from os import PathLike
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifier_free_guidance_pytorch.errors import ConfigError, checked
from classifier_free_guidance_pytorch.text.base import TextEncoder
from classifier_free_guidance_pytorch.text.encoding import TextEncoding
from classifier_free_guidance_pytorch.text.networks import Device
from classifier_free_guidance_pytorch.text.transformers_files import cached_revision, read_config, read_tokenizer, read_weights

Pooling: TypeAlias = Literal['mean', 'cls', 'eos', 'last']

_ABSURD_LIMIT = 1_000_000  # tokenizers state 1e30 for 'no limit'
_DEFAULT_LIMIT = 512  # where neither the tokenizer nor the model states one
# RoBERTa and its relatives: the first token has the position behind that of the padding token, so a text cannot use them all
_POSITIONS_START_LATE = {
    'altclip_text_model', 'bridgetower_text_model', 'camembert', 'clap_text_model', 'data2vec-text', 'esm', 'ibert', 'layoutlmv3',
    'lilt', 'longformer', 'luke', 'markuplm', 'mpnet', 'roberta', 'roberta-prelayernorm', 'xlm-roberta', 'xlm-roberta-xl', 'xmod',
}  # fmt: skip


class TransformersEncoder(TextEncoder):
    """Base of the encoders that transformers runs.

    Padding is on the right, whatever the tokenizer's default: real tokens keep their positions and, in a decoder, never see
    padding. A tokenizer without a padding token pads with its end token; the mask distinguishes the two. Only the encoder of an
    encoder-decoder is used, and only the text tower of a multimodal model.
    """

    pooling: Pooling = 'mean'
    layer: int = -1
    normalize_pooled = False

    @property
    def _source(self) -> str:
        """Where the files are."""
        return self.name

    def _read(self, max_length: int | None) -> None:
        adapter = type(self).__name__
        config = read_config(adapter, self._source)
        text_config = self._text_config(config)
        depth = text_config.num_hidden_layers
        if self.layer < -depth:
            raise ConfigError(f'layer={self.layer} is beyond the {depth} layers of {self.name!r}: -1 to -{depth}')
        self._model_type = config.model_type
        self.revision = cached_revision(self._source)
        self.dim_latent = self.dim_pooled = text_config.hidden_size
        self.tokenizer = read_tokenizer(adapter, self._source)
        self.max_text_len = self._token_limit(text_config, max_length)
        # SigLIP was trained on texts padded to one length, with attention to the padding.
        self._padded_length = text_config.max_position_embeddings if self._model_type.startswith('siglip') else None
        if self.pooling == 'eos' and self._end_id() not in self.tokenizer('a')['input_ids']:
            raise ConfigError(f"pooling='eos' needs a tokenizer that ends a text, and that of {self.name!r} does not: use 'last'")

    def _text_config(self, config: Any) -> Any:
        """Return the part of a configuration that describes the text encoder."""
        for part in ('text_config', 'encoder'):
            if hasattr(getattr(config, part, None), 'hidden_size'):
                return getattr(config, part)
        if not hasattr(config, 'hidden_size') or not hasattr(config, 'vocab_size'):
            raise ConfigError(
                f'{type(self).__name__} reads text models, but {self.name!r} is of type {config.model_type!r}, '
                'which has no text tower'
            )
        return config

    def _token_limit(self, text_config: Any, max_length: int | None) -> int:
        """Return how many tokens a text may have: what the user asks for, within the positions of the model."""
        positions = getattr(text_config, 'max_position_embeddings', None)
        if positions and text_config.model_type in _POSITIONS_START_LATE:
            positions -= text_config.pad_token_id + 1
        if max_length is not None and positions and max_length > positions:
            raise ConfigError(f'max_length={max_length} is more than the {positions} tokens that {self.name!r} can read')
        stated = [limit for limit in (self.tokenizer.model_max_length, positions) if limit and 0 < limit < _ABSURD_LIMIT]
        return max_length or int(min(stated, default=_DEFAULT_LIMIT))

    def _settings(self) -> dict[str, Any]:
        return {'layer': self.layer, 'pooling': self.pooling}

    def _load(self, dtype: torch.dtype) -> nn.Module:
        network = read_weights(type(self).__name__, self._source, self._model_type, dtype)
        for part in ('language_model', 'text_model'):  # of a multimodal model
            if hasattr(network.config, 'text_config') and isinstance(getattr(network, part, None), nn.Module):
                network = getattr(network, part)
        if getattr(network.config, 'is_encoder_decoder', False) and hasattr(network, 'decoder'):
            network = network.get_encoder()
        network.config.use_cache = False  # a decoder's keys and values are of no use after one pass
        return network

    def _tokenize(self, texts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        limit, tokenizer = self.max_text_len, self.tokenizer
        batch = tokenizer(
            list(texts), padding=True, truncation=True, max_length=limit, return_attention_mask=True, return_tensors='pt'
        )
        ids, mask = batch['input_ids'].long(), batch['attention_mask'].bool()  # (b, n)
        empty = ~mask.any(dim=1)
        if empty.any():
            # Decoders' tokenizers make no token of the empty string; an encoding needs one, and the end of text is the nearest.
            if ids.shape[1] == 0:
                ids, mask = F.pad(ids, (0, 1)), F.pad(mask, (0, 1))
            ids[empty, 0] = tokenizer.pad_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
            mask[empty, 0] = True
        full = mask.sum(dim=1) >= limit
        self._warn_of_truncated(
            texts, full, lambda text: len(tokenizer(text, truncation=False, verbose=False)['input_ids']) > limit
        )
        if self._padded_length is not None:
            missing = self._padded_length - ids.shape[1]
            ids, mask = F.pad(ids, (0, missing), value=tokenizer.pad_token_id), F.pad(mask, (0, missing))
        return ids, mask

    def _forward(self, network: Any, ids: Tensor, mask: Tensor) -> TextEncoding:
        longest, attention = int(mask.sum(dim=1).max()), {}
        if self._padded_length is None:
            ids, mask = ids[:, :longest], mask[:, :longest]
            attention['attention_mask'] = mask.long()
        output = network(input_ids=ids, **attention, output_hidden_states=self.layer != -1)
        tokens = output.last_hidden_state if self.layer == -1 else output.hidden_states[self.layer]  # (b, n, d)
        pooled = self._pool(tokens, mask, ids)  # (b, d)
        if self.normalize_pooled:
            pooled = F.normalize(pooled, dim=-1)
        return TextEncoding(tokens[:, :longest], mask[:, :longest], pooled)

    def _pool(self, tokens: Tensor, mask: Tensor, ids: Tensor) -> Tensor:
        """Return one feature per text, `(b, d)`."""
        if self.pooling == 'mean':  # over the real tokens, summed in at least float32
            wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32)).masked_fill(~mask[..., None], 0.0)
            return (wide.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)).to(tokens.dtype)
        if self.pooling == 'cls':
            return tokens[:, 0]
        if self.pooling == 'last' and self._padded_length is not None:
            return tokens[:, -1]
        positions = mask.sum(dim=1) - 1  # (b,)
        if self.pooling == 'eos':
            ends = (ids == self._end_id()) & mask
            # A truncated text may have lost its end token; it ends where it was cut.
            positions = torch.where(ends.any(dim=1), ends.int().argmax(dim=1), positions)
        return tokens[torch.arange(len(tokens), device=tokens.device), positions]

    def _end_id(self) -> int | None:
        """Return the token that ends a text: BERT calls it separator."""
        end = self.tokenizer.eos_token_id
        return self.tokenizer.sep_token_id if end is None else end


class HFTextAdapter(TransformersEncoder):
    """Any text model of transformers: BERT, CLIP, SigLIP, T5, Gemma, Qwen, Llama and so on.

    Args:
        name: A model name on the hub, or a local folder; there is no default.
        pooling: `'mean'` of the real tokens; `'cls'`, the first token; `'eos'`, the first end-of-text token; `'last'`, the last
            real token, where a decoder has read the whole text. SigLIP reads every text padded to one length and
            summarises it at the end of the padding, so for SigLIP `'last'` is that position.
        layer: -1 for the last hidden state, after the model's final norm; -2 and below for the hidden state that many blocks from
            the end, without the norm (as Stable Diffusion XL takes CLIP's, https://arxiv.org/abs/2307.01952).
        device: Keep the network on this device; None follows the caller.
        dtype: Run the network in this precision; None follows the caller.
        max_length: Truncate texts at this many tokens; None for the model's own limit.
        text_embed_pad_value: What `embed_text(..., return_text_encodings=True)` writes at padding.

    Raises:
        ConfigError: An unknown pooling, a layer that the model does not have, or a limit above the model's.
        MissingDependencyError: The configuration or the tokenizer cannot be read.
    """

    @checked
    def __init__(
        self,
        name: str | PathLike[str] | None = None,
        *,
        pooling: Pooling = 'mean',
        layer: int = -1,
        device: Device | None = None,
        dtype: torch.dtype | None = None,
        max_length: int | None = None,
        text_embed_pad_value: float | int = 0.0,
    ) -> None:
        if name is None:
            raise ConfigError("model_types='hf' has no default model: pass its name or path, model_names='org/model'")
        if layer >= 0:
            raise ConfigError(f'layer counts from the end, -1 is the last, but got {layer}')
        self.pooling = pooling
        self.layer = layer
        super().__init__(name, device=device, dtype=dtype, max_length=max_length, text_embed_pad_value=text_embed_pad_value)


class BGEAdapter(TransformersEncoder):
    """A BGE embedding model, `BAAI/bge-base-en-v1.5` by default; pooled is the l2-normalised CLS token.

    Paper: https://arxiv.org/abs/2309.07597.
    """

    default_name = 'BAAI/bge-base-en-v1.5'
    pooling = 'cls'
    normalize_pooled = True
