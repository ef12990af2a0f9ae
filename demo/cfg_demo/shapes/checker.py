"""Reads a picture back: its background, its bodies, or why it cannot be read; and checks a caption against it.

No learning is involved. The background is what the border shows; bodies are what stands out from it, one for each connected
region; a body's colour is the nearest of the palette to its core. Its shape is found by drawing it again: each shape, at several
rotations, with the area and the centre of mass of the region, is laid over it, and the one that overlaps best is what it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfg_demo.shapes.captions import Scene
from cfg_demo.shapes.judge import Verdict, judge
from cfg_demo.shapes.layout import BACKDROPS, PALETTE, RADII, RGB, ROTATION, Body, Layout, check_zoom
from cfg_demo.shapes.outlines import OUTLINES, coverage, moments
from cfg_demo.shapes.parse import parse
from classifier_free_guidance_pytorch.errors import ShapeError

Array = NDArray[np.floating[Any]]
Pose = tuple[float, float, float, float]  # x, y, radius, angle

STANDS_OUT = 0.2  # distance in RGB from the background at which a pixel belongs to a body
NEAR_ENOUGH = 0.33  # distance in RGB within which a colour still has a name
SPECK = 0.008  # share of the picture: a region below it is noise
FIT = 0.95  # likeness below which a region has no known shape
ANGLES = np.linspace(-ROTATION, ROTATION, 5, dtype=np.float32)[:, None, None]
BLURS = np.asarray([0.1, 0.6, 0.9], dtype=np.float32)[:, None, None, None]  # Gaussian widths in pixels, the first one sharp
REACHES = np.linspace(1, 1.5, 6, dtype=np.float32)[:, None]
COLOUR_NAMES = tuple(PALETTE)
COLOUR_TABLE = np.asarray(list(PALETTE.values()), dtype=np.float32)[:, None]
SIZE_LIMITS = tuple(
    math.sqrt(RADII[smaller][1] * RADII[larger][0]) for smaller, larger in (('small', 'medium'), ('medium', 'large'))
)


class UnreadableError(Exception):
    """Why a picture cannot be read; internal to this file."""


def _length(vectors: Array) -> Array:
    """Euclidean length along the last axis."""
    lengths: Array = np.sqrt((vectors * vectors).sum(-1))
    return lengths


def _background_name(rgb: Array) -> str | None:
    """The name of the nearest backdrop, if one is near enough."""
    away = {name: math.dist(rgb, backdrop) for name, backdrop in BACKDROPS.items()}
    name = min(away, key=lambda each: away[each])
    return name if away[name] <= NEAR_ENOUGH else None


def _colour_name(rgb: Array, background: Array) -> str | None:
    """The name of the colour that comes nearest, if near enough.

    In a small or blurred body no pixel is wholly covered, so its colour is one of those on the ray from the background
    through the colour that was seen, up to half as far again; the nearer to what was seen, the better.
    """
    stretched = background + REACHES * (rgb - background)  # (reaches, 3)
    away = _length(stretched - COLOUR_TABLE) + 0.3 * (REACHES[..., 0] - 1)  # (colours, reaches)
    nearest = int(away.min(1).argmin())
    return COLOUR_NAMES[nearest] if away[nearest].min() <= NEAR_ENOUGH else None


def _rgb(values: Array) -> RGB:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def regions(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Splits a mask into its connected regions (neighbours share an edge), the largest first."""
    left = set(zip(*(axis.tolist() for axis in np.nonzero(mask)), strict=True))
    found: list[list[tuple[int, int]]] = []
    while left:
        region = [left.pop()]
        for row, column in region:  # grows while it is walked
            for neighbour in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if neighbour in left:
                    left.remove(neighbour)
                    region.append(neighbour)
        found.append(region)
    masks = np.zeros((len(found), *mask.shape), dtype=bool)
    for one, region in zip(masks, sorted(found, key=lambda each: (-len(each), min(each))), strict=True):
        one[tuple(zip(*region, strict=True))] = True
    return list(masks)


