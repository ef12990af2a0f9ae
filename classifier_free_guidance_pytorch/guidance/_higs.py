"""History-guided sampling (HiGS, arXiv 2509.22300, ICLR 2026)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError
from classifier_free_guidance_pytorch.guidance.checks import Scale, check_alike, check_number, check_shape, inside
from classifier_free_guidance_pytorch.guidance.combine import Wrapper
from classifier_free_guidance_pytorch.guidance.reductions import dot, ratio, squared_norm, widened
from classifier_free_guidance_pytorch.guidance.rule import BaseRule
from classifier_free_guidance_pytorch.guidance.step import Predictions, State, Step


def higs(guided: Tensor, history: Tensor, weight: float, eta: float = 0.0, cutoff: float = 0.05) -> Tensor:
    """Guide away from a running average of past predictions: `g + w * highpass(e)`, `e = g - a` less its part along `g`.

    Args:
        guided: Guided prediction `g`, `(b, ...)`; of the clean sample in the paper.
        history: The running average `a` of those before, same shape.
        weight: `w` of this step.
        eta: Share of the part of `g - a` along `g` that stays.
        cutoff: The frequency below which nothing is added, a share of the spectrum of images `(b, ..., h, w)`; 0 adds everything.

    Returns:
        The prediction, in the shape and dtype of `guided`.

    Raises:
        ConfigError: A parameter that is no number.
        ShapeError: The two differ in shape.

    HiGS, arXiv 2509.22300, algorithms 2 and 3; the filter is `sigmoid(50 * (R - cutoff))` on an orthonormal cosine transform,
    `R^2 = (i/h)^2 + (j/w)^2`. Oracle: scipy's transform, and the formula in float64.

    >>> import torch
    >>> higs(torch.tensor([[1., 0.]]), torch.tensor([[1., 1.]]), weight=2., cutoff=0.)
    tensor([[ 1., -2.]])
    """
    check_number('higs', 'weight', weight)
    check_number('higs', 'eta', eta)
    check_number('higs', 'cutoff', cutoff, 0, 1)
    check_alike('higs', {'guided': guided})
    check_shape('higs', 'history', history, 'guided', guided)
    g = widened(guided)
    e = g - widened(history)
    e = e - (1 - eta) * ratio(dot(e, g), squared_norm(g)) * g
    if cutoff > 0 and g.ndim >= 3:
        e = _highpass(e, cutoff)
    return (g + weight * e).to(guided.dtype)


def _cosines(size: int, like: Tensor) -> Tensor:
    """Return the orthonormal cosine transform of this size, `(size, size)`, whose inverse is its transpose."""
    at = torch.arange(size, device=like.device, dtype=like.dtype)
    waves = torch.cos(math.pi / size * (at + 0.5) * at[:, None]) * math.sqrt(2 / size)
    return torch.cat((waves[:1] / math.sqrt(2), waves[1:]))


def _highpass(x: Tensor, cutoff: float) -> Tensor:
    """Return what an image has of frequencies above a cutoff."""
    height, width = x.shape[-2:]
    rows, columns = _cosines(height, x), _cosines(width, x)
    radius = torch.hypot(
        torch.arange(height, device=x.device, dtype=x.dtype)[:, None] / height,
        torch.arange(width, device=x.device, dtype=x.dtype) / width,
    )
    return rows.mT @ ((rows @ x @ columns.mT) * torch.sigmoid(50 * (radius - cutoff))) @ columns  # (..., h, w)


@dataclass(eq=False)
class HistoryState(State):
    """The running average of guided predictions, `(b, ...)`; None before the first step."""

    average: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True)
class HiGS(Wrapper):
    """History-guided sampling around a rule: see `guidance.higs`, also for `eta` and `cutoff`. No pass more, and a state.

    At noise levels in `(low, high]`, seen from `progress` as `1 - progress`, the weight is
    `weight * sqrt((level - low) / (high - low))`; elsewhere nothing is added. It acts at any scale, also at 1.

    Args:
        rule: The rule whose predictions are sharpened.
        weight: `w` at the highest level.
        share: How much of the newest prediction enters the average, `a <- share * g + (1 - share) * a`, from 0.
        low: The level below which nothing is added.
        high: The level above which nothing is added.

    >>> from classifier_free_guidance_pytorch import guidance
    >>> state = HiGS(guidance.CFG()).init_state()   # hand it in at every step, with progress=
    """

    weight: float = 1.75
    eta: float = 0.0
    share: float = 0.75
    cutoff: float = 0.05
    low: float = 0.4
    high: float = 1.0
    paper_space: ClassVar[str | None] = 'x0'

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number('HiGS', 'weight', self.weight)
        check_number('HiGS', 'eta', self.eta)
        check_number('HiGS', 'share', self.share, 0, 1)
        check_number('HiGS', 'cutoff', self.cutoff, 0, 1)
        check_number('HiGS', 'low', self.low, 0, 1)
        check_number('HiGS', 'high', self.high, 0, 1)
        if not self.low < self.high:
            raise ConfigError(f'HiGS: low={self.low} and high={self.high} leave no noise level; give low < high')

    @property
    def anchored(self) -> bool:
        return False

    @property
    def remembers(self) -> bool:
        return True

    def check_state(self, state: State | None) -> None:
        BaseRule.check_state(self, state)

    def null_rows(self, scale: Scale, state: State | None = None) -> Tensor | None:
        return self.rule.null_rows(scale, None if state is None else state.parts[0])

    def wanted(self, scale: Scale, step: Step) -> tuple[str, ...]:
        return self.rule.wanted(scale, step.but(state=None if step.state is None else step.state.parts[0]))

    def init_state(self, like: Tensor | None = None) -> State | None:
        return HistoryState(self, (self.rule.init_state(like),), None if like is None else torch.zeros_like(widened(like)))

    def guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        state, progress = step.state, step.progress
        assert isinstance(state, HistoryState)
        if progress is None:
            raise UsageError(f'{self!r} needs progress=, from 0 (pure noise) to 1, to know how strongly to act')
        if isinstance(progress, Tensor) and progress.numel() != 1:
            raise ShapeError(f'{self!r} takes one progress for all samples, got a tensor of shape {tuple(progress.shape)}')
        level = 1 - float(inside('progress', progress, 0, 1, 'HiGS'))
        guided = self.rule.guide(given, scale, step.but(state=state.parts[0]))
        average = state.average
        state.check_held('an average', average, tuple(guided.shape), guided)
        before = torch.zeros_like(widened(guided)) if average is None else average
        state.average = (self.share * widened(guided) + (1 - self.share) * before).detach()
        # the first prediction has nothing before it; an average that was laid out is zero until then
        if average is None or not self.low < level <= self.high:
            return guided
        weight = self.weight * math.sqrt((level - self.low) / (self.high - self.low))
        sharpened = higs(guided, average, weight, self.eta, self.cutoff)
        begun = (average != 0).flatten(1).any(1).view(-1, *[1] * (guided.ndim - 1))  # (b, 1, ...)
        return torch.where(begun, sharpened, guided)
