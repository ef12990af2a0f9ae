"""Several branches in one forward pass: their batches behind one another, and the output taken apart again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.decorator.options import Options
from classifier_free_guidance_pytorch.decorator.outputs import entries, is_structured, with_entries


@dataclass
class JoinedBatch:
    """The batches of several branches behind one another.

    Attributes:
        batch: how many samples there are.
        rows: for each branch the indices of the samples it runs, or None for all of them.
    """

    batch: int
    rows: Sequence[Tensor | None]

    def join(self, value: Any) -> Any:
        """Line up the rows of every branch in each tensor whose leading dimension is the batch; share the rest."""
        if isinstance(value, Tensor):
            is_per_sample = value.ndim > 0 and value.shape[0] == self.batch
            return torch.cat([value if rows is None else value[rows] for rows in self.rows]) if is_per_sample else value
        return _map(value, self.join)

    def parts(self, output: Any) -> list[Any]:
        """The output of every branch; a branch that ran some samples only has the first branch's output for the others."""
        sizes = [self.batch if rows is None else len(rows) for rows in self.rows]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        first = _rows_of(output, sum(sizes), 0, sizes[0])
        ran = [_rows_of(output, sum(sizes), start, start + size) for start, size in zip(starts, sizes, strict=True)]
        return [own if rows is None else _filled(first, own, rows) for own, rows in zip(ran, self.rows, strict=True)]


def rows_to_guide(options: Options, branches: Sequence[str], batch: int) -> Tensor | None:
    """The indices of the samples whose scale is not 1, where the others can do without their null pass; else None.

    At a scale of 1 any null prediction gives the conditional one. The scales are looked at only where that costs nothing: on the
    CPU, outside a traced graph.
    """
    scale, rule = options.cond_scale, options.rule
    if not isinstance(scale, Tensor) or scale.shape != (batch,) or scale.device.type != 'cpu' or scale.requires_grad:
        return None
    if torch.compiler.is_compiling() or list(branches) != ['cond', 'null']:
        return None
    if not rule.anchored or rule.remembers or options.return_unconditioned:
        return None
    guided = (scale != 1).nonzero().flatten()
    return guided if 0 < len(guided) < batch else None


def _rows_of(value: Any, total: int, start: int, stop: int) -> Any:
    """Some rows of every tensor whose leading dimension is that of the joined batch."""
    if isinstance(value, Tensor):
        return value[start:stop] if value.ndim > 0 and value.shape[0] == total else value
    return _map(value, lambda entry: _rows_of(entry, total, start, stop))


def _filled(whole: Any, some: Any, rows: Tensor) -> Any:
    """The output `whole` with the rows of `some` in their places."""
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
