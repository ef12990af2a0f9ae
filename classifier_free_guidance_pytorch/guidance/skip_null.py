"""Rules around a rule that skip the null pass where it would change little.

Which samples can do without their next null pass is a flag per sample in the state. `branches` and `null_rows` read these flags
from the device at most once per step, however often they are asked; `guide` sees from `given.null` and `step.rows` what was
decided, and reads nothing.

    needed, rows = rule.branches(scale, state), rule.null_rows(scale, state)
    cond = model(x)
    null = (model(x, null=True) if rows is None else model(x[rows], null=True)) if 'null' in needed else None
    guided = rule(cond, null, scale, state=state, rows=rows)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.guidance.checks import Scale, check_alike, check_number, per_sample, uniform_value
from classifier_free_guidance_pytorch.guidance.combine import Combined, Rule, Wrapper
from classifier_free_guidance_pytorch.guidance.reductions import dot, norm, ratio, widened
from classifier_free_guidance_pytorch.guidance.rule import BaseRule
from classifier_free_guidance_pytorch.guidance.scales import guided_samples
from classifier_free_guidance_pytorch.guidance.step import Predictions, State, Step
from classifier_free_guidance_pytorch.rows import is_readable


@dataclass(eq=False)
class SkipState(State):
    """Which samples can do without their next null pass, `(b, 1, ...)`, and how many null passes of one sample were saved."""

    can_skip: Tensor | None = field(default=None, repr=False)
    to_run: list[int] | None = field(default=None, repr=False)
    """The samples that cannot; None where the flags were not read since `can_skip` changed."""
    saved: int = 0

    def set(self, can_skip: Tensor) -> None:
        """Remember which samples can do without their next null pass."""
        self.can_skip, self.to_run = can_skip, None

    def rows(self) -> list[int] | None:
        """Return the samples that need their null pass, None for all. Reads the flags, which forces a sync; not while traced."""
        if torch.compiler.is_compiling() or self.can_skip is None or self.can_skip.is_meta:
            return None
        if self.to_run is None:
            flags = self.can_skip.flatten().to('cpu').numpy()  # one transfer
            self.to_run = (~flags).nonzero()[0].tolist()
        return None if len(self.to_run) == self.can_skip.numel() else self.to_run

    def count(self, cond: Tensor, null: Tensor | None, scale: Scale, rows: Tensor | None) -> None:
        """Count the null passes of single samples that this step was without, of those that its scale asked for."""
        asked = cond.shape[0]
        if isinstance(scale, Tensor) and scale.ndim == 1 and scale.shape[0] == asked and is_readable(scale):
            asked = int((scale != 1).sum())
        elif uniform_value(scale) == 1:
            asked = 0
        self.saved += max(0, asked - (0 if null is None else cond.shape[0] if rows is None else rows.shape[0]))


@dataclass(eq=False)
class ReuseState(SkipState):
    """The last measured `u - c`, `(b, ...)`, and how many steps ago each sample measured it, `(b, 1, ...)`."""

    delta: Tensor | None = field(default=None, repr=False)
    age: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True)
class SkipNull(Wrapper):
    """A wrapper with a state of its own, around a rule of the conditional and the null branch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule.needs_of_parts() != {'cond', 'null'} or not self.rule.anchored:
            raise ConfigError(
                f'{type(self).__name__}: {self.rule!r} cannot do without its null pass; wrap a rule of cond and null that '
                'returns cond at scale 1, such as CFG() or APG()'
            )

    @property
    def remembers(self) -> bool:
        return True

    def check_state(self, state: State | None) -> None:
        BaseRule.check_state(self, state)

    def wanted(self, scale: Scale, step: Step) -> tuple[str, ...]:
        state = step.state
        needed = self.rule.wanted(scale, step.but(state=None if state is None else state.parts[0]))
        if 'null' not in needed:
            return needed
        # cond is needed even at a scale of 0: whether the null pass may be left out is seen from both
        return ('cond',) if self._rows(scale, state) == [] else ('cond', 'null')

    def null_rows(self, scale: Scale, state: State | None = None) -> Tensor | None:
        rows = self._rows(scale, state)
        return torch.tensor(rows) if rows else None

    def _rows(self, scale: Scale, state: State | None) -> list[int] | None:
        """Return the samples that need their null pass at this scale, None for all."""
        of_rule = self.rule.null_rows(scale, None if state is None else state.parts[0])
        own = state.rows() if isinstance(state, SkipState) else None
        if of_rule is None or own is None:
            return own if of_rule is None else of_rule.tolist()
        return sorted(set(own) & set(of_rule.tolist()))


def _skips_null(rule: Rule) -> bool:
    """Return whether a rule, or one that it is made of, skips null passes."""
    return isinstance(rule, SkipNull) or (isinstance(rule, Combined) and any(map(_skips_null, rule.parts)))


