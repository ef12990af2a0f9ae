"""What a module is given and what it returns, by the signature and the last line of its forward."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass
from typing import Any

from torch import nn

from classifier_free_guidance_pytorch.errors import UsageError
from classifier_free_guidance_pytorch.perturb.dispatch import own_forward

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Arguments:
    """The names of a forward's arguments, in their order; empty where they are not known."""

    names: tuple[str, ...] = ()

    @staticmethod
    def of(module: nn.Module) -> Arguments:
        """Look up the arguments of a module's own forward."""
        try:
            parameters = inspect.signature(own_forward(module)).parameters.values()
        except (TypeError, ValueError):  # of a callable that has no signature
            return Arguments()
        return Arguments(tuple(one.name for one in parameters if one.kind in POSITIONAL))

    def get(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return an argument of a call, None where it was not given."""
        if name in kwargs:
            return kwargs[name]
        place = self.names.index(name) if name in self.names else len(args)
        return args[place] if place < len(args) else None

    def first(self, module: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what a module was given first."""
        given = self.get(self.names[0], args, kwargs) if self.names else None
        if given is not None:
            return given
        if args or kwargs:
            return next(iter((*args, *kwargs.values())))
        raise UsageError(f'{module} was called without arguments, so it has no input to return')

    def with_first(self, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the arguments of a call with another value for what `first` returns."""
        name = self.names[0] if self.names and self.get(self.names[0], args, kwargs) is not None else next(iter(kwargs), '')
        return ((value, *args[1:]), kwargs) if args else self.replaced(name, value, args, kwargs)

    def replaced(self, name: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the arguments of a call with another value for one of them."""
        place = self.names.index(name) if name in self.names else len(args)
        if name in kwargs or place >= len(args):
            return args, {**kwargs, name: value}
        return (*args[:place], value, *args[place + 1 :]), kwargs


def returned(module: nn.Module) -> tuple[str | None, ...] | None:
    """Return the names in the tuple that a module's forward ends with, None for what is no tuple; a name is None where it is."""
    forward = own_forward(module)
    function = inspect.unwrap(getattr(forward, '__func__', forward))
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # made at run time
        return None
    last = [node for node in ast.walk(tree) if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple)]
    every = [node for node in ast.walk(tree) if isinstance(node, ast.Return)]
    if not last or max(every, key=lambda node: node.lineno) not in last:
        return None
    parts = max(last, key=lambda node: node.lineno).value
    assert isinstance(parts, ast.Tuple)
    return tuple(None if isinstance(part, ast.Constant) and part.value is None else ast.unparse(part) for part in parts.elts)
