"""Reads a caption back into its `Scene`, so that a prompt someone typed can be checked against a picture."""

from __future__ import annotations

import re

from cfg_demo.shapes.captions import Scene, Thing
from cfg_demo.shapes.words import ANY_SHAPE, BACKGROUND_NOUNS, BACKGROUNDS, COLOURS, PLACES, RELATIONS, SHAPES, SIZES
from classifier_free_guidance_pytorch.errors import ConfigError


def _inverse(table: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {word: meaning for meaning, words in table.items() for word in words}


def _either(words: list[str] | tuple[str, ...]) -> str:
    return '|'.join(re.escape(word) for word in sorted(words, key=len, reverse=True))


COLOUR_OF, SIZE_OF, GROUND_OF = _inverse(COLOURS), _inverse(SIZES), _inverse(BACKGROUNDS)
RELATION_OF = _inverse(RELATIONS) | {'on the left of': 'left of', 'on the right of': 'right of'}
PLACE_OF = _inverse(PLACES)
SHAPE_OF: dict[str, str | None] = {noun: shape for shape, pairs in SHAPES.items() for pair in pairs for noun in pair}
SHAPE_OF |= {noun: None for pair in ANY_SHAPE for noun in pair}
PLURALS = {pair[1] for pairs in (*SHAPES.values(), ANY_SHAPE) for pair in pairs}
COUNT_OF = {'two': 2, 'pair': 2, 'couple': 2, '2': 2, 'three': 3, 'trio': 3, '3': 3}

_NOUN = _either(tuple(SHAPE_OF))
_GROUND, _GROUND_NOUN = _either(tuple(GROUND_OF)), _either(BACKGROUND_NOUNS)
BACKGROUND = re.compile(
    rf'(?:(?:on|against|with|over) )?(?:an? |the )?\b({_GROUND}) (?:{_GROUND_NOUN})\b|\bthe (?:{_GROUND_NOUN}) is ({_GROUND})\b'
)
RELATION = re.compile(rf'(?:\bis )?\b({_either(tuple(RELATION_OF))})\b')
PLACE = re.compile(rf'\b({_either(tuple(PLACE_OF))})\b')
AFTERTHOUGHT = re.compile(rf'\b({_NOUN}) that (?:is|are) (\w+)(?: and (\w+))?')


def _things(text: str) -> tuple[Thing, ...]:
    """Each noun closes one thing; the words since the last noun describe it."""
    text = AFTERTHOUGHT.sub(lambda match: f'{match[2]} {match[3] or ""} {match[1]}', text)
    things, words = [], list[str]()
    for word in re.findall(r'\w+', text):
        words.append(word)
        if word in SHAPE_OF:
            colour = next((COLOUR_OF[each] for each in words if each in COLOUR_OF), None)
            size = next((SIZE_OF[each] for each in words if each in SIZE_OF), None)
            count = next((COUNT_OF[each] for each in words if each in COUNT_OF), 2 if word in PLURALS else 1)
            things.append(Thing(SHAPE_OF[word], colour, size, count))
            words = []
    return tuple(things)


def parse(caption: str) -> Scene:
    """Reads the meaning of a caption.

    Words outside the world are passed over: what is returned is what the checker can check.

    Args:
        caption: a caption in the manner of `phrase`; case and a full stop do not matter.

    Returns:
        The scene, with None for all that the caption leaves open.

    Raises:
        ConfigError: the caption names no shape of this world, or more than it can draw.

    Example:
        >>> scene = parse('A small green triangle left of a big red circle.')
        >>> scene.relation, scene.things[1]
        ('left of', Thing(shape='circle', colour='red', size='large', count=1))
    """
    if not isinstance(caption, str):
        raise ConfigError(f'a caption is a string, got {type(caption).__name__}.')
    text = ' '.join(caption.lower().replace(',', ' , ').replace('.', ' ').split())
    background = place = relation = None
    if match := BACKGROUND.search(text):
        background = GROUND_OF[match[1] or match[2]]
        text = text[: match.start()] + ' , ' + text[match.end() :]
    if match := RELATION.search(text):
        relation = RELATION_OF[match[1]]
        before, after = _things(text[: match.start()]), _things(text[match.end() :])
        things = before + after if before else after[::-1]  # 'above a blue square, a red circle'
    else:
        if match := PLACE.search(text):
            place = PLACE_OF[match[1]]
        things = _things(text)
    if not things:
        known = ', '.join(SHAPES)
        raise ConfigError(f'the caption {caption!r} names no shape of the picture world. Name at least one of: {known}.')
    return Scene(things, relation=relation, place=place, background=background)
