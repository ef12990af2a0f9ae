"""The texts that the encoder learns from, and those it is measured on: no text is in both."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from random import Random

from cfg_demo.english.wordnet import Sense
from cfg_demo.shapes.captions import phrase
from cfg_demo.shapes.dataset import KINDS, draw_scene
from classifier_free_guidance_pytorch.errors import ConfigError

HELD_OUT = 0.03  # of senses: their definitions and examples are never trained on
QUESTIONS, WORDS = 500, 5000  # pairs of synonyms, and the words among which one looks for the other
ALONE = 40_000  # words and names, each a text of its own
SHAPE_CAPTIONS = 2000  # of each kind of scene
COMPOSED = 30_000
RELATIONS = ('on', 'under', 'beside', 'in front of', 'behind', 'with', 'left of', 'right of', 'above', 'below', 'inside', 'near')
COLOURS = ('red', 'green', 'blue', 'yellow', 'orange', 'purple', 'pink', 'brown', 'black', 'white', 'grey')
QUALITIES = ('small', 'big', 'large', 'tiny', 'huge', 'old', 'new', 'young', 'happy', 'sad', 'dark', 'bright', 'wooden', 'wet')
MANNERS = ('a photo of {}', 'a picture of {}', 'a drawing of {}', '{} in watercolour', 'an icon of {}', '{}', '{}', '{}')
NUMBERS = ('two', 'three', 'four', 'five', 'many')


@dataclass(frozen=True)
class Texts:
    """What to train on and what to measure with.

    Args:
        train: Texts, each once.
        held_out: Texts of senses that training never sees, and captions.
        words: `WORDS` common words.
        synonyms: Pairs of positions in `words` of words that share a sense; no such word is a training text of its own.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    words: tuple[str, ...]
    synonyms: tuple[tuple[int, int], ...]


def gather(
    senses: Sequence[Sense],
    counts: Mapping[str, int],
    firsts: Set[tuple[str, str]],
    captions: Iterable[str] = (),
    seed: int = 0,
) -> Texts:
    """Return the texts: words, definitions and examples of WordNet, captions of drawn shapes, composed captions, and given ones.

    Args:
        senses: Of WordNet.
        counts: How common words are.
        firsts: Words with their most common senses: only these make synonyms to ask about.
        captions: More captions.
        seed: Of everything that is drawn or held out.

    Raises:
        ConfigError: There are too few senses to measure with.
    """
    generator = Random(seed)
    words, synonyms = _questions(senses, counts, firsts, generator)
    hidden = {sense.key for sense in senses if generator.random() < HELD_OUT}
    things = {word for sense in senses if sense.key.startswith('noun') for word in sense.words}
    nouns = sorted(word for word in things if counts.get(word, 0) > 1) or ['thing']
    composed = [_composed(nouns, generator) for _ in range(COMPOSED)]
    told_of = list(dict.fromkeys([*_shape_captions(seed), *composed, *captions]))
    generator.shuffle(told_of)
    kept = len(told_of) - int(HELD_OUT * len(told_of))
    train, held_out = told_of[:kept], told_of[kept:]
    asked, names = {words[at] for pair in synonyms for at in pair}, list[str]()
    for sense in senses:
        told = [sense.definition, *sense.examples]
        if sense.key in hidden:
            held_out += told
        else:
            train += told
            names += [word for word in sense.words if word.lower() not in asked]
    names = sorted(dict.fromkeys(names), key=lambda name: (-counts.get(name, 0), len(name.split()), generator.random()))
    train += names[:ALONE]
    measured = dict.fromkeys(text for text in held_out if text)
    return Texts(
        tuple(dict.fromkeys(text for text in train if text and text not in measured)), tuple(measured), tuple(words), synonyms
    )


def read_captions(files: Iterable[Path]) -> list[str]:
    """Return the captions of files: lines, or the key `caption` of JSON lines.

    Raises:
        ConfigError: A file that cannot be read, or a line without a caption.
    """
    found: list[str] = []
    for file in files:
        try:
            lines = file.read_text(encoding='utf-8').splitlines()
            found += [json.loads(line)['caption'] for line in lines] if file.suffix == '.jsonl' else lines
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f'no captions can be read from {str(file)!r} ({error!r}): pass text files or JSON lines') from error
    return found


def _questions(
    senses: Sequence[Sense], counts: Mapping[str, int], firsts: Set[tuple[str, str]], generator: Random
) -> tuple[list[str], tuple[tuple[int, int], ...]]:
    """Common words, and pairs of them that share a sense and are not spelled alike."""
    pairs = []
    for sense in senses:
        known = [word for word in sense.words if counts.get(word, 0) > 0 and (word, sense.key) in firsts]
        if len(known) > 1:
            first, second = generator.sample(known, 2)
            if first[:4] != second[:4]:
                pairs.append((first, second))
    if len(pairs) < QUESTIONS:
        raise ConfigError(f'{len(pairs)} senses have two common words, but {QUESTIONS} are asked about: is this all of WordNet?')
    generator.shuffle(pairs)
    chosen, used = [], set[str]()
    for pair in pairs:
        if not used & set(pair):
            chosen.append(pair)
            used |= set(pair)
        if len(chosen) == QUESTIONS:
            break
    others = [word for word in sorted(counts, key=lambda word: (-counts[word], word)) if word not in used]
    words = [*(word for pair in chosen for word in pair), *others[: WORDS - 2 * QUESTIONS]]
    return words, tuple((2 * at, 2 * at + 1) for at in range(QUESTIONS))


def _shape_captions(seed: int) -> list[str]:
    generator = Random(seed)
    return [phrase(draw_scene(generator, kinds=(kind,)), generator) for kind in KINDS for _ in range(SHAPE_CAPTIONS)]


def _composed(nouns: Sequence[str], generator: Random) -> str:
    """'a photo of a small red fox behind two houses': any noun that is common, in any colour, anywhere."""

    def thing() -> str:
        said = [generator.choice(QUALITIES)] if generator.random() < 0.3 else []
        said += [generator.choice(COLOURS)] if generator.random() < 0.4 else []
        noun = generator.choice(nouns)
        if generator.random() < 0.15:
            return ' '.join((generator.choice(NUMBERS), *said, noun if noun.endswith('s') else noun + 's'))
        phrase = ' '.join((*said, noun))
        return f'{"an" if phrase[0] in "aeiou" else "a"} {phrase}'

    said = thing() if generator.random() < 0.4 else f'{thing()} {generator.choice(RELATIONS)} {thing()}'
    return generator.choice(MANNERS).format(said)
