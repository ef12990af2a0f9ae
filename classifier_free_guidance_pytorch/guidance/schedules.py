"""Scales over time: frozen callables of progress (0 = pure noise, 1 = clean) or of the noise level sigma.

    scale = guidance.interval(7.5, sigma=(0.28, 5.42))
    for sigma in sigmas:
        guided = rule(cond, null, scale(sigma=sigma))

A schedule called with numbers returns a number, and with tensors a tensor of the same shape. Where it says that guidance is
off, the scale is exactly 1.0, and so the null pass is skipped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError, UsageError
from classifier_free_guidance_pytorch.guidance.checks import Scale, check_number


@dataclass(frozen=True)
class Schedule:
    """A guidance scale that changes while sampling; made by the functions of this module."""

    def __call__(self, progress: Scale | None = None, *, sigma: Scale | None = None, next_sigma: Scale | None = None) -> Scale:
        """Return the scale at this step.

        Args:
            progress: From 0 (pure noise) to 1, a number or a tensor.
            sigma: The noise level of this step.
            next_sigma: The noise level of the next step.

        Returns:
            The scale, a number for numbers and a tensor for tensors.

        Raises:
            UsageError: What this schedule is a function of was not given.
        """
        raise NotImplementedError

    def saved(self, progress: Sequence[float] = (), *, sigma: Sequence[float] = ()) -> int:
        """Count the steps at which the scale is exactly 1: the null passes that a rule anchored on `cond` does not make.

        Args:
            progress: The progress of every step, for schedules of progress.
            sigma: The noise level of every step, for schedules of sigma.

        Returns:
            The number of steps.

        Raises:
            UsageError: Neither was given.

        >>> interval(7.5, sigma=(0.28, 5.42)).saved(sigma=(10., 5., 1., 0.2))
        2
        """
        if len(progress) == 0 and len(sigma) == 0:
            raise UsageError(f'to count the passes that {self!r} saves, give the progress= or the sigma= of every step')
        if len(sigma) == 0:
            return sum(bool(self(p) == 1) for p in progress)
        return sum(bool(self(sigma=now, next_sigma=then) == 1) for now, then in zip(sigma, (*sigma[1:], 0.0), strict=True))

    def _given(self, name: str, value: Scale | None) -> Scale:
        """Return the argument that this schedule is a function of."""
        if value is None:
            raise UsageError(f'{self!r} is a function of {name}; call it with {name}=')
        return value


@dataclass(frozen=True)
class Constant(Schedule):
    """The same scale at every step.

    >>> constant(7.5)(0.3)
    7.5
    """

    scale: float

    def __post_init__(self) -> None:
        check_number('constant', 'scale', self.scale)

    def __call__(self, progress: Scale | None = None, *, sigma: Scale | None = None, next_sigma: Scale | None = None) -> Scale:
        return self.scale


@dataclass(frozen=True)
class Ramp(Schedule):
    """From `start` to `stop` along a curve: a straight line, or a cosine of `progress ** power`; never below `floor`."""

    start: float
    stop: float
    curve: str = 'linear'
    power: float = 1.0
    floor: float | None = None

    def __post_init__(self) -> None:
        check_number(self.curve, 'start', self.start)
        check_number(self.curve, 'stop', self.stop)
        check_number(self.curve, 'power', self.power, 0)
        if self.floor is not None:
            check_number('clamp_linear', 'floor', self.floor)

    def __call__(self, progress: Scale | None = None, *, sigma: Scale | None = None, next_sigma: Scale | None = None) -> Scale:
        p = self._given('progress', progress)
        if self.curve == 'cosine':
            angle = math.pi * p**self.power
            p = (1 - (torch.cos(angle) if isinstance(angle, Tensor) else math.cos(angle))) / 2
        scale = self.start + (self.stop - self.start) * p
        if self.floor is None:
            return scale
        return scale.clamp_min(self.floor) if isinstance(scale, Tensor) else max(scale, self.floor)


@dataclass(frozen=True)
class Piecewise(Schedule):
    """Through knots `(progress, scale)`, joined by straight lines, or held until the next."""

    knots: tuple[tuple[float, float], ...]
    hold: bool = False

    def __post_init__(self) -> None:
        if len(self.knots) == 0:
            raise ConfigError('piecewise: expected at least one knot (progress, scale), got none')
        for knot in self.knots:
            if not isinstance(knot, tuple) or len(knot) != 2:
                raise ConfigError(f'piecewise: expected knots (progress, scale), got {knot!r}')
            check_number('piecewise', 'the progress of a knot', knot[0], 0, 1)
            check_number('piecewise', 'the scale of a knot', knot[1])
        if any(a[0] >= b[0] for a, b in zip(self.knots, self.knots[1:], strict=False)):
            raise ConfigError(f'piecewise: knots must be in order of progress, got {[knot[0] for knot in self.knots]}')

    def __call__(self, progress: Scale | None = None, *, sigma: Scale | None = None, next_sigma: Scale | None = None) -> Scale:
        p = self._given('progress', progress)
        x = torch.as_tensor(p, dtype=None if isinstance(p, Tensor) else torch.float64)
        scale = torch.full_like(x, self.knots[0][1])
        for (left, low), (right, high) in zip(self.knots, self.knots[1:], strict=False):
            inside = high if self.hold else low + (high - low) * ((x - left) / (right - left)).clamp(0, 1)
            scale = torch.where(x >= (right if self.hold else left), inside, scale)
        return scale if isinstance(p, Tensor) else float(scale)


@dataclass(frozen=True)
class Interval(Schedule):
    """A scale inside an interval of sigma or progress; outside it is exactly 1.0, and the null pass is skipped.

    Args:
        scale: The scale inside, or a schedule for it.
        sigma: `(lo, hi)`: guide for sigma in `(lo, hi]`.
        progress: `(lo, hi)`: guide for progress in `[lo, hi)`; 1 belongs to an interval that ends at 1.

    Raises:
        ConfigError: Both or neither given, or the ends swapped.

    Applying Guidance in a Limited Interval, arXiv 2404.07724.

    >>> scale = interval(7.5, sigma=(0.28, 5.42))
    >>> scale(sigma=6.), scale(sigma=5.42), scale(sigma=0.28)
    (1.0, 7.5, 1.0)
    """

    scale: float | Schedule
    sigma: tuple[float, float] | None = field(default=None, kw_only=True)
    progress: tuple[float, float] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.scale, Schedule):
            check_number('interval', 'scale', self.scale)
        if (self.sigma is None) == (self.progress is None):
            raise ConfigError('interval: give either sigma=(lo, hi) or progress=(lo, hi)')
        name, ends = ('progress', self.progress) if self.sigma is None else ('sigma', self.sigma)
        if not isinstance(ends, tuple) or len(ends) != 2:
            raise ConfigError(f'interval: {name} must be a pair (lo, hi), got {ends!r}')
        if not ends[0] < ends[1]:
            raise ConfigError(f'interval: {name}=({ends[0]}, {ends[1]}) is empty; its ends are (lo, hi) with lo < hi')

    def __call__(self, progress: Scale | None = None, *, sigma: Scale | None = None, next_sigma: Scale | None = None) -> Scale:
        inside = self.scale(progress, sigma=sigma, next_sigma=next_sigma) if isinstance(self.scale, Schedule) else self.scale
        if self.sigma is not None:
            at, (lo, hi) = self._given('sigma', sigma), self.sigma
            on = (lo < at) & (at <= hi)
        else:
            assert self.progress is not None
            at, (lo, hi) = self._given('progress', progress), self.progress
            on = (lo <= at) & ((at < hi) | ((at == 1) & (hi >= 1)))
        if isinstance(on, Tensor):
            return torch.where(on, inside, torch.ones_like(torch.as_tensor(at)))
        return inside if on else 1.0


@dataclass(frozen=True)
class CFGPlusPlus(Schedule):
    """The schedule that turns a first-order sampler with plain CFG into CFG++: `s = lam * sigma / (sigma - next_sigma)`.

    `x0` is guided by `lam` and noise is added back along the null prediction. In variance preserving terms `sigma` is
    `sqrt(1 - abar) / sqrt(abar)`.

    Args:
        lam: The guidance of CFG++, in [0, 1].

    CFG++, arXiv 2406.08070.

    >>> cfg_plus_plus(0.6)(sigma=3., next_sigma=1.)
    0.8999999999999999
    """

    lam: float

    def __post_init__(self) -> None:
        check_number('cfg_plus_plus', 'lam', self.lam, 0, 1)

    def __call__(self, progress: Scale | None = None, *, sigma: Scale | None = None, next_sigma: Scale | None = None) -> Scale:
        here, there = self._given('sigma', sigma), self._given('next_sigma', next_sigma)
        return self.lam * here / (here - there)


constant, interval, cfg_plus_plus = Constant, Interval, CFGPlusPlus


def linear(start: float, stop: float) -> Ramp:
    """Make a schedule from `start` (pure noise) to `stop` (clean) in a straight line.

    `linear(1, 2*s - 1)` is the increasing schedule of arXiv 2404.13040, whose mean is `s`.

    >>> linear(1., 14.)(0.5)
    7.5
    """
    return Ramp(start, stop)


def cosine(start: float, stop: float) -> Ramp:
    """Make a schedule `start + (stop - start) * (1 - cos(pi * p)) / 2`, as in arXiv 2404.13040.

    >>> cosine(1., 14.)(1.)
    14.0
    """
    return Ramp(start, stop, 'cosine')


def power_cosine(start: float, stop: float, power: float = 4.0) -> Ramp:
    """Make a schedule `start + (stop - start) * (1 - cos(pi * p^power)) / 2`: late for a power above 1.

    Masked Diffusion Transformer, arXiv 2303.14389, uses a power of 4 (from scale 1).

    >>> power_cosine(1., 4.)(0.5) < 1.1
    True
    """
    return Ramp(start, stop, 'cosine', power)


def clamp_linear(start: float, stop: float, floor: float) -> Ramp:
    """Make a schedule `max(floor, start + (stop - start) * p)`, as in arXiv 2404.13040.

    >>> clamp_linear(1., 14., floor=4.)(0.)
    4.0
    """
    return Ramp(start, stop, floor=floor)


def piecewise(*knots: tuple[float, float], hold: bool = False) -> Piecewise:
    """Make a schedule through knots `(progress, scale)`.

    Args:
        knots: In order of progress. Before the first and after the last the scale stays theirs.
        hold: Keep each scale until the next knot, instead of joining the knots by lines.

    Raises:
        ConfigError: No knots, or knots out of order.

    >>> piecewise((0., 1.), (0.5, 7.))(0.25), piecewise((0., 1.), (0.5, 7.), hold=True)(0.25)
    (4.0, 1.0)
    """
    return Piecewise(knots, hold)
