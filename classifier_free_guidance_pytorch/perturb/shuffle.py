"""Perturbed inputs and outputs: shuffled tokens (TPG, arXiv 2506.10036), a noisy embedding of time (TSG, arXiv 2407.02687)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from classifier_free_guidance_pytorch.errors import ConfigError, UsageError
from classifier_free_guidance_pytorch.perturb.arguments import Arguments
from classifier_free_guidance_pytorch.perturb.perturbation import Perturbation, check_generator


@dataclass(frozen=True)
class ShuffledTokens(Perturbation):
    """The named modules get their tokens in another order: see `shuffled_tokens`."""

    made_by: ClassVar[str] = 'shuffled_tokens'
    generator: torch.Generator | None = None
    known: dict[type, Arguments] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_generator(self.made_by, self.generator)

    def knowing(self, modules: dict[str, nn.Module]) -> Self:
        return replace(self, known={type(module): Arguments.of(module) for module in modules.values()})

    def run(self, name: str, module: nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> object:
        arguments = self.known[type(module)]
        tokens = arguments.first(name, args, kwargs)
        if not isinstance(tokens, Tensor) or tokens.ndim != 3:
            found = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            raise UsageError(f'{name} is given {found} first; only tokens (b, n, d) can be shuffled')
        device = tokens.device if self.generator is None else self.generator.device
        order = torch.randperm(tokens.shape[1], generator=self.generator, device=device).to(tokens.device)
        args, kwargs = arguments.with_first(tokens[:, order], args, kwargs)  # (b, n, d)
        return forward(*args, **kwargs)


def shuffled_tokens(*names: str, generator: torch.Generator | None = None) -> ShuffledTokens:
    """Make the perturbed pass in which the named blocks get the tokens of their first argument in a random order.

    Token perturbation guidance, TPG, arXiv 2506.10036, for `guidance.Weak(3.)`. The order is drawn anew for every block and pass,
    and is that of all samples, as in its authors' code.

    Args:
        names: Names of blocks, whose first argument is `(b, n, d)`, or shell patterns of them.
        generator: Where the order comes from; the global state by default.

    Returns:
        A value, for `weak=` or a block: `with shuffled_tokens(...).applied(model)`.

    Raises:
        ConfigError: No names, or names that are no strings.

    >>> shuffled_tokens('down_blocks.*.transformer_blocks.*').names
    ('down_blocks.*.transformer_blocks.*',)
    """
    return ShuffledTokens(names, generator)


@dataclass(frozen=True)
class NoisyOutput(Perturbation):
    """The named modules return what they return plus noise: see `noisy_output`."""

    made_by: ClassVar[str] = 'noisy_output'
    std: float = 1.0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.std, int | float) or isinstance(self.std, bool) or not 0 <= self.std < float('inf'):
            raise ConfigError(f'noisy_output: std must be a number of at least 0, got {self.std!r}')
        check_generator(self.made_by, self.generator)

    def run(self, name: str, module: nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> object:
        output = forward(*args, **kwargs)
        if not isinstance(output, Tensor):
            raise UsageError(f'{name} returns a {type(output).__name__}; noise is added to a tensor')
        device = output.device if self.generator is None else self.generator.device
        noise = torch.randn(output.shape, generator=self.generator, device=device, dtype=torch.float32)
        return output + self.std * noise.to(output)


def noisy_output(*names: str, std: float, generator: torch.Generator | None = None) -> NoisyOutput:
    """Make the perturbed pass in which the named modules return what they return plus Gaussian noise.

    Time-step guidance, TSG, arXiv 2407.02687: of the embedding of time, with `std = s * t^alpha` at each step, for
    `guidance.Weak(w)`. It needs no null condition, and no condition at all.

    Args:
        names: Names of modules, or shell patterns of them.
        std: The standard deviation of the noise.
        generator: Where the noise comes from; the global state by default.

    Returns:
        A value, for `weak=` or a block: `with noisy_output(...).applied(model)`.

    Raises:
        ConfigError: No names, names that are no strings, or no standard deviation.

    >>> noisy_output('time_embedding', std=1.).std
    1.0
    """
    return NoisyOutput(names, std, generator)
