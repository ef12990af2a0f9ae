"""The plan, the manifest, and the records of the files of an unfinished store."""

import os
from dataclasses import asdict, replace

import pytest
import torch

from classifier_free_guidance_pytorch.corpus.store import layout, shards
from classifier_free_guidance_pytorch.corpus.store.files import read_json, write_json
from classifier_free_guidance_pytorch.corpus.store.layout import read_record, write_record
from classifier_free_guidance_pytorch.corpus.store.manifest import EncoderRecord, Manifest, Plan, finish, names
from classifier_free_guidance_pytorch.errors import ConfigError, StoreError
from classifier_free_guidance_pytorch.text import EncoderIdentity
from tests.corpus.stores import CAPTIONS, tiny_encoder, write_store


def record(**changes):
    return EncoderRecord.of(tiny_encoder(), **{'label': 'tiny', 'dtype': 'float32', **changes})


def plan(**changes):
    given = {
        'source': {'path': 'a'},
        'encoders': (record(),),
        'shard_rows': 2,
        'captions': 7,
        'unique': 5,
        'skipped': {'empty': 1},
    }
    return Plan(**{**given, 'batch_size': 8, **changes})


def all_files(directory):
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob('*') if path.is_file()}


def test_a_plan_comes_back(tmp_path):
    plan().write(tmp_path)
    assert Plan.read(tmp_path) == plan()
    assert (plan().shards, [plan().rows_of(shard) for shard in range(3)]) == (3, [2, 2, 1])


def test_an_encoder_says_who_it_is(hub):
    from classifier_free_guidance_pytorch import HFTextAdapter, T5Adapter

    hub.t5(), hub.decoder()
    t5 = EncoderRecord.of(T5Adapter(), 't5', 'bfloat16', pooled=False)
    assert (t5.type, t5.name, t5.revision) == ('T5Adapter', 'google/t5-v1_1-base', '0' * 40)
    assert t5.settings == {}  # as in stores of 1.0
    assert (t5.pooled, t5.tokens, t5.dim_tokens) == (False, True, T5Adapter().dim_latent)
    last = EncoderRecord.of(HFTextAdapter('tiny/decoder', pooling='last'), 'hf', 'float16')
    assert last.settings == {'layer': -1, 'pooling': 'last'}
    assert not last.identity.matches(HFTextAdapter('tiny/decoder').identity)
    assert last.identity.matches(replace(HFTextAdapter('tiny/decoder', pooling='last').identity, revision=None))
    assert str(last.identity) == f"HFTextAdapter 'tiny/decoder' (revision {'0' * 40!r}, layer -1, pooling 'last')"


def test_the_shipped_encoder_states_its_weights():
    from classifier_free_guidance_pytorch.text.mini import MiniAdapter

    identity = MiniAdapter().identity
    assert identity.matches(MiniAdapter().identity)
    assert len(identity.revision) == 16
    assert not identity.matches(replace(identity, revision='0' * 16))


def test_objects_are_known_by_class_and_name():
    assert record().identity == EncoderIdentity('TinyEncoder', 'tiny/one')
    assert str(EncoderIdentity('TinyEncoder')) == 'TinyEncoder'


@pytest.mark.parametrize('label', ['', '.', '..', 'a/b', 'a\\b', '-a', 'ä', 'a b', 'x' * 101, 'a\n'])
def test_labels_are_plain_folder_names(label):
    with pytest.raises(ConfigError, match=r'the label of an encoder names its folder: letters, digits and "._\+-", starting'):
        record(label=label)


def test_encoders_that_cannot_be_stored():
    with pytest.raises(ConfigError, match="encodings are stored as float32, bfloat16, float16, but got dtype 'float64'"):
        record(dtype='float64')
    with pytest.raises(ConfigError, match="of encoder 'tiny' nothing would be stored: choose pooled features, tokens or both"):
        record(pooled=False, tokens=False)


def test_plans_that_cannot_work():
    with pytest.raises(ConfigError, match=r"one encoder or more, each with a label of its own, but got \['tiny', 'Tiny'\]"):
        plan(encoders=(record(), record(label='Tiny')))
    with pytest.raises(ConfigError, match=r'a label of its own, but got \[\]'):
        plan(encoders=())
    for changes in ({'shard_rows': 0}, {'batch_size': 0}, {'unique': 0}, {'unique': 8}):
        with pytest.raises(ConfigError, match='a store holds at least one caption and one per shard and batch, but got'):
            plan(**changes)


def test_differences_are_named():
    assert plan().differences(plan()) == []
    other = plan(source={'path': 'b'}, encoders=(record(dtype='float16'),), skipped={})
    assert plan().differences(other) == [
        "encoders.0.dtype: 'float32', there 'float16'",
        'skipped.empty: 1, there None',
        "source.path: 'a', there 'b'",
    ]
    assert len(plan().differences(plan(encoders=(record(), record(label='two'))))) > 5


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'version': 2}, 'plan.json is of format version 2, and this release reads version 1'),
        ({'version': None}, 'plan.json is of format version None'),
        ({'shard_rows': 0}, r'plan.json is not a plan of a store \(a store holds at least one caption'),
        ({'encoders': 3}, 'plan.json is not a plan of a store'),
        ({'encoders': [{'label': 'a'}]}, 'plan.json is not a plan of a store'),
        ({'unknown': 3}, 'plan.json is not a plan of a store'),
        ({'unique': 'many'}, 'plan.json is not a plan of a store'),
        ({'unique': 2.5}, 'plan.json is not a plan of a store'),
        ({'shard_rows': True}, 'plan.json is not a plan of a store'),
    ],
)
def test_plans_that_cannot_be_read(tmp_path, change, message):
    write_json(tmp_path / 'plan.json', {**asdict(plan()), **change})
    with pytest.raises(StoreError, match=message):
        Plan.read(tmp_path)


