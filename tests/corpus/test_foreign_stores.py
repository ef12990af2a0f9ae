"""Stores from elsewhere, whose JSON was written to do harm and sealed: refused at once, by name."""

import json
import os
import re
import shutil
import time
from contextlib import contextmanager

import pytest
import torch

from classifier_free_guidance_pytorch.corpus import EmbeddingStore
from classifier_free_guidance_pytorch.corpus.encode.progress import log
from classifier_free_guidance_pytorch.corpus.read.sources import open_source
from classifier_free_guidance_pytorch.corpus.store.files import read_json, write_json
from classifier_free_guidance_pytorch.corpus.store.manifest import Plan
from classifier_free_guidance_pytorch.errors import CFGError, ConfigError, StoreError, UnknownCaptionError, warn
from tests.corpus.stores import tiny_encoder, write_store


@pytest.fixture
def store(tmp_path):
    write_store(tmp_path / 'store')
    return tmp_path / 'store'


@contextmanager
def suppress_into(said, kind):
    """Keep the sentence of an error of this kind; any other goes on."""
    try:
        yield
    except kind as error:
        said.append(str(error))


def rewrite(path, **changes):
    write_json(path, {**read_json(path), **changes})


HUGE = {'unique': 10**12, 'captions': 10**12, 'shard_rows': 1}


@pytest.mark.parametrize(
    'changes', [HUGE, {**HUGE, 'unique': 10**30, 'captions': 10**30}, {'captions': 10**12}, {'captions': 2**80}]
)
def test_a_manifest_of_more_captions_than_there_are_is_refused_at_once(store, changes):
    rewrite(store / 'manifest.json', **changes)
    start = time.monotonic()
    with pytest.raises(StoreError, match=r'manifest.json is damaged: its (plan and its list of files|index is too small)'):
        EmbeddingStore(store)
    assert time.monotonic() - start < 2


ODD = [None, True, 3, 2.5, 'text', [1], {'a': 1}, {'a': {'b': {}}}, {'a': [[1]]}, 10**400, -1, 2**70, '\x1b[2J']


@pytest.mark.parametrize('value', ODD, ids=repr)
@pytest.mark.parametrize(
    'field',
    ['settings', 'skipped', 'source', 'precision', 'revision', 'name', 'type', 'dim_pooled', 'dim_tokens', 'tokens', 'label'],
)
def test_fields_of_odd_types_and_sizes(store, field, value):
    """Refused when the store is opened, or of no consequence: never an error of Python's own."""
    for name in ('manifest.json', 'plan.json'):
        content = read_json(store / name)
        (content['encoders'][0] if field in content['encoders'][0] else content)[field] = value
        write_json(store / name, content)
    said = [str(store)]
    with suppress_into(said, StoreError):
        found = EmbeddingStore(store)
        repr(found), hash(found.encoders[0].origin), found[0], found.captions[0], found.verify()
    with suppress_into(said, StoreError):
        Plan.read(store)
    assert all(str(store) in sentence for sentence in said)


def test_settings_that_cannot_be_compared_are_refused(store):
    content = read_json(store / 'manifest.json')
    content['encoders'][0]['settings'] = {'layer': {'a': {}}}
    write_json(store / 'manifest.json', content)
    with pytest.raises(StoreError, match=r"manifest.json is not a plan of a store \(settings is \{'layer': \{'a': \{\}\}\}\)"):
        EmbeddingStore(store)


def test_json_nested_too_deep(store):
    deep = '[' * 900 + ']' * 900
    for name in ('manifest.json', 'plan.json'):
        text = json.dumps(read_json(store / name))
        (store / name).write_text(f'{text[:-1]}, "source": {{"a": {deep}}}, "checksum": "0"}}')
    with pytest.raises(StoreError, match=r'manifest.json is damaged'):
        EmbeddingStore(store)
    with pytest.raises(StoreError, match=r'plan.json is damaged'):
        Plan.read(store)


def test_a_store_with_pipes_does_not_wait_for_them(store):
    opened = EmbeddingStore(store)
    for name in ('plan.json', 'index.safetensors'):
        (store / name).unlink()
        os.mkfifo(store / name)
    with pytest.raises(StoreError, match=r'index.safetensors is not a file'):
        EmbeddingStore(store)
    with pytest.raises(StoreError) as caught:
        opened.verify()
    assert 'plan.json cannot be read: it is not a file' in str(caught.value)
    assert 'index.safetensors is not a file' in str(caught.value)


def test_verify_goes_on_after_any_damage(store):
    """Every file is harmed in its own way, and every one is named."""
    opened = EmbeddingStore(store)
    files = sorted(opened.manifest.files)
    for number, name in enumerate(files):
        path = store / name
        if number % 4 == 0:
            path.unlink()
        elif number % 4 == 1:
            path.write_bytes(b'')
        elif number % 4 == 2:
            path.unlink()
            path.mkdir()
        else:
            path.write_bytes(os.urandom(path.stat().st_size))
    (store / 'plan.json').unlink()
    with pytest.raises(StoreError) as caught:
        opened.verify()
    message = str(caught.value)
    assert message.startswith(f'{len(files) + 1} of {len(files) + 1} files are not as they were written')
    assert all(name in message for name in [*files, 'plan.json'])


# names that would speak to a terminal


EVIL = 'a\x1b[2J\x9b31m\u202egnp\r\ud800'
SHOWN = r'a\x1b[2J\x9b31m\u202egnp\r\ud800'


def test_names_in_messages_do_nothing_to_a_terminal(tmp_path, capsys):
    for error in (ConfigError(f'{EVIL}.txt is damaged'), StoreError(EVIL), UnknownCaptionError(EVIL)):
        assert SHOWN in str(error)
        assert not set('\x1b\x9b\r\u202e\ud800') & set(str(error))
    assert str(ConfigError('two\nlines\tand a tab, in \u00e4 and \u72ac')) == 'two\nlines\tand a tab, in \u00e4 and \u72ac'
    with pytest.warns(UserWarning, match=re.escape(SHOWN)):
        warn(EVIL)
    log(EVIL, quiet=False)
    assert SHOWN in capsys.readouterr().err
    with pytest.raises(ConfigError) as caught:
        open_source(tmp_path / f'{EVIL[:-1]}.txt'.replace('\ud800', ''))
    assert '\x1b' not in str(caught.value)


def test_an_identity_in_a_refusal_is_escaped(tmp_path):
    from classifier_free_guidance_pytorch import TextConditioner

    write_store(tmp_path / 'store', encoders={'tiny': tiny_encoder('tiny\x1b[2J')})
    store = EmbeddingStore(tmp_path / 'store')
    conditioner = TextConditioner(hidden_dims=(4,), model_types=[tiny_encoder('tiny/other')], cond_drop_prob=0.1)
    with pytest.raises(CFGError) as caught:
        conditioner(text_embeds=store[0])
    assert '\x1b' not in str(caught.value)
    assert '\x1b' not in repr(store)
    assert torch.equal(store[0].pooled, EmbeddingStore(shutil.copytree(tmp_path / 'store', tmp_path / 'copy'))[0].pooled)


class Foreign(str):
    """A caption whose bytes are not UTF-8."""

    def encode(self, *args):
        return b'\xff' * 5


def test_captions_that_are_not_utf_8_harm_no_reader(tmp_path):
    """Whoever wrote them made all checksums right."""
    write_store(tmp_path, ['a cat', Foreign('a dog')])
    store = EmbeddingStore(tmp_path)
    assert list(store.captions) == ['a cat', '\ufffd' * 5]
    assert 'a dog' not in store
    assert len(store[:]) == 2
