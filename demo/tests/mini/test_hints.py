"""The reader of the image tower's map asks for what was drawn, and only for that."""

from __future__ import annotations

import torch

from cfg_demo.mini.hints import CELLS, NOTHING, Hints
from cfg_demo.shapes import ShapesDataset
from cfg_demo.shapes.words import COLOURS, SHAPES, SIZES


def _answers(layouts):
    """The map that shows each picture perfectly, in the reader's own channels."""
    seen = torch.zeros(len(layouts), NOTHING + 1 + len(COLOURS) + len(SIZES), CELLS, CELLS)
    seen[:, NOTHING] = 30
    for picture, layout in zip(seen, layouts, strict=True):
        for body in layout.bodies:
            cell = picture[:, int(body.y * CELLS), int(body.x * CELLS)]
            cell[NOTHING] = 0
            cell[list(SHAPES).index(body.shape)] = 30
            cell[NOTHING + 1 + list(COLOURS).index(body.colour)] = 30
            cell[NOTHING + 1 + len(COLOURS) + list(SIZES).index(body.size)] = 30
    return seen


def _reader():
    hints = Hints(NOTHING + 1 + len(COLOURS) + len(SIZES))
    torch.nn.init.dirac_(hints.reader.weight)
    torch.nn.init.zeros_(hints.reader.bias)
    return hints


def test_a_perfect_map_costs_nothing_and_a_wrong_one_much():
    layouts = [sample.layout for sample in ShapesDataset(size=16).__getitems__(range(40))]
    seen, hints = _answers(layouts), _reader()
    assert hints.loss(seen, layouts) < 1e-5
    assert hints.loss(seen, layouts[1:] + layouts[:1]) > 5
    assert hints.loss(seen.flip(-1), layouts) > 5


def test_pictures_without_a_blueprint_are_not_asked_about():
    layouts = [sample.layout for sample in ShapesDataset(size=16).__getitems__(range(6))]
    seen, hints = _answers(layouts), _reader()
    garbage = seen.clone()
    garbage[::2] = torch.randn_like(garbage[::2])
    some = [None if index % 2 == 0 else layout for index, layout in enumerate(layouts)]
    assert hints.loss(garbage, some) < 1e-5
    assert hints.loss(garbage, [None] * 6) == 0
