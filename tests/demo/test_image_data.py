"""What images and captions are read from: pixels against their definition, every source, and every way it can be wrong."""

import json
import re
import sys

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from classifier_free_guidance_pytorch.demo.image.data import collate, open_data
from classifier_free_guidance_pytorch.demo.image.picture import to_tensor
from classifier_free_guidance_pytorch.demo.shapes import ShapesDataset
from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError

COLOURS = {'red': (255, 0, 0), 'lime': (0, 255, 0), 'blue': (0, 0, 255)}


def save(file, colour='red', size=(12, 8)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, colour).save(file)
    return file


@pytest.fixture
def folder(tmp_path):
    """Three images with captions beside them; one in a folder of its own, one with a byte order mark and two lines."""
    pictures = tmp_path / 'pictures'
    for name, colour in zip(('a.png', 'b.JPG', 'more/c.webp'), COLOURS, strict=True):
        file = save(pictures / name, colour)
        file.with_suffix('.txt').write_text(f'\ufeff  all {colour},\n and nothing else\n', encoding='utf-8')
    save(pictures / '._a.png')  # what some systems leave beside every file
    (pictures / '.cache').mkdir()
    save(pictures / '.cache' / 'd.png')
    return pictures


@pytest.fixture
def bare(tmp_path):
    """Three images and no captions."""
    for name, colour in zip(('a.png', 'b.png', 'c.png'), COLOURS, strict=True):
        save(tmp_path / 'bare' / name, colour)
    return tmp_path / 'bare'


def write_rows(file, rows):
    file.write_text('\n'.join(json.dumps(row) for row in rows))


def refused(sentence, *args, error=ConfigError, **kwargs):
    """Checks that `open_data` raises, with all of the sentence in its message."""
    with pytest.raises(error, match=re.escape(sentence)):
        open_data(*args, **{'size': 4, **kwargs})


# --- pixels ---


def test_the_square_in_the_middle_is_kept():
    wide = Image.new('RGB', (30, 10), 'black')
    wide.paste('red', (10, 0, 20, 10))
    for picture in (wide, wide.rotate(90, expand=True)):
        image = to_tensor(picture, 10, 3)
        assert image.shape == (3, 10, 10)
        assert image.dtype == torch.float32
        assert torch.equal(image, torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1).expand(3, 10, 10))


def test_rows_columns_and_channels_stay_in_order():
    picture = Image.new('RGB', (2, 2))
    picture.putdata([(255, 0, 0), (0, 255, 0), (0, 0, 255), (51, 102, 153)])
    image = to_tensor(picture, 2, 3)
    assert image[:, 0, 0].tolist() == [1, 0, 0]
    assert image[:, 0, 1].tolist() == [0, 1, 0]
    assert image[:, 1, 0].tolist() == [0, 0, 1]
    assert image[:, 1, 1].tolist() == pytest.approx([0.2, 0.4, 0.6])


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'PA', 'P'])
def test_transparent_pixels_are_white(mode):
    picture = Image.new('RGBA', (4, 4), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 2, 4))
    picture = picture.convert(mode)
    if mode == 'P':
        picture.info['transparency'] = picture.getpixel((3, 0))
        if picture.getpixel((0, 0)) == picture.getpixel((3, 0)):
            pytest.skip('this palette has one entry for both')
    image = to_tensor(picture, 4, 3)
    assert not image[:, :, :2].any()
    assert bool((image[:, :, 2:] == 1).all())


def test_half_transparent_pixels_are_mixed_with_white():
    assert to_tensor(Image.new('RGBA', (2, 2), (255, 0, 0, 51)), 2, 3)[:, 0, 0].tolist() == pytest.approx([1, 0.8, 0.8])


@pytest.mark.parametrize(
    ('mode', 'colour', 'grey'),
    [
        ('L', 102, 0.4),
        ('1', 1, 1.0),
        ('CMYK', (0, 0, 0, 255), 0.0),
        ('RGB', 'white', 1.0),
        ('I;16', 257 * 102, 0.4),
        ('I', 65535, 1.0),
    ],
)
@pytest.mark.parametrize('channels', [1, 3])
def test_every_kind_of_pixel_has_its_brightness(mode, colour, grey, channels):
    image = to_tensor(Image.new(mode, (3, 3), colour), 3, channels)
    assert image.shape == (channels, 3, 3)
    assert image.flatten().tolist() == pytest.approx([grey] * 9 * channels, abs=0.005)


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    picture = Image.new('RGB', (8, 8), 'black')
    picture.paste('white', (0, 0, 8, 4))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by a quarter
    picture.save(tmp_path / 'a.png', exif=exif)
    with Image.open(tmp_path / 'a.png') as turned:
        image = to_tensor(turned, 8, 1)
    assert bool((image[..., 4:] == 1).all())
    assert not image[..., :4].any()


