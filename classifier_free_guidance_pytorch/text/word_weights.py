"""Words of a text with weights of their own: where they are, and how much each counts.

A weight is a number; 1 is how much a word counts anyway. Weights are given beside the texts, or written in them as `(word:1.3)`
where an encoder was told to read that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text.texts import is_batch, shorten

WordWeights: TypeAlias = Sequence[Mapping[str, float] | None]  # one for each text

_WRITTEN = re.compile(r'(?<!\\)\(([^()]+):\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*(?<!\\)\)')  # (words:number)
_ESCAPED = re.compile(r'\\([()])')


class Part(NamedTuple):
    """A part of a text, from character `start` to before `stop`, and its weight."""

    start: int
    stop: int
    weight: float


def read_written(text: str) -> tuple[str, list[Part]]:
    r"""Return a text without what is written in it of weights, and its parts that have some.

    Only `(words:number)` is a weight. All other brackets are part of the text; so are those behind a backslash, without it.

    Example:
        >>> read_written(r'a (red ball:1.3) \(new:2\)')
        ('a red ball (new:2)', [Part(start=2, stop=10, weight=1.3)])
    """
    plain, parts, read = '', [], 0
    for found in _WRITTEN.finditer(text):
        plain += _ESCAPED.sub(r'\1', text[read : found.start()])
        words = _ESCAPED.sub(r'\1', found[1])
        parts.append(Part(len(plain), len(plain) + len(words), float(found[2])))
        plain, read = plain + words, found.end()
    return plain + _ESCAPED.sub(r'\1', text[read:]), parts


def find_words(text: str, weights: Mapping[str, float], name: str) -> list[Part]:
    """Return the parts of a text that have a weight: every place where one of the words stands, in capitals or not.

    Args:
        text: The text.
        weights: The weight of a word, or of several in a row.
        name: The caller's name for the weights, for errors.

    Raises:
        ConfigError: A word that is not in the text, or a weight that is no finite number.

    Example:
        >>> find_words('A dog, a hotdog', {'dog': 2}, 'word_weights[0]')
        [Part(start=2, stop=5, weight=2.0)]
    """
    parts = []
    for words, weight in weights.items():
        if not isinstance(words, str) or not words.strip():
            raise ConfigError(f'{name} weighs words of the text, but got {shorten(words)} as one')
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise ConfigError(f'{name} gives every word a finite number, 1 to change nothing, but got {weight!r} for {words!r}')
        # no letter or digit on either side; \b would ask for one at the ends of words such as 'c++'
        found = list(re.finditer(rf'(?<!\w){re.escape(words.strip())}(?!\w)', text, re.IGNORECASE))
        if not found:
            raise ConfigError(f'{name} weighs {shorten(words)}, which is not in the text {shorten(text)}: leave it out')
        parts += [Part(*one.span(), float(weight)) for one in found]
    return parts


def checked_weights(weights: Any, count: int) -> Sequence[Mapping[str, float]]:
    """Return one mapping for each text.

    Raises:
        ConfigError: There are not as many as texts, or there is something else among them.
    """
    if not is_batch(weights) or len(weights) != count:
        got = f'{len(weights)} entries' if isinstance(weights, list | tuple) else f'a {type(weights).__name__}'
        raise ConfigError(
            f"word_weights is a list with one entry for each text, such as [{{'red': 1.3}}, None], but got {got} for {count} "
            'text(s)'
        )
    for position, entry in enumerate(weights):
        if entry is not None and not isinstance(entry, Mapping):
            raise ConfigError(
                f"word_weights[{position}] gives words their weights, such as {{'red': 1.3}}, but got a {type(entry).__name__}"
            )
    return [entry or {} for entry in weights]
