"""What every guided call does: run the branches that its rule asks for, guide, and put the result back into the output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from classifier_free_guidance_pytorch.decorator.options import Options
from classifier_free_guidance_pytorch.decorator.outputs import put_back, to_guide
from classifier_free_guidance_pytorch.decorator.passes import Call, Pass, weak_context
from classifier_free_guidance_pytorch.decorator.signature import KeyNames, TextTaking
from classifier_free_guidance_pytorch.decorator.texts import TextInput, per_condition
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError


class Runner(ABC):
    """How a decorated method runs: which passes, and what becomes of their outputs."""

    def __init__(self, fn: Callable[..., Any], names: KeyNames, taking: TextTaking) -> None:
        self.fn, self.names, self.taking = fn, names, taking

    def guide(self, call: Call, text: TextInput, options: Options) -> Any:
        """One guided call in eval mode: the passes that the rule asks for, and no others."""
        wanted = wanted_branches(options, call.batch)
        if not wanted:
            return options.rule(**self.rule_keywords(call, options))
        outputs = self.run(call, text, options, wanted)
        flat = [output for several in outputs.values() for output in several]
        if options.is_off or options.rule.inside_attention:
            return flat[0]
        predictions = {name: [to_guide(output, options.guide) for output in outputs[name]] for name in outputs}
        given: dict[str, Any] = {name: tuple(tensors) for name, tensors in predictions.items() if name in ('conds', 'negatives')}
        given.update({name: tensors[0] for name, tensors in predictions.items() if name not in given})
        guided_prediction: Any = options.rule(**given, **self.rule_keywords(call, options))
        if options.return_unconditioned:
            guided_prediction = (guided_prediction, given['null'])
        return put_back(flat, guided_prediction, options.guide)

    def rule_keywords(self, call: Call, options: Options) -> dict[str, Any]:
        """What a rule takes beside predictions; the noisy sample is the call's, unless said otherwise."""
        inputs = {'scale': options.cond_scale, 'state': options.guidance_state, 'x': call.sample}
        return {**inputs, **options.guidance_kwargs} if options.guidance_kwargs else inputs

    def weak_pass(self, call: Call, text: TextInput, options: Options, keywords: dict[str, Any]) -> Any:
        """The conditional pass of a weakened model."""
        weak = options.weak
        if isinstance(weak, nn.Module):
            if text.prepared is not None:
                raise UsageError(
                    'a prepared text_condition belongs to one model, so the second model in weak= cannot use it: pass texts=, or '
                    'what encode_texts(texts) returned as text_embeds='
                )
            first = replace(text, texts=per_condition(text.texts)[0])
            return weak(*call.args, **call.kwargs, **first.as_keywords(self.names))
        if isinstance(weak, dict):
            return Call(call.fn, call.module, call.args, {**call.kwargs, **weak}, call.routed).run(Pass('weak', keywords))
        with weak_context(weak, call.module):
            return call.run(Pass('weak', keywords))

    @abstractmethod
    def train(self, call: Call, text: TextInput) -> Any:
        """One training step."""

    @abstractmethod
    def run(self, call: Call, text: TextInput, options: Options, wanted: Sequence[str]) -> dict[str, list[Any]]:
        """The outputs of every wanted branch."""


def wanted_branches(options: Options, batch: int | None) -> tuple[str, ...]:
    """The branches that this call needs."""
    scale = options.cond_scale
    if isinstance(scale, Tensor) and scale.ndim == 1 and batch is not None and scale.shape[0] not in (1, batch):
        raise ShapeError(f'cond_scale has {scale.shape[0]} values for a batch of {batch}: pass one per sample, or one number')
    if options.rule.inside_attention and options.return_unconditioned:
        raise ConfigError(
            'return_unconditioned needs a null prediction, which a rule inside attention never makes: use another rule'
        )
    if options.weak is not None and 'weak' not in options.rule.needs_of_parts():
        raise ConfigError('weak= was given, but the rule asks for no weak pass: add guidance.Weak(scale) to it')
    progress = (options.guidance_kwargs or {}).get('progress')
    options.rule.check_state(options.guidance_state)
    wanted = options.rule.branches(scale, options.guidance_state, progress)
    if options.weak is None and 'weak' in wanted:
        raise UsageError(
            'this rule needs a weak pass: pass weak= a dict of keywords for the forward, a second model, or '
            'perturbed_attention(...) or skip_layers(...) from the module weak_pass'
        )
    return (*wanted, 'null') if options.return_unconditioned and wanted and 'null' not in wanted else wanted
