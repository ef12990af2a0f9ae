"""Classifier-free guidance (arXiv 2207.12598)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.guidance.checks import Scale, aligned, check_alike
from classifier_free_guidance_pytorch.guidance.combine import Rule
from classifier_free_guidance_pytorch.guidance.step import Predictions, Step


def cfg(cond: Tensor, null: Tensor, scale: Scale) -> Tensor:
    """Guide by the line from the null to the conditional prediction: `u + s * (c - u)`, a single `torch.lerp`.

    Args:
        cond: Prediction under the condition, `(b, ...)`; `(b,)` and complex predictions work as well.
        null: Prediction under the null condition or a negative prompt, same shape.
        scale: `s`: 1 returns `cond`, 0 returns `null`. A number, `(b,)`, or anything that broadcasts; a tensor is used in
            the dtype of the predictions.

    Returns:
        The guided prediction, in the shape and dtype of `cond`.

    Raises:
        ShapeError: The predictions differ in shape, or the scale does not broadcast.
        ConfigError: They differ in dtype or device, or the scale is none.

    Classifier-Free Diffusion Guidance, arXiv 2207.12598, whose `w` is `s - 1`. Oracle: `ClassifierFreeGuidance` of diffusers.

    >>> import torch
    >>> cfg(torch.tensor([[1., 2.]]), torch.tensor([[0., 1.]]), 3.)
    tensor([[3., 4.]])
    """
    check_alike('cfg', {'cond': cond, 'null': null}, linear=True)
    return torch.lerp(null, cond, aligned(scale, cond))


@dataclass(frozen=True)
class CFG(Rule):
    """Classifier-free guidance, `u + s * (c - u)`: see `guidance.cfg`. Two passes."""

    null_at_zero: ClassVar[bool] = True

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        assert given.cond is not None
        assert given.null is not None
        return cfg(given.cond, given.null, scale)
