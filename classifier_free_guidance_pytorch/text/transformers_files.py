"""What the adapters of transformers' models share: reading their files, finding the text tower, making token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text.hub import looks_local, read_model_files
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision

# The class that holds the text encoder alone; every other type is read by AutoModel. ByT5 and Flan-T5 are of type 't5'.
ENCODER_CLASSES = {
    't5': 'T5EncoderModel',
    'mt5': 'MT5EncoderModel',
    'umt5': 'UMT5EncoderModel',
    'clip': 'CLIPTextModel',
    'clip_text_model': 'CLIPTextModel',
    'siglip': 'SiglipTextModel',
    'siglip_text_model': 'SiglipTextModel',
    'siglip2': 'Siglip2TextModel',
    'siglip2_text_model': 'Siglip2TextModel',
}
# Towers saved without the rest of their model, which transformers 4's AutoConfig does not know.
_TEXT_CONFIGS = {
    'clip_text_model': 'CLIPTextConfig',
    'siglip_text_model': 'SiglipTextConfig',
    'siglip2_text_model': 'Siglip2TextConfig',
}
_ABSURD = 1_000_000  # tokenizers state 1e30 for 'no limit'
_NO_LIMIT_STATED = 512


def read_config(what: str, name: str) -> Any:
    """The model's configuration."""
    import transformers

    def read(local: bool) -> Any:
        values, _ = transformers.PretrainedConfig.get_config_dict(name, local_files_only=local)
        class_name = _TEXT_CONFIGS.get(values.get('model_type', ''), 'AutoConfig')
        return getattr(transformers, class_name).from_pretrained(name, local_files_only=local)

    return read_model_files(what, name, read)


def cached_revision(name: str) -> str | None:
    """The commit of a model's files in the cache of the hub; None for a local folder."""
    from huggingface_hub import try_to_load_from_cache

    path = None if looks_local(name) else try_to_load_from_cache(name, 'config.json')
    return Path(path).parent.name if isinstance(path, str) else None


def read_tokenizer(what: str, name: str) -> Any:
    """The model's tokenizer, set to pad on the right: real tokens keep their positions whatever else is in the batch."""
    from transformers import AutoTokenizer

    repair_torchvision()  # AutoTokenizer imports model modules, and those import torchvision
    tokenizer = read_model_files(what, name, lambda local: AutoTokenizer.from_pretrained(name, local_files_only=local))
    tokenizer.padding_side = tokenizer.truncation_side = 'right'
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise ConfigError(f'the tokenizer of {name!r} has neither a padding nor an end nor an unknown token: give it a pad_token')
    return tokenizer


def read_weights(what: str, name: str, model_type: str, dtype: torch.dtype) -> nn.Module:
    """The weights in `dtype`, said explicitly: by default transformers 4 takes float32 and 5 the checkpoint's.

    Raises:
        MissingDependencyError: they cannot be read.
        ConfigError: the checkpoint lacks some, which would be left random.
    """
    repair_torchvision()
    import transformers

    version = tuple(int(part) for part in transformers.__version__.split('.')[:2])
    options = {'dtype' if version >= (4, 56) else 'torch_dtype': dtype, 'output_loading_info': True}
    class_name = ENCODER_CLASSES.get(model_type, 'AutoModel')
    cls = getattr(transformers, class_name)
    network, report = read_model_files(what, name, lambda local: cls.from_pretrained(name, local_files_only=local, **options))
    # A pooler is a head that this library does not read, and many checkpoints come without one.
    missing = sorted(key for key in report['missing_keys'] if 'pooler' not in key and 'position_ids' not in key)
    if missing:
        raise ConfigError(f'{name!r} is no checkpoint of {class_name}: it lacks {len(missing)} weights, such as {missing[:3]}')
    loaded: nn.Module = network
    return loaded


def text_config_of(what: str, name: str, config: Any) -> Any:
    """The part of a configuration that describes the text encoder."""
    for part in ('text_config', 'encoder'):
        if hasattr(getattr(config, part, None), 'hidden_size'):
            return getattr(config, part)
    if not hasattr(config, 'hidden_size') or not hasattr(config, 'vocab_size'):
        raise ConfigError(f'{what} reads text models, but {name!r} is of type {config.model_type!r}, which has no text tower')
    return config


def text_tower_of(network: Any) -> nn.Module:
    """The encoder of an encoder-decoder, the text tower of a model of several modalities, and any other model as it is."""
    for part in ('language_model', 'text_model'):
        if hasattr(network.config, 'text_config') and isinstance(getattr(network, part, None), nn.Module):
            network = getattr(network, part)
    if getattr(network.config, 'is_encoder_decoder', False) and hasattr(network, 'decoder'):
        network = network.get_encoder()
    network.config.use_cache = False  # a decoder's keys and values are of no use after one pass
    tower: nn.Module = network
    return tower


def token_limit(name: str, text_config: Any, tokenizer: Any, max_length: int | None) -> int:
    """How many tokens a text may have: what the user asks for, within what the positions of the model allow."""
    positions = getattr(text_config, 'max_position_embeddings', None)
    stated = [limit for limit in (tokenizer.model_max_length, positions) if limit is not None and 0 < limit < _ABSURD]
    limit = min(stated, default=_NO_LIMIT_STATED)
    if max_length is None:
        return int(limit)
    if positions is not None and max_length > limit:
        raise ConfigError(f'max_length={max_length} is more than the {limit} tokens that {name!r} can read')
    return max_length


def tokenize(tokenizer: Any, texts: tuple[str, ...], max_length: int) -> tuple[Tensor, Tensor, str | None]:
    """Token ids and mask, both `(b, n)`, and one of the texts that did not fit, if any."""
    batch = tokenizer(
        list(texts), padding=True, truncation=True, max_length=max_length, return_attention_mask=True, return_tensors='pt'
    )
    ids, mask = batch['input_ids'].long(), batch['attention_mask'].bool()
    empty = ~mask.any(dim=1)
    if empty.any():
        # Decoders' tokenizers make no token of the empty string; an encoding needs one, and the end of text is the nearest.
        if ids.shape[1] == 0:
            ids, mask = F.pad(ids, (0, 1)), F.pad(mask, (0, 1))
        ids[empty, 0], mask[empty, 0] = tokenizer.pad_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id, True
    truncated = None
    # Only a full row can have been cut, so short texts are tokenized once.
    for row in (mask.sum(dim=1) >= max_length).nonzero().flatten().tolist():
        if len(tokenizer(texts[row], truncation=False, verbose=False)['input_ids']) > max_length:
            truncated = texts[row]
            break
    return ids, mask, truncated
