"""Forward passes: one per branch, or one for all branches on the joined batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from torch import Tensor, nn

from classifier_free_guidance_pytorch.decorator.joined import JoinedBatch

# The order in which values for single branches are given: cfg_routed_kwargs={'cache': (for cond, for null)}.
ROUTED_ORDER = ('cond', 'null')


@dataclass
class Pass:
    """One forward pass of one branch: the branch's name, and the keywords that only this branch gets."""

    branch: str
    keywords: dict[str, Any]


@dataclass
class Call:
    """One call of a decorated function: the function, its module, and the arguments that its branches share.

    Attributes:
        sample: the first tensor argument of two or more dimensions, for a denoiser the noisy sample and not its time; else the
            first of one.
        batch: its leading dimension; None without a tensor argument.
    """

    fn: Callable[..., Any]
    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    routed: Mapping[str, Any]
    sample: Tensor | None = field(init=False, default=None)
    batch: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        tensors = [value for value in (*self.args, *self.kwargs.values()) if isinstance(value, Tensor) and value.ndim > 0]
        if tensors:
            self.sample = ([tensor for tensor in tensors if tensor.ndim > 1] or tensors)[0]
            self.batch = self.sample.shape[0]

    def run(self, one: Pass) -> Any:
        """One forward pass."""
        routed = {name: _route(values, one.branch) for name, values in self.routed.items()}
        return self.fn(self.module, *self.args, **self.kwargs, **routed, **one.keywords)

    def run_joined(self, keywords: dict[str, Any], joined: JoinedBatch, shared: Sequence[str], names: Sequence[str]) -> list[Any]:
        """One forward pass for several branches on the joined batch; returns the output of each.

        Args:
            keywords: the conditions of the joined batch.
            joined: which samples each branch runs.
            shared: names of arguments that stay as they are though their leading dimension is the batch.
            names: the names of the positional arguments.
        """
        named = zip_longest(names[: len(self.args)], self.args)
        args = tuple(value if name in shared else joined.join(value) for name, value in named)
        kwargs = {name: value if name in shared else joined.join(value) for name, value in self.kwargs.items()}
        return joined.parts(self.fn(self.module, *args, **kwargs, **keywords))


def _route(values: Any, branch: str) -> Any:
    """The value that a routed keyword has for one branch; further branches share the conditional's."""
    if isinstance(values, Mapping):
        return values[branch] if branch in values else values.get('cond')
    return values[ROUTED_ORDER.index(branch) if branch in ROUTED_ORDER else 0]


def why_not_joined(module: Any, routed: Mapping[str, Any]) -> str | None:
    """Why one pass on the joined batch would not give what separate passes give, if it would not."""
    if routed:
        return f'{", ".join(map(repr, routed))} of cfg_routed_kwargs differ from branch to branch'
    if isinstance(module, nn.Module):
        for name, child in module.named_modules():
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and (child.training or not child.track_running_stats):
                return f'the batch normalisation {name!r} takes its statistics from the batch'
    return None


_said: set[str] = set()


def say_once(reason: str) -> None:
    """Say once that branches are run one by one, and why."""
    if reason not in _said:
        _said.add(reason)
        warnings.warn(f'cfg_batched=True runs one pass per branch here, because {reason}', UserWarning, stacklevel=4)


def weak_context(weak: Any, module: Any) -> AbstractContextManager[Any]:
    """What weakens the model during the weak pass: a context manager for `perturbed_attention` and its like, else nothing."""
    context: AbstractContextManager[Any] = weak.applied(module) if hasattr(weak, 'applied') else nullcontext()
    return context
