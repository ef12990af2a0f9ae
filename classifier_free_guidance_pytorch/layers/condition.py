"""What all conditioning layers share: the condition they read from text, and the callable they hand to the user."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from typing_extensions import Self

from classifier_free_guidance_pytorch.layers.layout import check_hiddens, rows_like

Map: TypeAlias = Callable[[Tensor], Tensor]


class Condition(ABC):
    """All that a layer needs to know of a batch of texts: tensors with one row per text. One row fits every batch."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """How many texts the condition describes."""

    @abstractmethod
    def map(self, fn: Map) -> Self:
        """The same condition with `fn` applied to each of its tensors."""

    def expand(self, rows: int) -> Self:
        """A condition of one row, seen as `rows` equal rows (no copy)."""
        return self if self.rows == rows else self.map(lambda t: t.expand(rows, *t.shape[1:]))

    def repeat(self, times: int) -> Self:
        """Every row `times` times in a row, for hiddens that fold several rows of one text into the batch."""
        return self if times == 1 or self.rows == 1 else self.map(lambda t: t.repeat_interleave(times, dim=0))

    def joined(self, other: Condition) -> Condition:
        """One condition for a batch whose first rows are under this one and whose last rows are under the other."""
        return SplitRows(self, other)


class SplitRows(Condition):
    """Two conditions of different kinds for the two parts of one batch."""

    def __init__(self, first: Condition, second: Condition) -> None:
        self.first, self.second = first, second

    @property
    def rows(self) -> int:
        return self.first.rows + self.second.rows

    def map(self, fn: Map) -> SplitRows:
        return SplitRows(self.first.map(fn), self.second.map(fn))


@dataclass(eq=False)
class Row(Condition):
    """One vector per text, `(b, d)`, added at every position."""

    row: Tensor

    @property
    def rows(self) -> int:
        return self.row.shape[0]

    def map(self, fn: Map) -> Row:
        return Row(fn(self.row))

    def joined(self, other: Condition) -> Condition:
        return Row(torch.cat((self.row, other.row))) if isinstance(other, Row) else SplitRows(self, other)


class ConditioningLayer(nn.Module, ABC):
    """A layer that conditions hiddens of width `dim_hidden`: first `condition(text)`, then `forward(hiddens, condition)`."""

    dim_hidden: int

    def forward(self, hiddens: Tensor, condition: Condition, channel_first: bool) -> Tensor:
        """The conditioned hiddens, of the same shape, dtype and memory format.

        Raises:
            ShapeError: the hiddens have another width, or another batch than the condition.
        """
        check_hiddens(hiddens, self.dim_hidden, condition.rows, channel_first)
        return self._dispatch(hiddens, condition, channel_first)

    def _dispatch(self, hiddens: Tensor, condition: Condition, channel_first: bool) -> Tensor:
        if isinstance(condition, SplitRows):
            parts = torch.split(hiddens, [condition.first.rows, condition.second.rows])
            conditions = (condition.first, condition.second)
            return torch.cat([self._dispatch(h, c, channel_first) for h, c in zip(parts, conditions, strict=True)])
        return self.conditioned(hiddens, condition, channel_first)

    @abstractmethod
    def conditioned(self, hiddens: Tensor, condition: Condition, channel_first: bool) -> Tensor:
        """`forward`, behind its checks."""


def add_row(hiddens: Tensor, condition: Row, channel_first: bool) -> Tensor:
    """The hiddens with one vector per text added at every position."""
    return hiddens + rows_like(condition.row, hiddens, channel_first)


class CondFn:
    """A layer bound to a condition: maps hiddens to conditioned hiddens of the same shape, dtype and memory format."""

    __slots__ = ('channel_first', 'condition', 'layer')

    def __init__(self, layer: ConditioningLayer, condition: Condition, channel_first: bool) -> None:
        self.layer, self.condition, self.channel_first = layer, condition, channel_first

    def __call__(self, hiddens: Tensor) -> Tensor:
        conditioned: Tensor = self.layer(hiddens, self.condition, self.channel_first)
        return conditioned

    def __repr__(self) -> str:
        layout = 'channel first' if self.channel_first else 'channel last'
        return f'CondFn({type(self.layer).__name__}, {self.layer.dim_hidden} channels, {layout}, {self.condition.rows} texts)'
