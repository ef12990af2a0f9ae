"""Rules around a rule that skip the null pass where it would change little.

Which samples can do without their next null pass is a flag per sample in the state. `branches` reads at most one flag from the
device per step, whether all can, however often it is asked; `guide` sees from `given.null` what was decided, and reads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.guidance.checks import Scale, check_alike, check_number, per_sample, uniform_value
from classifier_free_guidance_pytorch.guidance.combine import Combined, Rule, Wrapper
from classifier_free_guidance_pytorch.guidance.reductions import dot, norm, ratio
from classifier_free_guidance_pytorch.guidance.rule import BaseRule, Predictions, State, Step
from classifier_free_guidance_pytorch.guidance.scales import guided_samples


@dataclass(eq=False)
class SkipState(State):
    """Which samples can do without their next null pass, `(b, 1, ...)`, and how many null passes were saved so far."""

    can_skip: Tensor | None = field(default=None, repr=False)
    all_can: bool | None = field(default=None, repr=False)
    """Whether all can; None where it was not read since `can_skip` changed."""
    saved: int = 0

    def set(self, can_skip: Tensor) -> None:
        """Remember which samples can do without their next null pass."""
        self.can_skip, self.all_can = can_skip, None

    def skips(self) -> bool:
        """Return whether no sample needs its null pass. Reads one flag, which forces a sync; never while being traced."""
        if torch.compiler.is_compiling() or self.can_skip is None:
            return False
        if self.all_can is None:
            self.all_can = bool(self.can_skip.all())
        return self.all_can


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

    def branches(self, scale: Scale = 1.0, state: State | None = None, progress: float | None = None) -> tuple[str, ...]:
        needed = self.rule.branches(scale, state.parts[0] if state is not None else None, progress)
        if 'null' not in needed:
            return needed
        # cond is needed even at a scale of 0: whether the null pass may be left out is seen from both
        return ('cond',) if isinstance(state, SkipState) and state.skips() else ('cond', 'null')


def _skips_null(rule: Rule) -> bool:
    """Return whether a rule, or one that it is made of, skips null passes."""
    return isinstance(rule, SkipNull) or (isinstance(rule, Combined) and any(map(_skips_null, rule.parts)))


@dataclass(frozen=True)
class Adaptive(SkipNull):
    """Adaptive guidance: once `cosine(c, u)` of a sample reaches a threshold, its later steps return `cond`.

    The null pass is skipped as soon as every sample of the batch has got there. A sample alone and in a batch gets the same.
    Inside `torch.compile` nothing is skipped.

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
        if null is None:
            state.saved += uniform_value(scale) != 1
            return cond
        guided = self.rule.guide(given, scale, step._replace(state=state.parts[0]))
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
        state.delta = torch.zeros_like(like)
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
        if null is None:
            state.age = state.age + 1
            if uniform_value(scale) != 1:
                state.saved += 1
                given = given._replace(null=cond + state.delta)
        else:
            measured = (state.age >= self.every) & guided_samples(scale, cond)  # (b, 1, ...)
            state.delta = torch.where(measured, null - cond, state.delta).detach()
            state.age = torch.where(measured, 1, state.age + 1)
            given = given._replace(null=torch.where(measured, null, cond + state.delta))
        state.set(state.age < self.every)
        return self.rule.guide(given, scale, step._replace(state=state.parts[0]))
