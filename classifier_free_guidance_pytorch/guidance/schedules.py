"""Scales over time: frozen callables of progress (0 = pure noise, 1 = clean) or of the noise level sigma.

    scale = guidance.interval(7.5, sigma=(0.28, 5.42))
    for sigma in sigmas:
        guided = rule(cond, null, scale(sigma=sigma))

A schedule called with numbers returns a number, and with tensors a tensor of the same shape. Where it says that guidance is
off, the scale is exactly 1.0, and so the null pass is skipped. A weight, such as that of `guidance.Weak`, is off at 0: its
interval is `interval(w, ..., outside=0.)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.guidance.checks import Scale, check_number
from classifier_free_guidance_pytorch.guidance.schedule import Moment, Schedule
from classifier_free_guidance_pytorch.rows import is_readable


@dataclass(frozen=True)
class Constant(Schedule):
    """The same scale at every step.

    >>> constant(7.5)(0.3)
    7.5
    """

    scale: float

    def __post_init__(self) -> None:
        check_number('constant', 'scale', self.scale)

    def at(self, now: Moment) -> Scale:
        tensors = [given for given in now if isinstance(given, Tensor)]
        if not tensors:
            return float(self.scale)
        return torch.full_like(tensors[0] if tensors[0].is_floating_point() else tensors[0].float(), self.scale)


@dataclass(frozen=True)
class Ramp(Schedule):
    """From `start` to `stop` along a curve: a straight line, or a cosine of `progress ** power`; never below `floor`."""

    start: float
    stop: float
    curve: str = 'linear'
    power: float = 1.0
    floor: float | None = None

    def __post_init__(self) -> None:
        if self.curve not in ('linear', 'cosine'):
            raise ConfigError(f"Ramp: curve must be 'linear' or 'cosine', got {self.curve!r}")
        check_number(self.curve, 'start', self.start)
        check_number(self.curve, 'stop', self.stop)
        check_number(self.curve, 'power', self.power, 0)
        if self.floor is not None:
            check_number('clamp_linear', 'floor', self.floor)

    def at(self, now: Moment) -> Scale:
        p = self.given(now, 'progress')
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

    def at(self, now: Moment) -> Scale:
        p = self.given(now, 'progress')
        x = torch.as_tensor(p, dtype=None if isinstance(p, Tensor) else torch.float64)
        scale = torch.full_like(x, self.knots[0][1])
        for (left, low), (right, high) in zip(self.knots[:-1], self.knots[1:], strict=True):
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
        outside: The scale outside; 0 for the weight of `guidance.Weak`, which is off there.

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
    outside: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.scale, Schedule):
            check_number('interval', 'scale', self.scale)
        check_number('interval', 'outside', self.outside)
        if (self.sigma is None) == (self.progress is None):
            raise ConfigError('interval: give either sigma=(lo, hi) or progress=(lo, hi)')
        name, ends = ('progress', self.progress) if self.sigma is None else ('sigma', self.sigma)
        if not isinstance(ends, tuple) or len(ends) != 2:
            raise ConfigError(f'interval: {name} must be a pair (lo, hi), got {ends!r}')
        for end, value in zip(('lo', 'hi'), ends, strict=True):
            if value not in (-math.inf, math.inf):
                check_number('interval', f'{end} of {name}', value)
        if not ends[0] < ends[1]:
            raise ConfigError(f'interval: {name}=({ends[0]}, {ends[1]}) is empty; its ends are (lo, hi) with lo < hi')

    def at(self, now: Moment) -> Scale:
        inside = self.scale.at(now) if isinstance(self.scale, Schedule) else self.scale
        if self.sigma is not None:
            at, (lo, hi) = self.given(now, 'sigma'), self.sigma
            on = (lo < at) & (at <= hi)
        else:
            assert self.progress is not None
            at, (lo, hi) = self.given(now, 'progress'), self.progress
            on = (lo <= at) & ((at < hi) | ((at == 1) & (hi >= 1)))
        if isinstance(on, Tensor):
            return torch.where(on, inside, torch.full_like(torch.as_tensor(at), self.outside))
        return inside if on else float(self.outside)


@dataclass(frozen=True)
class CFGPlusPlus(Schedule):
    """The schedule that turns a first-order sampler with plain CFG into CFG++.

    `x0` is guided by `lam` and noise is added back along the null prediction. For `x = alpha * x0 + sigma * eps` that is CFG at

        s = lam * sigma * next_alpha / (sigma * next_alpha - next_sigma * alpha)

    A step of a model that predicts `v = eps - x0` (`'flow'`) takes `sigma=t, alpha=1-t` and the same of the next time; a
    variance preserving one `alpha=sqrt(abar)`. Without alphas they are 1, as in EDM and k-diffusion.

    Args:
        lam: The guidance of CFG++, in [0, 1].

    CFG++, arXiv 2406.08070.

    >>> round(cfg_plus_plus(0.6)(sigma=3., next_sigma=1.), 6)
    0.9
    >>> cfg_plus_plus(0.6)(sigma=1., alpha=0., next_sigma=.96, next_alpha=.04)    # the first step of a flow
    0.6
    """

    lam: float

    def __post_init__(self) -> None:
        check_number('cfg_plus_plus', 'lam', self.lam, 0, 1)

    def at(self, now: Moment) -> Scale:
        here, there = self.given(now, 'sigma'), self.given(now, 'next_sigma')
        alpha, next_alpha = (1.0 if one is None else one for one in (now.alpha, now.next_alpha))
        now = Moment(now.progress, now.sigma, now.next_sigma, alpha, next_alpha)
        alpha, next_alpha = self.given(now, 'alpha'), self.given(now, 'next_alpha')
        if not isinstance(here, Tensor) and here == math.inf:
            return self.lam if not isinstance(there, Tensor) else torch.full_like(there, self.lam)  # no noise stays
        lowers = there * alpha < here * next_alpha
        if isinstance(lowers, Tensor):
            lowers = not is_readable(lowers) or bool(lowers.all())
        if not lowers:
            raise ConfigError(
                f'cfg_plus_plus: a step must lower sigma/alpha, got sigma={here}, alpha={alpha} to next_sigma={there}, '
                f'next_alpha={next_alpha}'
            )
        stays = there * alpha / (here * next_alpha)  # the share of the noise that is added back
        if isinstance(stays, Tensor):
            stays = torch.where(torch.as_tensor(here, device=stays.device).isinf(), 0.0, stays)
        return self.lam / (1 - stays)


@dataclass(frozen=True)
class Beta(Schedule):
    """The scale times the density of a Beta distribution at progress, `1 + (s - 1) * p^(a-1) * (1-p)^(b-1) / B(a, b)`.

    With `a` and `b` above 1 guidance is off at both ends. `Beta(s, 1, 1)` is constant.

    Args:
        scale: `s`; the mean over progress.
        a: The first parameter, at least 1.
        b: The second, at least 1.

    beta-CFG, arXiv 2502.10574, `get_from_beta` of its authors, whose `w` multiplies the whole difference from null: there the
    scale is 0 at the ends, where it is 1 here.

    >>> round(beta(7.5, 2., 2.)(0.5), 6), beta(7.5, 2., 2.)(0.)
    (10.75, 1.0)
    """

    scale: float
    a: float = 2.0
    b: float = 2.0

    def __post_init__(self) -> None:
        check_number('beta', 'scale', self.scale)
        check_number('beta', 'a', self.a, 1)
        check_number('beta', 'b', self.b, 1)

    def at(self, now: Moment) -> Scale:
        p = self.given(now, 'progress')
        # by logarithms, since the gamma function of a large parameter is larger than any float
        log_constant = math.lgamma(self.a + self.b) - math.lgamma(self.a) - math.lgamma(self.b)
        log_density = log_constant + _times_log(self.a - 1, p) + _times_log(self.b - 1, 1 - p)
        return 1 + (self.scale - 1) * (torch.exp(log_density) if isinstance(log_density, Tensor) else math.exp(log_density))


def _times_log(factor: float, x: Scale) -> Scale:
    """Return `factor * log(x)`, 0 for a factor of 0."""
    if isinstance(x, Tensor):
        return torch.xlogy(factor, x)
    return 0.0 if factor == 0 else -math.inf if x == 0 else factor * math.log(x)


@dataclass(frozen=True)
class Exponential(Schedule):
    """A scale that grows exponentially: `1 + (start - 1) * exp(rate * p)`.

    Args:
        start: The scale at pure noise.
        rate: How fast it grows; log(2) doubles the guidance on the way.

    C2FG, arXiv 2603.08155, eq. 14: `w(t) = w0 * exp(rate * (1 - t))`, `w = s - 1`, where `t` is 1 at pure noise.

    >>> round(exponential(3., math.log(2))(1.), 6)
    5.0
    """

    start: float
    rate: float = math.log(2)

    def __post_init__(self) -> None:
        check_number('exponential', 'start', self.start)
        check_number('exponential', 'rate', self.rate, high=700)  # beyond it the exponential is no float

    def at(self, now: Moment) -> Scale:
        p = self.given(now, 'progress')
        grown = torch.exp(self.rate * p) if isinstance(p, Tensor) else math.exp(self.rate * p)
        return 1 + (self.start - 1) * grown


constant, interval, cfg_plus_plus, beta, exponential = Constant, Interval, CFGPlusPlus, Beta, Exponential


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
