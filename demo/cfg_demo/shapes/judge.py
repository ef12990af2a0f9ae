"""Which parts of a caption hold of a layout, be it the blueprint of a picture or what was read from one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cfg_demo.shapes.captions import Scene, Thing
from cfg_demo.shapes.layout import FAR, MIDDLE, NEAR, Body, Layout

# Halfway between the bands in which the renderer puts 'left', 'center' and 'right'.
_LOW, _HIGH = (NEAR[1] + MIDDLE[0]) / 2, (MIDDLE[1] + FAR[0]) / 2


PARTS = ('count', 'shape', 'colour', 'size', 'relation', 'place', 'background')


@dataclass(frozen=True)
class Verdict:
    """What holds of a caption: True, False, or None for a part that the caption does not speak of.

    Args:
        count: the picture holds exactly as many bodies as the caption says.
        shape: every shape named is there.
        colour: every colour named is on its own shape.
        size: every size named is on its own shape.
        relation: the two things stand as the caption says.
        place: the only thing is where the caption says.
        background: the background is the one named.
        problem: why the picture cannot be read, or None; of an unreadable picture nothing holds.
    """

    count: bool | None = None
    shape: bool | None = None
    colour: bool | None = None
    size: bool | None = None
    relation: bool | None = None
    place: bool | None = None
    background: bool | None = None
    problem: str | None = None

    @property
    def parts(self) -> dict[str, bool]:
        """The parts that the caption speaks of."""
        return {name: held for name in PARTS if (held := getattr(self, name)) is not None}

    @property
    def readable(self) -> bool:
        """Whether the picture could be read."""
        return self.problem is None

    @property
    def holds(self) -> bool:
        """The whole caption holds."""
        return all(self.parts.values())

    @property
    def fraction(self) -> float:
        """The share of the caption's parts that hold, from 0 to 1."""
        return sum(self.parts.values()) / len(self.parts)


def stands(relation: str, first: Body, second: Body) -> bool:
    """Whether the first body is 'above', 'below', 'left of' or 'right of' the second: of two bodies, exactly one is true."""
    dx, dy = second.x - first.x, second.y - first.y
    if abs(dx) > abs(dy):
        return relation == ('left of' if dx > 0 else 'right of')
    return relation == ('above' if dy > 0 else 'below')


def lies(place: str, body: Body) -> bool:
    """Whether the body is at a place such as 'left', 'top right' or 'center'."""
    if place == 'center':
        return _LOW < body.x < _HIGH and _LOW < body.y < _HIGH
    tests = {'left': body.x < _LOW, 'right': body.x > _HIGH, 'top': body.y < _LOW, 'bottom': body.y > _HIGH}
    return all(tests[word] for word in place.split())


def _attribute(name: str, things: Sequence[Thing], bodies: Sequence[Body | None]) -> bool | None:
    """Whether each thing that names this attribute has a body that shows it."""
    named = [(getattr(thing, name), body) for thing, body in zip(things, bodies, strict=True) if getattr(thing, name) is not None]
    return all(body is not None and getattr(body, name) == word for word, body in named) if named else None


def _verdict(scene: Scene, things: Sequence[Thing], bodies: Sequence[Body | None], layout: Layout) -> Verdict:
    """The verdict when these bodies are taken to be these things."""

    def all_there(test: Callable[..., bool], word: str | None) -> bool | None:
        return None if word is None else None not in bodies and test(word, *bodies)

    return Verdict(
        count=len(layout.bodies) == len(things),
        shape=_attribute('shape', things, bodies),
        colour=_attribute('colour', things, bodies),
        size=_attribute('size', things, bodies),
        relation=all_there(stands, scene.relation),
        place=all_there(lies, scene.place),
        background=None if scene.background is None else layout.background == scene.background,
    )


def judge(scene: Scene, layout: Layout) -> Verdict:
    """Says which parts of a scene hold of a layout.

    Things are matched to bodies in the way that is best for the caption.

    Args:
        scene: the meaning of the caption.
        layout: what is, or was read to be, in the picture.

    Returns:
        The verdict; its `problem` is None.

    Example:
        >>> from random import Random
        >>> from .layout import arrange
        >>> from .parse import parse
        >>> layout = arrange(parse('a red circle above a blue square'), Random(0))
        >>> judge(parse('a red circle below a blue square'), layout).parts
        {'count': True, 'shape': True, 'colour': True, 'relation': False}
    """
    things = scene.single_things
    candidates: list[Body | None] = [*layout.bodies, *[None] * max(0, len(things) - len(layout.bodies))]
    matchings = itertools.permutations(candidates, len(things))
    return max((_verdict(scene, things, bodies, layout) for bodies in matchings), key=lambda verdict: verdict.fraction)
