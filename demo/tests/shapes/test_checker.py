"""The checker reads what the renderer draws, says no to what is not there, and knows when it cannot read."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cfg_demo.shapes import Layout, ShapesDataset, Thing, check, check_all, parse, read, render
from cfg_demo.shapes.words import BACKGROUNDS, COLOURS, OPPOSITE, PLACES, SHAPES, SIZES
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError

DOTS = torch.zeros(3, 32, 32)
DOTS[:, 2:30:3, 2:30:3] = 1


def blurred(images: Tensor, width: float) -> Tensor:
    steps = torch.arange(-3, 4, dtype=torch.float32)
    kernel = torch.exp(-(steps**2) / (2 * width**2))
    kernel = (kernel[:, None] * kernel / kernel.sum() ** 2).expand(3, 1, 7, 7)
    return F.conv2d(F.pad(images, (3, 3, 3, 3), mode='replicate'), kernel, groups=3)


@pytest.mark.parametrize(('split', 'size', 'count'), [('train', 32, 500), ('held_out', 32, 500), ('train', 64, 250)])
def test_the_renderers_own_pictures_score_99_percent(split, size, count):
    samples = ShapesDataset(split, size=size, seed=11).__getitems__(range(count))
    verdicts = check_all([sample.image for sample in samples], [sample.caption for sample in samples])
    assert sum(verdict.holds for verdict in verdicts) >= 0.99 * count
    assert all(verdict.readable for verdict in verdicts)


def test_closer_up_the_smallest_pictures_are_read_too():
    """Pictures of 16 pixels, by their own zoom; by another, sizes are not what they seem."""
    drawn = ShapesDataset(size=16, kinds=('single',), zoom=1.5, told=1.0).__getitems__(range(300))
    pictures, captions = [item.image for item in drawn], [item.caption for item in drawn]
    assert sum(verdict.holds for verdict in check_all(pictures, captions, 1.5)) >= 0.99 * 300
    far = [verdict.size for verdict in check_all(pictures, captions) if verdict.size is not None]
    assert sum(far) < 0.5 * len(far)


def test_blurred_and_noisy_pictures_are_still_read():
    samples = ShapesDataset(seed=12).__getitems__(range(200))
    noise = torch.randn(200, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images = blurred(torch.stack([sample.image for sample in samples]), 0.7) + 0.03 * noise
    verdicts = check_all(images, [sample.scene for sample in samples])
    assert sum(verdict.holds for verdict in verdicts) >= 0.97 * 200


def _another(options, word, rng):
    return rng.choice([option for option in options if option != word])


def _corrupted(scene, part, rng):
    """The scene with one word of this part replaced, or None where the caption has no such part."""
    index = rng.randrange(len(scene.things))
    thing = scene.things[index]
    options = {'colour': COLOURS, 'shape': SHAPES, 'size': SIZES}
    if part in options:
        if getattr(thing, part) is None:
            return None
        changed = replace(thing, **{part: _another(options[part], getattr(thing, part), rng)})
        return replace(scene, things=(*scene.things[:index], changed, *scene.things[index + 1 :]))
    if part == 'count':
        return (
            replace(scene, things=(Thing('star', 'red'), *scene.things), relation=None, place=None) if scene.count < 3 else None
        )
    if part == 'relation':
        return scene.relation and replace(scene, relation=_another(OPPOSITE, scene.relation, rng))
    if part == 'background':
        return scene.background and replace(scene, background=_another(BACKGROUNDS, scene.background, rng))
    overlapping = {place for place in PLACES if scene.place and set(place.split()) & set(scene.place.split())}
    return scene.place and replace(scene, place=rng.choice([place for place in PLACES if place not in overlapping]))


@pytest.mark.parametrize('part', ['colour', 'shape', 'size', 'count', 'relation', 'place', 'background'])
def test_it_says_no_to_a_caption_with_one_part_wrong(part):
    rng, asked, denied, named = Random(0), 0, 0, 0
    for sample in ShapesDataset(seed=13).__getitems__(range(400)):
        wrong = _corrupted(sample.scene, part, rng)
        if wrong:
            verdict = check(sample.image, wrong)
            asked, denied, named = asked + 1, denied + (not verdict.holds), named + (verdict.parts[part] is False)
        if asked == 60:
            break
    assert asked >= 40
    assert denied >= 0.98 * asked
    if part != 'relation':
        # a wrong relation may also be seen as right between swapped things; any other part is named itself
        assert named >= 0.9 * asked


def test_swapping_the_two_things_of_a_relation_is_noticed():
    for sample in ShapesDataset(seed=14, kinds=('relation',)).__getitems__(range(60)):
        assert not check(sample.image, replace(sample.scene, things=sample.scene.things[::-1])).holds, sample.caption


def test_what_is_read_is_what_was_drawn():
    for sample in ShapesDataset(seed=15).__getitems__(range(100)):
        found = read(sample.image)
        assert isinstance(found, Layout)
        assert found.background == sample.layout.background
        for body in sample.layout.bodies:
            twin = min(found.bodies, key=lambda each: abs(each.x - body.x) + abs(each.y - body.y))
            assert (twin.shape, twin.colour, twin.size) == (body.shape, body.colour, body.size)
            assert (twin.x, twin.y, twin.radius) == pytest.approx((body.x, body.y, body.radius), abs=0.012)


@pytest.mark.parametrize(
    ('image', 'sentence'),
    [
        (torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)), 'the border shows no single background colour'),
        (torch.full((3, 32, 32), 0.5), 'nothing stands out from the background'),
        (torch.full((3, 32, 32), float('nan')), 'the picture holds values that are not finite'),
        (DOTS, 'the picture is covered with specks'),
        (
            F.pad(torch.eye(7).repeat_interleave(4, 0).repeat_interleave(4, 1).expand(3, 28, 28), (2, 2, 2, 2)),
            'too many to be bodies',
        ),
        (F.pad(torch.ones(3, 2, 26), (3, 3, 15, 15)), 'no region has the outline of a known shape'),
    ],
)
def test_an_unreadable_picture_says_why_and_satisfies_nothing(image, sentence):
    problem = read(image)
    assert isinstance(problem, str)
    assert sentence in problem
    verdict = check(image, 'a red circle left of a blue square on a dark background')
    assert not verdict.readable
    assert set(verdict.parts) == {'count', 'shape', 'colour', 'relation', 'background'}
    assert verdict.fraction == 0


def test_a_missing_body_fails_count_and_its_own_parts():
    sample = ShapesDataset(seed=16, kinds=('relation',))[0]
    alone = replace(sample.layout, bodies=sample.layout.bodies[:1])
    parts = check(render([alone])[0], sample.scene).parts
    assert not parts['count']
    assert not parts['shape']
    assert not parts['relation']


def test_wrong_pictures_and_captions_are_refused():
    with pytest.raises(ConfigError, match=r'zoom is between 1 and 1\.5'):
        read(DOTS, 2.0)
    with pytest.raises(ShapeError, match=r'expected one square picture \(3, s, s\), got \(2, 3, 32, 32\)'):
        read(torch.zeros(2, 3, 32, 32))
    with pytest.raises(ConfigError, match='names no shape'):
        check(torch.zeros(3, 32, 32), 'a dog')
    assert parse('a circle').background is None
