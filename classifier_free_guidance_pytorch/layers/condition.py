"""What all conditioning layers share: the condition they read from text, its layout, and the callable they hand to the user.

Hiddens have any rank, channel first `(b, d, ...)` or channel last `(b, ..., d)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from classifier_free_guidance_pytorch.errors import ShapeError
from classifier_free_guidance_pytorch.rows import Rows


class Condition(Rows):
    """All that a layer needs to know of a batch of texts; the first field has a row for each."""

    @property
    def rows(self) -> int:
        first: Tensor = getattr(self, [*self.__dataclass_fields__][0])  # noqa: RUF015  (traced by every torch)
        return first.shape[0]

    def joined(self, other: Condition) -> Condition:
        """Return one condition for a batch whose first rows are under this one and whose last rows are under the other."""
        alike = type(self) is type(other) and not isinstance(self, SplitRows)
        return super().joined(other) if alike else SplitRows(self, other)


@dataclass(eq=False)
class SplitRows(Condition):
    """Two conditions of different kinds for the two parts of one batch."""

    first: Condition
    second: Condition

    @property
    def rows(self) -> int:
        return self.first.rows + self.second.rows


@dataclass(eq=False)
class Row(Condition):
    """One vector per text, `(b, d)`, added at every position."""

    row: Tensor


class ConditioningLayer(nn.Module, ABC):
    """A layer that conditions hiddens of width `dim_hidden`: first `condition(text)`, then `forward(hiddens, condition)`."""

    dim_hidden: int

    if TYPE_CHECKING:

        def __call__(self, hiddens: Tensor, condition: Condition, channel_first: bool) -> Tensor: ...

    def forward(self, hiddens: Tensor, condition: Condition, channel_first: bool) -> Tensor:
        """Return the conditioned hiddens, of the same shape, dtype and memory format.

        Args:
            hiddens: `(b, d, ...)` if `channel_first`, else `(b, ..., d)`.
            condition: What the texts say, with one row for all or one row per hidden row.
            channel_first: Where the channels are.

        Raises:
            ShapeError: The hiddens have a different width, or a different batch than the condition.
        """
        if isinstance(condition, SplitRows):
            halves = (condition.first, condition.second)
            parts = torch.split(hiddens, [half.rows for half in halves])
            return torch.cat([self(part, half, channel_first) for part, half in zip(parts, halves, strict=True)])
        self.check(hiddens, condition.rows, channel_first)
        return self.conditioned(hiddens, condition, channel_first)

    @abstractmethod
    def conditioned(self, hiddens: Tensor, condition: Condition, channel_first: bool) -> Tensor:
        """Return the conditioned hiddens, behind the checks of `forward`."""

    def check(self, hiddens: Tensor, rows: int, channel_first: bool) -> None:
        """Raise `ShapeError` for hiddens of a different width, or of a different batch than the `rows` texts."""
        if hiddens.ndim < 2 or hiddens.shape[1 if channel_first else -1] != self.dim_hidden:
            layout, other = ('first', 'False') if channel_first else ('last', 'True')
            raise ShapeError(
                f'hiddens of shape {tuple(hiddens.shape)} do not have the {self.dim_hidden} channels this condition is for, read '
                f'channel {layout}: pass the hiddens of the matching entry of hidden_dims, or set hiddens_channel_first={other}'
            )
        if rows not in (1, hiddens.shape[0]):
            raise ShapeError(
                f'{rows} texts cannot condition hiddens of batch {hiddens.shape[0]}: pass one text per sample, one text for all, '
                'or repeat_batch= where several rows of the hiddens belong to one text'
            )


@dataclass(eq=False, repr=False, slots=True)
class CondFn:
    """A layer bound to a condition: maps hiddens to conditioned hiddens of the same shape, dtype and memory format."""

    layer: ConditioningLayer
    condition: Condition
    channel_first: bool
    repeat_batch: int = 1

    def __call__(self, hiddens: Tensor, repeat_batch: int | None = None) -> Tensor:
        """Condition hiddens on the texts.

        Args:
            hiddens: `(b, d, ...)` or `(b, ..., d)`, as `hiddens_channel_first` says.
            repeat_batch: How many consecutive rows of the hiddens belong to each text, such as the frames of a video folded into
                the batch; by default what the call said. Hiddens with one row per text already are taken as they are.

        Returns:
            Hiddens of the same shape, dtype and memory format.

        Raises:
            ShapeError: The hiddens have a different width, or a number of rows that does not fit the texts.
        """
        condition, times = self.condition, self.repeat_batch if repeat_batch is None else repeat_batch
        if times != 1 and condition.rows * times == hiddens.shape[0]:
            condition = condition.repeat(times)
        return self.layer(hiddens, condition, self.channel_first)

    def __repr__(self) -> str:
        layout = 'channel first' if self.channel_first else 'channel last'
        return f'CondFn({type(self.layer).__name__}, {self.layer.dim_hidden} channels, {layout}, {self.condition.rows} texts)'


def rows_like(rows: Tensor, hiddens: Tensor, channel_first: bool) -> Tensor:
    """View `(b, d)` rows so that they broadcast over hiddens, in the hiddens' dtype."""
    b, d = rows.shape
    ones = (1,) * (hiddens.ndim - 2)
    rows = rows if rows.dtype == hiddens.dtype else rows.to(hiddens.dtype)
    return rows.view(b, d, *ones) if channel_first else rows.view(b, *ones, d)


def to_sequence(hiddens: Tensor, channel_first: bool) -> Tensor:
    """Return `(b, d, ...)` or `(b, ..., d)` as a sequence `(b, n, d)`; a view where the memory layout allows it."""
    if channel_first:
        hiddens = hiddens.movedim(1, -1)  # (b, ..., d)
    return hiddens.reshape(hiddens.shape[0], prod(hiddens.shape[1:-1]), hiddens.shape[-1])  # (b, n, d)


def from_sequence(sequence: Tensor, hiddens: Tensor, channel_first: bool) -> Tensor:
    """Return a sequence `(b, n, d)` in the shape of the hiddens: the inverse of `to_sequence`."""
    if not channel_first:
        return sequence.view(hiddens.shape)
    b, d, *spatial = hiddens.shape
    return sequence.view(b, *spatial, d).movedim(-1, 1)  # (b, d, ...)
