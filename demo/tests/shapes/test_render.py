"""Pictures: deterministic, independent of their batch, anti-aliased, varied."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cfg_demo.shapes import Scene, ShapesDataset, Thing, arrange, collate, judge, render
from cfg_demo.shapes.judge import lies
from cfg_demo.shapes.layout import MARGIN, PALETTE, REACH, ROTATION
from cfg_demo.shapes.outlines import OUTLINES, coverage
from cfg_demo.shapes.words import PLACES
from classifier_free_guidance_pytorch.errors import ConfigError


def test_a_dataset_is_a_function_of_split_seed_and_index():
    one, two = ShapesDataset(seed=3), ShapesDataset(seed=3, length=50)
    batch = one.__getitems__([7, 2, 40])
    for sample, index in zip(batch, (7, 2, 40), strict=True):
        alone = two[index]
        assert torch.equal(sample.image, alone.image)
        assert (sample.caption, sample.layout) == (alone.caption, alone.layout)
    other = ShapesDataset(seed=4)[7]
    assert not torch.equal(other.image, batch[0].image)
    assert other.image.shape == (3, 32, 32)
    assert ShapesDataset(size=64)[7].layout == ShapesDataset()[7].layout
    assert other.image.min() >= 0
    assert other.image.max() <= 1


def test_a_loader_gives_batches_and_ends():
    batches = list(DataLoader(ShapesDataset(length=10), batch_size=4, collate_fn=collate))
    assert [len(captions) for _, captions in batches] == [4, 4, 2]
    assert batches[0][0].shape == (4, 3, 32, 32)
    with pytest.raises(IndexError):
        ShapesDataset(length=10)[10]


def test_kinds_choose_what_is_drawn():
    singles = ShapesDataset(size=16, kinds=('single',)).__getitems__(range(100))
    assert all(sample.scene.count == 1 for sample in singles)
    related = ShapesDataset(size=16, kinds=('relation',)).__getitems__(range(100))
    assert all(sample.scene.relation for sample in related)


def test_no_two_pictures_of_one_scene_are_alike():
    scene, rng = Scene((Thing('star', 'red', 'small'),), place='top left', background='dark'), Random(0)
    images = render([arrange(scene, rng) for _ in range(60)]).flatten(1)
    distances = torch.cdist(images, images) + 100 * torch.eye(60)
    assert distances.min() > 0.1


def test_all_that_a_scene_says_is_true_of_its_layouts():
    for split in ('train', 'held_out'):
        for sample in ShapesDataset(split, size=16).__getitems__(range(2000)):
            assert judge(sample.scene, sample.layout).holds, sample.caption


def test_bodies_stay_inside_and_apart():
    for sample in ShapesDataset(size=16).__getitems__(range(1000)):
        bodies = sample.layout.bodies
        for index, body in enumerate(bodies):
            assert min(body.x, body.y) - REACH * body.radius >= 0
            assert max(body.x, body.y) + REACH * body.radius <= 1
            for other in bodies[index + 1 :]:
                gap = max(abs(body.x - other.x), abs(body.y - other.y)) - body.radius - other.radius
                assert math.dist((body.x, body.y), (other.x, other.y)) > body.radius + other.radius
                assert gap > -0.07  # boxes may overlap a little diagonally, bodies never


@pytest.mark.parametrize('shape', OUTLINES)
def test_edges_are_the_average_of_a_finer_picture(shape):
    def draw(pixels):
        axis = (np.arange(pixels, dtype=np.float32) + 0.5) / pixels - 0.5
        return coverage(shape, axis, axis[:, None], 0.3, 0.2, pixels)

    coarse, fine = draw(32), draw(512).reshape(32, 16, 32, 16).mean((1, 3))
    assert np.abs(coarse - fine).max() < 0.3  # a tip narrower than a pixel
    assert np.abs(coarse - fine).mean() < 0.006
    assert ((coarse > 0.05) & (coarse < 0.95)).any()


@pytest.mark.parametrize('shape', OUTLINES)
def test_outlines_stay_within_reach(shape):
    axis = np.linspace(-1.6, 1.6, 321, dtype=np.float32)
    for angle in np.linspace(-ROTATION, ROTATION, 7):
        inside = coverage(shape, axis, axis[:, None], 1.0, angle, 1e4) > 0
        rows, columns = np.nonzero(inside)
        assert max(abs(axis[rows]).max(), abs(axis[columns]).max()) <= REACH + 0.01


def test_a_pixel_inside_has_the_shade_and_one_outside_the_backdrop():
    layout = arrange(Scene((Thing('circle', 'red', 'large'),), place='center', background='dark'), Random(1))
    image, body = render([layout])[0], layout.bodies[0]
    inside = image[:, int(body.y * 32), int(body.x * 32)]
    assert torch.allclose(inside, torch.tensor(body.rgb), atol=1e-6)
    assert torch.allclose(inside, torch.tensor(PALETTE['red']), atol=0.2)
    assert torch.allclose(image[:, 0, 0], torch.tensor(layout.rgb), atol=1e-6)


def test_the_largest_body_fits_every_place_closer_up():
    for place in PLACES:
        for seed in range(20):
            (body,) = arrange(Scene((Thing('star', 'red', 'large'),), place=place), Random(seed), zoom=1.5).bodies
            reach = REACH * body.radius
            assert min(body.x, body.y) - reach >= MARGIN
            assert max(body.x, body.y) + reach <= 1 - MARGIN
            assert lies(place, body)


@pytest.mark.parametrize(
    ('build', 'sentence'),
    [
        (lambda: ShapesDataset('test'), "split is 'test', but must be one of train, held_out"),
        (lambda: ShapesDataset(kinds=('crowd',)), r"kinds is \['crowd'\]"),
        (lambda: ShapesDataset(kinds=()), 'must name at least one of single'),
        (lambda: ShapesDataset(length=0), 'length is 0'),
        (lambda: ShapesDataset(size=8), 'size is 8, but small shapes need pictures of at least 16 pixels'),
        (lambda: ShapesDataset(kinds=('single',), zoom=0.5), r'zoom is between 1 and 1\.5'),
        (lambda: ShapesDataset(zoom=1.2), r"zoom is 1\.2, which leaves room for one body: pass kinds=\('single',\)"),
        (lambda: arrange(Scene((Thing('star', count=2),)), Random(0), zoom=1.5), 'but 2 bodies fit a picture only at zoom 1'),
        (
            lambda: arrange(Scene((Thing('circle', size='large', count=3),)), Random(0)),
            'three large bodies do not fit one picture',
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(build, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build()
