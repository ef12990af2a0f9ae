"""The text keywords of one call, and the condition that each branch gets from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from classifier_free_guidance_pytorch.conditioners import BranchCondition, Conditioner, NullConditioner, PreparedCondition
from classifier_free_guidance_pytorch.conditioners.dropout import DropProb, check_drop_prob, drops_all, drops_nothing
from classifier_free_guidance_pytorch.decorator.signature import KeyNames
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError

Branches = dict[str, list[BranchCondition]]


@dataclass
class TextInput:
    """What a caller said about text, under whatever names the decorator was given."""

    texts: Any = None
    text_embeds: Any = None
    negative_texts: Any = None
    negative_text_embeds: Any = None
    prepared: PreparedCondition | Sequence[PreparedCondition] | None = None
    drop_prob: DropProb | None = None

    @staticmethod
    def taken_from(kwargs: dict[str, Any], names: KeyNames) -> TextInput:
        """Take the text keywords out of the keywords of a call.

        Raises:
            ConfigError: two that exclude each other.
        """
        given = TextInput(
            kwargs.pop(names.texts, None),
            kwargs.pop(names.text_embeds, None),
            kwargs.pop(names.negative_texts, None),
            kwargs.pop(names.negative_text_embeds, None),
            kwargs.pop('text_condition', None),
            kwargs.pop(names.cond_drop_prob, None),
        )
        if given.texts is not None and given.text_embeds is not None:
            raise ConfigError(f'pass either {names.texts} or {names.text_embeds}, but got both')
        if given.negative_texts is not None and given.negative_text_embeds is not None:
            raise ConfigError(f'pass either {names.negative_texts} or {names.negative_text_embeds}, but got both')
        if given.prepared is not None and (given.is_given or given.has_negatives):
            raise ConfigError('text_condition holds the texts and the negative texts already: pass no others beside it')
        return given

    def as_keywords(self, names: KeyNames) -> dict[str, Any]:
        """What was given for the condition itself, as the keywords it came in."""
        given = {names.texts: self.texts, names.text_embeds: self.text_embeds, names.cond_drop_prob: self.drop_prob}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def negatives(self) -> tuple[Any, Any]:
        """The negative texts and the negative embeddings, one of them None."""
        return self.negative_texts, self.negative_text_embeds

    @property
    def is_given(self) -> bool:
        """Whether there is a text to condition on."""
        return self.texts is not None or self.text_embeds is not None

    @property
    def has_negatives(self) -> bool:
        """Whether there is a text to steer away from."""
        return self.negative_texts is not None or self.negative_text_embeds is not None

    @property
    def is_empty(self) -> bool:
        """Whether no text was given in any form."""
        return not self.is_given and self.prepared is None


def per_condition(texts: Any) -> list[Any]:
    """One batch of texts per condition: `[['a dog', 'a cat'], ['at night', 'in snow']]` are two."""
    if isinstance(texts, (list, tuple)) and texts and all(isinstance(batch, (list, tuple)) for batch in texts):
        return list(texts)
    return [texts]


def check_text(conditioner: Conditioner[Any], text: TextInput, names: KeyNames, batch: int | None) -> None:
    """Refuse, before any encoder runs, texts and probabilities that can never work.

    Raises:
        ConfigError: texts that are no batch of strings, or a value that is no probability.
        ShapeError: a number of them that does not fit the batch.
    """
    if text.drop_prob is not None and not isinstance(conditioner, NullConditioner):
        check_drop_prob(text.drop_prob, len(conditioner.source.encoders), names.cond_drop_prob, batch)
    for name, given in ((names.texts, text.texts), (names.negative_texts, text.negative_texts)):
        for texts in [] if given is None else per_condition(given):
            _check_count(conditioner.source.count(texts, name), name, batch)


def _check_count(count: int, what: str, batch: int | None) -> None:
    """Refuse a number of texts that is neither the batch's nor one for all."""
    if batch is not None and count not in (1, batch):
        raise ShapeError(f'{count} {what} were given for a batch of {batch}: pass one per sample, or one for all')


def training_branch(conditioner: Conditioner[Any], text: TextInput, batch: int | None) -> BranchCondition:
    """The one branch of a training step, with conditional dropout.

    Raises:
        UsageError: no texts, and nothing that says this is meant.
    """
    if text.has_negatives:
        raise UsageError('negative texts steer guidance, which is for sampling: call model.eval() first, or leave them out')
    if isinstance(conditioner, NullConditioner):
        return conditioner.null_branch()
    if text.prepared is not None:
        raise UsageError(
            'a prepared text_condition carries no gradient to the text conditioner and no dropout, so it is for sampling: '
            'in training pass texts=, or what encode_texts(texts) returned as text_embeds='
        )
    if text.is_empty:
        if text.drop_prob is not None and drops_all(text.drop_prob):
            return conditioner.branch(conditioner.nothing(), 1.0)
        raise UsageError(
            'no texts were given in training: pass texts= (or text_embeds=), or say that this step is unconditional with '
            'cond_drop_prob=1.'
        )
    return _conditional(conditioner, text.texts, text.text_embeds, text.drop_prob, batch)


