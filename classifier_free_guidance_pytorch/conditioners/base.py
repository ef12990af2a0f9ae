"""What every conditioner is: texts or embeddings in, one callable per hidden dimension out.

read      texts or embeddings        -> features of the text          (the encoders run here, and only here)
branch    features, drop probability -> the conditions of one branch  (dropout, null, conditioning layers)
bind      conditions                 -> callables for the hiddens
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from classifier_free_guidance_pytorch.conditioners.dropout import DropProb, check_drop_prob, drops_all, drops_nothing, keep_mask
from classifier_free_guidance_pytorch.conditioners.prepared import (
    BranchCondition,
    CondFns,
    Ownership,
    PreparedCondition,
    TextCondReturn,
    version_of,
)
from classifier_free_guidance_pytorch.conditioners.text_source import Encodings, TextSource
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError
from classifier_free_guidance_pytorch.layers import CondFn
from classifier_free_guidance_pytorch.text import TextEncoding

Null: TypeAlias = Literal['learned', 'zeros', 'empty']
TextEmbeds: TypeAlias = Tensor | TextCondReturn | TextEncoding | Sequence[TextEncoding]
Features = TypeVar('Features')


class Conditioner(nn.Module, ABC, Generic[Features]):
    """Base of the conditioners. `Features` is what a kind of conditioner reads from text, with one row per text."""

    # 0.7.1 returned `(cond_fns, text_cond)`: code written for it sets this to True on the class, once.
    return_text_cond: ClassVar[bool] = False

    def __init__(
        self,
        hidden_dims: Sequence[int],
        source: TextSource,
        cond_drop_prob: DropProb,
        hiddens_channel_first: bool | Sequence[bool],
        null: Null,
    ) -> None:
        super().__init__()
        self.hidden_dims = tuple(hidden_dims)
        self.hiddens_channel_first = per_hidden(hiddens_channel_first, self.hidden_dims, 'hiddens_channel_first')
        if not all(isinstance(first, bool) for first in self.hiddens_channel_first):
            raise ConfigError(
                f'hiddens_channel_first is True or False, or one for each of the hiddens, got {hiddens_channel_first!r}'
            )
        check_drop_prob(cond_drop_prob, len(source.encoders))
        self.source = source
        self.cond_drop_prob = cond_drop_prob
        self.null = null
        self.conditioners = nn.ModuleList()
        self.ownership = Ownership()
        self.register_load_state_dict_post_hook(_mark_stale)  # type: ignore[no-untyped-call]

    # what the kinds of conditioners differ in

    @property
    @abstractmethod
    def weight(self) -> Tensor:
        """A weight that text features meet first: its device and dtype are theirs."""

    @abstractmethod
    def read_encodings(self, encodings: Encodings) -> Features:
        """The features of frozen encodings."""

    @abstractmethod
    def read_embeds(self, embeds: Tensor | TextCondReturn) -> Features:
        """The features of what `embed_texts` returned."""

    @abstractmethod
    def nothing(self) -> Features:
        """The features of one text that is not there, to be dropped: for a training step without texts."""

    @abstractmethod
    def count(self, features: Features) -> int:
        """How many texts the features describe."""

    @abstractmethod
    def expand(self, features: Features, rows: int) -> Features:
        """The features of one text as those of `rows` equal texts, which dropout may then tell apart."""

    @abstractmethod
    def drop(self, features: Features, keep: Tensor) -> Features:
        """The features with the null in place of what is not kept; `keep` is `(b, 1)` or `(b, encoders)`."""

    @abstractmethod
    def condition(self, features: Features) -> BranchCondition:
        """The conditions of every layer."""

    @abstractmethod
    def null_branch(self, features: Features | None = None) -> BranchCondition:
        """The conditions of texts that are all dropped; one row where that is enough for every batch."""

    def extrapolated(
        self, cond: BranchCondition, null: BranchCondition, combine: Callable[[Tensor, Tensor], Tensor]
    ) -> BranchCondition:
        """One branch that combines the attention features of two inside its layers: guidance in one forward pass."""
        raise NotImplementedError

    def check_attention(self) -> None:
        """Refuse guidance inside cross-attention where there is none.

        Raises:
            ConfigError: the conditioner has no attention.
        """
        raise ConfigError(
            f'this rule guides inside cross-attention, which a {type(self).__name__} does not have: use an '
            "AttentionTextConditioner, text_condition_type='attention'"
        )

    @abstractmethod
    def embed_texts(self, texts: Sequence[str]) -> Any:
        """What 0.7.1's method of this name returned."""

    # the flow

    def read(self, texts: Sequence[str] | None, text_embeds: TextEmbeds | None) -> Features:
        """The features of texts, or of embeddings made earlier; exactly one of the two is given."""
        if (texts is None) == (text_embeds is None):
            got = 'neither' if texts is None else 'both'
            raise ConfigError(f'pass either texts or text_embeds, but got {got}')
        if texts is not None:
            return self.read_encodings(self.encode_texts(texts))
        if isinstance(text_embeds, TextEncoding):
            text_embeds = (text_embeds,)
        if isinstance(text_embeds, (Tensor, TextCondReturn)):
            return self.read_embeds(text_embeds)
        parts: list[Any] = list(text_embeds) if isinstance(text_embeds, Sequence) else []
        if parts and all(isinstance(part, TextEncoding) for part in parts):
            return self.read_encodings(self.source.checked(parts))
        if len(parts) == 2 and all(isinstance(part, Tensor) for part in parts):
            return self.read_embeds(TextCondReturn(*parts))
        raise ConfigError(
            'text_embeds is what encode_texts or embed_texts returned: a tensor, a pair (embed, mask), a TextEncoding or one '
            f'TextEncoding per encoder, but got {type(text_embeds).__name__}'
        )

    def branch(self, features: Features, drop_prob: DropProb | None = None) -> BranchCondition:
        """The conditions of one branch. `drop_prob` defaults to the conditioner's own in training and to 0 in eval mode."""
        if drop_prob is None:
            drop_prob = self.cond_drop_prob if self.training else 0.0
        if self.training:
            # the null takes part in every training step, so that no parameter is ever unused under DDP
            return self.condition(self.drop(features, keep_mask(drop_prob, self.count(features), self.weight.device)))
        if drops_nothing(drop_prob):
            return self.condition(features)
        if drops_all(drop_prob):
            return self.null_branch(features)
        return self.condition(self.drop(features, keep_mask(drop_prob, self.count(features), self.weight.device)))

    def bind(self, branch: BranchCondition, repeat_batch: int | Sequence[int] = 1) -> CondFns:
        """One callable per hidden dimension; identities for a conditioner without layers."""
        if not branch.layers:
            return CondFns((identity,) * len(self.hidden_dims), branch.text_cond)
        repeats = self._repeats(repeat_batch)
        bound: Iterable[Any] = zip(self.conditioners, branch.layers, repeats, self.hiddens_channel_first, strict=True)
        fns = (CondFn(layer, condition.repeat(times), channel_first) for layer, condition, times, channel_first in bound)
        return CondFns(fns, branch.text_cond)

    def forward(
        self,
        texts: Sequence[str] | None = None,
        text_embeds: TextEmbeds | None = None,
        *,
        cond_drop_prob: DropProb | None = None,
        repeat_batch: int | Sequence[int] = 1,
        return_text_cond: bool | None = None,
    ) -> Any:
        """One callable per hidden dimension, each mapping hiddens to conditioned hiddens of the same shape.

        Args:
            texts: one string per sample, or one for all.
            text_embeds: in place of `texts`, what `encode_texts` or `embed_texts` returned.
            cond_drop_prob: probability of losing the text, per sample: a number, one per encoder, or a tensor `(b,)`. Defaults to
                the conditioner's own in training and to 0 in eval mode.
            repeat_batch: how many consecutive rows of the hiddens belong to each text (video frames folded into the batch); one
                number, or one per hidden dimension.
            return_text_cond: return `(cond_fns, text_cond)` as 0.7.1 did.

        Returns:
            A tuple of callables in the order of `hidden_dims`, with the attribute `text_cond`.

        Raises:
            ConfigError: neither or both of `texts` and `text_embeds`, or an argument out of range.
            ShapeError: embeddings that do not fit the conditioner.
        """
        self._repeats(repeat_batch)
        if cond_drop_prob is not None:
            rows = None if texts is None else self.source.count(texts)
            check_drop_prob(cond_drop_prob, len(self.source.encoders), rows=rows)
        branch = self.branch(self.read(texts, text_embeds), cond_drop_prob)
        cond_fns = self.bind(branch, repeat_batch)
        wants_pair = type(self).return_text_cond if return_text_cond is None else return_text_cond
        return (cond_fns, branch.text_cond) if wants_pair else cond_fns

    def _repeats(self, repeat_batch: int | Sequence[int]) -> tuple[int, ...]:
        """How often each of the hiddens repeats its text."""
        repeats = per_hidden(repeat_batch, self.hidden_dims, 'repeat_batch')
        if any(isinstance(times, bool) or not isinstance(times, int) or times < 1 for times in repeats):
            raise ConfigError(
                f'repeat_batch counts the rows of the hiddens that share a text, at least 1, but got {repeat_batch!r}'
            )
        return repeats

    def encode_texts(self, texts: Sequence[str]) -> Encodings:
        """The frozen encoders' output, one `TextEncoding` per encoder: store it, and train on it as `text_embeds`."""
        return self.source.encode(texts, self.weight.device, self.weight.dtype, remember=not self.training)

    @torch.inference_mode(False)  # ordinary tensors, which may meet others that require a gradient
    @torch.no_grad()
    def prepare(
        self,
        texts: Sequence[str] | None = None,
        negative_texts: Sequence[str] | None = None,
        *,
        text_embeds: TextEmbeds | None = None,
        negative_text_embeds: TextEmbeds | None = None,
    ) -> PreparedCondition:
        """Do all work that depends on the text alone, once: encoders, FiLM scale and shift, attention keys and values.

        Args:
            texts: one string per sample, or one for all.
            negative_texts: what to steer away from, in place of the null condition.
            text_embeds: in place of `texts`.
            negative_text_embeds: in place of `negative_texts`.

        Returns:
            A `PreparedCondition`, valid until the weights of this conditioner change.
        """
        features = self.read(texts, text_embeds)
        if negative_texts is None and negative_text_embeds is None:
            null = self.null_branch(features)
        else:
            null = self.condition(self.read(negative_texts, negative_text_embeds))
        cond = self.condition(features)
        cond.bound, null.bound = self.bind(cond), self.bind(null)
        weights = tuple(self.parameters())
        return PreparedCondition(cond, null, self.ownership, weights, tuple(map(version_of, weights)))

    def train(self, mode: bool = True) -> Self:
        """Switch between training and eval mode; what was prepared from weights that have changed since is marked stale."""
        self.ownership.mark_stale(tuple(self.parameters()))
        return super().train(mode)

    def check_prepared(self, prepared: PreparedCondition) -> None:
        """Refuse a condition that another conditioner made, or this one before its weights changed.

        Raises:
            UsageError: the condition would be silently wrong.
        """
        if prepared.owner is not self.ownership:
            raise UsageError('this text_condition was prepared by another model (or by a copy): call prepare(texts) on this one')
        # a traced graph cannot read versions: there the mark set by eval() and load_state_dict has to do
        if prepared.stale or (not torch.compiler.is_compiling() and prepared.weights_changed()):
            raise UsageError('the weights have changed since this text_condition was prepared: call prepare(texts) again')

    # what 0.7.1's users reach for

    @property
    def text_models(self) -> list[Any]:
        """The text encoders, in the order of `model_types`."""
        return list(self.source.encoders)

    @property
    def num_condition_fns(self) -> int:
        """How many callables a call returns."""
        return len(self.hidden_dims)

    @property
    def max_text_len(self) -> int:
        """The number of text tokens at most, over all encoders together."""
        return sum(encoder.max_text_len for encoder in self.source.encoders)

    @property
    def device(self) -> torch.device:
        """Where the conditioner's weights are."""
        return self.weight.device


