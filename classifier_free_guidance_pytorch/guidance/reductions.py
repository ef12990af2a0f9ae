"""Dot products, norms and standard deviations per sample, over every non-batch dimension unless `dim` says otherwise.

All keep the reduced dimensions, so that the result multiplies the tensor it came from. Half precision is reduced in float32
and the result stays float32. float64 appears only where it was passed in, since it does not exist on every device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ShapeError

Dims = int | tuple[int, ...] | None
"""The dimensions of a vector; None for all but the batch."""


def dims_of(x: Tensor, dim: Dims = None) -> tuple[int, ...]:
    """Return the dimensions to reduce: `dim`, or all but the first; raise `ShapeError` for the batch and what is no dimension."""
    if dim is None:
        return tuple(range(1, x.ndim))
    dims = (dim,) if isinstance(dim, int) else dim
    for one in dims:
        if one == 0 or not -x.ndim < one < x.ndim:
            raise ShapeError(
                f'dim={dim} must be of the {x.ndim - 1} dimensions that follow the batch, for predictions of shape '
                f'{tuple(x.shape)}'
            )
    return dims


def widened(x: Tensor) -> Tensor:
    """Return half precision as float32, and everything else unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def dot(a: Tensor, b: Tensor, dim: Dims = None) -> Tensor:
    """Return `<a, b>`."""
    return (widened(a) * widened(b)).sum(dim=dims_of(a, dim), keepdim=True)  # (b, 1, ...)


def norm(x: Tensor, dim: Dims = None, order: float = 2) -> Tensor:
    """Return the 2-norm, or the norm of another order; its gradient at zero is zero."""
    lengths: Tensor = torch.linalg.vector_norm(widened(x), order, dim=dims_of(x, dim), keepdim=True)  # (b, 1, ...)
    return lengths


def squared_norm(x: Tensor, dim: Dims = None) -> Tensor:
    """Return `<x, x>`, without the temporary that `dot(x, x)` would make."""
    return norm(x, dim).square()


def spread(x: Tensor) -> Tensor:
    """Return the norm of `x - mean(x)`: a standard deviation but for a factor that ratios do not see.

    Unlike `Tensor.std` it is zero, not NaN, for a single feature, and its gradient at zero is zero.
    """
    wide = widened(x)
    return norm(wide - wide.mean(dim=dims_of(x), keepdim=True))


def count(x: Tensor, dim: Dims = None) -> int:
    """Return how many values each reduction joins."""
    return math.prod([x.shape[d] for d in dims_of(x, dim)])  # a list, since a generator is not traced


def ratio(numerator: Tensor, denominator: Tensor, otherwise: float = 0.0) -> Tensor:
    """Return `numerator / denominator`, and `otherwise` where the denominator is zero; gradients stay finite."""
    present = denominator > 0
    safe = torch.where(present, denominator, torch.ones_like(denominator))
    return torch.where(present, numerator / safe, torch.full_like(denominator, otherwise))
