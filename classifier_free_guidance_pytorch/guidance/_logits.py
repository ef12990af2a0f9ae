"""Guidance of categorical distributions: language models (arXiv 2306.17806) and discrete diffusion (arXiv 2412.10193)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.guidance.checks import Scale, aligned, check_alike, check_dim
from classifier_free_guidance_pytorch.guidance.combine import Rule
from classifier_free_guidance_pytorch.guidance.reductions import dims_of, widened
from classifier_free_guidance_pytorch.guidance.step import Predictions, Step


def logits(cond: Tensor, null: Tensor, scale: Scale, dim: int = -1) -> Tensor:
    """Guide log-probabilities: `lu + s * (lc - lu)` with `lc = log_softmax(c)`, `lu = log_softmax(u)`.

    The result is not normalised; its softmax is that of CFG on raw logits, but its values do not depend on the arbitrary
    offset of either. An entry that `cond` forbids (`-inf`) stays forbidden; one that only `null` forbids keeps `lc`.

    Args:
        cond: Logits under the condition, `(b, ..., classes)`.
        null: Logits under the null condition or negative prompt, same shape.
        scale: `s`; 1 returns `log_softmax(c)`.
        dim: The dimension of the classes.

    Returns:
        Guided scores, in the shape of `cond`; half precision becomes float32, in which a distribution over many classes keeps
        its tail.

    Raises:
        ShapeError, ConfigError: As for `guidance.apg`.

    Stay on topic with Classifier-Free Guidance, arXiv 2306.17806. Oracle: `ClassifierFreeGuidanceLogitsProcessor` of
    transformers.

    >>> import torch
    >>> c, u = torch.tensor([[1., 0.]]), torch.tensor([[0., 0.]])
    >>> logits(c, u, 2.).softmax(-1).allclose(torch.tensor([[2., 0.]]).softmax(-1))
    True
    """
    check_alike('logits', {'cond': cond, 'null': null})
    dims_of(cond, dim)  # refuses the batch
    log_cond, log_null = torch.log_softmax(widened(cond), dim), torch.log_softmax(widened(null), dim)
    # -inf - -inf is NaN, and so is its gradient: forbidden entries are replaced before the line is taken, not after.
    log_null = torch.where(torch.isneginf(log_null), log_cond, log_null)
    forbidden = torch.isneginf(log_cond)
    guided = torch.lerp(log_null.masked_fill(forbidden, 0.0), log_cond.masked_fill(forbidden, 0.0), aligned(scale, log_cond))
    return guided.masked_fill(forbidden, float('-inf'))


def discrete(cond: Tensor, null: Tensor, scale: Scale, dim: int = -1) -> Tensor:
    """Guide the categorical distributions of discrete diffusion: `softmax(s * log p_c + (1-s) * log p_u)`.

    Args:
        cond: Logits or log-probabilities under the condition, `(b, ..., classes)`.
        null: The same under the null condition.
        scale: `s`; 1 returns `softmax(c)`.
        dim: The dimension of the classes.

    Returns:
        Probabilities, in the shape of `cond`; half precision becomes float32.

    Raises:
        ShapeError, ConfigError: As for `guidance.apg`.

    Simple Guidance Mechanisms for Discrete Diffusion Models, arXiv 2412.10193. Oracle: the formula in float64.

    >>> import torch
    >>> c = torch.tensor([[.8, .2]]).log()
    >>> discrete(c, torch.tensor([[.5, .5]]).log(), 2.)    # .8^2 : .2^2
    tensor([[0.9412, 0.0588]])
    """
    return torch.softmax(logits(cond, null, scale, dim), dim)


@dataclass(frozen=True)
class Logits(Rule):
    """CFG on log-probabilities, for language models: see `guidance.logits`, also for `dim`. Two passes."""

    dim: int = -1
    null_at_zero: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_dim(type(self).__name__, (self.dim,))

    @property
    def anchored(self) -> bool:
        return False  # at scale 1: log_softmax(c)

    def _alone(self, prediction: Tensor) -> Tensor:
        dims_of(prediction, self.dim)  # refuses the batch
        return torch.log_softmax(widened(prediction), self.dim)

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        return logits(*given.pair(), scale, self.dim)


@dataclass(frozen=True)
class Discrete(Logits):
    """CFG on categorical distributions, for discrete diffusion: see `guidance.discrete`, also for `dim`. Two passes."""

    def _alone(self, prediction: Tensor) -> Tensor:
        return super()._alone(prediction).exp()

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        return discrete(*given.pair(), scale, self.dim)
