"""What a rule is: a frozen set of parameters that turns the predictions of one step into a guided prediction.

A rule never sees a model. It names the predictions that it needs, so that whoever owns the model makes those passes and no
others, and is then handed exactly those:

    needed = rule.branches(scale, state, progress)      # ('cond', 'null')
    guided = rule.guide(Predictions(cond, null), scale, Step(state, x, sigma, alpha, progress))      # (b, ...)

`rule(cond, null, scale)` does both, with checks, for loops written by hand. A rule holds no tensors and remembers nothing: what
it needs from one step to the next is in a `State`, which the caller makes with `rule.init_state()`, hands in at every step of
one run, and owns. So two samplers that share a model and a rule never see each other's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError
from classifier_free_guidance_pytorch.guidance.checks import Scale, uniform_value

BRANCHES = ('cond', 'null', 'weak', 'conds', 'negatives')
"""Every prediction a rule can ask for, in the order in which `Rule.branches` names them."""

SEVERAL = ('conds', 'negatives')
"""Those of which there may be more than one."""


class Predictions(NamedTuple):
    """The predictions of one step, each `(b, ...)`; those that were not made are None or empty."""

    cond: Tensor | None = None
    null: Tensor | None = None
    weak: Tensor | None = None
    conds: tuple[Tensor, ...] = ()
    negatives: tuple[Tensor, ...] = ()

    def has(self, branch: str) -> bool:
        """Return whether a branch was given."""
        value = getattr(self, branch)
        return value is not None and (not isinstance(value, tuple) or len(value) > 0)

    def pair(self) -> tuple[Tensor, Tensor]:
        """Return `cond` and `null`, of which the caller knows that they are there."""
        assert self.cond is not None
        assert self.null is not None
        return self.cond, self.null

    def map(self, fn: Callable[[Tensor], Tensor]) -> Predictions:
        """Apply a function to every prediction."""
        cond, null, weak = (None if prediction is None else fn(prediction) for prediction in self[:3])
        return Predictions(cond, null, weak, tuple(map(fn, self.conds)), tuple(map(fn, self.negatives)))


class Step(NamedTuple):
    """Where sampling stands: the memory of the run, the noisy sample, its noise level, and progress from 0 (noise) to 1."""

    state: State | None = None
    x: Tensor | None = None
    sigma: Scale | None = None
    alpha: Scale | None = None
    progress: float | None = None


@dataclass(eq=False)
class State:
    """The memory of one sampling run under one rule, updated in place.

    Args:
        rule: The rule that made it, and the only one that may use it.
        parts: States of the rules it is composed of, None for those that remember nothing.
    """

    rule: BaseRule
    parts: tuple[State | None, ...] = ()

    def reset(self) -> None:
        """Forget everything, as before the first step."""
        for part in self.parts:
            if part is not None:
                part.reset()
        for entry in fields(self):
            if entry.name not in ('rule', 'parts'):
                setattr(self, entry.name, entry.default)

    def check_held(self, what: str, held: Tensor | None, expected: tuple[int, ...], like: Tensor) -> None:
        """Raise `ShapeError` where a remembered tensor belongs to predictions of another shape."""
        if held is not None and tuple(held.shape) != expected:
            raise ShapeError(
                f'guidance state holds {what} of shape {tuple(held.shape)}, but the predictions have shape '
                f'{tuple(like.shape)}; make a new state with rule.init_state() for every sampling run'
            )


@dataclass(frozen=True)
class BaseRule:
    """What every rule does for a sampler; `guidance.Rule` adds the ways in which rules are combined."""

    needs: ClassVar[tuple[str, ...]] = ('cond', 'null')
    """The branches it needs at a scale that is neither 0 nor 1 throughout."""
    null_at_zero: ClassVar[bool] = False
    """Whether a scale of 0 needs the null branch alone."""
    acts_at_one: ClassVar[bool] = False
    """Whether it has weights of its own, and so needs all its branches at a scale of 1."""
    inside_attention: ClassVar[bool] = False
    """Whether its predictions are the outputs of cross-attention instead of those of the model."""

    @property
    def anchored(self) -> bool:
        """Whether a scale of 1 returns the conditional prediction unchanged."""
        return not self.acts_at_one

    @property
    def remembers(self) -> bool:
        """Whether it needs a state."""
        return False

    @property
    def default_scale(self) -> float | None:
        """The scale of a call that gives none: the strongest of its own; 1 if it acts at 1; None if it would do nothing."""
        return 1.0 if self.acts_at_one else None

    def branches(self, scale: Scale = 1.0, state: State | None = None, progress: float | None = None) -> tuple[str, ...]:
        """Name the predictions needed at this step, in the order of `BRANCHES`.

        A number, or a CPU tensor outside `torch.compile`, is read, to find that every scale is exactly 1 (the conditional
        branch alone) or exactly 0 (the null branch alone). Any other tensor is not read, and asks for every branch.

        Args:
            scale: Guidance scale of this step.
            state: The state of this run, for rules that remember. `Adaptive` and `ReuseDelta` read one flag of it per step.
            progress: From 0 (pure noise) to 1, for rules that change on the way.

        Returns:
            Names out of `cond`, `null`, `weak`, `conds`, `negatives`; none where the output is zero whatever they are.

        Raises:
            ConfigError: What was passed is no scale.

        >>> from classifier_free_guidance_pytorch import guidance
        >>> guidance.CFG().branches(7.5), guidance.CFG().branches(1.), guidance.CFG().branches(0.)
        (('cond', 'null'), ('cond',), ('null',))
        """
        is_number = type(scale) is float and scale - scale == 0  # finite, said in a way that can be traced
        value = scale if is_number else uniform_value(scale)
        if value == 1 and not self.acts_at_one:
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
        """Guide, from at least the predictions that `branches` names; others are ignored.

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
            ConfigError: They differ in dtype or device, or what was passed is no scale.
        """
        for name, several in (('conds', conds), ('negatives', negatives)):
            if isinstance(several, Tensor):
                raise ConfigError(f'{name} must be a sequence of predictions, got one tensor; write {name}=(prediction,)')
        self.check_state(state)
        needed = self.branches(scale, state, progress)
        given = Predictions(cond, null, weak, tuple(conds or ()), tuple(negatives or ()))
        if not needed:
            return self._zero((cond, null, x))
        return self.guide(self._needed_of(given, needed), scale, Step(state, x, sigma, alpha, progress))

    def guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        """Guide, from exactly the predictions that `branches` named at this step, which must be at least one.

        Nothing is asked twice: that a pass was skipped is seen from its prediction, which is None.

        Args:
            given: The predictions.
            scale: The guidance scale that `branches` was asked with.
            step: The state and the other arguments of `__call__`.

        Returns:
            The guided prediction, `(b, ...)`.
        """
        for branch in self.needs:
            prediction = getattr(given, branch)
            if prediction is None or (branch in SEVERAL and not prediction):
                break
        else:
            return self._guide(given, scale, step)
        # one prediction is enough; inside a sum of rules others may be at hand all the same
        alone = given.null if self.null_at_zero and given.null is not None else given.cond
        assert alone is not None
        return self._alone(alone)

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        """Guide, with all branches of `needs` at hand."""
        raise NotImplementedError

    def _alone(self, prediction: Tensor) -> Tensor:
        """Return what the rule makes of the only branch it needs."""
        return prediction

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

    def _needed_of(self, given: Predictions, needed: Sequence[str]) -> Predictions:
        """Leave out what is not needed; raise `UsageError` where something needed is missing."""
        missing = [branch for branch in needed if not given.has(branch)]
        if missing:
            has = [branch for branch in BRANCHES if given.has(branch)]
            raise UsageError(
                f'{type(self).__name__} needs {_listed(needed)} at this scale, but {_listed(missing)} '
                f'{"was" if len(missing) == 1 else "were"} not given (got {_listed(has)}); rule.branches(scale) says what to run'
            )
        return Predictions(**{branch: getattr(given, branch) for branch in needed})

    def _zero(self, likes: Sequence[Tensor | None]) -> Tensor:
        """Return the output of a step for which no pass is made, shaped like whatever is at hand."""
        for like in likes:
            if like is not None:
                return torch.zeros_like(like)
        raise UsageError(f'{type(self).__name__} is zero at this step; give x=, or any prediction, so that its shape is known')


def in_order(names: Collection[str]) -> tuple[str, ...]:
    """Return branches in the order of `BRANCHES`."""
    return tuple(branch for branch in BRANCHES if branch in names)


def _listed(names: Sequence[str]) -> str:
    """Write names as a list, for a message."""
    return ', '.join(repr(name) for name in names) or 'nothing'
