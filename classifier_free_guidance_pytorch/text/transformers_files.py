"""Reading the files of transformers' models: configuration, tokenizer and weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text.hub import looks_local, read_model_files
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision

# The classes that hold a text encoder alone, without 'Model' or 'Config'. ByT5 and Flan-T5 are of type 't5'.
_TOWERS = {
    't5': 'T5Encoder',
    'mt5': 'MT5Encoder',
    'umt5': 'UMT5Encoder',
    'clip': 'CLIPText',
    'siglip': 'SiglipText',
    'siglip2': 'Siglip2Text',
}
_SAVED_ALONE = '_text_model'  # how the type of a tower ends that was saved alone, such as 'clip_text_model'


def read_config(adapter: str, name: str, subfolder: str = '') -> Any:
    """Return the configuration of a model; `adapter` is the class that needs it, for the error."""
    import transformers

    def read(local: bool) -> Any:
        values, _ = transformers.PretrainedConfig.get_config_dict(name, local_files_only=local, subfolder=subfolder)
        tower, saved_alone, _ = values.get('model_type', '').partition(_SAVED_ALONE)
        # transformers 4's AutoConfig does not know towers that were saved alone.
        class_name = f'{_TOWERS[tower]}Config' if saved_alone and tower in _TOWERS else 'AutoConfig'
        options: Any = {'local_files_only': local, 'trust_remote_code': False, 'subfolder': subfolder}
        return getattr(transformers, class_name).from_pretrained(name, **options)

    return read_model_files(adapter, name, read)


def cached_revision(name: str, subfolder: str = '') -> str | None:
    """Return the commit of a model's files in the cache of the hub; None for a local folder."""
    from huggingface_hub import try_to_load_from_cache

    file = PurePosixPath(subfolder, 'config.json')
    path = None if not name or looks_local(name) else try_to_load_from_cache(name, str(file))
    return Path(path).parents[len(file.parts) - 1].name if isinstance(path, str) else None


def read_tokenizer(adapter: str, name: str, subfolder: str = '') -> Any:
    """Return the tokenizer of a model; diffusers keeps that of `text_encoder_2` in `tokenizer_2`.

    Raises:
        MissingDependencyError: The tokenizer cannot be read.
    """
    from transformers import AutoTokenizer

    repair_torchvision()  # AutoTokenizer imports model modules, and those import torchvision

    def read(local: bool) -> Any:
        folder = subfolder.replace('text_encoder', 'tokenizer')
        return AutoTokenizer.from_pretrained(name, local_files_only=local, trust_remote_code=False, subfolder=folder)

    return read_model_files(adapter, name, read)


def padding_right(name: str, tokenizer: Any) -> Any:
    """Return a tokenizer, set to pad on the right: real tokens keep their positions in every batch.

    Raises:
        ConfigError: It has no token to pad with.
    """
    tokenizer.padding_side = tokenizer.truncation_side = 'right'
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise ConfigError(f'the tokenizer of {name!r} has neither a padding nor an end nor an unknown token: give it a pad_token')
    return tokenizer


def read_weights(adapter: str, name: str, model_type: str, dtype: torch.dtype, subfolder: str = '') -> Any:
    """Return the network with its weights.

    Args:
        adapter: The class that needs them, for the error.
        name: A model name on the hub, or a local folder.
        model_type: The type that the configuration states.
        dtype: The precision, always explicit: by default transformers 4 takes float32, and 5 takes the checkpoint's.
        subfolder: Where the model is in it.

    Raises:
        MissingDependencyError: The weights cannot be read.
        ConfigError: The checkpoint lacks some weights, which would stay random.
    """
    repair_torchvision()
    import transformers

    version = tuple(int(part) for part in transformers.__version__.split('.')[:2])
    dtype_keyword = 'dtype' if version >= (4, 56) else 'torch_dtype'
    options = {dtype_keyword: dtype, 'output_loading_info': True, 'trust_remote_code': False, 'subfolder': subfolder}
    class_name = f'{_TOWERS.get(model_type.removesuffix(_SAVED_ALONE), "Auto")}Model'
    read = getattr(transformers, class_name).from_pretrained
    with _bars_on_terminals_only():
        network, report = read_model_files(adapter, name, lambda local: read(name, local_files_only=local, **options))
    # A pooler is a head that this library does not read, and many checkpoints come without one.
    missing = sorted(key for key in report['missing_keys'] if 'pooler' not in key and 'position_ids' not in key)
    if missing:
        raise ConfigError(f'{name!r} is not a checkpoint of {class_name}: it lacks {len(missing)} weights, such as {missing[:3]}')
    return network


@contextmanager
def _bars_on_terminals_only() -> Iterator[None]:
    """Keep the progress bars of transformers out of logs, in which every step of a bar is a line."""
    from transformers.utils import logging

    silenced = not sys.stderr.isatty() and logging.is_progress_bar_enabled()
    if silenced:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if silenced:
            logging.enable_progress_bar()
