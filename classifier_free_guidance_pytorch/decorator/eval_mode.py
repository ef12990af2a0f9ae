"""Eval mode for as long as a block runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Switch a module and all in it to eval mode in a `with` block, and each of them back to the mode that it was in."""
    modes = [(one, one.training) for one in module.modules()]
    for one, _ in modes:
        one.training = False  # not by `eval()`, at which a text conditioner reads its weights
    try:
        yield
    finally:
        for one, mode in modes:
            one.training = mode
