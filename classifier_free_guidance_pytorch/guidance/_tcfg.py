"""Tangential damping (arXiv 2503.18137)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.guidance.checks import Scale, aligned, check_alike
from classifier_free_guidance_pytorch.guidance.combine import Rule
from classifier_free_guidance_pytorch.guidance.reductions import dot, squared_norm, widened
from classifier_free_guidance_pytorch.guidance.step import Predictions, Step


def tcfg(cond: Tensor, null: Tensor, scale: Scale) -> Tensor:
    """Guide from the part of the null prediction that it shares with `c`: `u' + s * (c - u')`.

    `u'` is the projection of `u` on the first right singular vector of `[c; u]`. With the Gram matrix of `c` and `u` and the
    angle `t` for which `tan(2t) = 2<c,u> / (|c|^2 - |u|^2)` it is `u' = sin(t) * (cos(t)*c + sin(t)*u)`: no SVD.

    Args:
        cond: Prediction under the condition, `(b, ...)`.
        null: Prediction under the null condition, same shape.
        scale: `s`; 1 returns `cond`.

    Returns:
        The guided prediction, in the shape and dtype of `cond`.

    Raises:
        ShapeError, ConfigError: As for `guidance.cfg`; predictions are real and have a dimension beside the batch.

    Tangential Damping Classifier-free Guidance, arXiv 2503.18137. Oracle: a float64 SVD.

    >>> import torch
    >>> tcfg(torch.tensor([[2., 0.]]), torch.tensor([[0., 1.]]), 3.)    # nothing is shared, so u' = 0
    tensor([[6., 0.]])
    """
    check_alike('tcfg', {'cond': cond, 'null': null})
    c, u = widened(cond), widened(null)
    difference = squared_norm(c) - squared_norm(u)  # (b, 1, ...)
    overlap = 2 * dot(c, u)
    # Where both vanish every direction is as good: u' = u. `safe` keeps the gradient of the square root finite there.
    undecided = (difference == 0) & (overlap == 0)
    size = torch.maximum(difference.abs(), overlap.abs())
    safe = torch.where(undecided, torch.ones_like(size), size)
    x, y = difference / safe, overlap / safe  # scaled, so that squares neither over- nor underflow
    radius = torch.where(undecided, torch.ones_like(x), x * x + y * y).sqrt()
    cosine, sine = x / radius, y / radius  # of 2t
    squared = torch.where(undecided, torch.ones_like(cosine), (1 - cosine) / 2)  # sin(t)^2
    s = aligned(scale, c)
    return torch.addcmul(c * (s + (1 - s) * (sine / 2)), u, (1 - s) * squared).to(cond.dtype)


@dataclass(frozen=True)
class TCFG(Rule):
    """Tangential damping, `u' + s * (c - u')` with `u'` what `u` shares with `c`: see `guidance.tcfg`. Two passes."""

    paper_space: ClassVar[str | None] = 'eps'

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        return tcfg(*given.pair(), scale)
