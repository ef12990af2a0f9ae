"""The world of text-described point clouds: what can be said, what it looks like, and whether a cloud does what was said.

A `Scene` is a shape with a size, a place and, for shapes drawn in lines, a pen. It has several captions (phrasings and
synonyms) and one exact geometry, a chain of discs. From the same discs come the true points (`sample`), the test whether a
point satisfies the caption (`satisfies`) and the share of the shape that a cloud reaches (`coverage`).

About one combination in seven is held out of training: every word of a held-out caption is known from other scenes, the
combination is new. Held-out scenes measure whether the text is understood, not remembered.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cfg_demo.points.shapes import DISCS, SHAPES

SIZES = {'small': 0.36, 'large': 0.72}  # half the width of a shape
PENS = {'thin': 0.045, 'thick': 0.1}  # half the width of a line
PLACES = {'centre': (0.0, 0.0), 'left': (-0.75, 0.0), 'right': (0.75, 0.0), 'top': (0.0, 0.75), 'bottom': (0.0, -0.75)}
EXTENT = 1.6  # every shape lies inside [-EXTENT, EXTENT]^2
TOLERANCE = 0.03  # how far outside its shape a point may lie; about 1% of the width of the canvas

_SYNONYMS = {
    'small': ('small', 'little', 'tiny'),
    'large': ('large', 'big', 'huge'),
    'thin': ('thin', 'fine'),
    'thick': ('thick', 'bold'),
    'centre': ('in the middle', 'at the centre'),
    'left': ('on the left', 'at the left side'),
    'right': ('on the right', 'at the right side'),
    'top': ('at the top', 'in the upper part'),
    'bottom': ('at the bottom', 'in the lower part'),
}

_PHRASINGS = (
    '{article} {size} {pen} {noun} {manner}, {place}',
    '{article} {noun} {manner}, {size} {and_pen}, {place}',
    '{place}, {article} {pen} {size} {noun} {manner}',
    '{place}: {article} {size} {noun} {manner} {in_pen}',
    'points in the shape of {article} {size} {pen} {noun} {manner}, {place}',
    'draw {article} {noun} {manner} {place}, {size} {and_pen}',
)
PHRASINGS = len(_PHRASINGS)


@dataclass(frozen=True)
class Scene:
    """One thing to draw, and everything that follows from it.

    Args:
        shape: a key of `shapes.SHAPES`.
        size: a key of `SIZES`.
        place: a key of `PLACES`.
        pen: a key of `PENS` for shapes drawn in lines, None for bodies.

    >>> Scene('left spiral', 'large', 'top', 'thin').caption()
    'a large thin spiral turning left, at the top'
    """

    shape: str
    size: str
    place: str
    pen: str | None = None

    def caption(self, phrasing: int = 0) -> str:
        """The scene in words; `phrasing` counts from 0 to `PHRASINGS - 1`, each with its own synonyms."""
        shape = SHAPES[self.shape]

        def word(key: str) -> str:
            return _SYNONYMS[key][phrasing % len(_SYNONYMS[key])]

        pen = '' if self.pen is None else word(self.pen)
        text = _PHRASINGS[phrasing].format(
            article=shape.article,
            noun=shape.noun,
            manner=shape.manner,
            size=word(self.size),
            place=word(self.place),
            pen=pen,
            and_pen=pen and f'and {pen}',
            in_pen=pen and f'in {pen} lines',
        )
        return ' '.join(text.split()).replace(' ,', ',')

    def captions(self) -> list[str]:
        """All phrasings."""
        return [self.caption(phrasing) for phrasing in range(PHRASINGS)]

    @cached_property
    def discs(self) -> tuple[Tensor, Tensor]:
        """The exact geometry: centres `(DISCS, 2)` and radii `(DISCS,)`."""
        centres, body = SHAPES[self.shape].chain()
        scale = SIZES[self.size]
        pen = 0.0 if self.pen is None else PENS[self.pen]
        return centres * scale + torch.tensor(PLACES[self.place]), body * scale + pen

    @property
    def held_out(self) -> bool:
        """Whether the combination of shape, size and place is kept out of training (both pens are, together)."""
        shape, size, place = list(SHAPES).index(self.shape), list(SIZES).index(self.size), list(PLACES).index(self.place)
        return (shape + 2 * place + 3 * size) % 7 == 0


def scenes() -> list[Scene]:
    """Every scene there is, in a fixed order."""
    return [
        Scene(name, size, place, pen)
        for name, size, place in itertools.product(SHAPES, SIZES, PLACES)
        for pen in (PENS if SHAPES[name].drawn else (None,))
    ]


def split(*, held_out: bool) -> list[Scene]:
    """The scenes of one side of the split.

    >>> set(split(held_out=True)) & set(split(held_out=False))
    set()
    """
    return [scene for scene in scenes() if scene.held_out == held_out]


def captions(*, held_out: bool) -> list[str]:
    """Every caption of every scene of one side of the split."""
    return [text for scene in split(held_out=held_out) for text in scene.captions()]


def sample(described: Sequence[Scene], count: int, *, generator: torch.Generator | None = None) -> Tensor:
    """True points: a random disc of the scene, then a random place in that disc.

    Args:
        described: the scenes, `b` of them.
        count: points per scene.
        generator: source of randomness, on the CPU.

    Returns:
        Points `(b, count, 2)`.
    """
    centres = torch.stack([scene.discs[0] for scene in described])
    radii = torch.stack([scene.discs[1] for scene in described])
    return sample_discs(centres, radii, count, generator=generator)


def sample_discs(centres: Tensor, radii: Tensor, count: int, *, generator: torch.Generator | None = None) -> Tensor:
    """`sample` for geometry that is already stacked: centres `(b, DISCS, 2)`, radii `(b, DISCS)` -> points `(b, count, 2)`."""
    batch = len(centres)
    disc = torch.randint(DISCS, (batch, count), generator=generator)
    uniform = torch.rand(2, batch, count, generator=generator)
    angle, distance = uniform[0] * (2 * torch.pi), uniform[1].sqrt() * radii.gather(1, disc)  # sqrt: even over the disc's area
    offset = torch.stack((angle.cos(), angle.sin()), dim=-1) * distance.unsqueeze(-1)  # (b, count, 2)
    return centres.gather(1, disc.unsqueeze(-1).expand(-1, -1, 2)) + offset


def satisfies(scene: Scene, points: Tensor, *, tolerance: float = TOLERANCE) -> Tensor:
    """Which points do what the caption says: those that lie in the described shape.

    A point holds if it lies in any of the scene's discs grown by `tolerance`: `min_i(|x - c_i| - r_i) <= tolerance`. Every
    word counts, since shape, size, place and pen all move or resize the discs. What the test cannot see is how much of the
    shape is filled (a thin ring lies inside a thick one): see `coverage`.

    Args:
        scene: what was asked for.
        points: `(n, 2)`.
        tolerance: how far outside a point may lie, in units of the plane.

    Returns:
        Booleans `(n,)`. True points score 1 exactly, up to float32 rounding.

    >>> ring = Scene('ring', 'large', 'centre', 'thin')
    >>> satisfies(ring, torch.tensor([[0.72, 0.], [0., 0.], [0., 0.72]]))
    tensor([ True, False,  True])
    """
    centres, radii = scene.discs
    return (torch.cdist(points.float(), centres, compute_mode='donot_use_mm_for_euclid_dist') - radii).amin(dim=1) <= tolerance


def coverage(scene: Scene, points: Tensor, *, reach: float = 0.1, references: int = 400, seed: int = 0) -> float:
    """The share of the described shape that a cloud reaches: true points with a point of the cloud within `reach`.

    It answers what `satisfies` cannot: a cloud that has collapsed into one corner of the right shape satisfies its caption
    and covers little.

    Args:
        scene: what was asked for.
        points: `(n, 2)`.
        reach: a distance in the plane.
        references: how many true points to look around.
        seed: seed of the true points.

    Returns:
        A number in [0, 1].
    """
    true = sample([scene], references, generator=torch.Generator().manual_seed(seed))[0]
    return (torch.cdist(true, points.float()).amin(dim=1) <= reach).float().mean().item()
