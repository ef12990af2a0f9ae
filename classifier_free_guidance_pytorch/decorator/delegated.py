"""Methods that handle text themselves: every branch is a drop probability, and the texts it goes with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from classifier_free_guidance_pytorch.conditioners.dropout import check_drop_prob
from classifier_free_guidance_pytorch.decorator.options import Options
from classifier_free_guidance_pytorch.decorator.passes import Call, Pass, say_once
from classifier_free_guidance_pytorch.decorator.runner import Runner
from classifier_free_guidance_pytorch.decorator.texts import TextInput, per_condition
from classifier_free_guidance_pytorch.errors import ConfigError


class Delegated(Runner):
    """A method that handles text itself: every branch is a drop probability, and the texts it goes with."""

    def train(self, call: Call, text: TextInput) -> Any:
        return call.run(Pass('cond', self._text_keywords(text)))

    def run(self, call: Call, text: TextInput, options: Options, wanted: Sequence[str]) -> dict[str, list[Any]]:
        if options.rule.inside_attention:
            raise ConfigError(
                f'this rule guides inside the cross-attention of a text_conditioner, but {self.fn.__qualname__} handles its '
                'texts itself: use another rule'
            )
        if options.cfg_batched:
            say_once(f'{self.fn.__qualname__} handles its texts itself, by {self.names.cond_drop_prob}')
        drop, texts = self.names.cond_drop_prob, self.names.texts
        kept = {drop: 0.0, **self._text_keywords(text)}
        positives = [{**kept, **({} if one is None else {texts: one})} for one in per_condition(text.texts)]
        negatives = [{**kept, texts: one, drop: 0.0} for one in per_condition(text.negative_texts) if one is not None]
        plan: dict[str, list[dict[str, Any]]] = {
            'cond': positives[:1],
            'conds': positives[1:],
            'negatives': negatives,
            'null': negatives[:1] if negatives and 'negatives' not in wanted else [{**kept, drop: 1.0}],
        }
        outputs = {name: [call.run(Pass(name, keywords)) for keywords in plan[name]] for name in wanted if name != 'weak'}
        if 'weak' in wanted:
            outputs['weak'] = [self.weak_pass(call, text, options, positives[0])]
        return outputs

    def _text_keywords(self, text: TextInput) -> dict[str, Any]:
        """The text keywords to hand on.

        Raises:
            ConfigError: one that the method cannot take.
        """
        if text.prepared is not None:
            raise ConfigError(f'text_condition is for a text_conditioner, but {self.fn.__qualname__} handles its texts itself')
        if text.drop_prob is not None:
            check_drop_prob(text.drop_prob, 1, self.names.cond_drop_prob)
        given = text.as_keywords(self.names)
        takes = self.taking.takes
        unknown = [name for name in given if takes is not None and name not in takes]
        if text.has_negatives:
            unknown += [self.names.texts] if takes is not None and self.names.texts not in takes else []
        if unknown:
            raise ConfigError(f'{self.fn.__qualname__} takes no {", ".join(map(repr, unknown))}: it handles its texts itself')
        return given