@dataclass(frozen=True)
class Adaptive(SkipNull):
    """Adaptive guidance: once `cosine(c, u)` of a sample reaches a threshold, its later steps return `cond`.

    `null_rows` names the samples that have not got there; once all have, the null pass is skipped. A sample alone and in a batch
    gets the same. Inside `torch.compile` nothing is skipped. The paper compares noise predictions.

    Args:
        rule: The rule that guides until then.
        threshold: Of the cosine similarity, in (-1, 1]; the paper's is 0.991.

    Adaptive Guidance, arXiv 2312.12487. Oracle: the definition, written out per sample.

    >>> import torch
    >>> from classifier_free_guidance_pytorch.guidance import CFG
    >>> rule = Adaptive(CFG(), threshold=0.9)
    >>> state = rule.init_state()
    >>> rule.branches(3., state)
    ('cond', 'null')
    >>> _ = rule(torch.tensor([[1., 0.]]), torch.tensor([[1., 0.1]]), 3., state=state)
    >>> rule.branches(3., state)
    ('cond',)
    """

    threshold: float = 0.991
    paper_space: ClassVar[str | None] = 'eps'

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number('Adaptive', 'threshold', self.threshold, -1, 1)
        if _skips_null(self.rule):
            raise ConfigError(
                f'Adaptive: {self.rule!r} skips null passes itself, so the cosine could not be measured; '
                'wrap the other way round, as in ReuseDelta(Adaptive(rule))'
            )

    def init_state(self, like: Tensor | None = None) -> State | None:
        flags = None if like is None else torch.zeros(per_sample(like), dtype=torch.bool, device=like.device)
        return SkipState(self, (self.rule.init_state(like),), flags)

    def guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        state, cond, null = step.state, given.cond, given.null
        assert isinstance(state, SkipState)
        assert cond is not None
        check_alike('Adaptive', {'cond': cond} if null is None else {'cond': cond, 'null': null})
        converged = state.can_skip
        state.check_held('flags', converged, per_sample(cond), cond)
        state.count(cond, null, scale, step.rows)
        if null is None:
            return cond
        guided = self.rule.guide(given, scale, step.but(state=state.parts[0]))
        cosine = ratio(dot(cond, null), norm(cond) * norm(null))  # (b, 1, ...)
        reached = (cosine >= self.threshold) & guided_samples(scale, cond)
        if converged is not None:
            guided = torch.where(converged, cond, guided)  # (b, ...)
            reached = reached | converged
        state.set(reached)
        return guided


@dataclass(frozen=True)
class ReuseDelta(SkipNull):
    """Delta reuse: measure `u - c` at one step, and add it to `c` instead of a null pass at the next `every - 1`.

    Args:
        rule: The rule that guides.
        every: A null pass is made at every so many steps; 1 saves nothing.

    CFG-Cache of FasterCache, arXiv 2410.19355, without its split by frequency. Oracle: the definition, written out per step.

    >>> from classifier_free_guidance_pytorch.guidance import CFG
    >>> rule = ReuseDelta(CFG(), every=2)
    >>> state = rule.init_state()
    >>> rule.branches(3., state)
    ('cond', 'null')
    """

    every: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.every, int) or isinstance(self.every, bool) or self.every < 1:
            raise ConfigError(f'ReuseDelta: every must be a whole number of steps, at least 1, got {self.every!r}')

    def init_state(self, like: Tensor | None = None) -> State | None:
        state = ReuseState(self, (self.rule.init_state(like),))
        if like is not None:
            self._lay_out(state, like)
        return state

    def _lay_out(self, state: ReuseState, like: Tensor) -> None:
        """Make memory for predictions of this shape, with every difference too old to be used."""
        state.delta = torch.zeros_like(widened(like))
        state.age = torch.full(per_sample(like), self.every, device=like.device)
        state.set(state.age < self.every)

    def guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        state, cond, null = step.state, given.cond, given.null
        assert isinstance(state, ReuseState)
        assert cond is not None
        state.check_held('differences', state.delta, tuple(cond.shape), cond)
        if state.delta is None:
            self._lay_out(state, cond)
        assert state.delta is not None
        assert state.age is not None
        state.count(cond, null, scale, step.rows)
        if null is None:
            state.age = state.age + 1
            if uniform_value(scale) != 1:
                given = given.with_null((widened(cond) + state.delta).to(cond.dtype))
        else:
            measured = (state.age >= self.every) & guided_samples(scale, cond)  # (b, 1, ...)
            state.delta = torch.where(measured, widened(null) - widened(cond), state.delta).detach()
            state.age = torch.where(measured, 1, state.age + 1)
            given = given.with_null(torch.where(measured, null, (widened(cond) + state.delta).to(cond.dtype)))
        state.set(state.age < self.every)
        return self.rule.guide(given, scale, step.but(state=state.parts[0]))
