"""The dataclass: what it refuses, and how it moves, indexes, pads, joins and saves."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError
from classifier_free_guidance_pytorch.text import TextEncoding


def make(batch=3, length=4, dim_latent=6, dim_pooled=5):
    mask = torch.arange(length) < torch.randint(1, length + 1, (batch, 1))
    return TextEncoding(torch.randn(batch, length, dim_latent) * mask[..., None], mask, torch.randn(batch, dim_pooled))


def assert_same(left, right):
    for name in ('tokens', 'mask', 'pooled'):
        assert torch.equal(getattr(left, name), getattr(right, name)), name


def test_three_tensors_of_one_batch():
    encoding = make()
    with pytest.raises(ShapeError, match=re.escape('but got (3, 4, 6), (3, 4) and (2, 5)')):
        TextEncoding(encoding.tokens, encoding.mask, encoding.pooled[:2])
    with pytest.raises(ConfigError, match='mask of a TextEncoding is boolean, True = a real token, but got'):
        TextEncoding(encoding.tokens, encoding.mask.long(), encoding.pooled)


@pytest.mark.parametrize('index', [1, np.int64(1), torch.tensor(1), -2, [1], (1,), torch.tensor([1]), slice(1, 2)])
def test_an_index_keeps_the_batch(index):
    encoding = make()
    assert_same(encoding[index], TextEncoding(encoding.tokens[1:2], encoding.mask[1:2], encoding.pooled[1:2]))


def test_indices_select_texts_only():
    encoding = make()
    assert_same(encoding[(0, 2)], encoding[torch.tensor([True, False, True])])
    with pytest.raises(IndexError, match='text 3 of an encoding of 3 texts'):
        encoding[3]
    assert len(list(encoding)) == 3


def test_moving_keeps_the_mask_boolean():
    moved = make().to('meta', torch.float16)
    assert (moved.tokens.dtype, moved.mask.dtype, moved.pooled.dtype) == (torch.float16, torch.bool, torch.float16)
    assert moved.mask.device.type == 'meta'


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), min_size=1, max_size=4))
def test_collating_keeps_every_text(sizes):
    encodings = [make(batch, length) for batch, length in sizes]
    joined = TextEncoding.collate(encodings)
    start = 0
    for encoding in encodings:
        part, length = joined[start : start + len(encoding)], encoding.tokens.shape[1]
        assert_same(TextEncoding(part.tokens[:, :length], part.mask[:, :length], part.pooled), encoding)
        assert not part.mask[:, length:].any()
        assert not part.tokens[:, length:].any()
        start += len(encoding)
    assert start == len(joined)


def test_nothing_to_collate_and_no_room_to_pad():
    with pytest.raises(ConfigError, match='needs at least one encoding'):
        TextEncoding.collate([])
    with pytest.raises(ShapeError, match='cannot pad an encoding of 4 tokens to 3'):
        make().padded(3)


def test_a_saved_encoding_comes_back(tmp_path):
    encoding = make(batch=1)
    shared = TextEncoding(encoding.tokens, encoding.mask, encoding.tokens[:, 0])  # a view, as CLS pooling makes
    shared.save(tmp_path / 'encoding.safetensors')
    assert_same(TextEncoding.load(tmp_path / 'encoding.safetensors'), shared)


def test_a_file_that_holds_something_else(tmp_path):
    from safetensors.torch import save_file

    save_file({'weight': torch.ones(2)}, tmp_path / 'other.safetensors')
    with pytest.raises(ConfigError, match=re.escape("holds ['weight'], not the tokens, mask and pooled")):
        TextEncoding.load(tmp_path / 'other.safetensors')
    (tmp_path / 'text').write_text('hello')
    with pytest.raises(ConfigError, match='is not a safetensors file'):
        TextEncoding.load(tmp_path / 'text')


def test_an_encoding_of_features_that_no_text_encoder_made():
    tokens, pooled = torch.randn(2, 3, 4), torch.randn(2, 5)
    assert TextEncoding.of(tokens).mask.all()
    assert TextEncoding.of(tokens).pooled.shape == (2, 0)
    assert TextEncoding.of(pooled=pooled).tokens.shape == (2, 0, 0)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    both = TextEncoding.of(tokens, pooled, mask)
    assert both.mask is mask
    assert torch.equal(TextEncoding.collate([both[0], both[1]]).pooled, pooled)
    with pytest.raises(ConfigError, match=r'TextEncoding.of needs tokens \(b, n, d\), pooled \(b, d\), or both'):
        TextEncoding.of()
    with pytest.raises(ShapeError, match=r'but got \(2, 3, 4\), \(2, 3\) and \(3, 5\)'):
        TextEncoding.of(tokens, torch.randn(3, 5))
