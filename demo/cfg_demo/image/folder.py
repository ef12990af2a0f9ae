"""A folder of image files with their captions, either beside each image or in one table."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from cfg_demo.image.captions import checked_captions, few
from cfg_demo.image.picture import Captioned, to_tensor
from cfg_demo.progress import progress_bar
from classifier_free_guidance_pytorch.corpus.read.entries import caption_of
from classifier_free_guidance_pytorch.corpus.read.formats import FORMATS, choose_column
from classifier_free_guidance_pytorch.errors import ConfigError

SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.gif', '.tif', '.tiff')
TABLES = ('metadata.jsonl', 'metadata.csv', 'metadata.parquet')
SPLITS = {'train', 'test', 'val', 'valid', 'validation', 'dev', 'eval', 'held_out'}

Stored = list[tuple[Path, Any]]  # an image file, and its caption as it is stored


class PictureFolder(Dataset[Captioned]):
    """Image files and their captions; an image is decoded when it is asked for.

    Args:
        files: the image files.
        captions: one for each.
        size: width and height of the images in pixels.
        channels: 1 for grey, 3 for colour.
    """

    def __init__(self, files: Sequence[Path], captions: Sequence[str], size: int, channels: int) -> None:
        self.files, self.captions, self.size, self.channels = files, captions, size, channels

    def __len__(self) -> int:
        """Number of captions."""
        return len(self.files)

    def __getitem__(self, index: int) -> Captioned:
        """Item `index`.

        Raises:
            ConfigError: its image cannot be decoded, by name.
        """
        from PIL import Image

        file = self.files[index]
        try:
            with Image.open(file) as picture:
                image = to_tensor(picture, self.size, self.channels)
        except Exception as error:  # decoders of damaged files raise whatever they stumble over
            raise ConfigError(f'the image {str(file)!r} cannot be decoded ({error}): repair it, or take it out') from error
        return Captioned(image, self.captions[index])


def open_folder(
    folder: Path, *, size: int, channels: int, split: str, caption_column: str | None, image_column: str | None
) -> PictureFolder:
    """The captioned images of a folder and of the folders in it; what is hidden by a dot in front of its name is left out.

    The caption of `a.png` is in `a.txt` beside it, or in the folder's table, `metadata.jsonl`, `.csv` or `.parquet`, in the row
    with the image's name in the column `file_name`. A folder that holds only folders named like splits is read at `split`.

    Args:
        folder: an existing folder.
        size: width and height of the images in pixels.
        channels: 1 for grey, 3 for colour.
        split: the folder in it to read, where it has splits.
        caption_column: the table's column with the captions.
        image_column: the table's column with the names of the images, `file_name` by default.

    Raises:
        ConfigError: no images, images that cannot be read, or images without captions: which, and how many.
    """
    folder = _at_split(folder, split)
    images = images_in(folder)
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(tables) > 1:
        raise ConfigError(f'{str(folder)!r} has {" and ".join(table.name for table in tables)}: keep the one with the captions')
    if tables:
        stored = _listed(tables[0], images, caption_column, image_column or 'file_name')
    elif caption_column or image_column:
        raise ConfigError(
            f'{str(folder)!r} has no {", ".join(TABLES)}, so there is no column {caption_column or image_column!r}: captions in '
            'text files beside the images need none'
        )
    else:
        stored = _beside(folder, images)
    captions = checked_captions(folder, [(_name(file, folder), value) for file, value in stored])
    files = [file for file, _ in stored]
    _check_readable(files, folder)
    return PictureFolder(files, captions, size, channels)


def images_in(folder: Path) -> list[Path]:
    """The image files in a folder and below, by their suffix, in the order of their names."""
    return [file for file in _files(folder) if file.suffix.lower() in SUFFIXES]


def _files(folder: Path) -> list[Path]:
    found = (path for path in sorted(folder.rglob('*')) if path.is_file())
    return [path for path in found if not any(part.startswith('.') for part in path.relative_to(folder).parts)]


def _name(file: Path, folder: Path) -> str:
    """How an error names a file: as seen from the folder."""
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)


def _at_split(folder: Path, split: str) -> Path:
    """The folder of a split, in a folder that holds such folders and nothing else to read; else the folder itself."""
    inside = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith('.')]
    splits = [entry.name for entry in inside if entry.is_dir()]
    has_more = any(entry.suffix.lower() in SUFFIXES or entry.name in TABLES for entry in inside)
    if has_more or not set(splits) <= SPLITS | {split}:
        splits = []
    if split in splits:
        return folder / split
    if splits or split != 'train':
        raise ConfigError(f'{str(folder)!r} has no split {split!r}: its folders of splits are: {", ".join(splits) or "none"}')
    return folder


def _beside(folder: Path, images: Sequence[Path]) -> Stored:
    """Each image with what the text file beside it holds."""
    if not images:
        others = _files(folder)
        kinds = sorted({file.suffix.lower() or 'without a suffix' for file in others})
        state = f'holds no images, only {len(others)} other files ({few(kinds)})' if others else 'is empty'
        raise ConfigError(f'the folder {str(folder)!r} {state}: expected images ({", ".join(SUFFIXES)}) and their captions')
    texts = [image.with_suffix('.txt') for image in images]
    without = [image for image, text in zip(images, texts, strict=True) if not text.is_file()]
    _refuse_uncaptioned(folder, images, without, 'a text file of its name beside it (a.png, a.txt), or a row in metadata.csv')
    return [(image, text.read_bytes().removeprefix(codecs.BOM_UTF8)) for image, text in zip(images, texts, strict=True)]


def _listed(table: Path, images: Sequence[Path], caption_column: str | None, image_column: str) -> Stored:
    """The image and the caption of each row of a table; an image may be in several rows."""
    format_ = FORMATS[table.suffix]
    assert format_.columns is not None
    columns = format_.columns(table)
    choose_column(table, columns, image_column)
    chosen = choose_column(table, [name for name in columns if name != image_column], caption_column, 'caption_column')
    entries = list(format_.entries(table, image_column))
    if not entries:
        raise ConfigError(f'{str(table)!r} has no rows: write one for each image')
    captions = [value for _, value in format_.entries(table, chosen)]
    named = [caption_of(value, keep_empty=False) for _, value in entries]
    nameless = [
        f'{format_.unit} {place}: {name.reason}'
        for (place, _), name in zip(entries, named, strict=True)
        if not isinstance(name, str)
    ]
    if nameless:
        raise ConfigError(f'{len(nameless)} of {len(named)} rows of {str(table)!r} name no image ({few(nameless)})')
    files = [table.parent / str(name) for name in named]
    missing = [name for name, file in zip(named, files, strict=True) if not file.is_file()]
    if missing:
        raise ConfigError(
            f'{len(missing)} of {len(files)} images in {str(table)!r} are not there ({few(missing)}): names count from its folder'
        )
    known = {file.resolve() for file in files}
    _refuse_uncaptioned(table.parent, images, [i for i in images if i.resolve() not in known], f'a row in {table.name}')
    return list(zip(files, captions, strict=True))


def _refuse_uncaptioned(folder: Path, images: Sequence[Path], without: Sequence[Path], place: str) -> None:
    if without:
        raise ConfigError(
            f'{len(without)} of {len(images)} images in {str(folder)!r} have no caption '
            f'({few([_name(image, folder) for image in without])}): give each {place}, or take them out'
        )


def _check_readable(files: Sequence[Path], folder: Path) -> None:
    """Open every image once, which reads its header and does not decode it."""
    from PIL import Image

    unreadable = []
    distinct = list(dict.fromkeys(files))
    for file in progress_bar(distinct, desc='check images', unit='image', delay=2, leave=False):
        try:
            with Image.open(file):
                pass
        except Exception:  # see `PictureFolder`
            unreadable.append(_name(file, folder))
    if unreadable:
        raise ConfigError(
            f'{len(unreadable)} of {len(distinct)} images in {str(folder)!r} cannot be read ({few(unreadable)}): repair them, or '
            'take them out'
        )
