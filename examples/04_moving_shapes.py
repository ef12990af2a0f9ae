"""A spacetime U-Net on moving shapes: clips `(b, c, f, h, w)` from "a red circle moving left".

    python examples/04_moving_shapes.py --out docs/pictures/moving_shapes.gif

The library conditions hiddens of any rank, so the five dimensions of video ask for nothing. Convolutions are factorised, one over
height and width and one over the frames, and at the lowest resolution every place of every frame attends to all others. Noise
levels and sampler are diffusers' flow matching. Measured, per scale: how many clips move in the direction that their text names,
read off the centre of mass of what stands out from the background, and how many do so in the colour that it names. One caption in
five of the training set is wrong, as captions from the web are: that is what a scale above 1 undoes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from cfg_demo.muon import muon_and_adam
from cfg_demo.shapes import Layout, Scene, Thing, arrange, phrase, render
from cfg_demo.shapes.layout import PALETTE
from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator

FRAMES, SIZE = 5, 16
COLOURS, SHAPES = ('red', 'yellow', 'green', 'blue'), ('circle', 'square', 'cross')
MOVES = {'left': (-1, 0), 'right': (1, 0), 'up': (0, -1), 'down': (0, 1)}
STRIDE = 0.13  # in widths of the picture, per frame: a thing crosses most of it
SCALES = (0.0, 1.0, 2.0, 4.0)
WRONG = 0.2  # the share of clips in training whose caption belongs to another
SHIFT = 3.0  # towards noise, where motion is decided (arXiv 2403.03206, section 5.3.2)
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


@classifier_free_guidance_class_decorator
class SpacetimeUNet(nn.Module):
    """The velocity of clips, from data towards noise. One conditioned hidden for each of `widths`, in that order."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(32, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.place = nn.Parameter(0.5 * torch.randn(dim, FRAMES, SIZE // 2, SIZE // 2))
        self.read = nn.Conv3d(3, dim, (1, 2, 2), stride=(1, 2, 2))
        self.before, self.after = SpacetimeBlock(dim), SpacetimeBlock(dim)
        self.down = nn.Conv3d(dim, 3 * dim, (1, 2, 2), stride=(1, 2, 2))
        self.middle = nn.ModuleList([layer(3 * dim) for layer in 2 * (SpacetimeAttention, SpacetimeBlock)])
        self.up = nn.ConvTranspose3d(3 * dim, dim, (1, 2, 2), stride=(1, 2, 2))
        self.write = nn.ConvTranspose3d(dim, 3, (1, 2, 2), stride=(1, 2, 2))

    @staticmethod
    def widths(dim: int) -> tuple[int, ...]:
        return (dim, *4 * (3 * dim,), dim)

    def forward(self, clips: Tensor, time: Tensor, cond_fns: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
        first, *inner, last = cond_fns
        waves = time[:, None] * torch.logspace(0, 2, 16)
        when = self.time(torch.cat((waves.sin(), waves.cos()), dim=1))
        hiddens = self.read(clips) + self.place + when[:, :, None, None, None]  # (b, dim, f, h / 2, w / 2)
        skip = self.before(hiddens, first)
        hiddens = self.down(skip)  # (b, 3 * dim, f, h / 4, w / 4)
        for layer, condition in zip(self.middle, inner, strict=True):
            hiddens = layer(hiddens, condition)
        velocity: Tensor = self.write(self.after(self.up(hiddens) + skip, last))
        return velocity


def film(thing: Thing, move: str, rng: Random) -> list[Layout]:
    """The layouts of the frames of one clip: a thing that stays in the picture while it moves."""
    layout = arrange(Scene((thing,), background='dark'), rng)
    body, (dx, dy) = layout.bodies[0], MOVES[move]
    room, way = 0.02 + 1.15 * body.radius, STRIDE * (FRAMES - 1)
    x = rng.uniform(room + way * max(-dx, 0), 1 - room - way * max(dx, 0))
    y = rng.uniform(room + way * max(-dy, 0), 1 - room - way * max(dy, 0))
    steps = range(FRAMES)
    return [replace(layout, bodies=(replace(body, x=x + STRIDE * i * dx, y=y + STRIDE * i * dy),)) for i in steps]


def draw_clips(count: int, rng: Random) -> tuple[Tensor, list[int]]:
    """Clips `(count, 3, FRAMES, SIZE, SIZE)` from -1 to 1, and which of the `CAPTIONS` says each."""
    shown = [rng.randrange(len(MEANINGS)) for _ in range(count)]
    drawn = [MEANINGS[index] for index in shown]
    layouts = [frame for shape, colour, move in drawn for frame in film(Thing(shape, colour, 'medium'), move, rng)]
    frames = render(layouts, SIZE).reshape(count, FRAMES, 3, SIZE, SIZE)
    return 2 * frames.transpose(1, 2) - 1, [rng.randrange(len(MEANINGS)) if rng.random() < WRONG else index for index in shown]


def train(model: Any, steps: int, seed: int, batch: int = 32) -> None:
    """Flow matching (arXiv 2210.02747); the library drops the text of every tenth clip."""
    rng, generator = Random(seed), torch.Generator().manual_seed(seed)
    optimizers = muon_and_adam(model)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1)) for optimizer in optimizers]
    (encoding,) = model.encode_texts(CAPTIONS)  # the encoder is frozen: once is enough
    model.train()
    bar = tqdm(range(steps), desc='train')
    for _ in bar:
        data, said = draw_clips(batch, rng)
        noise = torch.randn(data.shape, generator=generator)
        time = torch.rand(batch, generator=generator)
        time = SHIFT * time / (1 + (SHIFT - 1) * time)
        noisy = torch.lerp(data, noise, time[:, None, None, None, None])
        loss = F.mse_loss(model(noisy, time, text_embeds=encoding[said]), noise - data)
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        bar.set_postfix(loss=f'{loss.item():.3f}', refresh=False)


