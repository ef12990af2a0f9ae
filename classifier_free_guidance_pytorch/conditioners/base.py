"""What every conditioner is: texts or embeddings in, one callable per hidden dimension out.

    texts -> encodings       the frozen encoders, which the conditioner has in its `source`
    encodings -> conditions  `branch`, `null_branch`: what every layer needs to know of the text, for the kinds in `reader.py`
    conditions -> callables  `bind`

Nothing but `bind` is left to do at every step of a sampling loop: conditions of texts that come again are remembered, as long as
the weights do not change and no gradient is wanted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, overload

import torch
from torch import Tensor, nn
from typing_extensions import Self

from classifier_free_guidance_pytorch.conditioners.checks import (
    check_as_many,
    check_embeds,
    check_one_of,
    check_repeat,
    per_hidden,
)
from classifier_free_guidance_pytorch.conditioners.dropout import DropProb, check_drop_prob
from classifier_free_guidance_pytorch.conditioners.prepared import (
    BranchCondition,
    CondFns,
    PreparedCondition,
    TextCondReturn,
    WeightWatch,
    identity,
)
from classifier_free_guidance_pytorch.conditioners.scale_input import ScaleInput
from classifier_free_guidance_pytorch.conditioners.text_source import Encodings, Texts, TextSource
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError
from classifier_free_guidance_pytorch.layers import CondFn, Place, place_of
from classifier_free_guidance_pytorch.text import Batch, Encoder, RecentCache, TextEncoding

Null: TypeAlias = Literal['learned', 'zeros', 'empty']
TextEmbeds: TypeAlias = Tensor | TextCondReturn | TextEncoding | Sequence[TextEncoding] | tuple[Tensor, Tensor]


class Conditioner(nn.Module, ABC):
    """Base of all conditioners, with text or without."""

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
        if null == 'empty':
            source.check_reads_texts()
        self.source = source
        self.cond_drop_prob = cond_drop_prob
        self.null = null
        self.conditioners = nn.ModuleList()
        self.reads_scale = False  # until `add_scale_input`
        self.scale_input: ScaleInput | None = None
        self.watch = WeightWatch()
        self._conditions = RecentCache(size=8)
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    @abstractmethod
    def branch(
        self,
        texts: Texts | None,
        text_embeds: TextEmbeds | None = None,
        drop_prob: DropProb | None = None,
        batch: int | None = None,
        repeat_batch: int = 1,
    ) -> BranchCondition:
        """Return the conditions of one branch; whoever asks has looked at the weights, `watch.look`, once for all branches.

        Args:
            texts: The texts, with None for a sample that has the null condition.
            text_embeds: Instead of `texts`, what `encode_texts` or `embed_texts` returned.
            drop_prob: Probability of losing the text; by default the conditioner's own in training, and 0 in eval mode.
            batch: How many samples there are, so that dropout is drawn for each, where it is known.
            repeat_batch: How many samples each text may serve.
        """

    @abstractmethod
    def null_branch(self, texts: Texts | None = None, text_embeds: TextEmbeds | None = None) -> BranchCondition:
        """Return the conditions of texts that are all dropped; one row where that is enough for every batch."""

    def at_scale(self, branch: BranchCondition, scale: float | Tensor) -> BranchCondition:
        """Return the conditions of the same texts, to be guided this strongly in one pass.

        Args:
            branch: The conditions of the texts, as they are at the scale 1.
            scale: A positive number, or one for each sample, `(b,)`.

        Raises:
            UsageError: This conditioner was built without `reads_scale=True`.
        """
        raise UsageError(
            f'this {type(self).__name__} reads no guidance scale: build it with reads_scale=True (a decorated class with '
            'text_condition_reads_scale=True); the weights of a model that reads none can be loaded into it'
        )

    def add_scale_input(self, *widths: int) -> None:
        """Let the conditioner read the guidance scale, which then adds to its features of these widths."""
        self.reads_scale, self.scale_input = True, ScaleInput(widths)

    @property
    def learned_scales(self) -> tuple[float, float] | None:
        """The lowest and highest guidance scale that the model has learned to follow in one pass; None before any."""
        return None if self.scale_input is None else self.scale_input.learned

    def learn_scales(self, scale: float | Tensor) -> None:
        """Note that a training step has taught these scales."""
        assert self.scale_input is not None
        self.scale_input.learn(scale)

    @abstractmethod
    def embed_texts(self, texts: Batch[str]) -> Tensor | TextCondReturn:
        """Return what 0.7.1's method of this name returned: pooled features for FiLM, projected tokens for attention."""

    @property
    def place(self) -> Place:
        """The device and dtype in which text features are made: those of the layer that reads them."""
        return place_of(self)

    def bind(self, branch: BranchCondition, repeat_batch: int | Sequence[int] = 1) -> CondFns:
        """Return one callable per hidden dimension; identities for a conditioner without layers."""
        if not branch.layers:
            cond_fns = CondFns((identity,) * len(self.hidden_dims))
        else:
            repeats = (1,) * len(branch.layers) if repeat_batch == 1 else self.check_repeat(repeat_batch)
            layers: Iterable[Any] = self.conditioners
            # a list, since torch 2.9 traces a map that it has used up
            cond_fns = CondFns(list(map(CondFn, layers, branch.layers, self.hiddens_channel_first, repeats)))
        cond_fns.text_cond = branch.text_cond
        return cond_fns

    if TYPE_CHECKING:

        @overload
        def __call__(
            self,
            texts: Batch[str] | None = None,
            text_embeds: TextEmbeds | None = None,
            *,
            cond_drop_prob: DropProb | None = None,
            repeat_batch: int | Sequence[int] = 1,
            return_text_cond: Literal[False] | None = None,
        ) -> CondFns: ...
        @overload
        def __call__(
            self,
            texts: Batch[str] | None = None,
            text_embeds: TextEmbeds | None = None,
            *,
            cond_drop_prob: DropProb | None = None,
            repeat_batch: int | Sequence[int] = 1,
            return_text_cond: Literal[True],
        ) -> tuple[CondFns, TextCondReturn]: ...
        def __call__(self, *args: Any, **kwargs: Any) -> CondFns | tuple[CondFns, TextCondReturn]: ...

    def forward(
        self,
        texts: Batch[str] | None = None,
        text_embeds: TextEmbeds | None = None,
        *,
        cond_drop_prob: DropProb | None = None,
        repeat_batch: int | Sequence[int] = 1,
        return_text_cond: bool | None = None,
    ) -> CondFns | tuple[CondFns, TextCondReturn]:
        """Return one callable per hidden dimension, each mapping hiddens to conditioned hiddens of the same shape.

        Args:
            texts: One string per sample, or one for all.
            text_embeds: Instead of `texts`, what `encode_texts` or `embed_texts` returned.
            cond_drop_prob: Probability of losing the text, per sample: a number, one per encoder, or a tensor `(b,)`. Defaults to
                the conditioner's own in training and to 0 in eval mode.
            repeat_batch: How many consecutive rows of the hiddens belong to each text (video frames folded into the batch); one
                number, or one per hidden dimension.
            return_text_cond: Return `(cond_fns, text_cond)` as 0.7.1 did.

        Returns:
            A tuple of callables in the order of `hidden_dims`, with the attribute `text_cond`.

        Raises:
            ConfigError: Neither or both of `texts` and `text_embeds`, or an argument out of range.
            ShapeError: Embeddings that do not fit the conditioner.
        """
        if callable(texts) and texts is getattr(type(self), getattr(texts, '__name__', ''), None):
            result: Any = texts(self)  # a method that reads weights is run as a call, which is when offloading brings them
            return result
        self.check_repeat(repeat_batch)
        if return_text_cond is not None and not isinstance(return_text_cond, bool):
            raise ConfigError(f'return_text_cond is True or False, but got {return_text_cond!r}')
        if self.source.encoders or (texts is not None and text_embeds is not None):  # a conditioner without text needs none
            check_one_of(texts, text_embeds)
        if text_embeds is not None:
            check_embeds(text_embeds)
        known = None if texts is None else self.source.texts(texts)
        if cond_drop_prob is not None:
            check_drop_prob(cond_drop_prob, len(self.source.encoders), rows=None if known is None else len(known))
        self.watch.look(self)
        branch = self.branch(known, text_embeds, cond_drop_prob)
        cond_fns = self.bind(branch, repeat_batch)
        wants_pair = type(self).return_text_cond if return_text_cond is None else return_text_cond
        return (cond_fns, branch.text_cond) if wants_pair else cond_fns

    def check_repeat(self, repeat_batch: int | Sequence[int]) -> tuple[int, ...]:
        """Return how often each of the hiddens repeats its text; raise `ConfigError` for what is no such number."""
        check_repeat(repeat_batch)
        return per_hidden(repeat_batch, self.hidden_dims, 'repeat_batch')

    def encode_texts(self, texts: Batch[str]) -> Encodings:
        """Run the frozen encoders: one `TextEncoding` per encoder. Store it, and train on it as `text_embeds`."""
        return self.source.encode(self.source.texts(texts), self.place, remember=not self.training)

    @torch.inference_mode(False)  # ordinary tensors, which may meet others that require a gradient
    @torch.no_grad()
    def prepare(
        self,
        texts: Batch[str] | None = None,
        negative_texts: Batch[str | None] | None = None,
        *,
        text_embeds: TextEmbeds | None = None,
        negative_text_embeds: TextEmbeds | None = None,
    ) -> PreparedCondition:
        """Do all work that depends on the text alone, once: encoders, FiLM scale and shift, attention keys and values.

        Args:
            texts: One string per sample, or one for all.
            negative_texts: What to steer away from, instead of the null condition; None for a sample that keeps the null.
            text_embeds: Instead of `texts`.
            negative_text_embeds: Instead of `negative_texts`.

        Returns:
            A `PreparedCondition`, valid until the weights of this conditioner change.

        Raises:
            ConfigError: Neither or both of `texts` and `text_embeds`, or texts that are no batch of strings.
            ShapeError: Negative texts that are neither one for all nor one for each text.
        """
        check_one_of(texts, text_embeds)
        for name, embeds in (('text_embeds', text_embeds), ('negative_text_embeds', negative_text_embeds)):
            if embeds is not None:
                check_embeds(embeds, name)
        known = None if texts is None else self.source.texts(texts)
        generation = self.watch.look(self, closely=True)
        cond = self.branch(known, text_embeds, 0.0)
        if negative_texts is None and negative_text_embeds is None:
            null = self.null_branch(known, text_embeds)
        else:
            check_one_of(negative_texts, negative_text_embeds, 'negative_')
            negatives = None if negative_texts is None else self.source.texts(negative_texts, 'negative_texts', allow_none=True)
            null = self.branch(negatives, negative_text_embeds, 0.0)
            check_as_many(cond.rows, null.rows)
        return PreparedCondition(cond, null, self.watch.name, generation)

    def check_prepared(self, prepared: PreparedCondition) -> None:
        """Raise `UsageError` for a condition of another conditioner, or of this one before its weights changed."""
        if prepared.owner != self.watch.name:
            raise UsageError('this text_condition was prepared by another model (or by a copy): call prepare(texts) on this one')
        if prepared.generation != self.watch.look(self):
            raise UsageError(
                'the weights have changed since this text_condition was prepared: call prepare(texts) again (adapters that were '
                'switched on or off count as well)'
            )

    def train(self, mode: bool = True) -> Self:
        """Switch between training and eval mode, and look whether weights have changed: a compiled call cannot look itself."""
        self.watch.look(self, closely=True)
        _ = self.learned_scales  # likewise read now
        return super().train(mode)

    def check_attention(self) -> None:
        """Raise `ConfigError` for guidance inside cross-attention where there is none."""
        raise ConfigError(
            f'this rule guides inside cross-attention, which a {type(self).__name__} does not have: use an '
            "AttentionTextConditioner, text_condition_type='attention'"
        )

    def extrapolated(
        self, cond: BranchCondition, null: BranchCondition, combine: Callable[[Tensor, Tensor], Tensor]
    ) -> BranchCondition:
        """Return one branch that combines the attention features of two inside its layers: guidance in one forward pass."""
        raise NotImplementedError

    @property
    def unwrapped(self) -> Self:
        """The conditioner itself, also where a wrapper is asked that hands attributes on."""
        return self

    # what 0.7.1's users reach for

    @property
    def text_models(self) -> list[Encoder]:
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
        """Where the conditioner computes."""
        return self.place.device


def _forget(conditioner: Conditioner, incompatible_keys: Any) -> None:
    """After a checkpoint was loaded, nothing made before it is valid."""
    conditioner.watch.forget()
    _ = conditioner.learned_scales  # read now, for compiled calls
