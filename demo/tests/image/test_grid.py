"""Pictures of pictures: they are there, of the right size, and show what they are given."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image

from cfg_demo.image import grid
from cfg_demo.image.drawing import Drawing, Request
from cfg_demo.image.grid import save_curve, save_grid, save_samples, save_tradeoff
from cfg_demo.shapes import Verdict
from demo.tests.image.tiny import pictures

DOTS = 110  # per inch


def drawing(prompt='a red circle', rows=2, columns=3, verdicts=None, negative=None):
    request = Request(prompt, negative=negative, scales=tuple(map(float, range(columns))), seeds=tuple(range(rows)))
    return Drawing(request, pictures(rows * columns).reshape(columns, rows, 3, 16, 16), verdicts)


def size_of(path):
    with Image.open(path) as image:
        assert image.format == 'PNG'
        return image.size


@pytest.mark.parametrize(('rows', 'columns'), [(1, 1), (2, 3), (4, 5)])
def test_a_grid_has_a_column_per_scale_and_a_row_per_seed(rows, columns, tmp_path):
    save_grid(tmp_path / 'image.png', drawing(rows=rows, columns=columns))
    width, height = size_of(tmp_path / 'image.png')
    assert (width, height) == pytest.approx(((columns * 1.35 + 0.9) * DOTS, (rows * 1.35 + 1.5) * DOTS), abs=1)


def test_frames_tell_what_holds(tmp_path):
    holds, fails = Verdict(count=True, shape=True), Verdict(count=True, shape=False)
    save_grid(tmp_path / 'image.png', drawing(rows=1, columns=2, verdicts=[[holds], [fails]]))
    with Image.open(tmp_path / 'image.png') as image:
        seen = {'#{:02x}{:02x}{:02x}'.format(*pixel[:3]) for _, pixel in image.getcolors(1 << 20)}
    assert {grid.HOLDS, grid.FAILS} <= seen
    assert grid.FAINT not in seen


@pytest.mark.parametrize('prompt', [r'a $\red circle$', '$5 and $_{', 'a_b^c \\frac', 'a circle ' * 60, 'line\nline', '<b>&"'])
@pytest.mark.filterwarnings('ignore:constrained_layout not applied')
def test_a_prompt_is_words_and_no_formula(prompt, tmp_path):
    save_grid(tmp_path / 'image.png', drawing(prompt, negative=prompt))
    save_samples(tmp_path / 'samples.png', pictures(1), [prompt], 'step 1 of 2')
    assert size_of(tmp_path / 'image.png')
    assert size_of(tmp_path / 'samples.png')


@pytest.mark.parametrize('count', [1, 8, 11])
def test_samples_fill_rows_of_eight(count, tmp_path):
    save_samples(tmp_path / 'samples.png', pictures(count), ['a red circle'] * count, 'step 1 of 2')
    width, height = size_of(tmp_path / 'samples.png')
    assert (width, height) == pytest.approx((8 * 1.35 * DOTS, (math.ceil(count / 8) * 1.75 + 0.5) * DOTS), abs=1)


@pytest.mark.parametrize('steps', [1, 50, 120])
def test_a_curve_of_any_length(steps, tmp_path):
    save_curve(tmp_path / 'curve.png', [1 / (1 + step) for step in range(steps)])
    assert size_of(tmp_path / 'curve.png') == (660, 385)


def test_pixels_stay_sharp(tmp_path):
    image = torch.zeros(3, 16, 16)
    image[0, :, 8:] = 1.0
    request = Request('a red half', scales=(1.0,), seeds=(0,))
    save_grid(tmp_path / 'image.png', Drawing(request, image[None, None], None))
    with Image.open(tmp_path / 'image.png') as picture:
        colours = {pixel[:3]: count for count, pixel in picture.getcolors(1 << 20)}
    assert colours[255, 0, 0] > 1000
    assert colours[0, 0, 0] == pytest.approx(colours[255, 0, 0], rel=0.1)


def test_the_tradeoff_of_rules(tmp_path):
    scores = [
        {'rule': rule, 'scale': scale, 'whole': {'all': {'share': 0.1 * scale}}, 'diversity': 9 - scale, 'fidelity': scale}
        for rule in ('cfg', 'apg')
        for scale in (1.0, 3.0)
    ]
    save_tradeoff(tmp_path / 'tradeoff.png', scores)
    assert size_of(tmp_path / 'tradeoff.png') == (1210, 550)
