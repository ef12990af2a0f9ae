"""The weights in the package: small enough, complete, and as good as their README says."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file

from cfg_demo.mini.retrieval import one_word, retrieval
from cfg_demo.mini.towers import IMAGE_WEIGHTS, TEXT_WEIGHTS, build_tokenizer, load_joint_space
from classifier_free_guidance_pytorch.errors import MissingDependencyError
from classifier_free_guidance_pytorch.text.mini import MiniAdapter
from classifier_free_guidance_pytorch.text.transformers_files import read_tokenizer


@pytest.fixture(scope='module')
def space():
    return load_joint_space()


@pytest.fixture(scope='module')
def embed():
    encoder = MiniAdapter()
    return lambda captions: encoder.encode(list(captions)).pooled


def test_it_is_small():
    assert {path.name for path in TEXT_WEIGHTS.iterdir()} == {
        'config.json',
        'model.safetensors',
        'tokenizer.json',
        'tokenizer_config.json',
        'README.md',
    }
    assert sum(path.stat().st_size for path in TEXT_WEIGHTS.iterdir()) <= 3_000_000
    assert IMAGE_WEIGHTS.stat().st_size <= 1_500_000
    weights = load_file(TEXT_WEIGHTS / 'model.safetensors')
    assert sum(value.numel() for value in weights.values()) < 1_000_000
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert all(value.isfinite().all() for value in weights.values())


def test_its_tokenizer_is_the_one_the_worlds_need():
    assert read_tokenizer('mini', str(TEXT_WEIGHTS)).get_vocab() == build_tokenizer().get_vocab()


def test_held_out_captions_find_their_picture_among_64(space, embed):
    by_caption, by_picture = retrieval(space, embed, worlds={'shapes': 1.0}, sets=4, seed=123)
    assert by_caption >= 0.98
    assert by_picture >= 0.98


def test_clouds_of_points_are_told_apart(space, embed):
    by_caption, _ = retrieval(space, embed, split='train', worlds={'points': 1.0}, sets=2, seed=123)
    assert by_caption >= 0.9


def test_one_word_makes_the_difference(space, embed):
    assert one_word(space, embed, world='shapes', count=300, seed=123) >= 0.88


def test_untrained_weights_would_fail_these_tests(embed):
    from cfg_demo.mini.towers import JointSpace

    torch.manual_seed(0)
    by_caption, by_picture = retrieval(JointSpace().eval(), embed, worlds={'shapes': 1.0}, sets=1)
    assert max(by_caption, by_picture) < 0.2


def test_the_readme_says_how_it_was_made_and_what_it_does_not_know():
    readme = (TEXT_WEIGHTS / 'README.md').read_text()
    assert re.search(r'cfg-demo train-mini --train-steps \d+ --batch-size \d+ --seed \d+', readme)
    assert 'It knows nothing else' in readme
    score = float(re.search(r'shapes, held_out: picture of a caption among 64 \| ([\d.]+)%', readme)[1])
    assert score >= 98


def test_larger_pictures_are_averaged_down(space):
    small = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    large = small.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(space.place_images(large), space.place_images(small))


def test_weights_that_are_missing_are_named(tmp_path):
    with pytest.raises(MissingDependencyError, match='the weights of the image tower are not at'):
        load_joint_space(tmp_path / 'nothing.safetensors')
