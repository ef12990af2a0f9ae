"""Any text encoder or decoder of transformers, by name or path, and BGE."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from copy import copy
from os import PathLike
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifier_free_guidance_pytorch.errors import ConfigError, UsageError, checked
from classifier_free_guidance_pytorch.text.base import TextEncoder
from classifier_free_guidance_pytorch.text.encoding import TextEncoding
from classifier_free_guidance_pytorch.text.networks import Device, SharedNetwork
from classifier_free_guidance_pytorch.text.prompts import PromptEncoder
from classifier_free_guidance_pytorch.text.transformers_files import (
    cached_revision,
    padding_right,
    read_config,
    read_tokenizer,
    read_weights,
)

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

    Args:
        name: A model name on the hub, or a local folder; None for the adapter's default.
        device: Keep the network on this device; None follows the caller.
        dtype: Run the network in this precision; None follows the caller.
        max_length: Truncate texts at this many tokens; None for the model's own limit.
        text_embed_pad_value: What `embed_text(..., return_text_encodings=True)` writes at padding.
        subfolder: Where the model is in it. A repository of diffusers has the tokenizer of `'text_encoder_2'` in `'tokenizer_2'`.
        model: A network that is loaded already, also a quantised one or one with adapters. It runs where it is, in its own
            precision and in eval mode, and is neither moved nor frozen; pickles do not hold it.
        tokenizer: Its tokenizer; by default that of `name`, or of the place that the network was loaded from.

    Raises:
        ConfigError: Arguments that exclude each other, or a limit above the model's.
        MissingDependencyError: The configuration or the tokenizer cannot be read.
    """

    pooling: Pooling = 'mean'
    layers: tuple[int, ...] = (-1,)
    template: str | None = None
    normalize_pooled = False

    @checked
    def __init__(
        self,
        name: str | PathLike[str] | None = None,
        *,
        device: Device | None = None,
        dtype: torch.dtype | None = None,
        max_length: int | None = None,
        text_embed_pad_value: float | int = 0.0,
        subfolder: str = '',
        model: nn.Module | None = None,
        tokenizer: Any = None,
    ) -> None:
        if model is not None and (device is not None or dtype is not None or subfolder):
            raise ConfigError('model= is loaded and runs where it is, so device=, dtype= and subfolder= must not be given')
        if model is not None and not hasattr(model, 'config'):
            raise ConfigError(f'model= is a network of transformers, but got a {type(model).__name__}')
        if tokenizer is not None and model is None:
            raise ConfigError('tokenizer= belongs to a network that is loaded already: pass it as model=')
        self.subfolder = subfolder
        self._given, self._is_given, self._given_tokenizer = model, model is not None, tokenizer
        if model is not None and name is None:
            name = str(getattr(model.config, 'name_or_path', ''))
        super().__init__(name, device=device, dtype=dtype, max_length=max_length, text_embed_pad_value=text_embed_pad_value)

    @property
    def _source(self) -> str:
        """Where the files are."""
        return self.name

    def _read(self, max_length: int | None) -> None:
        adapter, given = type(self).__name__, self._given
        config: Any = read_config(adapter, self._source, self.subfolder) if given is None else given.config
        text_config = self._text_config(config)
        depth = text_config.num_hidden_layers
        if min(self.layers) < -depth:
            raise ConfigError(f'layer={min(self.layers)} is beyond the {depth} layers of {self.name!r}: -1 to -{depth}')
        self._model_type = config.model_type
        self.revision = cached_revision(self._source, self.subfolder)
        self.dim_latent = self.dim_pooled = text_config.hidden_size * len(self.layers)
        tokenizer, self._given_tokenizer = copy(self._given_tokenizer), None
        tokenizer = read_tokenizer(adapter, self._source, self.subfolder) if tokenizer is None else tokenizer
        self.tokenizer = padding_right(self.name, tokenizer)
        self._before = self._tokens_before_the_text()
        self.max_text_len = self._token_limit(text_config, max_length)
        # SigLIP was trained on texts padded to one length, with attention to the padding.
        self._padded_length = text_config.max_position_embeddings if self._model_type.startswith('siglip') else None
        if self.pooling == 'eos' and self._end_id() not in self.tokenizer('a')['input_ids']:
            raise ConfigError(f"pooling='eos' needs a tokenizer that ends a text, and that of {self.name!r} does not: use 'last'")

    def _tokens_before_the_text(self) -> int:
        """Return how many tokens the template puts before every text, whatever the text is."""
        if self.template is None:
            return 0
        prefix = self.template.partition('{}')[0]
        whole, alone = (self.tokenizer(prefix + text)['input_ids'] for text in ('a', ''))
        return next((i for i, token in enumerate(alone) if whole[i : i + 1] != [token]), len(alone))  # the text begins or joins

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
        positions = positions and positions - self._before
        if max_length is not None and positions and max_length > positions:
            raise ConfigError(f'max_length={max_length} is more than the {positions} tokens that {self.name!r} can read')
        stated = [
            limit for limit in (self.tokenizer.model_max_length - self._before, positions) if limit and 0 < limit < _ABSURD_LIMIT
        ]
        return max_length or int(min(stated, default=_DEFAULT_LIMIT))

    def _settings(self) -> dict[str, Any]:
        layer = self.layers[0] if len(self.layers) == 1 else ','.join(map(str, self.layers))
        others = {'subfolder': self.subfolder, 'template': self.template}
        return {'layer': layer, 'pooling': self.pooling, **{name: value for name, value in others.items() if value}}

    def _weights_key(self) -> Hashable:
        return type(self), self.name, self.subfolder

    def _place(self, device: Device | None, dtype: torch.dtype | None) -> SharedNetwork:
        if not self._is_given:
            return super()._place(device, dtype)
        given: Any = self._given
        if given is None:
            raise UsageError(
                f'this {type(self).__name__} was pickled without the network that was given as model=: build it again'
            )
        tower = _tower(given).eval()
        weight = next(tower.parameters())  # of the embedding; on meta where it is offloaded
        device = torch.device('cpu') if weight.is_meta else weight.device
        self.network = SharedNetwork(tower, device, given.dtype, is_known=True)
        return self.network

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), '_given': None}

    def _load(self, dtype: torch.dtype) -> nn.Module:
        network = _tower(read_weights(type(self).__name__, self._source, self._model_type, dtype, self.subfolder))
        network.config.use_cache = False  # a decoder's keys and values are of no use after one pass
        return network

    def _tokenize(self, texts: tuple[str, ...]) -> tuple[Tensor, ...]:
        before, limit, tokenizer = self._before, self._before + self.max_text_len, self.tokenizer
        if self.template is not None:
            texts = tuple(self.template.replace('{}', text) for text in texts)
        batch = tokenizer(
            list(texts), padding=True, truncation=True, max_length=limit, return_attention_mask=True, return_tensors='pt'
        )
        ids, mask = batch['input_ids'].long(), batch['attention_mask'].bool()  # (b, n)
        empty = ~mask[:, before:].any(dim=1)
        if empty.any():
            # Decoders' tokenizers make no token of the empty string; an encoding needs one, and the end of text is the nearest.
            if ids.shape[1] == before:
                ids, mask = F.pad(ids, (0, 1)), F.pad(mask, (0, 1))
            ids[empty, before] = tokenizer.pad_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
            mask[empty, before] = True
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
        output = network(input_ids=ids, **attention, output_hidden_states=self.layers != (-1,))
        parts = [output.last_hidden_state if layer == -1 else output.hidden_states[layer] for layer in self.layers]
        tokens, ids, mask = (part[:, self._before :] for part in (torch.cat(parts, dim=-1), ids, mask))  # (b, n, layers * d)
        longest -= self._before
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


