"""Composable diffusion: AND and NOT of several conditions (arXiv 2206.01714)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.guidance.checks import Scale, aligned, check_alike, check_numbers
from classifier_free_guidance_pytorch.guidance.combine import Rule
from classifier_free_guidance_pytorch.guidance.scales import one_each
from classifier_free_guidance_pytorch.guidance.step import Predictions, Step


def compose(conds: Sequence[Tensor], null: Tensor, weights: Scale | Sequence[Scale] = 1.0) -> Tensor:
    """Join several conditions: `u + sum_i w_i * (c_i - u)`; a negative weight says NOT.

    Args:
        conds: Predictions `c_i`, one per condition, each `(b, ...)`; `(b,)` and complex predictions work as well.
        null: Prediction under the null condition, same shape.
        weights: `w_i`, one per condition, or one for all. Each is the guidance scale of its condition.

    Returns:
        The guided prediction, in the shape and dtype of `null`.

    Raises:
        ShapeError, ConfigError: As for `guidance.cfg`; or no conditions, or not as many weights as conditions.

    Compositional Visual Generation with Composable Diffusion Models, arXiv 2206.01714. Oracle: the sum in float64.

    >>> import torch
    >>> left, up, null = torch.tensor([[-1., 0.]]), torch.tensor([[0., 1.]]), torch.zeros(1, 2)
    >>> compose((left, up), null, (2., 3.))
    tensor([[-2.,  3.]])
    """
    if len(conds) == 0:
        raise ConfigError('compose: expected at least one conditional prediction, got none')
    every = one_each('compose', weights, len(conds), 'conditions')
    check_alike('compose', {'null': null, **{f'conds[{i}]': cond for i, cond in enumerate(conds)}}, linear=True)
    first, *others = [aligned(weight, null, f'compose: weights[{i}]') for i, weight in enumerate(every)]
    guided = torch.lerp(null, conds[0], first)
    for cond, weight in zip(conds[1:], others, strict=True):
        guided = guided + weight * (cond - null)
    return guided


@dataclass(frozen=True)
class Compose(Rule):
    """Several conditions at once, `u + s * sum_i w_i * (c_i - u)`: see `guidance.compose`. One pass per prediction.

    The conditions are `cond`, then `conds` in their order. At scale 1 the weights are the guidance scales, as published.

    Args:
        weights: `w_i`, one per condition, negative for NOT; or one for all.
    """

    weights: float | tuple[float, ...] = 1.0
    needs: ClassVar[tuple[str, ...]] = ('cond', 'null', 'conds')
    null_at_zero: ClassVar[bool] = True
    acts_at_one: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_numbers('Compose', 'weights', self.weights, or_one=True)

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        cond, null = given.pair()
        conds, scale = (cond, *given.conds), aligned(scale, cond, wide=True)
        weights = one_each('Compose', self.weights, len(conds), 'conditions')
        return compose(conds, null, tuple(scale * weight for weight in weights))
