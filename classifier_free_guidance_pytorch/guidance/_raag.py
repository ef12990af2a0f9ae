"""Ratio-aware adaptive guidance, RAAG, published as MAMBO-G (arXiv 2508.03442)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.guidance.checks import Scale, aligned, check_alike, check_number
from classifier_free_guidance_pytorch.guidance.combine import Rule
from classifier_free_guidance_pytorch.guidance.reductions import norm, widened
from classifier_free_guidance_pytorch.guidance.step import Predictions, Step


def raag(cond: Tensor, null: Tensor, scale: Scale, alpha: float = 8.0) -> Tensor:
    """Guide less where the predictions disagree much: CFG at `s' = 1 + (s-1) * exp(-alpha * |d| / |u|)`.

    Args:
        cond: Prediction under the condition, `(b, ...)`.
        null: Prediction under the null condition, same shape.
        scale: `s`; 1 returns `cond`.
        alpha: How fast guidance fades with the ratio; 0 is plain CFG.

    Returns:
        The guided prediction, in the shape and dtype of `cond`.

    Raises:
        ShapeError, ConfigError: As for `guidance.cfg`; predictions are real and have a dimension beside the batch.

    RAAG, arXiv 2508.03442, published as MAMBO-G (Magnitude-Aware Mitigation for Boosted Guidance), and so `guidance.mambo_g` and
    `guidance.MAMBOG` are the same. It is stated for velocities. Oracle: `MagnitudeAwareGuidance` of diffusers.

    >>> import torch
    >>> raag(torch.tensor([[1., 1.]]), torch.tensor([[1., 0.]]), 3., alpha=0.)
    tensor([[1., 3.]])
    """
    check_number('raag', 'alpha', alpha, 0)
    check_alike('raag', {'cond': cond, 'null': null})
    c, u = widened(cond), widened(null)
    # A null prediction of zero is infinitely disagreed with, so guidance is off; exp(-large) says so without a branch.
    disagreement = norm(c - u) / norm(u).clamp_min(torch.finfo(c.dtype).tiny ** 0.5)  # (b, 1, ...)
    strength = (aligned(scale, c) - 1) * torch.exp(-alpha * disagreement)
    return torch.lerp(u, c, 1 + strength).to(cond.dtype)


@dataclass(frozen=True)
class RAAG(Rule):
    """Ratio-aware guidance, CFG that fades with `|d|/|u|`: see `guidance.raag`, also for `alpha`. Two passes."""

    alpha: float = 8.0
    paper_space: ClassVar[str | None] = 'flow'

    def __post_init__(self) -> None:
        check_number('RAAG', 'alpha', self.alpha, 0)

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        return raag(*given.pair(), scale, self.alpha)


MAMBOG, mambo_g = RAAG, raag  # the name of the published paper
