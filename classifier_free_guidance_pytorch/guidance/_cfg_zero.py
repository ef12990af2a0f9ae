"""CFG-Zero* (arXiv 2503.18886)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import UsageError
from classifier_free_guidance_pytorch.guidance.checks import (
    Scale,
    aligned,
    check_alike,
    check_fits,
    check_number,
    inside,
    per_sample,
)
from classifier_free_guidance_pytorch.guidance.combine import Rule
from classifier_free_guidance_pytorch.guidance.reductions import dot, ratio, squared_norm, widened
from classifier_free_guidance_pytorch.guidance.step import Predictions, Step
from classifier_free_guidance_pytorch.rows import is_readable, moved


def cfg_zero_star(cond: Tensor, null: Tensor, scale: Scale) -> Tensor:
    """Guide from the null prediction at its best length: `a*u + s * (c - a*u)` with `a = <c, u> / |u|^2`.

    Args:
        cond: Prediction under the condition, `(b, ...)`; a velocity in the paper.
        null: Prediction under the null condition, same shape.
        scale: `s`; 1 returns `cond`.

    Returns:
        The guided prediction, in the shape and dtype of `cond`.

    Raises:
        ShapeError, ConfigError: As for `guidance.cfg`; predictions are real and have a dimension beside the batch.

    CFG-Zero*, arXiv 2503.18886. Oracle: `ClassifierFreeZeroStarGuidance` of diffusers.

    >>> import torch
    >>> cfg_zero_star(torch.tensor([[2., 1.]]), torch.tensor([[1., 0.]]), 3.)
    tensor([[2., 3.]])
    """
    check_alike('cfg_zero_star', {'cond': cond, 'null': null})
    c, u = widened(cond), widened(null)
    best = ratio(dot(c, u), squared_norm(u))  # (b, 1, ...)
    return torch.lerp(u * best, c, aligned(scale, c)).to(cond.dtype)


@dataclass(frozen=True)
class CFGZeroStar(Rule):
    """CFG-Zero*: see `guidance.cfg_zero_star`. Two passes, and none at its zero steps.

    Args:
        zero_init: Fraction of the way, from pure noise, on which the velocity is zero and no pass is made; the call then takes
            `progress`, a number or one for each sample. The paper uses 0.04. Only for models that predict a velocity (`'flow'`),
            or `.in_space('flow', model=...)`. A decorated model makes one pass there, to learn what its output looks like.

    >>> CFGZeroStar(zero_init=0.04).branches(4., progress=0.), CFGZeroStar(zero_init=0.04).branches(4., progress=0.5)
    ((), ('cond', 'null'))
    """

    zero_init: float = 0.0
    paper_space: ClassVar[str | None] = 'flow'

    def __post_init__(self) -> None:
        check_number('CFGZeroStar', 'zero_init', self.zero_init, 0, 1)

    @property
    def zero_space(self) -> str | None:
        return 'flow' if self.zero_init > 0 else None

    def wanted(self, scale: Scale, step: Step) -> tuple[str, ...]:
        if self.zero_init > 0:
            if step.progress is None:
                raise UsageError(
                    f'{self!r} needs progress=, from 0 (pure noise) to 1, to know whether this step is still a zero step'
                )
            if self._is_silent(inside('progress', step.progress, 0.0, 1.0, 'CFGZeroStar') < self.zero_init):
                return ()
        return super().wanted(scale, step)

    @staticmethod
    def _is_silent(before: Tensor | bool) -> bool:
        """Return whether no sample is past its zero steps; of several on an accelerator some may be, since none is read."""
        if isinstance(before, Tensor) and before.numel() != 1:
            return is_readable(before) and bool(before.all())
        return bool(before)

    def silent(self, step: Step, like: Tensor) -> Tensor | None:
        progress = step.progress
        if self.zero_init == 0 or not isinstance(progress, Tensor) or progress.numel() == 1:
            return None
        check_fits(progress, like, 'progress')
        before = moved(progress < self.zero_init, like.device)
        return before.reshape(per_sample(like)) if before.ndim == 1 else before

    def guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        guided, silent = super().guide(given, scale, step), self.silent(step, given.first())
        return guided if silent is None else guided.masked_fill(silent, 0.0)

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        return cfg_zero_star(*given.pair(), scale)
