"""The denoiser: a small decorated MLP that moves points, one by one, under the condition of a text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfg_demo.points.settings import Settings
from classifier_free_guidance_pytorch.decorator import classifier_free_guidance_class_decorator

DIM, DEPTH = 96, 3


@classifier_free_guidance_class_decorator
class PointDenoiser(nn.Module):
    """A residual MLP on points of the plane; the text conditions the hiddens of every block.

    The points of a cloud share their text and nothing else: each is a sample of its own from `p(point | text)`.

    Args:
        dim: width of the hiddens.
        depth: residual blocks, each with one conditioned hidden of width `dim`.
        features: random Fourier features of the position, which let a narrow MLP draw thin lines.
    """

    position_waves: Tensor
    time_waves: Tensor

    def __init__(self, dim: int = DIM, depth: int = DEPTH, features: int = 32) -> None:
        super().__init__()
        fixed = torch.Generator().manual_seed(0)
        self.register_buffer('position_waves', 0.75 * math.pi * torch.randn(2, features, generator=fixed))
        self.register_buffer('time_waves', 0.5 * math.pi * torch.arange(1, 9).float().unsqueeze(0))
        self.read = nn.Linear(2 + 2 * features + 2 * 8, dim)
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(depth)])
        self.widen = nn.ModuleList([nn.Linear(dim, dim) for _ in range(depth)])
        self.narrow = nn.ModuleList([nn.Linear(dim, dim) for _ in range(depth)])
        self.write = nn.Linear(dim, 2)

    def forward(self, points: Tensor, time: Tensor, cond_fns: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
        """The velocity of each point, from data towards noise.

        Args:
            points: noisy points `(b, n, 2)`, one cloud per text.
            time: flow time of each point `(b, n)`, 0 for data and 1 for noise.
            cond_fns: one callable per block.

        Returns:
            Velocities `(b, n, 2)`.
        """
        waves = torch.cat((points @ self.position_waves, time.unsqueeze(-1) @ self.time_waves), dim=-1)
        hiddens = self.read(torch.cat((points, waves.sin(), waves.cos()), dim=-1))  # (b, n, dim)
        for norm, widen, narrow, condition in zip(self.norms, self.widen, self.narrow, cond_fns, strict=True):
            hiddens = hiddens + narrow(F.silu(widen(condition(norm(hiddens)))))
        velocity: Tensor = self.write(hiddens)
        return velocity


def build_model(settings: Settings, *, reads_scale: bool = False) -> Any:
    """A denoiser conditioned as the settings say; its weights follow torch's global seed.

    Args:
        settings: the kind of conditioning, the encoders, the device.
        reads_scale: whether it can learn to guide in one pass.
    """
    denoiser: Any = PointDenoiser  # the decorator adds the text_condition_* arguments, which its type does not show
    return denoiser(
        text_condition_type=settings.condition,
        text_condition_model_types=tuple(settings.model_types),
        text_condition_model_names=settings.model_names and tuple(settings.model_names),
        text_condition_hidden_dims=(DIM,) * DEPTH,
        text_condition_hiddens_channel_first=False,
        text_condition_cond_drop_prob=settings.cond_drop_prob,
        text_condition_reads_scale=reads_scale,
    ).to(settings.device)
