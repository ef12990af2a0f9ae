"""Shapes of the plane, each one a chain of discs.

A shape is drawn as a pen draws it: a disc moves along a path, and what it has covered is the shape. So every shape is a set
of `DISCS` centres inside the unit square `[-1, 1]^2` with one `body` radius per centre (zero for a line, which only the width
of the pen makes visible). All discs of a shape are equally likely: a point of the shape is a random disc, then a random place
in it, and whether a point lies in the shape is a minimum over discs. Nothing is approximated in between; drawing and testing
use the same discs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DISCS = 240  # divisible by 2, 3, 4, 5 and 10, so that every polygon's edges get the same number of discs

Chain = tuple[Tensor, Tensor]  # centres (DISCS, 2), body radii (DISCS,)


def _progress(count: int = DISCS) -> Tensor:
    """Midpoints of `count` equal parts of [0, 1]: `(count,)`."""
    return (torch.arange(count, dtype=torch.float32) + 0.5) / count


def _curve(x: Tensor, y: Tensor) -> Chain:
    """A curve through densely sampled points, walked at constant speed."""
    dense = torch.stack((x, y), dim=-1)
    travelled = torch.cat((torch.zeros(1), (dense[1:] - dense[:-1]).norm(dim=-1).cumsum(0)))
    wanted = _progress() * travelled[-1]
    after = torch.searchsorted(travelled, wanted).clamp(1, len(travelled) - 1)
    start, end = travelled[after - 1], travelled[after]
    part = ((wanted - start) / (end - start)).unsqueeze(-1)
    return torch.lerp(dense[after - 1], dense[after], part), torch.zeros(DISCS)


def _polylines(*lines: Sequence[tuple[float, float]]) -> Chain:
    """Straight strokes through the given corners, the same number of discs on every segment."""
    segments = [(line[i], line[i + 1]) for line in lines for i in range(len(line) - 1)]
    part = _progress(DISCS // len(segments)).unsqueeze(-1)
    centres = torch.cat([torch.lerp(torch.tensor(start), torch.tensor(end), part) for start, end in segments])
    return centres, torch.zeros(DISCS)


def _clusters(*centres: tuple[float, float], radius: float) -> Chain:
    """A few full discs, equally likely."""
    return torch.tensor(centres).repeat(DISCS // len(centres), 1), torch.full((DISCS,), radius)


def _polygon(corners: int, *, inner: float | None = None) -> Chain:
    """A regular polygon standing on its base, or a star when every second corner lies at radius `inner`."""
    turns = corners if inner is None else 2 * corners
    radii = [1.0 if inner is None or i % 2 == 0 else inner for i in range(turns)]
    angles = [math.pi / 2 + 2 * math.pi * i / turns for i in range(turns)]
    points = [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]
    return _polylines([*points, points[0]])


def _ring() -> Chain:
    angle = torch.linspace(0, 2 * math.pi, 2000)
    return _curve(angle.cos(), angle.sin())


def _spiral(turn: int) -> Chain:
    """One and a half turns outwards; `turn` is 1 for left (counter-clockwise) and -1 for right."""
    angle = torch.linspace(0, 3 * math.pi, 2000)
    radius = 0.1 + 0.9 * angle / angle[-1]
    return _curve(turn * radius * angle.cos(), radius * angle.sin())


def _moon(opening: int) -> Chain:
    """A crescent, thick in its middle and pointed at its horns; `opening` is -1 for left and 1 for right.

    The discs' share along the arc follows their radius (inverse transform of a sine density), so points fill the crescent evenly.
    """
    part = torch.arccos(1 - 2 * _progress()) / math.pi
    angle = (part - 0.5) * 1.3 * math.pi
    centres = torch.stack((-opening * (0.8 * angle.cos() - 0.1), 0.8 * angle.sin()), dim=-1)
    return centres, 0.28 * (math.pi * part).sin()


def _wave() -> Chain:
    x = torch.linspace(-1, 1, 2000)
    return _curve(x, 0.45 * (2 * math.pi * x).sin())


def _heart() -> Chain:
    t = torch.linspace(0, 2 * math.pi, 2000)
    y = 13 * t.cos() - 5 * (2 * t).cos() - 2 * (3 * t).cos() - (4 * t).cos()
    return _curve(t.sin() ** 3, (y + 2.5) / 15)


@dataclass(frozen=True)
class Shape:
    """A shape and how it is spoken of: `article` ... `noun` `manner` ("a ... spiral turning left").

    Args:
        article: 'a', or the count of a plural.
        noun: the bare noun.
        manner: what follows the noun; may be empty.
        drawn: True for lines, which have the width of the pen ("thin", "thick"); False for bodies, which have their own.
        chain: makes the discs at unit scale.
    """

    article: str
    noun: str
    manner: str
    drawn: bool
    chain: Callable[[], Chain]


def _line(noun: str, manner: str, *lines: Sequence[tuple[float, float]]) -> Shape:
    return Shape('a', noun, manner, True, lambda: _polylines(*lines))


SHAPES: dict[str, Shape] = {
    'ring': Shape('a', 'ring', '', True, _ring),
    'square': _line('square', '', [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8), (-0.8, -0.8)]),
    'triangle': Shape('a', 'triangle', '', True, lambda: _polygon(3)),
    'star': Shape('a', 'star', '', True, lambda: _polygon(5, inner=0.45)),
    'heart': Shape('a', 'heart', '', True, _heart),
    'upright cross': _line('upright cross', '', [(-0.9, 0.0), (0.9, 0.0)], [(0.0, -0.9), (0.0, 0.9)]),
    'tilted cross': _line('tilted cross', '', [(-0.7, -0.7), (0.7, 0.7)], [(-0.7, 0.7), (0.7, -0.7)]),
    'level line': _line('line', 'from side to side', [(-1.0, 0.0), (1.0, 0.0)]),
    'upright line': _line('line', 'standing upright', [(0.0, -1.0), (0.0, 1.0)]),
    'rising line': _line('line', 'rising to the right', [(-0.8, -0.8), (0.8, 0.8)]),
    'falling line': _line('line', 'falling to the right', [(-0.8, 0.8), (0.8, -0.8)]),
    'wave': Shape('a', 'wave', '', True, _wave),
    'zigzag': _line('zigzag', '', [(-1.0, -0.4), (-0.6, 0.4), (-0.2, -0.4), (0.2, 0.4), (0.6, -0.4), (1.0, 0.4)]),
    'left spiral': Shape('a', 'spiral', 'turning left', True, lambda: _spiral(1)),
    'right spiral': Shape('a', 'spiral', 'turning right', True, lambda: _spiral(-1)),
    'left moon': Shape('a', 'moon', 'opening to the left', False, lambda: _moon(-1)),
    'right moon': Shape('a', 'moon', 'opening to the right', False, lambda: _moon(1)),
    'disc': Shape('a', 'disc', '', False, lambda: _clusters((0.0, 0.0), radius=0.9)),
    'pair': Shape('two', 'clusters', 'side by side', False, lambda: _clusters((-0.7, 0.0), (0.7, 0.0), radius=0.3)),
    'stack': Shape('two', 'clusters', 'one above the other', False, lambda: _clusters((0.0, -0.7), (0.0, 0.7), radius=0.3)),
    'trio': Shape('three', 'clusters', '', False, lambda: _clusters((-0.7, -0.45), (0.7, -0.45), (0.0, 0.7), radius=0.28)),
}
