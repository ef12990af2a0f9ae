"""Which part of an output is guided, and how it is put back.

An output is a tensor, or a tuple, list, mapping or dataclass of which one entry is guided: the first, or the one that `guide`
names. Every other entry comes back with one value per branch, `(cond, null)`: that is where caches of a decoder are found.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from typing_extensions import Self

from classifier_free_guidance_pytorch.errors import ConfigError

Guide: TypeAlias = int | str | Sequence[Any] | None
Path: TypeAlias = tuple[Any, ...]


class PerBranch(tuple[Any, ...]):
    """What an entry of the output is in each branch. Handed in again as an argument, every branch gets its own value back.

    It is asked like one of its values, so that code which carries a cache from step to step need not know that there are several:
    a method runs on the value of every branch, a list has the entries of all, and anything else is that of the first.
    """

    branches: tuple[str, ...]

    def __new__(cls, values: Iterable[Any], branches: tuple[str, ...] = ('cond', 'null')) -> Self:
        self = super().__new__(cls, values)
        self.branches = branches
        return self

    def of(self, branch: str, place: int = 0) -> Any:
        """Return the value of a branch, the one at a place where it has several; one that was not run has the first branch's."""
        own = [value for value, name in zip(self, self.branches, strict=True) if name == branch]
        return own[place] if place < len(own) else self[0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name == 'branches':  # protocols, of which the tuple has its own
            raise AttributeError(name)
        every = [getattr(value, name) for value in self]
        if all(callable(one) for one in every):
            return partial(_first_of_all, every)
        if all(isinstance(one, (list, tuple)) for one in every):
            return [part for one in every for part in one]
        return every[0]


def _first_of_all(functions: Sequence[Callable[..., Any]], *args: Any, **kwargs: Any) -> Any:
    """Call every function, and return what the first returned."""
    first, *_ = [function(*args, **kwargs) for function in functions]
    return first


def is_structured(output: Any) -> bool:
    """Whether a value has entries: a tuple, list, mapping or dataclass."""
    return isinstance(output, (tuple, list, Mapping)) or (dataclasses.is_dataclass(output) and not isinstance(output, type))


def entries(output: Any) -> dict[Any, Any]:
    """Return the entries of a structured output by key: an index, a mapping's key or a field's name."""
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, (tuple, list)):
        return dict(enumerate(output))
    return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}


def with_entries(like: Any, parts: dict[Any, Any]) -> Any:
    """Return a structured output of the same type with other entries."""
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


def guided_paths(output: Any, guide: Guide) -> list[Path]:
    """Return where the tensors to guide stand in an output; the path of a bare tensor is empty.

    A name or an index is an entry, a list several entries, and a tuple either several entries that are tensors, or a path into
    nested outputs.

    Raises:
        ConfigError: There is no such entry, or it is no tensor with a batch.
    """
    if isinstance(output, Tensor):
        if guide is not None:
            raise ConfigError(f'guide={guide!r} names an entry of the output, but the forward returned a tensor')
        return [()]
    if isinstance(guide, list):
        return [_path(output, one if isinstance(one, tuple) else (one,), guide) for one in guide]
    if not isinstance(guide, tuple) or not is_structured(output):
        return [_path(output, (guide,), guide)]
    several = [(one,) for one in guide]  # never a path as well, since a path leads through its first entry
    return [_path(output, one, guide) for one in (several if all(_is_tensor(output, one) for one in several) else [guide])]


def _key(output: Any, name: Any) -> Any:
    """Return the key of an entry: the first for None, the index for a field of a named tuple."""
    names = getattr(output, '_fields', ())
    return names.index(name) if name in names else next(iter(entries(output)), None) if name is None else name


def _is_tensor(output: Any, path: Path) -> bool:
    """Whether a path of one name leads to a tensor."""
    return not isinstance(path[0], (list, tuple)) and isinstance(entries(output).get(_key(output, path[0])), Tensor)


def _path(output: Any, names: Path, guide: Guide) -> Path:
    """Return the keys that the names stand for, checked on the way to a tensor."""
    keys = []
    for name in names:
        if not is_structured(output):
            raise ConfigError(
                'a guided forward returns a tensor, or a tuple, list, mapping or dataclass of which one entry is guided, but '
                f'this one returned a {type(output).__name__}'
            )
        parts = entries(output)
        key = _key(output, name)
        if key not in parts:
            raise ConfigError(f'guide={guide!r} names no entry of the output, which has {list(parts) or "none"}')
        keys.append(key)
        output = parts[key]
    if not isinstance(output, Tensor) or output.ndim == 0:
        what = 'a tensor without a batch' if isinstance(output, Tensor) else f'a {type(output).__name__} and no tensor'
        raise ConfigError(
            f'entry {keys[-1]!r} of the output is to be guided, but is {what}: name another with guide=, out of {list(parts)}'
        )
    return tuple(keys)


def at(output: Any, path: Path) -> Tensor:
    """Return the tensor at a path."""
    for key in path:
        output = entries(output)[key]
    tensor: Tensor = output
    return tensor


def put_back(outputs: Sequence[Any], guided: Mapping[Path, Any], branches: tuple[str, ...]) -> Any:
    """Return an output like the first of `outputs`, with what was guided at its paths, and everything else by branch.

    Args:
        outputs: The output of every pass.
        guided: What comes to stand at each path.
        branches: The name of the branch that each output is of.
    """
    if () in guided:
        return guided[()]
    parts = [entries(output) for output in outputs]
    together: dict[Any, Any] = {}
    for key in parts[0]:
        inside = {path[1:]: value for path, value in guided.items() if path[0] == key}
        values = [part[key] for part in parts]
        if inside:
            together[key] = put_back(values, inside, branches)
        elif len(outputs) == 1:
            together[key] = values[0]
        else:
            together[key] = tuple(values) if torch.compiler.is_compiling() else PerBranch(values, branches)
    return with_entries(outputs[0], together)
