"""Weakened passes of a model, for `guidance.Weak`: perturbed attention and skipped layers.

A spec names modules and what becomes of them. `with spec.applied(model): ...` swaps their `forward` for the time of the block
and puts back exactly what was there, also when the block raises. Nothing stays behind in the model.

    spec = skip_layers('blocks.7', 'blocks.8')
    with spec.applied(model):
        weak = model(x, t)
    guided = guidance.Weak(2.8)(cond, weak=weak)

One model must not be used by another thread while a spec is applied to it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from classifier_free_guidance_pytorch.errors import ConfigError, UsageError

Forward = Callable[..., Any]


@dataclass(frozen=True)
class WeakPass:
    """Which modules a weakened pass changes; its subclasses say how.

    Args:
        names: Module names as in `model.named_modules()`, or shell patterns of them, such as `'blocks.*.attn'`.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        maker = {'PerturbedAttention': 'perturbed_attention', 'SkipLayers': 'skip_layers'}.get(type(self).__name__, 'WeakPass')
        if len(self.names) == 0:
            raise ConfigError(f'{maker}: expected at least one module name, got none')
        for name in self.names:
            if not isinstance(name, str) or name == '':
                raise ConfigError(f'{maker}: expected the names of modules, got {name!r}')

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """Weaken the model for the time of a `with` block.

        Args:
            model: The model; a compiled one is weakened too.

        Yields:
            The model.

        Raises:
            ConfigError: A name that matches no module; the message holds the closest ones.
        """
        changed: list[tuple[nn.Module, bool, Any]] = []
        modules = self.modules(model)
        try:
            for name, module in modules.items():
                before = module.__dict__.get('forward')
                changed.append((module, 'forward' in module.__dict__, before))
                module.__dict__['forward'] = self.weakened(name, module, module.forward)
            yield model
        finally:
            for module, had_own, before in reversed(changed):
                if had_own:
                    module.__dict__['forward'] = before
                else:
                    module.__dict__.pop('forward', None)

    def modules(self, model: nn.Module) -> dict[str, nn.Module]:
        """Look up the modules that the names match, in the order of the model."""
        model = getattr(model, '_orig_mod', model)  # what torch.compile wraps
        named = {name: module for name, module in model.named_modules() if name}
        for pattern in self.names:
            if not any(fnmatchcase(name, pattern) for name in named):
                close = difflib.get_close_matches(pattern, named, n=3, cutoff=0.3)
                hint = f'the closest are {", ".join(map(repr, close))}' if close else f'it has {len(named)} modules'
                raise ConfigError(f'{type(model).__name__} has no module named {pattern!r}; {hint}')
        return {name: m for name, m in named.items() if any(fnmatchcase(name, pattern) for pattern in self.names)}

    def weakened(self, name: str, module: nn.Module, forward: Forward) -> Forward:
        """Return what is called in place of a module's `forward`."""
        raise NotImplementedError


@dataclass(frozen=True)
class SkipLayers(WeakPass):
    """The named modules return their input: see `skip_layers`."""

    as_tuple: bool = False

    def weakened(self, name: str, module: nn.Module, forward: Forward) -> Forward:
        as_tuple = self.as_tuple

        def skip(*args: Any, **kwargs: Any) -> Any:
            hiddens = _first_input(name, args, kwargs)
            return (hiddens,) if as_tuple else hiddens

        return skip


@dataclass(frozen=True)
class PerturbedAttention(WeakPass):
    """The named attention modules attend to themselves only: see `perturbed_attention`."""

    to: str = 'values'

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.to not in ('values', 'input'):
            raise ConfigError(f"perturbed_attention: to must be 'values' or 'input', got {self.to!r}")

    def weakened(self, name: str, module: nn.Module, forward: Forward) -> Forward:
        if self.to == 'input':
            return lambda *args, **kwargs: _first_input(name, args, kwargs)
        if isinstance(module, nn.MultiheadAttention):
            return lambda query, key, value, *args, **kwargs: (_multihead_values(name, module, query, value), None)

        def attend_to_self(*args: Any, **kwargs: Any) -> Any:
            mode = _ValuesOnly(name)
            with mode:
                output = forward(*args, **kwargs)
            if not mode.reached:
                raise UsageError(
                    f'{name} never called F.scaled_dot_product_attention, so its attention map cannot be replaced; '
                    "use perturbed_attention(..., to='input') or skip_layers(...)"
                )
            return output

        return attend_to_self


def skip_layers(*names: str, as_tuple: bool = False) -> SkipLayers:
    """Make the weakened pass in which the named modules return their first argument unchanged.

    Args:
        names: Module names, or shell patterns of them.
        as_tuple: Return it as a tuple of one, for blocks whose callers unpack one.

    Returns:
        A spec, to be applied with `spec.applied(model)`.

    Spatiotemporal Skip Guidance, arXiv 2411.18664; known as skip-layer guidance for Stable Diffusion 3.5.

    >>> from torch import nn, ones
    >>> model = nn.Sequential(nn.ReLU(), nn.Linear(2, 2))
    >>> with skip_layers('1').applied(model):
    ...     model(ones(1, 2))
    tensor([[1., 1.]])
    """
    return SkipLayers(names, as_tuple)


def perturbed_attention(*names: str, to: str = 'values') -> PerturbedAttention:
    """Make the weakened pass in which the attention map of the named self-attention modules is the identity.

    Args:
        names: Names of attention modules, or shell patterns of them.
        to: `'values'`: every query gets its own value, and whatever else the module does (projections, norms, residual)
            stays. The module must be an `nn.MultiheadAttention` or use `F.scaled_dot_product_attention`.
            `'input'`: the module returns its first argument.

    Returns:
        A spec, to be applied with `spec.applied(model)`.

    Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance, arXiv 2403.17377.

    >>> perturbed_attention('blocks.*.attn')
    PerturbedAttention(names=('blocks.*.attn',), to='values')
    """
    return PerturbedAttention(names, to)


def _first_input(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a module was given first."""
    if args:
        return args[0]
    if kwargs:
        return next(iter(kwargs.values()))
    raise UsageError(f'{name} was called without arguments, so it has no input to return')


def _multihead_values(name: str, module: nn.MultiheadAttention, query: Tensor, value: Tensor) -> Tensor:
    """Return the output of an `nn.MultiheadAttention` whose attention map is the identity."""
    if query.shape[:-1] != value.shape[:-1]:
        raise UsageError(_not_self_attention(name, tuple(query.shape), tuple(value.shape)))
    bias = None if module.in_proj_bias is None else module.in_proj_bias.chunk(3)[2]
    weight = module.v_proj_weight if module.in_proj_weight is None else module.in_proj_weight.chunk(3)[2]
    return F.linear(F.linear(value, weight, bias), module.out_proj.weight, module.out_proj.bias)


def _not_self_attention(name: str, query: tuple[int, ...], value: tuple[int, ...]) -> str:
    """Say why cross-attention has no identity map."""
    return (
        f'{name} attends from queries of shape {query} to values of shape {value}; '
        'only self-attention, with as many of one as of the other, can be perturbed'
    )


class _ValuesOnly(TorchFunctionMode):
    """While active, `F.scaled_dot_product_attention` returns its values."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.reached = False

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        self.reached = True
        query, _, value = (*args, *(kwargs[key] for key in ('query', 'key', 'value')[len(args) :]))[:3]
        if query.shape[-2] != value.shape[-2]:
            raise UsageError(_not_self_attention(self.name, tuple(query.shape), tuple(value.shape)))
        if value.ndim > 2 and query.shape[-3] != value.shape[-3]:  # grouped queries share a value head
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        return value
