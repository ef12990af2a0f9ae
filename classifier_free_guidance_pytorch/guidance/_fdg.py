"""Frequency-decoupled guidance: a scale per level of a Laplacian pyramid (arXiv 2506.19713).

The pyramid is linear and collapses to what it was built from, so it is built once, of `c - u`, instead of once for each:
`collapse(u_l + s_l * (c_l - u_l)) = c + collapse((s_l - 1) * d_l)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError
from classifier_free_guidance_pytorch.guidance.checks import Scale, aligned, check_alike, check_numbers, shown
from classifier_free_guidance_pytorch.guidance.combine import Rule
from classifier_free_guidance_pytorch.guidance.reductions import widened
from classifier_free_guidance_pytorch.guidance.scales import proportioned, strongest
from classifier_free_guidance_pytorch.guidance.step import Predictions, Step


def fdg(cond: Tensor, null: Tensor, scales: Sequence[Scale] = (10.0, 5.0), grid: tuple[int, ...] | None = None) -> Tensor:
    """Guide each band of frequencies at its own scale: `u_l + s_l * (c_l - u_l)` on every level of a Laplacian pyramid.

    Args:
        cond: Prediction under the condition: images `(b, c, h, w)` of any size, video `(b, c, f, h, w)` frame by frame,
            vectors `(b, n)`; or tokens `(b, n, d)`, with `grid`. A signal `(b, c, n)` is an image `(b, c, 1, n)`.
        null: Prediction under the null condition, same shape.
        scales: One per level, finest first, each a number or one value per sample. All 1 returns `cond`.
        grid: How tokens lie in space, `(h, w)`, or `(f, h, w)` frame by frame; `h * w` is `n`.

    Returns:
        The guided prediction, in the shape and dtype of `cond`.

    Raises:
        ShapeError, ConfigError: As for `guidance.apg`; no scales, or one that is neither a number nor one value per sample; three
            dimensions without a grid, or a grid that does not fit.

    Frequency-Decoupled Guidance, arXiv 2506.19713, algorithm 2; low scales belong to low frequencies. Oracles:
    `FrequencyDecoupledGuidance` of diffusers, and kornia's pyramid.

    >>> import torch
    >>> c, u = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)      # a constant has low frequencies only
    >>> fdg(c, u, (10., 5.)).unique()
    tensor([5.])
    """
    if not isinstance(scales, Sequence) or len(scales) == 0:
        raise ConfigError(f'fdg: scales must hold at least one number, finest level first, got {scales!r}')
    _check_grid('fdg', grid)
    check_alike('fdg', {'cond': cond, 'null': null})
    difference = _as_images(widened(cond) - widened(null), grid)
    weights = [_per_sample(scale, difference, f'fdg: scales[{i}]', cond.ndim) for i, scale in enumerate(scales)]
    bands = [difference]
    for _ in scales[1:]:
        bands.append(_down(bands[-1]))
    guided = weights[-1] * bands[-1]
    # up() is linear: up(guided) + w * (band - up(coarser)) needs one up() per level
    for weight, band, coarser in zip(weights[-2::-1], bands[-2::-1], bands[:0:-1], strict=True):
        guided = weight * band + _up(guided - weight * coarser, band)
    guided = guided.reshape(cond.shape) if grid is None else guided.reshape(cond.mT.shape).mT  # (b, d, n) -> (b, n, d)
    return (cond + guided).to(cond.dtype)


def _check_grid(owner: str, grid: object) -> None:
    """Raise `ConfigError` unless a grid has one to three sides."""
    if grid is None:
        return
    if not isinstance(grid, tuple) or not 1 <= len(grid) <= 3 or any(type(side) is not int or side < 1 for side in grid):
        raise ConfigError(f'{owner}: grid must be (h, w) or (f, h, w), got {shown(grid)}')


def _per_sample(scale: Scale, like: Tensor, name: str, ndim: int) -> Scale:
    """Return `s - 1`, where a tensor holds one value per sample: `(b,)`, or `(b, 1, ...)` like the predictions."""
    if isinstance(scale, Tensor) and scale.ndim == ndim and scale.shape[1:].numel() == 1:
        scale = scale.reshape(-1)  # (b,)
    if isinstance(scale, Tensor) and scale.ndim > 1:
        raise ShapeError(
            f'{name} has shape {tuple(scale.shape)} for a batch of {like.shape[0]}; '
            'a level takes a number or one value per sample'
        )
    return aligned(scale, like, name) - 1


def _as_images(x: Tensor, grid: tuple[int, ...] | None) -> Tensor:
    """Return images `(b, c, h, w)` or signals `(b, c, n)`; whatever lies between batch and them counts as channels."""
    if (x.ndim == 3) != (grid is not None):
        raise ShapeError(
            f'fdg: predictions of shape {tuple(x.shape)} '
            + (
                'with a grid; a grid is for tokens (b, n, d)'
                if grid is not None
                else 'may be tokens (b, n, d) or a signal (b, c, n): of tokens give grid=(h, w), and a signal as (b, c, 1, n)'
            )
        )
    if grid is not None:
        if math.prod(grid) != x.shape[1]:
            raise ShapeError(f'fdg: grid={grid} has {math.prod(grid)} places, but there are {x.shape[1]} tokens')
        x = x.mT.reshape(x.shape[0], x.shape[2], *grid)  # (b, n, d) -> (b, d, h, w)
    if x.ndim == 2:
        return x.unsqueeze(1)  # (b, 1, n)
    return x if x.ndim <= 4 else x.flatten(1, -3)  # (b, c * f, h, w)


def _blur(x: Tensor) -> Tensor:
    """Apply the binomial filter (1, 4, 6, 4, 1) / 16 along each spatial dimension, edges reflected."""
    for axis in range(2, x.ndim):
        padding = (0, 0) * (x.ndim - 1 - axis) + (2, 2) + (0, 0) * (axis - 2)
        # reflection needs three values; shorter sides repeat their edge
        x = F.pad(x, padding, mode='reflect' if x.shape[axis] > 2 else 'replicate')
        for _ in range(4):  # a binomial filter is neighbours added four times: much faster than a convolution of few channels
            size = x.shape[axis] - 1
            x = x.narrow(axis, 0, size) + x.narrow(axis, 1, size)
    return x * 0.0625 ** (x.ndim - 2)


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize linearly along each spatial dimension, pixel centres aligned."""
    return F.interpolate(x, size=list(size), mode='linear' if x.ndim == 3 else 'bilinear', align_corners=False)


