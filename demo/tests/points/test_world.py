"""The world: captions, split, geometry, and a checker that can say no."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cfg_demo.points import world
from cfg_demo.points.shapes import DISCS, SHAPES
from cfg_demo.points.world import Scene

ALL = world.scenes()
any_scene = st.sampled_from(ALL)


def true_points(scene: Scene, count: int = 500, seed: int = 0) -> torch.Tensor:
    return world.sample([scene], count, generator=torch.Generator().manual_seed(seed))[0]


def words(texts: list[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r'\w+', text)}


def test_there_are_many_scenes_and_every_caption_is_its_own():
    texts = world.captions(held_out=False) + world.captions(held_out=True)
    assert len(ALL) == len(set(ALL)) == 360
    assert len(texts) == len(set(texts)) == 360 * world.PHRASINGS


def test_held_out_scenes_are_new_combinations_of_known_words():
    seen, held_out = world.captions(held_out=False), world.captions(held_out=True)
    assert not set(seen) & set(held_out)
    assert len(world.split(held_out=True)) + len(world.split(held_out=False)) == len(ALL)
    assert 40 <= len(world.split(held_out=True)) <= 60
    assert words(held_out) <= words(seen)


def test_the_two_pens_of_a_held_out_combination_are_held_out_together():
    combination = lambda scene: (scene.shape, scene.size, scene.place)  # noqa: E731
    assert not set(map(combination, world.split(held_out=True))) & set(map(combination, world.split(held_out=False)))


@settings(deadline=None)
@given(any_scene)
def test_captions_are_tidy_and_say_every_word(scene):
    for text in scene.captions():
        assert '{' not in text
        assert not re.search(r'\s{2}| ,|, *,|,$|and$|\bin lines', text)
        assert SHAPES[scene.shape].noun in text
        assert SHAPES[scene.shape].manner in text
    assert len(set(scene.captions())) == world.PHRASINGS


@given(any_scene, st.integers(0, 100))
@settings(deadline=None, max_examples=60)
def test_true_points_satisfy_their_caption_and_cover_their_shape(scene, seed):
    points = true_points(scene, seed=seed)
    assert world.satisfies(scene, points, tolerance=1e-5).float().mean() >= 0.99
    assert world.coverage(scene, points) >= 0.98
    assert points.abs().max() <= world.EXTENT


@pytest.mark.parametrize(
    ('asked', 'drawn', 'most'),
    [
        (Scene('ring', 'large', 'centre', 'thin'), Scene('ring', 'small', 'centre', 'thin'), 0.0),  # size
        (Scene('ring', 'large', 'left', 'thin'), Scene('ring', 'large', 'right', 'thin'), 0.1),  # place
        (Scene('ring', 'large', 'centre', 'thin'), Scene('ring', 'large', 'centre', 'thick'), 0.9),  # pen
        (Scene('ring', 'large', 'centre', 'thin'), Scene('square', 'large', 'centre', 'thin'), 0.6),  # shape
        (Scene('left spiral', 'large', 'centre', 'thin'), Scene('right spiral', 'large', 'centre', 'thin'), 0.6),  # turn
        (Scene('rising line', 'large', 'top', 'thick'), Scene('falling line', 'large', 'top', 'thick'), 0.3),  # direction
        (Scene('left moon', 'large', 'centre'), Scene('right moon', 'large', 'centre'), 0.3),
        (Scene('pair', 'large', 'centre'), Scene('stack', 'large', 'centre'), 0.0),
    ],
)
def test_the_checker_says_no_to_what_another_caption_describes(asked, drawn, most):
    assert world.satisfies(asked, true_points(drawn)).float().mean() <= most
    assert world.satisfies(drawn, true_points(drawn)).all()


def test_no_other_scene_passes_for_a_scene_and_covers_it_too():
    """Only the described shape both satisfies a caption and covers it (or the same in a thinner pen, which lies inside it)."""
    drawings = {scene: true_points(scene, 400) for scene in ALL}
    for asked in ALL[::23]:
        for drawn, points in drawings.items():
            if replace(drawn, pen=asked.pen) != asked:
                holds = world.satisfies(asked, points).float().mean().item()
                assert min(holds, world.coverage(asked, points)) < 0.99, (asked.caption(), drawn.caption())


def test_tolerance_is_a_distance():
    ring = Scene('ring', 'large', 'centre', 'thin')
    edge = world.SIZES['large'] + world.PENS['thin']
    points = torch.tensor([[edge + world.TOLERANCE - 0.002, 0.0], [edge + world.TOLERANCE + 0.002, 0.0]])
    assert world.satisfies(ring, points).tolist() == [True, False]


def test_a_collapsed_cloud_satisfies_and_does_not_cover():
    scene = Scene('ring', 'large', 'centre', 'thin')
    collapsed = true_points(scene)[:1].expand(500, 2)
    assert world.satisfies(scene, collapsed).all()
    assert world.coverage(scene, collapsed) < 0.1


def test_words_mean_what_they_say():
    """The picture agrees with the language: left is left, a rising line rises, a left spiral turns counter-clockwise outwards."""
    assert true_points(Scene('disc', 'small', 'left')).mean(0)[0] < -0.7
    assert true_points(Scene('disc', 'small', 'top')).mean(0)[1] > 0.7
    rising = true_points(Scene('rising line', 'large', 'centre', 'thin'))
    assert torch.corrcoef(rising.T)[0, 1] > 0.9
    for name, sign in (('left spiral', 1), ('right spiral', -1)):
        path, _ = SHAPES[name].chain()
        turning = path[:-1, 0] * path[1:, 1] - path[:-1, 1] * path[1:, 0]
        assert (turning.sign() == sign).all()
        assert path[-1].norm() > path[0].norm()
    centres, radii = Scene('left moon', 'large', 'centre').discs
    assert centres[radii.argmax()][0] > centres[radii.argmin()][0]  # its thick back is on the right


def test_every_shape_has_its_discs_and_fits_the_unit_square():
    for shape in SHAPES.values():
        centres, body = shape.chain()
        assert centres.shape == (DISCS, 2)
        assert body.shape == (DISCS,)
        assert (centres.abs() + body.unsqueeze(1)).max() <= 1.01


def test_sampling_is_reproducible_and_a_scene_does_not_know_its_neighbours_geometry():
    first, second = (true_points(ALL[7], seed=3) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first, true_points(ALL[7], seed=4))
    pair = world.sample([ALL[0], ALL[100]], 200)
    assert world.satisfies(ALL[0], pair[0]).all()
    assert world.satisfies(ALL[100], pair[1]).all()
