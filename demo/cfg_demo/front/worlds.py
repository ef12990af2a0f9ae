"""What a plan is measured in: a world draws prompts under a plan, and says of every prompt how good that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from cfg_demo.front.plans import Plan

MEASURES = ('adherence', 'diversity', 'distance')
T = TypeVar('T')


@dataclass(frozen=True)
class Measured:
    """One plan, one seed.

    Args:
        passes: Forward passes of one sample.
        values: By the names of `MEASURES`, one value per prompt `(p,)`. Of the distance less is better.
    """

    passes: float
    values: dict[str, Tensor]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {'passes': self.passes, **{name: [round(one, 5) for one in v.tolist()] for name, v in self.values.items()}}

    @staticmethod
    def from_dict(saved: dict[str, Any]) -> Measured:
        """What `as_dict` wrote."""
        return Measured(saved['passes'], {name: torch.tensor(saved[name]) for name in MEASURES})


class World(Protocol):
    """Prompts, a model for each seed, and three scores."""

    images: bool

    def measure(self, plan: Plan, seed: int, split: str) -> Measured:
        """Draw the prompts of a split (`'seen'` or `'held_out'`) under a plan, and score them."""
        ...


def counted(model: Any, run: Callable[[], T]) -> tuple[T, int]:
    """Return what a run returns, and how many samples went through the model, all passes together."""
    rows: list[int] = []
    hook = model.read.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))  # the first layer of every pass
    try:
        return run(), sum(rows)
    finally:
        hook.remove()


def energy_distances(drawn: Tensor, true: Tensor) -> Tensor:
    """The energy distance of every prompt: `2 E|x - y| - E|x - x'| - E|y - y'|`, without bias, so it may be below 0.

    Székely and Rizzo, Energy statistics, 2013. It is 0 for equal distributions, and above for any others.

    Args:
        drawn: Samples `(p, n, d)`.
        true: True samples `(p, m, d)`.

    Returns:
        One distance per prompt, `(p,)`.
    """

    def among(points: Tensor) -> Tensor:
        count = points.shape[1]
        return torch.cdist(points, points).sum((1, 2)) / (count * (count - 1))

    return 2 * torch.cdist(drawn, true).mean((1, 2)) - among(drawn) - among(true)
