"""Tensors with one row per text: the one container behind encodings, features and conditions.

A container is a dataclass whose fields are tensors with a leading text dimension, other containers, tuples of these, or None;
whatever else it holds is carried along. `map`, `expand`, `repeat`, `index` and `joined` are written here, once, from the fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

Map: TypeAlias = Callable[[Tensor], Tensor]
T = TypeVar('T')


class Rows:
    """Base of the containers; a container of one row fits every batch."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def names(self) -> list[str]:
        """The names of the fields."""
        return list(self.__dataclass_fields__)

    @property
    def rows(self) -> int:
        """How many texts the container describes; 1 where it holds no tensor."""
        return max([tensor.shape[0] for tensor in tensors_of(self)] or [1])

    def map(self, fn: Map) -> Self:
        """Return the same container with `fn` applied to each of its tensors."""
        return type(self)(**{name: map_rows(getattr(self, name), fn) for name in self.names})

    def expand(self, rows: int) -> Self:
        """Return one row seen as `rows` equal rows, without a copy; several rows stay as they are."""
        return self if self.rows != 1 else self.map(lambda t: t.expand(rows, *t.shape[1:]))

    def repeat(self, times: int) -> Self:
        """Return every row `times` times in a row; a single row fits every batch and stays."""
        return self if times == 1 else self.map(lambda t: t if t.shape[0] == 1 else t.repeat_interleave(times, dim=0))

    def index(self, rows: slice | Sequence[int] | Tensor) -> Self:
        """Return some of the rows, always as a batch."""
        return self.map(lambda t: t[rows])

    def joined(self, other: Self) -> Self:
        """Return the rows of both, one after the other; tokens and masks are padded to the longer, with zeros and False."""
        return type(self)(**{name: _join(getattr(self, name), getattr(other, name)) for name in self.names})

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.map(detached)  # torch copies no tensor that has a history

    def to(self, device: torch.device | str | int | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move to a device and / or a floating dtype; masks stay boolean."""
        return self.map(lambda t: t.to(device=device, dtype=dtype if t.is_floating_point() else None))


def is_readable(tensor: Tensor) -> bool:
    """Whether the values of a tensor can be read, and at no cost.

    Reading a GPU tensor forces a sync; in a traced graph and under `torch.func` there is nothing to read yet.
    """
    traced = torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return tensor.device.type == 'cpu' and not traced


def moved(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Move a tensor, from the CPU to a GPU without a sync: CUDA has read memory that is not pinned before the call returns."""
    return tensor.to(device=device, dtype=dtype, non_blocking=tensor.device.type == 'cpu' and device.type == 'cuda')


def detached(tensor: Tensor) -> Tensor:
    """Return a copy without history."""
    return tensor.detach().clone()


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a container or of a tuple, in the order of the fields."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Rows, tuple)):
        for part in (*_entries(value), *_beside(value).values()):
            yield from tensors_of(part)


def map_rows(value: T, fn: Map) -> T:
    """Apply `fn` to every tensor of a container, a tuple or a named tuple; what is no tensor stays."""
    mapped: Any = value
    if isinstance(value, Tensor):
        mapped = fn(value)
    elif isinstance(value, Rows):
        mapped = value.map(fn)
    elif isinstance(value, tuple):
        mapped = _like(value, [map_rows(part, fn) for part in value])
        for name, part in _beside(value).items():
            setattr(mapped, name, map_rows(part, fn))
    return mapped


def _entries(value: Rows | tuple[Any, ...]) -> Iterable[Any]:
    return [getattr(value, name) for name in value.names] if isinstance(value, Rows) else value


def _beside(value: Any) -> dict[str, Any]:
    """Return what a tuple carries beside its entries: the attributes that its class names as `beside`."""
    return {name: getattr(value, name) for name in getattr(type(value), 'beside', ())} if isinstance(value, tuple) else {}


def _like(value: tuple[Any, ...], parts: list[Any]) -> tuple[Any, ...]:
    """Return a tuple or named tuple of the same type with other entries."""
    return type(value)(*parts) if hasattr(value, '_fields') else tuple(parts)


def _join(first: Any, second: Any) -> Any:
    """Join two values of one field."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat(_padded(first, second))
    if isinstance(first, Rows):
        return first.joined(second)
    if isinstance(first, tuple):
        joined = _like(first, [_join(*parts) for parts in zip(first, second, strict=True)])
        for name, part in _beside(first).items():
            other = getattr(second, name)
            setattr(joined, name, None if part is None or other is None else _join(part, other))
        return joined
    return first


def _padded(first: Tensor, second: Tensor) -> list[Tensor]:
    """Pad the token dimension, the second, of tokens `(b, n, d)` or masks `(b, n)` to the longer of two."""
    has_tokens = first.ndim == 3 or first.dtype == torch.bool
    if not has_tokens or first.shape[1] == second.shape[1]:
        return [first, second]
    longest = max(first.shape[1], second.shape[1])
    return [F.pad(t, (0, 0) * (t.ndim - 2) + (0, longest - t.shape[1])) for t in (first, second)]