def branch_conditions(
    conditioner: Conditioner[Any], text: TextInput, wanted: Sequence[str], takes_several: bool, batch: int | None
) -> Branches:
    """The condition of every wanted branch, in eval mode. Each text is encoded once, whatever it is wanted for.

    Args:
        conditioner: the text conditioner.
        text: the text keywords of the call.
        wanted: the branches to run at this scale.
        takes_several: whether the rule combines several conditions, at this scale or at others.
        batch: the number of samples, where it is known.

    Raises:
        UsageError: a branch needs texts that were not given.
    """
    if 'negatives' in wanted and not text.has_negatives and text.prepared is None:
        raise UsageError('this rule steers away from negative texts: pass negative_texts=')
    if text.prepared is not None:
        return _from_prepared(conditioner, text, wanted, takes_several, batch)
    positives = per_condition(text.texts)
    _check_conditions(len(positives), takes_several)
    branches: Branches = {}
    if 'conds' in wanted:
        branches['conds'] = [_conditional(conditioner, texts, None, text.drop_prob, batch) for texts in positives[1:]]
    features = _read(conditioner, positives[0], text.text_embeds, batch)
    if 'cond' in wanted or 'weak' in wanted:
        branches['cond'] = [_dropped(conditioner, features, text.drop_prob, batch)]
    if 'negatives' in wanted:
        negatives = [(texts, text.negative_text_embeds) for texts in per_condition(text.negative_texts)]
        branches['negatives'] = [conditioner.condition(_read(conditioner, *one, batch)) for one in negatives]
        branches['null'] = [conditioner.null_branch(features)]
    elif 'null' in wanted:
        null = conditioner.condition(_read(conditioner, *text.negatives, batch)) if text.has_negatives else None
        branches['null'] = [null or conditioner.null_branch(features)]
    return branches


def _from_prepared(
    conditioner: Conditioner[Any], text: TextInput, wanted: Sequence[str], takes_several: bool, batch: int | None
) -> Branches:
    """The branches of prepared conditions: the first is the main one, and the others are further conditions."""
    first, *others = _prepared(conditioner, text, batch)
    if text.drop_prob is not None and not drops_nothing(text.drop_prob):
        raise ConfigError('a prepared text_condition has no dropout: leave cond_drop_prob out, or pass texts')
    _check_conditions(1 + len(others), takes_several)
    branches: Branches = {'cond': [first.cond], 'null': [first.null], 'conds': [other.cond for other in others]}
    if 'negatives' in wanted:
        branches['negatives'], branches['null'] = [first.null], [conditioner.null_branch()]
    return branches


def _prepared(conditioner: Conditioner[Any], text: TextInput, batch: int | None) -> list[PreparedCondition]:
    """The prepared conditions of a call, each checked to be of this model as it is now."""
    given = text.prepared if isinstance(text.prepared, (list, tuple)) else [text.prepared]
    for prepared in given:
        if not isinstance(prepared, PreparedCondition):
            raise ConfigError(f'text_condition is what model.prepare(texts) returned, but got {type(prepared).__name__}')
        conditioner.check_prepared(prepared)
        _check_count(len(prepared), 'prepared texts', batch)
    return list(given)


def _check_conditions(count: int, takes_several: bool) -> None:
    """Several conditions need a rule for several, and the other way round."""
    if count > 1 and not takes_several:
        raise ConfigError(
            f'{count} conditions were given, but this rule guides towards one: pass guidance=guidance.Compose(...) or '
            'guidance.Chain(...), or one batch of texts'
        )
    if count == 1 and takes_several:
        raise UsageError(
            'this rule combines several conditions: pass texts=[[...], [...]], one batch of texts for each condition'
        )


def _conditional(
    conditioner: Conditioner[Any], texts: Any, embeds: Any, drop_prob: DropProb | None, batch: int | None
) -> BranchCondition:
    """Read texts and condition on them."""
    return _dropped(conditioner, _read(conditioner, texts, embeds, batch), drop_prob, batch)


def _dropped(conditioner: Conditioner[Any], features: Any, drop_prob: DropProb | None, batch: int | None) -> BranchCondition:
    """Condition on features with dropout per sample, even where one text serves a whole batch."""
    drops = conditioner.training if drop_prob is None else not drops_nothing(drop_prob)
    if drops and batch is not None and conditioner.count(features) == 1 != batch:
        features = conditioner.expand(features, batch)
    return conditioner.branch(features, drop_prob)


def _read(conditioner: Conditioner[Any], texts: Any, embeds: Any, batch: int | None) -> Any:
    """The features of texts or embeddings, refused where their number does not fit the batch."""
    features = conditioner.read(texts, embeds)
    _check_count(conditioner.count(features), 'text embeddings', batch)
    return features
