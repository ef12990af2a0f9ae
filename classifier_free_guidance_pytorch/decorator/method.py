"""`classifier_free_guidance`: a forward that takes texts and a guidance scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce, wraps
from typing import Any

from torch import Tensor, nn

from classifier_free_guidance_pytorch.conditioners import BranchCondition, Conditioner
from classifier_free_guidance_pytorch.conditioners.dropout import check_drop_prob
from classifier_free_guidance_pytorch.decorator.options import GUIDANCE_KEYWORDS, Options
from classifier_free_guidance_pytorch.decorator.outputs import put_back, to_guide
from classifier_free_guidance_pytorch.decorator.passes import Call, Pass, say_once, weak_context, why_not_joined
from classifier_free_guidance_pytorch.decorator.signature import RAW_TEXT_COND, KeyNames, TextTaking, with_keywords
from classifier_free_guidance_pytorch.decorator.texts import (
    TextInput,
    branch_conditions,
    check_text,
    per_condition,
    training_branch,
)
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError


def classifier_free_guidance(
    fn: Callable[..., Any] | None = None,
    cond_drop_prob_keyname: str = 'cond_drop_prob',
    texts_key_name: str = 'texts',
    text_embeds_key_name: str = 'text_embeds',
    cond_fns_keyname: str = 'cond_fns',
    text_conditioner_name: str = 'text_conditioner',
) -> Any:
    """Give a forward method texts and guidance, `null + cond_scale * (cond - null)` in eval mode.

    A method that names `cond_fns` or `raw_text_cond` receives the conditions of `self.text_conditioner`. A method that names
    `cond_drop_prob` instead handles text itself: it is called with 0 for the conditional and 1 for the null pass.

    Args:
        fn: the method; left out when decorating with arguments.
        cond_drop_prob_keyname: the keyword for the drop probability.
        texts_key_name: the keyword for texts; negative texts are `negative_` in front of it.
        text_embeds_key_name: the keyword for embeddings; likewise.
        cond_fns_keyname: the parameter that receives one callable per hidden dimension.
        text_conditioner_name: the attribute that holds the conditioner.

    Raises:
        ConfigError: the method has no parameter through which a condition could reach it.

    Example:
        >>> import torch
        >>> class Denoiser(torch.nn.Linear):
        ...     @classifier_free_guidance
        ...     def forward(self, x, label, cond_drop_prob=0.):
        ...         return super().forward(x) + label * (1 - cond_drop_prob)
        >>> denoiser = Denoiser(4, 4).eval()
        >>> x, label = torch.randn(2, 4), torch.ones(2, 4)
        >>> torch.allclose(denoiser(x, label, cond_scale=3.), torch.nn.Linear.forward(denoiser, x) + 3)
        True
    """
    names = KeyNames(cond_drop_prob_keyname, texts_key_name, text_embeds_key_name, cond_fns_keyname, text_conditioner_name)
    return (lambda function: guided(function, names)) if fn is None else guided(fn, names)


def guided(fn: Callable[..., Any], names: KeyNames) -> Callable[..., Any]:
    """The method `fn` with text and guidance keywords."""
    taking = TextTaking.of(fn, names)
    branch_runner = _Injected(fn, names, taking) if taking.injected else _Delegated(fn, names, taking)

    @wraps(fn)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if taking.is_bound(args, kwargs):
            return fn(self, *args, **kwargs)
        options = Options(**{name: kwargs.pop(name) for name in [*kwargs] if name in GUIDANCE_KEYWORDS})
        text = TextInput.taken_from(kwargs, names)
        taking.refuse_unknown(fn.__qualname__, (*kwargs, *(options.cfg_routed_kwargs or ())))
        args, moved = taking.by_name(args)
        call = Call(fn, self, args, {**moved, **kwargs}, options.cfg_routed_kwargs or {})
        if getattr(self, 'training', False):
            options.refuse_in_training()
            return branch_runner.train(call, text)
        return branch_runner.guide(call, text, options)

    text_keywords = (names.texts, names.text_embeds, names.negative_texts, names.negative_text_embeds, names.cond_drop_prob)
    added = {**dict.fromkeys((*text_keywords, 'text_condition')), **GUIDANCE_KEYWORDS}
    forward.__signature__ = with_keywords(fn, taking.injected, added)  # type: ignore[attr-defined]
    forward.__cfg_names__ = names  # type: ignore[attr-defined]
    return forward


class _Guided:
    """How a decorated method runs: which passes, and what becomes of their outputs."""

    def __init__(self, fn: Callable[..., Any], names: KeyNames, taking: TextTaking) -> None:
        self.fn, self.names, self.taking = fn, names, taking

    def guide(self, call: Call, text: TextInput, options: Options) -> Any:
        """One guided call in eval mode: the passes that the rule asks for, and no others."""
        wanted = _wanted(options, call.batch)
        if not wanted:
            return options.rule(**self._rule_keywords(call, options))
        outputs = self.run(call, text, options, wanted)
        flat = [output for several in outputs.values() for output in several]
        if options.is_off or options.rule.inside_attention:
            return flat[0]
        predictions = {name: [to_guide(output, options.guide) for output in outputs[name]] for name in outputs}
        given: dict[str, Any] = {name: tuple(tensors) for name, tensors in predictions.items() if name in ('conds', 'negatives')}
        given.update({name: tensors[0] for name, tensors in predictions.items() if name not in given})
        guided_prediction: Any = options.rule(**given, **self._rule_keywords(call, options))
        if options.return_unconditioned:
            guided_prediction = (guided_prediction, given['null'])
        return put_back(flat, guided_prediction, options.guide)

    def _rule_keywords(self, call: Call, options: Options) -> dict[str, Any]:
        """What a rule takes beside predictions; the noisy sample is the first tensor argument, unless said otherwise."""
        inputs = {'scale': options.cond_scale, 'state': options.guidance_state, 'x': call.sample}
        return {**inputs, **options.guidance_kwargs} if options.guidance_kwargs else inputs

    def weak_pass(self, call: Call, text: TextInput, options: Options, keywords: dict[str, Any]) -> Any:
        """The conditional pass of a weakened model."""
        weak = options.weak
        if weak is None:
            raise UsageError(
                'this rule needs a weak pass: pass weak= a dict of keywords for the forward, a second model, or '
                'perturbed_attention(...) or skip_layers(...) from the module weak_pass'
            )
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

    def train(self, call: Call, text: TextInput) -> Any:
        """One training step."""
        raise NotImplementedError

    def run(self, call: Call, text: TextInput, options: Options, wanted: Sequence[str]) -> dict[str, list[Any]]:
        """The outputs of every wanted branch."""
        raise NotImplementedError


def _wanted(options: Options, batch: int | None) -> tuple[str, ...]:
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
    wanted = options.rule.branches(scale, options.guidance_state, progress)
    return (*wanted, 'null') if options.return_unconditioned and wanted and 'null' not in wanted else wanted


class _Injected(_Guided):
    """A method that receives conditions: the text is handled here, by the module's conditioner."""

    def conditioner(self, module: Any) -> Conditioner[Any]:
        """The module's text conditioner.

        Raises:
            UsageError: it has none.
        """
        conditioner = getattr(module, self.names.text_conditioner, None)
        if not isinstance(conditioner, Conditioner):
            raise UsageError(
                f'{type(module).__name__} has no text conditioner: set self.{self.names.text_conditioner} to one, such as '
                'TextConditioner(hidden_dims=...), or decorate the class with classifier_free_guidance_class_decorator'
            )
        return conditioner

    def keywords(self, conditioner: Conditioner[Any], branch: BranchCondition, batch: int | None) -> dict[str, Any]:
        """What the method is handed: whichever of the two its signature names."""
        keywords: dict[str, Any] = {}
        if self.names.cond_fns in self.taking.injected:
            keywords[self.names.cond_fns] = branch.bound or conditioner.bind(branch)
        if RAW_TEXT_COND in self.taking.injected:
            keywords[RAW_TEXT_COND] = branch.text_cond if batch is None else branch.text_cond.expand(batch)
        return keywords

    def train(self, call: Call, text: TextInput) -> Any:
        conditioner = self.conditioner(call.module)
        check_text(conditioner, text, self.names, call.batch)
        branch = training_branch(conditioner, text, call.batch)
        return call.run(Pass('cond', self.keywords(conditioner, branch, call.batch)))

    def guide(self, call: Call, text: TextInput, options: Options) -> Any:
        conditioner = self.conditioner(call.module)
        check_text(conditioner, text, self.names, call.batch)
        if not text.is_empty:
            return super().guide(call, text, options)
        if text.has_negatives:
            raise UsageError(f'negative texts were given without texts to steer towards: pass {self.names.texts}= as well')
        output = call.run(Pass('null', self.keywords(conditioner, conditioner.null_branch(), call.batch)))
        if not options.return_unconditioned:
            return output  # null + scale * (null - null)
        prediction = to_guide(output, options.guide)
        return put_back([output], (prediction, prediction), options.guide)

    def run(self, call: Call, text: TextInput, options: Options, wanted: Sequence[str]) -> dict[str, list[Any]]:
        conditioner = self.conditioner(call.module)
        branches = branch_conditions(conditioner, text, wanted, call.batch)
        if options.rule.inside_attention and 'null' in wanted:
            combine = partial(options.rule, scale=options.cond_scale)
            inside = conditioner.extrapolated(branches['cond'][0], branches['null'][0], combine)
            return {'cond': [call.run(Pass('cond', self.keywords(conditioner, inside, call.batch)))]}
        order = [(name, branch) for name in wanted if name != 'weak' for branch in branches[name]]
        outputs: dict[str, list[Any]] = {}
        if options.cfg_batched and len(order) > 1 and self._can_join(call):
            results = self._joined(call, conditioner, [branch for _, branch in order], options)
        else:
            results = [call.run(Pass(name, self.keywords(conditioner, branch, call.batch))) for name, branch in order]
        for (name, _), result in zip(order, results, strict=True):
            outputs.setdefault(name, []).append(result)
        if 'weak' in wanted:
            outputs['weak'] = [self.weak_pass(call, text, options, self.keywords(conditioner, branches['cond'][0], call.batch))]
        return outputs

    def _can_join(self, call: Call) -> bool:
        """Whether one pass on the joined batch gives what separate passes give; says why, once, where it does not."""
        reason = why_not_joined(call.module, call.routed)
        if reason is not None:
            say_once(reason)
        return reason is None

    def _joined(self, call: Call, conditioner: Conditioner[Any], branches: list[BranchCondition], options: Options) -> list[Any]:
        """The outputs of all branches, from one pass on the joined batch."""
        batch = call.batch or 1
        joined = reduce(BranchCondition.joined, [branch.expand(batch) for branch in branches])
        shared = () if isinstance(options.cfg_batched, bool) else tuple(options.cfg_batched)
        return call.run_joined(self.keywords(conditioner, joined, None), len(branches), shared, self.taking.positional)


class _Delegated(_Guided):
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
