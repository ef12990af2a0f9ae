"""Guidance by a weakened pass: autoguidance, perturbed attention, skipped layers (arXiv 2406.02507, 2403.17377, 2411.18664)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.guidance.checks import Scale, aligned, check_alike, check_number, check_scale
from classifier_free_guidance_pytorch.guidance.combine import Rule
from classifier_free_guidance_pytorch.guidance.rule import Predictions, State, Step


def weak(cond: Tensor, weakened: Tensor, weight: Scale) -> Tensor:
    """Guide away from a deliberately weakened pass: `c + w * (c - k)`.

    Args:
        cond: Prediction under the condition, `(b, ...)`; `(b,)` and complex predictions work as well.
        weakened: `k`: the same prediction by a smaller model, with perturbed attention or with layers skipped.
        weight: `w`: 0 returns `cond`. EDM2's `--guidance` is `w + 1`.

    Returns:
        The guided prediction, in the shape and dtype of `cond`.

    Raises:
        ShapeError, ConfigError: As for `guidance.cfg`.

    Autoguidance, arXiv 2406.02507; perturbed attention, arXiv 2403.17377; skip-layer (spatiotemporal), arXiv 2411.18664.
    Oracle: autoguidance's own `torch.lerp`.

    >>> import torch
    >>> weak(torch.tensor([[1., 2.]]), torch.tensor([[0., 1.]]), 2.)
    tensor([[3., 4.]])
    """
    check_alike('weak', {'cond': cond, 'weak': weakened}, linear=True)
    return torch.lerp(weakened, cond, aligned(check_scale(weight, 'weight') + 1, cond, 'weight'))


@dataclass(frozen=True)
class Weak(Rule):
    """Guidance by a weakened pass, `c + w * (c - k)`, at any scale: see `guidance.weak`. Two passes.

    Usually added to another rule, `CFG() + Weak(2.8)`; alone it is autoguidance.

    Args:
        weight: `w`; 0 is off, and the weak pass is not made.
    """

    weight: float = 1.0
    needs: ClassVar[tuple[str, ...]] = ('cond', 'weak')
    acts_at_one: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number('Weak', 'weight', self.weight)

    def branches(self, scale: Scale = 1.0, state: State | None = None, progress: float | None = None) -> tuple[str, ...]:
        needed = super().branches(scale, state, progress)
        return needed if self.weight != 0 else ('cond',)

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        assert given.cond is not None
        assert given.weak is not None
        return weak(given.cond, given.weak, self.weight)
