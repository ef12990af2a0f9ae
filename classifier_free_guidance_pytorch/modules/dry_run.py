"""Widths and layouts of the parts of a module, found by running it once on an example.

A part's output says how wide it is once it is known where its channels are. That is known of a layer from its weights: a linear
layer has them last, a convolution second. So the last layer that ran before the part returned tells, as far as its output had as
many dimensions as the part's. Where the channels could be in both places by their number, and layers of both layouts ran inside
of the part, that is no answer: it may have turned its output around.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from classifier_free_guidance_pytorch.decorator.eval_mode import in_eval_mode
from classifier_free_guidance_pytorch.decorator.outputs import entries, is_structured
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.modules.part import Part
from classifier_free_guidance_pytorch.modules.running import called_without_grad

Example: TypeAlias = Tensor | tuple[Any, ...] | Mapping[str, Any] | Callable[[nn.Module], Any]


class Layer(NamedTuple):
    """What is known of the output of a layer: how wide it is, where its channels are, and how many dimensions it has."""

    width: int
    channel_first: bool
    ndim: int


@dataclass
class Seen:
    """What a dry run has seen.

    Attributes:
        layers: The layers that have run, in their order.
        began: How many layers had run when the parts that are running were called, the innermost last.
        outputs: The output shapes of every part and, for each, how many layers had run when it was called and when it returned.
        without_grad: The parts that ran where no gradient is recorded.
    """

    layers: list[Layer] = field(default_factory=list)
    began: list[int] = field(default_factory=list)
    outputs: dict[str, list[tuple[torch.Size, int, int]]] = field(default_factory=dict)
    without_grad: set[str] = field(default_factory=set)


def measured(module: nn.Module, parts: Mapping[str, Part], example: Example | None) -> dict[str, Part]:
    """Return the parts with a width and a layout, as stated or as found.

    Args:
        module: The module.
        parts: Its parts, by name.
        example: What to call it with: a tensor, a tuple of arguments, a mapping of keywords, or a function that calls it.

    Raises:
        ConfigError: Something is left to be found and there is no example, it fails, or what it shows is no answer.
    """
    if example is None:
        unknown = [name for name, part in parts.items() if not part.is_stated]
        if unknown:
            raise ConfigError(
                f'the width of {unknown[0]!r} is not known: pass example=, what to call {type(module).__name__} with, such as '
                'example=(x, t), or state it for every part with Part(dim=..., channel_first=...)'
            )
        return dict(parts)
    seen = _dry_run(module, parts, example)
    missing = [name for name in parts if name not in seen.outputs]
    if missing:
        raise ConfigError(
            f'{", ".join(map(repr, missing))} was never called when {type(module).__name__} ran on the example, so that it '
            'cannot follow a text: name a part that is called as a module'
        )
    if seen.without_grad:
        raise ConfigError(called_without_grad(', '.join(map(repr, sorted(seen.without_grad)))))
    batch = next((t.shape[0] for t in _tensors(example) if t.ndim > 1), None)
    return {name: _measured(name, part, seen, batch) for name, part in parts.items()}


def first_tensor(output: Any) -> Tensor | None:
    """Return a part's output, or its first entry where that is a tensor."""
    if is_structured(output):
        output = next(iter(entries(output).values()), None)
    return output if isinstance(output, Tensor) else None


def _measured(name: str, part: Part, seen: Seen, batch: int | None) -> Part:
    """Return a part with what its outputs show."""
    (shape, start, stop), *others = seen.outputs[name]
    if len(shape) < 2 or (batch is not None and shape[0] != batch * part.repeat_batch):
        often = (
            f': if {shape[0] // batch} rows belong to one sample, say Part(repeat_batch={shape[0] // batch})'
            if (batch and len(shape) > 1 and shape[0] % batch == 0 and part.repeat_batch == 1)
            else ''
        )
        of_batch = '' if batch is None else f' for a batch of {batch}'
        raise ConfigError(
            f'{name!r} returns a tensor of shape {tuple(shape)}{of_batch}, but a part is conditioned on the text of '
            f'each sample along its first dimension{often}'
        )
    first = part.channel_first
    if first is None:
        first = _channel_first(shape, seen.layers[:stop], seen.layers[start:stop])
    if first is None and part.dim is not None and (part.dim == shape[1]) != (part.dim == shape[-1]):
        first = part.dim == shape[1]
    if first is None:
        raise ConfigError(
            f'the dry run does not show where the channels of {name!r} are, whose output is of shape {tuple(shape)}: say '
            'Part(channel_first=True) for the second dimension, or Part(channel_first=False) for the last'
        )
    place = 1 if first else -1
    widths = sorted({shape[place], *(other[place] for other, *_ in others), *([part.dim] if part.dim else [])})
    if len(widths) > 1:
        raise ConfigError(f'the output of {name!r} has {" and ".join(map(str, widths))} channels: a part has one width')
    return replace(part, dim=widths[0], channel_first=first)


