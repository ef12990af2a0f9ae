"""A second lesson for the image tower: what lies in each eighth of a picture.

A caption says little about a picture, and a contrast of captions teaches the eye slowly. In training the blueprint of a picture
is at hand, so a linear reader on the tower's 8 x 8 map is asked for the shape, colour and size of the body centred in each cell.
The reader is thrown away afterwards; the text tower never meets it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cfg_demo.shapes.layout import Layout
from cfg_demo.shapes.words import COLOURS, SHAPES, SIZES

CELLS = 8
_SHAPES, _COLOURS, _SIZES = list(SHAPES), list(COLOURS), list(SIZES)
NOTHING = len(_SHAPES)


class Hints(nn.Module):
    """Reads shape (or nothing), colour and size in each cell of a map `(b, c, 8, 8)`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.parts = [len(_SHAPES) + 1, len(_COLOURS), len(_SIZES)]
        self.reader = nn.Conv2d(channels, sum(self.parts), 1)

    def loss(self, seen: Tensor, layouts: Sequence[Layout | None]) -> Tensor:
        """How badly the map shows what was drawn.

        Args:
            seen: the map `(b, c, 8, 8)`.
            layouts: the blueprint of each picture, None for one that is not asked about.

        Returns:
            The sum of three cross entropies: shape over all cells, colour and size over the cells that hold a body.
        """
        asked = [index for index, layout in enumerate(layouts) if layout is not None]
        if not asked:
            return seen.sum() * 0
        shape, colour, size = self.reader(seen[asked]).split(self.parts, dim=1)
        held = [
            (row, min(int(body.y * CELLS), CELLS - 1), min(int(body.x * CELLS), CELLS - 1), body)
            for row, index in enumerate(asked)
            for body in getattr(layouts[index], 'bodies', ())
        ]
        rows, tops, lefts = (torch.tensor([each[axis] for each in held], device=seen.device) for axis in range(3))
        shapes = torch.full((len(asked), CELLS, CELLS), NOTHING, device=seen.device)
        shapes[rows, tops, lefts] = self._answers([_SHAPES.index(str(body.shape)) for *_, body in held], seen)
        weight = torch.ones(self.parts[0], device=seen.device)
        weight[NOTHING] = 0.1  # most cells hold nothing
        return (
            F.cross_entropy(shape, shapes, weight)
            + F.cross_entropy(
                colour[rows, :, tops, lefts], self._answers([_COLOURS.index(str(body.colour)) for *_, body in held], seen)
            )
            + F.cross_entropy(
                size[rows, :, tops, lefts], self._answers([_SIZES.index(str(body.size)) for *_, body in held], seen)
            )
        )

    @staticmethod
    def _answers(numbers: list[int], like: Tensor) -> Tensor:
        return torch.tensor(numbers, device=like.device)
