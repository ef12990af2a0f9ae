"""Functions that handle text themselves: every branch is a drop probability, and the texts it goes with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from classifier_free_guidance_pytorch.conditioners.dropout import check_drop_prob
from classifier_free_guidance_pytorch.decorator.batched import warn_once
from classifier_free_guidance_pytorch.decorator.call import Call, Pass
from classifier_free_guidance_pytorch.decorator.keywords import per_condition
from classifier_free_guidance_pytorch.decorator.signature import ForwardSignature, KeyNames
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.guidance.step import is_weak
from classifier_free_guidance_pytorch.perturb import Perturbation


@dataclass(frozen=True)
class ByDropProb:
    """The passes of a function that takes `cond_drop_prob`: 0 for the conditional and 1 for the null pass."""

    names: KeyNames
    signature: ForwardSignature

    def reads_scale(self, call: Call) -> bool:
        return False

    def learned_scales(self, call: Call) -> tuple[float, float] | None:
        return None

    def training_pass(self, call: Call) -> Pass:
        return Pass('cond', self._text_keywords(call))

    def passes(self, call: Call, wanted: Sequence[str]) -> list[Pass]:
        if call.rule.inside_attention:
            raise ConfigError(
                f'this rule guides inside the cross-attention of a text_conditioner, but {self.signature.name} handles its texts '
                'itself: use a different rule'
            )
        drop, texts = self.names.cond_drop_prob, self.names.texts
        given = {drop: 0.0, **self._text_keywords(call)}
        embeds = call.text.negative_text_embeds
        first, *others = [{**given, **({} if one is None else {texts: one})} for one in per_condition(call.text.texts)]
        negatives = [{drop: 0.0, texts: one} for one in per_condition(call.text.negative_texts) if one is not None]
        negatives += [] if embeds is None else [{drop: 0.0, self.names.text_embeds: embeds}]
        steers_apart = 'negatives' in wanted or not negatives
        by_branch = {
            'cond': [first],
            'conds': others,
            'negatives': negatives,
            'null': [{**given, drop: 1.0}] if steers_apart else negatives[:1],
        }
        passes = [Pass(name, keywords) for name in wanted if not is_weak(name) for keywords in by_branch[name]]
        own = call.text.as_keywords(self.names)
        return passes + [weak_pass(name, call, first, own) for name in wanted if is_weak(name)]

    def run_joined(self, call: Call, passes: Sequence[Pass]) -> list[Any] | None:
        warn_once(f'{self.signature.name} handles its texts itself, by {self.names.cond_drop_prob}')
        return None

    def _text_keywords(self, call: Call) -> dict[str, Any]:
        """Return the text keywords to hand on.

        Raises:
            ConfigError: One that the function cannot take.
        """
        name, text = self.signature.name, call.text
        if text.text_condition is not None:
            raise ConfigError(f'text_condition is for a text_conditioner, but {name} handles its texts itself')
        for word in ('repeat_batch', 'num_samples_per_text'):
            if getattr(text, word) != 1:
                raise ConfigError(f'{word} is for the callables of a text_conditioner, but {name} handles its texts itself')
        if text.cond_drop_prob is not None:
            check_drop_prob(text.cond_drop_prob, 1, self.names.cond_drop_prob, call.batch)
        given = text.as_keywords(self.names)
        takes, of_text = self.signature.takes, {**given}
        of_text |= {} if text.negative_texts is None else {self.names.texts: None}
        of_text |= {} if text.negative_text_embeds is None else {self.names.text_embeds: None}
        unknown = [key for key in of_text if takes is not None and key not in takes]
        if unknown:
            raise ConfigError(f'{name} takes no {", ".join(map(repr, unknown))}: it handles its texts itself')
        return given


def weak_pass(branch: str, call: Call, keywords: dict[str, Any], text_keywords: dict[str, Any]) -> Pass:
    """Return the conditional pass of a weakened model.

    Args:
        branch: Its name, `weak` unless the rule has several.
        call: The call, whose `weak` says how.
        keywords: The arguments of the conditional pass.
        text_keywords: The texts as a second model takes them.
    """
    weak = call.weakened_by(branch)
    if isinstance(weak, nn.Module):
        return Pass(branch, text_keywords, weak=weak)
    if isinstance(weak, Perturbation):
        return Pass(branch, keywords, weak=weak)
    return Pass(branch, {**weak, **keywords})
