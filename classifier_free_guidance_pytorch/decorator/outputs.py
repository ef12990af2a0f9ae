"""Which part of an output is guided, and how it is put back.

An output is a tensor, or a tuple, list, mapping or dataclass whose first entry, or the entry that `guide` names, is guided. Every
other entry comes back as a tuple with one value per branch, `(cond, null)`: that is where caches of a decoder are found.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError

Guide: TypeAlias = int | str | None


def is_structured(output: Any) -> bool:
    """Whether a value has entries: a tuple, list, mapping or dataclass."""
    return isinstance(output, (tuple, list, Mapping)) or (dataclasses.is_dataclass(output) and not isinstance(output, type))


def entries(output: Any) -> dict[Any, Any]:
    """The entries of a structured output by key: an index, a mapping's key or a field's name."""
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, (tuple, list)):
        return dict(enumerate(output))
    return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}


def with_entries(like: Any, parts: dict[Any, Any]) -> Any:
    """A structured output of the same type with other entries."""
    if isinstance(like, tuple) and hasattr(like, '_fields'):
        return type(like)(*parts.values())
    if isinstance(like, (tuple, list)):
        return type(like)(parts.values())
    output: Any = copy.copy(like)
    for key, value in parts.items():
        if isinstance(like, Mapping):
            output[key] = value
        else:  # a dataclass, which may be frozen, or compute fields of its own in `__init__`
            object.__setattr__(output, key, value)
    return output


def guided_key(output: Any, guide: Guide) -> Any:
    """The key of the entry to guide: the one that was named, else the first.

    Raises:
        ConfigError: there is no such entry, or it is no tensor.
    """
    if not is_structured(output):
        raise ConfigError(
            'a guided forward returns a tensor, or a tuple, list, mapping or dataclass of which one entry is guided, but this '
            f'one returned a {type(output).__name__}'
        )
    parts = entries(output)
    names = getattr(output, '_fields', ())
    key = names.index(guide) if guide in names else next(iter(parts), None) if guide is None else guide
    if key not in parts:
        raise ConfigError(f'guide={guide!r} names no entry of the output, which has {list(parts) or "none"}')
    if not isinstance(parts[key], Tensor):
        raise ConfigError(
            f'entry {key!r} of the output is to be guided, but is a {type(parts[key]).__name__} and no tensor: '
            f'name another with guide=, out of {list(parts)}'
        )
    return key


def to_guide(output: Any, guide: Guide) -> Tensor:
    """The tensor in an output that is to be guided."""
    if isinstance(output, Tensor):
        return output
    key = guided_key(output, guide)
    tensor: Tensor = entries(output)[key]
    return tensor


def put_back(outputs: Sequence[Any], guided: Any, guide: Guide) -> Any:
    """An output like the first of `outputs` with `guided` in its place, and the other entries of all branches side by side."""
    like = outputs[0]
    if isinstance(like, Tensor):
        return guided
    key = guided_key(like, guide)
    branches = [entries(output) for output in outputs]
    beside = {k: value if len(branches) == 1 else tuple(branch[k] for branch in branches) for k, value in branches[0].items()}
    return with_entries(like, {**beside, key: guided})
