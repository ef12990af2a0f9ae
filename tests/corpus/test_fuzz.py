"""Stores that something happened to: what is read is exactly right, or an error names the file.

Hypothesis flips bytes, cuts files short, lengthens, swaps, replaces and removes them, edits JSON and seals it again; before a
store is opened, or between its opening and the first touch of a file.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from classifier_free_guidance_pytorch.corpus import EmbeddingStore
from classifier_free_guidance_pytorch.corpus.store import layout, manifest, shards
from classifier_free_guidance_pytorch.corpus.store.files import read_json, write_json
from classifier_free_guidance_pytorch.errors import CFGError, StoreError
from tests.corpus.stores import CAPTIONS, tiny_encoder, write_store

MANY = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    """A store, what is read from it, and a store of other features with files of the same names and sizes."""
    home = tmp_path_factory.mktemp('sound')
    encoders = {'one': tiny_encoder('tiny/one'), 'two': tiny_encoder('tiny/two', dim_latent=4, dim_pooled=4)}
    write_store(home / 'store', encoders=encoders, dtype='float16')
    # other words of the same lengths: every file of this store has the size of its namesake
    write_store(home / 'other', [caption.swapcase() for caption in CAPTIONS], encoders, dtype='float16')
    return home / 'store', home / 'other', everything(EmbeddingStore(home / 'store'))


def everything(store):
    """All that can be read from a store, one after the other."""
    read = []
    for place in range(len(store)):
        caption = store.captions[place]
        read += [caption, store.input_position(place), *store[place], *store[caption]]
    read += [caption in store for caption in ('a cat', 'A DOG')]
    return read


def same(left, right):
    if len(left) != len(right):
        return False
    for one, other in zip(left, right, strict=True):
        if hasattr(one, 'tokens') and hasattr(other, 'tokens'):
            tensors = [(getattr(one, name), getattr(other, name)) for name in ('tokens', 'mask', 'pooled')]
            if not all(a.dtype == b.dtype and torch.equal(a, b) for a, b in tensors) or one.origin != other.origin:
                return False
        elif one != other:
            return False
    return True


def files_of(directory):
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob('*') if path.is_file())


def right_or_named(sound, harm, touched_first=False):
    """Harm a copy of the store; then all of it reads as ever, or an error names the file that was harmed."""
    directory, _, expected = sound
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, 'store')
        shutil.copytree(directory, copy)
        before = {name: (copy / name).read_bytes() for name in files_of(copy)}
        store = EmbeddingStore(copy) if touched_first else None
        harmed = harm(copy)
        after = {name: (copy / name).read_bytes() for name in files_of(copy)}
        try:
            found = everything(store or EmbeddingStore(copy))
        except CFGError as error:
            check_named(error, harmed)
            assert before != after
        else:
            assert same(found, expected)
        if before != after:
            check_verify(copy, harmed)


def check_named(error, harmed):
    assert isinstance(error, StoreError)
    assert any(name in str(error) for name in harmed), (harmed, str(error))


def check_verify(copy, harmed):
    """Whatever differs from what was written, `verify` finds; JSON may be laid out otherwise, but not say anything else."""
    try:
        EmbeddingStore(copy).verify()
    except StoreError as error:
        check_named(error, harmed)
    else:
        assert all(name.endswith('.json') for name in harmed)


def pick(data, directory, json_too=True):
    return data.draw(st.sampled_from([name for name in files_of(directory) if json_too or not name.endswith('.json')]))


@MANY
@given(st.data())
def test_bytes_that_change(sound, data):
    def harm(copy):
        name = pick(data, copy)
        content = bytearray((copy / name).read_bytes())
        # as likely in the header and the tables as in the data behind them
        last = len(content) - 1
        places = data.draw(st.lists(st.integers(0, last) | st.integers(0, min(last, 300)), min_size=1, max_size=3))
        for place in places:
            content[place] ^= data.draw(st.integers(1, 255))
        (copy / name).write_bytes(content)
        return [name]

    right_or_named(sound, harm, touched_first=data.draw(st.booleans()))


@MANY
@given(st.data())
def test_files_that_are_cut_short_or_grow(sound, data):
    def harm(copy):
        name = pick(data, copy)
        size = (copy / name).stat().st_size
        os.truncate(copy / name, data.draw(st.integers(0, size - 1) | st.integers(size + 1, size + 100)))
        return [name]

    right_or_named(sound, harm, touched_first=data.draw(st.booleans()))


@MANY
@given(st.data())
def test_stretches_that_are_zeroed_or_moved(sound, data):
    """What a lost page or a misdirected write leaves: the size is right."""

    def harm(copy):
        name = pick(data, copy, json_too=False)
        content = bytearray((copy / name).read_bytes())
        start, source = (data.draw(st.integers(0, len(content) - 1)) for _ in range(2))
        stretch = bytes(64) if data.draw(st.booleans()) else content[source : source + 64]
        stretch = stretch[: len(content) - start]
        content[start : start + len(stretch)] = stretch
        (copy / name).write_bytes(content)
        return [name]

    right_or_named(sound, harm, touched_first=data.draw(st.booleans()))


@MANY
@given(st.data())
def test_files_that_are_swapped_replaced_or_gone(sound, data):
    _, other, _ = sound

    def harm(copy):
        how = data.draw(st.sampled_from(['swap', 'replace', 'copy', 'remove']))
        one, two = (pick(data, copy) for _ in range(2))
        if how == 'swap':
            first, second = (copy / one).read_bytes(), (copy / two).read_bytes()
            (copy / one).write_bytes(second)
            (copy / two).write_bytes(first)
            return [one, two]
        if how == 'replace':
            shutil.copy(other / one, copy / one)
        elif how == 'copy' and one != two:
            shutil.copy(copy / two, copy / one)
        elif how == 'remove':
            (copy / one).unlink()
        # what is beside a lost manifest is an unfinished store, or none
        return [one, 'is unfinished', 'is not a store'] if one == 'manifest.json' else [one]

    right_or_named(sound, harm, touched_first=data.draw(st.booleans()))


def leaves(value, path=()):
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))
    else:
        yield path


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 10**4)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.just([])
)


@MANY
@given(st.data())
def test_manifests_that_are_edited(sound, data):
    """Any value of the manifest becomes another. Without a new seal it is refused; with one, it never makes data wrong."""
    seal = data.draw(st.booleans())

    def harm(copy):
        path = copy / 'manifest.json'
        content = read_json(path) if seal else json.loads(path.read_text())
        *parents, last = data.draw(st.sampled_from(list(leaves(content))))
        holder = content
        for key in parents:
            holder = holder[key]
        holder[last] = data.draw(VALUES)
        if seal:
            write_json(path, content)
        else:
            path.write_text(json.dumps(content))
        # a sealed manifest that asks for other files than there are is told apart from damage by no one
        return ['manifest.json', *(files_of(copy) if seal else ())]

    directory, _, expected = sound
    if not seal:
        right_or_named(sound, harm)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, 'store')
        shutil.copytree(directory, copy)
        harm(copy)
        try:
            found = everything(EmbeddingStore(copy))
        except CFGError as error:
            check_named(error, [str(copy)])
        else:  # only what describes the store may have changed: who made it, of what
            assert [a for a in found if isinstance(a, str | int)] == [a for a in expected if isinstance(a, str | int)]
            pairs = [(a, b) for a, b in zip(found, expected, strict=True) if hasattr(a, 'tokens')]
            assert all(torch.equal(a.tokens, b.tokens) and torch.equal(a.pooled, b.pooled) for a, b in pairs)


def test_a_foreign_shard_is_told_from_one_in_the_wrong_place(sound, tmp_path):
    directory, other, _ = sound
    shutil.copytree(directory, tmp_path / 'store')
    shutil.copy(other / 'encodings/one/00000.safetensors', tmp_path / 'store/encodings/one')
    with pytest.raises(
        StoreError, match=r'one/00000.safetensors is damaged, or was written by a different run: its header and tables'
    ):
        EmbeddingStore(tmp_path / 'store')[0]
    write_store(tmp_path / 'even', ['a b', 'c d', 'e f', 'g h'])
    one, two = (tmp_path / 'even' / layout.encodings_name('tiny', shard) for shard in (0, 1))
    shutil.copy(two, one)
    with pytest.raises(
        StoreError, match=r'tiny/00000.safetensors holds what belongs into encodings/tiny/00001.safetensors: files'
    ):
        EmbeddingStore(tmp_path / 'even')[0]


def test_verify_names_every_file(sound, tmp_path):
    shutil.copytree(sound[0], tmp_path / 'store')
    store = EmbeddingStore(tmp_path / 'store')
    store.verify(progress=True)
    for name in ('captions/00001.safetensors', 'encodings/two/00000.safetensors'):
        content = bytearray((tmp_path / 'store' / name).read_bytes())
        content[-1] ^= 1
        (tmp_path / 'store' / name).write_bytes(content)
    plan = manifest.Plan.read(tmp_path / 'store')
    write_json(layout.plan_path(tmp_path / 'store'), {**read_json(layout.plan_path(tmp_path / 'store')), 'batch_size': 9})
    assert plan != manifest.Plan.read(tmp_path / 'store')
    with pytest.raises(StoreError) as error:
        store.verify()
    lines = str(error.value).splitlines()
    assert lines[0] == '3 of 11 files are not as they were written:'
    assert 'plan.json is of a different run than the manifest: batch_size: 9, there 8' in lines[1]
    assert 'captions/00001.safetensors is damaged: its data do not match its sha256' in lines[3]
    assert 'encodings/two/00000.safetensors is damaged' in lines[2]


def test_rows_are_checked_unless_check_rows_is_false(sound, tmp_path):
    """The check is what finds the damage: without it, the wrong value is read."""
    shutil.copytree(sound[0], tmp_path / 'store')
    path = tmp_path / 'store' / 'encodings/one/00000.safetensors'
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"00000.safetensors is damaged: block 1 of '\w+' does not match its checksum; restore"):
        EmbeddingStore(tmp_path / 'store')[:]
    EmbeddingStore(tmp_path / 'store', check_rows=False)[:]


def read_index(store):
    for place in range(0, len(store), shards.BLOCK // 2):
        assert store.captions[place] == str(place)
        assert store.input_position(place) == place
        assert str(place) in store
    assert all(str(place) in store for place in range(len(store)))


def test_the_blocks_of_the_index_are_checked(tmp_path):
    captions = [str(number) for number in range(3 * shards.BLOCK)]
    write_store(tmp_path, captions, tokens=False, shard_rows=10_000)
    path = tmp_path / 'index.safetensors'
    content = path.read_bytes()
    places = range(len(content) - 8, 8, -9000)  # the data of every column, its checks, and the header
    for place in places:
        path.write_bytes(content[:place] + bytes(byte ^ 1 for byte in content[place : place + 8]) + content[place + 8 :])
        with pytest.raises(StoreError, match=r'index.safetensors is damaged'):
            read_index(EmbeddingStore(tmp_path))
