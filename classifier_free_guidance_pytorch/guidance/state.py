"""What a rule remembers between steps, in an object that the caller owns.

A state is made by `rule.init_state()`, handed to the rule at every step of one sampling run, and updated in place. Nothing is
hidden in a rule, so two samplers that share a model and a rule never see each other's memory, and sampling may start anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ShapeError

if TYPE_CHECKING:
    from .rule import Rule


@dataclass(eq=False)
class State:
    """The memory of one sampling run under one rule.

    Args:
        rule: The rule that made it, and the only one that may use it.
        parts: States of the rules it is composed of, None for those that remember nothing.
    """

    rule: Rule
    parts: tuple[State | None, ...] = ()

    def reset(self) -> None:
        """Forget everything, as before the first step."""
        for part in self.parts:
            if part is not None:
                part.reset()


@dataclass(eq=False)
class MomentumState(State):
    """The running average of APG's momentum; None before the first guided step."""

    average: Tensor | None = field(default=None, repr=False)

    def reset(self) -> None:
        self.average = None

    def check(self, like: Tensor) -> None:
        """Raise `ShapeError` where the average was made for predictions of another shape."""
        if self.average is not None and self.average.shape != like.shape:
            raise ShapeError(
                f'guidance state holds an average of shape {tuple(self.average.shape)}, but the predictions have shape '
                f'{tuple(like.shape)}; make a new state with rule.init_state() for every sampling run'
            )


@dataclass(eq=False)
class AdaptiveState(State):
    """Which samples have converged, and how many null passes that saved."""

    converged: Tensor | None = field(default=None, repr=False)
    saved: int = 0

    def reset(self) -> None:
        super().reset()
        self.converged, self.saved = None, 0

    def check(self, like: Tensor) -> None:
        """Raise `ShapeError` where the flags are those of another batch."""
        if self.converged is not None and self.converged.shape[0] != like.shape[0]:
            raise ShapeError(
                f'guidance state holds the flags of {self.converged.shape[0]} samples, but the predictions have shape '
                f'{tuple(like.shape)}; make a new state with rule.init_state() for every sampling run'
            )

    def all_converged(self) -> bool:
        """Whether no sample needs the null pass any more. Waits for the device, except while being traced (then False)."""
        if self.converged is None or torch.compiler.is_compiling():
            return False
        return bool(self.converged.all())


@dataclass(eq=False)
class ReuseState(State):
    """The last measured `u - c` of each sample, how many steps ago that was, and how many null passes reuse saved."""

    delta: Tensor | None = field(default=None, repr=False)
    age: Tensor | None = field(default=None, repr=False)
    saved: int = 0

    def reset(self) -> None:
        super().reset()
        self.delta, self.age, self.saved = None, None, 0

    def prepare(self, like: Tensor, age: int) -> None:
        """Lay out memory for predictions of this shape, every difference being `age` steps old."""
        if self.delta is None:
            self.delta = torch.zeros_like(like)
            self.age = torch.full((like.shape[0],) + (1,) * (like.ndim - 1), age, device=like.device)
        elif self.delta.shape != like.shape:
            raise ShapeError(
                f'guidance state holds differences of shape {tuple(self.delta.shape)}, but the predictions have shape '
                f'{tuple(like.shape)}; make a new state with rule.init_state() for every sampling run'
            )

    def all_younger_than(self, age: int) -> bool:
        """Whether no difference is that old. Waits for the device, except while being traced (then False)."""
        if self.age is None or torch.compiler.is_compiling():
            return False
        return bool((self.age < age).all())
