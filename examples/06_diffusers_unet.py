"""An unmodified `UNet2DConditionModel` of diffusers, guided through a wrapper of one line.

    python examples/06_diffusers_unet.py --out diffusers_unet.png

The decorator's 'raw' conditioner hands the wrapper tokens and their mask, and the U-Net attends to them in its own way. Dropout,
the null branch, scales, negative texts and every rule of guidance come with the decorator; noise schedule and sampler are
diffusers' own. Measured, per scale, by the exact checker of the picture world: how many pictures have both colour and background
as asked.
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
from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator
from classifier_free_guidance_pytorch.text.mini import MiniAdapter

SIZE = 16
SCALES = (0.0, 1.0, 2.0, 4.0, 7.5)
PROMPTS = [
    f'a large {colour} {shape} on a {background} background'
    for colour, shape, background in (
        ('red', 'circle', 'light'),
        ('yellow', 'square', 'dark'),
        ('green', 'ring', 'gray'),
        ('cyan', 'cross', 'navy'),
    )
]


@classifier_free_guidance_class_decorator
class TextToImage(nn.Module):
    """What the network predicts, `(b, 3, h, w)`."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, images: Tensor, timestep: Tensor, raw_text_cond: Any) -> Tensor:
        embed, mask = raw_text_cond  # (b, n, dim_latent) and (b, n), True for a token to attend to
        predicted: Tensor = self.unet(images, timestep, encoder_hidden_states=embed, encoder_attention_mask=mask).sample
        return predicted


def build(width: int = 32) -> Any:
    """An untrained U-Net in its wrapper."""
    encoder = MiniAdapter()  # before diffusers: an encoder makes a torchvision importable that was built for another torch
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=SIZE,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(width, 2 * width),
        down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'),
        up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'),
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=64,
    )
    decorated: Any = TextToImage  # the decorator adds the text_condition_* arguments, which its type does not show
    return decorated(
        unet,
        text_condition_type='raw',
        text_condition_model_types=encoder,
        text_condition_dim_latent=64,
        text_condition_cond_drop_prob=0.1,
    )


def noise_schedule() -> Any:
    """Cosine, for a network that predicts v."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(beta_schedule='squaredcos_cap_v2', prediction_type='v_prediction')


def train(model: Any, steps: int, seed: int, batch: int = 32) -> None:
    """The usual training step of diffusers; the library drops the text of every tenth picture."""
    schedule, generator = noise_schedule(), torch.Generator().manual_seed(seed)
    data = ShapesDataset(size=SIZE, length=max(steps, 1) * batch, seed=seed, kinds=('single',))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.99))
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=len(data) // batch, pct_start=0.1)
    model.train()
    bar = tqdm(zip(range(steps), DataLoader(data, batch, collate_fn=collate), strict=False), total=steps, desc='train')
    for _, (pictures, captions) in bar:
        images = 2 * pictures - 1
        noise = torch.randn(images.shape, generator=generator)
        timestep = torch.randint(schedule.config.num_train_timesteps, (batch,), generator=generator)
        predicted = model(schedule.add_noise(images, noise, timestep), timestep, texts=captions)
        loss = F.mse_loss(predicted, schedule.get_velocity(images, noise, timestep))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        bar.set_postfix(loss=f'{loss.item():.3f}', refresh=False)


@torch.no_grad()
def sample(model: Any, texts: Sequence[str], scale: float, seed: int, steps: int) -> Tensor:
    """Pictures `(b, 3, SIZE, SIZE)` from 0 to 1, by DPM-Solver++; both branches in one pass of twice the batch."""
    from diffusers import DPMSolverMultistepScheduler

    model.eval()
    prepared = model.prepare(texts)
    solver = DPMSolverMultistepScheduler.from_config(noise_schedule().config)
    solver.set_timesteps(steps)
    images = torch.randn(len(texts), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    for timestep in solver.timesteps:
        predicted = model(images, timestep, text_condition=prepared, cond_scale=scale, cfg_batched=True)
        images = solver.step(predicted, timestep, images).prev_sample
    return (images / 2 + 0.5).clamp(0, 1)


def holds(image: Tensor, text: str) -> bool:
    """Whether a picture has the colour and the background that its text asks for."""
    verdict = check(image, text)
    return bool(verdict.colour and verdict.background)


def draw(pictures: dict[float, Tensor], each: int, out: Path) -> None:
    """Rows are prompts, `each` pictures per column, columns are scales."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(pictures) + 2.4, 0.72 * len(PROMPTS) + 0.4), dpi=80, layout='constrained')
    axes = figure.subplots(len(PROMPTS), len(pictures), squeeze=False)
    for column, (scale, images) in enumerate(pictures.items()):
        for row, strip in enumerate(images.split(each)):  # type: ignore[no-untyped-call]
            axis = axes[row, column]
            axis.imshow(torch.cat(tuple(strip[:4].permute(0, 2, 3, 1)), dim=1).numpy())
            axis.set(xticks=[], yticks=[], title=f'cond_scale {scale:g}' if row == 0 else None)
            if column == 0:
                axis.set_ylabel(PROMPTS[row].replace(' on', '\non'), rotation=0, ha='right', va='center')
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


def main(
    steps: int = 800, sample_steps: int = 20, each: int = 32, seed: int = 0, out: str | Path | None = 'diffusers_unet.png'
) -> dict[float, float]:
    """Train, sample at every scale, print and draw.

    Args:
        steps: Training steps.
        sample_steps: Sampling steps.
        each: Pictures per prompt and scale.
        seed: Of everything.
        out: Where the picture goes, or None for none.

    Returns:
        By scale: the share of pictures with colour and background as asked.
    """
    torch.manual_seed(seed)
    model = build()
    train(model, steps, seed)
    texts = [prompt for prompt in PROMPTS for _ in range(each)]
    pictures, shares = {}, {}
    for scale in SCALES:
        pictures[scale] = sample(model, texts, scale, seed + 1, sample_steps)
        shares[scale] = sum(holds(*pair) for pair in zip(pictures[scale], texts, strict=True)) / len(texts)
        print(f'cond_scale {scale:g}: {shares[scale]:6.1%} of {len(texts)} pictures have colour and background as asked')
    if out is not None:
        draw(pictures, each, Path(out))
    return shares


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=800, help='training steps')
    parser.add_argument('--sample-steps', type=int, default=20)
    parser.add_argument('--each', type=int, default=32, help='pictures per prompt and scale')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', default='diffusers_unet.png', help='where the picture goes')
    main(**vars(parser.parse_args()))
