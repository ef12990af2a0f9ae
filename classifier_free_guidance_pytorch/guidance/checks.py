"""What may be passed: numbers, predictions that fit together, and scales that fit them.

Every check is a plain comparison of Python numbers, shapes, dtypes and devices, so it costs microseconds, never waits for
a device and is traced away by `torch.compile`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError

Scale: TypeAlias = float | Tensor
"""A guidance scale: a number, one value per sample `(b,)`, or a tensor that broadcasts against the predictions."""


def check_number(owner: str, name: str, value: object, low: float = -math.inf, high: float = math.inf) -> None:
    """Raise `ConfigError` unless `value` is a finite number in `[low, high]`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and low <= value <= high:  # type: ignore[arg-type,operator]
        return
    if low == -math.inf and high == math.inf:
        expected = 'a finite number'
    else:
        expected = f'a number of at least {low:g}' if high == math.inf else f'a number in [{low:g}, {high:g}]'
    raise ConfigError(f'{owner}: {name} must be {expected}, got {value!r}')


def check_numbers(owner: str, name: str, values: object) -> None:
    """Raise `ConfigError` unless `values` is a non-empty tuple of finite numbers."""
    if not isinstance(values, tuple) or len(values) == 0:
        raise ConfigError(f'{owner}: {name} must be a non-empty tuple of numbers, got {values!r}')
    for value in values:
        check_number(owner, f'every one of {name}', value)


def check_alike(owner: str, named: Sequence[tuple[str, Tensor]]) -> None:
    """Raise unless all predictions are floating point and share shape, dtype and device, with a batch dimension."""
    first_name, first = named[0]
    if not isinstance(first, Tensor) or not first.is_floating_point():
        what = str(first.dtype) if isinstance(first, Tensor) else type(first).__name__
        raise ConfigError(f'{owner}: {first_name} must be a floating point tensor, got {what}')
    if first.ndim < 2:
        raise ShapeError(
            f'{owner}: {first_name} must be batch first with at least one more dimension, such as (b, d), '
            f'got shape {tuple(first.shape)}'
        )
    for name, other in named[1:]:
        if not isinstance(other, Tensor):
            raise ConfigError(f'{owner}: {name} must be a tensor like {first_name}, got {type(other).__name__}')
        if other.shape != first.shape:
            raise ShapeError(
                f'{owner}: {name} has shape {tuple(other.shape)}, but {first_name} has shape {tuple(first.shape)}; '
                'predictions that guide each other must have the same shape'
            )
        if other.dtype != first.dtype or other.device != first.device:
            raise ConfigError(
                f'{owner}: {name} is {other.dtype} on {other.device}, but {first_name} is {first.dtype} on {first.device}; '
                f'convert one with .to({first_name})'
            )


def aligned(scale: Scale, like: Tensor, name: str = 'scale') -> Scale:
    """Bring a scale into a form that multiplies `like`: numbers stay numbers, `(b,)` meets the batch dimension.

    A tensor takes the dtype of `like`, so that a float32 scale never turns half precision predictions into float32.
    """
    if not isinstance(scale, Tensor):
        if not math.isfinite(scale):
            raise ConfigError(f'{name} must be finite, got {scale}')
        return scale
    shape, target = tuple(scale.shape), tuple(like.shape)
    if scale.ndim == 1:
        if shape[0] not in (1, target[0]):
            raise ShapeError(
                f'{name} has {shape[0]} values for a batch of {target[0]} (predictions of shape {target}); '
                'give one value per sample, or a tensor with as many dimensions as the predictions'
            )
        scale = scale.reshape(-1, *(1,) * (like.ndim - 1))
    elif scale.ndim > like.ndim or any(n not in (1, t) for n, t in zip(shape[::-1], target[::-1], strict=False)):
        raise ShapeError(
            f'{name} of shape {shape} does not broadcast to predictions of shape {target}; '
            f'give a number, one value per sample ({target[0]},), or a shape that broadcasts, such as '
            f'{(target[0],) + (1,) * (like.ndim - 1)}'
        )
    return scale.to(device=like.device, dtype=like.dtype)


def uniform_value(scale: Scale) -> float | None:
    """Return the value that all entries of `scale` share, or None where they differ or reading them would have a price.

    A number and a CPU tensor are read. A tensor on a device is not (it would wait for that device), nor one that is being
    traced, nor one that requires a gradient: a scale that is learned is never skipped for being 1 at this moment.
    """
    if not isinstance(scale, Tensor):
        if callable(scale):
            raise ConfigError(f'scale is the schedule {scale!r}; call it first, as in {scale!r}(progress)')
        return float(scale)
    if torch.compiler.is_compiling() or scale.device.type != 'cpu' or scale.requires_grad or scale.numel() == 0:
        return None
    low, high = torch.aminmax(scale)
    return float(low) if bool(low == high) else None
