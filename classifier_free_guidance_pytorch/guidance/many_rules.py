"""The rules of several conditions or models: chains, compositions, perpendicular negatives, weakened passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError

from .checks import Scale, aligned, check_number, check_numbers
from .lines import chain, compose, weak
from .projections import perp_neg
from .rule import Predictions, Rule, Step
from .state import State


def proportioned(scale: Scale, scales: tuple[float, ...]) -> tuple[Scale, ...]:
    """Bring the strongest of `scales` to `scale`, the others in proportion: `1 + (s-1) * (s_i-1) / (s_max-1)`."""
    strongest = max(scales, key=lambda value: abs(value - 1)) - 1
    return tuple(1 + (scale - 1) * ((value - 1) / strongest) for value in scales)


@dataclass(frozen=True)
class Chain(Rule):
    """Guidance along a chain of conditions, `n + sum_i s_i * (p_i - p_(i-1))`: see `guidance.chain`. One pass per prediction.

    The chain is null, then `conds` in their order (each with one condition more), then `cond`, which has all.

    Args:
        scales: One per step of the chain. They give the proportions: the scale of the call is that of the strongest step, so
            `Chain((1.5, 7.5))` called at 7.5 guides at exactly `(1.5, 7.5)`, and at 1 returns `cond`.

    >>> import torch
    >>> nothing, image, both = torch.tensor([[0., 0.]]), torch.tensor([[1., 0.]]), torch.tensor([[1., 1.]])
    >>> Chain((1.5, 7.5))(both, nothing, 7.5, conds=(image,))
    tensor([[1.5000, 7.5000]])
    """

    scales: tuple[float, ...] = (1.5, 7.5)
    needs: ClassVar[tuple[str, ...]] = ('cond', 'null', 'conds')
    affine: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_numbers('Chain', 'scales', self.scales)
        if len(self.scales) < 2 or all(value == 1 for value in self.scales):
            raise ConfigError(f'Chain: expected at least two scales, not all 1, got {self.scales}')

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        scales = proportioned(_full(scale, given.main()), self.scales)
        return chain((given.unguided(), *given.conds, given.main()), scales)


@dataclass(frozen=True)
class Compose(Rule):
    """Several conditions at once, `u + s * sum_i w_i * (c_i - u)`: see `guidance.compose`. One pass per prediction.

    The conditions are `cond`, then `conds` in their order. At scale 1 the weights are the guidance scales, as published.

    Args:
        weights: `w_i`, one per condition, negative for NOT; or one for all.

    >>> import torch
    >>> left, up, null = torch.tensor([[-1., 0.]]), torch.tensor([[0., 1.]]), torch.zeros(1, 2)
    >>> Compose((2., 3.))(left, null, conds=(up,))
    tensor([[-2.,  3.]])
    """

    weights: float | tuple[float, ...] = 1.0
    needs: ClassVar[tuple[str, ...]] = ('cond', 'null', 'conds')
    affine: ClassVar[bool] = True
    null_at_zero: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.weights, tuple):
            check_numbers('Compose', 'weights', self.weights)
        else:
            check_number('Compose', 'weights', self.weights)

    @property
    def anchored(self) -> bool:
        return False

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        conds = (given.main(), *given.conds)
        scale = _full(scale, given.main())
        if isinstance(self.weights, tuple):
            return compose(conds, given.unguided(), tuple(scale * weight for weight in self.weights))
        return compose(conds, given.unguided(), scale * self.weights)


def _full(scale: Scale, like: Tensor) -> Scale:
    """Align a scale before arithmetic with it, in float32 for half precision predictions."""
    return aligned(scale, like.float() if like.dtype.itemsize < 4 else like) if isinstance(scale, Tensor) else scale


@dataclass(frozen=True)
class PerpNeg(Rule):
    """Perp-Neg, negatives that act across the positive only: see `guidance.perp_neg`. Two passes and one per negative.

    Args:
        weights: How strongly each negative repels, or one for all.

    >>> import torch
    >>> PerpNeg()(torch.tensor([[1., 0.]]), torch.zeros(1, 2), 2., negatives=(torch.tensor([[5., 1.]]),))
    tensor([[ 2., -2.]])
    """

    weights: float | tuple[float, ...] = 1.0
    needs: ClassVar[tuple[str, ...]] = ('cond', 'null', 'negatives')
    null_at_zero: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.weights, tuple):
            check_numbers('PerpNeg', 'weights', self.weights)
        else:
            check_number('PerpNeg', 'weights', self.weights)

    @property
    def anchored(self) -> bool:
        return False

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        return perp_neg(given.main(), given.unguided(), given.negatives, scale, self.weights)


@dataclass(frozen=True)
class Weak(Rule):
    """Guidance by a weakened pass, `c + w * (c - k)`, at any scale: see `guidance.weak`. Two passes.

    Usually added to another rule, `CFG() + Weak(2.8)`; alone it is autoguidance.

    Args:
        weight: `w`; 0 is off. EDM2's `--guidance` is `w + 1`.

    >>> import torch
    >>> Weak(2.)(torch.tensor([[1., 2.]]), weak=torch.tensor([[0., 1.]]))
    tensor([[3., 4.]])
    """

    weight: float = 1.0
    needs: ClassVar[tuple[str, ...]] = ('cond', 'weak')
    affine: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number('Weak', 'weight', self.weight)

    @property
    def anchored(self) -> bool:
        return False

    def branches(self, scale: Scale = 1.0, state: State | None = None, progress: float | None = None) -> tuple[str, ...]:
        return self.needs if self.weight != 0 else ('cond',)

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        assert given.weak is not None
        return weak(given.main(), given.weak, self.weight)
