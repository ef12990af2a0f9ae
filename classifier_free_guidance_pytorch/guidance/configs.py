"""Rules, post-steps, schedules and presets as plain values that JSON holds, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.guidance._rescale import Renorm, Rescale
from classifier_free_guidance_pytorch.guidance.combine import Rule
from classifier_free_guidance_pytorch.guidance.presets import Preset
from classifier_free_guidance_pytorch.guidance.schedule import Schedule

KIND = 'kind'


def to_config(value: Rule | Schedule | Preset | Rescale | Renorm) -> dict[str, Any]:
    """Write a rule, a schedule, a post-step or a preset as a dictionary of numbers, strings, lists and dictionaries.

    Args:
        value: Any of this package, however they are combined.

    Returns:
        What `json.dump` writes as it is, infinity included; `from_config` makes an equal value of it.

    Raises:
        ConfigError: It holds something of the user's own, such as a post-step that is a function, or a learned weight.

    >>> from classifier_free_guidance_pytorch import guidance
    >>> to_config(guidance.APG(norm=15.).then(guidance.rescale_to_cond(0.7)))['post']
    {'kind': 'Rescale', 'phi': 0.7}
    """
    written = _written(value)
    if not isinstance(written, dict):
        raise ConfigError(f'to_config: expected a rule, a schedule, a post-step or a preset, got {value!r}')
    return written


def from_config(config: Mapping[str, Any]) -> Rule | Schedule | Preset | Rescale | Renorm:
    """Make the rule, schedule, post-step or preset that `to_config` wrote.

    Args:
        config: What it returned, also through JSON.

    Returns:
        A value equal to the one that was written.

    Raises:
        ConfigError: An unknown kind or parameter, one that is missing, or values that the kind refuses.

    >>> from_config({'kind': 'APG', 'norm': 15.0})
    APG(eta=0.0, norm=15.0, momentum=0.0, rms=False, dim=None)
    """
    if not isinstance(config, Mapping) or KIND not in config:
        raise ConfigError(f'from_config: expected what to_config returned, with a {KIND!r}, got {config!r}')
    kinds = _kinds()
    if not isinstance(config[KIND], str) or config[KIND] not in kinds:
        raise ConfigError(f'from_config: unknown kind {config[KIND]!r}; expected one of {", ".join(map(repr, sorted(kinds)))}')
    kind = kinds[config[KIND]]
    known = [one.name for one in fields(kind) if one.init]
    needed = [one.name for one in fields(kind) if one.init and one.default is MISSING and one.default_factory is MISSING]
    if unknown := [name for name in config if name not in (KIND, *known)]:
        raise ConfigError(f'from_config: {config[KIND]} has no parameter {unknown[0]!r}; it has {", ".join(known) or "none"}')
    if missing := [name for name in needed if name not in config]:
        raise ConfigError(f'from_config: {config[KIND]} needs {", ".join(map(repr, missing))}, got {dict(config)!r}')
    made: Rule | Schedule | Preset | Rescale | Renorm = kind(
        **{name: _read(value) for name, value in config.items() if name != KIND}
    )
    return made


def _kinds() -> dict[str, Any]:
    """Return the classes that are written, by name."""
    found: list[Any] = [Rule, Schedule]
    for cls in found:  # grows on the way
        found.extend(cls.__subclasses__())
    concrete = [cls for cls in found[2:] if {'_guide', 'guide', 'at'} & set(vars(cls))]
    ours = [cls for cls in concrete if cls.__module__.startswith(__package__ or '')]
    return {cls.__name__: cls for cls in (*ours, Rescale, Renorm, Preset)}


def _written(value: Any) -> Any:
    """Return a value in terms of JSON."""
    if is_dataclass(value) and not isinstance(value, type) and _kinds().get(type(value).__name__) is type(value):
        parts = {one.name: _written(getattr(value, one.name)) for one in fields(value) if one.init}
        return {KIND: type(value).__name__, **parts}
    if isinstance(value, tuple):
        return [_written(part) for part in value]
    if isinstance(value, float) and math.isinf(value):
        return 'inf' if value > 0 else '-inf'
    if value is None or isinstance(value, bool | int | float | str):
        return value
    what = 'a tensor, which is saved with the model and not with the rule' if isinstance(value, Tensor) else 'of your own'
    raise ConfigError(f'to_config: {value!r} is {what}; rules, schedules and post-steps of this package can be written')


def _read(value: Any) -> Any:
    """Return the value that was written."""
    if isinstance(value, Mapping):
        return from_config(value)
    if isinstance(value, list | tuple):
        return tuple(_read(part) for part in value)
    return float(value) if value in ('inf', '-inf') else value
