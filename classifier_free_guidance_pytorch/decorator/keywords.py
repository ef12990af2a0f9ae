"""The keywords that the decorators add to a forward: declared here, and checked here.

The signature, `help()` and the table of the documentation are made from the two classes below. Every keyword is checked before
any work is done, in eval mode and in training; what has no effect is refused like what has the wrong type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from classifier_free_guidance_pytorch import guidance as rules
from classifier_free_guidance_pytorch.conditioners import Batch, PreparedCondition
from classifier_free_guidance_pytorch.conditioners.base import TextEmbeds
from classifier_free_guidance_pytorch.conditioners.checks import check_embeds, check_repeat, check_samples, check_texts
from classifier_free_guidance_pytorch.conditioners.dropout import DropProb, check_drop_prob
from classifier_free_guidance_pytorch.decorator.keyword_checks import (
    check_batched,
    check_guide,
    check_routed,
    check_rule,
    check_share,
    check_state,
    check_step,
    check_switch,
    check_weak,
    is_finite,
    is_number,
)
from classifier_free_guidance_pytorch.decorator.outputs import Guide
from classifier_free_guidance_pytorch.decorator.signature import ForwardSignature, KeyNames
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError
from classifier_free_guidance_pytorch.guidance.checks import shown
from classifier_free_guidance_pytorch.perturb import Perturbation
from classifier_free_guidance_pytorch.rows import is_readable

Scale: TypeAlias = float | Tensor
Weak: TypeAlias = Perturbation | nn.Module | Mapping[str, Any]
T = TypeVar('T')


def keyword(default: T, what: str) -> T:
    """Declare a keyword: its default, and the sentence that `help()` and the documentation say of it."""
    declared: T = field(default=default, metadata={'help': what})
    return declared


@dataclass(frozen=True, init=False)
class Keywords:
    """The keywords of one call. What was not given is the default, which stands on the class: this is made at every step."""

    def __init__(self, **given: Any) -> None:
        for name, value in given.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, init=False)
class TextKeywords(Keywords):
    """The keywords of one call that say what to condition on, under the names of the contract."""

    texts: Batch[str] | Sequence[Batch[str]] | None = keyword(
        None, 'one string per sample, or one for all; a list of such lists for rules of several conditions'
    )
    text_embeds: TextEmbeds | None = keyword(None, 'instead of `texts`, what `encode_texts` or `embed_texts` returned')
    negative_texts: Batch[str | None] | Sequence[Batch[str | None]] | None = keyword(
        None, 'what to steer away from, instead of the null condition; None for a sample that keeps the null'
    )
    negative_text_embeds: TextEmbeds | None = keyword(None, 'instead of `negative_texts`')
    text_condition: PreparedCondition | Sequence[PreparedCondition] | None = keyword(
        None, 'instead of all of these, what `prepare` returned'
    )
    cond_drop_prob: DropProb | None = keyword(
        None, "probability of losing the text: a number, one per encoder, or a tensor `(b,)`; the conditioner's own in training"
    )
    repeat_batch: int | Sequence[int] = keyword(1, 'how many rows of the hiddens share a text, such as frames in the batch')
    num_samples_per_text: int = keyword(1, 'how many consecutive samples share a text, for several drawings of one prompt')

    @staticmethod
    def take(kwargs: dict[str, Any], names: KeyNames) -> TextKeywords:
        """Take the text keywords out of the keywords of a call, and check each; texts are checked where they are read.

        Raises:
            ConfigError: A value of the wrong type, or two keywords that exclude each other.
        """
        known = names.of_texts
        given = {key: kwargs.pop(key) for key in [*kwargs] if key in known}
        text = TextKeywords(**{known[key]: value for key, value in given.items()})
        if text.texts is not None and text.text_embeds is not None:
            raise ConfigError(f'pass either {names.texts} or {names.text_embeds}, but got both')
        if text.negative_texts is not None and text.negative_text_embeds is not None:
            raise ConfigError(f'pass either {names.negative_texts} or {names.negative_text_embeds}, but got both')
        if text.text_condition is not None and (text.is_given or text.has_negatives):
            raise ConfigError('text_condition holds the texts and the negative texts already: pass no others beside it')
        for key, value in given.items():
            if known[key] in _TEXT_CHECKS and value is not getattr(TextKeywords, known[key]):
                _TEXT_CHECKS[known[key]](value, key)
        return text

    @property
    def is_given(self) -> bool:
        """Whether there is a text to condition on."""
        return self.texts is not None or self.text_embeds is not None

    @property
    def has_negatives(self) -> bool:
        """Whether there is a text to steer away from."""
        return self.negative_texts is not None or self.negative_text_embeds is not None

    def check_texts(self, names: KeyNames) -> None:
        """Raise `ConfigError` for texts that are no batches of strings, before there is a call that reads them."""
        for name, given, allow_none in ((names.texts, self.texts, False), (names.negative_texts, self.negative_texts, True)):
            for one in () if given is None else per_condition(given):
                check_texts(one, name, allow_none)

    def as_keywords(self, names: KeyNames) -> dict[str, Any]:
        """Return what was given for the condition itself, as the keywords it came in."""
        given = {names.texts: self.texts, names.text_embeds: self.text_embeds, names.cond_drop_prob: self.cond_drop_prob}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, init=False)
class GuidanceKeywords(Keywords):
    """The keywords of one call that say how to guide."""

    cond_scale: Scale | rules.Schedule = keyword(
        1.0, 'guidance scale, 1 is off and 0 unconditional: a number, a tensor `(b,)`, or a schedule (with `guidance_kwargs`)'
    )
    guidance: rules.Rule | rules.Preset | None = keyword(
        None, 'a rule of the `guidance` module, or a preset; classifier-free guidance by default'
    )
    guidance_state: rules.State | None = keyword(None, 'what `rule.init_state()` returned, for rules that remember between steps')
    guidance_kwargs: Mapping[str, Any] | None = keyword(
        None, 'where sampling stands: `x`, `sigma`, `alpha`, `progress`, `next_sigma`, `next_alpha`'
    )
    rescale_phi: float = keyword(
        0.0, "share of the prediction rescaled to the conditional's standard deviation (arXiv 2305.08891)"
    )
    remove_parallel_component: bool = keyword(
        False, 'drop the part of the update along the conditional prediction (arXiv 2410.02416)'
    )
    keep_parallel_frac: float = keyword(0.0, 'how much of that part to keep all the same')
    return_unconditioned: bool = keyword(False, 'return the pair (guided, null) instead of the guided prediction')
    cfg_routed_kwargs: Mapping[str, Any] | None = keyword(
        None, 'keywords with a value of their own for each branch: a pair (for cond, for null), or a mapping by branch'
    )
    cfg_batched: bool | Sequence[str] = keyword(
        False, 'run the branches in one forward of the joined batch; a sequence names the arguments that stay shared'
    )
    weak: Weak | None = keyword(
        None,
        'the weak pass of a rule: keywords of the forward, a second model, `skip_layers(...)`; of several, each by name',
    )
    guide: Guide = keyword(
        None, 'which entry of the output is guided, the first by default: a name, an index, a path, or several'
    )
    says_scale: bool = False  # no keyword: whether the call gave a scale

    @staticmethod
    def take(kwargs: dict[str, Any], signature: ForwardSignature) -> GuidanceKeywords:
        """Take the guidance keywords out of the keywords of a call, and check each.

        Raises:
            ConfigError: A value of the wrong type, a name that is not known, or one that has no effect.
        """
        given = {name: kwargs.pop(name) for name in [*kwargs] if name in GUIDANCE_KEYWORDS}
        for name, value in given.items():
            if value is not GUIDANCE_KEYWORDS[name]:
                _CHECKS[name](value, signature)
        keywords = GuidanceKeywords(**given, says_scale='cond_scale' in given)
        if keywords.keep_parallel_frac and not keywords.remove_parallel_component:
            raise ConfigError('keep_parallel_frac has an effect only with remove_parallel_component=True')
        if keywords.remove_parallel_component and keywords.guidance is not None:
            raise ConfigError(
                'remove_parallel_component is a rule of its own and cannot be combined with guidance=: pass '
                'guidance=guidance.APG(eta=keep_parallel_frac), or add rules with +'
            )
        return keywords

    @property
    def is_off(self) -> bool:
        """Whether nothing was asked for beyond the conditional prediction."""
        return not (
            isinstance(self.cond_scale, (Tensor, rules.Schedule))
            or self.cond_scale != 1
            or self.guidance is not None
            or self.rescale_phi
            or self.remove_parallel_component
            or self.return_unconditioned
            or self.guide is not None
        )

    def refuse_in_training(self, allowed: Sequence[str] = ()) -> None:
        """Raise `UsageError`, and name the keyword, where guidance is asked for in training mode, but for the `allowed`."""
        for name, default in GUIDANCE_KEYWORDS.items():
            value = getattr(self, name)
            if (
                name not in ('cfg_routed_kwargs', *allowed)
                and value is not default
                and (isinstance(value, Tensor) or value != default)
            ):
                raise UsageError(
                    f'{name}={value!r} is for sampling, but the model is in training mode: call model.eval() first; in training, '
                    'cond_drop_prob alone decides what the model sees of the text'
                )


def per_condition(texts: Any) -> list[Any]:
    """Return one batch of texts per condition: `[['a dog', 'a cat'], ['at night', 'in snow']]` are two."""
    if isinstance(texts, (list, tuple)) and texts and hasattr(texts[0], '__len__') and not isinstance(texts[0], str):
        return list(texts)
    return [texts]


GUIDANCE_KEYWORDS: dict[str, Any] = {one.name: one.default for one in fields(GuidanceKeywords) if one.metadata}


def describe(names: KeyNames) -> dict[str, tuple[Any, Any, str]]:
    """Return the default, the annotation and the sentence of every keyword that a decorated forward takes."""
    chosen = {ours: theirs for theirs, ours in names.of_texts.items()}
    every = (one for one in (*fields(TextKeywords), *fields(GuidanceKeywords)) if one.metadata)
    return {chosen.get(one.name, one.name): (one.default, one.type, one.metadata['help']) for one in every}


# checks for values other than the default; those of the scale and of what was prepared are made at every step


def _condition(condition: object, name: str) -> None:
    given = condition if isinstance(condition, (list, tuple)) else (condition,)
    wrong = [one for one in given or (condition,) if not isinstance(one, PreparedCondition)]
    if wrong:
        raise ConfigError(f'{name} is what model.prepare(texts) returned, or a list of these, but got {shown(wrong[0])}')


def _scale(scale: object, signature: ForwardSignature) -> None:
    if isinstance(scale, rules.Schedule) or (type(scale) is float and scale - scale == 0):  # finite, and can be traced
        return
    if isinstance(scale, Tensor):
        if scale.dtype is torch.bool or scale.is_complex():
            raise ConfigError(f'cond_scale is a number, or a tensor with one value per sample, but got a tensor of {scale.dtype}')
        if is_readable(scale) and not bool(scale.isfinite().all()):
            raise ConfigError(f'cond_scale must be finite, but got {scale}: 1 is off, 0 unconditional, and 5 a common choice')
        return
    if callable(scale):
        raise ConfigError(
            f'cond_scale is the scale of this step: call the schedule for it, as in schedule(sigma=sigma), got {scale!r}'
        )
    if not is_number(scale):
        raise ConfigError(f'cond_scale is a number, or a tensor with one value per sample, but got {shown(scale)}')
    if not is_finite(scale):
        raise ConfigError(f'cond_scale must be finite, but got {shown(scale)}: 1 is off, 0 unconditional, and 5 a common choice')


_TEXT_CHECKS: dict[str, Callable[[Any, str], None]] = {
    'text_embeds': check_embeds,
    'negative_text_embeds': check_embeds,
    'text_condition': _condition,
    'cond_drop_prob': lambda value, name: check_drop_prob(value, None, name),
    'repeat_batch': lambda value, name: check_repeat(value),
    'num_samples_per_text': lambda value, name: check_samples(value),
}

_CHECKS: dict[str, Callable[[object, ForwardSignature], None]] = {
    'cond_scale': _scale,
    'guidance': check_rule,
    'guidance_state': check_state,
    'guidance_kwargs': check_step,
    'rescale_phi': check_share('rescale_phi'),
    'remove_parallel_component': check_switch('remove_parallel_component'),
    'keep_parallel_frac': check_share('keep_parallel_frac'),
    'return_unconditioned': check_switch('return_unconditioned'),
    'cfg_routed_kwargs': check_routed,
    'cfg_batched': check_batched,
    'weak': check_weak,
    'guide': check_guide,
}
