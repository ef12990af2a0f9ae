"""Attention of named modules guided away from a negative text: normalized attention guidance, NAG (arXiv 2505.21179)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError
from classifier_free_guidance_pytorch.perturb.attention import AttentionPerturbation, AttentionReplaced

Combine = Callable[[Tensor, Tensor], Tensor]


def _positive(positive: Tensor, negative: Tensor) -> Tensor:
    """Leave the text alone."""
    return positive


@dataclass(frozen=True)
class GuidedAttention(AttentionPerturbation):
    """The outputs of the named attention modules are guided away from another text: see `guided_attention`."""

    made_by: ClassVar[str] = 'guided_attention'
    instead: ClassVar[str] = 'be guided'
    combine: Combine = _positive

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Guide joint attention `(2b, h, n, d)`: texts in the first half, negative ones in the second, the same image in both."""
        if query.shape[0] % 2:
            raise ShapeError(
                f'guided_attention: joint attention needs every sample twice, with its text in the first half of the batch and '
                f'the negative text in the second, got a batch of {query.shape[0]}'
            )
        attended = F.scaled_dot_product_attention(query, key, value, *args, **kwargs)
        image = self.image(query.shape[-2])
        guided = self.guided(*attended[..., image, :].chunk(2)).repeat(2, 1, 1, 1)  # the image stays one and the same
        return torch.cat((attended[..., : image.start, :], guided, attended[..., image.stop :, :]), -2)

    def guided(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Combine outputs `(b, h, n, d)` as whole features, whose lengths are those of all heads together."""
        joined = self.combine(*(one.transpose(1, 2).flatten(2) for one in (ours, theirs)))  # (b, n, h*d)
        return joined.reshape(*joined.shape[:2], ours.shape[1], -1).transpose(1, 2)


@dataclass(frozen=True)
class GuidedCrossAttention(GuidedAttention):
    """The named modules attend twice, to the text that they are given and to another one: see `guided_attention`."""

    negative: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)
    context: str = 'encoder_hidden_states'

    def run(self, name: str, module: nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> object:
        arguments, found = self.known[type(module)], []
        given = arguments.get(self.context, args, kwargs)
        if not isinstance(given, Tensor):
            raise UsageError(f'{name} was called without {self.context}, the text it attends to; name it with context=')
        negative = self.negative.to(given).expand(given.shape[0], -1, -1)  # (b, m, d)

        def keep(*attended: Any, **options: Any) -> Tensor:
            found.append(F.scaled_dot_product_attention(*attended, **options))
            return found[-1]

        def guided(*attended: Any, **options: Any) -> Tensor:
            return self.guided(F.scaled_dot_product_attention(*attended, **options), found.pop(0))

        with AttentionReplaced(keep):
            instead, options = arguments.replaced(self.context, negative, args, kwargs)
            forward(*instead, **options)
        if not found:
            raise self.unreached(name)
        with AttentionReplaced(guided):
            return forward(*args, **kwargs)


def guided_attention(
    *names: str,
    combine: Combine,
    negative: Tensor | None = None,
    image_tokens: int | None = None,
    context: str = 'encoder_hidden_states',
) -> GuidedAttention:
    """Make the pass in which the outputs of the named attention modules are guided away from a negative text.

    Normalized attention guidance, arXiv 2505.21179, in a model that is not ours, in one pass of it. With cross-attention, each
    of the modules attends twice:

        with guided_attention('*.attn2', negative=embeds, combine=partial(guidance.nag, scale=5.)).applied(unet):
            prediction = unet(x, t, encoder_hidden_states=texts)

    Joint attention to an image and a text (SD3, Flux) changes the text too, so the batch holds every sample twice: with its
    text in the first half, with the negative text in the second. Image tokens are guided, and stay the same in both halves:

        with guided_attention('*.attn', image_tokens=1024, combine=partial(guidance.nag, scale=5.)).applied(transformer):
            prediction = transformer(x.repeat(2, 1, 1, 1), torch.cat((texts, negatives)), ...).sample.chunk(2)[0]

    Args:
        names: Names of attention modules that use `F.scaled_dot_product_attention`, or shell patterns of them.
        combine: A function of the features on the text and on the negative text, each `(b, n, h*d)`, before they are projected.
        negative: For cross-attention, what it attends to for the negative text, `(b, m, d)` or `(1, m, d)`, as it is given it
            for the text.
        image_tokens: For joint attention, how many of the tokens are of the image, negative where they come last (Flux).
        context: Which of the arguments of cross-attention is the text.

    Returns:
        A value, for a block: `with guided_attention(...).applied(model)`.

    Raises:
        ConfigError: No names, names or a context that are no strings, no number of tokens, no function, or not one of `negative`
            and `image_tokens`.
        ShapeError: Negative embeddings of another number of dimensions.

    >>> import torch
    >>> guided_attention('*.attn2', negative=torch.ones(1, 4, 8), combine=torch.maximum).context
    'encoder_hidden_states'
    """
    if not callable(combine):
        raise ConfigError(
            'guided_attention: combine must be a function of two features, such as partial(guidance.nag, scale=5.), got '
            f'{combine!r}'
        )
    if not isinstance(context, str):
        raise ConfigError(f'guided_attention: context must be the name of an argument, got {context!r}')
    if (negative is None) == (image_tokens is None):
        raise ConfigError(
            'guided_attention: name negative=, the embeddings of the negative text, for cross-attention, or image_tokens=, how '
            f'many tokens are of the image, for joint attention; got {"neither" if negative is None else "both"}'
        )
    if negative is None:
        return GuidedAttention(names, image_tokens, combine=combine)
    if not isinstance(negative, Tensor) or negative.ndim != 3:
        found = tuple(negative.shape) if isinstance(negative, Tensor) else type(negative).__name__
        raise ShapeError(f'guided_attention: negative must be embeddings (b, m, d), got {found}')
    return GuidedCrossAttention(names, combine=combine, negative=negative, context=context)
