"""The captioned pictures of `mini`: reproducible, never ambiguous, every word of them known to the tokenizer."""

from __future__ import annotations

from random import Random

import pytest
import torch

from cfg_demo.mini.pairs import (
    MOVES,
    WORLDS,
    also_true,
    draw_pairs,
    draw_pictures,
    moving,
    siblings,
    words,
)
from cfg_demo.mini.retrieval import distinct_pairs
from cfg_demo.mini.towers import MARKS, build_tokenizer
from cfg_demo.points import world as points
from cfg_demo.shapes import HELD_OUT, Scene, Thing


@pytest.fixture(scope='module')
def tokenizer():
    return build_tokenizer()


def test_pairs_and_pictures_are_a_function_of_the_seed():
    one, two = draw_pairs(Random(5), 64), draw_pairs(Random(5), 64)
    assert one == two
    assert torch.equal(draw_pictures(one, Random(6)), draw_pictures(two, Random(6)))
    assert [pair.caption for pair in draw_pairs(Random(7), 64)] != [pair.caption for pair in one]


def test_a_batch_never_holds_one_meaning_twice_and_holds_every_world():
    pairs = draw_pairs(Random(0), 256)
    assert len({pair.meaning for pair in pairs}) == 256
    kinds = {type(pair.meaning) for pair in pairs}
    assert kinds == {Scene, points.Scene, tuple}
    pictures = draw_pictures(pairs, Random(0))
    assert pictures.shape == (256, 3, 32, 32)
    assert 0 <= pictures.amin() <= pictures.amax() <= 1
    assert (pictures.flatten(1).std(1) > 0.01).all()


def test_training_never_says_a_held_out_combination():
    for pair in draw_pairs(Random(1), 1500):
        if isinstance(pair.meaning, Scene):
            assert not any((thing.colour, thing.shape) in HELD_OUT for thing in pair.meaning.things), pair.caption
            assert not any((body.colour, body.shape) in HELD_OUT for body in pair.plan.bodies), pair.caption
        elif isinstance(pair.meaning, points.Scene):
            assert not pair.meaning.held_out
        else:
            assert (pair.meaning[1].colour, pair.meaning[1].shape) not in HELD_OUT


@pytest.mark.parametrize('world', ['shapes', 'points', 'moving'])
@pytest.mark.parametrize('split', ['train', 'held_out'])
def test_siblings_mean_different_things_on_the_same_side_of_the_split(world, split):
    for one, two in siblings(Random(2), 40, split, world):
        assert one.meaning != two.meaning
        if world == 'shapes':
            held_out = [any((thing.colour, thing.shape) in HELD_OUT for thing in pair.meaning.things) for pair in (one, two)]
            assert held_out == [split == 'held_out'] * 2
        if world == 'points':
            assert one.meaning.held_out == two.meaning.held_out == (split == 'held_out')


@pytest.mark.parametrize('split', ['train', 'held_out'])
def test_no_caption_of_a_distinct_set_is_true_of_another_picture(split):
    pairs = distinct_pairs(Random(3), 64, split, {'shapes': 1.0})
    assert len(pairs) == 64
    assert not any(also_true(one, two) for one in pairs for two in pairs if one is not two)
    assert all(also_true(pair, pair) for pair in pairs)


def test_a_vaguer_caption_is_also_true_of_a_picture():
    rng = Random(4)
    by_caption = {pair.caption: pair for pair in draw_pairs(rng, 2000, worlds={'shapes': 1.0})}
    some = list(by_caption.values())
    assert any(also_true(one, two) for one in some[:300] for two in some if one is not two)


@pytest.mark.parametrize('move', MOVES)
def test_a_moving_body_leaves_its_traces_behind(move):
    dx, dy = MOVES[move]
    for seed in range(20):
        pair = moving(Thing('circle', 'red'), move, Random(seed))
        oldest, _, newest = pair.plan.bodies
        assert (newest.x - oldest.x) * dx + (newest.y - oldest.y) * dy > 0.2
        assert all(0 < coordinate < 1 for body in pair.plan.bodies for coordinate in (body.x, body.y))
        assert (
            f'moving {move}' in pair.caption or f'moving to the {move}' in pair.caption or f'moving {move}wards' in pair.caption
        )


def test_a_cloud_is_drawn_where_it_is_said_to_be():
    scenes = {place: points.Scene('disc', 'small', place) for place in ('left', 'right', 'top', 'bottom')}
    from cfg_demo.mini.pairs import Pair

    left, right, top, bottom = draw_pictures([Pair('', scene, scene) for scene in scenes.values()], Random(0)).sum(1)
    assert left[:, :16].sum() > 10 * left[:, 16:].sum()
    assert right[:, 16:].sum() > 10 * right[:, :16].sum()
    assert top[:16].sum() > 10 * top[16:].sum()
    assert bottom[16:].sum() > 10 * bottom[:16].sum()


def test_the_tokenizer_knows_every_word_of_every_world(tokenizer):
    captions = [pair.caption for split in ('train', 'held_out') for pair in draw_pairs(Random(8), 1500, split)]
    captions += [caption for held_out in (False, True) for caption in points.captions(held_out=held_out)]
    for ids in tokenizer(captions)['input_ids']:
        assert tokenizer.unk_token_id not in ids, tokenizer.decode(ids)
        assert len(ids) <= tokenizer.model_max_length
        assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_tokens_go_back_to_the_caption(tokenizer):
    for pair in draw_pairs(Random(9), 300):
        ids = tokenizer(pair.caption)['input_ids']
        again = ' '.join(tokenizer.convert_ids_to_tokens(ids[1:-1]))
        assert again.replace(' ,', ',').replace(' :', ':') == pair.caption


def test_case_marks_and_strangers(tokenizer):
    assert tokenizer('A RED Circle!')['input_ids'] == tokenizer('a red circle !')['input_ids']
    assert tokenizer('a red giraffe')['input_ids'].count(tokenizer.unk_token_id) == 1
    assert set(MARKS) <= set(tokenizer.get_vocab())


def test_the_vocabulary_is_a_few_hundred_words():
    assert 150 <= len(words()) <= 400
    assert sum(WORLDS.values()) == pytest.approx(1)
