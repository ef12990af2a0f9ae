"""What people might type to get a picture: several captions for each, from its name, its tags and its style."""

from __future__ import annotations

from random import Random

from cfg_demo.emoji.concepts import Concept

COUNTED = ('smileys', 'people', 'nature', 'food', 'travel', 'activities', 'objects')  # whose names take an article
STYLED = ('{thing} in {style} style', '{thing}, {style}', '{style} emoji of {thing}', 'a {style} {name}')


def with_article(concept: Concept) -> str:
    """Return the name with 'a' or 'an' where one would say it: 'an owl', 'grapes', 'Aries'."""
    name = concept.name
    first = name.split()[0]
    is_plural = name.endswith('s') and not name.endswith(('ss', 'us', 'is'))
    if concept.category not in COUNTED or is_plural or not first[0].islower() or ' and ' in name:
        return name
    return f'{"an" if name[0] in "aeiou" and not name.startswith(("uni", "one", "ewe")) else "a"} {name}'


def with_style(prompt: str, style: str | None) -> str:
    """Return a prompt that says the style."""
    return prompt if style is None else STYLED[0].format(thing=prompt, style=style)


def captions(concept: Concept, style: str, seed: int = 0) -> list[str]:
    """Return captions of a picture, no two alike; most of them say its style.

    Args:
        concept: What it shows.
        style: How it is drawn.
        seed: Of the tags that are chosen.

    Example:
        >>> apple = Concept('red apple', ('apple', 'fruit'), 'food', '1f34e')
        >>> captions(apple, 'noto')[:3]
        ['red apple', 'a red apple in noto style', 'a red apple, noto']
    """
    generator = Random(f'{seed} {concept.code} {style}')
    thing, tags = with_article(concept), list(concept.tags)
    generator.shuffle(tags)
    said = [concept.name]
    said += [form.format(thing=thing, name=concept.name, style=style) for form in STYLED]
    said += [thing]
    for first in range(0, min(6, len(tags)), 2):
        said += [f'{concept.name}, {", ".join(tags[first : first + 2])}, {style}']
    if tags:
        said += [f'{tags[0]} {style}', f'{", ".join(tags[:3])} in {style} style', f'{concept.name}, {tags[-1]}']
    return list(dict.fromkeys(said))