def _background(picture: Array) -> tuple[Array, float]:
    """The colour of the border, and the distance from it at which a pixel stands out; unreadable if there is no one colour."""
    border = np.concatenate([picture[0], picture[-1], picture[1:-1, 0], picture[1:-1, -1]])
    middle = np.median(border, axis=0)
    stray = _length(border - middle)
    if (stray > STANDS_OUT).mean() > 0.4:
        raise UnreadableError('the border shows no single background colour')
    return middle.astype(np.float32), max(STANDS_OUT, 2.6 * float(np.median(stray)))  # farther where the picture is noisy


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The region and every pixel that touches it, corners included."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    grown: NDArray[np.bool_] = np.logical_or.reduce([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)])
    return grown


def _smear(length: int, blur: Array) -> Array:
    """Matrices `(blurs, 1, length, length)` that blur one axis by a Gaussian of each of these widths in pixels."""
    steps = np.arange(length, dtype=np.float32)
    weights = np.exp(-((steps[:, None] - steps) ** 2) / (2 * blur**2))
    smear: Array = weights / weights.sum(-1, keepdims=True)
    return smear


def _fit(alpha: Array, pixels: int) -> tuple[str | None, Pose]:
    """Shape and pose of the drawing that is most alike; the shape is None when none is alike enough.

    Every candidate has the region's centre of mass and its spread about it, both of which are the same however faint the region.
    """
    rows, columns = np.nonzero(alpha > 0.02)
    top, left = max(rows.min() - 1, 0), max(columns.min() - 1, 0)
    crop = alpha[top : rows.max() + 2, left : columns.max() + 2]
    x = ((np.arange(crop.shape[1]) + left + 0.5) / pixels).astype(np.float32)
    y = ((np.arange(crop.shape[0]) + top + 0.5) / pixels).astype(np.float32)[:, None]
    total, norm = float(crop.sum()), math.sqrt(float((crop * crop).sum()))
    mean_x, mean_y = float((crop * x).sum()) / total, float((crop * y).sum()) / total
    spread = float((crop * ((x - mean_x) ** 2 + (y - mean_y) ** 2)).sum()) / total
    spreads = np.maximum(spread - 2 * (BLURS / pixels) ** 2, 0.2 * spread)  # less what the blur has added
    across, down = _smear(crop.shape[1], BLURS), _smear(crop.shape[0], BLURS)
    cosine, sine = np.cos(ANGLES), np.sin(ANGLES)
    best: tuple[float, str, Pose] = (-1.0, '', (0.0, 0.0, 0.0, 0.0))
    for shape in OUTLINES:
        offset_x, offset_y, unit_spread = moments(shape)
        radius = np.sqrt(spreads / unit_spread)  # (blurs, 1, 1, 1)
        centre_x = mean_x - radius * (cosine * offset_x - sine * offset_y)
        centre_y = mean_y - radius * (sine * offset_x + cosine * offset_y)
        drawn = coverage(shape, x - centre_x, y - centre_y, radius, ANGLES, pixels)
        drawn = down @ drawn @ across.swapaxes(-1, -2)  # (blurs, angles, h, w)
        alike = (drawn * crop).sum((2, 3)) / (np.sqrt((drawn * drawn).sum((2, 3))) * norm)
        blur, turn = np.unravel_index(int(alike.argmax()), alike.shape)
        if alike[blur, turn] > best[0]:
            centre = float(centre_x[blur, turn, 0, 0]), float(centre_y[blur, turn, 0, 0])
            pose = *centre, float(radius[blur, 0, 0, 0]), float(ANGLES[turn, 0, 0])
            best = float(alike[blur, turn]), shape, pose
    likeness, name, pose = best
    return name if likeness >= FIT else None, pose


