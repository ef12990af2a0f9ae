"""The network of this example: a few residual blocks of convolutions, each conditioned on text through the library."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator

WAVES = 16  # frequencies that tell the network the time


class Block(nn.Module):
    """A residual block: two convolutions, and the text in between."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, dim)
        self.first = nn.Conv2d(dim, dim, 3, padding=1)
        self.second = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, hiddens: Tensor, condition) -> Tensor:
        return hiddens + self.second(F.silu(condition(self.first(F.silu(self.norm(hiddens))))))


@classifier_free_guidance_class_decorator
class Denoiser(nn.Module):
    """Predict the velocity of a noisy image `(b, 3, h, w)` at the times `(b,)`, 0 for data and 1 for noise.

    Args:
        dim: width of the hiddens, a multiple of 8.
        depth: number of blocks, each with one conditioned hidden of width `dim`.
        checkpointing: keep only the blocks' inputs for the backward pass, and compute the rest again: less memory, more time.
    """

    def __init__(self, dim: int, depth: int, checkpointing: bool = False) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.read = nn.Conv2d(3, dim, 3, padding=1)
        self.read_time = nn.Linear(2 * WAVES, dim)
        self.blocks = nn.ModuleList([Block(dim) for _ in range(depth)])
        self.write = nn.Conv2d(dim, 3, 3, padding=1)

    def forward(self, images: Tensor, times: Tensor, cond_fns) -> Tensor:
        dtype = self.read.weight.dtype  # bfloat16 where FSDP casts the weights; the times stay in float32 until they are waves
        waves = times[:, None] * math.pi * torch.arange(1, WAVES + 1, device=times.device)
        time = self.read_time(torch.cat((waves.sin(), waves.cos()), dim=1).to(dtype))
        hiddens = self.read(images.to(dtype)) + time[:, :, None, None]  # (b, dim, h, w)
        for block, condition in zip(self.blocks, cond_fns, strict=True):
            if self.checkpointing and self.training:
                # the conditional dropout was drawn before the blocks, so it is not drawn again with them
                hiddens = checkpoint(block, hiddens, condition, use_reentrant=False)
            else:
                hiddens = block(hiddens, condition)
        return self.write(hiddens)


def build(dim: int, depth: int, condition: str, encoder: str, cond_drop_prob: float, checkpointing: bool = False) -> Denoiser:
    """A denoiser whose weights follow torch's seed. The encoder loads its own weights when it first encodes, if it ever does."""
    return Denoiser(
        dim,
        depth,
        checkpointing,
        text_condition_type=condition,
        text_condition_model_types=encoder,
        text_condition_model_kwargs=[{'dtype': torch.float32}],  # whatever the precision of the model: as stored encodings are
        text_condition_hidden_dims=(dim,) * depth,
        text_condition_cond_drop_prob=cond_drop_prob,
    )


def flow_loss(model: nn.Module, images: Tensor, **text) -> Tensor:
    """Flow matching (arXiv 2210.02747): on the line from data to noise the model predicts the velocity, noise - data.

    Noise and times are drawn from torch's random state, and so is, inside the model, which samples lose their text.
    """
    noise = torch.randn_like(images)
    times = torch.rand(len(images), device=images.device)
    noisy = torch.lerp(images, noise, times[:, None, None, None])
    return F.mse_loss(model(noisy, times, **text).float(), noise - images)
