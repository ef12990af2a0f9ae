"""Normalized attention guidance: guide the output of cross-attention, and so need only one pass of the model."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import Scale, aligned, check_alike
from .reductions import norm, widened


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

    Normalized Attention Guidance, arXiv 2505.21179; the defaults are those of its FLUX experiments.

    >>> import torch
    >>> nag(torch.tensor([[1., 1.]]), torch.tensor([[1., 0.]]), scale=3., alpha=1.)
    tensor([[1., 3.]])
    """
    check_alike('nag', (('positive', positive), ('negative', negative)))
    p = widened(positive)
    guided = torch.lerp(widened(negative), p, aligned(scale, p))
    allowed = tau * norm(p, -1, order=1)
    length = norm(guided, -1, order=1)
    # min(length, allowed) / length, which is 1 for vectors of length zero
    shrink = torch.where(length > allowed, allowed / torch.where(length > allowed, length, 1.0), 1.0)
    return torch.lerp(p, guided * shrink, alpha).to(positive.dtype)
