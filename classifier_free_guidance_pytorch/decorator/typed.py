"""What a conditioned class tells a type checker. Nothing here runs when a model is called.

No checker lets a decorator add parameters to a constructor or keywords to a call. So the keywords are declared here once more, as
typed dictionaries, and `TextConditioned` is a base class with the methods that the decorator adds. A test compares the names and
types with those that are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from torch import Tensor, nn
from typing_extensions import Self, TypedDict, Unpack

from classifier_free_guidance_pytorch.conditioners import (
    Batch,
    Conditioner,
    Encodings,
    ModelTypes,
    PreparedCondition,
    TextCondReturn,
)
from classifier_free_guidance_pytorch.conditioners.base import Null, TextEmbeds
from classifier_free_guidance_pytorch.conditioners.dropout import DropProb
from classifier_free_guidance_pytorch.decorator.binding import Bound, OfTime
from classifier_free_guidance_pytorch.decorator.class_decorator import classifier_free_guidance_class_decorator, remember
from classifier_free_guidance_pytorch.decorator.keywords import Scale, Weak
from classifier_free_guidance_pytorch.decorator.outputs import Guide
from classifier_free_guidance_pytorch.decorator.recorded import PREFIX
from classifier_free_guidance_pytorch.decorator.signature import HasForward
from classifier_free_guidance_pytorch.guidance import Preset, Rule, Schedule, State

MYPY = False  # mypy, and no other checker, takes this for True
R = TypeVar('R')


class CallKeywords(TypedDict, total=False):
    """The keywords that a call takes beside those of the module's own `forward`."""

    texts: Batch[str] | Sequence[Batch[str]] | None
    text_embeds: TextEmbeds | None
    negative_texts: Batch[str | None] | Sequence[Batch[str | None]] | None
    negative_text_embeds: TextEmbeds | None
    text_condition: PreparedCondition | Sequence[PreparedCondition] | None
    cond_drop_prob: DropProb | None
    repeat_batch: int | Sequence[int]
    num_samples_per_text: int
    cond_scale: Scale | Schedule
    guidance: Rule | Preset | None
    guidance_state: State | None
    guidance_kwargs: Mapping[str, Any] | None
    rescale_phi: float
    remove_parallel_component: bool
    keep_parallel_frac: float
    return_unconditioned: bool
    cfg_routed_kwargs: Mapping[str, Any] | None
    cfg_batched: bool | Sequence[str]
    weak: Weak | None
    guide: Guide


class TextConditionKeywords(TypedDict, total=False):
    """The `text_condition_*` keywords of a constructor: the arguments of all conditioners."""

    text_condition_type: Literal['film', 'attention', 'concat', 'raw', 'pooled', 'null']
    text_condition_hidden_dims: Sequence[int]
    text_condition_model_types: ModelTypes
    text_condition_model_names: str | Sequence[str | None] | None
    text_condition_model_kwargs: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None
    text_condition_cond_drop_prob: float | Sequence[float]
    text_condition_hiddens_channel_first: bool | Sequence[bool]
    text_condition_text_embed_stem_dim_mult: int
    text_condition_text_embed_pad_value: float
    text_condition_dim_latent: int | None
    text_condition_attn_dim_head: int
    text_condition_attn_heads: int
    text_condition_flash: bool
    text_condition_null: Null
    text_condition_pad_to: int | None
    text_condition_reads_scale: bool
    text_condition_origins: Sequence[Mapping[str, Any]] | None


class TextConditioned(nn.Module):
    """Base class of modules that follow text: its subclasses are decorated, and type checkers know what that adds.

    `class Net(TextConditioned)` is `@classifier_free_guidance_class_decorator class Net(nn.Module)`. It comes last among several
    bases. The arguments of the decorator are arguments of the class: `class Net(TextConditioned, texts_key_name='prompts')`.

    Example:
        >>> import torch
        >>> class Net(TextConditioned):
        ...     def __init__(self, dim: int, **text_condition: Unpack[TextConditionKeywords]) -> None:
        ...         super().__init__(**text_condition)
        ...         self.out = torch.nn.Linear(dim, dim)
        ...     def forward(self, x, cond_fns):
        ...         (condition,) = cond_fns
        ...         return self.out(condition(x))
        >>> net = Net(8, text_condition_model_types='mini', text_condition_hidden_dims=(8,)).eval()
        >>> net(torch.randn(2, 8), texts=['a red circle', 'a blue square'], cond_scale=3.).shape
        torch.Size([2, 8])
    """

    def __init__(self, **text_condition: Unpack[TextConditionKeywords]) -> None:
        super().__init__(**{name: value for name, value in text_condition.items() if not name.startswith(PREFIX)})
        remember(self, text_condition)

    def __init_subclass__(cls, **names: str) -> None:
        super().__init_subclass__()
        if cls.forward is not nn.Module.forward:
            classifier_free_guidance_class_decorator(cls, **names)

    if TYPE_CHECKING:
        text_conditioner: Conditioner

        @property
        def max_cond_text_len(self) -> int: ...

        def embed_texts(self, texts: Batch[str]) -> Tensor | TextCondReturn: ...

        def encode_texts(self, texts: Batch[str]) -> Encodings: ...

        def prepare(
            self,
            texts: Batch[str] | None = None,
            negative_texts: Batch[str | None] | None = None,
            *,
            text_embeds: TextEmbeds | None = None,
            negative_text_embeds: TextEmbeds | None = None,
        ) -> PreparedCondition: ...

        def bind(
            self: HasForward[R],
            *,
            sigma: OfTime | None = None,
            alpha: OfTime | None = None,
            progress: OfTime | None = None,
            **keywords: Unpack[CallKeywords],
        ) -> Bound[R]: ...

        def bound(
            self,
            *,
            sigma: OfTime | None = None,
            alpha: OfTime | None = None,
            progress: OfTime | None = None,
            **keywords: Unpack[CallKeywords],
        ) -> AbstractContextManager[Self]: ...

        if MYPY:  # which lets a subclass declare its own `__call__` only where this one takes anything; the plugin knows the rest

            def __call__(self: HasForward[R], *args: Any, **own: Any) -> R: ...

        else:

            def __call__(
                self: HasForward[R],
                *args: Any,
                texts: Batch[str] | Sequence[Batch[str]] | None = None,
                text_embeds: TextEmbeds | None = None,
                negative_texts: Batch[str | None] | Sequence[Batch[str | None]] | None = None,
                negative_text_embeds: TextEmbeds | None = None,
                text_condition: PreparedCondition | Sequence[PreparedCondition] | None = None,
                cond_drop_prob: DropProb | None = None,
                repeat_batch: int | Sequence[int] = 1,
                num_samples_per_text: int = 1,
                cond_scale: Scale | Schedule = 1.0,
                guidance: Rule | Preset | None = None,
                guidance_state: State | None = None,
                guidance_kwargs: Mapping[str, Any] | None = None,
                rescale_phi: float = 0.0,
                remove_parallel_component: bool = False,
                keep_parallel_frac: float = 0.0,
                return_unconditioned: bool = False,
                cfg_routed_kwargs: Mapping[str, Any] | None = None,
                cfg_batched: bool | Sequence[str] = False,
                weak: Weak | None = None,
                guide: Guide = None,
                **own: Any,
            ) -> R: ...
