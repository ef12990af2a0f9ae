"""Rules made of rules: sums, post-steps, another prediction space, a part of the channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError

from .checks import Scale, uniform_value
from .rule import BRANCHES, PostStep, Predictions, Rule, Step
from .spaces import check_space, from_x0, to_x0
from .state import State


def _in_order(names: set[str]) -> tuple[str, ...]:
    """Branches in their one order."""
    return tuple(branch for branch in BRANCHES if branch in names)


@dataclass(frozen=True)
class Sum(Rule):
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

    def __post_init__(self) -> None:
        flat: list[Rule] = []
        for rule in self.rules:
            if not isinstance(rule, Rule):
                raise ConfigError(f'Sum: expected rules, got {rule!r}')
            if rule.inside_attention:
                raise ConfigError(f'Sum: {rule!r} guides inside attention, and has no delta to add to those of predictions')
            flat.extend(rule.rules if isinstance(rule, Sum) else (rule,))
        if len(flat) < 2:
            raise ConfigError(f'Sum: expected at least two rules, got {len(flat)}')
        object.__setattr__(self, 'rules', tuple(flat))

    @property
    def anchored(self) -> bool:
        return all(rule.anchored for rule in self.rules)

    @property
    def remembers(self) -> bool:
        return any(rule.remembers for rule in self.rules)

    def needs_of_parts(self) -> set[str]:
        return set().union(*(rule.needs_of_parts() for rule in self.rules))

    def _parts(self, state: State | None) -> tuple[State | None, ...]:
        return (None,) * len(self.rules) if state is None else state.parts

    def branches(self, scale: Scale = 1.0, state: State | None = None, progress: float | None = None) -> tuple[str, ...]:
        needed = [rule.branches(scale, part, progress) for rule, part in zip(self.rules, self._parts(state), strict=True)]
        if any(len(names) == 0 for names in needed):
            return ()
        return _in_order({'cond'}.union(*needed))

    def init_state(self, like: Tensor | None = None) -> State | None:
        return State(self, tuple(rule.init_state(like) for rule in self.rules)) if self.remembers else None

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        states = self._parts(step.state)
        guided = self.rules[0].apply(given, scale, step._replace(state=states[0]))
        for rule, state in zip(self.rules[1:], states[1:], strict=True):
            guided = guided + (rule.apply(given, scale, step._replace(state=state)) - given.main())
        return guided


@dataclass(frozen=True)
class Wrapper(Rule):
    """A rule around one other rule, whose branches and state are its own."""

    rule: Rule

    def __post_init__(self) -> None:
        if not isinstance(self.rule, Rule):
            raise ConfigError(f'{type(self).__name__}: expected a rule, got {self.rule!r}')
        if self.rule.inside_attention:
            raise ConfigError(
                f'{type(self).__name__}: {self.rule!r} guides inside attention, and takes no steps meant for predictions'
            )

    @property
    def anchored(self) -> bool:
        return self.rule.anchored

    @property
    def remembers(self) -> bool:
        return self.rule.remembers

    def branches(self, scale: Scale = 1.0, state: State | None = None, progress: float | None = None) -> tuple[str, ...]:
        return self.rule.branches(scale, state, progress)

    def needs_of_parts(self) -> set[str]:
        return self.rule.needs_of_parts()

    def init_state(self, like: Tensor | None = None) -> State | None:
        return self.rule.init_state(like)

    def check_state(self, state: State | None) -> None:
        self.rule.check_state(state)

    def apply(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        self.check_state(step.state)
        needed = self.branches(scale, step.state, step.progress)
        if len(needed) == 0:
            return self._nothing(given, step)
        self._check_given(given, needed)
        return self._guide(given, scale, step)


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

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.post):
            raise ConfigError(f'then: expected a post-step, a callable of (guided, cond), got {self.post!r}')

    @property
    def anchored(self) -> bool:
        return self.rule.anchored and bool(getattr(self.post, 'keeps_cond', False))

    def branches(self, scale: Scale = 1.0, state: State | None = None, progress: float | None = None) -> tuple[str, ...]:
        needed = self.rule.branches(scale, state, progress)
        # cond is the measure of a post-step, so it is needed even where the rule itself is content with null
        return _in_order({'cond', *needed}) if needed else needed

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        post = self.post
        return post(self.rule.apply(given, scale, step), given.main())


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

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        if self.space == 'x0' or (self.anchored and uniform_value(scale) == 1):
            return self.rule.apply(given, scale, step)  # cond itself, with no round trip through another space
        x, sigma, alpha = step.x, step.sigma, step.alpha
        if x is None or sigma is None:
            missing = 'x' if x is None else 'sigma'
            raise UsageError(
                f'a rule in x0 for a model that predicts {self.space!r} needs the noisy sample x= and its noise level sigma=; '
                f'{missing}= was not given'
            )

        def clean(prediction: Tensor | None) -> Tensor | None:
            return None if prediction is None else to_x0(prediction, self.space, x, sigma, alpha)

        def all_clean(predictions: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(to_x0(prediction, self.space, x, sigma, alpha) for prediction in predictions)

        converted = Predictions(
            clean(given.cond), clean(given.null), clean(given.weak), all_clean(given.conds), all_clean(given.negatives)
        )
        guided = from_x0(self.rule.apply(converted, scale, step), self.space, x, sigma, alpha)
        return guided.to((given.cond if given.cond is not None else given.unguided()).dtype)


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

    def branches(self, scale: Scale = 1.0, state: State | None = None, progress: float | None = None) -> tuple[str, ...]:
        needed = self.rule.branches(scale, state, progress)
        return _in_order({'cond', *needed}) if needed else needed

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        cond = given.main()
        size = cond.shape[self.dim] if -cond.ndim <= self.dim < cond.ndim else 0
        start, stop, _ = slice(self.start, self.stop).indices(size)
        if start >= stop:
            raise ShapeError(
                f'on_channels: channels {self.start} to {self.stop} of dimension {self.dim} are empty for predictions of '
                f'shape {tuple(cond.shape)}'
            )

        def cut(tensor: Tensor) -> Tensor:
            return tensor.narrow(self.dim, start, stop - start)

        def maybe(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else cut(tensor)

        part = Predictions(
            cut(cond), maybe(given.null), maybe(given.weak), tuple(map(cut, given.conds)), tuple(map(cut, given.negatives))
        )
        x = step.x
        if x is not None and x.shape == cond.shape:
            x = cut(x)
        guided = self.rule.apply(part, scale, step._replace(x=x))
        before, after = cond.narrow(self.dim, 0, start), cond.narrow(self.dim, stop, size - stop)
        return torch.cat((before, guided, after), dim=self.dim)
