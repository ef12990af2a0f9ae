"""`embed_corpus`: what is in a finished store, who may write to a folder, and that nothing depends on how many wrote it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch

from classifier_free_guidance_pytorch.corpus import EmbeddingStore, TextEmbedder, embed_corpus
from classifier_free_guidance_pytorch.corpus.cluster.ranks import Rank, lock_folder, wait_for_plan
from classifier_free_guidance_pytorch.corpus.store.layout import captions_name, encodings_name
from classifier_free_guidance_pytorch.errors import ConfigError, StoreError, UsageError
from tests.tiny_models import CAPTIONS, TinyEncoder

TEXTS = [CAPTIONS[0], 'a', '', CAPTIONS[5], CAPTIONS[0], *CAPTIONS[7:20], 'a', f'{CAPTIONS[1]}, {CAPTIONS[2]}']


@pytest.fixture
def captions(tmp_path) -> Path:
    path = tmp_path / 'captions.txt'
    path.write_text('\n'.join(TEXTS), encoding='utf-8')
    return path


def embed(captions: Path, out: Path, embedder=None, **options):
    options = {'shard_rows': 4, 'quiet': True, **options}
    return embed_corpus(captions, out, embedder or TextEmbedder(TinyEncoder(), batch_size=3), **options)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its content."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def test_a_store_holds_what_the_encoder_makes_of_every_caption(captions, tmp_path):
    encoder = TinyEncoder()
    manifest = embed(captions, tmp_path / 'store', TextEmbedder(encoder, dtype='fp32'))
    kept = [text for text in TEXTS if text]
    assert (manifest.plan.captions, manifest.plan.unique) == (len(kept), len(set(kept)))
    assert manifest.plan.skipped == {'empty': 1}
    store = EmbeddingStore(tmp_path / 'store')
    assert len(store) == len(kept)
    for row, text in enumerate(kept):
        expected = encoder.encode([text])
        assert torch.equal(store[row].tokens, expected.tokens)
        assert torch.equal(store[row].pooled, expected.pooled)


def test_no_pickle_is_read(captions, tmp_path, monkeypatch):
    """Neither while a corpus is embedded, started or resumed, nor while a store is read."""
    import pickle

    import numpy as np

    def refuse(*args, **kwargs):
        raise AssertionError('a pickle')

    embedder = TextEmbedder('mini')
    embed(captions, tmp_path / 'first', embedder)  # libraries are imported, which derive classes from that of pickle
    for module, name in ((pickle, 'load'), (pickle, 'loads'), (pickle, 'Unpickler'), (torch, 'load'), (np, 'load')):
        monkeypatch.setattr(module, name, refuse)
    for _ in range(2):
        embed(captions, tmp_path / 'store', embedder)
    store = EmbeddingStore(tmp_path / 'store')
    store.verify()
    assert len(store[:]) == len(store)
    assert {path.suffix for path in (tmp_path / 'store').rglob('*') if path.is_file()} == {'.json', '.safetensors'}


def test_a_repeated_caption_is_encoded_once(captions, tmp_path):
    class Counting(TinyEncoder):
        encoded = 0

        def encode(self, texts):
            self.encoded += len(texts)
            return super().encode(texts)

    encoder = Counting()
    embed(captions, tmp_path / 'store', TextEmbedder(encoder))
    assert (
        encoder.encoded == len({text for text in TEXTS if text}) + 1
    )  # and one before the captions are read, to see that it works


def test_several_encoders_with_real_networks(captions, tmp_path, tiny_t5, tiny_clip):
    embedder = TextEmbedder(['t5', 'clip'], dtype='fp32', batch_size=4)
    embed(captions, tmp_path / 'store', embedder, keep_empty=True)
    store = EmbeddingStore(tmp_path / 'store')
    for row in (0, 2, 7, len(TEXTS) - 1):
        for encoder, stored in zip(embedder.encoders, store[row], strict=True):
            expected = encoder.encode([TEXTS[row]])
            torch.testing.assert_close(stored.tokens, expected.tokens, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(stored.pooled, expected.pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('count', [2, 3, 9])
def test_any_number_of_ranks_writes_the_same_files(captions, tmp_path, monkeypatch, count):
    embed(captions, tmp_path / 'one')
    monkeypatch.setenv('WORLD_SIZE', str(count))
    finished = []
    for rank in range(count):
        monkeypatch.setenv('RANK', str(rank))
        finished.append(embed(captions, tmp_path / 'many') is not None)
    last = min(count, 5)  # of five shards: ranks beyond them have nothing to do
    assert finished == [False] * (last - 1) + [True] * (count - last + 1)
    assert files_of(tmp_path / 'many') == files_of(tmp_path / 'one')


def test_a_rank_writes_its_shards_and_no_other(captions, tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    for rank in (0, 1):
        monkeypatch.setenv('RANK', str(rank))
        embed(captions, tmp_path / 'store', limit=16)
        if rank == 0:
            written = sorted(path.stem for path in (tmp_path / 'store' / 'encodings' / 'TinyEncoder').glob('*.safetensors'))
            assert written == ['00000', '00002']


def test_doing_it_again_does_nothing(captions, tmp_path):
    first = embed(captions, tmp_path / 'store')
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'store').rglob('*')}
    encoder = TinyEncoder()
    assert embed(captions, tmp_path / 'store', TextEmbedder(encoder, batch_size=3)) == first
    assert encoder.calls == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / 'store').rglob('*') if path.is_file()}.items() <= before.items()


@pytest.mark.parametrize(
    ('change', 'difference'),
    [
        ({'shard_rows': 5}, 'shard_rows: 5, there 4'),
        ({'limit': 9}, 'source.limit: 9, there None'),
        ({'keep_empty': True}, "source.empty: 'kept', there 'skipped'"),
        ({'embedder': TextEmbedder(TinyEncoder(), batch_size=4)}, 'batch_size: 4, there 3'),
        ({'embedder': TextEmbedder(TinyEncoder(), batch_size=3, dtype='fp16')}, "encoders.0.dtype: 'float16', there 'bfloat16'"),
        ({'embedder': TextEmbedder(TinyEncoder(), batch_size=3, tokens=False)}, 'encoders.0.tokens: False, there True'),
        ({'embedder': TextEmbedder(TinyEncoder(), batch_size=3, precision='bf16')}, "precision: 'bf16', there 'fp32'"),
    ],
)
def test_a_folder_that_holds_another_run(captions, tmp_path, change, difference):
    embed(captions, tmp_path / 'store')
    before = files_of(tmp_path / 'store')
    with pytest.raises(ConfigError) as caught:
        embed(captions, tmp_path / 'store', **change)
    message = str(caught.value)
    assert 'store holds a different run: ' in message
    assert difference in message
    assert message.endswith('Pass a different folder, or the arguments of that run')
    assert files_of(tmp_path / 'store') == before


def test_other_captions_are_another_run(captions, tmp_path):
    embed(captions, tmp_path / 'store')
    captions.write_text('\n'.join(TEXTS[::-1]), encoding='utf-8')
    with pytest.raises(ConfigError, match=r'store holds a different run: source.digest: '):
        embed(captions, tmp_path / 'store')


def test_a_folder_that_holds_something_else(captions, tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.tex').write_text('dear to me')
    with pytest.raises(ConfigError, match=r'mine is neither empty nor a store: it holds thesis.tex; pass a new or empty folder'):
        embed(captions, tmp_path / 'mine')
    assert files_of(tmp_path / 'mine') == {'thesis.tex': b'dear to me'}


def test_a_disk_that_cannot_be_written_to(captions, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    encoder = TinyEncoder()
    monkeypatch.setattr('tempfile.TemporaryFile', refuse)
    with pytest.raises(
        ConfigError, match=r'nothing can be written to .*store \(Read-only file system\): pass a folder on a disk'
    ):
        embed(captions, tmp_path / 'store', TextEmbedder(encoder))
    assert encoder.calls == 0


def test_a_disk_without_room_is_refused_before_anything_is_encoded(captions, tmp_path, monkeypatch):
    encoder = TinyEncoder()
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(1000, 900, 100))
    unique = len({text for text in TEXTS if text})
    with pytest.raises(ConfigError, match=rf'needs room for at least {unique * (12 + 8) * 2:,} bytes more, and its disk has 100'):
        embed(captions, tmp_path / 'store', TextEmbedder(encoder))
    assert encoder.calls == 1  # to see that it works


def test_a_resumed_run_needs_room_only_for_what_is_left(captions, tmp_path, monkeypatch):
    embed(captions, tmp_path / 'whole')
    with monkeypatch.context() as half:
        half.setenv('WORLD_SIZE', '2')  # rank 0 writes the shards 0, 2 and 4
        embed(captions, tmp_path / 'store')
    before = files_of(tmp_path / 'store')
    left = (4 + 4) * (12 + 8) * 2  # two shards of four captions
    with monkeypatch.context() as patch:
        patch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(1000, 1001 - left, left - 1))
        with pytest.raises(ConfigError, match=rf'needs room for at least {left} bytes more, and its disk has {left - 1}: '):
            embed(captions, tmp_path / 'store')
    assert files_of(tmp_path / 'store') == before
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(1000, 1000 - left, left))
    embed(captions, tmp_path / 'store')
    assert files_of(tmp_path / 'store') == files_of(tmp_path / 'whole')


def test_a_disk_that_fills_up_says_how_far_it_got_and_the_run_goes_on_later(captions, tmp_path, monkeypatch):
    embed(captions, tmp_path / 'whole')
    sync, room = os.fsync, [40]

    def fill(descriptor):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', fill)
        with pytest.raises(
            UsageError, match=r'\d of 5 files of this run were written, then the disk is full .* make room, and run'
        ):
            embed(captions, tmp_path / 'store')
    embed(captions, tmp_path / 'store')
    assert files_of(tmp_path / 'store') == files_of(tmp_path / 'whole')


def test_a_file_that_was_damaged_while_the_run_was_not_done(captions, tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    embed(captions, tmp_path / 'store')
    path = tmp_path / 'store' / captions_name(1)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    monkeypatch.setenv('RANK', '1')
    with pytest.raises(StoreError, match=r'captions.00001.safetensors is damaged: its content is not what was written'):
        embed(captions, tmp_path / 'store')
    path = tmp_path / 'store' / encodings_name('TinyEncoder', 0)
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setenv('RANK', '0')
    with pytest.raises(StoreError, match=r'encodings.TinyEncoder.00000.safetensors is truncated: it has'):
        embed(captions, tmp_path / 'store')


def test_two_runs_in_one_folder_at_once(captions, tmp_path):
    (tmp_path / 'store').mkdir()
    with lock_folder(tmp_path / 'store', Rank()), pytest.raises(UsageError, match=r'another run is using .*store: wait for it'):
        embed(captions, tmp_path / 'store')
    with lock_folder(tmp_path / 'store', Rank(0, 2)), lock_folder(tmp_path / 'store', Rank(1, 2)):
        pass


def test_two_launches_of_ranks_in_one_folder_at_once(captions, tmp_path, monkeypatch):
    """Ranks of one run share the folder, but there is one rank 0."""
    (tmp_path / 'store').mkdir()
    monkeypatch.setenv('WORLD_SIZE', '2')
    with lock_folder(tmp_path / 'store', Rank(0, 2)), pytest.raises(UsageError, match=r'another run is using .*store: wait'):
        embed(captions, tmp_path / 'store')
    for rank in (0, 1):  # what the first left there is no obstacle
        monkeypatch.setenv('RANK', str(rank))
        embed(captions, tmp_path / 'store')
    monkeypatch.undo()
    embed(captions, tmp_path / 'one')
    assert files_of(tmp_path / 'store') == files_of(tmp_path / 'one')


def test_a_rank_does_not_wait_for_ever(tmp_path):
    with pytest.raises(UsageError, match=r'rank 0 has not written a plan to .*, and has done nothing there for 0 seconds'):
        wait_for_plan(tmp_path, patience=0.01)
    (tmp_path / 'plan.json').write_text('{}')
    wait_for_plan(tmp_path, patience=0.01)


@pytest.mark.parametrize(('rank', 'count'), [('two', '2'), ('2', '2'), ('-1', '2'), ('0', '0')])
def test_an_environment_that_makes_no_sense(monkeypatch, rank, count):
    monkeypatch.setenv('RANK', rank)
    monkeypatch.setenv('WORLD_SIZE', count)
    with pytest.raises(ConfigError, match='RANK'):
        Rank.from_environment()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'shard_rows': 0}, 'shard_rows counts captions and is at least 1, but got 0'),
        ({'engine': 'spark'}, "engine is one of 'local', 'ray', but got 'spark'"),
        ({'ray_address': 'auto'}, "ray_address and workers are for engine='ray'"),
        ({'workers': 2}, "ray_address and workers are for engine='ray'"),
        ({'engine': 'ray', 'workers': 0}, 'workers counts processes and is at least 1, but got 0'),
    ],
)
def test_options_that_cannot_work(captions, tmp_path, options, message):
    with pytest.raises(ConfigError) as caught:
        embed(captions, tmp_path / 'store', **options)
    assert message in str(caught.value)
    assert not (tmp_path / 'store').exists()


def test_an_encoder_that_cannot_work_is_found_before_the_captions_are_read(captions, tmp_path):
    class Broken(TinyEncoder):
        def encode(self, texts):
            raise RuntimeError('no weights')

    with pytest.raises(RuntimeError, match='no weights'):
        embed(captions, tmp_path / 'store', TextEmbedder(Broken()))
    assert files_of(tmp_path / 'store') == {}


def test_ray_and_ranks_exclude_each_other(captions, tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(ConfigError, match="engine='ray' starts its own processes, but this is one of 2 ranks"):
        embed(captions, tmp_path / 'store', engine='ray')


def test_ranks_share_everything_and_nothing_twice():
    shards = [shard for rank in range(3) for shard in Rank(rank, 3).share(range(10))]
    assert sorted(shards) == list(range(10))
    assert [Rank(rank, 3).is_leader for rank in range(3)] == [True, False, False]
