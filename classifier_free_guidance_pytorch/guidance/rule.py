"""What a rule is: a frozen set of parameters that turns predictions into a guided prediction.

A rule names the predictions it needs (`branches`), so that whoever owns the model runs those and no others, and is then called
with them. It never sees a model. Rules add (`+`), take post-steps (`.then`), and move to another prediction space (`.in_x0`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import UsageError

from .checks import Scale, uniform_value

if TYPE_CHECKING:
    from .combine import InX0, OnChannels, Sum, Then
    from .state import State

BRANCHES = ('cond', 'null', 'weak', 'conds', 'negatives')
"""Every prediction a rule can ask for, in the order in which `Rule.branches` names them."""

PostStep = Callable[[Tensor, Tensor], Tensor]
"""`(guided, cond) -> guided`."""


class Predictions(NamedTuple):
    """The predictions of one step; those that were not made are None or empty."""

    cond: Tensor | None = None
    null: Tensor | None = None
    weak: Tensor | None = None
    conds: tuple[Tensor, ...] = ()
    negatives: tuple[Tensor, ...] = ()

    def has(self, branch: str) -> bool:
        """Whether a branch was given."""
        value = getattr(self, branch)
        return value is not None and (not isinstance(value, tuple) or len(value) > 0)

    def main(self) -> Tensor:
        """Return the conditional prediction, which the caller has made sure is there."""
        assert self.cond is not None
        return self.cond

    def unguided(self) -> Tensor:
        """Return the null prediction, which the caller has made sure is there."""
        assert self.null is not None
        return self.null


class Step(NamedTuple):
    """Where sampling stands: the memory of the run, the noisy sample, its noise level, and progress from 0 (noise) to 1."""

    state: State | None = None
    x: Tensor | None = None
    sigma: Scale | None = None
    alpha: Scale | None = None
    progress: float | None = None


@dataclass(frozen=True)
class Rule:
    """A guidance rule; its subclasses are the rules of `guidance`."""

    needs: ClassVar[tuple[str, ...]] = ('cond', 'null')
    """The branches it needs at a scale that is neither 0 nor 1 throughout."""
    affine: ClassVar[bool] = False
    """Whether it gives the same answer in every prediction space."""
    null_at_zero: ClassVar[bool] = False
    """Whether a scale of 0 needs the null branch alone."""
    inside_attention: ClassVar[bool] = False
    """Whether its predictions are the outputs of cross-attention, and not those of the model."""

    @property
    def anchored(self) -> bool:
        """Whether a scale of 1 returns the conditional prediction unchanged."""
        return True

    @property
    def remembers(self) -> bool:
        """Whether it needs a state."""
        return False

    def branches(self, scale: Scale = 1.0, state: State | None = None, progress: float | None = None) -> tuple[str, ...]:
        """Name the predictions needed at this step.

        A number, or a CPU tensor outside `torch.compile`, is looked at, to find that every scale is exactly 1 (the
        conditional branch alone) or exactly 0 (the null branch alone); any other tensor is not, and asks for every branch.

        Args:
            scale: Guidance scale of this step.
            state: The state of this run, for rules that save passes.
            progress: From 0 (pure noise) to 1, for rules that change on the way.

        Returns:
            Names out of `cond`, `null`, `weak`, `conds`, `negatives`; none where the output is zero whatever they are.

        >>> from classifier_free_guidance_pytorch import guidance
        >>> guidance.CFG().branches(7.5), guidance.CFG().branches(1.), guidance.CFG().branches(0.)
        (('cond', 'null'), ('cond',), ('null',))
        """
        value = uniform_value(scale)
        if value == 1 and self.anchored:
            return ('cond',)
        return ('null',) if value == 0 and self.null_at_zero else self.needs

    def needs_of_parts(self) -> set[str]:
        """Return every branch that it, or a rule it is made of, may ask for."""
        return set(self.needs)

    def init_state(self, like: Tensor | None = None) -> State | None:
        """Make the memory of one sampling run, or None for a rule that needs none.

        Args:
            like: A tensor in the shape of the predictions. With it the memory is laid out before the first step, so that
                `torch.compile` needs no graph of its own for that step; without it, at the first step.

        >>> from classifier_free_guidance_pytorch import guidance
        >>> guidance.APG(momentum=-0.5).init_state() is None, guidance.CFG().init_state() is None
        (False, True)
        """
        return None

    def __call__(
        self,
        cond: Tensor | None = None,
        null: Tensor | None = None,
        scale: Scale = 1.0,
        *,
        weak: Tensor | None = None,
        conds: Sequence[Tensor] | None = None,
        negatives: Sequence[Tensor] | None = None,
        state: State | None = None,
        x: Tensor | None = None,
        sigma: Scale | None = None,
        alpha: Scale | None = None,
        progress: float | None = None,
    ) -> Tensor:
        """Guide.

        Args:
            cond: Prediction under the condition, `(b, ...)`.
            null: Prediction under the null condition or the negative prompt that replaces it.
            scale: 1 means off, 0 unconditional: a number, one value per sample `(b,)`, or a tensor that broadcasts.
            weak: Prediction of a weakened pass.
            conds: Predictions under further conditions.
            negatives: Predictions under negative texts that are kept apart from null.
            state: What `init_state` returned, for rules that remember; updated in place.
            x: The noisy sample, for `in_x0`.
            sigma: Its noise level (or flow time), a number or one value per sample.
            alpha: The factor of the clean sample in it, where that does not follow from `sigma`.
            progress: From 0 (pure noise) to 1, for rules that change on the way.

        Returns:
            The guided prediction, in the shape and dtype of the predictions.

        Raises:
            UsageError: A branch or a state that the rule needs at this scale was not given, or the state is another rule's.
            ShapeError: Predictions or scale do not fit together.
            ConfigError: They differ in dtype or device.
        """
        given = Predictions(cond, null, weak, tuple(conds or ()), tuple(negatives or ()))
        return self.apply(given, scale, Step(state, x, sigma, alpha, progress))

    def apply(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        """Check that what is needed was given, take the short cuts, and guide."""
        self.check_state(step.state)
        needed = self.branches(scale, step.state, step.progress)
        if len(needed) == 0:
            return self._nothing(given, step)
        self._check_given(given, needed)
        if len(needed) == 1:
            return self._alone(given.main() if needed[0] == 'cond' else given.unguided())
        return self._guide(given, scale, step)

    def check_state(self, state: State | None) -> None:
        """Raise `UsageError` unless the state is this rule's own, or neither is needed nor given."""
        if state is None:
            if self.remembers:
                raise UsageError(
                    f'{self!r} remembers between steps, so it needs a state: make one with rule.init_state() before '
                    'sampling, and hand it in at every step'
                )
        elif not self.remembers:
            raise UsageError(f'{self!r} remembers nothing between steps, but was given the state of {state.rule!r}; pass none')
        elif state.rule is not self and state.rule != self:
            raise UsageError(f'the state given to {self!r} was made by {state.rule!r}; make one with rule.init_state()')

    def _check_given(self, given: Predictions, needed: tuple[str, ...]) -> None:
        """Raise `UsageError` for a branch that is needed and missing."""
        missing = [branch for branch in needed if not given.has(branch)]
        if missing:
            has = [branch for branch in BRANCHES if given.has(branch)]
            raise UsageError(
                f'{type(self).__name__} needs {_listed(needed)} at this scale, but {_listed(missing)} '
                f'{"was" if len(missing) == 1 else "were"} not given (got {_listed(has)}); rule.branches(scale) says what to run'
            )

    def _nothing(self, given: Predictions, step: Step) -> Tensor:
        """Return the zero output of a step for which no pass is made, shaped like whatever is at hand."""
        for like in (given.cond, given.null, step.x):
            if like is not None:
                return torch.zeros_like(like)
        raise UsageError(f'{type(self).__name__} is zero at this step; give x=, or any prediction, so that its shape is known')

    def _alone(self, prediction: Tensor) -> Tensor:
        """Return what the rule makes of the only branch it needs."""
        return prediction

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        """Guide, with all needed branches at hand."""
        raise NotImplementedError

    def __add__(self, other: Rule) -> Sum:
        """Add the deltas of two rules: `c + (self - c) + (other - c)`."""
        from .combine import Sum  # combine builds on this module

        if not isinstance(other, Rule):
            return NotImplemented
        return Sum((self, other))

    def then(self, post: PostStep) -> Then:
        """Follow this rule by a post-step, such as `guidance.rescale_to_cond(0.7)`; post-steps chain."""
        from .combine import Then

        return Then(self, post)

    def in_x0(self, space: str) -> InX0:
        """Apply this rule to clean samples, for a model that predicts `'eps'`, `'v'` or `'flow'`; calls take `x` and `sigma`."""
        from .combine import InX0

        return InX0(self, space)

    def on_channels(self, start: int, stop: int | None = None, dim: int = 1) -> OnChannels:
        """Guide only these channels; the others stay those of `cond` (learned-variance models guide only the mean)."""
        from .combine import OnChannels

        return OnChannels(self, start, stop, dim)


def _listed(names: Sequence[str]) -> str:
    """Write names as a list, for a message."""
    return ', '.join(repr(name) for name in names) or 'nothing'
