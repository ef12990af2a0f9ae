"""Training: flow matching on described points, with captions dropped by the library and, now and then, wrong.

Flow matching (Lipman et al., 2022, arXiv 2210.02747): on the straight line `x_t = (1 - t) * x_0 + t * noise` the model
predicts the velocity `noise - x_0`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cfg_demo.points import world
from cfg_demo.points.settings import Settings
from cfg_demo.progress import progress_bar
from classifier_free_guidance_pytorch.text import TextEncoding

UNIT = 0.55  # the standard deviation of the world's coordinates: the model works in these units
POINTS_PER_CAPTION = 16  # few points of many captions teach more than many points of few
LEARNING_RATE, WARM_UP = 6e-3, 100
EMA_DECAY = 0.995
ENCODED_AT_ONCE = 128

Encodings = tuple[TextEncoding, ...]


def encode(model: Any, texts: Sequence[str], *, progress: bool = True) -> Encodings:
    """The frozen encodings of many texts, one `TextEncoding` per encoder, made once for the whole training."""
    parts = [
        model.text_conditioner.encode_texts(texts[start : start + ENCODED_AT_ONCE])
        for start in progress_bar(range(0, len(texts), ENCODED_AT_ONCE), desc='encode', unit='batch', show=progress)
    ]
    return tuple(TextEncoding.collate(batches) for batches in zip(*parts, strict=True))


def batches(settings: Settings, encodings: Encodings, generator: torch.Generator) -> Iterator[tuple[Tensor, list[TextEncoding]]]:
    """Endless training batches: true points `(b, n, 2)` and the encodings of their captions.

    A share `caption_noise` of the clouds gets the caption of a random other scene.
    """
    seen = world.split(held_out=False)
    centres = torch.stack([scene.discs[0] for scene in seen])
    radii = torch.stack([scene.discs[1] for scene in seen])
    size = (settings.batch_size,)
    while True:
        drawn = torch.randint(len(seen), size, generator=generator)
        points = world.sample_discs(centres[drawn], radii[drawn], POINTS_PER_CAPTION, generator=generator)
        wrong = torch.rand(size, generator=generator) < settings.caption_noise
        told = torch.where(wrong, torch.randint(len(seen), size, generator=generator), drawn)
        caption = told * world.PHRASINGS + torch.randint(world.PHRASINGS, size, generator=generator)
        yield points.to(settings.device), [encoding[caption] for encoding in encodings]


def noised(points: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Points on the way to noise, the time of each, and the velocity that the model learns.

    The times are logit-normal (Esser et al., 2024, arXiv 2403.03206).
    """
    data = points / UNIT
    noise = torch.randn(data.shape, generator=generator).to(data)
    time = torch.sigmoid(1.2 * torch.randn(data.shape[:-1], generator=generator) - 0.3).to(data)
    return torch.lerp(data, noise, time.unsqueeze(-1)), time, noise - data


def noised_alike(points: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """As `noised`, but the points of a cloud are equally far on their way: noisy points, and the time of each `(b, n)`."""
    data = points / UNIT
    noise = torch.randn(data.shape, generator=generator).to(data)
    time = torch.sigmoid(1.2 * torch.randn(len(data), 1, generator=generator) - 0.3).to(data)
    return torch.lerp(data, noise, time.unsqueeze(-1)), time.expand(data.shape[:-1])


def flow_loss(model: Any, points: Tensor, encodings: Sequence[TextEncoding], generator: torch.Generator) -> Tensor:
    """The mean squared error of the velocity."""
    noisy, time, velocity = noised(points, generator)
    return F.mse_loss(model(noisy, time, text_embeds=encodings), velocity)


Loss = Callable[[Any, Tensor, Sequence[TextEncoding], torch.Generator], Tensor]


def train(
    model: Any,
    settings: Settings,
    *,
    loss_of: Loss = flow_loss,
    desc: str = 'train ',
    progress: bool = True,
) -> Any:
    """Train the model and return the moving average of its weights, in eval mode.

    Args:
        model: a denoiser.
        settings: steps, batches, seed.
        loss_of: the loss of a batch: the model, its points, their texts and what draws noise.
        desc: what the progress bar is called.
        progress: show progress bars.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    encodings = encode(model, world.captions(held_out=False), progress=progress)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))  # type: ignore[no-untyped-call]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / settings.steps)) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    smooth = math.nan
    model.train()
    with progress_bar(range(settings.steps), desc=desc, unit='step', show=progress) as bar:
        for step, (points, texts) in zip(bar, batches(settings, encodings, generator), strict=False):
            loss = loss_of(model, points, texts, generator)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            if step % 25 == 0:
                smooth = loss.item() if math.isnan(smooth) else 0.8 * smooth + 0.2 * loss.item()
                bar.set_postfix(loss=f'{smooth:.3f}', refresh=False)
    return average.module.eval()
