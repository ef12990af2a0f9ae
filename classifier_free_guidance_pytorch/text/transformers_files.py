"""The few lines every transformers-based adapter shares: configuration, tokenizer, weights and token ids."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text.hub import read_model_files
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision


def read_config(what: str, name: str) -> Any:
    """The model's configuration."""
    from transformers import AutoConfig

    return read_model_files(what, name, lambda local: AutoConfig.from_pretrained(name, local_files_only=local))


def read_tokenizer(what: str, name: str) -> Any:
    """The model's tokenizer, set to pad on the right: real tokens keep their positions whatever else is in the batch."""
    from transformers import AutoTokenizer

    repair_torchvision()  # AutoTokenizer imports model modules, and those import torchvision
    tokenizer = read_model_files(what, name, lambda local: AutoTokenizer.from_pretrained(name, local_files_only=local))
    tokenizer.padding_side = 'right'
    tokenizer.truncation_side = 'right'
    return tokenizer


def read_weights(what: str, name: str, model_class: str, dtype: torch.dtype, **options: Any) -> nn.Module:
    """The weights of `model_class`, in `dtype`: transformers 5 would otherwise take the checkpoint's, and 4 float32.

    Raises:
        MissingDependencyError: they cannot be read.
        ConfigError: the checkpoint lacks weights of this class, which would be left random.
    """
    repair_torchvision()
    import transformers

    version = tuple(int(part) for part in transformers.__version__.split('.')[:2])
    options['dtype' if version >= (4, 56) else 'torch_dtype'] = dtype
    cls = getattr(transformers, model_class)
    network, report = read_model_files(
        what, name, lambda local: cls.from_pretrained(name, local_files_only=local, output_loading_info=True, **options)
    )
    # A pooler is a head that this library does not read, and many checkpoints come without one.
    missing = sorted(key for key in report['missing_keys'] if 'pooler' not in key and 'position_ids' not in key)
    if missing:
        raise ConfigError(f'{name!r} is no checkpoint of {model_class}: it lacks {len(missing)} weights, such as {missing[:3]}')
    loaded: nn.Module = network
    return loaded


def tokenize(
    tokenizer: Any, texts: tuple[str, ...], max_length: int, padding: str = 'longest'
) -> tuple[Tensor, Tensor, str | None]:
    """Token ids and mask, both `(b, n)`, and one of the texts that did not fit, if any."""
    batch = tokenizer(
        list(texts), padding=padding, truncation=True, max_length=max_length, return_attention_mask=True, return_tensors='pt'
    )
    ids, mask = batch['input_ids'], batch['attention_mask'].bool()
    truncated = None
    # Only a full row can have been cut, so short texts are tokenized once.
    for row in (mask.sum(dim=1) >= max_length).nonzero().flatten().tolist():
        if len(tokenizer(texts[row], truncation=False, verbose=False)['input_ids']) > max_length:
            truncated = texts[row]
            break
    return ids, mask, truncated
