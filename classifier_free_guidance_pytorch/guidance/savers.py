"""Cost savers: rules around a rule that skip the null pass where it would change little.

Both decide in `branches(scale, state)` and count in their state the passes they saved.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError

from .checks import Scale, check_number
from .combine import Wrapper
from .reductions import dot, norm
from .rule import Predictions, Rule, Step
from .state import AdaptiveState, ReuseState, State


@dataclass(frozen=True)
class Saver(Wrapper):
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
        Rule.check_state(self, state)

    def init_state(self) -> State | None:
        raise NotImplementedError


@dataclass(frozen=True)
class Adaptive(Saver):
    """Adaptive guidance: once `cosine(c, u)` of a sample reaches a threshold, its later steps return `cond`.

    The null pass is skipped as soon as every sample of the batch has got there. A sample alone and in a batch gets the same.

    Args:
        rule: The rule that guides until then.
        threshold: Of the cosine similarity, in (-1, 1]; the paper's is 0.991.

    Adaptive Guidance, arXiv 2312.12487. Deciding reads one flag per step from the device; inside `torch.compile` the flag
    is not read, and nothing is skipped.

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

    def init_state(self) -> State | None:
        return AdaptiveState(self, (self.rule.init_state(),))

    def branches(self, scale: Scale = 1.0, state: State | None = None, progress: float | None = None) -> tuple[str, ...]:
        inner = None if state is None else state.parts[0]
        needed = self.rule.branches(scale, inner, progress)
        done = isinstance(state, AdaptiveState) and 'null' in needed and state.all_converged()
        return ('cond',) if done else needed

    def apply(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        state = step.state
        if isinstance(state, AdaptiveState) and state.rule == self and state.all_converged():
            state.saved += 'null' in self.rule.branches(scale, state.parts[0], step.progress)
        return super().apply(given, scale, step)

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        state = step.state
        assert isinstance(state, AdaptiveState)
        cond, null = given.main(), given.unguided()
        guided = self.rule.apply(given, scale, step._replace(state=state.parts[0]))
        lengths = norm(cond) * norm(null)
        cosine = dot(cond, null) / torch.where(lengths > 0, lengths, torch.ones_like(lengths))
        converged = cosine >= self.threshold
        if state.converged is not None:
            guided = torch.where(state.converged, cond, guided)
            converged = converged | state.converged
        state.converged = converged
        return guided


@dataclass(frozen=True)
class ReuseDelta(Saver):
    """Delta reuse: measure `u - c` at one step, and add it to `c` in place of the null pass at the next `every - 1`.

    Args:
        rule: The rule that guides.
        every: A null pass is made at every so many steps; 1 saves nothing.

    CFG-Cache of FasterCache, arXiv 2410.19355, without its split by frequency.

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

    def init_state(self) -> State | None:
        return ReuseState(self, (self.rule.init_state(),))

    def _skips(self, state: State | None) -> bool:
        """Whether the difference at hand is fresh enough."""
        return isinstance(state, ReuseState) and state.delta is not None and state.age < self.every

    def branches(self, scale: Scale = 1.0, state: State | None = None, progress: float | None = None) -> tuple[str, ...]:
        inner = None if state is None else state.parts[0]
        needed = self.rule.branches(scale, inner, progress)
        if self._skips(state) and 'null' in needed:
            return ('cond',)
        return needed

    def apply(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        self.check_state(step.state)
        state = step.state
        assert isinstance(state, ReuseState)
        inner = step._replace(state=state.parts[0])
        reusing = self._skips(state) and 'null' in self.rule.branches(scale, inner.state, step.progress)
        needed = self.branches(scale, state, step.progress)
        self._check_given(given, needed)
        if reusing:
            state.check(given.main())
            assert state.delta is not None
            given = given._replace(null=given.main() + state.delta)
            state.saved += 1
        elif 'null' in needed:
            state.delta = (given.unguided() - given.main()).detach()
            state.age = 0
        state.age += 1  # at every step, guided or not: a difference does not keep
        return self.rule.apply(given, scale, inner)
