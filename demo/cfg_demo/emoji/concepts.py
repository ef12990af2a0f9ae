"""What emoji there are, and what they are called: the labels and tags of the Unicode CLDR."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfg_demo.emoji.packages import members
from classifier_free_guidance_pytorch.errors import ConfigError

LANGUAGE = 'en'
CATEGORIES = ('smileys', 'people', 'component', 'nature', 'food', 'travel', 'activities', 'objects', 'symbols', 'flags')
LEFT_OUT = ('component', 'flags')  # parts of other emoji; and flags, whose labels say nothing of what is to be seen
GENDERED = ('man', 'woman', 'men', 'women')


@dataclass(frozen=True)
class Concept:
    """One emoji, whatever its style.

    Args:
        name: In words, 'cat with tears of joy'.
        tags: Keywords, without the name.
        category: One of `CATEGORIES`.
        code: Its code points in hexadecimal, without variation selectors: '1f639'.
    """

    name: str
    tags: tuple[str, ...]
    category: str
    code: str


def read_concepts(archive: Path) -> list[Concept]:
    """Return the concepts of the package of labels, in the order of Unicode.

    Left out: flags, the components that emoji are made of, skin tones, and the man and the woman of whatever there is as a person
    too, which nobody can tell apart at 32 pixels.

    Raises:
        ConfigError: The archive has no labels.
    """
    wanted = f'{LANGUAGE}/data.json'
    found = dict(members(archive, [wanted]))
    if wanted not in found:
        raise ConfigError(f'{str(archive)!r} has no {wanted}: it is no package of labels')
    entries: list[dict[str, Any]] = json.loads(found[wanted])
    known = [entry for entry in entries if entry.get('group') is not None and CATEGORIES[entry['group']] not in LEFT_OUT]
    labels = {entry['label'] for entry in known}
    return [_concept(entry) for entry in known if not _is_variant(entry['label'], labels)]


def code_of(name: str) -> str:
    """Return the code points in a file name without variation selectors, which sets of pictures write or leave out.

    Example:
        >>> code_of('0023-fe0f-20e3.png')
        '23-20e3'
    """
    return '-'.join(part.lstrip('0') for part in name.lower().partition('.')[0].split('-') if part != 'fe0f')


def _concept(entry: dict[str, Any]) -> Concept:
    name = name_of(entry['label'], CATEGORIES[entry['group']])
    tags = (tag.replace('’', "'") for tag in entry.get('tags', ()))
    return Concept(
        name, tuple(tag for tag in tags if tag.lower() != name.lower()), CATEGORIES[entry['group']], code_of(entry['hexcode'])
    )


def name_of(label: str, category: str) -> str:
    """Return a label as one would say it: 'person: red hair' is a person with red hair, 'keycap: 1' a keycap 1."""
    head, colon, rest = label.replace('’', "'").replace('“', '').replace('”', '').partition(': ')
    if not colon:
        return head
    if category == 'people':
        return f'{head} {"of" if head in ("family", "kiss", "couple with heart") else "with"} {rest}'
    return f'{head} {rest}'


def _is_variant(label: str, labels: set[str]) -> bool:
    """Whether a person of either sex is among the labels as well."""
    first, _, rest = label.partition(' ')
    if label.startswith(('family: ', 'kiss: ', 'couple with heart: ')):
        return True
    if first.rstrip(':') not in GENDERED or not rest:
        return False
    persons = (f'person {rest}', f'people {rest}', f'person: {rest}', rest)
    without_direction = rest.partition(': facing')[0]
    return any(person in labels for person in persons) or f'person {without_direction}' in labels


def by_code(concepts: Sequence[Concept]) -> dict[str, Concept]:
    """Return concepts by their code points."""
    return {concept.code: concept for concept in concepts}
