"""Cost savers: rules around a rule that skip the null pass where it would change little.

Both decide in `branches(scale, state)` and count in their state the passes they saved.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError

from .checks import Scale, aligned, check_number
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

    def spares_null(self, state: State | None) -> bool:
        """Whether the null pass can be left out at this step."""
        raise NotImplementedError

    def branches(self, scale: Scale = 1.0, state: State | None = None, progress: float | None = None) -> tuple[str, ...]:
        needed = self.rule.branches(scale, state.parts[0] if state is not None else None, progress)
        if 'null' not in needed:
            return needed
        # cond is needed even at a scale of 0: whether the null pass may be left out is seen from both
        return ('cond',) if self.spares_null(state) else ('cond', 'null')

    def apply(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        self.check_state(step.state)
        state = step.state
        assert isinstance(state, AdaptiveState | ReuseState)
        needed = self.branches(scale, state, step.progress)
        if len(needed) == 0:
            return self._nothing(given, step)
        self._check_given(given, needed)
        wanted = self.rule.branches(scale, state.parts[0], step.progress)
        if 'null' in wanted and 'null' not in needed:
            state.saved += 1
        return self._guide(given if 'null' in needed else given._replace(null=None), scale, step)


def guided_samples(scale: Scale, like: Tensor) -> Tensor | bool:
    """Say which samples are guided at this step: those of which the scale is not 1.

    Nothing is measured on the others, since a sample alone would not have had its null pass.
    """
    return (torch.as_tensor(aligned(scale, like)) != 1) if isinstance(scale, Tensor) else scale != 1


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

    def init_state(self, like: Tensor | None = None) -> State | None:
        state = AdaptiveState(self, (self.rule.init_state(like),))
        if like is not None:
            state.converged = torch.zeros((like.shape[0],) + (1,) * (like.ndim - 1), dtype=torch.bool, device=like.device)
        return state

    def spares_null(self, state: State | None) -> bool:
        return isinstance(state, AdaptiveState) and state.all_converged()

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        state, cond, null = step.state, given.main(), given.null
        assert isinstance(state, AdaptiveState)
        state.check(cond)
        if null is None:
            return cond
        guided = self.rule.apply(given, scale, step._replace(state=state.parts[0]))
        lengths = norm(cond) * norm(null)
        cosine = dot(cond, null) / torch.where(lengths > 0, lengths, torch.ones_like(lengths))
        converged = (cosine >= self.threshold) & guided_samples(scale, cond)
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

    def init_state(self, like: Tensor | None = None) -> State | None:
        state = ReuseState(self, (self.rule.init_state(like),))
        if like is not None:
            state.prepare(like, self.every)
        return state

    def spares_null(self, state: State | None) -> bool:
        return isinstance(state, ReuseState) and state.all_younger_than(self.every)

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        state, cond = step.state, given.main()
        assert isinstance(state, ReuseState)
        state.prepare(cond, self.every)
        assert state.delta is not None
        assert state.age is not None
        reused = cond + state.delta
        if given.null is None:
            given = given._replace(null=reused)
            state.age = state.age + 1
        else:
            measured = (state.age >= self.every) & guided_samples(scale, cond)
            given = given._replace(null=torch.where(measured, given.null, reused))
            state.delta = torch.where(measured, given.unguided() - cond, state.delta).detach()
            state.age = torch.where(measured, 1, state.age + 1)
        return self.rule.apply(given, scale, step._replace(state=state.parts[0]))
