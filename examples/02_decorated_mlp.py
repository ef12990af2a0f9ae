"""A decorated MLP: colours from words. Text conditioning and guidance are six lines of it.

    python examples/02_decorated_mlp.py --out docs/pictures/decorated_mlp.png

A sample is six numbers: the shade of a shape and the shade of its background, as the picture world draws them for a caption.
Shades vary, captions leave things open, and one in five is wrong, as captions from the web are: so the model learns a
distribution, and guidance moves it. Measured, per scale: how many samples have both colours that the text asks for.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from cfg_demo.shapes import Body, Layout, Scene, Thing, arrange, parse, phrase, render
from cfg_demo.shapes.layout import BACKDROPS, PALETTE
from classifier_free_guidance_pytorch import TextEncoding, classifier_free_guidance_class_decorator

SCALES = (0.0, 1.0, 2.0, 4.0, 8.0)
PROMPTS = (
    'a red circle on a light background',
    'a sunny star on a navy background',
    'a heart that is emerald on a black field',
    'we see an indigo ring against a white backdrop',
    'a turquoise cross, the canvas is grey',
)
WRONG = 0.2  # the share of captions that belong to another sample


@classifier_free_guidance_class_decorator
class ShadeDenoiser(nn.Module):
    """The velocity of six numbers, from data towards noise; the text conditions both hiddens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.read = nn.Linear(6 + 1, dim)
        self.hidden = nn.Linear(dim, dim)
        self.write = nn.Linear(dim, 6)

    def forward(self, shades: Tensor, time: Tensor, cond_fns: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
        first, second = cond_fns
        hiddens = F.silu(first(self.read(torch.cat((shades, time.unsqueeze(-1)), dim=-1))))
        velocity: Tensor = self.write(F.silu(second(self.hidden(hiddens))))
        return velocity


def draw_data(count: int, rng: Random) -> tuple[Tensor, list[str]]:
    """Shades `(count, 6)` from -1 to 1, and a caption for each."""
    scenes = [
        Scene((Thing(rng.choice(('circle', 'star', 'heart')), rng.choice([*PALETTE])),), background=rng.choice([*BACKDROPS]))
        for _ in range(count)
    ]
    layouts = [arrange(scene, rng) for scene in scenes]
    told = [rng.choice(scenes) if rng.random() < WRONG else scene for scene in scenes]
    shades = torch.tensor([(*layout.bodies[0].rgb, *layout.rgb) for layout in layouts])
    return 2 * shades - 1, [phrase(scene, rng) for scene in told]


def train(model: Any, steps: int, captions: int, generator: torch.Generator, batch: int = 256) -> None:
    """Flow matching (arXiv 2210.02747) on stored encodings; the library drops the text of every tenth sample."""
    shades, texts = draw_data(captions, Random(generator.initial_seed()))
    encoding = TextEncoding.collate([model.encode_texts(texts[i : i + batch])[0] for i in range(0, captions, batch)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    model.train()
    for _ in tqdm(range(steps), desc='train'):
        chosen = torch.randint(captions, (batch,), generator=generator)
        data, noise = shades[chosen], torch.randn(batch, 6, generator=generator)
        time = torch.rand(batch, generator=generator)
        noisy = torch.lerp(data, noise, time.unsqueeze(-1))
        loss = F.mse_loss(model(noisy, time, text_embeds=encoding[chosen]), noise - data)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


@torch.no_grad()
def sample(model: Any, prompt: str, scale: float, count: int, generator: torch.Generator, steps: int = 25) -> Tensor:
    """Shades `(count, 6)` from 0 to 1, by Euler steps."""
    model.eval()
    prepared = model.prepare([prompt])  # one text for the whole batch, read once for all steps
    shades = torch.randn(count, 6, generator=generator)
    for step in range(steps):
        time = torch.full((count,), 1 - step / steps)
        shades = shades - model(shades, time, text_condition=prepared, cond_scale=scale) / steps
    return (shades / 2 + 0.5).clamp(0, 1)


def satisfied(shades: Tensor, scene: Scene) -> Tensor:
    """Which samples `(count,)` are nearest to the two colours that a scene names."""
    found = []
    for part, table, name in zip(
        (shades[:, :3], shades[:, 3:]), (PALETTE, BACKDROPS), (scene.things[0].colour, scene.background), strict=True
    ):
        nearest = torch.cdist(part, torch.tensor([*table.values()])).argmin(dim=1)
        found.append(nearest == [*table].index(str(name)))
    return found[0] & found[1]


def picture(shades: Tensor, shape: str | None, size: int = 24) -> Tensor:
    """One strip `(size, count * size, 3)`: each sample as the shape in its shade, on its background."""
    bodies = [Body(shape, None, None, 0.5, 0.5, 0.3, 0.0, tuple(row[:3])) for row in shades.tolist()]
    layouts = [Layout((body,), None, tuple(row[3:])) for body, row in zip(bodies, shades.tolist(), strict=True)]
    return torch.cat([tile.permute(1, 2, 0) for tile in render(layouts, size)], dim=1)


def draw(strips: dict[tuple[str, float], Tensor], out: Path) -> None:
    """Rows are prompts, columns are scales."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(SCALES) + 2.5, 0.45 * len(PROMPTS) + 0.4), dpi=80, layout='constrained')
    axes = figure.subplots(len(PROMPTS), len(SCALES), squeeze=False)
    for axis, ((prompt, scale), strip) in zip(axes.flat, strips.items(), strict=True):
        axis.imshow(strip.numpy(), interpolation='nearest')
        axis.set(xticks=[], yticks=[], title=f'cond_scale {scale:g}' if prompt == PROMPTS[0] else None)
        if scale == SCALES[0]:
            axis.set_ylabel(textwrap.fill(prompt, 26), rotation=0, ha='right', va='center')
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


def main(
    steps: int = 2000, captions: int = 4096, samples: int = 400, seed: int = 0, out: str | Path | None = 'decorated_mlp.png'
) -> dict[float, float]:
    """Train, sample at every scale, print and draw.

    Args:
        steps: Training steps.
        captions: Training captions.
        samples: Samples per prompt and scale.
        seed: Of everything.
        out: Where the picture goes, or None for none.

    Returns:
        By scale: the share of samples with both colours of their text.
    """
    torch.manual_seed(seed)
    decorated: Any = ShadeDenoiser  # the decorator adds the text_condition_* arguments, which its type does not show
    model = decorated(
        dim=128,
        text_condition_type='film',
        text_condition_model_types='mini',
        text_condition_hidden_dims=(128, 128),
        text_condition_cond_drop_prob=0.1,
    )
    train(model, steps, captions, torch.Generator().manual_seed(seed))
    strips, shares = {}, dict.fromkeys(SCALES, 0.0)
    for prompt in PROMPTS:
        for scale in SCALES:
            shades = sample(model, prompt, scale, samples, torch.Generator().manual_seed(seed + 1))
            shares[scale] += float(satisfied(shades, parse(prompt)).float().mean()) / len(PROMPTS)
            strips[prompt, scale] = picture(shades[:8], parse(prompt).things[0].shape)
    for scale, share in shares.items():
        print(f'cond_scale {scale:g}: {share:6.1%} of the samples have both colours')
    if out is not None:
        draw(strips, Path(out))
    return shares


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=2000, help='training steps')
    parser.add_argument('--captions', type=int, default=4096, help='training captions')
    parser.add_argument('--samples', type=int, default=400, help='samples per prompt and scale')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', default='decorated_mlp.png', help='where the picture goes')
    main(**vars(parser.parse_args()))
