"""Guidance of categorical distributions: language models and discrete diffusion."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import Scale, aligned, check_alike


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
        Guided scores, in the shape and dtype of `cond`.

    Stay on topic with Classifier-Free Guidance, arXiv 2306.17806.

    >>> import torch
    >>> c, u = torch.tensor([[1., 0.]]), torch.tensor([[0., 0.]])
    >>> logits(c, u, 2.).softmax(-1).allclose(torch.tensor([[2., 0.]]).softmax(-1))
    True
    """
    check_alike('logits', (('cond', cond), ('null', null)))
    log_cond = torch.log_softmax(cond, dim)
    log_null = torch.log_softmax(null, dim)
    # -inf - -inf is NaN, and so is its gradient: forbidden entries are replaced before the line is taken, not after.
    log_null = torch.where(torch.isneginf(log_null), log_cond, log_null)
    forbidden = torch.isneginf(log_cond)
    zero = torch.zeros_like(log_cond)
    guided = torch.lerp(torch.where(forbidden, zero, log_null), torch.where(forbidden, zero, log_cond), aligned(scale, cond))
    return guided.masked_fill(forbidden, float('-inf'))


def discrete(cond: Tensor, null: Tensor, scale: Scale, dim: int = -1) -> Tensor:
    """Guide the categorical distributions of discrete diffusion: `softmax(s * log p_c + (1-s) * log p_u)`.

    Args:
        cond: Logits or log-probabilities under the condition, `(b, ..., classes)`.
        null: The same under the null condition.
        scale: `s`; 1 returns `softmax(c)`.
        dim: The dimension of the classes.

    Returns:
        Probabilities, in the shape and dtype of `cond`.

    Simple Guidance Mechanisms for Discrete Diffusion Models, arXiv 2412.10193.

    >>> import torch
    >>> c = torch.tensor([[.8, .2]]).log()
    >>> discrete(c, torch.tensor([[.5, .5]]).log(), 2.)    # .8^2 : .2^2
    tensor([[0.9412, 0.0588]])
    """
    return torch.softmax(logits(cond, null, scale, dim), dim)