def test_floats_without_a_range_are_refused():
    with pytest.raises(ValueError, match='floating-point numbers, and nothing says which of them is white'):
        to_tensor(Image.new('F', (2, 2)), 2, 3)


# --- sources ---


def test_the_drawn_world():
    data = open_data('shapes', size=16, seed=3, split='held_out', kinds=['single'])
    images, captions = collate([data[0], data[1]])
    drawn = ShapesDataset('held_out', size=16, seed=3, kinds=['single'])
    assert torch.equal(images, torch.stack([drawn[0].image, drawn[1].image]))
    assert captions == [drawn[0].caption, drawn[1].caption]


def test_captions_beside_images(folder):
    data = open_data(str(folder), size=4)
    images, captions = collate([data[i] for i in range(len(data))])
    assert captions == [f'all {colour}, and nothing else' for colour in COLOURS]
    expected = torch.tensor(list(COLOURS.values())).view(3, 3, 1, 1) / 255
    torch.testing.assert_close(images, expected.expand(3, 3, 4, 4), atol=0.02, rtol=0)


def test_grey_images(folder):
    assert open_data(str(folder), size=4, channels=1)[0].image.shape == (1, 4, 4)


@pytest.mark.parametrize('kind', ['jsonl', 'csv'])
def test_captions_in_a_table(bare, kind):
    rows = [('b.png', 'blue, "or not"'), ('a.png', 'red'), ('c.png', 'green'), ('a.png', 'red again')]
    if kind == 'csv':
        lines = ['id,file_name,text'] + [
            '{},{},"{}"'.format(i, name, text.replace('"', '""')) for i, (name, text) in enumerate(rows)
        ]
        (bare / 'metadata.csv').write_text('\n'.join(lines))
    else:
        write_rows(bare / 'metadata.jsonl', [{'id': '1', 'file_name': name, 'text': text} for name, text in rows])
    data = open_data(str(bare), size=4)
    assert [data[i].caption for i in range(len(data))] == [text for _, text in rows]
    assert data[3].image[:, 0, 0].tolist() == [1, 0, 0]
    ids = open_data(str(bare), size=4, caption_column='id', image_column='file_name')
    assert ids[0].caption in ('0', '1')


def test_folders_of_splits(tmp_path):
    for split in ('train', 'test'):
        save(tmp_path / split / 'a.png').with_suffix('.txt').write_text(f'of {split}')
    assert open_data(str(tmp_path), size=4)[0].caption == 'of train'
    assert open_data(str(tmp_path), size=4, split='test')[0].caption == 'of test'
    refused("has no split 'dev': its folders of splits are: test, train", str(tmp_path), split='dev')
    save(tmp_path / 'cars' / 'a.png').with_suffix('.txt').write_text('a car')  # now they are folders of subjects
    assert len(open_data(str(tmp_path), size=4)) == 3


def test_a_loader_with_workers(folder):
    loader = DataLoader(open_data(str(folder), size=4), batch_size=2, num_workers=1, collate_fn=collate)
    assert [(images.shape, len(captions)) for images, captions in loader] == [((2, 3, 4, 4), 2), ((1, 3, 4, 4), 1)]


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


# --- folders that cannot be used ---


@pytest.mark.parametrize('name', ['./pictures', '/nowhere/pictures', '~/nowhere/pictures', 'my/own/pictures'])
def test_a_folder_that_is_not_there(name):
    refused(f'the folder {name!r} does not exist', name)


def test_what_is_no_folder(tmp_path):
    file = save(tmp_path / 'a.png')
    for source in (str(file), '', ' '):
        refused(f"data is 'shapes', a folder of images, or the name of a dataset, but got {source!r}", source)


def test_an_empty_folder(tmp_path):
    refused(f'the folder {str(tmp_path)!r} is empty: expected images (.png, .jpg,', str(tmp_path))
    (tmp_path / '.hidden').touch()
    refused('is empty', str(tmp_path))


def test_a_folder_without_images(tmp_path):
    for name in ('a.pdf', 'b.pdf', 'c.txt'):
        (tmp_path / name).touch()
    refused('holds no images, only 3 other files (.pdf, .txt): expected images (.png,', str(tmp_path))


