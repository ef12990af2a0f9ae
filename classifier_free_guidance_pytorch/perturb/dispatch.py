"""One dispatcher per module, from the first block on it to the last: every caller gets what its own context asks for."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn

from classifier_free_guidance_pytorch.perturb import context

_lock = threading.RLock()  # a block that is collected as garbage may end anywhere


class Dispatcher:
    """What stands in a module's `__dict__` while blocks are open on it.

    `forward` is a bound method, of which `torch.compile` guards the function only: the graphs of one block serve the next.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self.original = module, module.forward
        self.tokens: list[str] = []  # of the blocks that are open on the module, in any context
        self.names: dict[str, str] = {}  # what they call it, by token
        there = {key: module.__dict__[key] for key in self.entries() if key in module.__dict__}
        self.before = {key: value for key, value in there.items() if not _is_ours(value)}

    def entries(self) -> dict[str, Any]:
        """Return the entries, by their keys."""
        return {'forward': self.forward, '__getstate__': self.state_of_module}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's own forward, inside what the blocks of this context make of it."""
        forward = self.original
        for block in context.blocks:
            token = block.token
            if token in self.names:  # the name itself is not looked at: graphs are for all modules, not for one name
                forward = partial(block.run, self.names.get(token, ''), self.module, forward)
        return forward(*args, **kwargs)

    def state_of_module(self) -> Any:
        """Return what a copy or a pickle of the module is made from: nothing of this."""
        state = type(self.module).__getstate__(self.module)  # type: ignore[no-untyped-call]
        if not isinstance(state, dict):
            return state
        return {**self.before, **{key: value for key, value in state.items() if not _is_ours(value)}}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy, on which no block is open: a module that copies its `__dict__` copies this too."""
        return {**self.__dict__, 'tokens': [], 'names': {}}

    def remove(self) -> None:
        """Put back what stood there before, unless somebody has assigned something else meanwhile."""
        for key, entry in self.entries().items():
            if self.module.__dict__.get(key) == entry:
                del self.module.__dict__[key]
                self.module.__dict__.update({key: self.before[key]} if key in self.before else {})


@contextmanager
def dispatched(modules: dict[str, nn.Module], token: str) -> Iterator[None]:
    """Keep a dispatcher in each module; blocks may end in any order, the last one removes it."""
    with _patching():
        dispatchers = [_dispatcher_of(module) for module in modules.values()]
        for name, dispatcher in zip(modules, dispatchers, strict=True):
            dispatcher.tokens.append(token)
            dispatcher.names[token] = name
            dispatcher.module.__dict__.update(dispatcher.entries())
    try:
        yield
    finally:
        with _patching():
            for dispatcher in dispatchers:
                dispatcher.tokens.remove(token)
                if token not in dispatcher.tokens:
                    del dispatcher.names[token]
                if not dispatcher.tokens:
                    dispatcher.remove()


def _dispatcher_of(module: nn.Module) -> Dispatcher:
    """Return the dispatcher of a module, or a new one where there is none or the user has assigned another forward."""
    dispatcher = getattr(module.__dict__.get('forward'), '__self__', None)
    return dispatcher if isinstance(dispatcher, Dispatcher) and dispatcher.module is module else Dispatcher(module)


def own_forward(module: nn.Module) -> Any:
    """Return the forward that a module has without any block on it."""
    dispatcher = getattr(module.__dict__.get('forward'), '__self__', None)
    return dispatcher.original if isinstance(dispatcher, Dispatcher) and dispatcher.module is module else module.forward


def _is_ours(value: Any) -> bool:
    return isinstance(getattr(value, '__self__', None), Dispatcher)


@contextmanager
def _patching() -> Iterator[None]:
    """Wait for other blocks, and for compilations: one that meets a module both before and after a change fails."""
    dynamo = sys.modules.get('torch._dynamo.convert_frame')
    with getattr(dynamo, 'compile_lock', nullcontext()), _lock:
        yield