def test_a_finished_store(tmp_path):
    written = write_store(tmp_path)
    assert Manifest.read(tmp_path) == written
    assert set(all_files(tmp_path)) == {'plan.json', 'manifest.json', *names(written.plan)}
    assert {name: len(content) for name, content in all_files(tmp_path).items() if 'json' not in name} == {
        name: record.bytes for name, record in written.files.items()
    }


def test_finishing_again_ends_the_same(tmp_path):
    """A run that was killed between the manifest and the removal of the records, and one that was killed after it."""
    written = write_store(tmp_path)
    before = all_files(tmp_path)
    assert finish(tmp_path, written.plan) == written
    name = layout.captions_name(1)
    write_record(tmp_path, name, written.files[name])
    assert finish(tmp_path, written.plan) == written
    assert all_files(tmp_path) == before


def test_stores_of_the_same_captions_are_equal(tmp_path):
    write_store(tmp_path / 'one')
    write_store(tmp_path / 'two')
    assert all_files(tmp_path / 'one') == all_files(tmp_path / 'two')


def test_an_unfinished_store_is_not_finished(tmp_path):
    plan().write(tmp_path)
    shards.write_captions(tmp_path, 0, CAPTIONS[:2])
    with pytest.raises(StoreError, match=r'is unfinished: 6 of 7 files are missing, first index.safetensors'):
        finish(tmp_path, plan())
    assert read_record(tmp_path, layout.captions_name(0)).rows == 2
    assert read_record(tmp_path, layout.captions_name(1)) is None


def test_another_store_is_not_finished(tmp_path):
    written = write_store(tmp_path)
    with pytest.raises(StoreError, match='holds a different store, which is finished: batch_size: 9, there 8'):
        finish(tmp_path, replace(written.plan, batch_size=9))


def test_files_that_are_not_as_noted(tmp_path):
    shards.write_captions(tmp_path, 0, CAPTIONS[:2])
    path = tmp_path / layout.captions_name(0)
    name = layout.captions_name(0)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(StoreError, match=r'00000.safetensors is truncated: it has [\d,]+ bytes, and [\d,]+ were written'):
        read_record(tmp_path, name)
    path.write_bytes(path.read_bytes() + b'ab')
    with pytest.raises(StoreError, match=r'00000.safetensors is damaged: it has'):
        read_record(tmp_path, name)
    path.unlink()
    with pytest.raises(StoreError, match=r'00000.safetensors is missing or cannot be read'):
        read_record(tmp_path, name)
    layout.record_path(path).rename(layout.record_path(tmp_path / layout.captions_name(1)))
    with pytest.raises(StoreError, match=r'00001.json is the record of captions/00000.safetensors, not of captions/00001'):
        read_record(tmp_path, layout.captions_name(1))
    write_json(layout.record_path(path), {'a': 1})
    with pytest.raises(StoreError, match=r'00000.json is not a record of a file'):
        read_record(tmp_path, name)


def test_manifests_that_contradict_themselves(tmp_path):
    write_store(tmp_path)
    content = read_json(tmp_path / 'manifest.json')
    write_json(tmp_path / 'manifest.json', {**content, 'files': content['files'][1:]})
    with pytest.raises(StoreError, match=r'its plan and its list of files disagree about index.safetensors'):
        Manifest.read(tmp_path)
    for listed in (3, [3], [{}], [{'name': 'a'}], [{**content['files'][0], 'bytes': 'many'}]):
        write_json(tmp_path / 'manifest.json', {**content, 'files': listed})
        with pytest.raises(StoreError, match=r'manifest.json is damaged: its'):
            Manifest.read(tmp_path)


def test_the_tables_of_a_shard(tmp_path):
    """The checksums are those of zlib, the offsets those of a loop."""
    import zlib

    from safetensors.torch import load_file

    write_store(tmp_path, shard_rows=5, dtype='float16')
    found = load_file(tmp_path / layout.encodings_name('tiny', 0))
    encoder, start = tiny_encoder(), 0
    for row, caption in enumerate(dict.fromkeys(CAPTIONS)):
        encoding = encoder.encode([caption]).to(dtype=torch.float16)
        end = start + encoding.tokens.shape[1]
        assert found['offsets'][row : row + 2].tolist() == [start, end]
        assert torch.equal(found['tokens'][start:end], encoding.tokens[0])
        assert found['tokens_checks'][row] == zlib.crc32(encoding.tokens.numpy().tobytes())
        assert found['pooled_checks'][row] == zlib.crc32(encoding.pooled.numpy().tobytes())
        start = end
