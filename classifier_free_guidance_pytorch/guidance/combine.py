"""Rules that combine: sums, post-steps, another prediction space, a part of the channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError
from classifier_free_guidance_pytorch.guidance.checks import Scale, uniform_value
from classifier_free_guidance_pytorch.guidance.rule import BaseRule, Predictions, State, Step, in_order
from classifier_free_guidance_pytorch.guidance.spaces import check_space, from_x0, to_x0

PostStep = Callable[[Tensor, Tensor], Tensor]
"""`(guided, cond) -> guided`."""


@dataclass(frozen=True)
class Rule(BaseRule):
    """A guidance rule; its subclasses are the rules of `guidance`."""

    def __add__(self, other: Rule) -> Sum:
        """Add the deltas of two rules: `c + (self - c) + (other - c)`."""
        return Sum((self, other)) if isinstance(other, Rule) else NotImplemented

    def then(self, post: PostStep) -> Then:
        """Follow this rule by a post-step, such as `guidance.rescale_to_cond(0.7)`; post-steps chain."""
        return Then(self, post)

    def in_x0(self, space: str) -> InX0:
        """Apply this rule to clean samples, for a model that predicts `'eps'`, `'v'` or `'flow'`; calls take `x` and `sigma`."""
        return InX0(self, space)

    def on_channels(self, start: int, stop: int | None = None, dim: int = 1) -> OnChannels:
        """Guide only these channels; the others stay those of `cond` (learned-variance models guide only the mean)."""
        return OnChannels(self, start, stop, dim)


@dataclass(frozen=True)
class Combined(Rule):
    """A rule made of rules, which answers for its parts."""

    @property
    def parts(self) -> tuple[Rule, ...]:
        """The rules it is made of."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        for rule in self.parts:
            if not isinstance(rule, Rule):
                raise ConfigError(f'{type(self).__name__}: expected a rule, got {rule!r}')
            if rule.inside_attention:
                raise ConfigError(f'{type(self).__name__}: {rule!r} guides inside attention, and cannot be combined')

    @property
    def anchored(self) -> bool:
        return all(rule.anchored for rule in self.parts)

    @property
    def remembers(self) -> bool:
        return any(rule.remembers for rule in self.parts)

    @property
    def default_scale(self) -> float | None:
        defaults = [rule.default_scale for rule in self.parts]
        own = [scale for scale in defaults if scale not in (None, 1.0)]
        return own[0] if own else 1.0 if 1.0 in defaults else None

    def needs_of_parts(self) -> set[str]:
        return set().union(*(rule.needs_of_parts() for rule in self.parts))


@dataclass(frozen=True)
class Sum(Combined):
    """The sum of the deltas of several rules: `r_1 + sum_i (r_i - c)` over the others, all at the same scale.

    Args:
        rules: Two or more rules; sums in sums are flattened. One scale guides all, and `Weak` brings a weight of its own.

    A step at which one rule is zero by itself (CFG-Zero*) is zero altogether.

    >>> import torch
    >>> from classifier_free_guidance_pytorch import guidance
    >>> rule = guidance.CFG() + guidance.Weak(2.)
    >>> rule(torch.ones(1, 2), torch.zeros(1, 2), 3., weak=torch.zeros(1, 2))
    tensor([[5., 5.]])
    """

    rules: tuple[Rule, ...]

    @property
    def parts(self) -> tuple[Rule, ...]:
        return self.rules

    def __post_init__(self) -> None:
        super().__post_init__()
        flat = [part for rule in self.rules for part in (rule.rules if isinstance(rule, Sum) else (rule,))]
        if len(flat) < 2:
            raise ConfigError(f'Sum: expected at least two rules, got {len(flat)}')
        object.__setattr__(self, 'rules', tuple(flat))

    def _states(self, state: State | None) -> tuple[State | None, ...]:
        return (None,) * len(self.rules) if state is None else state.parts

    def branches(self, scale: Scale = 1.0, state: State | None = None, progress: float | None = None) -> tuple[str, ...]:
        needed = [rule.branches(scale, part, progress) for rule, part in zip(self.rules, self._states(state), strict=True)]
        return in_order({'cond'}.union(*needed)) if all(needed) else ()

    def init_state(self, like: Tensor | None = None) -> State | None:
        return State(self, tuple(rule.init_state(like) for rule in self.rules)) if self.remembers else None

    def guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        cond, states = given.cond, self._states(step.state)
        assert cond is not None
        guided = self.rules[0].guide(given, scale, step._replace(state=states[0]))
        for rule, state in zip(self.rules[1:], states[1:], strict=True):
            guided = guided + (rule.guide(given, scale, step._replace(state=state)) - cond)
        return guided


