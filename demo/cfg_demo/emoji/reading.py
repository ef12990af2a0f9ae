"""The pictures of a folder of emoji in memory, each once, with what they show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cfg_demo.emoji.concepts import Concept
from cfg_demo.emoji.data import CONCEPTS, TABLE, read_manifest
from cfg_demo.image.picture import to_tensor
from cfg_demo.progress import progress_bar
from classifier_free_guidance_pytorch.errors import ConfigError


@dataclass(frozen=True)
class Pictures:
    """All pictures of a folder.

    Args:
        images: `(n, 3, s, s)` uint8.
        concept: `(n,)`, places in `concepts`.
        style: `(n,)`, places in `styles`.
        groups: Of each picture: 'seen', 'held-out style' or 'held-out concept'.
        concepts: Each once.
        styles: Their names.
    """

    images: Tensor
    concept: Tensor
    style: Tensor
    groups: tuple[str, ...]
    concepts: tuple[Concept, ...]
    styles: tuple[str, ...]

    def of_groups(self, *groups: str) -> Tensor:
        """Return the places `(m,)` of the pictures of some groups."""
        return torch.tensor([at for at, group in enumerate(self.groups) if group in groups], dtype=torch.long)

    def floats(self, rows: Tensor) -> Tensor:
        """Return some pictures `(m, 3, s, s)` from 0 to 1."""
        return self.images[rows].float() / 255


def read_pictures_of(folder: Path, styles: Sequence[str] | None = None) -> Pictures:
    """Return the pictures that `cfg-demo emoji-data` wrote.

    Args:
        folder: What it wrote to.
        styles: Those that are needed; all that are there by default.

    Raises:
        ConfigError: It is no such folder, or lacks a style or a picture.
    """
    manifest = read_manifest(folder)
    known = tuple(manifest['styles'])
    if lacking := [style for style in styles or () if style not in known]:
        raise ConfigError(f'{str(folder)!r} lacks the style {", ".join(lacking)}: it has {", ".join(known)}')
    concepts = tuple(Concept(row['name'], tuple(row['tags']), row['category'], row['code']) for row in _rows(folder / CONCEPTS))
    place = {concept.code: at for at, concept in enumerate(concepts)}
    found: dict[Path, tuple[str, str]] = {}
    for part in ('train', 'held_out'):
        for row in _rows(folder / part / TABLE):
            found.setdefault(folder / part / row['file_name'], (row['style'], row['group']))
    images, concept = [], []
    for file in progress_bar(found, desc='read', unit='picture', delay=2, leave=False):
        images.append(_read(file, manifest['size']))
        concept.append(place[file.stem])
    style = torch.tensor([known.index(each) for each, _ in found.values()])
    groups = tuple(group for _, group in found.values())
    return Pictures(torch.stack(images), torch.tensor(concept), style, groups, concepts, known)


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        return [json.loads(line) for line in table.read_text(encoding='utf-8').splitlines()]
    except (OSError, ValueError) as error:
        raise ConfigError(f'{str(table)!r} cannot be read ({error}): run cfg-demo emoji-data again') from error


def _read(file: Path, size: int) -> Tensor:
    from PIL import Image

    try:
        with Image.open(file) as picture:
            return (to_tensor(picture, size, 3) * 255).round().to(torch.uint8)
    except OSError as error:
        raise ConfigError(f'the picture {str(file)!r} cannot be read ({error}): run cfg-demo emoji-data again') from error
