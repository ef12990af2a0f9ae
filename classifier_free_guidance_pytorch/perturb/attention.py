"""Perturbed attention: its map the identity (PAG, arXiv 2403.17377), or its queries blurred (SEG, arXiv 2408.00760)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import Self

from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError
from classifier_free_guidance_pytorch.perturb import multihead
from classifier_free_guidance_pytorch.perturb.arguments import Arguments
from classifier_free_guidance_pytorch.perturb.perturbation import Perturbation


@dataclass(frozen=True)
class AttentionPerturbation(Perturbation):
    """The attention of the named modules is replaced wherever they call `F.scaled_dot_product_attention`."""

    instead: ClassVar[str] = "be replaced; use perturbed_attention(..., to='input') or skip_layers(...)"
    image_tokens: int | None = None
    known: dict[type, Arguments] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_tokens is not None and (type(self.image_tokens) is not int or self.image_tokens == 0):
            raise ConfigError(
                f'{self.made_by}: image_tokens must be how many tokens are of the image, negative where they come last, got '
                f'{self.image_tokens!r}'
            )

    def knowing(self, modules: dict[str, nn.Module]) -> Self:
        return replace(self, known={type(module): Arguments.of(module) for module in modules.values()})

    @abstractmethod
    def attend(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the output of attention, `(b, h, n, d)`."""

    def run(self, name: str, module: nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> object:
        try:
            return self.run_replaced(name, module, forward, *args, **kwargs)
        except _CrossAttentionError as error:
            raise UsageError(f'{name} attends {error}; only self-attention, with as many of both, can be perturbed') from None
        except _JointAttentionError as error:
            raise UsageError(
                f'{name} attends jointly to {error} tokens of an image and a text: say how many are of the image with '
                'image_tokens=, negative where they come last'
            ) from None

    def run_replaced(self, name: str, module: nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> object:
        """Return the output of one of the modules, with `attend` for its attention."""
        attention = AttentionReplaced(self.attend, () if self.image_tokens else _joint_tokens((*args, *kwargs.values())))
        with attention:
            output = forward(*args, **kwargs)
        if not attention.reached:
            raise self.unreached(name)
        return output

    def unreached(self, name: str) -> UsageError:
        """Return what is said of a module whose attention is of a different make."""
        return UsageError(f'{name} never called F.scaled_dot_product_attention, so its attention cannot {self.instead}')

    def image(self, tokens: int) -> slice:
        """Return where the tokens of the image stand, among so many of both."""
        count = tokens if self.image_tokens is None else self.image_tokens
        if abs(count) > tokens:
            raise ShapeError(f'{self.made_by}: image_tokens is {count}, but the attention has {tokens} tokens in all')
        return slice(0, count) if count > 0 else slice(tokens + count, tokens)


@dataclass(frozen=True)
class PerturbedAttention(AttentionPerturbation):
    """The named attention modules attend to themselves only: see `perturbed_attention`."""

    made_by: ClassVar[str] = 'perturbed_attention'
    to: str = 'values'

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.to not in ('values', 'input'):
            raise ConfigError(f"perturbed_attention: to must be 'values' or 'input', got {self.to!r}")

    def run_replaced(self, name: str, module: nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> object:
        if self.to == 'input':
            return self.known[type(module)].first(name, args, kwargs)
        if isinstance(module, nn.MultiheadAttention):
            return self._multihead(module, forward, *args, **kwargs)
        return super().run_replaced(name, module, forward, *args, **kwargs)

    def _multihead(self, module: nn.MultiheadAttention, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> object:
        """Return what an `nn.MultiheadAttention` returns; no mode reaches its attention, but it takes a mask."""
        given = multihead.arguments(args, kwargs)
        query, value = given['query'], given['value']
        if query.shape[:-1] != value.shape[:-1]:
            raise _CrossAttentionError(query, value)
        tokens = query.shape[1 if module.batch_first and query.ndim == 3 else 0]
        image = self.image(tokens)
        if image == slice(0, tokens):
            return multihead.values(module, value), None
        return forward(**multihead.masked(given, multihead.seen(tokens, image, query.device)))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        tokens = query.shape[-2]
        if tokens != value.shape[-2]:
            raise _CrossAttentionError(query, value)
        image = self.image(tokens)
        if image != slice(0, tokens):
            return _attended(query, key, value, *args, image=image, **kwargs)
        if value.ndim > 2 and query.shape[-3] != value.shape[-3]:  # grouped queries share a value head
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)  # (b, h, n, d)
        return value


def perturbed_attention(*names: str, to: str = 'values', image_tokens: int | None = None) -> PerturbedAttention:
    """Make the perturbed pass in which every query of the named self-attention modules sees only its own value.

    Args:
        names: Names of attention modules, or shell patterns of them.
        to: `'values'`: every query gets its own value, and whatever else the module does (projections, norms, residual)
            stays. The module must be an `nn.MultiheadAttention` or use `F.scaled_dot_product_attention`.
            `'input'`: the module returns its first argument.
        image_tokens: Of joint attention to an image and a text, how many of the tokens are of the image, negative where they
            come last (Flux). Among those the map is the identity; text is attended to, and attends, as before.

    Returns:
        A value, for `weak=` or a block: `with perturbed_attention(...).applied(model)`.

    Raises:
        ConfigError: No names, names that are no strings, an unknown `to`, or no number of tokens.

    >>> perturbed_attention('blocks.*.attn').to
    'values'
    """
    return PerturbedAttention(names, image_tokens, to=to)


@dataclass(frozen=True)
class SmoothedAttention(AttentionPerturbation):
    """The queries of the named attention modules are blurred: see `smoothed_attention`."""

    made_by: ClassVar[str] = 'smoothed_attention'
    sigma: float = math.inf
    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.sigma, int | float) or isinstance(self.sigma, bool) or not self.sigma > 0:
            raise ConfigError(f'smoothed_attention: sigma must be a positive number, got {self.sigma!r}')
        sides = self.grid if isinstance(self.grid, tuple) else (0,)
        if self.grid is not None and (len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides)):
            raise ConfigError(f'smoothed_attention: grid must be how the tokens lie, (h, w), got {self.grid!r}')

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        image = self.image(query.shape[-2])
        part = query[..., image, :]
        smooth = part.mean(-2, keepdim=True).expand_as(part) if self.sigma == math.inf else self._blurred(part)
        query = torch.cat((query[..., : image.start, :], smooth, query[..., image.stop :, :]), -2)  # (b, h, n, d)
        return F.scaled_dot_product_attention(query, key, value, *args, **kwargs)

    def _blurred(self, query: Tensor) -> Tensor:
        """Return queries blurred where they lie in the image, edges reflected."""
        tokens = query.shape[-2]
        height, width = self.grid or (math.isqrt(tokens),) * 2
        if height * width != tokens:
            raise ShapeError(
                f'smoothed_attention: {tokens} tokens are not {height} * {width}; say how they lie with grid=(h, w)'
                + ('' if self.image_tokens else ', and how many are of the image with image_tokens=')
            )
        size = math.ceil(6 * self.sigma) + 1 - math.ceil(6 * self.sigma) % 2
        x = query.movedim(-1, -2).reshape(-1, 1, height, width)  # (b*h*d, 1, h, w)
        for axis, side in ((2, height), (3, width)):
            count = min(size, side - (side % 2 - 1))
            at = torch.arange(count, device=query.device, dtype=torch.float32) - (count - 1) / 2
            weight = torch.softmax(-0.5 * (at / self.sigma).square(), 0).to(query.dtype)
            padding = (0, 0, count // 2, count // 2) if axis == 2 else (count // 2, count // 2, 0, 0)
            x = F.conv2d(F.pad(x, padding, mode='reflect'), weight.view((1, 1, count, 1) if axis == 2 else (1, 1, 1, count)))
        return x.reshape(*query.shape[:-2], query.shape[-1], tokens).movedim(-1, -2)  # (b, h, n, d)


def smoothed_attention(
    *names: str, sigma: float = math.inf, grid: tuple[int, int] | None = None, image_tokens: int | None = None
) -> SmoothedAttention:
    """Make the perturbed pass in which the queries of the named self-attention modules are blurred over the image.

    Smoothed energy guidance, SEG, arXiv 2408.00760, for `guidance.Weak(3.)`. Oracle: its authors' blur, which diffusers has.

    Args:
        names: Names of attention modules that use `F.scaled_dot_product_attention`, or shell patterns of them.
        sigma: How far, in tokens; without an end all queries are their mean.
        grid: How the tokens of the image lie, `(h, w)`; a square by default.
        image_tokens: Of joint attention, how many of the tokens are of the image, as in `perturbed_attention`.

    Returns:
        A value, for `weak=` or a block: `with smoothed_attention(...).applied(model)`.

    Raises:
        ConfigError: No names, names that are no strings, or a sigma that is not positive.

    >>> smoothed_attention('mid_block.*.attn1', sigma=4.).sigma
    4.0
    """
    return SmoothedAttention(names, image_tokens, sigma=sigma, grid=grid)


class AttentionReplaced(TorchFunctionMode):
    """While active, `attend` is called instead of `F.scaled_dot_product_attention`, with its arguments."""

    def __init__(self, attend: Callable[..., Tensor], joint: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.attend, self.joint, self.reached = attend, joint, False

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self.reached = True
        tokens = (args[0] if args else kwargs['query']).shape[-2]
        if tokens in self.joint:
            raise _JointAttentionError(tokens)
        return self.attend(*args, **(kwargs or {}))


class _JointAttentionError(Exception):
    """Attention to the tokens of two arguments at once, of which nothing is known but their number."""


def _joint_tokens(values: tuple[Any, ...]) -> tuple[int, ...]:
    """Return how many tokens there would be, were those of a further argument attended to jointly with the first."""
    sizes = [value.shape[1] for value in values if isinstance(value, Tensor) and value.ndim == 3]
    return tuple([sizes[0] + size for size in sizes[1:]])


class _CrossAttentionError(Exception):
    """Attention from other tokens than it reads, which has no identity map."""

    def __init__(self, query: Tensor, value: Tensor) -> None:
        super().__init__(f'from queries of shape {tuple(query.shape)} to values of shape {tuple(value.shape)}')


def _attended(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, image: slice, **kwargs: Any
) -> Tensor:
    """Return the output of joint attention in which no token of the image sees another of the image."""
    seen = multihead.seen(query.shape[-2], image, query.device)
    if attn_mask is not None:
        seen = attn_mask & seen if attn_mask.dtype == torch.bool else attn_mask.masked_fill(~seen, float('-inf'))
    return F.scaled_dot_product_attention(query, key, value, seen, *args, **kwargs)
