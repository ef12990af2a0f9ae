"""Captions from datasets of Hugging Face, in a folder and on the hub."""

from __future__ import annotations

import gzip
import io
import json
import sys

import datasets
import pytest

from classifier_free_guidance_pytorch.corpus.read.entries import Bad
from classifier_free_guidance_pytorch.corpus.read.sources import open_source
from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError
from tests.corpus.test_sources import captions


def test_a_dataset_in_a_folder(tmp_path):
    rows = datasets.Dataset.from_dict({'id': [1, 2, 3], 'caption': ['a dog', '', 'a cat']})
    rows.save_to_disk(tmp_path / 'one')
    datasets.DatasetDict({'train': rows, 'test': rows.select([2])}).save_to_disk(tmp_path / 'splits')
    source = open_source(tmp_path / 'one')
    assert captions(source) == ['a dog', Bad('empty'), 'a cat']
    assert source.fingerprint() == open_source(tmp_path / 'one', column='caption').fingerprint()
    assert captions(open_source(tmp_path / 'splits', split='test')) == ['a cat']
    with pytest.raises(ConfigError, match="has no split None: pass split, one of 'train', 'test'"):
        open_source(tmp_path / 'splits')
    with pytest.raises(ConfigError, match="has no column 'id' of strings: it has 'caption'"):
        open_source(tmp_path / 'one', column='id')
    with pytest.raises(ConfigError, match=r"split='train' was passed, but the dataset in .* has no splits"):
        open_source(tmp_path / 'one', split='train')


def test_a_dataset_of_the_hub_is_streamed(monkeypatch):
    asked = {}

    def load_dataset(name, config, **options):
        asked.update(options, name=name, config=config)
        return datasets.Dataset.from_dict({'caption': ['a dog', 'a cat']}).to_iterable_dataset()

    monkeypatch.setattr(datasets, 'load_dataset', load_dataset)
    source = open_source('org/pictures:small', split='test')
    assert captions(source) == ['a dog', 'a cat']
    options = {'split': 'test', 'streaming': True, 'trust_remote_code': False}
    assert asked == {'name': 'org/pictures', 'config': 'small', **options}
    assert source.fingerprint() == {
        'kind': 'dataset',
        'column': 'caption',
        'name': 'org/pictures',
        'config': 'small',
        'split': 'test',
    }


def test_a_dataset_that_the_hub_does_not_give():
    with pytest.raises(MissingDependencyError, match=r"'org/nothing' is not a file or folder, and could not be read from"):
        open_source('org/nothing')


LINES = [json.dumps({'caption': f'caption {i}'}) for i in range(20)]
CSV = b'caption,id\na dog,1\n'


@pytest.mark.parametrize(
    ('file', 'content'),
    [
        ('train.jsonl', '\n'.join([*LINES, '{"caption": ', *LINES]).encode()),
        ('train.jsonl', b''),
        ('train.jsonl.gz', gzip.compress('\n'.join(LINES).encode())[:-30]),
        ('train.csv', CSV + b'a cat\nan owl,2,3\n"a mouse,4\n'),
        ('train.csv', CSV + b'\xff\xfe,2\n'),
        ('train.txt', b'a dog\na \xff\n'),
        ('train.parquet', b'PAR1' + b'x' * 40),
    ],
    ids=['broken line', 'empty', 'cut short', 'more columns', 'other encoding', 'text of another encoding', 'no pages'],
)
def test_a_dataset_of_the_hub_that_is_damaged(tmp_path, monkeypatch, file, content):
    """Readers of each format raise errors of their own, some at once and some on the way."""
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / file).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    column = 'text' if file.endswith('.txt') else 'caption'
    sentence = 'data:default.* (is empty|could not be read|cannot be read)|dataset cannot be read after row 0'
    with pytest.raises((ConfigError, MissingDependencyError), match=sentence):
        captions(open_source('data:default', column))


@pytest.mark.parametrize('answer', ['', 'y\n' * 9])
def test_a_dataset_that_is_code_is_not_run(tmp_path, monkeypatch, answer):
    """Neither at once nor after a question on the terminal."""
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'data.py').write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'stdin', io.StringIO(answer))
    with pytest.raises(ConfigError, match='cannot be read without code from its own repository, and this library never runs'):
        open_source('data:default')
    assert not (tmp_path / 'ran').exists()


def test_a_dataset_that_is_not_made_of_tables_is_read(monkeypatch):
    rows = datasets.IterableDataset.from_generator(lambda: ({'caption': text} for text in ('a dog', None, 'a cat')))
    monkeypatch.setattr(datasets, 'load_dataset', lambda *name, **options: rows)
    assert captions(open_source('org/pictures')) == ['a dog', Bad('missing'), 'a cat']