def _channel_first(shape: torch.Size, layers: list[Layer], inside: list[Layer]) -> bool | None:
    """Return where the channels of an output are, as far as the layers tell that ran before it, and inside of it."""
    if len(shape) == 2:
        return False

    def fits(layer: Layer) -> bool:
        return layer.ndim == len(shape) and shape[1 if layer.channel_first else -1] == layer.width

    if shape[1] == shape[-1] and len({layer.channel_first for layer in inside if fits(layer)}) > 1:
        return None
    for layer in reversed(layers):
        if fits(layer):
            return layer.channel_first
    for layer in reversed(layers):  # tokens that were put back into the shape of an image
        if (shape[1] == layer.width) != (shape[-1] == layer.width):
            return shape[1] == layer.width
    return None


def _layer(module: nn.Module, output: Any) -> Layer | None:
    """Return what the weights of a layer say of its output."""
    output = first_tensor(output)
    if output is None or output.is_nested or output.ndim < 2:
        return None
    if isinstance(module, nn.modules.conv._ConvNd):
        return Layer(module.out_channels, True, output.ndim)
    if isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm):
        return Layer(output.shape[1], True, output.ndim)
    if isinstance(module, nn.LayerNorm) and type(module).forward is not nn.LayerNorm.forward:
        return _by_size(set(module.normalized_shape), output)  # of pictures, as many libraries have it: channels are second
    if isinstance(module, nn.Linear | nn.LayerNorm | nn.Embedding | nn.MultiheadAttention):
        return Layer(output.shape[-1], False, output.ndim)
    if getattr(module, 'out_features', None) == output.shape[-1]:  # of a library that quantizes, adapts or parallelises
        return Layer(output.shape[-1], False, output.ndim)
    if next(module.children(), None) is not None:
        return None
    return _by_size({size for weight in module.parameters(recurse=False) for size in weight.shape}, output)


def _by_size(sizes: set[int], output: Tensor) -> Layer | None:
    """Return where the channels of an output are, which are as many as some weight is long; None where both places fit."""
    first, last = output.shape[1] in sizes, output.shape[-1] in sizes
    return Layer(output.shape[1] if first else output.shape[-1], first, output.ndim) if first != last else None


def _dry_run(module: nn.Module, parts: Mapping[str, Part], example: Example) -> Seen:
    """Run a module in eval mode on an example, and leave it as it was."""
    seen = Seen()

    def enter(one: nn.Module, args: Any) -> None:
        seen.began.append(len(seen.layers))

    def watch(name: str | None) -> Callable[..., None]:
        def hook(one: nn.Module, args: Any, output: Any) -> None:
            layer = _layer(one, output)
            if layer is not None:
                seen.layers.append(layer)
            start = seen.began.pop()
            if name is not None:
                tensor = first_tensor(output)
                if tensor is None:
                    raise ConfigError(
                        f'{name!r} returns {_described(output)}, but a part returns a tensor, or a tuple whose first entry is one'
                    )
                seen.outputs.setdefault(name, []).append((tensor.shape, start, len(seen.layers)))
                if not torch.is_grad_enabled():
                    seen.without_grad.add(name)

        return hook

    named = [(name, one) for name, one in module.named_modules() if name]
    hooks = [one.register_forward_pre_hook(enter) for _, one in named]
    hooks += [one.register_forward_hook(watch(name if name in parts else None)) for name, one in named]
    try:
        with in_eval_mode(module), torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
            _call(module, example)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f'the dry run failed: {type(module).__name__} was called with {_described(example)}, and raised '
            f'{type(error).__name__}: {error}. Pass an example that it can be called with, or state the width of every part with '
            'Part(dim=..., channel_first=...)'
        ) from error
    finally:
        for one in hooks:
            one.remove()
    return seen


def _call(module: nn.Module, example: Example) -> None:
    if isinstance(example, Mapping):
        module(**example)
    elif isinstance(example, tuple):
        module(*example)
    elif isinstance(example, Tensor):
        module(example)
    elif callable(example):
        example(module)
    else:
        raise ConfigError(
            'example= is what to call the module with, a tensor, a tuple of arguments, a mapping of keywords, or a function that '
            f'calls it, but got {type(example).__name__}'
        )


def _tensors(example: Example) -> Iterator[Tensor]:
    values = example.values() if isinstance(example, Mapping) else example if isinstance(example, tuple) else (example,)
    yield from (value for value in values if isinstance(value, Tensor))


def _described(value: Any) -> str:
    """Return what a value is, in a few words: shapes instead of contents."""
    if isinstance(value, Tensor):
        return f'a tensor of shape {tuple(value.shape)}'
    if isinstance(value, Mapping):
        return f'{{{", ".join(f"{key}: {_described(one)}" for key, one in value.items())}}}'
    if isinstance(value, (tuple, list)):
        return f'({", ".join(map(_described, value))})'
    return repr(value) if isinstance(value, (int, float, str, type(None))) else f'a {type(value).__name__}'
