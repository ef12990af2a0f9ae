"""Guidance that a model has learned: one pass at any scale (Meng et al., 2022, arXiv 2210.03142)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.guidance.checks import Scale, check_number, uniform_value
from classifier_free_guidance_pytorch.guidance.combine import Rule
from classifier_free_guidance_pytorch.guidance.step import Predictions, Step
from classifier_free_guidance_pytorch.rows import is_readable

ROUNDING = 0.01
"""How far outside, as a share, a scale may be: random scales never quite reach the ends of their range."""


@dataclass(frozen=True)
class Learned(Rule):
    """Take the prediction of a model that reads the scale for the guided one. One pass.

    It is the rule of a call that names none, for a model that has learned to guide by the losses of `training`. Another rule,
    such as `guidance=guidance.CFG()`, makes its passes all the same.

    Args:
        low: The lowest scale that was learned.
        high: The highest.

    >>> Learned(1., 4.).branches(2.5)
    ('cond',)
    """

    low: float
    high: float

    needs: ClassVar[tuple[str, ...]] = ('cond',)
    reads_scale: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number('Learned', 'low', self.low, 0.0)
        check_number('Learned', 'high', self.high, self.low)

    def wanted(self, scale: Scale, step: Step) -> tuple[str, ...]:
        """Name the one branch.

        Raises:
            ConfigError: A scale that was not learned, where that can be seen at no cost.
        """
        value = uniform_value(scale)
        if value is not None:
            low = high = value
        elif isinstance(scale, Tensor) and is_readable(scale) and scale.numel() > 0:
            low, high = map(float, scale.detach().aminmax())
        else:
            return self.needs
        if value != 1 and not self.low * (1 - ROUNDING) <= low <= high <= self.high * (1 + ROUNDING):
            shown = f'{low:g}' if low == high else f'{low:g} to {high:g}'
            raise ConfigError(
                f'cond_scale is {shown}, but this model has learned the guidance scales {self.low:g} to {self.high:g}: train it '
                'on others, or pass guidance=guidance.CFG() for two passes'
            )
        return self.needs

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        assert given.cond is not None
        return given.cond
