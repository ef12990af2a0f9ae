"""A spacetime U-Net on moving shapes: clips `(b, c, f, h, w)` from "a red circle moving left".

    python examples/04_moving_shapes.py

The library conditions hiddens of any rank, so the five dimensions of video ask for nothing. Noise levels and sampler are those of
diffusers. One caption in five is wrong. Printed, per scale: how many clips move where their text says, and in its colour.
"""

from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

from cfg_demo.fitting import fit
from cfg_demo.image.unet import wave_features
from cfg_demo.moving import CAPTIONS, FRAMES, SIZE, SpacetimeAttention, SpacetimeBlock, draw_clips, save_clips, shares
from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator

SHIFT = 3.0  # towards noise, where motion is decided (arXiv 2403.03206, section 5.3.2)
HALF = {'kernel_size': (1, 2, 2), 'stride': (1, 2, 2)}  # of height and width


@classifier_free_guidance_class_decorator
class SpacetimeUNet(nn.Module):
    """The velocity of clips, from data towards noise; six conditioned hiddens, four of them at the lowest resolution."""

    def __init__(self, dim):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(32, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.place = nn.Parameter(0.5 * torch.randn(dim, FRAMES, SIZE // 2, SIZE // 2))
        self.read, self.write = nn.Conv3d(3, dim, **HALF), nn.ConvTranspose3d(dim, 3, **HALF)
        self.down, self.up = nn.Conv3d(dim, 3 * dim, **HALF), nn.ConvTranspose3d(3 * dim, dim, **HALF)
        self.before, self.after = SpacetimeBlock(dim), SpacetimeBlock(dim)
        self.middle = nn.ModuleList([layer(3 * dim) for layer in 2 * (SpacetimeAttention, SpacetimeBlock)])

    def forward(self, clips, time, cond_fns):
        first, *inner, last = cond_fns
        when = self.time(wave_features(time, 32))[:, :, None, None, None]  # (b, dim, 1, 1, 1)
        skip = self.before(self.read(clips) + self.place + when, first)  # (b, dim, f, h / 2, w / 2)
        hiddens = self.down(skip)  # (b, 3 * dim, f, h / 4, w / 4)
        for layer, condition in zip(self.middle, inner, strict=True):
            hiddens = layer(hiddens, condition)
        return self.write(self.after(self.up(hiddens) + skip, last))


def train(model, steps, batch=32):
    """Flow matching (arXiv 2210.02747); the library drops the text of every tenth clip."""
    rng = Random(0)
    (encoding,) = model.encode_texts(CAPTIONS)  # the encoder is frozen: once is enough

    def loss():
        clean, captions = draw_clips(batch, rng)
        noise, time = torch.randn(clean.shape), torch.rand(batch)
        time = SHIFT * time / (1 + (SHIFT - 1) * time)
        noisy = torch.lerp(clean, noise, time[:, None, None, None, None])
        return F.mse_loss(model(noisy, time, text_embeds=encoding[captions]), noise - clean)

    fit(model, loss, steps, lr=None)


@torch.no_grad()
def sample(model, texts, scale, steps):
    """Clips `(b, 3, FRAMES, SIZE, SIZE)` from 0 to 1."""
    prepared, scheduler = model.prepare(texts), FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    scheduler.set_timesteps(steps)
    clips = torch.randn(len(texts), 3, FRAMES, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        velocity = model(clips, sigma.expand(len(texts)), text_condition=prepared, cond_scale=scale)
        clips = scheduler.step(velocity, timestep, clips).prev_sample
    return (clips / 2 + 0.5).clamp(0, 1)


def main(steps=700, sample_steps=20, clips=192, dim=24, out='runs/examples/moving_shapes.gif'):
    """Train, sample at every scale, print and draw; return both shares by scale."""
    torch.manual_seed(0)
    model = SpacetimeUNet(dim, text_condition_type='film', text_condition_model_types='mini',
                          text_condition_hidden_dims=(dim, *4 * (3 * dim,), dim), text_condition_cond_drop_prob=0.1)  # fmt: skip
    train(model, steps)
    asked, drawn, found = [index % len(CAPTIONS) for index in range(clips)], {}, {}
    for scale in (0.0, 1.0, 2.0, 4.0):
        drawn[scale] = sample(model, [CAPTIONS[index] for index in asked], scale, sample_steps)
        found[scale] = moves, both = shares(drawn[scale], asked)
        print(f'cond_scale {scale:g}: {moves:6.1%} of {clips} clips move where their text says, {both:6.1%} in its colour')
    rows = [index for index in (0, 5, 26, 47) if index < clips]
    save_clips(Path(out), {scale: clip[rows] for scale, clip in drawn.items()}, [CAPTIONS[asked[index]] for index in rows])
    return found


if __name__ == '__main__':
    main()
