"""Skipped layers: spatiotemporal skip guidance, arXiv 2411.18664; that of Stable Diffusion 3.5; S2, arXiv 2508.12880."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import nn
from typing_extensions import Self

from classifier_free_guidance_pytorch.errors import ConfigError, UsageError
from classifier_free_guidance_pytorch.perturb.arguments import Arguments, returned
from classifier_free_guidance_pytorch.perturb.perturbation import Perturbation, check_generator


@dataclass(frozen=True)
class SkipLayers(Perturbation):
    """The named modules return their input: see `skip_layers`."""

    made_by: ClassVar[str] = 'skip_layers'
    as_tuple: bool = False
    returns: tuple[str | None, ...] | None = None
    known: dict[type, tuple[Arguments, tuple[str | None, ...] | None]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.returns is not None and not (
            isinstance(self.returns, tuple) and all(name is None or isinstance(name, str) for name in self.returns)
        ):
            raise ConfigError(f'{self.made_by}: returns must be a tuple of the names of arguments, got {self.returns!r}')

    def knowing(self, modules: dict[str, nn.Module]) -> Self:
        # by type and not by name, so that a graph of one module serves the others of its kind
        known = {type(module): (Arguments.of(module), self._outputs(name, module)) for name, module in modules.items()}
        return replace(self, known=known)

    def _outputs(self, name: str, module: nn.Module) -> tuple[str | None, ...] | None:
        """Return the arguments that stand for the outputs of a module that returns several."""
        if self.as_tuple:
            return None
        outputs, arguments = self.returns or returned(module), Arguments.of(module).names
        unknown = [one for one in outputs or () if one is not None and one not in arguments]
        if unknown and self.returns:
            raise ConfigError(f'{self.made_by}: {name} has no argument {unknown[0]!r}; it takes {", ".join(arguments)}')
        if unknown:
            raise UsageError(
                f'{name} returns {outputs}, of which {unknown[0]!r} is no argument: say which of {", ".join(arguments)} it is to '
                f'return, as in {self.made_by}({name!r}, returns=({arguments[0]!r}, ...)), with None for what may be None'
            )
        return outputs

    def run(self, name: str, module: nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> object:
        arguments, outputs = self.known[type(module)]
        if outputs is not None:
            return tuple([None if one is None else arguments.get(one, args, kwargs) for one in outputs])
        hiddens = arguments.first(name, args, kwargs)
        return (hiddens,) if self.as_tuple else hiddens


def skip_layers(*names: str, as_tuple: bool = False, returns: tuple[str | None, ...] | None = None) -> SkipLayers:
    """Make the perturbed pass in which the named modules return their inputs unchanged.

    A module that returns one tensor returns its first argument. One of several streams, whose forward ends in
    `return encoder_hidden_states, hidden_states`, returns these arguments, in this order.

    Args:
        names: Module names, or shell patterns of them.
        as_tuple: Return the first argument as a tuple of one, for blocks whose callers unpack one.
        returns: The arguments to return, where the last line of the forward does not name them.

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
    return SkipLayers(names, as_tuple, returns)


@dataclass(frozen=True)
class SkipRandomLayers(SkipLayers):
    """Some of the named modules return their input, drawn anew for every pass: see `skip_random_layers`."""

    made_by: ClassVar[str] = 'skip_random_layers'
    count: int = 1
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_generator(self.made_by, self.generator)

    def modules(self, model: nn.Module) -> dict[str, nn.Module]:
        every = super().modules(model)
        if not isinstance(self.count, int) or isinstance(self.count, bool) or not 0 < self.count <= len(every):
            raise ConfigError(
                f'{self.made_by}: count must be a whole number from 1 to the {len(every)} modules, got {self.count!r}'
            )
        device = None if self.generator is None else self.generator.device
        drawn = torch.randperm(len(every), generator=self.generator, device=device)[: self.count].tolist()
        return {name: module for place, (name, module) in enumerate(every.items()) if place in drawn}


def skip_random_layers(*names: str, count: int = 1, generator: torch.Generator | None = None) -> SkipRandomLayers:
    """Make the perturbed pass in which `count` of the named modules, drawn anew for every pass, return their input.

    Stochastic self-guidance, S2, arXiv 2508.12880, eq. 4: `guidance.CFG() + guidance.Weak(0.25)` with this pass is
    `u + s*(c - u) + w*(c - k)`. The paper drops about a tenth of the blocks.

    Args:
        names: Module names, or shell patterns of them, such as `'blocks.*'`.
        count: How many of them are skipped.
        generator: Where the draw comes from; the global state by default.

    Returns:
        A value, for `weak=` or a block: `with skip_random_layers(...).applied(model)`.

    Raises:
        ConfigError: No names, names that are no strings, or a number of modules that there are not.

    >>> skip_random_layers('blocks.*', count=2).count
    2
    """
    return SkipRandomLayers(names, count=count, generator=generator)
