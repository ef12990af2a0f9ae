"""Rules that combine: sums, post-steps, another prediction space, a part of the channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError
from classifier_free_guidance_pytorch.guidance.checks import Scale, shown, uniform_value
from classifier_free_guidance_pytorch.guidance.rule import BaseRule
from classifier_free_guidance_pytorch.guidance.spaces import alpha_of, check_space, convert
from classifier_free_guidance_pytorch.guidance.step import Predictions, State, Step, in_order

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

    def in_space(self, space: str, *, model: str) -> InSpace:
        """Apply this rule to what a model would predict in one of `guidance.SPACES`; calls take `x` and `sigma`.

        Args:
            space: Where the rule works. `rule.paper_space` is that of its paper.
            model: What the model predicts.
        """
        return InSpace(self, space, model)

    def in_x0(self, model: str) -> InSpace:
        """Apply this rule to clean samples: `in_space('x0', model=model)`."""
        return InSpace(self, 'x0', model)

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
            if rule.reads_scale:
                raise ConfigError(f'{type(self).__name__}: {rule!r} is what the model does by itself, and cannot be combined')

    @property
    def anchored(self) -> bool:
        return all(rule.anchored for rule in self.parts)

    @property
    def remembers(self) -> bool:
        return any(rule.remembers for rule in self.parts)

    @property
    def zero_space(self) -> str | None:
        return next((rule.zero_space for rule in self.parts if rule.zero_space is not None), None)

    def silent(self, step: Step, like: Tensor) -> Tensor | None:
        masks = [mask for mask in (rule.silent(step, like) for rule in self.parts) if mask is not None]
        return reduce(torch.logical_or, masks) if masks else None

    def silenced(self, guided: Tensor, step: Step) -> Tensor:
        """Return a prediction in which the samples that are zero at this step are so, whatever was added to them."""
        silent = self.silent(step, guided)
        return guided if silent is None else torch.where(silent, self.zero(guided, step), guided)

    @property
    def default_scale(self) -> float | None:
        defaults = [rule.default_scale for rule in self.parts]
        own = [scale for scale in defaults if scale not in (None, 1.0)]
        return own[0] if own else 1.0 if 1.0 in defaults else None

    def needs_of_parts(self) -> set[str]:
        return {name for rule in self.parts for name in rule.needs_of_parts()}


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

    def wanted(self, scale: Scale, step: Step) -> tuple[str, ...]:
        states = self._states(step.state)
        needed = [rule.wanted(scale, step.but(state=state)) for rule, state in zip(self.rules, states, strict=True)]
        return in_order(dict.fromkeys(['cond', *(name for one in needed for name in one)])) if all(needed) else ()

    def null_rows(self, scale: Scale, state: State | None = None) -> Tensor | None:
        of_parts = zip(self.rules, self._states(state), strict=True)
        needed = [rule.null_rows(scale, part) for rule, part in of_parts if 'null' in rule.needs_of_parts()]
        rows = [one for one in needed if one is not None]
        return torch.unique(torch.cat(rows)) if rows and len(rows) == len(needed) else None

    def zero(self, like: Tensor, step: Step) -> Tensor:
        return next((rule.zero(like, step) for rule in self.rules if rule.zero_space is not None), torch.zeros_like(like))

    def init_state(self, like: Tensor | None = None) -> State | None:
        return State(self, tuple(rule.init_state(like) for rule in self.rules)) if self.remembers else None

    def guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        cond, states = given.cond, self._states(step.state)
        assert cond is not None
        guided = self.rules[0].guide(given, scale, step.but(state=states[0]))
        for rule, state in zip(self.rules[1:], states[1:], strict=True):
            guided = guided + (rule.guide(given, scale, step.but(state=state)) - cond)
        return self.silenced(guided, step)


@dataclass(frozen=True)
class Wrapper(Combined):
    """A rule around one other rule, whose branches and state are its own."""

    rule: Rule
    compares_with_cond: ClassVar[bool] = False
    """Whether it needs cond even where the rule itself needs null alone."""

    @property
    def parts(self) -> tuple[Rule, ...]:
        return (self.rule,)

    def wanted(self, scale: Scale, step: Step) -> tuple[str, ...]:
        needed = self.rule.wanted(scale, step)
        return in_order({'cond', *needed}) if needed and self.compares_with_cond else needed

    def null_rows(self, scale: Scale, state: State | None = None) -> Tensor | None:
        return self.rule.null_rows(scale, state)

    def zero(self, like: Tensor, step: Step) -> Tensor:
        return self.rule.zero(like, step)

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
        return self.silenced(post(self.rule.guide(given, scale, step), given.cond), step)


@dataclass(frozen=True)
class InSpace(Wrapper):
    """A rule applied to what the model would predict in another space.

    Args:
        rule: The rule.
        space: Where it works, one of `guidance.SPACES`.
        model: What the model predicts. Where the two differ the call takes `x`, `sigma` and where needed `alpha`;
            `guidance.convert` has the formulas.

    >>> import torch
    >>> from classifier_free_guidance_pytorch import guidance
    >>> rule = guidance.APG().in_space('x0', model='v')
    >>> rule(torch.ones(1, 2), torch.zeros(1, 2), 1., x=torch.ones(1, 2), sigma=0.6)
    tensor([[1., 1.]])
    """

    space: str
    model: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_space('in_space', self.space)
        check_space('in_space: model', self.model)
        if self.rule.zero_space not in (None, self.space):
            raise ConfigError(
                f'in_space: {self.rule!r} is zero at its first steps, which is a velocity: use '
                f'in_space({self.rule.zero_space!r}, model={self.model!r}), not {self.space!r}'
            )

    @property
    def zero_space(self) -> str | None:
        return None if self.rule.zero_space is None else self.model

    def guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        like = given.first()
        is_cond = self.anchored and uniform_value(scale) == 1 and self.silent(step, like) is None
        if self.space == self.model or is_cond:
            return self.rule.guide(given, scale, step)  # cond itself, with no round trip through another space
        levels = self._levels(step)
        moved = given.map(lambda prediction: convert(prediction, self.model, self.space, *levels))
        guided = self.rule.guide(moved, scale, step)
        return convert(guided, self.space, self.model, *levels).to(like.dtype)

    def zero(self, like: Tensor, step: Step) -> Tensor:
        zero = self.rule.zero(like, step)
        return zero if self.space == self.model else convert(zero, self.space, self.model, *self._levels(step)).to(like.dtype)

    def _levels(self, step: Step) -> tuple[Tensor, Scale, Scale]:
        """Return the noisy sample, its noise level and the factor of the clean sample in it, which follows from the model."""
        x, sigma = step.x, step.sigma
        if x is None or sigma is None:
            raise UsageError(
                f'a rule in {self.space} for a model that predicts {self.model!r} needs the noisy sample x= and its noise level '
                f'sigma=; {"x" if x is None else "sigma"}= was not given'
            )
        alpha = alpha_of(self.model, self.space, sigma, step.alpha)
        # at pure noise, and at none, one space says nothing of the other: what is little is taken for nothing on both ways
        return x, _not_zero(sigma), _not_zero(alpha)


def _not_zero(level: Scale, least: float = 1e-3) -> Scale:
    """Return a noise level, or the factor of the clean sample, that can be divided by."""
    return level.clamp_min(least) if isinstance(level, Tensor) else max(level, least)


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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (('start', self.start), ('stop', self.stop), ('dim', self.dim)):
            if (not isinstance(value, int) or isinstance(value, bool)) and not (name == 'stop' and value is None):
                raise ConfigError(f'on_channels: {name} must be a whole number, got {shown(value)}')
        if self.dim == 0:
            raise ConfigError('on_channels: dim=0 is the batch, which has no channels; 1 is the dimension after it')

    def init_state(self, like: Tensor | None = None) -> State | None:
        return self.rule.init_state(None if like is None else like.narrow(self.dim, *self._range(like)))

    def guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        cond, dim = given.cond, self.dim
        assert cond is not None
        start, length = self._range(cond)
        x = step.x
        if x is not None and x.shape == cond.shape:
            x = x.narrow(dim, start, length)
        if isinstance(scale, Tensor) and scale.ndim == cond.ndim and scale.shape[dim] == cond.shape[dim] > 1:
            scale = scale.narrow(dim, start, length)
        part = given.map(lambda prediction: prediction.narrow(dim, start, length))  # (b, length, ...)
        guided = self.rule.guide(part, scale, step.but(x=x))
        stop = start + length
        before, after = cond.narrow(dim, 0, start), cond.narrow(dim, stop, cond.shape[dim] - stop)
        return self.silenced(torch.cat((before, guided, after), dim=dim), step)

    def _range(self, like: Tensor) -> tuple[int, int]:
        """Return the first of the channels and their number."""
        size = like.shape[self.dim] if -like.ndim < self.dim < like.ndim else 0
        start, stop = _bounds(self.start, self.stop, size)
        if start >= stop:
            raise ShapeError(
                f'on_channels: channels {self.start} to {self.stop} of dimension {self.dim} are empty for predictions of '
                f'shape {tuple(like.shape)}'
            )
        return start, stop - start


def _bounds(start: int, stop: int | None, size: int) -> tuple[int, int]:
    """Return `slice(start, stop).indices(size)`, which older releases of torch do not trace."""
    first, last = (at + size if at < 0 else at for at in (start, size if stop is None else stop))
    return min(max(first, 0), size), min(max(last, 0), size)
