"""Disks without locks or renames, workers that die, and two versions of the library at one store."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from classifier_free_guidance_pytorch.corpus import EmbeddingStore, TextEmbedder, embed_corpus
from classifier_free_guidance_pytorch.corpus import run as run_module
from classifier_free_guidance_pytorch.corpus.cluster import ranks, ray_engine
from classifier_free_guidance_pytorch.corpus.cluster.disk import check_renames
from classifier_free_guidance_pytorch.corpus.cluster.ranks import Rank, lock_folder
from classifier_free_guidance_pytorch.corpus.store.layout import encodings_name
from classifier_free_guidance_pytorch.corpus.store.manifest import Manifest, Plan
from classifier_free_guidance_pytorch.errors import ConfigError, StoreError, UsageError
from tests.tiny_models import TinyEncoder

TEXTS = ['a dog', 'a red ball', 'two blue squares', 'a tiny circle', 'one']


@pytest.fixture
def captions(tmp_path) -> Path:
    path = tmp_path / 'captions.txt'
    path.write_text('\n'.join(TEXTS))
    return path


def embed(captions, out, **options):
    return embed_corpus(captions, out, TextEmbedder(TinyEncoder(), dtype='fp32'), shard_rows=2, quiet=True, **options)


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


# locks


@pytest.mark.parametrize('rank', [Rank(), Rank(0, 2), Rank(1, 2)])
def test_locks_that_are_kept_are_not_mentioned(tmp_path, rank):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with lock_folder(tmp_path, rank):
            pass


@pytest.mark.parametrize('error', [errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, None])
def test_a_disk_that_keeps_no_locks_is_named(captions, tmp_path, monkeypatch, error):
    """NFS refuses to lock a folder that is open for reading (EBADF); other disks say yes to everybody."""
    import fcntl

    def lock(descriptor, how):
        if error is not None:
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, 'flock', lock)
    with pytest.warns(
        UserWarning, match=r'the disk of .*store keeps no locks, .* a second run in this folder would not be noticed'
    ):
        embed(captions, tmp_path / 'store')
    assert len(EmbeddingStore(tmp_path / 'store')) == 5


def test_a_system_without_locks_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, '_lock', lambda descriptor, exclusive, wait: True)
    with pytest.warns(UserWarning, match='keeps no locks'), lock_folder(tmp_path, Rank()):
        pass


# renames


def test_a_disk_that_renames_in_one_step(captions, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        check_renames(tmp_path / 'tried', tmp_path)
        embed(captions, tmp_path / 'store')
    assert not any((tmp_path / 'tried').iterdir())


def test_a_disk_that_copies_is_named(captions, tmp_path, monkeypatch):
    def copied(source, target):
        target.unlink(missing_ok=True)
        shutil.copyfile(source, target.with_name('copy'))  # under a number of its own, which the file that is gone had not
        shutil.copyfile(source, target)
        target.with_name('copy').unlink()
        Path(source).unlink()

    monkeypatch.setattr(os, 'replace', copied)
    with pytest.warns(UserWarning, match=r'the disk of .*store copies a file to rename it, .* a part of a file'):
        embed(captions, tmp_path / 'store')
    EmbeddingStore(tmp_path / 'store').verify()


def refuse(source, target):
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


@pytest.mark.parametrize(
    ('rename', 'sentence'),
    [
        (refuse, r'files cannot be renamed on the disk of .*store \(Invalid cross-device link\)'),
        (lambda source, target: None, r'the disk of .*store does not replace a file by another that is renamed'),
        (lambda source, target: shutil.copyfile(source, target), 'does not replace a file'),
        (lambda source, target: (target.write_bytes(b'n'), Path(source).unlink()), 'does not replace a file'),
    ],
)
def test_a_disk_that_cannot_rename_is_refused_before_anything_is_read(captions, tmp_path, monkeypatch, rename, sentence):
    monkeypatch.setattr(os, 'replace', rename)
    monkeypatch.setattr(run_module, 'scan', lambda *_: pytest.fail('the captions were read'))
    with pytest.raises(ConfigError, match=sentence):
        embed(captions, tmp_path / 'store')
    monkeypatch.undo()
    embed(captions, tmp_path / 'store')  # what was tried leaves nothing behind that is in the way


# versions


def test_two_versions_of_the_library_do_not_share_a_store(captions, tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert embed(captions, tmp_path / 'store') is None
    ours = run_module.__version__
    assert Plan.read(tmp_path / 'store').library == ours
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setattr(run_module, '__version__', '99.0')
    with pytest.raises(ConfigError, match=rf'store was begun by version {ours} of this library, and this is 99\.0: a store has'):
        embed(captions, tmp_path / 'store')
    assert not (tmp_path / 'store' / encodings_name('TinyEncoder', 1)).exists()
    monkeypatch.setattr(run_module, '__version__', ours)
    embed(captions, tmp_path / 'store')
    monkeypatch.undo()
    embed(captions, tmp_path / 'one')
    assert files_of(tmp_path / 'store') == files_of(tmp_path / 'one')


def test_a_finished_store_is_complete_for_every_version_and_repaired_by_its_own(captions, tmp_path, monkeypatch):
    manifest = embed(captions, tmp_path / 'store')
    monkeypatch.setattr(run_module, '__version__', '99.0')
    assert embed(captions, tmp_path / 'store') == manifest
    assert len(EmbeddingStore(tmp_path / 'store')) == 5
    (tmp_path / 'store' / encodings_name('TinyEncoder', 1)).unlink()
    with pytest.raises(ConfigError, match='was begun by version'):
        embed(captions, tmp_path / 'store')


def test_a_plan_that_states_no_version_is_gone_on_with(captions, tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    embed(captions, tmp_path / 'store')
    replace(Plan.read(tmp_path / 'store'), library='').write(tmp_path / 'store')
    monkeypatch.setenv('RANK', '1')
    assert isinstance(embed(captions, tmp_path / 'store'), Manifest)


# workers of Ray


class Dying(TinyEncoder):
    """Kills the process that it runs in, as the system does where memory is out: once, or every time."""

    def __init__(self, marker, once):
        super().__init__()
        self.marker, self.once, self.home = marker, once, os.getpid()

    def encode(self, texts):
        if os.getpid() != self.home and not (self.once and self.marker.exists()):
            self.marker.write_text('died')
            os.kill(os.getpid(), 9)
        return super().encode(texts)


class Works:
    """Of `ray` as much as a run sees of it, with one actor, in this process."""

    def __init__(self):
        self.exceptions = pytest.importorskip('ray').exceptions
        self.data = self.DataContext = self

    def is_initialized(self):
        return True

    def get_current(self):
        return self

    def cluster_resources(self):
        return {'CPU': 1}

    def from_items(self, items, override_num_blocks):
        self.items = items
        return self

    def ActorPoolStrategy(self, size):  # noqa: N802
        return size

    def map_batches(self, writer, fn_constructor_kwargs, **options):
        self.writer = writer(**fn_constructor_kwargs)
        return self

    def iter_rows(self):
        for item in self.items:
            columns = self.writer({name: [value] for name, value in item.items()})
            yield {name: value for name, (value,) in columns.items()}


class Failing(TinyEncoder):
    """Raises an error of the library at the second call: the first is the trial before a run."""

    def __init__(self, error):
        super().__init__()
        self.error, self.calls = error, 0

    def encode(self, texts):
        self.calls += 1
        if self.calls > 1:
            raise self.error
        return super().encode(texts)


@pytest.mark.parametrize('error', [UsageError('a feature: is not finite'), ConfigError('no such thing'), StoreError('damaged')])
def test_an_error_in_an_actor_is_that_of_the_run(captions, tmp_path, monkeypatch, error):
    ray = Works()
    monkeypatch.setattr(ray_engine, '_import_ray', lambda: ray)
    with pytest.raises(type(error)) as caught:
        embed_corpus(
            captions, tmp_path / 'store', TextEmbedder(Failing(error), dtype='fp32'), shard_rows=2, quiet=True, engine='ray'
        )
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)


def test_what_actors_write_is_what_one_process_writes(captions, tmp_path, monkeypatch):
    ray = Works()
    monkeypatch.setattr(ray_engine, '_import_ray', lambda: ray)
    embed(captions, tmp_path / 'ray', engine='ray')
    embed(captions, tmp_path / 'one')
    assert files_of(tmp_path / 'ray') == files_of(tmp_path / 'one')


class Dies(Works):
    """Where Ray itself gives up an actor."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def iter_rows(self):
        raise self.error
        yield


