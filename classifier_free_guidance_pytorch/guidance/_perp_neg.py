"""Perp-Neg: perpendicular negatives (arXiv 2304.04968)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.guidance.checks import Scale, aligned, check_alike, check_numbers
from classifier_free_guidance_pytorch.guidance.combine import Rule
from classifier_free_guidance_pytorch.guidance.reductions import dot, ratio, squared_norm, widened
from classifier_free_guidance_pytorch.guidance.scales import one_each
from classifier_free_guidance_pytorch.guidance.step import Predictions, Step


def perp_neg(
    cond: Tensor, null: Tensor, negatives: Sequence[Tensor], scale: Scale, weights: Scale | Sequence[Scale] = 1.0
) -> Tensor:
    """Guide away from negatives without harming the positive: `u + s * (p - sum_j w_j * across(n_j - u, p))`, `p = c - u`.

    Args:
        cond: Prediction under the condition, `(b, ...)`.
        null: Prediction under the null condition, same shape.
        negatives: Predictions `n_j` under negative texts; only the part of `n_j - u` perpendicular to `p` counts.
        scale: `s`; 0 returns `null`.
        weights: `w_j`, how strongly each negative repels, or one for all.

    Returns:
        The guided prediction, in the shape and dtype of `cond`.

    Raises:
        ShapeError, ConfigError: As for `guidance.apg`; or no negatives, or not as many weights as negatives.

    Perp-Neg, arXiv 2304.04968, with the sign of the weights turned so that a positive weight repels. Oracle: a loop in float64.

    >>> import torch
    >>> perp_neg(torch.tensor([[1., 0.]]), torch.zeros(1, 2), (torch.tensor([[5., 1.]]),), 2.)
    tensor([[ 2., -2.]])
    """
    if len(negatives) == 0:
        raise ConfigError('perp_neg: expected at least one negative prediction, got none')
    every = one_each('perp_neg', weights, len(negatives), 'negatives')
    check_alike('perp_neg', {'cond': cond, 'null': null, **{f'negatives[{j}]': n for j, n in enumerate(negatives)}})
    u = widened(null)
    strengths = [aligned(weight, u, f'perp_neg: weights[{j}]') for j, weight in enumerate(every)]
    positive = widened(cond) - u
    direction, length = positive, squared_norm(positive)  # (b, ...), (b, 1, ...)
    for negative, weight in zip(negatives, strengths, strict=True):
        away = widened(negative) - u
        direction = direction - weight * (away - ratio(dot(away, positive), length) * positive)
    return (u + aligned(scale, u) * direction).to(cond.dtype)


@dataclass(frozen=True)
class PerpNeg(Rule):
    """Perp-Neg, negatives that act across the positive only, at any scale: see `guidance.perp_neg`, also for `weights`.

    Two passes and one per negative.
    """

    weights: float | tuple[float, ...] = 1.0
    needs: ClassVar[tuple[str, ...]] = ('cond', 'null', 'negatives')
    null_at_zero: ClassVar[bool] = True
    acts_at_one: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_numbers('PerpNeg', 'weights', self.weights, or_one=True)

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        cond, null = given.pair()
        return perp_neg(cond, null, given.negatives, scale, self.weights)
