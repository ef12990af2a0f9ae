"""The first pass: equal captions become one, whatever their order, against a dictionary."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from classifier_free_guidance_pytorch.corpus.read.entries import Bad
from classifier_free_guidance_pytorch.corpus.scan import merging
from classifier_free_guidance_pytorch.corpus.scan.first_pass import Skipped, scan
from classifier_free_guidance_pytorch.corpus.store.layout import INDEX, captions_name
from classifier_free_guidance_pytorch.corpus.store.shards import caption_digest, caption_hash
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError


class Listed:
    """A source of given values; the places count from 1."""

    unit = 'line'

    def __init__(self, values):
        self.values = values

    def entries(self):
        return enumerate(self.values, start=1)

    def fingerprint(self):
        return {}


def shards_in(directory):
    """The captions that were written, shard by shard."""
    shards = []
    while (path := directory / captions_name(len(shards))).exists():
        tensors = load_file(path)
        text = tensors['captions'].numpy().tobytes()
        shards.append([text[start:stop].decode() for start, stop in pairwise(tensors['offsets'].tolist())])
    return shards


def check_against_a_dictionary(directory, values, shard_rows=3):
    found = scan(Listed(values), directory, shard_rows)
    kept = [(position, value) for position, value in enumerate(values) if isinstance(value, str) and value.strip()]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(text for _, text in kept))}
    assert (found.captions, found.unique) == (len(kept), len(numbers))
    assert sum(found.skipped.counts.values()) == len(values) - len(kept)

    shards = shards_in(directory)
    assert [text for shard in shards for text in shard] == list(numbers)
    assert [len(shard) for shard in shards[:-1]] == [shard_rows] * (len(shards) - 1)

    index = load_file(directory / INDEX)
    assert index['rows'].tolist() == [numbers[text] for _, text in kept]
    assert index['positions'].tolist() == [position for position, _ in kept]
    by_hash = sorted((caption_hash(text), number) for text, number in numbers.items())
    assert list(zip(index['hashes'].tolist(), index['hash_rows'].tolist(), strict=True)) == by_hash


def test_many_captions_in_parts_of_the_usual_size(tmp_path):
    check_against_a_dictionary(tmp_path, [f'caption {i * i % 1009}' for i in range(3000)], shard_rows=200)


@pytest.fixture(scope='module')
def small_buckets():
    """So few records at once that a handful of captions is sorted in many parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, '_CHUNK', 3)
        patch.setattr(merging, '_BUCKET', 4)
        yield


WORDS = st.sampled_from(['a', 'b', 'c', 'ä', '', ' ', 'two\nlines', None, 7, b'\xff', Bad('torn')]) | st.integers(0, 40).map(str)


@settings(deadline=None, max_examples=40)
@given(values=st.lists(WORDS, min_size=1, max_size=60))
def test_equal_captions_become_one(small_buckets, tmp_path_factory, values):
    check_against_a_dictionary(tmp_path_factory.mktemp('scan'), ['one', *values])


def test_captions_with_half_a_digest_in_common_stay_two(tmp_path, monkeypatch, small_buckets):
    """The first half is what a caption is looked up by, not what decides that two are equal."""
    from classifier_free_guidance_pytorch.corpus.scan import first_pass as module

    monkeypatch.setattr(module, 'caption_digest', lambda text: bytes(8) + caption_digest(text)[8:])
    found = scan(Listed(['a', 'b', 'a', 'c']), tmp_path, 8)
    index = load_file(tmp_path / INDEX)
    assert found.unique == 3
    assert index['rows'].tolist() == [0, 1, 0, 2]
    assert index['hashes'].tolist() == [0, 0, 0]
    assert sorted(index['hash_rows'].tolist()) == [0, 1, 2]


def test_empty_captions_are_kept_if_wanted(tmp_path):
    found = scan(Listed(['', 'a', '', ' ']), tmp_path, 8, keep_empty=True)
    assert (found.captions, found.unique, found.skipped.counts) == (4, 3, {})
    assert shards_in(tmp_path) == [['', 'a', ' ']]


def test_a_caption_of_any_length_is_kept_whole(tmp_path):
    long = 'x' * 100_000
    scan(Listed([long, 'a', long]), tmp_path, 8)
    assert shards_in(tmp_path) == [[long, 'a']]


def test_what_was_skipped_is_counted_and_named():
    skipped = Skipped('line')
    for place in range(1, 2001):
        skipped.add('empty', place)
    skipped.add('not UTF-8', 2001)
    assert str(skipped) == '2,000 empty (line 1, 2, 3, 4, 5, ...); 1 not UTF-8 (line 2001)'


def test_an_input_without_a_single_caption(tmp_path):
    with pytest.raises(
        ConfigError, match=r'holds no caption that can be encoded, only 2 empty \(line 1, 3\); 1 missing \(line 2\)'
    ):
        scan(Listed(['', None, ' ']), tmp_path, 8)


def test_a_scan_that_did_not_end_leaves_nothing_in_the_next(tmp_path):
    """Not even shards beyond those of the next."""

    class Broken(Listed):
        def entries(self):
            yield from super().entries()
            raise OSError(28, 'No space left on device')

    scan(Listed([str(i) for i in range(9)]), tmp_path, 1)
    with pytest.raises(
        UsageError, match=r'reading the captions stopped \(.*No space left on device\); .* bytes free, and needs about'
    ):
        scan(Broken(['a']), tmp_path, 1)
    check_against_a_dictionary(tmp_path, ['a', 'b', 'a'])
