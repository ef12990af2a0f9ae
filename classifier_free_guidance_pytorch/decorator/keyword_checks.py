"""What is checked of the keywords that say how to guide, for values other than the default.

The scale is not among them: it is checked at every step, beside the keywords themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from classifier_free_guidance_pytorch import guidance as rules
from classifier_free_guidance_pytorch.decorator.signature import ForwardSignature
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.guidance.checks import shown
from classifier_free_guidance_pytorch.perturb import Perturbation

_STEP = ('x', 'sigma', 'alpha', 'progress', 'next_sigma', 'next_alpha')


def check_rule(rule: object, signature: ForwardSignature) -> None:
    """Raise `ConfigError` for what is neither a rule nor a preset."""
    if not isinstance(rule, (rules.Rule, rules.Preset)):
        hint = ' (an instance: write it with parentheses)' if isinstance(rule, type) else ''
        raise ConfigError(f'guidance is a rule of the guidance module, such as guidance.APG(), but got {shown(rule)}{hint}')


def check_state(state: object, signature: ForwardSignature) -> None:
    """Raise `ConfigError` for what is no state of a rule."""
    if not isinstance(state, rules.State):
        raise ConfigError(f'guidance_state is what rule.init_state() returned, but got {shown(state)}')


def check_step(given: object, signature: ForwardSignature) -> None:
    """Raise `ConfigError` for what does not say where sampling stands."""
    if not isinstance(given, Mapping):
        raise ConfigError(f'guidance_kwargs is a mapping with some of {", ".join(_STEP)}, but got {shown(given)}')
    for name, value in given.items():
        if name not in _STEP:
            hint = '; the guidance scale is cond_scale=' if name in ('scale', 'cond_scale') else ''
            raise ConfigError(f'guidance_kwargs has {name!r}, but knows {", ".join(_STEP)}{hint}')
        if name == 'x' and not isinstance(value, Tensor):
            raise ConfigError(f"guidance_kwargs['x'] is the noisy sample, a tensor, but got {shown(value)}")
        if name != 'x' and value is not None and not isinstance(value, Tensor) and not is_number(value):
            raise ConfigError(f'guidance_kwargs[{name!r}] is a number or a tensor, but got {shown(value)}')


def check_share(name: str) -> Callable[[object, ForwardSignature], None]:
    """Return the check of a keyword that is a share, from 0 to 1."""

    def check(value: object, signature: ForwardSignature) -> None:
        if not is_number(value) or not is_finite(value) or not 0.0 <= value <= 1.0:  # type: ignore[operator]
            raise ConfigError(f'{name} is a share in [0, 1], but got {shown(value)}')

    return check


def check_switch(name: str) -> Callable[[object, ForwardSignature], None]:
    """Return the check of a keyword that is True or False."""

    def check(value: object, signature: ForwardSignature) -> None:
        if not isinstance(value, bool):
            raise ConfigError(f'{name} is True or False, but got {shown(value)}')

    return check


def check_routed(given: object, signature: ForwardSignature) -> None:
    """Raise `ConfigError` for what does not give arguments of the forward a value for each branch."""
    if not isinstance(given, Mapping):
        raise ConfigError(
            f'cfg_routed_kwargs is a mapping from arguments of {signature.name} to a pair (for the conditional pass, for the '
            f'null pass), but got {shown(given)}'
        )
    signature.refuse_unknown(given, (), 'cfg_routed_kwargs: ')
    for name, values in given.items():
        if isinstance(values, Mapping):
            if unknown := [branch for branch in values if branch not in rules.BRANCHES]:
                known = ', '.join(map(repr, rules.BRANCHES))
                raise ConfigError(f'cfg_routed_kwargs[{name!r}] has {unknown[0]!r}, which is no branch: the branches are {known}')
            if 'cond' not in values:
                raise ConfigError(f"cfg_routed_kwargs[{name!r}] has no value for 'cond', which the other branches fall back to")
        elif not (isinstance(values, (tuple, list)) and len(values) == 2):
            raise ConfigError(
                f'cfg_routed_kwargs[{name!r}] is a pair (for the conditional pass, for the null pass) or a mapping by branch, '
                f'but got {shown(values)}'
            )


def check_batched(given: object, signature: ForwardSignature) -> None:
    """Raise `ConfigError` for what is neither a switch nor a list of arguments of the forward."""
    if isinstance(given, bool):
        return
    if not isinstance(given, (list, tuple, set, frozenset)):
        raise ConfigError(f'cfg_batched is True, False, or a list of names of arguments that stay shared, but got {shown(given)}')
    if unknown := [name for name in given if not signature.knows(name)]:
        raise ConfigError(
            f'cfg_batched names {unknown[0]!r}, which is no argument of {signature.name}: it takes '
            f'{", ".join(signature.arguments)}'
        )


def check_weak(weak: object, signature: ForwardSignature) -> None:
    """Raise `ConfigError` for what weakens no pass."""
    if isinstance(weak, (Perturbation, nn.Module)):
        return
    if not isinstance(weak, Mapping):
        hint = f': a name goes into skip_layers({weak!r}) or perturbed_attention({weak!r})' if isinstance(weak, str) else ''
        raise ConfigError(
            'weak is a mapping of keywords for the forward, a second model, or perturbed_attention(...) and skip_layers(...) '
            f'from the module perturb, but got {shown(weak)}{hint}'
        )
    unknown = [name for name in weak if not signature.knows(name)]
    if unknown and all(isinstance(value, (Perturbation, nn.Module, Mapping)) for value in weak.values()):
        for value in weak.values():  # one weak pass for each name; whether the rule has these names is seen later
            check_weak(value, signature)
    elif unknown:
        raise ConfigError(
            f'weak has {unknown[0]!r}, which is no argument of {signature.name}: it takes {", ".join(signature.arguments)}'
        )
    if not weak:
        raise ConfigError('weak is an empty mapping, so that the weak pass would equal the conditional one')


def check_guide(guide: object, signature: ForwardSignature) -> None:
    """Raise `ConfigError` for what names no entry of an output."""
    if isinstance(guide, (list, tuple)):
        if not guide:
            raise ConfigError(f'guide names an entry of the output, but got {shown(guide)}')
        for part in guide:
            check_guide(part, signature)
    elif isinstance(guide, bool) or not isinstance(guide, (int, str)) or (isinstance(guide, int) and abs(guide) > 10**9):
        raise ConfigError(f'guide is a name, an index, a path into the output, or several of them, but got {shown(guide)}')


def is_number(value: object) -> bool:
    """Whether this is a real number; a bool is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether a number is finite, as far as that is known."""
    try:
        return torch.compiler.is_compiling() or math.isfinite(value)  # a traced float has no value yet
    except OverflowError:  # an integer beyond every float
        return False
