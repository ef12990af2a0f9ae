"""The arguments of a conditioner as plain values, for the files in which frameworks keep how a model was built.

What a file can hold is written down and read back: names, numbers, paths, dtypes, and encoders that are `Precomputed`. Of any
other object its class is written down, so that the message can say what to pass again.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

import torch

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text import EncoderIdentity, Precomputed

_OBJECT, _PRECOMPUTED = '__object__', '__precomputed__'


def as_plain(value: Any) -> Any:
    """Return a value of which a JSON file holds all that `from_plain` needs."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, (list, tuple)):
        return [as_plain(part) for part in value]
    if isinstance(value, Mapping):
        return {str(name): as_plain(part) for name, part in value.items()}
    if isinstance(value, Precomputed):
        origin = None if value.origin is None else value.origin.as_json()
        stated = {name: getattr(value, name) for name in ('dim_latent', 'dim_pooled', 'max_text_len')}
        return {_PRECOMPUTED: {**stated, 'origin': origin}}
    return {_OBJECT: value.__name__ if isinstance(value, type) else type(value).__name__}


def from_plain(value: Any, argument: str) -> Any:
    """Return what `as_plain` was given; any other value as it is.

    Args:
        value: The value.
        argument: Whose value it is, for the message.

    Raises:
        ConfigError: It was an object that no file can hold.
    """
    if isinstance(value, (list, tuple)) and not hasattr(value, '_fields'):
        return type(value)(from_plain(part, argument) for part in value)
    if isinstance(value, str) and value.startswith('torch.'):
        return getattr(torch, value.removeprefix('torch.'), value)
    if not isinstance(value, Mapping):
        return value
    if _OBJECT in value:
        raise ConfigError(
            f'this model was saved with a {value[_OBJECT]} object in {argument}, which no file can hold: pass it again, '
            f'{argument}=, where the saved model is loaded'
        )
    if _PRECOMPUTED in value:
        stated = dict(value[_PRECOMPUTED])
        origin = stated.pop('origin')
        return Precomputed(**stated, origin=None if origin is None else EncoderIdentity.from_json(origin))
    parts = {name: from_plain(part, argument) for name, part in value.items()}
    return {name: tuple(part) if isinstance(part, list) else part for name, part in parts.items()}  # JSON has no tuples
