"""Adaptive projected guidance (arXiv 2410.02416)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.guidance.checks import Scale, aligned, check_alike, check_dim, check_number, check_shape
from classifier_free_guidance_pytorch.guidance.combine import Rule
from classifier_free_guidance_pytorch.guidance.reductions import Dims, count, dot, ratio, squared_norm, widened
from classifier_free_guidance_pytorch.guidance.reductions import norm as norm_of
from classifier_free_guidance_pytorch.guidance.scales import guided_samples
from classifier_free_guidance_pytorch.guidance.step import Predictions, State, Step


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
        eta: Share of the part of `d` parallel to `c` that stays; 1 is plain CFG, 0 drops what saturates.
        norm: `r`, the longest `d` allowed; None leaves its length alone.
        rms: Measure `d` by its root mean square, so that `r` does not depend on the resolution.
        dim: Dimensions of a vector: all but the batch by default.
        delta: A direction to use instead of `c - u`, such as one with momentum.

    Returns:
        The guided prediction, in the shape and dtype of `cond`.

    Raises:
        ShapeError, ConfigError: As for `guidance.cfg`; predictions are real and have a dimension beside the batch.

    Adaptive Projected Guidance, arXiv 2410.02416, algorithm 1. Oracle: `normalized_guidance` of diffusers with
    `use_original_formulation=True` and the scale `s - 1`.

    >>> import torch
    >>> apg(torch.tensor([[2., 0.]]), torch.tensor([[0., -1.]]), 3.)
    tensor([[2., 2.]])
    """
    check_number('apg', 'eta', eta)
    check_number('apg', 'norm', 0 if norm is None else norm, 0)
    check_alike('apg', {'cond': cond, 'null': null})
    c = widened(cond)
    d = c - widened(null) if delta is None else widened(delta)
    check_shape('apg', 'delta', d, 'cond', c)
    strength = aligned(scale, c) - 1
    if norm is not None:
        length = norm_of(d, dim)  # (b, 1, ...)
        if rms:
            length = length / math.sqrt(count(d, dim))
        strength = strength * (norm / length.clamp_min(norm))
    if eta == 1:
        return (c + strength * d).to(cond.dtype)
    along = (1 - eta) * ratio(dot(d, c, dim), squared_norm(c, dim))  # (b, 1, ...)
    # one linear combination of c and d with a coefficient per sample: a few passes over memory
    shortened = c * (1 - strength * along)
    guided = torch.addcmul(shortened, d, strength) if isinstance(strength, Tensor) else shortened.add(d, alpha=strength)
    return guided.to(cond.dtype)


@dataclass(eq=False)
class MomentumState(State):
    """The running average of APG's momentum, `(b, ...)`; None before the first guided step."""

    average: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True)
class APG(Rule):
    """Adaptive projected guidance, `c + (s-1) * (d_across + eta * d_along)`: see `guidance.apg`. Two passes.

    Args:
        eta: As in `guidance.apg`, like `norm`, `rms` and `dim`.
        momentum: `beta` of the running average `d <- d + beta * average`; the paper uses negative values. Needs a state. A
            sample at scale 1 leaves its average as it is, whether or not the null pass was made.

    >>> rule = APG(eta=0., norm=15., momentum=-0.5)
    >>> state = rule.init_state()       # hand it in at every step: rule(cond, null, scale, state=state)
    """

    eta: float = 0.0
    norm: float | None = None
    momentum: float = 0.0
    rms: bool = False
    dim: Dims = None
    paper_space: ClassVar[str | None] = 'x0'

    def __post_init__(self) -> None:
        check_number('APG', 'eta', self.eta)
        check_number('APG', 'momentum', self.momentum, -1, 1)
        check_dim('APG', self.dim)
        if not isinstance(self.rms, bool):
            raise ConfigError(f'APG: rms is True or False, got {self.rms!r}')
        if self.norm is not None:
            check_number('APG', 'norm', self.norm, 0)
            if self.norm == 0:
                raise ConfigError('APG: norm is 0, which removes all guidance; give a positive length, or None for no limit')

    @property
    def remembers(self) -> bool:
        return self.momentum != 0

    def init_state(self, like: Tensor | None = None) -> State | None:
        if not self.remembers:
            return None
        return MomentumState(self, average=None if like is None else torch.zeros_like(widened(like)))

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        cond, null = given.pair()
        state, delta = step.state, None
        if isinstance(state, MomentumState):
            average = state.average
            state.check_held('an average', average, tuple(cond.shape), cond)
            delta = widened(cond) - widened(null)  # the average stays float32, whatever autocast makes of the predictions
            delta = delta if average is None else delta + self.momentum * average
            guided = guided_samples(scale, cond)
            if isinstance(guided, Tensor):
                kept = torch.zeros_like(delta) if average is None else average
                state.average = torch.where(guided, delta, kept).detach()
            elif guided:
                state.average = delta.detach()
        return apg(cond, null, scale, self.eta, self.norm, rms=self.rms, dim=self.dim, delta=delta)
