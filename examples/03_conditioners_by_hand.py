"""Conditioners inside a U-Net of your own, without any decorator: dropout and guidance by hand, with the library's functions.

    python examples/03_conditioners_by_hand.py --out conditioners_by_hand.png

Two conditioners share one network and one encoding of the text: FiLM tells every channel what the whole text says, and
cross-attention lets every place look up single words. A sample that loses its text must lose it in both: that is why dropout is
drawn by hand.
Measured, per scale, by the exact checker of the picture world: how many pictures have both colour and background as asked.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from cfg_demo.shapes import ShapesDataset, check, collate
from classifier_free_guidance_pytorch import AttentionTextConditioner, TextConditioner, TextEncoding, guidance

SIZE = 16
SCALES = (0.0, 1.0, 2.0, 4.0, 7.5)
PROMPTS = (
    'a large red circle on a dark background',
    'a large golden square on a navy background',
    'a large green ring on a light background',
    'a large violet cross on a gray background',
)
Encodings = tuple[TextEncoding, ...]


def block(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), nn.Conv2d(dim, dim, 3, padding=1), nn.SiLU(), nn.Conv2d(dim, dim, 3, padding=1))


class TextUNet(nn.Module):
    """The velocity of pictures, from data towards noise."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.film = TextConditioner(hidden_dims=(dim, dim), model_types='mini')
        self.attend = AttentionTextConditioner(hidden_dims=(2 * dim, 2 * dim), model_types='mini', attn_heads=4, attn_dim_head=32)
        self.time = nn.Sequential(nn.Linear(32, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.place = nn.Parameter(0.5 * torch.randn(dim, SIZE // 2, SIZE // 2))
        self.read = nn.Conv2d(3, dim, 2, stride=2)
        self.down, self.up = nn.Conv2d(dim, 2 * dim, 2, stride=2), nn.ConvTranspose2d(2 * dim, dim, 2, stride=2)
        self.norms = nn.ModuleList([nn.GroupNorm(8, width) for width in (dim, 2 * dim, 2 * dim, dim)])
        self.blocks = nn.ModuleList([block(width) for width in (dim, 2 * dim, 2 * dim, dim)])
        self.write = nn.ConvTranspose2d(dim, 3, 2, stride=2)

    def forward(self, images: Tensor, time: Tensor, encodings: Encodings, drop: Tensor | float) -> Tensor:
        """The velocity `(b, 3, h, w)`.

        Args:
            images: noisy pictures `(b, 3, h, w)`.
            time: flow time `(b,)`, 0 for data and 1 for noise.
            encodings: what `encode_texts` returned, for both conditioners.
            drop: the probability of losing the text; one of 0 and 1 per sample, `(b,)`, is a decision already taken.
        """
        first, last = self.film(text_embeds=encodings, cond_drop_prob=drop)
        inner = self.attend(text_embeds=encodings, cond_drop_prob=drop)
        waves = time[:, None] * torch.logspace(0, 2, 16)
        when = self.time(torch.cat((waves.sin(), waves.cos()), dim=1))[:, :, None, None]
        hiddens = self.read(images) + self.place + when
        hiddens = skip = hiddens + self.blocks[0](first(self.norms[0](hiddens)))
        hiddens = self.down(hiddens)
        for index, look_up in enumerate(inner, start=1):
            hiddens = look_up(hiddens)
            hiddens = hiddens + self.blocks[index](self.norms[index](hiddens))
        hiddens = self.up(hiddens) + skip
        hiddens = hiddens + self.blocks[3](last(self.norms[3](hiddens)))
        velocity: Tensor = self.write(hiddens)
        return velocity


def train(unet: TextUNet, steps: int, seed: int, batch: int = 32, drop_prob: float = 0.1) -> None:
    """Flow matching (arXiv 2210.02747); every tenth sample loses its text, in both conditioners at once."""
    generator = torch.Generator().manual_seed(seed)
    data = ShapesDataset(size=SIZE, length=max(steps, 1) * batch, seed=seed, kinds=('single',))
    optimizer = torch.optim.AdamW(unet.parameters(), lr=2e-3, betas=(0.9, 0.99))
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=max(steps, 1), pct_start=0.1)
    unet.train()
    bar = tqdm(zip(range(steps), DataLoader(data, batch, collate_fn=collate), strict=False), total=steps, desc='train')
    for _, (pictures, captions) in bar:
        images = 2 * pictures - 1
        noise, time = torch.randn(images.shape, generator=generator), torch.rand(batch, generator=generator)
        drop = (torch.rand(batch, generator=generator) < drop_prob).float()
        noisy = torch.lerp(images, noise, time[:, None, None, None])
        loss = F.mse_loss(unet(noisy, time, unet.film.encode_texts(captions), drop), noise - images)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        rate.step()
        bar.set_postfix(loss=f'{loss.item():.3f}', refresh=False)


def guided(unet: TextUNet, images: Tensor, time: Tensor, encodings: Encodings, scale: float) -> Tensor:
    """Two passes and one function of the library, in place of which any other rule of `guidance` may stand."""
    cond: Tensor = unet(images, time, encodings, drop=0.0)
    if scale == 1:
        return cond
    null = unet(images, time, encodings, drop=1.0)
    return guidance.cfg(cond, null, scale)


@torch.no_grad()
def sample(unet: TextUNet, texts: Sequence[str], scale: float, seed: int, steps: int) -> Tensor:
    """Pictures `(b, 3, SIZE, SIZE)` from 0 to 1, by Euler steps."""
    unet.eval()
    encodings = unet.film.encode_texts(texts)
    images = torch.randn(len(texts), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    for step in range(steps):
        time = torch.full((len(texts),), 1 - step / steps)
        images = images - guided(unet, images, time, encodings, scale) / steps
    return (images / 2 + 0.5).clamp(0, 1)


def draw(pictures: dict[float, Tensor], out: Path) -> None:
    """Columns are scales, rows are prompts, with six pictures each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(pictures), 0.9 * len(PROMPTS) + 0.3), dpi=72, layout='constrained')
    axes = figure.subplots(len(PROMPTS), len(pictures), squeeze=False)
    for (scale, images), column in zip(pictures.items(), axes.T, strict=True):
        for prompt, strip, axis in zip(PROMPTS, images.unflatten(0, (len(PROMPTS), -1)), column, strict=True):  # type: ignore[no-untyped-call]
            axis.imshow(torch.cat([*strip[:6].permute(0, 2, 3, 1)], dim=1).numpy())
            axis.set(xticks=[], yticks=[])
            axis.set_title(f'{prompt}, {scale:g}', fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


def main(
    steps: int = 800, sample_steps: int = 30, each: int = 32, seed: int = 0, out: str | Path | None = 'conditioners_by_hand.png'
) -> dict[float, float]:
    """Train, sample at every scale, print and draw.

    Args:
        steps: Training steps.
        sample_steps: Sampling steps.
        each: Pictures per prompt and scale.
        seed: Of everything.
        out: Where the picture goes, or None for none.

    Returns:
        By scale: the share of pictures with both colour and background as asked.
    """
    torch.manual_seed(seed)
    unet = TextUNet(dim=48)
    train(unet, steps, seed)
    texts = [prompt for prompt in PROMPTS for _ in range(each)]
    pictures: dict[float, Tensor] = {}
    shares: dict[float, float] = {}
    for scale in SCALES:
        pictures[scale] = sample(unet, texts, scale, seed + 1, sample_steps)
        verdicts: list[Any] = [check(image, text) for image, text in zip(pictures[scale], texts, strict=True)]
        shares[scale] = sum(bool(verdict.colour and verdict.background) for verdict in verdicts) / len(verdicts)
        print(f'cond_scale {scale:g}: {shares[scale]:6.1%} of {len(texts)} pictures have both colour and background')
    if out is not None:
        draw(pictures, Path(out))
    return shares


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=800, help='training steps')
    parser.add_argument('--sample-steps', type=int, default=30)
    parser.add_argument('--each', type=int, default=32, help='pictures per prompt and scale')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', default='conditioners_by_hand.png', help='where the picture goes')
    main(**vars(parser.parse_args()))
