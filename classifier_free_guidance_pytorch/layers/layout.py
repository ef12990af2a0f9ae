"""Channel layouts: hiddens of any rank, channel first `(b, d, ...)` or channel last `(b, ..., d)`."""

from __future__ import annotations

from math import prod

from torch import Tensor

from classifier_free_guidance_pytorch.errors import ShapeError


def check_hiddens(hiddens: Tensor, width: int, rows: int, channel_first: bool) -> None:
    """Refuse hiddens of another width, or of another batch than the `rows` texts (one text fits every batch).

    Raises:
        ShapeError: with the shape, and the layout it was read in.
    """
    if hiddens.ndim < 2 or hiddens.shape[1 if channel_first else -1] != width:
        layout, other = ('first', 'False') if channel_first else ('last', 'True')
        raise ShapeError(
            f'hiddens of shape {tuple(hiddens.shape)} do not have the {width} channels this condition is for, read channel '
            f'{layout}: pass the hiddens of the matching entry of hidden_dims, or set hiddens_channel_first={other}'
        )
    if rows not in (1, hiddens.shape[0]):
        raise ShapeError(
            f'{rows} texts cannot condition hiddens of batch {hiddens.shape[0]}: pass one text per sample, one text for all, '
            'or repeat_batch= where several rows of the hiddens belong to one text'
        )


def rows_like(rows: Tensor, hiddens: Tensor, channel_first: bool) -> Tensor:
    """View `(b, d)` rows so that they broadcast over hiddens, in the hiddens' dtype."""
    b, d = rows.shape
    ones = (1,) * (hiddens.ndim - 2)
    rows = rows if rows.dtype == hiddens.dtype else rows.to(hiddens.dtype)
    return rows.view(b, d, *ones) if channel_first else rows.view(b, *ones, d)


def to_sequence(hiddens: Tensor, channel_first: bool) -> Tensor:
    """`(b, d, ...)` or `(b, ..., d)` as a sequence `(b, n, d)`; a view where the memory layout allows it."""
    if channel_first:
        hiddens = hiddens.movedim(1, -1)
    return hiddens.reshape(hiddens.shape[0], prod(hiddens.shape[1:-1]), hiddens.shape[-1])


def from_sequence(sequence: Tensor, hiddens: Tensor, channel_first: bool) -> Tensor:
    """The inverse of `to_sequence`, shaped like `hiddens`."""
    if not channel_first:
        return sequence.view(hiddens.shape)
    b, d, *spatial = hiddens.shape
    return sequence.view(b, *spatial, d).movedim(-1, 1)
