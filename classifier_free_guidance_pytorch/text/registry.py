"""From `model_types`, `model_names` and `model_kwargs` to encoders."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text.base import Encoder, TextEncoder

# Modules are named, not imported: an adapter is imported when it is asked for.
_ADAPTERS = {
    't5': ('t5', 'T5Adapter'),
    'clip': ('open_clip', 'OpenClipAdapter'),
    'bge': ('hugging_face', 'BGEAdapter'),
    'hf': ('hugging_face', 'HFTextAdapter'),
    'mini': ('mini', 'MiniAdapter'),
}
DEFAULT_TYPE = 't5'
_INTERFACE = ('encode', 'dim_latent', 'dim_pooled', 'max_text_len')


def build_encoders(
    model_types: Any = DEFAULT_TYPE,
    model_names: str | PathLike[str] | Sequence[str | PathLike[str] | None] | None = None,
    model_kwargs: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
) -> tuple[Encoder, ...]:
    """The encoders of a conditioner.

    Args:
        model_types: a type (`'t5'`, `'clip'`, `'bge'`, `'hf'`, `'mini'`), an encoder object, or a sequence of these.
        model_names: a name or a local path per type; None, or a None among them, for the type's default.
        model_kwargs: a dict of adapter arguments per type; likewise.

    Raises:
        ConfigError: an unknown type or argument, an object without the interface, or counts that do not match.
        MissingDependencyError: a model cannot be read.
    """
    types = list(model_types) if isinstance(model_types, list | tuple) else [model_types]
    if not types:
        raise ConfigError(f'model_types is empty, but a conditioner needs at least one encoder: {_known_types()}')
    names = _one_per_type('model_names', model_names, len(types), single=(str, PathLike))
    kwargs = _one_per_type('model_kwargs', model_kwargs, len(types), single=(Mapping,))
    return tuple(build_encoder(*entry) for entry in zip(types, names, kwargs, strict=True))


def build_encoder(
    model_type: Any = DEFAULT_TYPE, name: str | PathLike[str] | None = None, kwargs: Mapping[str, Any] | None = None
) -> Encoder:
    """One encoder, by type or as the object it is.

    Raises:
        ConfigError: an unknown type or argument, or an object without the interface.
        MissingDependencyError: the model cannot be read.
    """
    kwargs = dict(kwargs or {})
    if isinstance(model_type, str):
        return _adapter_class(model_type)(name, **_known_arguments(model_type, _adapter_class(model_type), kwargs))
    if isinstance(model_type, type):
        if issubclass(model_type, TextEncoder):
            return model_type(name, **_known_arguments(model_type.__name__, model_type, kwargs))
        raise ConfigError(f'model_types has the class {model_type.__name__}: pass an instance of it')
    if name is not None or kwargs:
        raise ConfigError(
            f'model_types has the object {model_type!r}, which is built already, so its entry of model_names and model_kwargs '
            f'must be None, but got name={name!r} and kwargs={kwargs!r}'
        )
    lacking = [attribute for attribute in _INTERFACE if not hasattr(model_type, attribute)]
    if lacking:
        raise ConfigError(
            f'model_types has a {type(model_type).__name__}, which is no encoder: it lacks {", ".join(lacking)}; {_known_types()}'
        )
    encoder: Encoder = model_type
    return encoder


def _adapter_class(model_type: str) -> type[TextEncoder]:
    """The class behind a type's name."""
    if model_type not in _ADAPTERS:
        raise ConfigError(f'model_types has {model_type!r}, which is unknown: {_known_types()}')
    module, cls = _ADAPTERS[model_type]
    adapter: type[TextEncoder] = getattr(importlib.import_module(f'{__package__}.{module}'), cls)
    return adapter


def _known_types() -> str:
    return f'pass one of {", ".join(map(repr, _ADAPTERS))}, or an object with {", ".join(_INTERFACE)}'


def _known_arguments(model_type: str, adapter: type[TextEncoder], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments, if the adapter has them all."""
    known = [name for name in inspect.signature(adapter).parameters if name != 'name']
    unknown = [key for key in kwargs if key not in known]
    if unknown:
        hint = '; the name goes into model_names' if 'name' in unknown else ''
        raise ConfigError(
            f'model_kwargs of {model_type!r} has {", ".join(map(repr, unknown))}, but {adapter.__name__} knows '
            f'{", ".join(known)}{hint}'
        )
    return kwargs


def _one_per_type(argument: str, values: Any, count: int, single: tuple[type, ...]) -> list[Any]:
    """A list with one entry per type."""
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
