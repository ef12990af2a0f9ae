"""What may be passed: finite numbers, guidance scales, and predictions that fit together.

Every check compares Python numbers, shapes, dtypes and devices. It costs microseconds, reads no tensor, and `torch.compile`
traces it away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import TypeAlias

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError
from classifier_free_guidance_pytorch.rows import is_readable, moved

Scale: TypeAlias = float | Tensor
"""A guidance scale: a number, one value per sample `(b,)`, or a tensor of as many dimensions as the predictions."""

LINEAR = 'cfg, weak, compose and chain'
"""The functions that only add multiples of predictions, and so take `(b,)` and complex ones as well."""


def as_number(value: object) -> float | None:
    """Return a finite number as a float, and None for anything else; a bool is not a number."""
    if type(value) is float and value - value == 0:  # finite, said in a way that can be traced
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 308 digits
        return None
    return number if math.isfinite(number) else None


def shown(value: object) -> str:
    """Write a value for a message; of an integer with hundreds of digits only its size."""
    is_huge = isinstance(value, int) and value.bit_length() > 1000
    return 'an integer too large for a float' if is_huge else repr(value)


def check_number(owner: str, name: str, value: object, low: float = -math.inf, high: float = math.inf) -> None:
    """Raise `ConfigError` unless `value` is a finite number in `[low, high]`."""
    number = as_number(value) if isinstance(value, (int, float)) else None  # older releases of torch trace no union
    if number is not None and low <= number <= high:
        return
    if low == -math.inf and high == math.inf:
        expected = 'a finite number'
    else:
        expected = f'a number of at least {low:g}' if high == math.inf else f'a number in [{low:g}, {high:g}]'
    raise ConfigError(f'{owner}: {name} must be {expected}, got {shown(value)}')


def check_numbers(owner: str, name: str, values: object, *, or_one: bool = False) -> None:
    """Raise `ConfigError` unless `values` is a non-empty tuple of finite numbers, or a single one where `or_one` says so."""
    if or_one and not isinstance(values, tuple):
        return check_number(owner, name, values)
    if not isinstance(values, tuple) or len(values) == 0:
        raise ConfigError(f'{owner}: {name} must be a non-empty tuple of numbers, got {shown(values)}')
    for i, value in enumerate(values):
        check_number(owner, f'{name}[{i}]', value)
    return None


ROUNDING = 1e-6
"""How far outside of its range progress or a noise level may be for having been computed in float32."""


def inside(name: str, value: Scale, low: float, high: float, of: str = 'a schedule') -> Scale:
    """Return a number or a tensor within its range, numbers as floats; raise `ConfigError` for anything else."""
    if isinstance(value, Tensor):
        if value.dtype == torch.bool or value.is_complex():
            raise ConfigError(f'{of} takes real numbers as {name}, got a tensor of {value.dtype}')
        if is_readable(value) and value.numel() > 0:
            smallest, largest = torch.aminmax(value.detach())
            if not (low - ROUNDING <= float(smallest) and float(largest) <= high + ROUNDING):
                raise ConfigError(f'{name} must be in [{low:g}, {high:g}] for {of}, got {value}')
        return (value if value.is_floating_point() else value.float()).clamp(low, high)
    number = math.inf if isinstance(value, float) and value == high == math.inf else as_number(value)
    if number is None or not low - ROUNDING <= number <= high + ROUNDING:
        raise ConfigError(f'{name} must be a number in [{low:g}, {high:g}] for {of}, got {shown(value)}')
    return min(max(number, low), high)


def holds_anywhere(flags: Tensor | bool) -> bool:
    """Whether a comparison of scales or noise levels holds for any of them, as far as that can be read at no cost."""
    if isinstance(flags, Tensor):
        return is_readable(flags) and bool(flags.any())
    return flags


def check_dim(owner: str, dim: object) -> None:
    """Raise `ConfigError` unless `dim` is a whole number, a tuple of them, or None for all dimensions but the batch."""
    dims = dim if isinstance(dim, tuple) else () if dim is None else (dim,)
    if dim == () or any(type(one) is not int for one in dims):
        raise ConfigError(f'{owner}: dim must be a dimension, a tuple of dimensions or None for all but the batch, got {dim!r}')


def check_alike(owner: str, named: Mapping[str, Tensor], *, linear: bool = False) -> None:
    """Raise unless all predictions are batch first and share shape, dtype and device.

    Args:
        owner: The function that was called, for the message.
        named: Predictions by the name of their argument.
        linear: Whether the function is one of `LINEAR`. The others measure samples: they need real numbers and a dimension
            beside the batch.
    """
    first_name, first = next(iter(named.items()))
    if not isinstance(first, Tensor) or not (first.is_floating_point() or (linear and first.is_complex())):
        is_complex = isinstance(first, Tensor) and first.is_complex()
        what = str(first.dtype) if isinstance(first, Tensor) else type(first).__name__
        hint = f'; complex predictions are for {LINEAR}' if is_complex else ''
        raise ConfigError(f'{owner}: {first_name} must be a floating point tensor, got {what}{hint}')
    if first.ndim < (1 if linear else 2):
        expected = '' if linear else f' with at least one more dimension, such as (b, d) ({LINEAR} also take (b,))'
        raise ShapeError(f'{owner}: {first_name} must be batch first{expected}, got shape {tuple(first.shape)}')
    for name, other in list(named.items())[1:]:
        if not isinstance(other, Tensor):
            raise ConfigError(f'{owner}: {name} must be a tensor like {first_name}, got {type(other).__name__}')
        check_shape(owner, name, other, first_name, first, '; predictions that guide each other must have the same shape')
        if other.dtype != first.dtype or other.device != first.device:
            raise ConfigError(
                f'{owner}: {name} is {other.dtype} on {other.device}, but {first_name} is {first.dtype} on {first.device}; '
                f'convert one with .to({first_name})'
            )


def check_shape(owner: str, name: str, given: Tensor, like_name: str, like: Tensor, hint: str = '') -> None:
    """Raise `ShapeError` unless two arguments of a function are of one shape."""
    if given.shape != like.shape:
        raise ShapeError(f'{owner}: {name} has shape {tuple(given.shape)}, but {like_name} has shape {tuple(like.shape)}{hint}')


def check_scale(scale: object, name: str = 'scale') -> Scale:
    """Return a scale, numbers as floats; the values of tensors are not read.

    Raises:
        ConfigError: Neither a finite number nor a tensor of real numbers.
    """
    if isinstance(scale, Tensor):
        if scale.dtype == torch.bool or scale.is_complex():
            raise ConfigError(f'{name} must hold real numbers, got a tensor of {scale.dtype}; convert it with .float()')
        return scale
    number = as_number(scale)
    if number is None:
        if callable(scale):
            raise ConfigError(f'{name} is the schedule {scale!r}; call it first, as in {scale!r}(progress)')
        raise ConfigError(f'{name} must be a finite number or a tensor, got {shown(scale)}')
    return number


def uniform_value(scale: Scale) -> float | None:
    """Return the value that all entries of `scale` share, or None where they differ or must not be read.

    Numbers are read, and tensors where that is possible at no cost. A tensor that requires a gradient is not read either: a
    learned scale is not skipped for being 1 at this moment.

    Raises:
        ConfigError: What was passed is no scale.
    """
    scale = check_scale(scale)
    if not isinstance(scale, Tensor):
        return scale
    if not is_readable(scale) or scale.requires_grad or scale.numel() == 0:
        return None
    low, high = torch.aminmax(scale)
    if bool(low.isnan()):  # of any entry
        raise ConfigError(f'scale must be finite, got {scale}')
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
    if type(scale) is float and scale - scale == 0:  # finite, said in a way that can be traced
        return scale
    scale = check_scale(scale, name)
    if not isinstance(scale, Tensor):
        return scale
    check_fits(scale, like, name)
    if scale.ndim == 1:
        scale = scale.reshape(-1, *per_sample(like)[1:])  # (b, 1, ...)
    return moved(scale, like.device, torch.promote_types(like.real.dtype, torch.float32) if wide else like.dtype)


def check_fits(scale: Tensor, like: Tensor, name: str = 'scale') -> None:
    """Raise `ShapeError` unless a tensor holds one value, one per sample, or broadcasts against `like` in all dimensions."""
    shape, target = tuple(scale.shape), tuple(like.shape)
    if scale.ndim == 1:
        if shape[0] not in (1, target[0]):
            raise ShapeError(
                f'{name} has {shape[0]} values for a batch of {target[0]} (predictions of shape {target}); '
                'give one value per sample, or a tensor with as many dimensions as the predictions'
            )
    elif scale.ndim > 0 and (len(shape) != len(target) or any(n not in (1, t) for n, t in zip(shape, target, strict=True))):
        # fewer dimensions would be aligned with the last ones of the predictions, where sizes agree by chance
        raise ShapeError(
            f'{name} of shape {shape} does not fit predictions of shape {target}; give a number, one value per sample '
            f'({target[0]},), or a tensor of {len(target)} dimensions that broadcasts, such as {per_sample(like)}'
        )
