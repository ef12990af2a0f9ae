"""What a schedule is: a frozen callable of where sampling stands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from classifier_free_guidance_pytorch.errors import ConfigError, UsageError
from classifier_free_guidance_pytorch.guidance.checks import Scale, inside


class Moment(NamedTuple):
    """Where sampling stands, in `x = alpha * x0 + sigma * eps`: what schedules are functions of."""

    progress: Scale | None = None
    sigma: Scale | None = None
    next_sigma: Scale | None = None
    alpha: Scale | None = None
    next_alpha: Scale | None = None


@dataclass(frozen=True)
class Schedule:
    """A guidance scale that changes while sampling; made by the functions of `schedules`."""

    def __call__(
        self,
        progress: Scale | None = None,
        *,
        sigma: Scale | None = None,
        next_sigma: Scale | None = None,
        alpha: Scale | None = None,
        next_alpha: Scale | None = None,
    ) -> Scale:
        """Return the scale at this step.

        Args:
            progress: From 0 (pure noise) to 1, a number or a tensor.
            sigma: The noise level of this step.
            next_sigma: The noise level of the next step.
            alpha: The factor of the clean sample at this step, in `x = alpha * x0 + sigma * eps`; 1 unless given.
            next_alpha: The same factor at the next step.

        Returns:
            The scale, a number for numbers and a tensor for tensors.

        Raises:
            UsageError: What this schedule is a function of was not given.
            ConfigError: Progress outside [0, 1], a noise level below 0, or no number.
        """
        return self.at(Moment(progress, sigma, next_sigma, alpha, next_alpha))

    def at(self, now: Moment) -> Scale:
        """Return the scale at a moment."""
        raise NotImplementedError

    def saved(self, progress: Sequence[float] = (), *, sigma: Sequence[float] = ()) -> int:
        """Count the steps at which the scale is exactly 1: the null passes that a rule anchored on `cond` does not make.

        Args:
            progress: The progress of every step, for schedules of progress.
            sigma: The noise level of every step, for schedules of sigma; both for a schedule of both.

        Returns:
            The number of steps.

        Raises:
            UsageError: Neither was given.
            ConfigError: Of one there are more than of the other.

        >>> from classifier_free_guidance_pytorch.guidance import interval
        >>> interval(7.5, sigma=(0.28, 5.42)).saved(sigma=(10., 5., 1., 0.2))
        2
        """
        if len(progress) == 0 and len(sigma) == 0:
            raise UsageError(f'to count the passes that {self!r} saves, give the progress= or the sigma= of every step')
        if len(sigma) == 0:
            return sum(bool(self(p) == 1) for p in progress)
        if len(progress) not in (0, len(sigma)):
            raise ConfigError(f'to count the passes that {self!r} saves, got {len(progress)} progress= and {len(sigma)} sigma=')
        steps = zip(progress if len(progress) else (None,) * len(sigma), sigma, (*sigma[1:], 0.0), strict=True)
        return sum(bool(self(at, sigma=now, next_sigma=then) == 1) for at, now, then in steps)

    def given(self, now: Moment, name: str) -> Scale:
        """Return an argument that this schedule is a function of, within its range."""
        value: Scale | None = getattr(now, name)
        if value is None:
            raise UsageError(f'{self!r} is a function of {name}; call it with {name}=')
        return inside(name, value, 0.0, 1.0 if name == 'progress' else math.inf)