@dataclass(frozen=True)
class Wrapper(Combined):
    """A rule around one other rule, whose branches and state are its own."""

    rule: Rule
    compares_with_cond: ClassVar[bool] = False
    """Whether it needs cond even where the rule itself needs null alone."""

    @property
    def parts(self) -> tuple[Rule, ...]:
        return (self.rule,)

    def branches(self, scale: Scale = 1.0, state: State | None = None, progress: float | None = None) -> tuple[str, ...]:
        needed = self.rule.branches(scale, state, progress)
        return in_order({'cond', *needed}) if needed and self.compares_with_cond else needed

    def init_state(self, like: Tensor | None = None) -> State | None:
        return self.rule.init_state(like)

    def check_state(self, state: State | None) -> None:
        self.rule.check_state(state)


@dataclass(frozen=True)
class Then(Wrapper):
    """A rule followed by a post-step, `post(guided, cond)`.

    Args:
        rule: The rule.
        post: `guidance.rescale_to_cond(...)`, `guidance.renorm_to_cond(...)`, or any callable `(guided, cond) -> Tensor`.

    >>> from classifier_free_guidance_pytorch import guidance
    >>> guidance.CFG().then(guidance.rescale_to_cond(0.7))
    Then(rule=CFG(), post=Rescale(phi=0.7))
    """

    post: PostStep
    compares_with_cond: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.post):
            raise ConfigError(f'then: expected a post-step, a callable of (guided, cond), got {self.post!r}')

    @property
    def anchored(self) -> bool:
        return self.rule.anchored and bool(getattr(self.post, 'keeps_cond', False))

    def guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        assert given.cond is not None
        post = self.post  # a callable in a field is no method
        return post(self.rule.guide(given, scale, step), given.cond)


@dataclass(frozen=True)
class InX0(Wrapper):
    """A rule applied to clean samples, for a model that predicts something else.

    Args:
        rule: The rule.
        space: What the model predicts: `'eps'`, `'v'`, `'flow'` (or `'x0'`, which changes nothing). The call then takes
            `x`, `sigma` and where needed `alpha`; `guidance.to_x0` documents the formulas.

    >>> import torch
    >>> from classifier_free_guidance_pytorch import guidance
    >>> rule = guidance.APG().in_x0('v')
    >>> rule(torch.ones(1, 2), torch.zeros(1, 2), 1., x=torch.ones(1, 2), sigma=0.6)
    tensor([[1., 1.]])
    """

    space: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_space('in_x0', self.space)

    def guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        if self.space == 'x0' or (self.anchored and uniform_value(scale) == 1):
            return self.rule.guide(given, scale, step)  # cond itself, with no round trip through another space
        space, x, sigma, alpha = self.space, step.x, step.sigma, step.alpha
        if x is None or sigma is None:
            missing = 'x' if x is None else 'sigma'
            raise UsageError(
                f'a rule in x0 for a model that predicts {space!r} needs the noisy sample x= and its noise level sigma=; '
                f'{missing}= was not given'
            )
        clean = given.map(lambda prediction: to_x0(prediction, space, x, sigma, alpha))
        guided = from_x0(self.rule.guide(clean, scale, step), space, x, sigma, alpha)
        like = given.cond if given.cond is not None else given.null
        return guided.to(like.dtype if like is not None else x.dtype)


@dataclass(frozen=True)
class OnChannels(Wrapper):
    """A rule for some channels only; the others are those of the conditional prediction.

    Args:
        rule: The rule.
        start: First channel that is guided.
        stop: The channel after the last, or None for all that follow.
        dim: The dimension of the channels.

    >>> import torch
    >>> from classifier_free_guidance_pytorch import guidance
    >>> mean_only = guidance.CFG().on_channels(0, 1)        # a model that predicts a mean and a variance
    >>> mean_only(torch.ones(1, 2), torch.zeros(1, 2), 3.)
    tensor([[3., 1.]])
    """

    start: int
    stop: int | None = None
    dim: int = 1
    compares_with_cond: ClassVar[bool] = True

    def guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        cond, dim = given.cond, self.dim
        assert cond is not None
        size = cond.shape[dim] if -cond.ndim <= dim < cond.ndim else 0
        start, stop, _ = slice(self.start, self.stop).indices(size)
        if start >= stop:
            raise ShapeError(
                f'on_channels: channels {self.start} to {self.stop} of dimension {dim} are empty for predictions of '
                f'shape {tuple(cond.shape)}'
            )
        x = step.x
        if x is not None and x.shape == cond.shape:
            x = x.narrow(dim, start, stop - start)
        part = given.map(lambda prediction: prediction.narrow(dim, start, stop - start))  # (b, stop - start, ...)
        guided = self.rule.guide(part, scale, step._replace(x=x))
        before, after = cond.narrow(dim, 0, start), cond.narrow(dim, stop, size - stop)
        return torch.cat((before, guided, after), dim=dim)
