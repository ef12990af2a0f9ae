"""Shades from words: six numbers, the shade of a shape and that of its background, as the drawn world makes them for a caption.

Shades vary, captions leave things open, and one in five is wrong, as captions from the web are: so a model learns a distribution,
and guidance moves it.
"""

from __future__ import annotations

from random import Random

import torch
from torch import Tensor

from cfg_demo.shapes import Body, Layout, Scene, Thing, arrange, parse, phrase, render
from cfg_demo.shapes.layout import BACKDROPS, PALETTE

PROMPTS = (
    'a red circle on a light background',
    'a sunny star on a navy background',
    'a heart that is emerald on a black field',
    'we see an indigo ring against a white backdrop',
    'a turquoise cross, the canvas is grey',
)
WRONG = 0.2  # the share of captions that belong to another sample


def draw_data(count: int, rng: Random) -> tuple[Tensor, list[str]]:
    """Return shades `(count, 6)` from -1 to 1, and a caption for each."""
    scenes = [
        Scene((Thing(rng.choice(('circle', 'star', 'heart')), rng.choice([*PALETTE])),), background=rng.choice([*BACKDROPS]))
        for _ in range(count)
    ]
    layouts = [arrange(scene, rng) for scene in scenes]
    told = [rng.choice(scenes) if rng.random() < WRONG else scene for scene in scenes]
    shades = torch.tensor([(*layout.bodies[0].rgb, *layout.rgb) for layout in layouts])
    return 2 * shades - 1, [phrase(scene, rng) for scene in told]


def satisfied(shades: Tensor, prompt: str) -> Tensor:
    """Return which shades `(n, 6)`, from 0 to 1, are nearest to the two colours that a prompt names, `(n,)`."""
    found, scene = [], parse(prompt)
    for part, table, name in zip(
        (shades[:, :3], shades[:, 3:]), (PALETTE, BACKDROPS), (scene.things[0].colour, scene.background), strict=True
    ):
        nearest = torch.cdist(part, torch.tensor([*table.values()])).argmin(dim=1)
        found.append(nearest == [*table].index(str(name)))
    return found[0] & found[1]


def pictures(shades: Tensor, prompt: str, size: int = 24) -> Tensor:
    """Return each row of shades `(n, 6)` as the shape of a prompt on its background, `(n, 3, size, size)`."""
    shape = parse(prompt).things[0].shape
    bodies = [Body(shape, None, None, 0.5, 0.5, 0.3, 0.0, tuple(row[:3])) for row in shades.tolist()]
    layouts = [Layout((body,), None, tuple(row[3:])) for body, row in zip(bodies, shades.tolist(), strict=True)]
    return torch.stack(list(render(layouts, size)))
