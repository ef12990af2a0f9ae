"""What a rule is: a frozen set of parameters that turns the predictions of one step into a guided prediction.

A rule never sees a model. It names the predictions that it needs, so that whoever owns the model makes those passes and no
others, and is then handed exactly those:

    step = Step(state, x, sigma, alpha, progress)
    needed = rule.wanted(scale, step)                                    # ('cond', 'null')
    guided = rule.guide(Predictions(cond, null), scale, step)            # (b, ...)

`rule.branches(scale, state, progress)` and `rule(cond, null, scale)` are the same with checks, for loops written by hand. A rule
remembers nothing: what it needs from one step to the next is in a `State`, which the caller makes with `rule.init_state()`, hands
in at every step of one run, and owns. So two samplers that share a model and a rule never see each other's memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError, UsageError
from classifier_free_guidance_pytorch.guidance.checks import Scale, check_fits, uniform_value
from classifier_free_guidance_pytorch.guidance.step import BRANCHES, Predictions, State, Step, filled, is_weak
from classifier_free_guidance_pytorch.rows import is_readable


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
    reads_scale: ClassVar[bool] = False
    """Whether the model reads the guidance scale, so that its conditional prediction is guided already."""
    paper_space: ClassVar[str | None] = None
    """What predicts in the paper that it is from, one of `guidance.SPACES`; None where the answer is the same in all."""

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

    def branches(
        self, scale: Scale = 1.0, state: State | None = None, progress: float | None = None, *, sigma: Scale | None = None
    ) -> tuple[str, ...]:
        """Name the predictions needed at this step, in the order of `BRANCHES`.

        A number, or a CPU tensor outside `torch.compile`, is read, to find that every scale is exactly 1 (the conditional
        branch alone) or exactly 0 (the null branch alone). Any other tensor is not read, and asks for every branch.

        Args:
            scale: Guidance scale of this step.
            state: The state of this run, for rules that remember. `Adaptive` and `ReuseDelta` read one flag per sample per step.
            progress: From 0 (pure noise) to 1, for rules that change on the way.
            sigma: The noise level, for rules that change with it.

        Returns:
            Names out of `cond`, `null`, `weak`, `conds`, `negatives`, and those of weak passes that have one; none where the
            output is zero whatever they are.

        Raises:
            ConfigError: What was passed is no scale.

        >>> from classifier_free_guidance_pytorch import guidance
        >>> guidance.CFG().branches(7.5), guidance.CFG().branches(1.), guidance.CFG().branches(0.)
        (('cond', 'null'), ('cond',), ('null',))
        """
        return self.wanted(scale, Step(state, sigma=sigma, progress=progress))

    def wanted(self, scale: Scale, step: Step) -> tuple[str, ...]:
        """Name the predictions needed at a step: `branches`, for callers that have the step."""
        is_number = type(scale) is float and scale - scale == 0  # finite, said in a way that can be traced
        value = scale if is_number else uniform_value(scale)
        if value == 1 and not self.acts_at_one:
            return ('cond',)
        return ('null',) if value == 0 and self.null_at_zero else self.needs

    def null_rows(self, scale: Scale, state: State | None = None) -> Tensor | None:
        """Say which samples need the null prediction at this step, where `branches` names it.

        Args:
            scale: Guidance scale of this step; looked into where that costs nothing.
            state: The state of this run.

        Returns:
            Their indices, at least one of them; None for all. A null pass of these samples alone is handed in with `rows=`.

        >>> import torch
        >>> from classifier_free_guidance_pytorch import guidance
        >>> guidance.CFG().null_rows(torch.tensor([1., 3., 1., 5.]))
        tensor([1, 3])
        """
        if self.needs != ('cond', 'null') or not self.anchored or self.inside_attention or self.remembers:
            return None
        if not isinstance(scale, Tensor) or scale.ndim != 1 or not is_readable(scale) or scale.requires_grad:
            return None
        guided = (scale != 1).nonzero().flatten()
        return guided if 0 < len(guided) < len(scale) else None

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
        weak: Tensor | Mapping[str, Tensor] | None = None,
        conds: Sequence[Tensor] | None = None,
        negatives: Sequence[Tensor] | None = None,
        state: State | None = None,
        x: Tensor | None = None,
        sigma: Scale | None = None,
        alpha: Scale | None = None,
        progress: float | None = None,
        rows: Tensor | None = None,
        **named: Tensor,
    ) -> Tensor:
        """Guide, from at least the predictions that `branches` names; others are ignored.

        Args:
            cond: Prediction under the condition, `(b, ...)`.
            null: Prediction under the null condition or the negative prompt that replaces it.
            scale: 1 means off, 0 unconditional: a number, one value per sample `(b,)`, or a tensor of as many dimensions as the
                predictions.
            weak: Prediction of a weakened pass; of several, each by the name of its `Weak`.
            conds: Predictions under further conditions.
            negatives: Predictions under negative texts that are kept apart from null.
            state: What `init_state` returned, for rules that remember; updated in place.
            x: The noisy sample, for `in_space`.
            sigma: Its noise level (or flow time), a number or one value per sample.
            alpha: The factor of the clean sample in it, where that does not follow from `sigma`.
            progress: From 0 (pure noise) to 1, for rules that change on the way.
            rows: The samples that `null` was predicted for, `(r, ...)`, where `null_rows` did not ask for all.
            named: Predictions of weakened passes by the name of their `Weak`, instead of `weak={...}`.

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
        if isinstance(weak, Mapping):
            named, weak = {**named, **weak}, weak.get('weak')
            named.pop('weak', None)
        if unknown := [name for name in named if name not in self.needs_of_parts()]:
            known = [name for name in self.needs_of_parts() if is_weak(name)]
            raise ConfigError(f'{self!r} has no weak pass named {unknown[0]!r}; it has {_listed(sorted(known))}')
        step = Step(state, x, sigma, alpha, progress, rows=rows)
        needed = self.wanted(scale, step)
        if not needed:
            likes = [like for like in (cond, null, x) if like is not None]
            if not likes:
                raise UsageError(
                    f'{type(self).__name__} is zero at this step; give x=, or any prediction, so that its shape is known'
                )
            return self.zero(likes[0], step)
        if rows is not None and null is not None and cond is not None:
            null = filled(cond, null, rows)
        given = Predictions(cond, null, weak, tuple(conds or ()), tuple(negatives or ()), named)
        made = self._needed_of(given, needed)
        if isinstance(scale, Tensor):  # also one that is 1 throughout, and so not used
            check_fits(scale, made.first())
        return self.guide(made, scale, step)

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
        has_pair = given.cond is not None and given.null is not None  # of most rules all that they need
        if (has_pair and self.needs == ('cond', 'null')) or all(given.of(branch) is not None for branch in self.needs):
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

    @property
    def zero_space(self) -> str | None:
        """The space in which the steps without any pass are zero; None where there are no such steps."""
        return None

    def zero(self, like: Tensor, step: Step) -> Tensor:
        """Return the prediction of a step for which `branches` names none, in the shape of `like`."""
        return torch.zeros_like(like)

    def silent(self, step: Step, like: Tensor) -> Tensor | None:
        """Say which samples are zero at this step where others are not, `(b, 1, ...)`; None where no sample differs."""
        return None

    def check_state(self, state: State | None) -> None:
        """Raise `UsageError` unless the state is this rule's own, or neither is needed nor given."""
        if state is not None and not isinstance(state, State):
            raise ConfigError(f'state must be what rule.init_state() returned, got {state!r}')
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
        missing = [branch for branch in needed if given.of(branch) is None]
        if missing:
            has = [branch for branch in (*BRANCHES, *given.named) if given.of(branch) is not None]
            raise UsageError(
                f'{type(self).__name__} needs {_listed(needed)} at this scale, but {_listed(missing)} '
                f'{"was" if len(missing) == 1 else "were"} not given (got {_listed(has)}); rule.branches(scale) says what to run'
            )
        for branch in needed:
            made = given.of(branch)
            for one in made if isinstance(made, tuple) else (made,):
                if not isinstance(one, Tensor):
                    raise ConfigError(f'{branch} must be a prediction, a tensor (b, ...), got {one!r}')
        return Predictions.by_branch({branch: given.of(branch) for branch in needed})


def _listed(names: Sequence[str]) -> str:
    """Write names as a list, for a message."""
    return ', '.join(repr(name) for name in names) or 'nothing'
