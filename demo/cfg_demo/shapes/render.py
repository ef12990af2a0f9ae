"""Draws layouts: anti-aliased, many at a time, each independent of its neighbours in the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cfg_demo.shapes.layout import Layout
from cfg_demo.shapes.outlines import OUTLINES, coverage
from classifier_free_guidance_pytorch.errors import ConfigError


def render(layouts: Sequence[Layout], size: int = 32) -> Tensor:
    """Draws one picture for each layout.

    Args:
        layouts: the blueprints.
        size: width and height in pixels, at least 16.

    Returns:
        `(b, 3, size, size)` float32 from 0 to 1.

    Raises:
        ConfigError: fewer than 16 pixels, at which small shapes cannot be told apart.

    Example:
        >>> from random import Random
        >>> from .layout import arrange
        >>> from .parse import parse
        >>> render([arrange(parse('a red circle'), Random(0))]).shape
        torch.Size([1, 3, 32, 32])
    """
    if size < 16:
        raise ConfigError(f'size is {size}, but small shapes need pictures of at least 16 pixels. Use 32 or 64.')
    canvas = np.empty((len(layouts), 3, size, size), dtype=np.float32)
    for picture, layout in zip(canvas, layouts, strict=True):
        picture[:] = np.asarray(layout.rgb, dtype=np.float32)[:, None, None]
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    for shape in OUTLINES:
        found = [(index, body) for index, layout in enumerate(layouts) for body in layout.bodies if body.shape == shape]
        if not found:
            continue
        x, y, radius, angle = np.asarray([(body.x, body.y, body.radius, body.angle) for _, body in found], dtype=np.float32).T[
            ..., None, None
        ]
        covered = coverage(shape, centres - x, centres[:, None] - y, radius, angle, size)[:, None]
        shades = np.asarray([body.rgb for _, body in found], dtype=np.float32)[..., None, None]
        for (index, _), alpha, shade in zip(found, covered, shades, strict=True):
            canvas[index] += alpha * (shade - canvas[index])
    return torch.from_numpy(canvas)
