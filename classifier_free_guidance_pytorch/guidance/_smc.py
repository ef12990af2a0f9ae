"""Sliding mode control of guidance (arXiv 2603.03281)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.guidance.checks import Scale, aligned, check_alike, check_number, check_shape, per_sample
from classifier_free_guidance_pytorch.guidance.combine import Rule
from classifier_free_guidance_pytorch.guidance.reductions import widened
from classifier_free_guidance_pytorch.guidance.scales import guided_samples
from classifier_free_guidance_pytorch.guidance.step import Predictions, State, Step


def smc_cfg(cond: Tensor, null: Tensor, scale: Scale, before: Tensor, lam: float = 5.0, k: float = 0.2) -> tuple[Tensor, Tensor]:
    """Guide by a difference that is pushed towards zero: `u + s*e'`, `e' = d - k * sign(d - e + lam*e)`.

    Args:
        cond: Prediction under the condition, `(b, ...)`; a velocity in the paper.
        null: Prediction under the null condition, same shape.
        scale: `s`.
        before: `e`, the `e'` of the step before, same shape; `d` itself at the first step.
        lam: How fast differences are to vanish.
        k: How strongly they are pushed, in the units of a prediction; 0 is plain CFG.

    Returns:
        The guided prediction in the shape and dtype of `cond`, and `e'` for the next step, in float32 or wider.

    Raises:
        ShapeError, ConfigError: As for `guidance.apg`.

    SMC-CFG, arXiv 2603.03281, and `pipeline/common_cfg_ctrl.py` of its authors, whose examples set `lam=5, k=0.2`. Oracle: the
    formula over several steps in float64.

    >>> import torch
    >>> guided, e = smc_cfg(torch.tensor([[3.]]), torch.tensor([[1.]]), 2., before=torch.tensor([[2.]]), k=0.5)
    >>> guided, e
    (tensor([[4.]]), tensor([[1.5000]]))
    """
    check_number('smc_cfg', 'lam', lam, 0)
    check_number('smc_cfg', 'k', k, 0)
    check_alike('smc_cfg', {'cond': cond, 'null': null})
    check_shape('smc_cfg', 'before', before, 'cond', cond)
    u = widened(null)
    d = widened(cond) - u
    pushed = d - k * torch.sign((d - before) + lam * before)
    return (u + aligned(scale, u) * pushed).to(cond.dtype), pushed


@dataclass(eq=False)
class SlidingState(State):
    """The pushed difference of the last guided step, `(b, ...)`, and which samples have had one, `(b, 1, ...)`."""

    pushed: Tensor | None = field(default=None, repr=False)
    begun: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True)
class SMCCFG(Rule):
    """Sliding mode control of guidance: see `guidance.smc_cfg`, also for `lam` and `k`. Two passes, and a state.

    A sample at scale 1 is returned as it is, and its difference stays what it was.

    >>> state = SMCCFG().init_state()       # hand it in at every step: rule(cond, null, scale, state=state)
    """

    lam: float = 5.0
    k: float = 0.2
    paper_space: ClassVar[str | None] = 'flow'

    def __post_init__(self) -> None:
        check_number('SMCCFG', 'lam', self.lam, 0)
        check_number('SMCCFG', 'k', self.k, 0)

    @property
    def remembers(self) -> bool:
        return True

    def init_state(self, like: Tensor | None = None) -> State | None:
        state = SlidingState(self)
        if like is not None:
            state.pushed = torch.zeros_like(widened(like))
            state.begun = torch.zeros(per_sample(like), dtype=torch.bool, device=like.device)
        return state

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        cond, null = given.pair()
        state = step.state
        assert isinstance(state, SlidingState)
        state.check_held('differences', state.pushed, tuple(cond.shape), cond)
        difference = widened(cond) - widened(null)
        before = difference
        if state.pushed is not None and state.begun is not None:
            before = torch.where(state.begun, state.pushed, difference)
        guided, pushed = smc_cfg(cond, null, scale, before, self.lam, self.k)
        on = torch.as_tensor(guided_samples(scale, cond), device=cond.device).expand(per_sample(cond))  # (b, 1, ...)
        state.pushed = torch.where(on, pushed, before).detach()
        state.begun = on if state.begun is None else state.begun | on
        return torch.where(torch.as_tensor(aligned(scale, cond) != 1, device=cond.device), guided, cond)
