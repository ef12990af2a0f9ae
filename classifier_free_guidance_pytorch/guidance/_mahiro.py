"""Mahiro: guidance by the direction of the condition, where the negative resembles the result (ComfyUI)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.guidance.checks import Scale, aligned, check_alike
from classifier_free_guidance_pytorch.guidance.combine import Rule
from classifier_free_guidance_pytorch.guidance.reductions import dot, norm, ratio, widened
from classifier_free_guidance_pytorch.guidance.step import Predictions, Step


def mahiro(cond: Tensor, null: Tensor, scale: Scale) -> Tensor:
    """Blend CFG with `s*c`, the longer condition: `(m*g + (4-m)*s*c) / 4` with `g = u + s*d`, `m = 2 * (cosine + 1)`.

    The cosine is that of the signed square roots of `s*u` and of `(s*c + g) / 2`.

    Args:
        cond: Prediction under the condition, `(b, ...)`; of the clean sample in ComfyUI.
        null: Prediction under the null condition, same shape.
        scale: `s`; 1 returns `cond`.

    Returns:
        The guided prediction, in the shape and dtype of `cond`.

    Raises:
        ShapeError, ConfigError: As for `guidance.apg`.

    `comfy_extras/nodes_mahiro.py` of ComfyUI, which takes one cosine for all samples and channels, the mean over places of that
    along the channels; here it is one per sample, over everything. Oracle: the formula in float64.

    >>> import torch
    >>> mahiro(torch.tensor([[4., 0.]]), torch.tensor([[4., 0.]]), 3.)      # nothing to guide by: plain CFG
    tensor([[4., 0.]])
    """
    check_alike('mahiro', {'cond': cond, 'null': null})
    c, u = widened(cond), widened(null)
    s = aligned(scale, c)
    guided, leap = torch.lerp(u, c, s), s * c

    def root(x: Tensor) -> Tensor:
        return x.sign() * torch.where(x == 0, 1.0, x.abs()).sqrt()  # its gradient at zero is zero

    own, merged = root(s * u), root((leap + guided) / 2)
    share = (ratio(dot(own, merged), norm(own) * norm(merged), otherwise=1.0) + 1) / 2  # (b, 1, ...)
    return torch.lerp(leap, guided, share).to(cond.dtype)


@dataclass(frozen=True)
class Mahiro(Rule):
    """Guidance by the direction of the condition, where the negative resembles the result: see `guidance.mahiro`. Two passes."""

    paper_space: ClassVar[str | None] = 'x0'

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        return mahiro(*given.pair(), scale)
