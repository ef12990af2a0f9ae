"""Several branches in one forward pass: their batches one after the other, and the output taken apart again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from classifier_free_guidance_pytorch.decorator.call import Call
from classifier_free_guidance_pytorch.decorator.outputs import entries, is_structured, with_entries


@dataclass
class JoinedBatch:
    """The batches of several branches, one after the other.

    Attributes:
        batch: How many samples there are.
        rows: For each branch the indices of the samples it runs, or None for all of them.
    """

    batch: int
    rows: Sequence[Tensor | None]

    def run(self, call: Call, keywords: dict[str, Any], positional: Sequence[str]) -> list[Any]:
        """Make one forward pass for all branches, and return the output of each.

        Args:
            call: The call; `cfg_batched` may name arguments that stay as they are though their leading dimension is the batch.
            keywords: The conditions of the joined batch.
            positional: The names of the positional arguments.
        """
        batched = call.keywords.cfg_batched
        shared = () if isinstance(batched, bool) else tuple(batched)
        named = zip_longest(positional[: len(call.args)], call.args)
        args = tuple(value if name in shared else self.join(value) for name, value in named)
        kwargs = {name: value if name in shared else self.join(value) for name, value in call.kwargs.items()}
        return self.parts(call.fn(call.module, *args, **kwargs, **keywords))

    def join(self, value: Any) -> Any:
        """Return the rows of every branch of each tensor whose leading dimension is the batch; everything else is shared."""
        if isinstance(value, Tensor):
            is_per_sample = value.ndim > 0 and value.shape[0] == self.batch
            return torch.cat([value if rows is None else value[rows] for rows in self.rows]) if is_per_sample else value
        return _map(value, self.join)

    def parts(self, output: Any) -> list[Any]:
        """Return the output of every branch; a branch that ran some samples only has the first branch's for the others."""
        sizes = [self.batch if rows is None else len(rows) for rows in self.rows]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        first = _rows_of(output, sum(sizes), 0, sizes[0])
        ran = [_rows_of(output, sum(sizes), start, start + size) for start, size in zip(starts, sizes, strict=True)]
        return [own if rows is None else _filled(first, own, rows) for own, rows in zip(ran, self.rows, strict=True)]


def why_not_joined(module: Any, routed: Mapping[str, Any]) -> str | None:
    """Return why one pass on the joined batch would not give what separate passes give, if it would not."""
    if routed:
        return f'{", ".join(map(repr, routed))} of cfg_routed_kwargs differ from branch to branch'
    if isinstance(module, nn.Module):
        for name, child in module.named_modules():
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and (child.training or not child.track_running_stats):
                return f'the batch normalisation {name!r} takes its statistics from the batch'
    return None


_said: set[str] = set()


def warn_once(reason: str) -> None:
    """Warn once that branches are run one by one, and why."""
    if reason not in _said:
        _said.add(reason)
        warnings.warn(f'cfg_batched=True runs one pass per branch here, because {reason}', UserWarning, stacklevel=4)


def _rows_of(value: Any, total: int, start: int, stop: int) -> Any:
    """Return some rows of every tensor whose leading dimension is that of the joined batch."""
    if isinstance(value, Tensor):
        return value[start:stop] if value.ndim > 0 and value.shape[0] == total else value
    return _map(value, lambda entry: _rows_of(entry, total, start, stop))


def _filled(whole: Any, some: Any, rows: Tensor) -> Any:
    """Return the output `whole` with the rows of `some` in their places."""
    if isinstance(whole, Tensor):
        return whole if whole is some else whole.index_copy(0, rows, some)
    if not is_structured(whole):
        return whole
    others = entries(some)
    return with_entries(whole, {key: _filled(entry, others[key], rows) for key, entry in entries(whole).items()})


def _map(value: Any, fn: Callable[[Any], Any]) -> Any:
    """Apply `fn` to the entries of a structured value; what holds nothing to change is returned as it is."""
    if not is_structured(value):
        return value
    before = entries(value)
    after = {key: fn(entry) for key, entry in before.items()}
    return value if all(after[key] is before[key] for key in before) else with_entries(value, after)
