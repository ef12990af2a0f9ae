"""A finished store that lost files: encodings are made again, with the same bytes, and nothing else is called complete."""

from __future__ import annotations

import pytest

from classifier_free_guidance_pytorch.corpus import EmbeddingStore, TextEmbedder
from classifier_free_guidance_pytorch.corpus.store.layout import encodings_name
from classifier_free_guidance_pytorch.errors import StoreError, UsageError
from tests.corpus.test_run import TEXTS, embed, files_of
from tests.tiny_models import TinyEncoder


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / 'captions.txt'
    path.write_text('\n'.join(TEXTS), encoding='utf-8')
    return path


def test_files_of_a_finished_store_that_are_gone_are_made_again(captions, tmp_path, monkeypatch):
    """As the error about a damaged one says; nothing else is encoded, and the bytes are the same."""
    embed(captions, tmp_path / 'store')
    before = files_of(tmp_path / 'store')
    path = tmp_path / 'store' / encodings_name('TinyEncoder', 1)
    path.write_bytes(path.read_bytes()[:-1] + b'?')
    with pytest.raises(StoreError, match=r'is damaged: .*; restore it, or remove it and run the command that wrote the store'):
        EmbeddingStore(tmp_path / 'store').verify()
    path.unlink()
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(UsageError, match=r'1 of its files are now missing, first encodings/TinyEncoder/00001.* without torchrun'):
        embed(captions, tmp_path / 'store')
    monkeypatch.delenv('WORLD_SIZE')
    encoder = TinyEncoder()
    embed(captions, tmp_path / 'store', TextEmbedder(encoder, batch_size=3))
    assert encoder.calls == 2  # of a shard of four captions
    assert files_of(tmp_path / 'store') == before
    EmbeddingStore(tmp_path / 'store').verify()


@pytest.mark.parametrize('kill', ['writing records', 'removing the manifest'])
def test_a_repair_that_is_killed(captions, tmp_path, monkeypatch, kill):
    embed(captions, tmp_path / 'store')
    before = files_of(tmp_path / 'store')
    (tmp_path / 'store' / encodings_name('TinyEncoder', 1)).unlink()

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        where = 'cluster.repair.manifest_path' if kill == 'writing records' else 'encode.job.Job.encode'
        patch.setattr(f'classifier_free_guidance_pytorch.corpus.{where}', killed)
        with pytest.raises(KeyboardInterrupt):
            embed(captions, tmp_path / 'store')
    embed(captions, tmp_path / 'store')
    assert files_of(tmp_path / 'store') == before


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('captions/00001.safetensors', r'captions.00001.safetensors is missing .*: restore it, or embed the corpus into a'),
        ('index.safetensors', r'index.safetensors is missing .*: restore it, or embed the corpus into a different folder'),
    ],
)
def test_files_of_a_finished_store_that_nothing_makes_again(captions, tmp_path, name, message):
    embed(captions, tmp_path / 'store')
    (tmp_path / 'store' / name).unlink()
    with pytest.raises(StoreError, match=message):
        embed(captions, tmp_path / 'store')


def test_a_finished_store_with_a_file_that_was_cut_is_not_called_complete(captions, tmp_path):
    embed(captions, tmp_path / 'store')
    path = tmp_path / 'store' / encodings_name('TinyEncoder', 1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r'00001.safetensors is truncated: it has .* were written; restore it, or remove it'):
        embed(captions, tmp_path / 'store')
