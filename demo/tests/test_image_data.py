"""What images and captions are read from: pixels against their definition, every source, and every way it can be wrong."""

import json
import re

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from cfg_demo.image.data import collate, open_data
from cfg_demo.image.picture import to_tensor
from cfg_demo.shapes import ShapesDataset
from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError
from demo.tests.pictures import COLOURS, refused, save


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
    refused("kinds is about the scenes of 'shapes'", str(folder), kinds=['single'])
    refused("told is about the scenes of 'shapes'", str(folder), told=0.9)
    refused('has no metadata.jsonl, metadata.csv, metadata.parquet, so there is no column', str(folder), caption_column='text')
    refused("has no split 'held_out': its folders of splits are: none", str(folder), split='held_out')
    refused('but got 0 and 3', str(folder), size=0)
    refused('channels are 1 (grey) or 3 (colour), but got 4 and 2', str(folder), channels=2)


def test_without_pillow(folder, monkeypatch):
    monkeypatch.setattr('cfg_demo.image.data.find_spec', lambda name: None)
    sentence = 'images are read with Pillow, which is not installed: pip install pillow'
    refused(sentence, str(folder), error=MissingDependencyError)
