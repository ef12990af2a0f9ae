"""A dataset of Hugging Face with images and captions: from the hub, a folder of Parquet files, or `save_to_disk`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from cfg_demo.image.captions import checked_captions
from cfg_demo.image.folder import images_in
from cfg_demo.image.picture import Captioned, to_tensor
from classifier_free_guidance_pytorch.corpus.read.formats import choose_column
from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError

ROWS_LOOKED_AT = 16  # before training starts; decoding all of a large set would take longer than a first look at the training


class StoredPictures(Dataset[Captioned]):
    """The rows of a dataset; an image is decoded when it is asked for.

    Args:
        rows: a dataset of the library `datasets` whose image column is not decoded.
        image_column: that column.
        captions: one for each row.
        size: width and height of the images in pixels.
        channels: 1 for grey, 3 for colour.
        source: what the dataset is called, for errors.
    """

    def __init__(self, rows: Any, image_column: str, captions: Sequence[str], size: int, channels: int, source: str) -> None:
        self.rows, self.image_column, self.captions = rows, image_column, captions
        self.size, self.channels, self.source = size, channels, source

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.captions)

    def __getitem__(self, index: int) -> Captioned:
        """Item `index`.

        Raises:
            ConfigError: its image is missing or cannot be decoded, by its row.
        """
        import datasets

        caption = self.captions[index]  # ends plain iteration with an IndexError
        stored = self.rows[index][self.image_column]
        try:
            if stored is None:
                raise ValueError('there is none')
            image = to_tensor(datasets.Image().decode_example(stored), self.size, self.channels)
        except Exception as error:  # decoders of damaged files raise whatever they stumble over
            raise ConfigError(f'the image in row {index} of {self.source!r} cannot be decoded ({error}): take it out') from error
        return Captioned(image, caption)


def is_stored(folder: Path) -> bool:
    """Whether a folder holds a dataset and not image files: `save_to_disk` wrote it, or it has Parquet files and no images."""
    if any((folder / name).is_file() for name in ('dataset_dict.json', 'state.json')):
        return True
    return next(folder.rglob('*.parquet'), None) is not None and not images_in(folder)


def open_stored(
    source: str, *, size: int, channels: int, split: str, caption_column: str | None, image_column: str | None
) -> StoredPictures:
    """The images and captions of a dataset.

    Args:
        source: a folder, or a name on the hub, 'owner/name' or 'owner/name:configuration'.
        size: width and height of the images in pixels.
        channels: 1 for grey, 3 for colour.
        split: its split.
        caption_column: its column with the captions; 'caption', 'text' or the only one with text by default.
        image_column: its column with the images; the only one of that type by default.

    Raises:
        ConfigError: no such split or column, no rows, captions that are empty, or images that cannot be decoded.
        MissingDependencyError: `datasets` is not installed, or there is no such dataset.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            f'{source!r} is no folder of images here, and to read it as a dataset of Hugging Face takes the library datasets '
            f"({error}): pip install 'classifier-free-guidance-pytorch[corpus]'"
        ) from error
    rows = _load(datasets, source, split)
    if not len(rows):
        raise ConfigError(f'{source!r} has no rows at split {split!r}')
    rows, image_column = _with_encoded_images(datasets, rows, source, image_column)
    texts = [name for name, kind in rows.features.items() if getattr(kind, 'dtype', None) in ('string', 'large_string')]
    caption_column = choose_column(source, texts, caption_column, 'caption_column')
    captions = checked_captions(source, ((f'row {at}', value) for at, value in enumerate(rows[caption_column])))
    pictures = StoredPictures(rows.select_columns([image_column]), image_column, captions, size, channels, source)
    for step in range(ROWS_LOOKED_AT):
        pictures[step * (len(pictures) - 1) // (ROWS_LOOKED_AT - 1)]  # from the first row to the last
    return pictures


def _load(datasets: Any, source: str, split: str) -> Any:
    """The rows of a split."""
    is_folder = Path(source).is_dir()
    try:
        if is_folder and any((Path(source) / name).is_file() for name in ('dataset_dict.json', 'state.json')):
            return _of_split(datasets.load_from_disk(source), source, split)
        name, _, configuration = (source, '', '') if is_folder else source.partition(':')
        return datasets.load_dataset(name, configuration or None, split=split)
    except ConfigError:
        raise
    except Exception as error:  # the errors of the library and of its clients have no base in common
        reason = f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ""}'
        if is_folder:
            raise ConfigError(f'{source!r} cannot be read as a dataset at split {split!r} ({reason})') from error
        raise MissingDependencyError(
            f'there is no folder {source!r}, and no dataset of that name could be read at split {split!r} ({reason})'
        ) from error


def _of_split(found: Any, source: str, split: str) -> Any:
    """One split of what `save_to_disk` wrote, which is all splits or a single one."""
    if isinstance(found, dict):
        if split not in found:
            raise ConfigError(f'{source!r} has no split {split!r}: it has {", ".join(found)}')
        return found[split]
    if split not in ('train', str(found.split)):
        raise ConfigError(f'{source!r} has no split {split!r}: it holds one set of rows, without splits')
    return found


def _with_encoded_images(datasets: Any, rows: Any, source: str, wanted: str | None) -> tuple[Any, str]:
    """The rows with their image column left encoded, so that what cannot be decoded can be named; and that column."""
    found = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    if wanted is not None and wanted not in rows.features:
        raise ConfigError(f'{source!r} has no image column {wanted!r}: its columns are: {", ".join(rows.features)}')
    if wanted is None and len(found) != 1:
        raise ConfigError(
            f'which column of {source!r} holds the images? Name it as image_column; its columns of images are: '
            f'{", ".join(found) or "none"}, of {", ".join(rows.features)}'
        )
    name = wanted or found[0]
    try:
        return rows.cast_column(name, datasets.Image(decode=False)), name
    except Exception as error:  # Arrow has an error of its own for every type that is no image
        raise ConfigError(f'the column {name!r} of {source!r} holds no images, but {rows.features[name]}') from error
