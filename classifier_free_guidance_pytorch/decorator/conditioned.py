"""Functions that receive conditions: `forward(self, x, cond_fns)`. The text is handled here, by the module's conditioner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import torch
from torch import nn

from classifier_free_guidance_pytorch.conditioners import (
    BranchCondition,
    Conditioner,
    NullConditioner,
    TextEmbeddingReturner,
)
from classifier_free_guidance_pytorch.conditioners.dropout import DropProb, check_drop_prob, drops_all, drops_nothing
from classifier_free_guidance_pytorch.conditioners.prepared import CondFns
from classifier_free_guidance_pytorch.conditioners.text_source import Texts
from classifier_free_guidance_pytorch.conditioners.wrapped import unwrapped
from classifier_free_guidance_pytorch.decorator.batched import JoinedBatch, warn_once, why_not_joined
from classifier_free_guidance_pytorch.decorator.call import Call, Pass
from classifier_free_guidance_pytorch.decorator.drop_prob import weak_pass
from classifier_free_guidance_pytorch.decorator.keywords import per_condition
from classifier_free_guidance_pytorch.decorator.signature import RAW_TEXT_COND, ForwardSignature, KeyNames
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError
from classifier_free_guidance_pytorch.guidance.step import is_weak
from classifier_free_guidance_pytorch.rows import map_rows, moved

Branches = dict[str, list[BranchCondition]]


@dataclass(frozen=True)
class Conditioned:
    """The passes of a function that receives `cond_fns` and / or `raw_text_cond`."""

    names: KeyNames
    signature: ForwardSignature

    def reads_scale(self, call: Call) -> bool:
        return self.conditioner(call).reads_scale

    def learned_scales(self, call: Call) -> tuple[float, float] | None:
        conditioner = self.conditioner(call)
        return conditioner.learned_scales if conditioner.reads_scale else None

    def training_pass(self, call: Call) -> Pass:
        conditioner, text = self.conditioner(call), call.text
        texts, _ = self._checked(conditioner, call)
        _check_conditions(len(texts), call)
        if text.has_negatives:
            raise UsageError('negative texts steer guidance, which is for sampling: call model.eval() first, or leave them out')
        if isinstance(conditioner, NullConditioner):
            return self._pass('cond', conditioner, conditioner.null_branch(), call)
        if text.text_condition is not None:
            raise UsageError(
                'a prepared text_condition carries no gradient to the text conditioner and no dropout, so it is for sampling: '
                'in training pass texts=, or what encode_texts(texts) returned as text_embeds='
            )
        if text.is_given:
            branch = self._branch(conditioner, texts[0], text.text_embeds, call, text.cond_drop_prob)
        elif text.cond_drop_prob is not None and drops_all(text.cond_drop_prob):
            branch = conditioner.null_branch()
        else:
            raise UsageError(
                'no texts were given in training: pass texts= (or text_embeds=), or say that this step is unconditional with '
                'cond_drop_prob=1.'
            )
        return self._pass('cond', conditioner, branch, call)

    def passes(self, call: Call, wanted: Sequence[str]) -> list[Pass]:
        conditioner, text = self.conditioner(call), call.text
        if text.text_condition is not None:
            branches = self._prepared(conditioner, call)
        elif text.is_given:
            branches = self._read(conditioner, call, wanted)
        else:
            self._checked(conditioner, call)
            if text.has_negatives:
                raise UsageError(f'negative texts were given without texts to steer towards: pass {self.names.texts}= as well')
            conditioner.watch.look(conditioner)
            return [self._pass('null', conditioner, conditioner.null_branch(), call)]
        if call.rule.inside_attention and 'null' in wanted:
            combine = partial(call.rule, scale=call.scale)
            inside = conditioner.extrapolated(branches['cond'][0], branches['null'][0], combine)
            return [self._pass('cond', conditioner, inside, call)]
        weak = [] if call.keywords.weak is None else [name for name in wanted if is_weak(name)]
        own = [name for name in wanted if name not in weak]
        order = [(name, condition) for name in own for condition in branches[name]]
        passes = self._passes(conditioner, order, call)
        return passes + [self._weak_pass(name, conditioner, branches['cond'][0], call) for name in weak]

    def run_joined(self, call: Call, passes: Sequence[Pass]) -> list[Any] | None:
        reason = why_not_joined(call.module, call.routed)
        if reason is not None:
            warn_once(reason)
            return None
        if call.batch is None:
            raise ShapeError(
                'cfg_batched=True joins batches, but no tensor argument says how large the batch is: pass cfg_batched=False'
            )
        own = [one for one in passes if not is_weak(one.branch)]  # a weak pass runs a different model, so it runs by itself
        conditioner = self.conditioner(call)
        conditions = [one.condition for one in own if one.condition is not None]
        lengths = [one.text_cond.embed.shape[1] for one in conditions if one.text_cond.embed is not None]
        if isinstance(conditioner, TextEmbeddingReturner) and any(length != lengths[0] for length in lengths):
            warn_once(
                f'the branches have {" and ".join(map(str, lengths))} tokens, and a network that reads no mask would read the '
                'padding: text_condition_pad_to= gives all texts one length'
            )
            return None
        most = max(call.batch, *(condition.rows for condition in conditions))
        conditions = [one.expand(most) if one.rows in (1, most) else one.repeat(_times(call)) for one in conditions]
        rows = None if call.keywords.return_unconditioned else call.rule.null_rows(call.scale, call.keywords.guidance_state)
        for i, one in enumerate(own):
            if rows is not None and one.branch == 'null' and conditions[i].rows in (1, call.batch):
                one.rows = moved(rows, conditioner.device)
                conditions[i] = conditions[i].index(one.rows)
        cond_fns = conditioner.bind(reduce(BranchCondition.joined, conditions), call.text.repeat_batch)
        keywords = self._keywords(cond_fns, call, joined=True)
        outputs = JoinedBatch(call.batch, [one.rows for one in own]).run(call, keywords, self.signature.positional)
        return outputs + [call.run(one) for one in passes[len(own) :]]

    def conditioner(self, call: Call) -> Conditioner:
        """Return the text conditioner of the call's module, which is looked for once in a call.

        Raises:
            UsageError: It has none.
        """
        if call.conditioner is not None:
            return call.conditioner
        found = getattr(call.module, self.names.text_conditioner, None)
        # the common case; `unwrapped` finds it inside a wrapper, and refuses what FSDP2 has made of it, by its class
        is_itself = isinstance(found, Conditioner) and not hasattr(type(found), 'unshard')
        conditioner = call.conditioner = found if is_itself else unwrapped(found)
        if conditioner is None:
            raise UsageError(
                f'{type(call.module).__name__} has no text conditioner: set self.{self.names.text_conditioner} to one, such as '
                'TextConditioner(hidden_dims=...), or decorate the class with classifier_free_guidance_class_decorator'
            )
        return conditioner

    def _pass(self, branch: str, conditioner: Conditioner, condition: BranchCondition, call: Call) -> Pass:
        return self._passes(conditioner, [(branch, condition)], call)[0]

    def _passes(self, conditioner: Conditioner, order: Sequence[tuple[str, BranchCondition]], call: Call) -> list[Pass]:
        """Return a pass for every branch and its condition."""
        samples = call.text.num_samples_per_text
        if samples != 1:
            order = [(name, one.repeat(samples) if call.batch in (None, one.rows * samples) else one) for name, one in order]
        scale = call.read_scale
        if scale is not None:
            order = [(name, conditioner.at_scale(one, scale) if name == 'cond' else one) for name, one in order]
        bound = [conditioner.bind(condition, call.text.repeat_batch) for _, condition in order]
        return [Pass(name, self._keywords(fns, call), condition) for (name, condition), fns in zip(order, bound, strict=True)]

    def _keywords(self, cond_fns: CondFns, call: Call, joined: bool = False) -> dict[str, Any]:
        """Return what the function is handed: whichever of the two its signature names."""
        keywords: dict[str, Any] = {}
        if self.names.cond_fns in self.signature.injected:
            keywords[self.names.cond_fns] = cond_fns
        if RAW_TEXT_COND in self.signature.injected:
            raw, batch, times = cond_fns.text_cond, call.batch, _times(call)
            rows = 1 if raw.embed is None else raw.embed.shape[0]
            # a copy, which the function may write to: the condition itself is asked again at the next step
            if batch is not None and not joined and rows == 1:
                raw = map_rows(raw, lambda t: t.expand(batch, *t.shape[1:]).clone())
            elif batch is not None and not joined and rows * times == batch != rows:
                raw = map_rows(raw, lambda t: t.repeat_interleave(times, dim=0))
            else:
                raw = map_rows(raw, torch.clone)
            keywords[RAW_TEXT_COND] = raw
        return keywords

    def _weak_pass(self, branch: str, conditioner: Conditioner, condition: BranchCondition, call: Call) -> Pass:
        text = call.text
        if isinstance(call.weakened_by(branch), nn.Module) and text.text_condition is not None:
            raise UsageError(
                'a prepared text_condition belongs to one model, so the second model in weak= cannot use it: pass texts=, or '
                'what encode_texts(texts) returned as text_embeds='
            )
        own = {**text.as_keywords(self.names)}
        if self.names.texts in own:
            own[self.names.texts] = per_condition(text.texts)[0]
        return weak_pass(branch, call, self._pass(branch, conditioner, condition, call).keywords, own)

    def _checked(self, conditioner: Conditioner, call: Call) -> tuple[list[Texts | None], list[Texts | None]]:
        """Return the texts and the negative texts, one batch per condition, checked before any encoder runs.

        Raises:
            ConfigError: Texts that are no batch of strings, or a value that is no probability.
            ShapeError: A number of them that does not fit the batch.
        """
        text, names, batch = call.text, self.names, call.batch
        if text.repeat_batch != 1:
            conditioner.check_repeat(text.repeat_batch)
        if text.cond_drop_prob is not None:
            check_drop_prob(text.cond_drop_prob, len(conditioner.source.encoders), names.cond_drop_prob, batch)
        known: list[list[Texts | None]] = [[None], [None]]
        for side, given in enumerate((text.texts, text.negative_texts)):
            if given is not None:
                name = names.negative_texts if side else names.texts
                batches = [conditioner.source.texts(one, name, allow_none=bool(side)) for one in per_condition(given)]
                for one in batches:
                    _check_count(len(one), name, call)
                known[side] = [*batches]
        return known[0], known[1]

    def _branch(
        self, conditioner: Conditioner, texts: Texts | None, embeds: Any, call: Call, drop_prob: DropProb | None = None
    ) -> BranchCondition:
        """Return the conditions of texts or embeddings."""
        samples = call.text.num_samples_per_text
        branch = conditioner.branch(texts, embeds, drop_prob, call.batch, _times(call) if samples == 1 else samples)
        if texts is None:
            _check_count(branch.rows, 'text embeddings', call)
        return branch

    def _read(self, conditioner: Conditioner, call: Call, wanted: Sequence[str]) -> Branches:
        """Return the conditions of every wanted branch; a text is encoded once, whatever it is wanted for.

        Raises:
            UsageError: A branch needs texts that were not given.
        """
        text = call.text
        texts, negatives = self._checked(conditioner, call)
        if 'negatives' in wanted and not text.has_negatives:
            raise UsageError('this rule steers away from negative texts: pass negative_texts=')
        if call.rule.inside_attention:
            conditioner.check_attention()
        _check_conditions(len(texts), call)
        if text.has_negatives and call.rule.reads_scale:
            raise ConfigError(
                'this model guides in one pass, in which negative texts have no part: leave them out, or pass '
                'guidance=guidance.CFG() for two passes'
            )
        apart = 'negatives' in wanted  # the negatives have branches of their own, and the null stays the null
        if len(negatives) > 1 and not apart:
            raise ConfigError(f'{len(negatives)} batches of {self.names.negative_texts} were given, but this rule takes one')
        conditioner.watch.look(conditioner)
        branches: Branches = {}
        if 'conds' in wanted:
            branches['conds'] = [self._branch(conditioner, one, None, call, text.cond_drop_prob) for one in texts[1:]]
        if 'cond' in wanted or call.keywords.weak is not None:
            branches['cond'] = [self._branch(conditioner, texts[0], text.text_embeds, call, text.cond_drop_prob)]
        if text.has_negatives and ('null' in wanted or apart):
            read = [self._branch(conditioner, one, text.negative_text_embeds, call) for one in negatives]
            branches['negatives' if apart else 'null'] = read
        if 'null' in wanted and 'null' not in branches:
            branches['null'] = [conditioner.null_branch(texts[0], text.text_embeds)]
        return branches

    def _prepared(self, conditioner: Conditioner, call: Call) -> Branches:
        """Return the branches of prepared conditions: the first is the main one, and the others are further conditions.

        Raises:
            ConfigError: Dropout.
            UsageError: A condition of a different model, or of this one before its weights changed.
        """
        text = call.text
        if text.cond_drop_prob is not None or text.repeat_batch != 1 or text.num_samples_per_text != 1:
            self._checked(conditioner, call)
        given = text.text_condition if isinstance(text.text_condition, (list, tuple)) else (text.text_condition,)
        for prepared in given:
            conditioner.check_prepared(prepared)
            _check_count(len(prepared), 'prepared texts', call)
        if text.cond_drop_prob is not None and not drops_nothing(text.cond_drop_prob):
            raise ConfigError('a prepared text_condition has no dropout: leave cond_drop_prob out, or pass texts')
        if call.rule.inside_attention:
            conditioner.check_attention()
        _check_conditions(len(given), call)
        first, *others = given
        branches = {'cond': [first.cond], 'null': [first.null], 'conds': [other.cond for other in others]}
        if call.keywords.guidance is not None and 'negatives' in call.rule.needs_of_parts():
            branches['negatives'], branches['null'] = [first.null], [conditioner.null_branch()]
        return branches


def _times(call: Call) -> int:
    """Return how many rows of the hiddens share a text, at most."""
    repeat = call.text.repeat_batch
    return max(repeat) if isinstance(repeat, Sequence) else repeat


def _check_count(count: int, what: str, call: Call) -> None:
    """Raise `ShapeError` for a number of texts that does not fit the batch."""
    batch, times, samples = call.batch, _times(call), call.text.num_samples_per_text
    if batch is None or count in (1, batch) or (samples > 1 and count * samples == batch):
        return
    if times > 1 and (count * times == batch or count == batch * times):
        return
    shared = f' (or {batch // times} or {batch * times} with repeat_batch={times})' if times > 1 else ''
    shared = f' (or {batch // samples} with num_samples_per_text={samples})' if samples > 1 else shared
    raise ShapeError(f'{count} {what} were given for a batch of {batch}: pass one per sample, or one for all{shared}')


def _check_conditions(count: int, call: Call) -> None:
    """Raise where several conditions meet a rule for one, or the other way round."""
    takes_several = call.keywords.guidance is not None and 'conds' in call.rule.needs_of_parts()
    if count > 1 and not takes_several:
        raise ConfigError(
            f'{count} conditions were given, but this call has one: pass one text for each sample (of several captions, choose '
            'one), or sample with guidance=guidance.Compose(...) or guidance.Chain(...)'
        )
    if count == 1 and takes_several:
        raise UsageError(
            'this rule combines several conditions: pass texts=[[...], [...]], one batch of texts for each condition'
        )
