"""One call of a decorated function, and the forward passes that it is made of."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from classifier_free_guidance_pytorch.conditioners import BranchCondition, Conditioner
from classifier_free_guidance_pytorch.decorator.keywords import GuidanceKeywords, TextKeywords
from classifier_free_guidance_pytorch.decorator.outputs import PerBranch, entries, is_structured
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError
from classifier_free_guidance_pytorch.guidance import APG, CFG, Learned, Preset, Rule, Schedule, Step, rescale_to_cond
from classifier_free_guidance_pytorch.guidance.checks import uniform_value
from classifier_free_guidance_pytorch.guidance.step import is_weak
from classifier_free_guidance_pytorch.perturb import Perturbation
from classifier_free_guidance_pytorch.rows import is_readable

_CFG = CFG()


@dataclass
class Pass:
    """One forward pass.

    Attributes:
        branch: Which prediction it makes, one of `guidance.BRANCHES` or the name of a weak pass.
        keywords: The arguments that only this pass gets.
        condition: What it is conditioned on, where the text is handled here.
        weak: What weakens it: a perturbation, or a second model that is called instead.
        place: Which of the passes of its branch it is.
        rows: The samples that it ran, None for all; set by a joined batch, in which some need no null pass.
    """

    branch: str
    keywords: dict[str, Any]
    condition: BranchCondition | None = None
    weak: Perturbation | nn.Module | None = None
    place: int = 0
    rows: Tensor | None = None


@dataclass
class Call:
    """A function, its module, and the arguments that its passes share.

    Attributes:
        conditioner: The module's text conditioner, once found.
        rule: How its predictions are combined, once resolved.
        scale: The guidance scale of this step, once resolved.
        read_scale: The scale that the text conditioner reads, once resolved; None where it reads none.
        routed: Arguments with a value of their own for each branch.
        sample: The first tensor argument of two or more dimensions, for a denoiser the noisy sample and not its time; else the
            first of one.
        batch: Its leading dimension; None without a tensor argument.
    """

    fn: Callable[..., Any]
    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    text: TextKeywords
    keywords: GuidanceKeywords
    conditioner: Conditioner | None = field(init=False, default=None)
    rule: Rule = field(init=False)
    scale: float | Tensor = field(init=False)
    read_scale: float | Tensor | None = field(init=False, default=None)
    routed: dict[str, Any] = field(init=False)
    sample: Tensor | None = field(init=False, default=None)
    batch: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.routed = dict(self.keywords.cfg_routed_kwargs or ())
        for name in [name for name, value in self.kwargs.items() if isinstance(value, PerBranch)]:
            self.routed[name] = self.kwargs.pop(name)  # what an earlier call returned for every branch
        for value in (*self.args, *self.kwargs.values()):
            if isinstance(value, Tensor) and value.ndim > (self.sample is not None):
                self.sample, self.batch = value, value.shape[0]
                if value.ndim > 1:
                    break

    def resolve(self, learned: tuple[float, float] | None = None) -> Step:
        """Settle the rule and the guidance scale that the keywords spell, and return where sampling stands.

        Args:
            learned: The scales at which the model guides by itself, None for a model that has learned none.

        Raises:
            ConfigError: A keyword that has no effect with this rule, or a schedule without what it is a function of.
            ShapeError: A scale that is neither one for all nor one per sample.
            UsageError: The rule needs a scale, a state or a weak pass, and has none.
        """
        keywords = self.keywords
        own_scale: float | Tensor | Schedule | None = None
        rule = keywords.guidance
        if isinstance(rule, Preset):
            own_scale, rule = rule.scale, rule.rule
        elif keywords.remove_parallel_component:
            rule = APG(eta=float(keywords.keep_parallel_frac))
        if keywords.rescale_phi:
            rule = (rule or _CFG).then(rescale_to_cond(float(keywords.rescale_phi)))
        self.rule = rule or _CFG
        if keywords.says_scale or rule is None:
            own_scale = keywords.cond_scale
        elif own_scale is None and (own_scale := rule.default_scale) is None:
            raise UsageError(f'{rule!r} does nothing at a guidance scale of 1: pass cond_scale= as well, such as cond_scale=5.')
        self.scale = self._at_this_step(own_scale) if isinstance(own_scale, Schedule) else own_scale
        if rule is None and learned is not None and uniform_value(self.scale) != 0:  # 0 is the null prediction, as always
            self.rule = Learned(*learned)
        if rule is not None or keywords.weak is not None:
            self._check_fit(self.rule)
        self.rule.check_state(keywords.guidance_state)
        if isinstance(self.scale, Tensor):
            self._check_scale(self.scale)
        if self.rule.reads_scale and (isinstance(self.scale, Tensor) or self.scale != 1):
            self.read_scale = per_sample(self.scale)
        step = Step(keywords.guidance_state, self.sample)
        return step.but(**keywords.guidance_kwargs) if keywords.guidance_kwargs else step

    def resolve_training(self, reads_scale: bool) -> None:
        """Settle the scale that the conditioner reads in a training step: that of the call, or 1.

        Args:
            reads_scale: Whether there is a conditioner that reads one.

        Raises:
            UsageError: A keyword that has a meaning for guidance only.
            ConfigError: A scale that is none, or is not above 0.
        """
        self.keywords.refuse_in_training(('cond_scale',) if reads_scale else ())
        if reads_scale:
            scale = self.keywords.cond_scale
            if isinstance(scale, Schedule):
                raise ConfigError(f'in training cond_scale is a number or one for each sample, but got the schedule {scale!r}')
            self._check_scale(scale)
            check_positive(scale)
            self.read_scale = per_sample(scale)

    def _check_scale(self, scale: float | Tensor) -> None:
        """Raise `ShapeError` for another number of scales than samples; of an unknown batch the rule will see the predictions."""
        if self.batch is not None and isinstance(scale, Tensor) and scale.ndim == 1 and scale.shape[0] not in (1, self.batch):
            raise ShapeError(
                f'cond_scale has {scale.shape[0]} values for a batch of {self.batch}: pass one per sample, or one number'
            )

    def _at_this_step(self, schedule: Schedule) -> float | Tensor:
        """Return what a schedule says of this step."""
        at = {name: value for name, value in (self.keywords.guidance_kwargs or {}).items() if name != 'x'}
        try:
            return schedule(at.pop('progress', None), **at)
        except UsageError as error:
            raise ConfigError(
                f'cond_scale is the schedule {schedule!r}: say where sampling stands with guidance_kwargs=, such as '
                f"{{'sigma': sigma}} or {{'progress': progress}}, or call the schedule for it, as in schedule(sigma=sigma)"
            ) from error

    def _check_fit(self, rule: Rule) -> None:
        """Refuse keywords that do not fit the rule."""
        names, weak = weak_names(rule), self.keywords.weak
        if weak is not None and not names:
            raise ConfigError('weak= was given, but the rule asks for no weak pass: add guidance.Weak(scale) to it')
        if names not in ([], ['weak']) and weak is not None:
            if not isinstance(weak, Mapping) or set(weak) != set(names):
                raise ConfigError(
                    f'this rule has weak passes named {", ".join(map(repr, names))}: pass weak={{name: ...}} with one for each, '
                    f'but got {sorted(weak) if isinstance(weak, Mapping) else type(weak).__name__}'
                )
        elif isinstance(weak, Mapping) and set(weak) <= {'weak'} and isinstance(weak['weak'], (Perturbation, nn.Module)):
            raise ConfigError("weak={'weak': ...} is for rules with several weak passes: pass the perturbation itself as weak=")
        if weak is None and names:
            raise UsageError(
                'this rule needs a weak pass: pass weak= a dict of keywords for the forward, a second model, or '
                'perturbed_attention(...) or skip_layers(...) from the module perturb'
            )
        if rule.inside_attention and self.keywords.return_unconditioned:
            raise ConfigError(
                'return_unconditioned needs a null prediction, which a rule inside attention never makes: use a different rule'
            )

    def weakened_by(self, branch: str) -> Perturbation | nn.Module | Mapping[str, Any]:
        """Return what weakens the pass of a branch."""
        weak: Any = self.keywords.weak
        return weak if branch == 'weak' and weak_names(self.rule) == ['weak'] else weak[branch]

    def run(self, one: Pass) -> Any:
        """Make one forward pass."""
        kwargs = {**self.kwargs, **one.keywords}
        for name, values in self.routed.items():
            kwargs[name] = _route(values, one)
        if isinstance(one.weak, nn.Module):
            return one.weak(*self.args, **kwargs)
        if one.weak is None:
            return self.fn(self.module, *self.args, **kwargs)
        with one.weak.applied(self.module):
            return self.fn(self.module, *self.args, **kwargs)

    def share_out_caches(self, passes: Sequence[Pass]) -> None:
        """Give every pass a cache of its own where an empty one was handed in, as `generate` of transformers does."""
        if len(passes) > 2:  # of a branch that has several passes, each is routed by its place
            names = [one.branch for one in passes]
            for index, one in enumerate(passes):
                one.place = names[:index].count(one.branch)
        for name in [name for name, value in self.kwargs.items() if _is_empty_cache(value)]:
            cache = self.kwargs.pop(name)
            own = [cache, *(copy.deepcopy(cache) for _ in passes[1:])]
            self.routed[name] = PerBranch(own, tuple([one.branch for one in passes]))

    def contents(self) -> list[Any]:
        """Return what the shared arguments hold, in a form that shows whether a pass has written to one."""
        return [_content(value) for value in (*self.args, *self.kwargs.values())]

    def refuse_written(self, before: list[Any]) -> None:
        """Raise `ConfigError` where the first pass has written to an argument that the next would read.

        Args:
            before: The contents before the first pass.
        """
        after = self.contents()
        if after == before:
            return
        place = [old == new for old, new in zip(before, after, strict=True)].index(False)
        names = [*range(len(self.args)), *self.kwargs]
        raise ConfigError(
            f'argument {names[place]!r} was changed by the pass of one branch, so that the next branch would read it: give every '
            f"branch its own with cfg_routed_kwargs={{'name': (for cond, for null)}}. What a call returns for both branches can "
            'be handed in again as it is'
        )


def check_positive(scale: float | Tensor) -> None:
    """Raise `ConfigError` for a scale that no conditioner can read, where that can be seen at no cost."""
    positive: Any = scale > 0
    if isinstance(positive, Tensor):
        positive = not is_readable(positive) or bool(positive.all())
    if not positive:
        raise ConfigError(
            f'a model that guides in one pass reads 1 / cond_scale, so every scale is above 0, but got {scale}: 1 is off'
        )


def per_sample(scale: float | Tensor) -> float | Tensor:
    """Return a scale as the conditioner reads it: a number, or one for each sample, `(b,)`.

    Raises:
        ShapeError: It differs inside of a sample.
    """
    if not isinstance(scale, Tensor) or scale.ndim == 1:
        return scale
    if scale.ndim > 1 and scale.shape[1:].numel() != 1:
        raise ShapeError(
            f'a model that guides in one pass reads one scale for each sample, but got cond_scale of shape {tuple(scale.shape)}'
        )
    return scale.reshape(-1)  # (b,)


def weak_names(rule: Rule) -> list[str]:
    """Return the names of the weak passes that a rule may ask for."""
    return sorted(filter(is_weak, rule.needs_of_parts()))


def _route(values: Any, one: Pass) -> Any:
    """Return the value that a routed argument has for one pass; further branches share the conditional's."""
    if isinstance(values, Mapping):
        return values.get(one.branch, values['cond'])
    return (values if isinstance(values, PerBranch) else PerBranch(values)).of(one.branch, one.place)


def _is_empty_cache(value: Any) -> bool:
    """Whether a value is a cache as those of transformers are, in which nothing is written yet."""
    length: Any = getattr(value, 'get_seq_length', None) if not isinstance(value, (Tensor, nn.Module)) else None
    if not callable(length):
        return False
    try:
        return not length()
    except ValueError:  # of a network without attention, whose cache holds a state and counts no words
        return not getattr(value, 'has_previous_state', bool)()


def _content(value: Any, depth: int = 4) -> Any:
    """Return what an argument holds, in a form that shows whether it was written to."""
    if isinstance(value, Tensor):
        return id(value), 0 if value.is_inference() else value._version
    if depth == 0 or value is None or isinstance(value, (str, bytes, int, float, nn.Module, type)):
        return id(value)
    if is_structured(value):
        return [(key, _content(part, depth - 1)) for key, part in entries(value).items()]
    return [(key, _content(part, depth - 1)) for key, part in getattr(value, '__dict__', {}).items()] or id(value)