def _down(x: Tensor) -> Tensor:
    """Blur, then halve; an odd side is rounded up, so nothing shrinks below one value."""
    return _resize(_blur(x), [(side + 1) // 2 for side in x.shape[2:]])


def _up(x: Tensor, like: Tensor) -> Tensor:
    """Grow to the size of the finer level, then blur."""
    return _blur(_resize(x, like.shape[2:]))


@dataclass(frozen=True)
class FDG(Rule):
    """Frequency-decoupled guidance, a scale for each level of a Laplacian pyramid: see `guidance.fdg`. Two passes.

    Args:
        scales: One per level, finest first. They give the proportions: the scale of the call is that of the strongest
            level, so `FDG((10., 5.))` called at 10 guides at exactly `(10, 5)`, and at 1 returns `cond`.
        grid: How tokens `(b, n, d)` lie in space: `(h, w)`, or `(f, h, w)`.
    """

    scales: tuple[float, ...] = (10.0, 5.0)
    grid: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_numbers('FDG', 'scales', self.scales)
        if all(value == 1 for value in self.scales):
            raise ConfigError(f'FDG: every one of scales {self.scales} is 1, so nothing is guided')
        _check_grid('FDG', self.grid)

    @property
    def default_scale(self) -> float:
        return strongest(self.scales)

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        return fdg(*given.pair(), proportioned(scale, self.scales), self.grid)
