"""Guidance scales: what may be one, how it meets the predictions, and how others write it.

A scale is a number, a tensor with one value per sample `(b,)`, or a tensor that broadcasts against the predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError
from classifier_free_guidance_pytorch.guidance.checks import as_number, shown

Scale: TypeAlias = float | Tensor
"""A guidance scale: a number, one value per sample `(b,)`, or a tensor that broadcasts against the predictions."""


def check_scale(scale: object, name: str = 'scale') -> Scale:
    """Return a scale, numbers as floats; the values of tensors are not read.

    Raises:
        ConfigError: Neither a finite number nor a tensor of real numbers.
    """
    if isinstance(scale, Tensor):
        if scale.dtype == torch.bool or scale.is_complex():
            raise ConfigError(f'{name} must hold real numbers, got a tensor of {scale.dtype}; convert it with .float()')
        return scale
    if callable(scale):
        raise ConfigError(f'{name} is the schedule {scale!r}; call it first, as in {scale!r}(progress)')
    number = as_number(scale)
    if number is None:
        raise ConfigError(f'{name} must be a finite number or a tensor, got {shown(scale)}')
    return number


def uniform_value(scale: Scale) -> float | None:
    """Return the value that all entries of `scale` share, or None where they differ or must not be read.

    Numbers and CPU tensors are read. Reading a GPU tensor would force a sync, and reading a traced one would break the graph.
    A tensor that requires a gradient is not read either: a learned scale is not skipped for being 1 at this moment.

    Raises:
        ConfigError: What was passed is no scale.
    """
    scale = check_scale(scale)
    if not isinstance(scale, Tensor):
        return scale
    if torch.compiler.is_compiling() or scale.device.type != 'cpu' or scale.requires_grad or scale.numel() == 0:
        return None
    low, high = torch.aminmax(scale)
    return float(low) if bool(low == high) else None


def per_sample(like: Tensor) -> tuple[int, ...]:
    """Return the shape of one value per sample that broadcasts against `like`: `(b, 1, ...)`."""
    return (like.shape[0],) + (1,) * (like.ndim - 1)


def aligned(scale: Scale, like: Tensor, name: str = 'scale', *, wide: bool = False) -> Scale:
    """Bring a scale into a form that multiplies `like`: numbers stay numbers, `(b,)` becomes `(b, 1, ...)`.

    Args:
        scale: A scale.
        like: Predictions, `(b, ...)`. A tensor takes their dtype, so that a float32 scale never widens half precision.
        name: What to call it in a message.
        wide: Stay real, and use float32 where `like` is of half precision, for a scale that is computed with first.

    Raises:
        ConfigError: Not a scale.
        ShapeError: It does not fit the predictions.
    """
    scale = check_scale(scale, name)
    if not isinstance(scale, Tensor):
        return scale
    shape, target = tuple(scale.shape), tuple(like.shape)
    if scale.ndim == 1:
        if shape[0] not in (1, target[0]):
            raise ShapeError(
                f'{name} has {shape[0]} values for a batch of {target[0]} (predictions of shape {target}); '
                'give one value per sample, or a tensor with as many dimensions as the predictions'
            )
        scale = scale.reshape(-1, *per_sample(like)[1:])  # (b, 1, ...)
    elif scale.ndim > like.ndim or any(n not in (1, t) for n, t in zip(shape[::-1], target[::-1], strict=False)):
        raise ShapeError(
            f'{name} of shape {shape} does not broadcast to predictions of shape {target}; '
            f'give a number, one value per sample ({target[0]},), or a shape that broadcasts, such as {per_sample(like)}'
        )
    return scale.to(device=like.device, dtype=torch.promote_types(like.real.dtype, torch.float32) if wide else like.dtype)


def guided_samples(scale: Scale, like: Tensor) -> Tensor | bool:
    """Say which samples are guided at this step: those whose scale is not 1, `(b, 1, ...)`.

    Nothing is remembered of the others, since a sample alone would not have had its null pass.
    """
    scale = aligned(scale, like)
    return scale != 1


def one_each(owner: str, weights: Scale | Sequence[Scale], count: int, of: str) -> tuple[Scale, ...]:
    """Return one checked weight for each of `count` predictions; a single weight stands for all.

    Raises:
        ConfigError: Not as many weights as predictions, or one that is no scale.
    """
    every = tuple(weights) if isinstance(weights, Sequence) else (weights,) * count
    if len(every) != count:
        raise ConfigError(f'{owner}: got {len(every)} weights for {count} {of}; give one each, or a single number')
    return tuple(check_scale(weight, f'{owner}: weights[{i}]') for i, weight in enumerate(every))


def strongest(scales: Sequence[float]) -> float:
    """Return the scale that guides most: the one furthest from 1."""
    return float(max(scales, key=lambda value: abs(value - 1)))


def proportioned(scale: Scale, scales: Sequence[float]) -> tuple[Scale, ...]:
    """Bring the strongest of `scales` to `scale`, the others in proportion: `1 + (s-1) * (s_i-1) / (s_max-1)`."""
    scale, most = check_scale(scale), strongest(scales) - 1
    return tuple(1 + (scale - 1) * ((value - 1) / most) for value in scales)


# name: (to ours, from ours), where ours is guided = u + s * (c - u)
_CONVENTIONS: dict[str, tuple[Callable[[Scale], Scale], Callable[[Scale], Scale]]] = {
    'scale': (lambda s: s, lambda s: s),
    'extra': (lambda w: w + 1, lambda s: s - 1),
    'inverse': (lambda beta: 1 / beta, lambda s: 1 / s),
}
_ALIASES = dict.fromkeys(('imagen', 'diffusers', 'edm2'), 'scale')
_ALIASES |= dict.fromkeys(('ho-salimans', 'llada', 'var', 'weak'), 'extra') | {'guidance-free-training': 'inverse'}


def convert_scale(value: Scale, *, from_: str, to: str = 'scale') -> Scale:
    """Convert a guidance scale between conventions.

        'scale'    u + s * (c - u)         off at 1   this library; 'imagen', 'diffusers', 'edm2'
        'extra'    c + w * (c - u)         off at 0   w = s - 1; 'ho-salimans', 'llada', 'var', 'weak' (`guidance.Weak`)
        'inverse'  c = b * g + (1-b) * u   off at 1   b = 1 / s; 'guidance-free-training'

    Args:
        value: A scale, or a tensor of scales.
        from_: The convention it is in.
        to: The convention it is wanted in.

    Returns:
        The same guidance, written the other way.

    Raises:
        ConfigError: An unknown convention, or an inverse of 0.

    >>> convert_scale(6.5, from_='ho-salimans'), convert_scale(4., from_='diffusers', to='inverse')
    (7.5, 0.25)
    """
    value = check_scale(value, 'convert_scale: value')
    source, target = _ALIASES.get(from_, from_), _ALIASES.get(to, to)
    for name, resolved in ((from_, source), (to, target)):
        if resolved not in _CONVENTIONS:
            known = ', '.join(map(repr, (*_CONVENTIONS, *_ALIASES)))
            raise ConfigError(f'convert_scale: unknown convention {name!r}; expected one of {known}')
    if source == target:
        return value
    if not isinstance(value, Tensor) and 'inverse' in (source, target) and value + (source == 'extra') == 0:
        raise ConfigError(f'convert_scale: {value} in the convention {from_!r} has no value in the convention {to!r}')
    return _CONVENTIONS[target][1](_CONVENTIONS[source][0](value))
