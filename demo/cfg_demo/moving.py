"""Moving shapes: clips `(b, c, f, h, w)` of one thing that crosses the picture, their captions, and what is read off a clip.

One caption in five of the training set is wrong, as captions from the web are: that is what a scale above 1 undoes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfg_demo.shapes import Layout, Scene, Thing, arrange, phrase, render
from cfg_demo.shapes.layout import PALETTE

FRAMES, SIZE = 5, 16
COLOURS, SHAPES = ('red', 'yellow', 'green', 'blue'), ('circle', 'square', 'cross')
MOVES = {'left': (-1, 0), 'right': (1, 0), 'up': (0, -1), 'down': (0, 1)}
STRIDE = 0.13  # in widths of the picture, per frame: a thing crosses most of it
WRONG = 0.2  # the share of clips in training whose caption belongs to another
MEANINGS = [*product(SHAPES, COLOURS, MOVES)]
CAPTIONS = [f'{phrase(Scene((Thing(shape, colour),)))} moving {move}' for shape, colour, move in MEANINGS]


class SpacetimeBlock(nn.Module):
    """Residual: normalise, condition, convolve over space and then over time."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, dim)
        self.space = nn.Conv3d(dim, dim, (1, 3, 3), padding=(0, 1, 1))
        self.time = nn.Conv3d(dim, dim, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, hiddens: Tensor, condition: Callable[[Tensor], Tensor]) -> Tensor:
        changed: Tensor = hiddens + self.time(F.silu(self.space(F.silu(condition(self.norm(hiddens))))))
        return changed


class SpacetimeAttention(nn.Module):
    """Residual: every place of every frame attends to all others, which makes one motion of the frames."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, dim)
        self.attend = nn.MultiheadAttention(dim, num_heads=4, batch_first=True)

    def forward(self, hiddens: Tensor, condition: Callable[[Tensor], Tensor]) -> Tensor:
        tokens = condition(self.norm(hiddens)).flatten(2).transpose(1, 2)  # (b, f * h * w, dim)
        attended, _ = self.attend(tokens, tokens, tokens, need_weights=False)
        changed: Tensor = hiddens + attended.transpose(1, 2).reshape_as(hiddens)
        return changed


def film(thing: Thing, move: str, rng: Random) -> list[Layout]:
    """Return the layouts of the frames of one clip: a thing that stays in the picture while it moves."""
    layout = arrange(Scene((thing,), background='dark'), rng)
    body, (dx, dy) = layout.bodies[0], MOVES[move]
    room, way = 0.02 + 1.15 * body.radius, STRIDE * (FRAMES - 1)
    x = rng.uniform(room + way * max(-dx, 0), 1 - room - way * max(dx, 0))
    y = rng.uniform(room + way * max(-dy, 0), 1 - room - way * max(dy, 0))
    steps = range(FRAMES)
    return [replace(layout, bodies=(replace(body, x=x + STRIDE * i * dx, y=y + STRIDE * i * dy),)) for i in steps]


def draw_clips(count: int, rng: Random) -> tuple[Tensor, list[int]]:
    """Return clips `(count, 3, FRAMES, SIZE, SIZE)` from -1 to 1, and which of the `CAPTIONS` belongs to each."""
    shown = [rng.randrange(len(MEANINGS)) for _ in range(count)]
    drawn = [MEANINGS[index] for index in shown]
    layouts = [frame for shape, colour, move in drawn for frame in film(Thing(shape, colour, 'medium'), move, rng)]
    frames = render(layouts, SIZE).reshape(count, FRAMES, 3, SIZE, SIZE)
    return 2 * frames.transpose(1, 2) - 1, [rng.randrange(len(MEANINGS)) if rng.random() < WRONG else index for index in shown]


def read_clip(clip: Tensor) -> tuple[str, str | None]:
    """Return the colour of what stands out from the background, and where its centre of mass moves.

    The move is None where it is less than half the way.
    """
    background = clip.flatten(1).median(dim=1).values[:, None, None, None]
    weight = ((clip - background).norm(dim=0) - 0.25).clamp(min=0)  # (f, h, w)
    shade = (clip * weight).sum(dim=(1, 2, 3)) / (weight.sum() + 1e-6)
    colour = min(COLOURS, key=lambda name: float((shade - torch.tensor(PALETTE[name])).norm()))
    mass = weight.sum(dim=(1, 2)) + 1e-6
    centre = (torch.arange(SIZE) + 0.5) / SIZE
    x, y = weight.sum(dim=1) @ centre / mass, weight.sum(dim=2) @ centre / mass
    way = torch.stack((x[-1] - x[0], y[-1] - y[0]))
    if way.abs().max() < 0.5 * STRIDE * (FRAMES - 1):
        return colour, None
    return colour, max(MOVES, key=lambda move: float(way @ torch.tensor(MOVES[move]).float()))


def shares(clips: Tensor, captions: Sequence[int]) -> tuple[float, float]:
    """Return the share of clips `(n, c, f, h, w)` that move where their caption says, and of those in its colour as well.

    Args:
        clips: From 0 to 1.
        captions: Which of the `CAPTIONS` was asked for, `n` of them.
    """
    pairs = [(read_clip(clip), MEANINGS[index][1:]) for clip, index in zip(clips, captions, strict=True)]
    moves = sum(found[1] == asked[1] for found, asked in pairs)
    return moves / len(pairs), sum(found == asked for found, asked in pairs) / len(pairs)


def save_clips(path: Path, clips: Mapping[float, Tensor], texts: Sequence[str]) -> None:
    """Write an animation, rows are prompts and columns scales; and a PNG of the same name with all frames side by side."""
    import matplotlib as mpl

    mpl.use('Agg')
    import matplotlib.pyplot as plt
    from matplotlib.animation import FuncAnimation, PillowWriter

    options = {'squeeze': False, 'layout': 'constrained', 'subplot_kw': {'xticks': [], 'yticks': []}}
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(len(texts), len(clips), figsize=(1.3 * len(clips) + 1.4, 1.15 * len(texts)), dpi=72, **options)
    strip, rows = plt.subplots(len(texts), len(clips), figsize=(3.9 * len(clips) + 1.4, 0.75 * len(texts)), dpi=72, **options)
    shown = []
    for row, column in product(range(len(texts)), range(len(clips))):
        scale, clip = [*clips.items()][column]
        frames = clip[row].permute(1, 2, 3, 0)  # (f, h, w, c)
        shown.append((axes[row, column].imshow(frames[0].numpy()), frames))
        rows[row, column].imshow(F.pad(frames, (0, 0, 0, 1), value=1.0).transpose(0, 1).flatten(1, 2).numpy())
        for axis in (axes[row, column], rows[row, column]):
            axis.set_title(f'cond_scale {scale:g}' if row == 0 else '', fontsize=9)
            axis.set_ylabel(texts[row].replace(' moving', '\nmoving') if column == 0 else '', rotation=0, ha='right', fontsize=8)
    animation = FuncAnimation(figure, lambda i: [image.set_data(frames[i].numpy()) for image, frames in shown], FRAMES)
    animation.save(path.with_suffix('.gif'), PillowWriter(fps=5))
    strip.savefig(path.with_suffix('.png'))
    plt.close('all')