@torch.no_grad()
def sample(model: Any, texts: list[str], scale: float, seed: int, steps: int) -> Tensor:
    """Clips `(b, 3, FRAMES, SIZE, SIZE)` from 0 to 1."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    model.eval()
    prepared = model.prepare(texts)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    scheduler.set_timesteps(steps)
    clips = torch.randn(len(texts), 3, FRAMES, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        velocity = model(clips, sigma.expand(len(texts)), text_condition=prepared, cond_scale=scale)
        clips = scheduler.step(velocity, timestep, clips).prev_sample
    return (clips / 2 + 0.5).clamp(0, 1)


def seen(clip: Tensor) -> tuple[str, str | None]:
    """The colour of what stands out from the background, and where its centre of mass moves; None for less than half the way."""
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


def draw(clips: dict[float, Tensor], texts: Sequence[str], out: Path) -> None:
    """An animation, rows are prompts and columns scales; and beside it a strip of all frames, under the same name as PNG."""
    import matplotlib as mpl

    mpl.use('Agg')
    import matplotlib.pyplot as plt
    from matplotlib.animation import FuncAnimation, PillowWriter

    options = {'squeeze': False, 'layout': 'constrained', 'subplot_kw': {'xticks': [], 'yticks': []}}
    out.parent.mkdir(parents=True, exist_ok=True)
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
    animation.save(out.with_suffix('.gif'), PillowWriter(fps=5))
    strip.savefig(out.with_suffix('.png'))
    plt.close('all')


def main(
    steps: int = 700,
    sample_steps: int = 20,
    clips: int = 4 * len(MEANINGS),
    seed: int = 0,
    out: str | Path | None = 'moving_shapes.gif',
) -> dict[float, tuple[float, float]]:
    """Train, sample at every scale, print and draw.

    Args:
        steps: Training steps.
        sample_steps: Sampling steps.
        clips: Sampled clips per scale, the captions in turn.
        seed: Of everything.
        out: Where the animation goes, or None for none.

    Returns:
        By scale: the share of clips that move where their text says (chance is a quarter), and of those in its colour as well.
    """
    torch.manual_seed(seed)
    decorated: Any = SpacetimeUNet  # the decorator adds the text_condition_* arguments, which its type does not show
    model = decorated(
        dim=24,
        text_condition_type='film',
        text_condition_model_types='mini',
        text_condition_hidden_dims=SpacetimeUNet.widths(24),
        text_condition_cond_drop_prob=0.1,
    )
    train(model, steps, seed)
    said = [index % len(MEANINGS) for index in range(clips)]
    found, shares = {}, {}
    for scale in SCALES:
        found[scale] = sample(model, [CAPTIONS[index] for index in said], scale, seed + 1, sample_steps)
        hits = [(seen(clip), MEANINGS[index][1:]) for clip, index in zip(found[scale], said, strict=True)]
        moves, both = sum(is_[1] == asked[1] for is_, asked in hits) / clips, sum(is_ == asked for is_, asked in hits) / clips
        shares[scale] = moves, both
        print(f'cond_scale {scale:g}: {moves:6.1%} of {clips} clips move where their text says, {both:6.1%} in its colour')
    if out is not None:
        rows = [index for index in (0, 5, 26, 47) if index < clips]
        draw({scale: clip[rows] for scale, clip in found.items()}, [CAPTIONS[said[index]] for index in rows], Path(out))
    return shares


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=700, help='training steps')
    parser.add_argument('--sample-steps', type=int, default=20)
    parser.add_argument('--clips', type=int, default=4 * len(MEANINGS), help='sampled clips per scale')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--out', default='moving_shapes.gif', help='where the animation goes; the strip of its frames stands beside it'
    )
    main(**vars(parser.parse_args()))
