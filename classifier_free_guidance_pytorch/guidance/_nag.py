"""Normalized attention guidance: guide the outputs of cross-attention, in one pass of the model (arXiv 2505.21179)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.guidance.checks import Scale, aligned, check_alike, check_number
from classifier_free_guidance_pytorch.guidance.combine import Rule
from classifier_free_guidance_pytorch.guidance.reductions import norm, widened
from classifier_free_guidance_pytorch.guidance.step import Predictions, Step


def nag(positive: Tensor, negative: Tensor, scale: Scale = 5.0, tau: float = 2.5, alpha: float = 0.25) -> Tensor:
    """Guide attention features: `g = n + s * (p - n)`, at most `tau` times as long as `p`, then `p + alpha * (g - p)`.

    Lengths are L1 norms of single feature vectors, along the last dimension.

    Args:
        positive: Output of cross-attention on the text, `(b, ..., d)`, before the output projection.
        negative: Output of the same queries on the negative or null text, same shape.
        scale: `s`; 1 returns `positive` (as long as `tau` is at least 1).
        tau: How much longer than `positive` a guided vector may be.
        alpha: How much of the guided vector is mixed in.

    Returns:
        The guided features, in the shape and dtype of `positive`.

    Raises:
        ShapeError, ConfigError: As for `guidance.apg`.

    Normalized Attention Guidance, arXiv 2505.21179; the defaults are those of its FLUX experiments. Oracle: a loop in float64.

    >>> import torch
    >>> nag(torch.tensor([[1., 1.]]), torch.tensor([[1., 0.]]), scale=3., alpha=1.)
    tensor([[1., 3.]])
    """
    check_number('nag', 'tau', tau, 0)
    check_number('nag', 'alpha', alpha)
    check_alike('nag', {'positive': positive, 'negative': negative})
    p = widened(positive)
    guided = torch.lerp(widened(negative), p, aligned(scale, p))
    allowed = tau * norm(p, -1, order=1)  # (b, ..., 1)
    length = norm(guided, -1, order=1)
    # min(length, allowed) / length, which is 1 for vectors of length zero
    shrink = torch.where(length > allowed, allowed / torch.where(length > allowed, length, 1.0), 1.0)
    return torch.lerp(p, guided * shrink, alpha).to(positive.dtype)


@dataclass(frozen=True)
class NAG(Rule):
    """Normalized attention guidance, inside cross-attention: see `guidance.nag`, also for `tau` and `alpha`.

    One pass of the model. Its `cond` and `null` are the outputs of a cross-attention layer on the text and on the negative
    or null text.
    """

    tau: float = 2.5
    alpha: float = 0.25
    inside_attention: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number('NAG', 'tau', self.tau, 1)
        check_number('NAG', 'alpha', self.alpha, 0, 1)

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        return nag(*given.pair(), scale, self.tau, self.alpha)
