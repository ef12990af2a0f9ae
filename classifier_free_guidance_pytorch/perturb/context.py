"""The blocks that are open in the running context: that of a thread, of an asyncio task, or of a copy of one.

Read them as an attribute of this module, `context.blocks`. `torch.compile` cannot trace a `ContextVar`, but it takes a module's
attribute as it is and guards on it, so a graph made in one context never runs in another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class Block:
    """One `with` block.

    Args:
        run: What runs instead of a forward, as `run(name, module, forward, /, *args, **kwargs)`.
        token: How the dispatcher of a module knows the block: equal for equal blocks, which share graphs; '' when it has ended.
    """

    run: Callable[..., Any]
    token: str


_blocks: ContextVar[tuple[Block, ...]] = ContextVar('blocks', default=())


def __getattr__(name: str) -> tuple[Block, ...]:
    if name != 'blocks':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return _blocks.get()


@contextmanager
def opened(block: Block) -> Iterator[None]:
    """Open a block inside those that are open here; it ends for contexts that were copied from this one, too."""
    _blocks.set((*_blocks.get(), block))
    try:
        yield
    finally:
        block.token = ''
        _blocks.set(tuple(other for other in _blocks.get() if other is not block))
