"""WordNet's files as Debian's package `wordnet-base` installs them: senses with their words, definitions and examples.

Reference:
    G. A. Miller, WordNet: a lexical database for English, Communications of the ACM 38(11), 1995. The files are described in the
    manual page wndb(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from classifier_free_guidance_pytorch.errors import MissingDependencyError

PARTS = ('noun', 'verb', 'adj', 'adv')
INSTALLED = Path('/usr/share/wordnet')


@dataclass(frozen=True)
class Sense:
    """A meaning, and the words that share it.

    Args:
        key: Part of speech and offset in its file, 'noun 02121808'.
        words: As written in texts, 'domestic cat'.
        definition: Without its examples.
        examples: Sentences or phrases.
    """

    key: str
    words: tuple[str, ...]
    definition: str
    examples: tuple[str, ...]


def read_senses(folder: Path = INSTALLED) -> list[Sense]:
    """Return all senses in the order of the files.

    Raises:
        MissingDependencyError: The folder lacks one of the files.
    """
    return [sense for part in PARTS for sense in _senses(part, _lines(folder / f'data.{part}'))]


def first_senses(folder: Path = INSTALLED) -> set[tuple[str, str]]:
    """Return the words, in lower case, each with the key of the sense in which it is used most as a part of speech.

    Raises:
        MissingDependencyError: The folder lacks a file.
    """
    found = set()
    for part in PARTS:
        for line in _lines(folder / f'index.{part}'):
            fields = line.split()
            offsets = fields[-int(fields[2]) :]
            found.add((fields[0].replace('_', ' '), f'{part} {offsets[0]}'))
    return found


def counted_words(folder: Path = INSTALLED) -> dict[str, int]:
    """Return how often each word of one letter sequence was met in the texts that WordNet's senses were marked in.

    Raises:
        MissingDependencyError: The folder lacks the file of counts.
    """
    counts: dict[str, int] = {}
    for line in _lines(folder / 'cntlist.rev'):
        key, _, count = line.split()
        word = key.partition('%')[0]
        if word.isalpha():
            counts[word] = counts.get(word, 0) + int(count)
    return counts


def _lines(file: Path) -> Iterator[str]:
    try:
        text = file.read_text(encoding='utf-8', errors='replace')
    except OSError as error:
        raise MissingDependencyError(
            f'WordNet is read from {str(file.parent)!r}, which has no {file.name} ({error.strerror}): install the Debian package '
            'wordnet-base, or pass the folder with its files as --wordnet'
        ) from error
    return (line for line in text.splitlines() if line and not line.startswith('  '))  # the licence is indented


def _senses(part: str, lines: Iterator[str]) -> Iterator[Sense]:
    for line in lines:
        fields, _, gloss = line.partition(' | ')
        head = fields.split()
        count = int(head[3], 16)
        words = (head[4 + 2 * at].partition('(')[0].replace('_', ' ') for at in range(count))
        examples = tuple(found.strip() for found in re.findall(r'"([^"]+)"', gloss))
        definition = re.sub(r'[;,]?\s*"[^"]*"', '', gloss).strip(' ;,')
        yield Sense(f'{part} {head[0]}', tuple(words), definition, examples)
