"""The parts of a module that follow text: which they are, by patterns over their names, and what each is asked to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import nn

from classifier_free_guidance_pytorch.conditioners.checks import is_count
from classifier_free_guidance_pytorch.decorator.class_decorator import CONDITIONERS
from classifier_free_guidance_pytorch.errors import ConfigError

KINDS = tuple(kind for kind in CONDITIONERS if kind in ('film', 'attention', 'concat'))


@dataclass(frozen=True)
class Part:
    """How one part of a module follows text. What is left at None is found by the dry run.

    Args:
        condition: 'film', 'attention' or 'concat'; by default what `text_conditioned` was told for all parts.
        dim: The width of the part's output.
        channel_first: Where the channels of its output are: `(b, dim, ...)` or `(b, ..., dim)`.
        repeat_batch: How many consecutive rows of its output belong to one sample, such as frames folded into the batch. A call
            that says `repeat_batch=` has the last word.

    Raises:
        ConfigError: A value that is none of these.
    """

    condition: str | None = None
    dim: int | None = None
    channel_first: bool | None = None
    repeat_batch: int = 1

    def __post_init__(self) -> None:
        if self.condition not in (None, *KINDS):
            raise ConfigError(f'a part is conditioned by {", ".join(KINDS[:-1])} or {KINDS[-1]}, but got {self.condition!r}')
        for name in ('dim', 'repeat_batch'):
            value = getattr(self, name)
            if not (is_count(value) or (value is None and name == 'dim')):
                raise ConfigError(f'{name} of a part is a positive integer, but got {value!r}')
        if self.channel_first is not None and not isinstance(self.channel_first, bool):
            raise ConfigError(f'channel_first of a part is True or False, but got {self.channel_first!r}')

    @property
    def is_stated(self) -> bool:
        """Whether nothing is left for the dry run to find."""
        return self.dim is not None and self.channel_first is not None


At: TypeAlias = str | Sequence[str] | Mapping[str, str | Part | None]


def find_parts(module: nn.Module, at: At, condition: str) -> dict[str, Part]:
    """Return the parts that the patterns name, in the order of the module.

    Args:
        module: The module.
        at: Patterns over the names of its parts, as a mapping with the kind of each, or a `Part`. `*` stands for what is between
            two dots, `**` for any number of names.
        condition: The kind of the parts that say none.

    Raises:
        ConfigError: A pattern that matches nothing, two that match one part, or a value that is no kind.
    """
    default = Part(condition).condition
    if default is None:
        raise ConfigError(
            f'condition= is {", ".join(map(repr, KINDS[:-1]))} or {KINDS[-1]!r}, of the parts that say none, but got None'
        )
    patterns = _patterns(at)
    first: dict[nn.Module, str] = {}
    names = {name: first.setdefault(part, name) for name, part in _named(module)}  # a shared part goes by its first name
    found: dict[str, tuple[str, Part]] = {}
    for pattern, part in patterns.items():
        matched = [name for name in names if _matches(name.split('.'), pattern.split('.'))]
        if not matched:
            raise ConfigError(f'{type(module).__name__} has no part named {pattern!r}: {_closest(pattern, names)}')
        for name in dict.fromkeys(names[name] for name in matched):
            if name in found:
                raise ConfigError(f'at= names {name!r} twice, by {found[name][0]!r} and by {pattern!r}: leave one of them out')
            found[name] = (pattern, replace(part, condition=part.condition or default))
    return {name: found[name][1] for name in names if name in found}


def _named(module: nn.Module, prefix: str = '', above: tuple[nn.Module, ...] = ()) -> Iterator[tuple[str, nn.Module]]:
    """Yield every part of a module by each of its names, in the order of `named_modules`, which tells the first name only."""
    for name, child in module._modules.items():
        if child is not None and child is not module and child not in above:
            yield prefix + name, child
            yield from _named(child, f'{prefix}{name}.', (*above, module))


def _patterns(at: At) -> dict[str, Part]:
    """Return what was asked of every pattern."""
    if not isinstance(at, (str, Iterable)):
        raise ConfigError(f'at= names parts by strings, such as "blocks.*", but got {at!r}')
    asked = at.items() if isinstance(at, Mapping) else [(pattern, None) for pattern in ([at] if isinstance(at, str) else at)]
    if not asked:
        raise ConfigError("at= names the parts that follow the text, such as at='mid_block' or at=['blocks.*'], but got none")
    parts = {}
    for pattern, value in asked:
        if not isinstance(pattern, str):
            raise ConfigError(f'at= names parts by strings, such as "blocks.*", but got {pattern!r}')
        if not isinstance(value, (Part, str, type(None))):
            raise ConfigError(f'at[{pattern!r}] is {", ".join(map(repr, KINDS))}, a Part(...) or None, but got {value!r}')
        parts[pattern] = value if isinstance(value, Part) else Part(value)
    return parts


def _matches(name: list[str], pattern: list[str]) -> bool:
    """Whether a name matches a pattern, both taken apart at their dots."""
    if not pattern:
        return not name
    if pattern[0] == '**':
        return any(_matches(name[start:], pattern[1:]) for start in range(len(name) + 1))
    return bool(name) and fnmatchcase(name[0], pattern[0]) and _matches(name[1:], pattern[1:])


def _closest(pattern: str, names: Iterable[str]) -> str:
    """Return the sentence that offers the names most like a pattern."""
    known = list(names)
    close = difflib.get_close_matches(pattern, known, n=3, cutoff=0.4)
    if not close:
        top = [name for name in known if '.' not in name]
        return f'its parts are {", ".join(map(repr, top))}, and what is inside of them' if top else 'it has no parts'
    return f'the closest are {", ".join(map(repr, close))}'
