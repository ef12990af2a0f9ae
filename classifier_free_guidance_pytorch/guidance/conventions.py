"""One converter between the ways in which papers and programs write a guidance scale."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError

from .checks import Scale

# name: (to ours, from ours), where ours is guided = u + s * (c - u)
_CONVENTIONS: dict[str, tuple[Callable[[Scale], Scale], Callable[[Scale], Scale]]] = {
    'scale': (lambda s: s, lambda s: s),
    'extra': (lambda w: w + 1, lambda s: s - 1),
    'inverse': (lambda beta: 1 / beta, lambda s: 1 / s),
}
_ALIASES = {
    'imagen': 'scale',
    'diffusers': 'scale',
    'edm2': 'scale',
    'ho-salimans': 'extra',
    'llada': 'extra',
    'var': 'extra',
    'weak': 'extra',
    'guidance-free-training': 'inverse',
}


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
    source, target = _ALIASES.get(from_, from_), _ALIASES.get(to, to)
    for name, resolved in ((from_, source), (to, target)):
        if resolved not in _CONVENTIONS:
            known = ', '.join(map(repr, (*_CONVENTIONS, *_ALIASES)))
            raise ConfigError(f'convert_scale: unknown convention {name!r}; expected one of {known}')
    if source == target:
        return value
    if not isinstance(value, Tensor) and 'inverse' in (source, target) and float(value) + (source == 'extra') == 0:
        raise ConfigError(f'convert_scale: {value} in the convention {from_!r} has no value in the convention {to!r}')
    return _CONVENTIONS[target][1](_CONVENTIONS[source][0](value))
