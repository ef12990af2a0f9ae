"""Guidance by a weakened pass: autoguidance, perturbed attention, skipped layers (arXiv 2406.02507, 2403.17377, 2411.18664)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.guidance.checks import Scale, aligned, check_alike, check_number, check_scale, uniform_value
from classifier_free_guidance_pytorch.guidance.combine import Rule
from classifier_free_guidance_pytorch.guidance.schedule import Schedule
from classifier_free_guidance_pytorch.guidance.step import BRANCHES, Predictions, Step


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


@dataclass(frozen=True, eq=False)
class Weak(Rule):
    """Guidance by a weakened pass, `c + w * (c - k)`, at any scale: see `guidance.weak`. Two passes.

    Usually added to another rule, `CFG() + Weak(2.8)`; alone it is autoguidance. Several in a sum have names, by which their
    passes are told apart: `CFG() + Weak(1., name='stg') + Weak(2., name='modality')`, with `weak={'stg': ..., 'modality': ...}`.

    Args:
        weight: `w`; 0 is off, and the weak pass is not made. A number; a tensor, one value per sample or learned; or a schedule,
            which is off at 0 as well: `interval(2.8, sigma=(0.3, 5.), outside=0.)`.
        name: Which weakened pass it is guided by.

    Raises:
        ConfigError: No weight, or a name that is none or that of another branch.

    >>> (Weak(1., name='stg') + Weak(0., name='modality')).branches()
    ('cond', 'stg')
    """

    weight: float | Tensor | Schedule = 1.0
    name: str = 'weak'
    acts_at_one: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.weight, Tensor):
            check_scale(self.weight, 'Weak: weight')
        elif not isinstance(self.weight, Schedule):
            check_number('Weak', 'weight', self.weight)
        if not isinstance(self.name, str) or not self.name.isidentifier() or self.name in {*BRANCHES, *_ARGUMENTS} - {'weak'}:
            taken = ', '.join(map(repr, (*BRANCHES, *_ARGUMENTS)))
            raise ConfigError(f"Weak: name must be an identifier, such as 'stg', other than {taken}; got {self.name!r}")
        object.__setattr__(self, 'needs', ('cond', self.name))

    def __eq__(self, other: object) -> bool:
        """Return whether two rules are the same; weights that are tensors are compared by their values."""
        if type(other) is not type(self) or self.name != other.name:
            return False
        ours, theirs = self.weight, other.weight
        if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
            return ours is theirs or (ours.device == theirs.device and torch.equal(ours, theirs))
        return not isinstance(ours, Tensor) and not isinstance(theirs, Tensor) and ours == theirs

    def __hash__(self) -> int:
        weight = tuple(self.weight.shape) if isinstance(self.weight, Tensor) else self.weight
        return hash((type(self), weight, self.name))

    def wanted(self, scale: Scale, step: Step) -> tuple[str, ...]:
        needed = super().wanted(scale, step)
        return ('cond',) if uniform_value(self._weight_at(step)) == 0 else needed

    def _weight_at(self, step: Step) -> float | Tensor:
        """Return the weight of a step."""
        if not isinstance(self.weight, Schedule):
            return self.weight
        return self.weight(
            step.progress, sigma=step.sigma, next_sigma=step.next_sigma, alpha=step.alpha, next_alpha=step.next_alpha
        )

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        weakened = given.of(self.name)
        assert given.cond is not None
        assert isinstance(weakened, Tensor)
        return weak(given.cond, weakened, self._weight_at(step))


_ARGUMENTS = ('scale', 'state', 'x', 'sigma', 'alpha', 'progress', 'rows')
"""What a rule is called with beside predictions."""
