"""From a meaning to one of its pictures' blueprints: every colour, size, place and shade made definite.

What a caption leaves open is drawn at random; positions, sizes, rotations and shades vary continuously, so no two pictures are
alike. Some pairs of colour and shape are *held out*: one colour of each shape, chosen by a stable hash, is never drawn in
training, not even where a caption says nothing about it.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from random import Random

from cfg_demo.shapes.captions import Scene
from cfg_demo.shapes.outlines import REACH
from cfg_demo.shapes.words import BACKGROUNDS, COLOURS, SHAPES, SIZES
from classifier_free_guidance_pytorch.errors import ConfigError

RGB = tuple[float, float, float]

PALETTE: dict[str, RGB] = {
    'red': (0.88, 0.10, 0.12),
    'orange': (1.00, 0.52, 0.05),
    'yellow': (0.98, 0.88, 0.12),
    'green': (0.12, 0.66, 0.20),
    'cyan': (0.10, 0.82, 0.86),
    'blue': (0.14, 0.30, 0.94),
    'purple': (0.52, 0.16, 0.75),
    'pink': (1.00, 0.50, 0.76),
}
BACKDROPS: dict[str, RGB] = {
    'dark': (0.06, 0.06, 0.07),
    'light': (0.93, 0.93, 0.92),
    'gray': (0.50, 0.50, 0.50),
    'navy': (0.06, 0.09, 0.34),
}
# Radii in widths of the picture; the gaps between the ranges are what makes a size readable.
RADII: dict[str, tuple[float, float]] = {'small': (0.100, 0.112), 'medium': (0.142, 0.156), 'large': (0.184, 0.200)}
MAX_ZOOM = 1.5  # the largest body, so much larger, still fits on either side of the picture
ROTATION = math.radians(15)
MARGIN = 0.02
GAP = 0.06
# Where the centre of a body 'on the left', 'in the middle', 'on the right' lies; the checker cuts halfway between.
NEAR, MIDDLE, FAR = (0.0, 0.38), (0.45, 0.55), (0.62, 1.0)
SIDES: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    'left': (NEAR, (0.0, 1.0)),
    'right': (FAR, (0.0, 1.0)),
    'top': ((0.0, 1.0), NEAR),
    'bottom': ((0.0, 1.0), FAR),
    'center': (MIDDLE, MIDDLE),
    'top left': (NEAR, NEAR),
    'top right': (FAR, NEAR),
    'bottom left': (NEAR, FAR),
    'bottom right': (FAR, FAR),
}


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], 'big')


# (colour, shape): both lists in the order of their hashes, side by side, so that each shape and each colour gives up one pair.
HELD_OUT: frozenset[tuple[str, str]] = frozenset(zip(sorted(COLOURS, key=_hash), sorted(SHAPES, key=_hash), strict=True))
_TRAINED: dict[str, tuple[str, ...]] = {
    shape: tuple(colour for colour in COLOURS if (colour, shape) not in HELD_OUT) for shape in SHAPES
}


@dataclass(frozen=True)
class Body:
    """One definite body; as read from a picture, `shape`, `colour` or `size` is None where it cannot be told.

    Args:
        shape: a key of `words.SHAPES`.
        colour: a key of `words.COLOURS`.
        size: a key of `words.SIZES`.
        x: centre, in widths of the picture, from the left.
        y: the same, from the top.
        radius: in widths of the picture.
        angle: rotation in radians.
        rgb: its shade, three numbers from 0 to 1.
    """

    shape: str | None
    colour: str | None
    size: str | None
    x: float
    y: float
    radius: float
    angle: float
    rgb: RGB


@dataclass(frozen=True)
class Layout:
    """The blueprint of one picture: what `render` draws.

    Args:
        bodies: what is in it.
        background: a key of `words.BACKGROUNDS`, or None if read from a picture and of no known kind.
        rgb: the background's shade.
    """

    bodies: tuple[Body, ...]
    background: str | None
    rgb: RGB


def _shade(base: RGB, rng: Random, spread: float, dim: float) -> RGB:
    """A colour near `base`: dimmed by up to `dim`, each channel moved by up to `spread`."""
    light = 1 - dim * rng.random()
    red, green, blue = (min(1.0, max(0.0, light * channel + spread * (2 * rng.random() - 1))) for channel in base)
    return red, green, blue


def _within(band: tuple[float, float], reach: float, rng: Random) -> float:
    """A coordinate inside the band at which a body of this reach stays in the picture."""
    low, high = max(band[0], MARGIN + reach), min(band[1], 1 - MARGIN - reach)
    return rng.uniform(low, high)


def _side_by_side(reaches: list[float], rng: Random) -> tuple[list[float], list[float]]:
    """Two bodies, the first clearly before the second along the first returned axis."""
    first, second = reaches
    slack = 1 - 2 * MARGIN - 2 * first - 2 * second - GAP / 2
    a, b = sorted((rng.uniform(0, slack), rng.uniform(0, slack)))
    along = [MARGIN + first + a, MARGIN + 2 * first + GAP / 2 + second + b]
    across_first = _within((0, 1), first, rng)
    lean = 0.55 * (along[1] - along[0])
    across_second = _within((across_first - lean, across_first + lean), second, rng)
    return along, [across_first, across_second]


def _scattered(reaches: list[float], rng: Random) -> list[tuple[float, float]]:
    """Bodies anywhere, apart from each other; starts over when they do not fit."""
    while True:
        centres: list[tuple[float, float]] = []
        for reach in reaches:
            for _attempt in range(12):
                x, y = _within((0, 1), reach, rng), _within((0, 1), reach, rng)
                others = zip(centres, reaches, strict=False)
                if all(math.hypot(x - cx, y - cy) >= reach + other + GAP for (cx, cy), other in others):
                    centres.append((x, y))
                    break
        if len(centres) == len(reaches):
            return centres


def _centres(scene: Scene, reaches: list[float], rng: Random) -> list[tuple[float, float]]:
    if scene.place is not None:
        columns, rows = SIDES[scene.place]
        return [(_within(columns, reaches[0], rng), _within(rows, reaches[0], rng))]
    if len(reaches) != 2:
        return _scattered(reaches, rng)
    relation = scene.relation or rng.choice(('left of', 'right of', 'above', 'below'))
    swapped = relation in ('right of', 'below')
    along, across = _side_by_side(reaches[::-1] if swapped else reaches, rng)
    x, y = (across, along) if relation in ('above', 'below') else (along, across)
    centres = list(zip(x, y, strict=True))
    return centres[::-1] if swapped else centres


def check_zoom(zoom: float) -> None:
    """Refuse what does not fit a picture.

    Raises:
        ConfigError: a zoom outside [1, MAX_ZOOM].
    """
    if not 1.0 <= zoom <= MAX_ZOOM:
        raise ConfigError(f'zoom is between 1 and {MAX_ZOOM}, at which the largest body still fits its side, but got {zoom}')


def arrange(scene: Scene, rng: Random, *, trained_only: bool = False, zoom: float = 1.0) -> Layout:
    """Makes a scene definite.

    Args:
        scene: the meaning; what it leaves open is drawn from `rng`.
        rng: the source of all variety.
        trained_only: draw no held-out pair of colour and shape where the caption leaves one of them open.
        zoom: how many times larger than usual the body is, from 1 to `MAX_ZOOM`; for a scene of one.

    Returns:
        A blueprint of which everything the scene says is true.

    Raises:
        ConfigError: three large bodies, or two so much larger, which do not fit one picture.

    Example:
        >>> from .captions import Thing
        >>> [body.shape for body in arrange(Scene((Thing('star', 'red', count=2),)), Random(0)).bodies]
        ['star', 'star']
    """
    check_zoom(zoom)
    things = scene.single_things
    if zoom > 1 and len(things) > 1:
        raise ConfigError(f'zoom is {zoom}, but {len(things)} bodies fit a picture only at zoom 1')
    if sum(thing.size == 'large' for thing in things) == 3:
        raise ConfigError(
            'three large bodies do not fit one picture. Make at least one of them small or medium, or leave it open.'
        )
    sizes = tuple(SIZES) if len(things) < 3 else ('small', 'medium')
    bodies = []
    for thing in things:
        shape = thing.shape or rng.choice(
            [each for each in SHAPES if not trained_only or (thing.colour, each) not in HELD_OUT],
        )
        colour = thing.colour or rng.choice(_TRAINED[shape] if trained_only else tuple(COLOURS))
        size = thing.size or rng.choice(sizes)
        bodies.append((shape, colour, size, zoom * rng.uniform(*RADII[size])))
    centres = _centres(scene, [REACH * radius for *_, radius in bodies], rng)
    background = scene.background or rng.choice(tuple(BACKGROUNDS))
    return Layout(
        tuple(
            Body(shape, colour, size, x, y, radius, rng.uniform(-ROTATION, ROTATION), _shade(PALETTE[colour], rng, 0.04, 0.12))
            for (shape, colour, size, radius), (x, y) in zip(bodies, centres, strict=True)
        ),
        background,
        _shade(BACKDROPS[background], rng, 0.03, 0.04),
    )
