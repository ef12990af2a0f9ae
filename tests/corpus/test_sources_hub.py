"""Captions from datasets of Hugging Face, in a folder and on the hub."""

from __future__ import annotations

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
    assert asked == {'name': 'org/pictures', 'config': 'small', 'split': 'test', 'streaming': True}
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
