"""The world of shades: captions are of the data, one in five is wrong, and the measure measures."""

from __future__ import annotations

from random import Random

import torch

from cfg_demo import shades
from cfg_demo.shapes.layout import BACKDROPS, PALETTE


def test_the_measure_measures():
    data, captions = shades.draw_data(200, Random(0))
    right = [bool(shades.satisfied(s[None] / 2 + 0.5, c)) for s, c in zip(data, captions, strict=True)]
    assert 0.7 < sum(right) / 200 < 0.9, 'one caption in five is wrong'
    shade = torch.tensor([[*PALETTE['red'], *BACKDROPS['navy']]])
    assert shades.satisfied(shade, 'a crimson star on a navy field').all()
    assert not shades.satisfied(shade, 'a crimson star on a dark field').any()
    assert not shades.satisfied(shade, 'a blue star on a navy field').any()


def test_pictures_show_the_shades_they_are_given():
    row = torch.tensor([[*PALETTE['red'], *BACKDROPS['navy']], [*PALETTE['blue'], *BACKDROPS['light']]])
    pictures = shades.pictures(row, 'a crimson circle on a navy field')
    assert pictures.shape == (2, 3, 24, 24)
    torch.testing.assert_close(pictures[:, :, 12, 12], row[:, :3])
    torch.testing.assert_close(pictures[:, :, 0, 0], row[:, 3:])
