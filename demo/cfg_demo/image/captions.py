"""Captions as people store them, checked before training starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from classifier_free_guidance_pytorch.corpus.read.entries import caption_of
from classifier_free_guidance_pytorch.errors import ConfigError


def checked_captions(source: object, stored: Iterable[tuple[str, Any]]) -> list[str]:
    """Captions, each on one line and without space around it.

    Args:
        source: what holds the captions, for the error.
        stored: where each of them stands, for the error, and what stands there: a string, or bytes of UTF-8.

    Raises:
        ConfigError: some are empty, missing or no text: which, and how many.
    """
    read = [(place, caption_of(value, keep_empty=False)) for place, value in stored]
    unusable = [f'{place}: {caption.reason}' for place, caption in read if not isinstance(caption, str)]
    if unusable:
        raise ConfigError(
            f'{len(unusable)} of {len(read)} captions of {str(source)!r} cannot be used ({few(unusable)}): write them, or take '
            'their images out'
        )
    return [' '.join(caption.split()) for _, caption in read if isinstance(caption, str)]


def few(names: Sequence[object], shown: int = 3) -> str:
    """The first of many names, and how many more there are.

    Example:
        >>> few(['a', 'b', 'c', 'd', 'e'])
        'a, b, c and 2 more'
    """
    first = ', '.join(map(str, names[:shown]))
    return f'{first} and {len(names) - shown} more' if len(names) > shown else first