def _tower(network: Any) -> Any:
    """Return the part of a network that reads text, without heads or what PEFT puts around it; its adapters stay inside."""
    if hasattr(network, 'get_base_model'):
        network = network.get_base_model()
    network = network.base_model
    for part in ('language_model', 'text_model'):  # of a multimodal model
        if hasattr(network.config, 'text_config') and isinstance(getattr(network, part, None), nn.Module):
            network = getattr(network, part)
    if getattr(network.config, 'is_encoder_decoder', False) and hasattr(network, 'decoder'):
        network = network.get_encoder()
    return network


class HFTextAdapter(PromptEncoder, TransformersEncoder):
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
        subfolder: Where the model is in it. A repository of diffusers has the tokenizer of `'text_encoder_2'` in `'tokenizer_2'`.
        model: A network that is loaded already, also a quantised one or one with adapters. It runs where it is, in its own
            precision and in eval mode, and is neither moved nor frozen; pickles do not hold it.
        tokenizer: Its tokenizer; by default that of `name`, or of the place that the network was loaded from.
        layers: Several layers, whose features are joined in one token, instead of `layer`.
        template: What an instructed model reads around a text, with `{}` in its place, as `apply_chat_template` of a tokenizer
            writes it. The features of what comes before the text are dropped.
        chunks: Of CLIP: cut a long text into at most so many chunks of `max_length` tokens, each with its own start and end. The
            pooled feature is that of the first chunk.
        parse_weights: Of CLIP: read `(word:1.3)` in a text as the weight of a word; see `encode` for what a weight does.

    Raises:
        ConfigError: An unknown pooling, a layer that the model does not have, a limit above the model's, or chunks or weights
            for a model that is no CLIP.
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
        subfolder: str = '',
        model: nn.Module | None = None,
        tokenizer: Any = None,
        layers: Sequence[int] | None = None,
        template: str | None = None,
        chunks: int = 1,
        parse_weights: bool = False,
    ) -> None:
        self._check_prompts(chunks, parse_weights)
        if name is None and model is None:
            raise ConfigError("model_types='hf' has no default model: pass its name or path, model_names='org/model'")
        if layers is not None and (layer != -1 or not layers):
            raise ConfigError(f'layers lists the layers to join, instead of layer=, but got layers={layers!r} and layer={layer}')
        self.layer = layer
        self.layers = (layer,) if layers is None else tuple(layers)
        if max(self.layers) >= 0:
            raise ConfigError(f'layer counts from the end, -1 is the last, but got {max(self.layers)}')
        if template is not None and template.count('{}') != 1:
            raise ConfigError(f"template has one {{}}, where the text goes, as in 'Describe: {{}}', but got {template!r}")
        if template is not None and pooling == 'cls':
            raise ConfigError("pooling='cls' is the first token, which belongs to the template and is dropped: choose another")
        self.pooling = pooling
        self.template = template
        super().__init__(
            name, subfolder=subfolder, model=model, tokenizer=tokenizer, device=device, dtype=dtype, max_length=max_length,
            text_embed_pad_value=text_embed_pad_value,
        )  # fmt: skip
        self._begin_prompts()

    def _is_clip(self) -> bool:
        return (
            self._model_type in ('clip', 'clip_text_model') and self.template is None and len(self.tokenizer('').input_ids) == 2
        )

    def _token_ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)['input_ids']
        return ids

    def _around(self) -> tuple[int, int, int]:
        start, end = self.tokenizer('')['input_ids']
        return start, end, self.tokenizer.pad_token_id

    def _tokenize(self, texts: tuple[str, ...]) -> tuple[Tensor, ...]:
        return self._tokenize_prompts(texts) if self._reads_prompts else super()._tokenize(texts)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), **self._settings_of_prompts()}


class BGEAdapter(TransformersEncoder):
    """A BGE embedding model, `BAAI/bge-base-en-v1.5` by default; pooled is the l2-normalised CLS token.

    Paper: https://arxiv.org/abs/2309.07597.
    """

    default_name = 'BAAI/bge-base-en-v1.5'
    pooling = 'cls'
    normalize_pooled = True
