"""The captioned pictures on which `mini` is trained: coloured shapes, shapes on the move, and clouds of points seen from above.

Half of the pairs of a batch are *siblings*: a pair, and one that differs from it in a single word, such as a colour or which of
two things is above the other. Telling siblings apart is what forces every word into the encoding; pictures drawn at random are
told apart by their most striking difference alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from random import Random

import torch
from torch import Tensor

from cfg_demo.points import world as points
from cfg_demo.shapes.captions import Scene, Thing, phrase
from cfg_demo.shapes.dataset import KINDS, draw_scene
from cfg_demo.shapes.judge import judge
from cfg_demo.shapes.layout import HELD_OUT, MARGIN, Body, Layout, arrange
from cfg_demo.shapes.outlines import REACH
from cfg_demo.shapes.render import render
from cfg_demo.shapes.words import BACKGROUNDS, COLOURS, OPPOSITE, PLACES, SHAPES, SIZES

PIXELS = 32
WORLDS: dict[str, float] = {'shapes': 0.75, 'points': 0.17, 'moving': 0.08}  # the share of each in the training set
MOVES: dict[str, tuple[float, float]] = {'left': (-1, 0), 'right': (1, 0), 'up': (0, -1), 'down': (0, 1)}
POINTS = (250, 600)


@dataclass(frozen=True)
class Pair:
    """What a picture will show and what is said of it.

    Args:
        caption: in words.
        meaning: equal for two pairs exactly when their captions mean the same.
        plan: what to draw: a layout, or a scene of the world of points.
    """

    caption: str
    meaning: Hashable
    plan: Layout | points.Scene


def _another(options: Iterable[str], word: str | None, rng: Random) -> str:
    return rng.choice([option for option in options if option != word])


def _sibling_scene(scene: Scene, rng: Random) -> Scene:
    """The scene with one word that it states replaced by another."""
    sizes = tuple(SIZES) if scene.count < 3 else ('small', 'medium')
    tables = {'colour': tuple(COLOURS), 'shape': tuple(SHAPES), 'size': sizes}
    words = [(index, name) for index, thing in enumerate(scene.things) for name in tables if getattr(thing, name) is not None]
    rest = [(-1, name) for name in ('relation', 'place', 'background') if getattr(scene, name) is not None]
    if scene.relation is not None and rng.random() < 0.4:
        return replace(scene, relation=OPPOSITE[scene.relation])  # which is which is the hardest lesson: ask it most
    index, name = rng.choice(rest if rest and rng.random() < 0.5 else words)
    if name == 'relation':
        return replace(scene, relation=_another(OPPOSITE, scene.relation, rng))
    if name == 'place':
        return replace(scene, place=_another(PLACES, scene.place, rng))
    if name == 'background':
        return replace(scene, background=_another(BACKGROUNDS, scene.background, rng))
    thing = scene.things[index]
    parts = {each: getattr(thing, each) for each in tables}
    parts[name] = _another(tables[name], parts[name], rng)
    thing = Thing(**parts, count=thing.count)
    return replace(scene, things=(*scene.things[:index], thing, *scene.things[index + 1 :]))


def _says_held_out(scene: Scene) -> bool:
    return any((thing.colour, thing.shape) in HELD_OUT for thing in scene.things)


def _shapes_pair(scene: Scene, rng: Random, split: str) -> Pair:
    return Pair(phrase(scene, rng), scene.canonical(), arrange(scene, rng, trained_only=split == 'train'))


def _draw_shapes(rng: Random, split: str) -> Iterator[Pair]:
    """A pair and its sibling, on the same side of the split."""
    scene = draw_scene(rng, split, tuple(KINDS))
    yield _shapes_pair(scene, rng, split)
    for _ in range(20):
        sibling = _sibling_scene(scene, rng)
        if _says_held_out(sibling) == (split == 'held_out') and sibling.canonical() != scene.canonical():
            yield _shapes_pair(sibling, rng, split)
            return


def moving(thing: Thing, move: str, rng: Random) -> Pair:
    """A single thing on the move, drawn with two fading traces where it was."""
    layout = arrange(Scene((replace(thing, size='small'),)), rng)
    body = layout.bodies[0]
    dx, dy = MOVES[move]
    stride = 1.3 * body.radius
    room = MARGIN + REACH * body.radius
    x = rng.uniform(room + 2 * stride * max(dx, 0), 1 - room + 2 * stride * min(dx, 0))
    y = rng.uniform(room + 2 * stride * max(dy, 0), 1 - room + 2 * stride * min(dy, 0))

    def trace(steps: int, strength: float) -> Body:
        red, green, blue = (strength * own + (1 - strength) * far for own, far in zip(body.rgb, layout.rgb, strict=True))
        return replace(body, x=x - steps * stride * dx, y=y - steps * stride * dy, rgb=(red, green, blue))

    bodies = tuple(trace(steps, strength) for steps, strength in ((2, 0.25), (1, 0.5), (0, 1.0)))
    word = {'up': ('up', 'upwards'), 'down': ('down', 'downwards')}.get(move, (move, f'to the {move}'))
    said = f'{phrase(Scene((thing,)), rng)} moving {rng.choice(word)}'
    return Pair(said, ('moving', thing, move), replace(layout, bodies=bodies))


def _draw_moving(rng: Random, split: str) -> Iterator[Pair]:
    thing = replace(draw_scene(rng, split, ('single',)).things[0], size=None)
    if thing.shape is None or thing.colour is None:
        colour, shape = ('red', 'circle') if split == 'train' else sorted(HELD_OUT)[0]
        thing = Thing(shape, colour)
    for move in rng.sample(list(MOVES), 2):
        yield moving(thing, move, rng)


@functools.cache
def _point_scenes(split: str) -> tuple[points.Scene, ...]:
    return tuple(points.split(held_out=split == 'held_out'))


@functools.cache
def _point_siblings(scene: points.Scene, split: str) -> tuple[points.Scene, ...]:
    """The scenes on the same side of the split that differ in one attribute."""

    def apart(other: points.Scene) -> int:
        return sum(getattr(scene, name) != getattr(other, name) for name in ('shape', 'size', 'place', 'pen'))

    return tuple(other for other in _point_scenes(split) if apart(other) == 1)


def _draw_points(rng: Random, split: str) -> Iterator[Pair]:
    scene = rng.choice(_point_scenes(split))
    siblings = _point_siblings(scene, split)
    for each in (scene, rng.choice(siblings)) if siblings else (scene,):
        yield Pair(each.caption(rng.randrange(points.PHRASINGS)), each, each)


_DRAW = {'shapes': _draw_shapes, 'points': _draw_points, 'moving': _draw_moving}


def draw_pairs(
    rng: Random, count: int, split: str = 'train', worlds: dict[str, float] | None = None, related: float = 0.5
) -> list[Pair]:
    """Draws pairs of which no two mean the same.

    Args:
        rng: the source of randomness.
        count: how many pairs.
        split: 'train' or 'held_out'.
        worlds: the share of each world; None for `WORLDS`.
        related: the share of pairs that have a sibling among the others.

    Returns:
        The pairs.
    """
    worlds = WORLDS if worlds is None else worlds
    pairs: dict[Hashable, Pair] = {}
    while len(pairs) < count:
        world = rng.choices(list(worlds), list(worlds.values()))[0]
        family = _DRAW[world](rng, split)
        for pair in family if rng.random() < related / (2 - related) else [next(family)]:
            pairs.setdefault(pair.meaning, pair)
    return list(pairs.values())[:count]


def siblings(rng: Random, count: int, split: str, world: str) -> list[tuple[Pair, Pair]]:
    """Draws pairs of siblings of one world."""
    found: list[tuple[Pair, Pair]] = []
    while len(found) < count:
        family = list(_DRAW[world](rng, split))
        if len(family) == 2:
            found.append((family[0], family[1]))
    return found


def also_true(pair: Pair, other: Pair) -> bool:
    """Whether the caption of one pair is also true of the picture of another, so that no one could tell which is meant."""
    if pair.meaning == other.meaning:
        return True
    scene, layout = pair.meaning, other.plan
    if not (isinstance(scene, Scene) and isinstance(other.meaning, Scene) and isinstance(layout, Layout)):
        return False
    if scene.count != len(layout.bodies) or scene.background not in (None, layout.background):
        return False  # what `judge` would say too, later
    return judge(scene, layout).holds


def _density(clouds: Tensor) -> Tensor:
    """Clouds `(b, n, 2)` as pictures `(b, 3, 32, 32)`: the more points in a pixel, the brighter; up is up."""
    cells = ((clouds / points.EXTENT + 1) / 2 * PIXELS).long().clamp(0, PIXELS - 1)
    flat = (PIXELS - 1 - cells[..., 1]) * PIXELS + cells[..., 0]
    counts = torch.zeros(len(clouds), PIXELS * PIXELS).scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float32))
    bright = 1 - torch.exp(-counts * PIXELS / clouds.shape[1])
    return bright.view(-1, 1, PIXELS, PIXELS) * torch.tensor([1.0, 0.97, 0.9]).view(3, 1, 1)


def draw_pictures(pairs: list[Pair], rng: Random) -> Tensor:
    """Pictures `(b, 3, 32, 32)` from 0 to 1; `rng` scatters the points of clouds, everything else is in the plan."""
    pictures = torch.empty(len(pairs), 3, PIXELS, PIXELS)
    laid_out = [(index, pair.plan) for index, pair in enumerate(pairs) if isinstance(pair.plan, Layout)]
    described = [(index, pair.plan) for index, pair in enumerate(pairs) if isinstance(pair.plan, points.Scene)]
    if laid_out:
        pictures[[index for index, _ in laid_out]] = render([plan for _, plan in laid_out], PIXELS)
    if described:
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        count = int(math.exp(rng.uniform(math.log(POINTS[0]), math.log(POINTS[1]))))
        clouds = points.sample([plan for _, plan in described], count, generator=generator)
        pictures[[index for index, _ in described]] = _density(clouds)
    return pictures


def words() -> tuple[str, ...]:
    """Every word that a caption of the three worlds can hold, sorted; marks are not words."""
    from cfg_demo.shapes.captions import vocabulary

    said = [caption for held_out in (False, True) for caption in points.captions(held_out=held_out)]
    said += ['moving left right up down upwards downwards to the', *vocabulary()]
    split = (word for text in said for word in text.replace(',', ' ').replace(':', ' ').replace('-', ' ').split())
    return tuple(sorted(set(split)))
