"""Captioned images from datasets of Hugging Face: what is read, and what is refused before training starts."""

import sys

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from cfg_demo.image.data import collate, open_data
from classifier_free_guidance_pytorch.errors import MissingDependencyError
from demo.tests.pictures import COLOURS, refused

# --- datasets of Hugging Face ---


@pytest.fixture
def rows():
    """Three rows: an image, a caption, other text, a number."""
    datasets = pytest.importorskip('datasets')
    content = {
        'label': [0, 1, 2],
        'image': [Image.new('RGB', (12, 8), colour) for colour in COLOURS],
        'caption_blip2-opt-2.7b': [f'all {colour}' for colour in COLOURS],
        'source': ['drawn'] * 3,
    }
    kinds = {'label': 'int64', 'caption_blip2-opt-2.7b': 'string', 'source': 'string'}
    features = {name: datasets.Value(kinds[name]) if name in kinds else datasets.Image() for name in content}
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


CAPTION = {'caption_column': 'caption_blip2-opt-2.7b'}


def check_rows(data):
    images, captions = collate([data[i] for i in range(len(data))])
    assert captions == [f'all {colour}' for colour in COLOURS]
    expected = torch.tensor(list(COLOURS.values())).view(3, 3, 1, 1) / 255
    assert torch.equal(images, expected.expand(3, 3, 4, 4))


def test_a_dataset_saved_to_disk(rows, tmp_path):
    rows.save_to_disk(tmp_path / 'saved')
    check_rows(open_data(str(tmp_path / 'saved'), size=4, **CAPTION))
    check_rows(open_data(str(tmp_path / 'saved'), size=4, image_column='image', **CAPTION))
    refused("has no split 'test': it holds one set of rows", str(tmp_path / 'saved'), split='test', **CAPTION)


def test_a_dataset_of_several_splits_saved_to_disk(rows, tmp_path):
    import datasets

    datasets.DatasetDict({'train': rows, 'test': rows.select([1])}).save_to_disk(tmp_path / 'saved')
    check_rows(open_data(str(tmp_path / 'saved'), size=4, **CAPTION))
    assert open_data(str(tmp_path / 'saved'), size=4, split='test', **CAPTION)[0].caption == 'all lime'
    refused("has no split 'dev': it has train, test", str(tmp_path / 'saved'), split='dev', **CAPTION)


def test_a_folder_of_parquet_files(rows, tmp_path):
    (tmp_path / 'data').mkdir()
    rows.to_parquet(tmp_path / 'data' / 'train-00000-of-00001.parquet')
    data = open_data(str(tmp_path), size=4, **CAPTION)
    check_rows(data)
    loader = DataLoader(data, batch_size=3, num_workers=1, collate_fn=collate)
    assert next(iter(loader))[0].shape == (3, 3, 4, 4)
    assert len(open_data(str(tmp_path), size=4, split='train[1:]', **CAPTION)) == 2
    refused(
        "cannot be read as a dataset at split 'train[:0]' (ValueError: Instruction", str(tmp_path), split='train[:0]', **CAPTION
    )
    refused("cannot be read as a dataset at split 'nowhere' (", str(tmp_path), split='nowhere', **CAPTION)


def test_parquet_files_of_other_writers(rows, tmp_path):
    """Without what `datasets` writes about its types, images are bytes like any other; naming the column is enough."""
    import datasets
    from pyarrow import parquet

    table = rows.cast_column('image', datasets.Image(decode=False)).with_format('arrow')[:].replace_schema_metadata(None)
    parquet.write_table(table, tmp_path / 'train.parquet')
    check_rows(open_data(str(tmp_path), size=4, image_column='image', **CAPTION))
    refused('Name it as image_column; its columns of images are: none', str(tmp_path), **CAPTION)


def test_columns_that_are_not_there(rows, tmp_path):
    rows.save_to_disk(tmp_path / 'saved')
    source = str(tmp_path / 'saved')
    refused("no column 'captions' of strings: it has 'caption_blip2-opt-2.7b', 'source'", source, caption_column='captions')
    refused("choose with caption_column; it has 'caption_blip2-opt-2.7b', 'source'", source)
    refused("no column 'label' of strings", source, caption_column='label')
    refused("has no image column 'picture': its columns are: label, image, ", source, image_column='picture', **CAPTION)
    refused("the column 'label' of", source, image_column='label', **CAPTION)


def test_rows_that_cannot_be_used(rows, tmp_path):
    import datasets

    def saved(name, changed):
        changed.save_to_disk(tmp_path / name)
        return str(tmp_path / name)

    def captioned(captions):
        return rows.remove_columns('caption_blip2-opt-2.7b').add_column('caption_blip2-opt-2.7b', captions)

    empty = saved('empty', captioned(['a', ' ', None]))
    refused(f'2 of 3 captions of {empty!r} cannot be used (row 1: empty, row 2: missing)', empty, **CAPTION)
    encoded = rows.cast_column('image', datasets.Image(decode=False))
    for damaged in ({'bytes': b'no image', 'path': None}, None):
        images = [*encoded['image'][:2], damaged]
        changed = encoded.remove_columns('image').add_column('image', images, feature=encoded.features['image'])
        broken = saved(f'broken {damaged is None}', changed)
        refused(f'the image in row 2 of {broken!r} cannot be decoded (', broken, **CAPTION)


def test_a_dataset_without_rows(rows, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, 'load_dataset', lambda *args, **kwargs: rows.select([]))
    refused("'owner/name' has no rows at split 'train'", 'owner/name', **CAPTION)


def test_a_name_on_the_hub_may_have_a_configuration(rows, monkeypatch):
    import datasets

    asked = []
    monkeypatch.setattr(datasets, 'load_dataset', lambda *args, **kwargs: asked.append((*args, kwargs)) or rows)
    for source in ('reese-green/afhq64_captions_64k', 'owner/name:small'):
        check_rows(open_data(source, size=4, split='test', **CAPTION))
    assert asked == [
        ('reese-green/afhq64_captions_64k', None, {'split': 'test'}),
        ('owner/name', 'small', {'split': 'test'}),
    ]


def test_without_the_library_datasets(rows, tmp_path, monkeypatch):
    rows.save_to_disk(tmp_path / 'saved')
    monkeypatch.setitem(sys.modules, 'datasets', None)
    for source in (str(tmp_path / 'saved'), 'reese-green/afhq64_captions_64k'):
        refused("pip install 'classifier-free-guidance-pytorch[corpus]'", source, error=MissingDependencyError, **CAPTION)


def test_a_dataset_that_is_nowhere():
    pytest.importorskip('datasets')
    refused(
        "there is no folder 'nobody/nothing', and no dataset of that name could be read at split 'train' (",
        'nobody/nothing',
        error=MissingDependencyError,
    )
