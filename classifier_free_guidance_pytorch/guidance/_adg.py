"""Angle domain guidance (arXiv 2506.11039)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.guidance.checks import Scale, aligned, check_alike, check_number
from classifier_free_guidance_pytorch.guidance.combine import Rule
from classifier_free_guidance_pytorch.guidance.reductions import dot, norm, ratio, squared_norm, widened
from classifier_free_guidance_pytorch.guidance.step import Predictions, Step


def adg(cond: Tensor, null: Tensor, scale: Scale, limit: float = math.pi / 3) -> Tensor:
    """Turn the conditional prediction away from the null one: `cos(t')*c + sin(t')/sin(t) * e`, `t' = min((s-1)*t, limit)`.

    `t` is the angle between `c` and `u`, and `e` the part of `c` across `u`. Lengths stay within `sqrt(2) * |c|`.

    Args:
        cond: Prediction under the condition, `(b, ...)`; of the clean sample in the paper.
        null: Prediction under the null condition, same shape.
        scale: `s`; 1 returns `cond`, and below 1 nothing is turned.
        limit: The largest angle `t'`, in radians.

    Returns:
        The guided prediction, in the shape and dtype of `cond`.

    Raises:
        ShapeError, ConfigError: As for `guidance.apg`.

    Angle Domain Guidance, arXiv 2506.11039, and `method/ADG_SD3.py` of its authors. Oracle: the formula in float64.

    >>> import torch
    >>> adg(torch.tensor([[0., 2.]]), torch.tensor([[1., 0.]]), 2., limit=math.pi / 2).round()
    tensor([[0., 2.]])
    """
    check_number('adg', 'limit', limit, 0)
    check_alike('adg', {'cond': cond, 'null': null})
    c, u = widened(cond), widened(null)
    along = ratio(dot(c, u), squared_norm(u))  # (b, 1, ...)
    across = c - along * u
    # sin and cos of an angle from both its sides: an arc cosine alone has no gradient where predictions agree
    straight, sideways = along * norm(u), norm(across)
    angle = torch.atan2(sideways, torch.where((sideways == 0) & (straight == 0), 1.0, straight))
    strength = aligned(scale, c) - 1
    strength = strength.clamp_min(0) if isinstance(strength, Tensor) else max(strength, 0.0)
    turned = (strength * angle).clamp_max(limit)
    # where the predictions agree, sin(t') / sin(t) is (s - 1)
    sine = sideways / norm(c).clamp_min(torch.finfo(c.dtype).tiny ** 0.5)
    close = sine <= 1e-3
    growth = torch.where(close, strength, torch.sin(turned) / torch.where(close, 1.0, sine))
    return (torch.cos(turned) * c + growth * across).to(cond.dtype)


@dataclass(frozen=True)
class ADG(Rule):
    """Angle domain guidance, a rotation of `c` away from `u`: see `guidance.adg`, also for `limit`. Two passes."""

    limit: float = math.pi / 3
    paper_space: ClassVar[str | None] = 'x0'

    def __post_init__(self) -> None:
        check_number('ADG', 'limit', self.limit, 0, math.pi)

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        return adg(*given.pair(), scale, self.limit)
