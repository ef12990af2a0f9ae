"""The entries of an input, and the captions in them, or the reasons why there are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

Place: TypeAlias = int | str
Entry: TypeAlias = tuple[Place, Any]


@dataclass(frozen=True)
class Bad:
    """An entry without a caption, and the reason, in words that can be counted."""

    reason: str


def captions_of(value: Any, keep_empty: bool) -> list[str | Bad]:
    """Return the captions in an entry's value, a string or a list of strings, or the reason why there is none."""
    values = value if isinstance(value, list) else [value]
    return [caption_of(one, keep_empty) for one in values or [Bad('an empty list')]]


def caption_of(value: Any, keep_empty: bool) -> str | Bad:
    """Return the caption in a value, or the reason why there is none.

    Example:
        >>> caption_of(b'a dog', keep_empty=False), caption_of(None, keep_empty=False), caption_of(' ', keep_empty=False)
        ('a dog', Bad(reason='missing'), Bad(reason='empty'))
    """
    if isinstance(value, Bad):
        return value
    if value is None:
        return Bad('missing')
    try:
        if isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, str):
            value.encode()  # fails for lone surrogates, which UTF-8 cannot hold
        else:
            return Bad('not a string')
    except UnicodeError:
        return Bad('not UTF-8')
    if '\0' in value:
        return Bad('NUL characters in it, as UTF-16 has')
    return value if keep_empty or value.strip() else Bad('empty')
