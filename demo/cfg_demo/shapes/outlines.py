"""The outline of each shape as a signed distance: negative inside, in units of the body's radius.

Coordinates are the picture's: x to the right, y down, the body's centre at the origin. Polygons use the largest of their edges'
half-plane distances, which is exact everywhere but outside the corners, where it only makes an anti-aliased tip a little sharper.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

REACH = 1.15  # no outline, at any rotation the world uses, leaves the box of this many radii around its centre


def circle(x: Array, y: Array) -> Array:
    """A disc of radius 1."""
    distance: Array = np.sqrt(x * x + y * y) - 1
    return distance


def ring(x: Array, y: Array) -> Array:
    """A band between the radii 0.52 and 1."""
    distance: Array = np.abs(np.sqrt(x * x + y * y) - 0.76) - 0.24
    return distance


def square(x: Array, y: Array) -> Array:
    """A square of half side 0.86."""
    distance: Array = np.maximum(np.abs(x), np.abs(y)) - 0.86
    return distance


def triangle(x: Array, y: Array) -> Array:
    """An equilateral triangle of circumradius 1.12, pointing up, lowered so that its box is centred."""
    y = y - 0.19
    distance: Array = np.maximum(y, 0.5 * (math.sqrt(3) * np.abs(x) - y)) - 0.56
    return distance


def diamond(x: Array, y: Array) -> Array:
    """A rhombus 1.15 high and 0.72 wide from its centre."""
    long, short = 1.15, 0.72
    distance: Array = (long * np.abs(x) + short * np.abs(y) - long * short) / math.hypot(long, short)
    return distance


def cross(x: Array, y: Array) -> Array:
    """Two bars of half length 1.02 and half width 0.34."""
    x, y = np.abs(x), np.abs(y)
    distance: Array = np.minimum(np.maximum(x - 1.02, y - 0.34), np.maximum(x - 0.34, y - 1.02))
    return distance


def star(x: Array, y: Array) -> Array:
    """A five-pointed star: the plane is folded into one half point, whose only edge is a line."""
    tip, dent, half = 1.15, 0.51, math.pi / 5
    angle = np.arctan2(np.abs(x), -y)
    angle = np.abs((angle + half) % (2 * half) - half)
    length = np.sqrt(x * x + y * y)
    along, across = tip - dent * math.cos(half), dent * math.sin(half)
    distance: Array = ((length * np.cos(angle) - tip) * across + length * np.sin(angle) * along) / math.hypot(along, across)
    return distance


def heart(x: Array, y: Array) -> Array:
    """A square on its corner, with a half disc on each of its two upper sides."""
    half = 0.84
    x, y = np.abs(x), y - 0.08
    tip = (x + np.abs(y) - half) / math.sqrt(2)
    lobe = np.sqrt((x - half / 2) ** 2 + (y + half / 2) ** 2) - half / math.sqrt(2)
    distance: Array = np.minimum(tip, lobe)
    return distance


OUTLINES: dict[str, Callable[[Array, Array], Array]] = {
    'circle': circle,
    'square': square,
    'triangle': triangle,
    'star': star,
    'cross': cross,
    'ring': ring,
    'heart': heart,
    'diamond': diamond,
}


@functools.cache
def moments(shape: str) -> tuple[float, float, float]:
    """Centre of mass (x, y) in radii, and mean squared distance from it in squared radii, of a shape that is not rotated."""
    axis = (np.arange(512, dtype=np.float32) + 0.5) / 512 * 2.6 - 1.3
    x, y = np.meshgrid(axis, axis)
    inside = OUTLINES[shape](x, y) < 0
    x, y = x[inside], y[inside]
    return float(x.mean()), float(y.mean()), float(x.var() + y.var())


def coverage(shape: str, x: Array, y: Array, radius: Array | float, angle: Array | float, sharpness: Array | float) -> Array:
    """The share of each pixel that a body covers, anti-aliased from the signed distance.

    Args:
        shape: a key of `OUTLINES`.
        x: pixel centres relative to the body's centre, in widths of the picture; any shape that broadcasts with `radius`.
        y: the same, downwards.
        radius: of the body, in widths of the picture.
        angle: rotation in radians.
        sharpness: edges per width of the picture: its width in pixels, for edges one pixel wide.

    Returns:
        Coverage from 0 to 1.
    """
    cosine, sine = np.cos(angle), np.sin(angle)
    turned_x, turned_y = (cosine * x + sine * y) / radius, (cosine * y - sine * x) / radius
    distance = OUTLINES[shape](turned_x, turned_y) * radius * sharpness
    covered: Array = np.clip(0.5 - distance, 0, 1)
    return covered
