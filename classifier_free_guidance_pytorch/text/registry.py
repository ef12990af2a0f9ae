"""From `model_types`, `model_names` and `model_kwargs` to encoders."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text.base import Encoder, TextEncoder

# Modules by name: an adapter is imported when it is asked for.
_ADAPTERS = {
    't5': ('t5', 'T5Adapter'),
    'clip': ('open_clip', 'OpenClipAdapter'),
    'bge': ('hugging_face', 'BGEAdapter'),
    'hf': ('hugging_face', 'HFTextAdapter'),
    'mini': ('mini', 'MiniAdapter'),
    'english': ('english', 'EnglishAdapter'),
}
DEFAULT_TYPE = 't5'
_INTERFACE = ('encode', 'dim_latent', 'dim_pooled', 'max_text_len')
_KNOWN_TYPES = f'pass one of {", ".join(map(repr, _ADAPTERS))}, or an object with {", ".join(_INTERFACE)}'


def build_encoders(
    model_types: Any = DEFAULT_TYPE,
    model_names: str | PathLike[str] | Sequence[str | PathLike[str] | None] | None = None,
    model_kwargs: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
) -> tuple[Encoder, ...]:
    """Return the encoders of a conditioner.

    Args:
        model_types: A type (`'t5'`, `'clip'`, `'bge'`, `'hf'`, `'english'`, `'mini'`), an encoder object, or a sequence of these.
        model_names: A name or a local path per type; None, or a None among them, for the type's default.
        model_kwargs: A dict of adapter arguments per type; likewise.

    Raises:
        ConfigError: An unknown type or argument, an object without the interface, or counts that do not match.
        MissingDependencyError: A model cannot be read.
    """
    types = list(model_types) if isinstance(model_types, list | tuple) else [model_types]
    if not types:
        raise ConfigError(f'model_types is empty, but a conditioner needs at least one encoder: {_KNOWN_TYPES}')
    names = _one_per_type('model_names', model_names, len(types), single=(str, PathLike))
    kwargs = _one_per_type('model_kwargs', model_kwargs, len(types), single=(Mapping,))
    return tuple(build_encoder(*entry) for entry in zip(types, names, kwargs, strict=True))


def build_encoder(
    model_type: Any = DEFAULT_TYPE, name: str | PathLike[str] | None = None, kwargs: Mapping[str, Any] | None = None
) -> Encoder:
    """Return one encoder.

    Args:
        model_type: A type, an adapter's class, or an encoder object, which is returned as it is.
        name: A name or a local path; None for the type's default.
        kwargs: The adapter's arguments.

    Raises:
        ConfigError: An unknown type or argument, or an object without the interface.
        MissingDependencyError: The model cannot be read.
    """
    kwargs = dict(kwargs or {})
    if isinstance(model_type, str):
        return _build(model_type, _adapter_class(model_type), name, kwargs)
    if isinstance(model_type, type):
        if issubclass(model_type, TextEncoder):
            return _build(model_type.__name__, model_type, name, kwargs)
        raise ConfigError(f'model_types has the class {model_type.__name__}: pass an instance of it')
    if name is not None or kwargs:
        raise ConfigError(
            f'model_types has the object {model_type!r}, which is built already, so its entry of model_names and model_kwargs '
            f'must be None, but got name={name!r} and kwargs={kwargs!r}'
        )
    missing = [attribute for attribute in _INTERFACE if not hasattr(model_type, attribute)]
    if missing:
        raise ConfigError(
            f'model_types has a {type(model_type).__name__}, which is not an encoder: it lacks {", ".join(missing)}; '
            f'{_KNOWN_TYPES}'
        )
    return model_type


def _adapter_class(model_type: str) -> type[TextEncoder]:
    """Return the class of a type."""
    if model_type not in _ADAPTERS:
        raise ConfigError(f'model_types has {model_type!r}, which is unknown: {_KNOWN_TYPES}')
    module, cls = _ADAPTERS[model_type]
    return getattr(importlib.import_module(f'{__package__}.{module}'), cls)


def _build(model_type: str, adapter: type[TextEncoder], name: Any, kwargs: dict[str, Any]) -> TextEncoder:
    """Build an adapter with arguments that it has."""
    known = [parameter for parameter in inspect.signature(adapter).parameters if parameter != 'name']
    unknown = [key for key in kwargs if key not in known]
    if unknown:
        hint = '; the name goes into model_names' if 'name' in unknown else ''
        raise ConfigError(
            f'model_kwargs of {model_type!r} has {", ".join(map(repr, unknown))}, but {adapter.__name__} knows '
            f'{", ".join(known)}{hint}'
        )
    return adapter(name, **kwargs)


def _one_per_type(argument: str, values: Any, count: int, single: tuple[type, ...]) -> list[Any]:
    """Return a list with one entry per type."""
    if values is None:
        return [None] * count
    values = [values] if isinstance(values, single) else values
    if not isinstance(values, list | tuple):
        raise ConfigError(f'{argument} is one entry or a list with one per model type, but got {values!r}')
    if len(values) != count:
        raise ConfigError(f'{argument} needs one entry per model type, so {count}, but got {len(values)}: {values!r}')
    allowed = ' or '.join(cls.__name__ for cls in single)
    for value in values:
        if value is not None and not isinstance(value, single):
            raise ConfigError(f'{argument} has {value!r}, but every entry is a {allowed} or None')
    return list(values)