def test_images_without_captions(bare):
    (bare / 'b.txt').write_text('blue')
    refused(f'2 of 3 images in {str(bare)!r} have no caption (a.png, c.png): give each a text file of its name', str(bare))
    write_rows(bare / 'metadata.jsonl', [{'file_name': 'a.png', 'text': 'red'}])
    refused('2 of 3 images in', str(bare))
    refused('have no caption (b.png, c.png): give each a row in metadata.jsonl, or take them out', str(bare))


def test_many_images_without_captions_are_counted(tmp_path):
    for number in range(5):
        save(tmp_path / f'{number}.png')
    refused('5 of 5 images in', str(tmp_path))
    refused('(0.png, 1.png, 2.png and 2 more)', str(tmp_path))


def test_captions_that_are_empty_or_no_text(folder):
    (folder / 'a.txt').write_text(' \n')
    (folder / 'b.txt').write_bytes(b'caf\xe9')
    refused(f'2 of 3 captions of {str(folder)!r} cannot be used (a.png: empty, b.JPG: not UTF-8): write them', str(folder))


def test_images_that_cannot_be_read(folder):
    (folder / 'a.png').write_bytes(b'no image')
    (folder / 'more' / 'c.webp').write_bytes(b'')
    refused(f'2 of 3 images in {str(folder)!r} cannot be read (a.png, more/c.webp): repair them, or take them out', str(folder))


def test_an_image_that_breaks_off_is_named_when_it_is_reached(folder):
    whole = save(folder / 'b.JPG', size=(200, 200)).read_bytes()
    (folder / 'b.JPG').write_bytes(whole[: len(whole) * 2 // 3])
    data = open_data(str(folder), size=4)
    assert data[0].caption.startswith('all red')
    sentence = re.escape(f'the image {str(folder / "b.JPG")!r} cannot be decoded (')
    with pytest.raises(ConfigError, match=sentence):
        data[1]
    with pytest.raises(ConfigError, match=sentence):
        list(DataLoader(data, batch_size=3, num_workers=1, collate_fn=collate))


def test_tables_that_cannot_be_used(bare):
    table = bare / 'metadata.jsonl'
    names = ('a.png', 'b.png', 'c.png')
    write_rows(table, [{'file_name': name, 'long': 'x', 'short': 'y'} for name in names])
    refused("no column 'captions' of strings: it has 'long', 'short'", str(bare), caption_column='captions')
    refused("choose with caption_column; it has 'long', 'short'", str(bare))
    refused("no column 'name' of strings: it has 'file_name', 'long', 'short'", str(bare), image_column='name')
    write_rows(table, [{'file_name': f'x{name}', 'text': 'x'} for name in names])
    refused('3 of 3 images in', str(bare))
    refused('are not there (xa.png, xb.png, xc.png): names count from its folder', str(bare))
    write_rows(table, [{'file_name': 'a.png', 'text': 'x'}, {'file_name': '', 'text': 'x'}, {'text': 'x'}])
    refused(f'2 of 3 rows of {str(table)!r} name no image (line 2: empty, line 3: missing)', str(bare))
    write_rows(table, [{'file_name': name, 'text': text} for name, text in zip(names, ('x', '', None), strict=True)])
    refused('2 of 3 captions of', str(bare))
    refused('cannot be used (b.png: empty, c.png: missing)', str(bare))
    (bare / 'metadata.csv').write_text('file_name,text\n')
    refused('has metadata.jsonl and metadata.csv: keep the one with the captions', str(bare))
    table.unlink()
    refused(f'{str(bare / "metadata.csv")!r} has no rows', str(bare))


# --- arguments that do not fit the source ---


def test_arguments_without_a_meaning_are_refused(folder):
    refused("'shapes' is drawn and has no columns: leave caption_column out", 'shapes', size=32, caption_column='text')
    refused("'shapes' is drawn in colour: channels must be 3, but got 1", 'shapes', size=32, channels=1)
    refused("kinds chooses among the scenes of 'shapes'", str(folder), kinds=['single'])
    refused('has no metadata.jsonl, metadata.csv, metadata.parquet, so there is no column', str(folder), caption_column='text')
    refused("has no split 'held_out': its folders of splits are: none", str(folder), split='held_out')
    refused('but got 0 and 3', str(folder), size=0)
    refused('channels are 1 (grey) or 3 (colour), but got 4 and 2', str(folder), channels=2)


def test_without_pillow(folder, monkeypatch):
    monkeypatch.setattr('classifier_free_guidance_pytorch.demo.image.data.find_spec', lambda name: None)
    sentence = "images are read with Pillow, which is not installed: pip install 'classifier-free-guidance-pytorch[demo]'"
    refused(sentence, str(folder), error=MissingDependencyError)
