"""The pictures in the packages: which concept each of them shows, and the picture itself on white."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from cfg_demo.emoji.concepts import Concept, code_of
from cfg_demo.emoji.packages import members
from classifier_free_guidance_pytorch.errors import ConfigError

FOLDERS = {'noto': 'img/google/64/', 'twemoji': 'img/twitter/64/', 'fluent': 'assets/'}


def read_pictures(archive: Path, style: str, concepts: Mapping[str, Concept], size: int) -> Iterator[tuple[Concept, Image.Image]]:
    """Yield the concepts that a package has pictures of, with the pictures.

    Args:
        archive: The package of a style.
        style: A key of `FOLDERS`.
        concepts: By their code points.
        size: Width and height in pixels.

    Raises:
        ConfigError: A picture that cannot be decoded, by its name.
    """
    for name, content in members(archive, [FOLDERS[style]]):
        concept = concepts.get(code_of(name.rpartition('/')[2]))
        if concept is None:
            continue
        try:
            with Image.open(io.BytesIO(content)) as picture:
                yield concept, on_white(picture, size)
        except (UnidentifiedImageError, OSError) as error:
            raise ConfigError(f'{name!r} of {str(archive)!r} is no picture ({error})') from error


def on_white(picture: Image.Image, size: int) -> Image.Image:
    """Return a picture as a square of `size` pixels, on white where it is transparent."""
    small = picture.convert('RGBA').resize((size, size), Image.Resampling.LANCZOS)  # Pillow weights the colours by alpha
    return Image.alpha_composite(Image.new('RGBA', small.size, 'white'), small).convert('RGB')