def _body(picture: Array, background: Array, region: NDArray[np.bool_], others: NDArray[np.bool_], zoom: float) -> Body:
    """Reads one body from its region."""
    away = _length(picture - background)
    strength = away[region]
    core = region & (away >= 0.75 * np.quantile(strength, 0.9))
    rgb = np.median(picture[core], axis=0).astype(np.float32)
    towards = rgb - background
    alpha = np.clip((picture - background) @ towards / (towards @ towards), 0, 1)
    alpha[~_grown(region) | others] = 0
    shape, (x, y, radius, angle) = _fit(alpha, picture.shape[0])
    size = tuple(RADII)[sum(radius > zoom * limit for limit in SIZE_LIMITS)]
    spotted = float(np.mean(_length(picture[core] - rgb) > NEAR_ENOUGH)) > 0.25
    colour = None if spotted else _colour_name(rgb, background)
    return Body(shape, colour, size, x, y, radius, angle, _rgb(rgb))


def read(image: Tensor, zoom: float = 1.0) -> Layout | str:
    """Reads one picture.

    Args:
        image: `(3, s, s)` from 0 to 1; values outside are clipped.
        zoom: how many times larger than usual bodies are drawn, see `arrange`.

    Returns:
        What is in it, with None for any shape, colour or background that has no name here; or, where the picture as a whole
        cannot be read, a sentence that says why.

    Raises:
        ShapeError: not one square picture of three channels.
        ConfigError: a zoom that no picture has.

    Example:
        >>> import torch
        >>> read(torch.rand(3, 32, 32))
        'the border shows no single background colour'
        >>> read(torch.zeros(3, 32, 32))
        'nothing stands out from the background'
    """
    check_zoom(zoom)
    if image.ndim != 3 or image.shape[0] != 3 or image.shape[1] != image.shape[2]:
        raise ShapeError(f'expected one square picture (3, s, s), got {tuple(image.shape)}. For a batch use check_all.')
    if not torch.isfinite(image).all():
        return 'the picture holds values that are not finite'
    picture = image.detach().to('cpu', torch.float32).clamp(0, 1).permute(1, 2, 0).contiguous().numpy()
    try:
        background, stands_out = _background(picture)
    except UnreadableError as problem:
        return str(problem)
    found = regions(_length(picture - background) > stands_out)
    smallest = SPECK * picture.shape[0] ** 2
    bodies = [region for region in found if region.sum() >= smallest]
    specks = sum(int(region.sum()) for region in found if region.sum() < smallest)
    if specks > 4 * smallest:
        return 'the picture is covered with specks'
    if not bodies:
        return 'nothing stands out from the background'
    if len(bodies) > 6:
        return f'{len(bodies)} regions stand out, too many to be bodies'
    everything = np.logical_or.reduce(bodies)
    read_bodies = tuple(_body(picture, background, region, everything & ~region, zoom) for region in bodies)
    if all(body.shape is None for body in read_bodies):
        return 'no region has the outline of a known shape'
    return Layout(read_bodies, _background_name(background), _rgb(background))


def check(image: Tensor, caption: str | Scene, zoom: float = 1.0) -> Verdict:
    """Says which parts of a caption hold of a picture.

    Args:
        image: `(3, s, s)` from 0 to 1.
        caption: a caption of this world, or its meaning.
        zoom: how many times larger than usual bodies are drawn, see `arrange`.

    Returns:
        The verdict; of an unreadable picture every part is False and `problem` says why.

    Raises:
        ConfigError: the caption names no shape of this world.
        ShapeError: not one square picture of three channels.

    Example:
        >>> from random import Random
        >>> from .layout import arrange
        >>> from .render import render
        >>> image = render([arrange(parse('a red circle on a dark background'), Random(0))])[0]
        >>> check(image, 'a blue circle on a dark background').parts
        {'count': True, 'shape': True, 'colour': False, 'background': True}
    """
    scene = parse(caption) if isinstance(caption, str) else caption
    layout = read(image, zoom)
    if isinstance(layout, Layout):
        return judge(scene, layout)
    nothing = judge(scene, Layout((), None, (0.0, 0.0, 0.0))).parts
    return Verdict(**dict.fromkeys(nothing, False), problem=layout)


def check_all(images: Iterable[Tensor], captions: Iterable[str | Scene], zoom: float = 1.0) -> list[Verdict]:
    """`check` for each picture of a batch `(b, 3, s, s)` with its caption."""
    return [check(image, caption, zoom) for image, caption in zip(images, captions, strict=True)]
