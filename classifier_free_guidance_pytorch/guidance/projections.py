"""Rules that measure angles and lengths: APG, CFG-Zero*, TCFG, RAAG and Perp-Neg.

Each ends as one linear combination of the predictions with a coefficient per sample, so the cost is a few passes over memory.
Coefficients are float32 (or the dtype of the predictions where that is wider); results have the dtype of `cond`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError

from .checks import Scale, aligned, check_alike
from .reductions import Dims, count, dot, ratio, squared_norm, widened
from .reductions import norm as norm_of


def apg(
    cond: Tensor,
    null: Tensor,
    scale: Scale,
    eta: float = 0.0,
    norm: float | None = None,
    *,
    rms: bool = False,
    dim: Dims = None,
    delta: Tensor | None = None,
) -> Tensor:
    """Guide across the conditional prediction, not along it: `c + (s-1) * (d_across + eta * d_along)`.

    `d = c - u` is first shortened to `d * min(1, r / |d|)`, then split along and across `c`.

    Args:
        cond: Prediction under the condition, `(b, ...)`. The paper works on predictions of the clean sample.
        null: Prediction under the null condition, same shape.
        scale: `s`; 1 returns `cond`.
        eta: Share of the parallel part that stays; 1 is plain CFG, 0 drops what saturates.
        norm: `r`, the longest `d` allowed; None leaves its length alone.
        rms: Measure `d` by its root mean square, so that `r` does not depend on the resolution.
        dim: Dimensions of a vector: all but the batch by default.
        delta: A direction to use in place of `c - u`, such as one with momentum.

    Returns:
        The guided prediction, in the shape and dtype of `cond`.

    Adaptive Projected Guidance, arXiv 2410.02416, algorithm 1.

    >>> import torch
    >>> apg(torch.tensor([[2., 0.]]), torch.tensor([[0., -1.]]), 3.)
    tensor([[2., 2.]])
    """
    check_alike('apg', (('cond', cond), ('null', null)))
    strength = aligned(scale, widened(cond)) - 1
    c = widened(cond)
    d = c - widened(null) if delta is None else widened(delta)
    if norm is not None:
        length = norm_of(d, dim)
        if rms:
            length = length / math.sqrt(count(d, dim))
        strength = strength * (norm / length.clamp_min(norm))
    if eta == 1:
        return (c + strength * d).to(cond.dtype)
    along = (1 - eta) * ratio(dot(d, c, dim), squared_norm(c, dim))
    return torch.addcmul(c * (1 - strength * along), d, _tensor(strength, c)).to(cond.dtype)


def cfg_zero_star(cond: Tensor, null: Tensor, scale: Scale) -> Tensor:
    """Guide from the null prediction at its best length: `a*u + s * (c - a*u)` with `a = <c, u> / |u|^2`.

    Args:
        cond: Prediction under the condition, `(b, ...)`; a velocity in the paper.
        null: Prediction under the null condition, same shape.
        scale: `s`; 1 returns `cond`.

    Returns:
        The guided prediction, in the shape and dtype of `cond`.

    CFG-Zero*, arXiv 2503.18886. Its zero-init is `guidance.CFGZeroStar(zero_init=...)`.

    >>> import torch
    >>> cfg_zero_star(torch.tensor([[2., 1.]]), torch.tensor([[1., 0.]]), 3.)
    tensor([[2., 3.]])
    """
    check_alike('cfg_zero_star', (('cond', cond), ('null', null)))
    c, u = widened(cond), widened(null)
    best = ratio(dot(c, u), squared_norm(u))
    return torch.lerp(u * best, c, aligned(scale, c)).to(cond.dtype)


def tcfg(cond: Tensor, null: Tensor, scale: Scale) -> Tensor:
    """Guide from the part of the null prediction that it shares with `c`: `u' + s * (c - u')`.

    `u'` is the projection of `u` on the first right singular vector of `[c; u]`. With the Gram matrix of `c` and `u` and the
    angle `t` for which `tan(2t) = 2<c,u> / (|c|^2 - |u|^2)` it is `u' = sin(t) * (cos(t)*c + sin(t)*u)`: no SVD.

    Args:
        cond: Prediction under the condition, `(b, ...)`.
        null: Prediction under the null condition, same shape.
        scale: `s`; 1 returns `cond`.

    Returns:
        The guided prediction, in the shape and dtype of `cond`.

    Tangential Damping Classifier-free Guidance, arXiv 2503.18137.

    >>> import torch
    >>> tcfg(torch.tensor([[2., 0.]]), torch.tensor([[0., 1.]]), 3.)    # nothing is shared, so u' = 0
    tensor([[6., 0.]])
    """
    check_alike('tcfg', (('cond', cond), ('null', null)))
    c, u = widened(cond), widened(null)
    difference = squared_norm(c) - squared_norm(u)
    overlap = 2 * dot(c, u)
    # Where both vanish every direction is as good: u' = u. `safe` keeps the gradient of the square root finite there.
    undecided = (difference == 0) & (overlap == 0)
    size = torch.maximum(difference.abs(), overlap.abs())
    safe = torch.where(undecided, torch.ones_like(size), size)
    x, y = difference / safe, overlap / safe  # scaled, so that squares neither over- nor underflow
    radius = torch.where(undecided, torch.ones_like(x), x * x + y * y).sqrt()
    cosine, sine = x / radius, y / radius  # of 2t
    squared = torch.where(undecided, torch.ones_like(cosine), (1 - cosine) / 2)  # sin(t)^2
    s = aligned(scale, c)
    return torch.addcmul(c * (s + (1 - s) * (sine / 2)), u, (1 - s) * squared).to(cond.dtype)


def raag(cond: Tensor, null: Tensor, scale: Scale, alpha: float = 8.0) -> Tensor:
    """Guide less where the predictions disagree much: CFG at `s' = 1 + (s-1) * exp(-alpha * |d| / |u|)`.

    Args:
        cond: Prediction under the condition, `(b, ...)`.
        null: Prediction under the null condition, same shape.
        scale: `s`; 1 returns `cond`.
        alpha: How fast guidance fades with the ratio; 0 is plain CFG.

    Returns:
        The guided prediction, in the shape and dtype of `cond`.

    RAAG, arXiv 2508.03442; the same rule is known as MAMBO-G.

    >>> import torch
    >>> raag(torch.tensor([[1., 1.]]), torch.tensor([[1., 0.]]), 3., alpha=0.)
    tensor([[1., 3.]])
    """
    check_alike('raag', (('cond', cond), ('null', null)))
    c, u = widened(cond), widened(null)
    # A null prediction of zero is infinitely disagreed with, so guidance is off; exp(-large) says so without a branch.
    disagreement = norm_of(c - u) / norm_of(u).clamp_min(torch.finfo(c.dtype).tiny ** 0.5)
    strength = (aligned(scale, c) - 1) * torch.exp(-alpha * disagreement)
    return torch.lerp(u, c, 1 + strength).to(cond.dtype)


def perp_neg(
    cond: Tensor, null: Tensor, negatives: Sequence[Tensor], scale: Scale, weights: float | Sequence[float] = 1.0
) -> Tensor:
    """Guide away from negatives without harming the positive: `u + s * (p - sum_j w_j * across(n_j - u, p))`, `p = c - u`.

    Args:
        cond: Prediction under the condition, `(b, ...)`.
        null: Prediction under the null condition, same shape.
        negatives: Predictions `n_j` under negative texts; only the part of `n_j - u` perpendicular to `p` counts.
        scale: `s`; 0 returns `null`.
        weights: `w_j`, one per negative or one for all.

    Returns:
        The guided prediction, in the shape and dtype of `cond`.

    Raises:
        ConfigError: No negatives, or not as many weights as negatives.

    Perp-Neg, arXiv 2304.04968, with the sign of the weights turned so that a positive weight repels.

    >>> import torch
    >>> perp_neg(torch.tensor([[1., 0.]]), torch.zeros(1, 2), (torch.tensor([[5., 1.]]),), 2.)
    tensor([[ 2., -2.]])
    """
    if len(negatives) == 0:
        raise ConfigError('perp_neg: expected at least one negative prediction, got none')
    every = tuple(weights) if isinstance(weights, Sequence) else (weights,) * len(negatives)
    if len(every) != len(negatives):
        raise ConfigError(f'perp_neg: got {len(every)} weights for {len(negatives)} negatives; give one each, or a single number')
    check_alike('perp_neg', (('cond', cond), ('null', null), *((f'negatives[{j}]', n) for j, n in enumerate(negatives))))
    u = widened(null)
    positive = widened(cond) - u
    direction, length = positive, squared_norm(positive)
    for negative, weight in zip(negatives, every, strict=True):
        away = widened(negative) - u
        direction = direction - weight * (away - ratio(dot(away, positive), length) * positive)
    return (u + aligned(scale, u) * direction).to(cond.dtype)


def _tensor(value: Scale, like: Tensor) -> Tensor:
    """Bring a coefficient that may still be a number into the form that `addcmul` takes."""
    return value if isinstance(value, Tensor) else like.new_tensor(value)
