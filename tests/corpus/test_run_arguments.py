"""Arguments of `embed_corpus` at their limits, and who reads what."""

import pytest

from classifier_free_guidance_pytorch.corpus import EmbeddingStore, TextEmbedder
from classifier_free_guidance_pytorch.corpus.store.files import read_json, write_json
from classifier_free_guidance_pytorch.errors import ConfigError, StoreError
from tests.corpus.test_run import TEXTS, embed
from tests.tiny_models import TinyEncoder


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / 'captions.txt'
    path.write_text('\n'.join(TEXTS), encoding='utf-8')
    return path


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        ({'shard_rows': 0}, 'shard_rows counts captions and is at least 1, but got 0'),
        ({'shard_rows': -(10**30)}, 'shard_rows counts captions and is at least 1'),
        ({'device': 'cuda:99'}, "device='cuda:99' cannot be used on this machine"),
        ({'device': 'meta'}, "device='meta' cannot be used on this machine"),
        ({'device': 'hpu'}, "device='hpu' cannot be used on this machine"),
        ({'device': 'privateuseone'}, "device='privateuseone' cannot be used on this machine"),
        ({'out': ''}, "out is the folder of the store, but got the name ''"),
    ],
)
def test_arguments_that_cannot_work_are_refused_before_anything_is_read(tmp_path, monkeypatch, options, sentence):
    def refuse(*args, **kwargs):
        raise AssertionError('read')

    monkeypatch.setattr('classifier_free_guidance_pytorch.corpus.run.open_source', refuse)
    encoder = TinyEncoder()
    embedder = TextEmbedder(encoder, device=options.pop('device', None))
    with pytest.raises(ConfigError, match=sentence):
        embed(tmp_path / 'captions.txt', options.pop('out', tmp_path / 'store'), embedder, **options)
    assert encoder.calls == 0
    assert not (tmp_path / 'store').exists()


def test_numbers_larger_than_any_corpus(captions, tmp_path):
    embedder = TextEmbedder(TinyEncoder(), batch_size=10**30)
    manifest = embed(captions, tmp_path / 'store', embedder, shard_rows=10**30, limit=10**30)
    assert manifest.plan.captions == len([text for text in TEXTS if text])
    EmbeddingStore(tmp_path / 'store')[:]


def test_a_rank_that_does_not_lead_leaves_the_input_alone(captions, tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '0')
    embed(captions, tmp_path / 'store')
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setattr('classifier_free_guidance_pytorch.corpus.read.formats.read_bytes', None)
    monkeypatch.setattr('classifier_free_guidance_pytorch.corpus.read.sources.digest_of', None)
    assert embed(captions, tmp_path / 'store') is not None


def test_a_plan_of_more_shards_than_there_are_is_not_resumed(captions, tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '0')
    embed(captions, tmp_path / 'store', shard_rows=1)  # unfinished
    path = tmp_path / 'store' / 'plan.json'
    write_json(path, {**read_json(path), 'unique': 10**12, 'captions': 10**12})
    with pytest.raises(StoreError, match=r'999999999999.safetensors is missing or cannot be read: restore it, or embed'):
        embed(captions, tmp_path / 'store', shard_rows=1)
