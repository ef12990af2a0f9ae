"""What a model learns from: the drawn world, a folder of captioned images, or a dataset of Hugging Face."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cfg_demo.image.picture import MODES
from cfg_demo.shapes import KINDS, ShapesDataset
from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError

SHAPES = 'shapes'
DRAWN = 1_000_000  # scenes in an epoch of the drawn world; any number can be drawn


class Item(Protocol):
    """What every dataset here yields."""

    @property
    def image(self) -> Tensor:
        """`(c, s, s)` float32 from 0 to 1."""

    @property
    def caption(self) -> str:
        """What the image shows."""


def collate(items: Sequence[Item]) -> tuple[Tensor, list[str]]:
    """Images `(b, c, s, s)` from 0 to 1 and their captions: the `collate_fn` of a DataLoader."""
    return torch.stack([item.image for item in items]), [item.caption for item in items]


def open_data(
    source: str,
    *,
    size: int,
    channels: int = 3,
    caption_column: str | None = None,
    image_column: str | None = None,
    split: str = 'train',
    seed: int = 0,
    kinds: Sequence[str] | None = None,
    told: float | None = None,
    zoom: float | None = None,
) -> Dataset[Any]:
    """A dataset of captioned images, checked before anything is trained on it; `collate` makes batches of its items.

    Images are cut to the square in their middle and resized; transparent pixels become white.

    Args:
        source: one of
            'shapes': the drawn world, see `cfg_demo.shapes`;
            a folder of images, each with a caption in a text file of its name, or all of them in `metadata.jsonl`, `.csv` or
            `.parquet`; `./shapes` is a folder of that name;
            a dataset of Hugging Face: 'owner/name' or 'owner/name:configuration' on the hub, or a folder that `save_to_disk`
            wrote or that holds Parquet files.
        size: width and height of the images in pixels.
        channels: 1 for grey, 3 for colour.
        caption_column: where a table or a dataset holds the captions; by default 'caption', 'text' or the only column of text.
        image_column: where it holds the images; by default `file_name` of a table, the only column of images of a dataset.
        split: 'train' or another split that the source has; 'held_out' of the drawn world.
        seed: of the drawn world: another seed is another set. Stored images are what they are.
        kinds: the kinds of scene of the drawn world, all by default.
        told: how often a caption of the drawn world tells a place, and a background; see `ShapesDataset`.
        zoom: how many times larger than usual its shapes are; likewise.

    Returns:
        A dataset with a length, whose items have an `image` `(channels, size, size)` and a `caption`.

    Raises:
        ConfigError: no such folder, split or column, an empty folder, images without captions or that cannot be read, captions
            that are empty, or an argument that has no meaning for the source.
        MissingDependencyError: no such dataset, or a library that reads it is not installed.

    Example:
        >>> images, captions = collate([open_data('shapes', size=32)[0]])
        >>> images.shape
        torch.Size([1, 3, 32, 32])
    """
    if size < 1 or channels not in MODES:
        raise ConfigError(f'size counts pixels from 1, and channels are 1 (grey) or 3 (colour), but got {size} and {channels}')
    columns = {'caption_column': caption_column, 'image_column': image_column}
    asked = {'kinds': kinds, 'told': told, 'zoom': zoom}
    scenes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if source == SHAPES:
        return _open_shapes(columns, channels, split=split, size=size, seed=seed, **{**scenes, 'kinds': tuple(kinds or KINDS)})
    if scenes:
        name = next(iter(scenes))
        raise ConfigError(f'{name} is about the scenes of {SHAPES!r}, but the images are those of {source!r}: leave it out')
    if find_spec('PIL') is None:
        raise MissingDependencyError('images are read with Pillow, which is not installed: pip install pillow')
    return _open_images(source, size=size, channels=channels, split=split, **columns)


def _open_shapes(columns: dict[str, str | None], channels: int, **options: Any) -> ShapesDataset:
    given = [name for name, value in columns.items() if value is not None]
    if given:
        raise ConfigError(f'{SHAPES!r} is drawn and has no columns: leave {" and ".join(given)} out')
    if channels != 3:
        raise ConfigError(f'{SHAPES!r} is drawn in colour: channels must be 3, but got {channels}')
    return ShapesDataset(length=DRAWN, **options)


def _open_images(source: str, **options: Any) -> Dataset[Any]:
    from cfg_demo.image.folder import open_folder
    from cfg_demo.image.stored import is_stored, open_stored

    path = Path(source).expanduser()
    if not source.strip() or path.is_file():
        raise ConfigError(f'data is {SHAPES!r}, a folder of images, or the name of a dataset, but got {source!r}')
    if not path.is_dir():
        if path.is_absolute() or source.startswith(('.', '~')) or len(path.parts) > 2:  # a name has one slash at most
            raise ConfigError(f'the folder {source!r} does not exist')
        return open_stored(source, **options)
    try:
        return open_stored(str(path), **options) if is_stored(path) else open_folder(path, **options)
    except OSError as error:
        raise ConfigError(f'the folder {source!r} cannot be read ({error.strerror or error})') from error