def _mark_stale(conditioner: Conditioner[Any], incompatible_keys: Any) -> None:
    """After a checkpoint was loaded, nothing prepared before it is valid."""
    conditioner.ownership.mark_stale(tuple(conditioner.parameters()))


def identity(hiddens: Tensor) -> Tensor:
    """The callable of a conditioner that leaves the hiddens alone."""
    return hiddens


def check_hidden_dims(hidden_dims: Sequence[int]) -> None:
    """Refuse, before any encoder is built, hidden dimensions that are no list of positive integers."""
    if not hidden_dims or any(isinstance(dim, bool) or not isinstance(dim, int) or dim < 1 for dim in hidden_dims):
        raise ConfigError(
            f'hidden_dims lists the width of each of the hiddens to condition, such as (256, 512), but got {hidden_dims!r}'
        )


def per_hidden(value: Any, hidden_dims: tuple[int, ...], name: str) -> tuple[Any, ...]:
    """One value per hidden dimension: a single one is repeated, a sequence must have the right length."""
    if not isinstance(value, Sequence):
        return (value,) * len(hidden_dims)
    if len(value) != len(hidden_dims):
        raise ConfigError(
            f'{name} has {len(value)} entries for {len(hidden_dims)} hidden_dims: pass one for all, or one for each'
        )
    return tuple(value)
