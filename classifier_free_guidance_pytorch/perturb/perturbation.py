"""What a perturbed pass changes, and the `with` block in which it runs."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import nn
from typing_extensions import Self

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.perturb import context
from classifier_free_guidance_pytorch.perturb.dispatch import dispatched


@dataclass(frozen=True)
class Perturbation(ABC):
    """Which modules a perturbed pass changes; a subclass says how.

    Args:
        names: Module names as in `model.named_modules()`, or shell patterns of them, such as `'blocks.*.attn'`.

    Raises:
        ConfigError: No names, or names that are no strings.
    """

    made_by: ClassVar[str] = 'Perturbation'
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.names, tuple) or not self.names:
            raise ConfigError(
                f'{self.made_by}: expected at least one module name, got {repr(self.names) if self.names else "none"}'
            )
        for name in self.names:
            if not isinstance(name, str) or not name:
                raise ConfigError(f'{self.made_by}: expected the names of modules, got {name!r}')

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """Perturb the model inside a `with` block, for the thread or asyncio task that enters it and for no other.

        Tasks started in the block, and `asyncio.to_thread`, inherit it until it ends; a thread of your own does not.
        A forward that is assigned to one of the modules meanwhile stays, and is perturbed by later blocks only.

        Args:
            model: The model, or what `torch.compile` made of it.

        Yields:
            The model.

        Raises:
            ConfigError: No `nn.Module`, or a name that matches none of its modules; the message holds the closest ones.
        """
        modules = self.modules(model)
        # with the modules, which two equal perturbations that draw them need not share
        token, known = f'{id(model)} {self!r} {list(modules)}', self.knowing(modules)
        with dispatched(modules, token), context.opened(context.Block(known.run, token)):
            yield model

    def modules(self, model: nn.Module) -> dict[str, nn.Module]:
        """Look up the modules that the names match, in the order of the model."""
        if not isinstance(model, nn.Module):
            raise ConfigError(f'{self.made_by}: expected an nn.Module to apply it to, got {type(model).__name__}')
        # torch.compile wraps a module in another, as its `_orig_mod`: both have one name here, under which the module is found
        named = {'.'.join(part for part in name.split('.') if part != '_orig_mod'): m for name, m in model.named_modules()}
        model = named.pop('')
        for pattern in self.names:
            if not any(fnmatchcase(name, pattern) for name in named):
                close = difflib.get_close_matches(pattern, named, n=3, cutoff=0.3)
                hint = f'the closest are {", ".join(map(repr, close))}' if close else f'it has {len(named)} modules'
                raise ConfigError(f'{type(model).__name__} has no module named {pattern!r}; {hint}')
        return {name: m for name, m in named.items() if any(fnmatchcase(name, pattern) for pattern in self.names)}

    def knowing(self, modules: dict[str, nn.Module]) -> Self:
        """Return what runs in a block: this, with what it needs to know of the modules, which a traced graph cannot look up."""
        return self

    @abstractmethod
    def run(self, name: str, module: nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> object:
        """Run a named module, perturbed; `forward` is its own, or what the block around this one makes of it."""


def check_generator(owner: str, generator: object) -> None:
    """Raise `ConfigError` unless this is a generator of random numbers, or None for the global state."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ConfigError(f'{owner}: generator must be a torch.Generator, or None for the global state, got {generator!r}')
