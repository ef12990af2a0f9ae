"""From an image file to a captioned tensor of one size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

MODES = {1: 'L', 3: 'RGB'}  # Pillow's names of grey and colour, by the number of channels


@dataclass(frozen=True)
class Captioned:
    """One image and what it shows.

    Args:
        image: `(c, s, s)` float32 from 0 to 1.
        caption: in words.
    """

    image: Tensor
    caption: str


def to_tensor(picture: Image, size: int, channels: int) -> Tensor:
    """The largest square in the middle of a picture as `(channels, size, size)` float32 from 0 to 1.

    The picture is turned as its camera says, transparent pixels show white, and colour becomes grey, or grey colour, as asked.

    Args:
        picture: an image of Pillow, decoded or not.
        size: width and height of the result in pixels.
        channels: 1 for grey, 3 for colour.

    Raises:
        OSError, ValueError: it cannot be decoded.

    Example:
        >>> from PIL import Image
        >>> to_tensor(Image.new('RGB', (64, 48), 'red'), size=2, channels=3)[:, 0, 0]
        tensor([1., 0., 0.])
    """
    from PIL import Image, ImageOps

    if picture.mode == 'F':
        raise ValueError('it holds floating-point numbers, and nothing says which of them is white')
    if picture.mode.startswith('I'):  # 16 bits, which `convert` would clip to 8 instead of scaling
        picture = picture.point(lambda value: value * (1 / 257)).convert('L')
    picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        picture = picture.convert('RGBA')
        picture = Image.alpha_composite(Image.new('RGBA', picture.size, 'white'), picture)
    square = ImageOps.fit(picture.convert(MODES[channels]), (size, size), Image.Resampling.LANCZOS)
    values = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8)
    return rearrange(values, '(h w c) -> c h w', h=size, w=size).float() / 255
