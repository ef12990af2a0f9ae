"""Perturbed attention, whose map is the identity: Self-Rectifying Diffusion Sampling (PAG), arXiv 2403.17377."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from classifier_free_guidance_pytorch.errors import ConfigError, UsageError
from classifier_free_guidance_pytorch.perturb.perturbation import Perturbation
from classifier_free_guidance_pytorch.perturb.skip import first_input


@dataclass(frozen=True)
class PerturbedAttention(Perturbation):
    """The named attention modules attend to themselves only: see `perturbed_attention`."""

    made_by: ClassVar[str] = 'perturbed_attention'
    to: str = 'values'

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.to not in ('values', 'input'):
            raise ConfigError(f"perturbed_attention: to must be 'values' or 'input', got {self.to!r}")

    def run(self, name: str, module: nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> object:
        if self.to == 'input':
            return first_input(name, args, kwargs)
        attention = AttentionReplaced(_values)
        try:
            if isinstance(module, nn.MultiheadAttention):
                return _multihead_values(module, *args, **kwargs), None
            with attention:
                output = forward(*args, **kwargs)
        except _CrossAttentionError as error:
            raise UsageError(f'{name} attends {error}; only self-attention, with as many of both, can be perturbed') from None
        if not attention.reached:
            raise UsageError(
                f'{name} never called F.scaled_dot_product_attention, so its attention map cannot be replaced; '
                "use perturbed_attention(..., to='input') or skip_layers(...)"
            )
        return output


def perturbed_attention(*names: str, to: str = 'values') -> PerturbedAttention:
    """Make the perturbed pass in which every query of the named self-attention modules sees only its own value.

    Args:
        names: Names of attention modules, or shell patterns of them.
        to: `'values'`: every query gets its own value, and whatever else the module does (projections, norms, residual)
            stays. The module must be an `nn.MultiheadAttention` or use `F.scaled_dot_product_attention`.
            `'input'`: the module returns its first argument.

    Returns:
        A value, for `weak=` or a block: `with perturbed_attention(...).applied(model)`.

    Raises:
        ConfigError: No names, names that are no strings, or an unknown `to`.

    >>> perturbed_attention('blocks.*.attn')
    PerturbedAttention(names=('blocks.*.attn',), to='values')
    """
    return PerturbedAttention(names, to)


class AttentionReplaced(TorchFunctionMode):
    """While active, `attend` is called instead of `F.scaled_dot_product_attention`, with its arguments."""

    def __init__(self, attend: Callable[..., Tensor]) -> None:
        super().__init__()
        self.attend, self.reached = attend, False

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self.reached = True
        return self.attend(*args, **(kwargs or {}))


class _CrossAttentionError(Exception):
    """Attention from other tokens than it reads, which has no identity map."""

    def __init__(self, query: Tensor, value: Tensor) -> None:
        super().__init__(f'from queries of shape {tuple(query.shape)} to values of shape {tuple(value.shape)}')


def _values(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """Return the output of attention whose map is the identity."""
    if query.shape[-2] != value.shape[-2]:
        raise _CrossAttentionError(query, value)
    if value.ndim > 2 and query.shape[-3] != value.shape[-3]:  # grouped queries share a value head
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)  # (b, h, n, d)
    return value


def _multihead_values(module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """Return the output of an `nn.MultiheadAttention` whose map is the identity; no mode reaches its attention."""
    if query.shape[:-1] != value.shape[:-1]:
        raise _CrossAttentionError(query, value)
    bias = None if module.in_proj_bias is None else module.in_proj_bias.chunk(3)[2]
    weight = module.v_proj_weight if module.in_proj_weight is None else module.in_proj_weight.chunk(3)[2]
    return F.linear(F.linear(value, weight, bias), module.out_proj.weight, module.out_proj.bias)  # (b, n, d)
