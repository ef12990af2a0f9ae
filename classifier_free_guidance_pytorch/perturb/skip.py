"""Skipped layers: Spatiotemporal Skip Guidance, arXiv 2411.18664; skip-layer guidance of Stable Diffusion 3.5."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from classifier_free_guidance_pytorch.errors import UsageError
from classifier_free_guidance_pytorch.perturb.perturbation import Perturbation


@dataclass(frozen=True)
class SkipLayers(Perturbation):
    """The named modules return their input: see `skip_layers`."""

    made_by: ClassVar[str] = 'skip_layers'
    as_tuple: bool = False

    def run(self, name: str, module: nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> object:
        hiddens = first_input(name, args, kwargs)
        return (hiddens,) if self.as_tuple else hiddens


def skip_layers(*names: str, as_tuple: bool = False) -> SkipLayers:
    """Make the perturbed pass in which the named modules return their first argument unchanged.

    Args:
        names: Module names, or shell patterns of them.
        as_tuple: Return it as a tuple of one, for blocks whose callers unpack one.

    Returns:
        A value, for `weak=` or a block: `with skip_layers(...).applied(model)`.

    Raises:
        ConfigError: No names, or names that are no strings.

    >>> from torch import nn, ones
    >>> model = nn.Sequential(nn.ReLU(), nn.Linear(2, 2))
    >>> with skip_layers('1').applied(model):
    ...     model(ones(1, 2))
    tensor([[1., 1.]])
    """
    return SkipLayers(names, as_tuple)


def first_input(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a module was given first."""
    if args or kwargs:
        return next(iter((*args, *kwargs.values())))
    raise UsageError(f'{name} was called without arguments, so it has no input to return')
