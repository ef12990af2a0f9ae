"""Guidance scales: several in proportion, which samples they guide, and how others write them.

A scale is a number, a tensor with one value per sample `(b,)`, or a tensor of as many dimensions as the predictions, each 1 or
theirs: `(b, 1, f, 1, 1)` for one value per frame, `(b, 1, h, w)` for one per place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.guidance.checks import Scale, aligned, check_scale, holds_anywhere, per_sample
from classifier_free_guidance_pytorch.rows import is_readable


def guided_samples(scale: Scale, like: Tensor) -> Tensor | bool:
    """Say which samples are guided at this step: those whose scale is not 1 everywhere, `(b, 1, ...)`.

    Nothing is remembered of the others, since a sample alone would not have had its null pass.
    """
    on = aligned(scale, like) != 1
    if not isinstance(on, Tensor) or on.ndim == 0:
        return on
    return on.flatten(1).any(1).view(-1, *per_sample(like)[1:])  # (b, 1, ...)


def one_each(owner: str, weights: Scale | Sequence[Scale], count: int, of: str) -> tuple[Scale, ...]:
    """Return one weight for each of `count` predictions, or raise `ConfigError`; a single weight stands for all."""
    every = tuple(weights) if isinstance(weights, Sequence) else (weights,) * count
    if len(every) != count:
        raise ConfigError(f'{owner}: got {len(every)} weights for {count} {of}; give one each, or a single number')
    return every


def strongest(scales: Sequence[float]) -> float:
    """Return the scale that guides most: the one furthest from 1."""
    most = scales[0]
    for value in scales[1:]:  # older releases of torch trace no max(key=)
        most = value if abs(value - 1) > abs(most - 1) else most
    return float(most)


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
        ConfigError: An unknown convention, a value that is not finite, or an inverse of 0.

    >>> convert_scale(6.5, from_='ho-salimans'), convert_scale(4., from_='diffusers', to='inverse')
    (7.5, 0.25)
    """
    value = check_scale(value, 'convert_scale: value')
    if isinstance(value, Tensor) and is_readable(value) and not bool(value.isfinite().all()):
        raise ConfigError(f'convert_scale: value must be finite, got {value}')
    source, target = (_ALIASES.get(name, name) if isinstance(name, str) else '' for name in (from_, to))
    for name, resolved in ((from_, source), (to, target)):
        if resolved not in _CONVENTIONS:
            known = ', '.join(map(repr, (*_CONVENTIONS, *_ALIASES)))
            raise ConfigError(f'convert_scale: unknown convention {name!r}; expected one of {known}')
    if source == target:
        return value
    if 'inverse' in (source, target) and holds_anywhere(value + (source == 'extra') == 0):
        raise ConfigError(f'convert_scale: {value} in the convention {from_!r} has no value in the convention {to!r}')
    return _CONVENTIONS[target][1](_CONVENTIONS[source][0](value))