def test_an_actor_that_ray_gives_up_ends_the_run_in_words(captions, tmp_path, monkeypatch):
    exceptions = pytest.importorskip('ray.exceptions')
    for error in (exceptions.ActorDiedError(), exceptions.OutOfMemoryError('too much'), exceptions.WorkerCrashedError()):
        ray = Dies(error)
        monkeypatch.setattr(ray_engine, '_import_ray', lambda ray=ray: ray)
        sentence = rf'a worker of Ray died \({type(error).__name__}: .*pass fewer workers .* the same command goes on from there'
        with pytest.raises(UsageError, match=sentence):
            embed(captions, tmp_path / 'store', engine='ray')
    embed(captions, tmp_path / 'store')
    assert len(EmbeddingStore(tmp_path / 'store')) == 5


@pytest.mark.skipif(not os.environ.get('CFG_RAY'), reason='a cluster of Ray whose actors die: CFG_RAY=1 runs it')
@pytest.mark.timeout(900)
def test_actors_that_die_once_and_again_and_again(captions, tmp_path, monkeypatch):
    """The one is replaced; the other ends the run, which goes on where it was when the cause is gone."""
    ray = pytest.importorskip('ray')
    monkeypatch.setenv('RAY_raylet_start_wait_time_s', '280')
    monkeypatch.setenv('RAY_USAGE_STATS_ENABLED', '0')
    embed(captions, tmp_path / 'one')
    expected = EmbeddingStore(tmp_path / 'one')[:].tokens
    ray.init('local', num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level='ERROR')
    try:
        once, always = (TextEmbedder(Dying(tmp_path / f'died-{once}', once=once), dtype='fp32') for once in (True, False))
        embed_corpus(captions, tmp_path / 'once', once, shard_rows=2, quiet=True, engine='ray')
        with pytest.raises(  # the shards that wait for an actor are begun in any order when it dies
            UsageError, match=r'workers of Ray died 4 times while they encoded shard \d\. The machine may lack memory'
        ):
            embed_corpus(captions, tmp_path / 'always', always, shard_rows=2, quiet=True, engine='ray')
    finally:
        ray.shutdown()
    assert (tmp_path / 'died-True').exists()
    assert torch.equal(EmbeddingStore(tmp_path / 'once')[:].tokens, expected)
    embed_corpus(captions, tmp_path / 'always', always, shard_rows=2, quiet=True)  # in this process it lives
    assert torch.equal(EmbeddingStore(tmp_path / 'always')[:].tokens, expected)
