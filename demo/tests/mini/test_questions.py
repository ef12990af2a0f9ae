"""The questions ask what a caption settles, no more, and tell who is where."""

from __future__ import annotations

import torch

from cfg_demo.mini.questions import QUESTIONS, Examiner, answers
from cfg_demo.shapes import Scene, Thing, parse
from cfg_demo.shapes.words import BACKGROUNDS, COLOURS, SHAPES, SIZES


def test_a_full_caption_settles_what_it_says():
    right = answers(parse('a large red circle above a small blue square on a dark background'))
    assert right['count'] == 1
    assert right['background'] == list(BACKGROUNDS).index('dark')
    assert right['colour of the circle'] == list(COLOURS).index('red')
    assert right['size of the square'] == list(SIZES).index('small')
    assert right['shape above'] == list(SHAPES).index('circle')
    assert right['colour below'] == list(COLOURS).index('blue')
    assert [right[f'is there a {shape}'] for shape in SHAPES] == [shape in ('circle', 'square') for shape in SHAPES]
    assert not {'shape left', 'across', 'down', 'colour of the star'} & set(right)


def test_opposite_relations_have_opposite_answers_and_the_same_meaning_the_same():
    one = answers(parse('a red circle left of a blue square'))
    two = answers(parse('a red circle right of a blue square'))
    assert (one['shape left'], one['shape right']) == (two['shape right'], two['shape left'])
    assert one == answers(parse('a blue square right of a red circle'))


def test_what_is_open_or_ambiguous_is_not_asked():
    assert 'is there a star' not in answers(parse('a red shape'))
    assert 'colour of the circle' not in answers(Scene((Thing('circle', 'red'), Thing('circle', 'blue'))))
    right = answers(parse('three hearts'))
    assert right['count'] == 2
    assert not {'background', 'colour of the heart', 'size of the heart'} & set(right)
    assert answers(parse('a star in the top left corner'))['down'] == 0
    assert answers(parse('a star in the center'))['across'] == 1


def test_the_examiner_is_content_with_right_answers_only():
    scenes = [parse('a large red circle above a small blue square'), None, parse('three hearts on a light background')]
    channels = sum(QUESTIONS.values())
    features, start = torch.zeros(3, channels), 0
    for question, number in QUESTIONS.items():
        for row, scene in zip(features, scenes, strict=True):
            if scene is not None and question in answers(scene):
                row[start + answers(scene)[question]] = 30
        start += number
    examiner = Examiner(channels)
    torch.nn.init.eye_(examiner.reader.weight)
    torch.nn.init.zeros_(examiner.reader.bias)
    assert examiner.loss(features, scenes) < 1e-5
    assert examiner.loss(features.flip(0), scenes) > 1
    assert examiner.loss(features, [None] * 3) == 0
    swapped = [parse('a large red circle below a small blue square'), None, scenes[2]]
    assert examiner.loss(features, swapped) > 1
