"""What a caption means, and the many ways to say it.

A `Scene` is a meaning: one to three things, perhaps how two of them stand to each other, perhaps where the only one is, perhaps
the background. Whatever is `None` is left open. `phrase` says a scene in words; `parse` (its own file) reads the words back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from cfg_demo.shapes.words import (
    ANY_SHAPE,
    BACKGROUND_NOUNS,
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    OPENINGS,
    OPPOSITE,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
)
from classifier_free_guidance_pytorch.errors import ConfigError

MAX_BODIES = 3
AN = frozenset('aeiou')  # first letters that take 'an'; the tables hold no word that needs an exception


def _one_of(name: str, value: str | None, options: dict[str, object]) -> None:
    if value is not None and value not in options:
        raise ConfigError(
            f'{name} is {value!r}, but the picture world knows only {", ".join(options)}. Use one of these, or None.'
        )


@dataclass(frozen=True)
class Thing:
    """One thing a caption names, `count` times over.

    Args:
        shape: a key of `words.SHAPES`, or None for "a shape".
        colour: a key of `words.COLOURS`, or None when the caption does not say.
        size: a key of `words.SIZES`, or None.
        count: how many of it, 1 to 3.
    """

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    count: int = 1

    def __post_init__(self) -> None:
        _one_of('shape', self.shape, dict(SHAPES))
        _one_of('colour', self.colour, dict(COLOURS))
        _one_of('size', self.size, dict(SIZES))
        if self.count not in COUNTS:
            raise ConfigError(f'count is {self.count!r}, but a picture holds 1 to {MAX_BODIES} bodies. Use 1, 2 or 3.')


@dataclass(frozen=True)
class Scene:
    """The meaning of a caption.

    Args:
        things: what the picture holds, all of it; one to three bodies in all.
        relation: how the first of two things stands to the second ('above', 'below', 'left of', 'right of'), or None.
        place: where the only body is ('left', 'top right', 'center', ...), or None.
        background: 'dark', 'light', 'gray', 'navy', or None.

    Raises:
        ConfigError: a word outside the world, more than three bodies, a relation or a place that does not fit the things.

    Example:
        >>> Scene((Thing('circle', 'red'), Thing('square', 'blue')), relation='above').count
        2
    """

    things: tuple[Thing, ...]
    relation: str | None = None
    place: str | None = None
    background: str | None = None

    def __post_init__(self) -> None:
        _one_of('relation', self.relation, dict(RELATIONS))
        _one_of('place', self.place, dict(PLACES))
        _one_of('background', self.background, dict(BACKGROUNDS))
        if not 1 <= self.count <= MAX_BODIES:
            raise ConfigError(f'the scene holds {self.count} bodies, but a picture holds 1 to {MAX_BODIES}. Name fewer things.')
        if self.relation is not None and [thing.count for thing in self.things] != [1, 1]:
            raise ConfigError(
                f'the relation {self.relation!r} needs two single things, got {len(self.things)} ({self.count} bodies).'
            )
        if self.place is not None and self.count != 1:
            raise ConfigError(f'the place {self.place!r} needs one body, got {self.count}.')

    @property
    def count(self) -> int:
        """Bodies in the picture."""
        return sum(thing.count for thing in self.things)

    @property
    def single_things(self) -> tuple[Thing, ...]:
        """One entry for each body, in the order of the caption."""
        return tuple(replace(thing, count=1) for thing in self.things for _ in range(thing.count))

    def canonical(self) -> Scene:
        """The same meaning in its standard order: two scenes mean the same exactly when their canonical forms are equal."""
        things, relation = self.things, self.relation
        if relation in ('below', 'right of'):
            things, relation = things[::-1], OPPOSITE[relation]
        if relation is None:
            singles = sorted(self.single_things, key=repr)
            things = tuple(replace(thing, count=singles.count(thing)) for thing in dict.fromkeys(singles))
        return replace(self, things=things, relation=relation)


def _article(noun_phrase: str) -> str:
    return f'an {noun_phrase}' if noun_phrase[0] in AN else f'a {noun_phrase}'


def _say_thing(thing: Thing, rng: Random, plain: bool) -> str:
    """'a large red circle', 'three yellow stars', 'a circle that is red and large'."""

    def pick(options: tuple[str, ...]) -> str:
        return options[0] if plain or rng.random() < 0.5 else rng.choice(options)

    nouns = ANY_SHAPE if thing.shape is None else SHAPES[thing.shape]
    noun = (nouns[0] if plain or rng.random() < 0.6 else rng.choice(nouns))[int(thing.count > 1)]
    adjectives = [pick(table[word]) for table, word in ((SIZES, thing.size), (COLOURS, thing.colour)) if word is not None]
    counted = pick(COUNTS[thing.count])
    if adjectives and not plain and rng.random() < 0.15:
        rng.shuffle(adjectives)
        tail = f'that {"is" if thing.count == 1 else "are"} {" and ".join(adjectives)}'
        return f'{_article(noun)} {tail}' if counted == 'a' else f'{counted} {noun} {tail}'
    phrase_ = ' '.join([*adjectives, noun])
    return _article(phrase_) if counted == 'a' else f'{counted} {phrase_}'


def _say_things(scene: Scene, rng: Random, plain: bool) -> str:
    said = [_say_thing(thing, rng, plain) for thing in scene.things]
    if scene.relation is not None:
        if not plain and rng.random() < 0.25:  # the same meaning from the other end
            said, relation = said[::-1], OPPOSITE[scene.relation]
        else:
            relation = scene.relation
        options = RELATIONS[relation]
        word = options[0] if plain or rng.random() < 0.5 else rng.choice(options)
        if not plain and rng.random() < 0.12:
            return f'{word} {said[1]}, {said[0]}'
        return f'{said[0]} {"is " if not plain and rng.random() < 0.15 else ""}{word} {said[1]}'
    if len(said) == 1:
        return said[0]
    joint = ' and ' if plain else rng.choice((' and ', ' and ', ' with ', ' beside ', ' next to '))
    return ', '.join(said[:-1]) + joint + said[-1]


def phrase(scene: Scene, rng: Random | None = None) -> str:
    """Says a scene in words.

    Args:
        scene: the meaning.
        rng: chooses among the phrasings; None gives the plainest one, always the same.

    Returns:
        A caption in lower case, without a full stop.

    Example:
        >>> phrase(Scene((Thing('circle', 'red', 'large'), Thing('square', 'blue', 'small')), relation='above'))
        'a large red circle above a small blue square'
        >>> phrase(Scene((Thing('triangle', 'yellow', count=3),), background='dark'))
        'three yellow triangles on a dark background'
    """
    plain = rng is None
    rng = rng or Random(0)
    text = _say_things(scene, rng, plain)
    if scene.place is not None:
        options = PLACES[scene.place]
        place = options[0] if plain or rng.random() < 0.5 else rng.choice(options)
        text = f'{place}, {text}' if not plain and rng.random() < 0.15 else f'{text} {place}'
    opened = False
    if not plain and ' is ' not in text.replace('that is', '') and ',' not in text and rng.random() < 0.25:
        text, opened = f'{rng.choice(OPENINGS)} {text}', True
    if scene.background is None:
        return text
    options = BACKGROUNDS[scene.background]
    word = options[0] if plain or rng.random() < 0.6 else rng.choice(options)
    noun = 'background' if plain or rng.random() < 0.6 else rng.choice(BACKGROUND_NOUNS)
    form = 1.0 if plain else rng.random()
    if form < 0.12 and not opened:
        return f'on {_article(word)} {noun}, {text}'
    if form < 0.24:
        return f'{text}, the {noun} is {word}'
    return f'{text} {"on" if plain or rng.random() < 0.7 else "against"} {_article(word)} {noun}'


def vocabulary() -> tuple[str, ...]:
    """Every word (and the comma) that a caption of this world can hold, sorted.

    Example:
        >>> {'red', 'circles', 'beneath', 'backdrop', ','} <= set(vocabulary())
        True
    """
    said: list[str] = ['a', 'an', 'and', 'with', 'beside', 'next to', 'that', 'is', 'are', 'on', 'against', 'the', ',']
    for table in (COLOURS, SIZES, BACKGROUNDS, RELATIONS, PLACES):
        said.extend(word for options in table.values() for word in options)
    said.extend(word for options in COUNTS.values() for word in options)
    said.extend(noun for pairs in (*SHAPES.values(), ANY_SHAPE) for pair in pairs for noun in pair)
    said.extend((*BACKGROUND_NOUNS, *OPENINGS))
    return tuple(sorted({word for text in said for word in text.split()}))
