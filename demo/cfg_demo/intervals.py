"""Means with their 95% intervals: over many prompts, and over a few seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Student's t at 0.975 for 1, 2, ... degrees of freedom: what 1.96 is for many seeds is 4.3 for three.
QUANTILES = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
MOST_SEEDS = len(QUANTILES) + 1


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval.

    >>> import torch
    >>> Estimate.of(torch.tensor([0., 1., 0., 1.]))
    Estimate(mean=0.5, low=-0.0658, high=1.0658)
    """

    mean: float
    low: float
    high: float

    @staticmethod
    def around(mean: float, half: float) -> Estimate:
        """A mean and half of the width of its interval, to four places."""
        return Estimate(round(mean, 4), round(mean - half, 4), round(mean + half, 4))

    @staticmethod
    def of(values: Tensor) -> Estimate:
        """From one value per prompt, `mean +- 1.96 * sd / sqrt(n)`; a single one has no interval, and all three are the mean."""
        mean = values.mean().item()
        half = 1.96 * values.std().item() / len(values) ** 0.5 if len(values) > 1 else 0.0
        return Estimate.around(mean, half)

    @staticmethod
    def over_seeds(values: Sequence[float]) -> Estimate:
        """From one value per seed, of at most `MOST_SEEDS`, `mean +- t * sd / sqrt(n)`; one seed has no interval.

        >>> Estimate.over_seeds([0.1, 0.2, 0.3])
        Estimate(mean=0.2, low=-0.0484, high=0.4484)
        """
        mean, count = fmean(values), len(values)
        half = QUANTILES[count - 2] * stdev(values) / count**0.5 if count > 1 else 0.0
        return Estimate.around(mean, half)
