"""An endless, reproducible supply of captioned pictures.

Item `i` of a dataset depends on its split, its seed and `i`, and on nothing else: not on the batch, the worker or the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cfg_demo.shapes.captions import Scene, Thing, phrase
from cfg_demo.shapes.layout import HELD_OUT, Layout, arrange, check_zoom
from cfg_demo.shapes.render import render
from cfg_demo.shapes.words import BACKGROUNDS, COLOURS, PLACES, RELATIONS, SHAPES, SIZES
from classifier_free_guidance_pytorch.errors import ConfigError

SPLITS = ('train', 'held_out')
SIZED = 0.5  # how often a caption tells a size, unless it tells all
# How often each kind of scene is drawn: one thing; two or three alike; two related; two or three listed.
KINDS: dict[str, float] = {'single': 0.4, 'count': 0.2, 'relation': 0.28, 'list': 0.12}


@dataclass(frozen=True)
class Sample:
    """One captioned picture.

    Args:
        image: `(3, s, s)` float32 from 0 to 1.
        caption: what it shows, in words.
        scene: what the caption means.
        layout: what was drawn.
    """

    image: Tensor
    caption: str
    scene: Scene
    layout: Layout


def _thing(rng: Random, trained_only: bool, count: int, full: bool, sized: float = SIZED) -> Thing:
    """A thing that names most of its attributes, or, when `full`, at least its colour and its shape."""
    while True:
        shape = rng.choice(tuple(SHAPES)) if full or rng.random() < 0.94 else None
        colour = rng.choice(tuple(COLOURS)) if full or shape is None or rng.random() < 0.92 else None
        sizes = tuple(SIZES) if count < 3 else ('small', 'medium')
        size = rng.choice(sizes) if rng.random() < sized else None
        if not trained_only or (colour, shape) not in HELD_OUT:
            return Thing(shape, colour, size, count)


def _held_out_thing(rng: Random, count: int, sized: float) -> Thing:
    colour, shape = rng.choice(sorted(HELD_OUT))
    sizes = tuple(SIZES) if count < 3 else ('small', 'medium')
    return Thing(shape, colour, rng.choice(sizes) if rng.random() < sized else None, count)


def draw_scene(rng: Random, split: str = 'train', kinds: Sequence[str] = tuple(KINDS), told: float = 0.4) -> Scene:
    """Draws the meaning of a caption.

    Args:
        rng: the source of randomness.
        split: 'train' names no held-out pair of colour and shape; 'held_out' names one in every scene.
        kinds: the kinds of scene to draw from, keys of `KINDS`.
        told: how often a caption tells the place of its only thing, and how often its background; at 1 a caption of one thing
            leaves nothing open, its size included.

    Returns:
        A scene.
    """
    kind = rng.choices(kinds, [KINDS[each] for each in kinds])[0]
    trained_only = split == 'train'
    bodies = {'single': 1, 'relation': 2}.get(kind) or rng.choice((2, 3))
    alike = bodies if kind == 'count' else 1
    full, sized = kind in ('relation', 'list') or told == 1, 1.0 if told == 1 else SIZED
    things = [_thing(rng, trained_only, alike, full, sized)] if trained_only else [_held_out_thing(rng, alike, sized)]
    while sum(thing.count for thing in things) < bodies:
        another = _thing(rng, trained_only, 1, full=True)
        crowded = bodies == 3 and another.size == 'large'
        if not crowded and all((another.colour, another.shape) != (thing.colour, thing.shape) for thing in things):
            things.append(another)
    if bodies == 3 and things[0].size == 'large':
        things[0] = Thing(things[0].shape, things[0].colour, 'medium')
    rng.shuffle(things)
    return Scene(
        tuple(things),
        relation=rng.choice(tuple(RELATIONS)) if kind == 'relation' else None,
        place=rng.choice(tuple(PLACES)) if kind == 'single' and rng.random() < told else None,
        background=rng.choice(tuple(BACKGROUNDS)) if rng.random() < told else None,
    )


class ShapesDataset(Dataset[Sample]):
    """Captioned pictures, drawn when they are asked for.

    Args:
        split: 'train', or 'held_out': captions that each name a pair of colour and shape never drawn in training.
        size: width and height in pixels.
        length: number of items.
        seed: another seed is another set.
        kinds: the kinds of scene: 'single', 'count', 'relation', 'list'; one that is named twice is drawn twice as often.
        told: how often a caption tells the place of its only thing, and how often its background; at 1 a caption of one thing
            leaves nothing open, its size included.
        zoom: how many times larger than usual the bodies are, from 1 to 1.5; above 1 every scene is 'single'.

    Raises:
        ConfigError: an unknown split or kind, a share outside [0, 1], a length below 1, fewer than 16 pixels, a zoom that does
            not fit.

    Example:
        >>> ShapesDataset(length=8)[3].image.shape
        torch.Size([3, 32, 32])
    """

    def __init__(
        self,
        split: str = 'train',
        *,
        size: int = 32,
        length: int = 100_000,
        seed: int = 0,
        kinds: Sequence[str] = tuple(KINDS),
        told: float = 0.4,
        zoom: float = 1.0,
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(f'split is {split!r}, but must be one of {", ".join(SPLITS)}.')
        unknown = sorted(set(kinds) - set(KINDS))
        if unknown or not kinds:
            raise ConfigError(f'kinds is {list(kinds)!r}, but must name at least one of {", ".join(KINDS)}, and nothing else.')
        if not 0.0 <= told <= 1.0:
            raise ConfigError(f'told is a share between 0 and 1, but got {told}.')
        if length < 1:
            raise ConfigError(f'length is {length}, but a dataset needs at least one item.')
        check_zoom(zoom)
        if zoom > 1 and set(kinds) != {'single'}:
            raise ConfigError(f"zoom is {zoom}, which leaves room for one body: pass kinds=('single',), not {list(kinds)!r}.")
        render([], size)  # refuses a size that cannot be drawn before any work is done
        self.split, self.size, self.length, self.seed = split, size, length, seed
        self.kinds, self.told, self.zoom = tuple(kinds), told, zoom

    def __len__(self) -> int:
        """Number of items."""
        return self.length

    def _plan(self, index: int) -> tuple[Scene, str, Layout]:
        rng = Random(f'{self.split}/{self.seed}/{index}')
        scene = draw_scene(rng, self.split, self.kinds, self.told)
        return scene, phrase(scene, rng), arrange(scene, rng, trained_only=self.split == 'train', zoom=self.zoom)

    def __getitem__(self, index: int) -> Sample:
        """Item `index`; IndexError beyond the end, so that plain iteration stops."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Several items at once, which is how a DataLoader asks: they are rendered together."""
        if beyond := [index for index in indices if not 0 <= index < self.length]:
            raise IndexError(f'index {beyond[0]} is outside the {self.length} items of this dataset')
        plans = [self._plan(index) for index in indices]
        images = render([layout for *_, layout in plans], self.size)
        return [Sample(image, caption, scene, layout) for image, (scene, caption, layout) in zip(images, plans, strict=True)]


def collate(samples: Sequence[Sample]) -> tuple[Tensor, list[str]]:
    """Images `(b, 3, s, s)` from 0 to 1, and their captions: a `collate_fn` for a DataLoader over `ShapesDataset`."""
    return torch.stack([sample.image for sample in samples]), [sample.caption for sample in samples]
