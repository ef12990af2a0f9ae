"""The networks that are measured, without their text.

    MLP          the README's: two conditioned layers, hiddens (b, n, d)
    UNet         15 million parameters, convolutions on (b, d, h, w), conditioned at every level
    Transformer  like a DiT: patches, self-attention, conditioned in every block, hiddens (b, n, d)

`run` takes the conditions as callables, and what these take beside the hiddens. Nothing here imports the library, so that an
older release of it can be measured on the same networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Conditions = Sequence[Any]


class Body(nn.Module):
    """What a network is without its text."""

    channel_first: ClassVar[bool]
    shape: tuple[int, ...]  # of one sample
    hidden_dims: tuple[int, ...]

    def run(self, x: Tensor, t: Tensor, conditions: Conditions, text: tuple[Tensor, ...] = ()) -> Tensor:
        """The forward pass; `conditions[i](hiddens, *text)` conditions the i-th hiddens."""
        raise NotImplementedError


class MLP(Body):
    """The README's MLP, on 64 rows per sample."""

    channel_first = False

    def __init__(self, dim: int = 256, rows: int = 64) -> None:
        super().__init__()
        self.shape, self.hidden_dims = (rows, dim), (dim * 2, dim)
        self.first = nn.Sequential(nn.Linear(dim, dim * 2), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(dim * 2, dim), nn.ReLU())
        self.last = nn.Linear(dim, dim)

    def run(self, x: Tensor, t: Tensor, conditions: Conditions, text: tuple[Tensor, ...] = ()) -> Tensor:
        x = conditions[0](self.first(x), *text)
        x = conditions[1](self.second(x), *text)
        return self.last(x)


class Block(nn.Module):
    """Two convolutions and a residual, with the time added in between."""

    def __init__(self, dim_in: int, dim: int, dim_time: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, dim_in), nn.SiLU(), nn.Conv2d(dim_in, dim, 3, padding=1))
        self.time = nn.Linear(dim_time, dim)
        self.second = nn.Sequential(nn.GroupNorm(8, dim), nn.SiLU(), nn.Conv2d(dim, dim, 3, padding=1))
        self.skip = nn.Conv2d(dim_in, dim, 1) if dim_in != dim else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hiddens = self.first(x) + self.time(time)[:, :, None, None]
        return self.skip(x) + self.second(hiddens)


class TimeEmbedding(nn.Module):
    """Sines and cosines of the time, and a small network on them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer('frequencies', torch.exp(-torch.arange(32) * 0.3), persistent=False)
        self.net = nn.Sequential(nn.Linear(64, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        return self.net(torch.cat((angles.sin(), angles.cos()), dim=-1))


class UNet(Body):
    """A U-Net of about 15 million parameters, conditioned after every block."""

    channel_first = True

    def __init__(self, dim: int = 88, side: int = 16, channels: int = 4) -> None:
        super().__init__()
        self.shape = (channels, side, side)
        dims, time = (dim, dim * 2, dim * 4), dim * 4
        self.hidden_dims = (*dims, dims[-1], *reversed(dims))
        self.time = TimeEmbedding(time)
        self.enter = nn.Conv2d(channels, dim, 3, padding=1)
        self.down = nn.ModuleList(Block(first, last, time) for first, last in zip((dim, *dims[:-1]), dims, strict=True))
        self.shrink = nn.ModuleList(nn.Conv2d(d, d, 3, stride=2, padding=1) for d in dims[:-1])
        self.middle = nn.ModuleList(Block(dims[-1], dims[-1], time) for _ in range(2))
        below = (dims[-1], *reversed(dims[1:]))
        self.up = nn.ModuleList(Block(b + d, d, time) for b, d in zip(below, reversed(dims), strict=True))
        self.grow = nn.ModuleList(nn.Conv2d(d, d, 3, padding=1) for d in reversed(dims[1:]))
        self.leave = nn.Sequential(nn.GroupNorm(8, dim), nn.SiLU(), nn.Conv2d(dim, channels, 3, padding=1))

    def run(self, x: Tensor, t: Tensor, conditions: Conditions, text: tuple[Tensor, ...] = ()) -> Tensor:
        time, x, skips = self.time(t), self.enter(x), []
        for level, block in enumerate(self.down):
            x = conditions[level](block(x, time), *text)
            skips.append(x)
            x = self.shrink[level](x) if level < len(self.shrink) else x
        x = conditions[3](self.middle[0](x, time), *text)
        x = self.middle[1](x, time)
        for level, block in enumerate(self.up):
            x = conditions[4 + level](block(torch.cat((x, skips.pop()), dim=1), time), *text)
            if level < len(self.grow):
                x = self.grow[level](F.interpolate(x, scale_factor=2.0))
        return self.leave(x)


class SelfAttention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv, self.to_out = nn.Linear(dim, dim * 3), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        q, k, v = self.to_qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, dim))


class Transformer(Body):
    """Like a DiT: patches of a latent picture, the time added to each, a condition in every block."""

    channel_first = False

    def __init__(self, dim: int = 384, depth: int = 6, heads: int = 6, side: int = 16, channels: int = 4) -> None:
        super().__init__()
        self.shape, self.hidden_dims = (channels, side, side), (dim,) * depth
        self.time = TimeEmbedding(dim)
        self.enter = nn.Conv2d(channels, dim, 2, stride=2)
        self.positions = nn.Parameter(torch.randn(1, (side // 2) ** 2, dim) * 0.02)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 * depth + 1))
        self.attentions = nn.ModuleList(SelfAttention(dim, heads) for _ in range(depth))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, dim * 4), nn.GELU(), nn.Linear(dim * 4, dim)) for _ in range(depth)
        )
        self.leave = nn.Linear(dim, channels * 4)

    def run(self, x: Tensor, t: Tensor, conditions: Conditions, text: tuple[Tensor, ...] = ()) -> Tensor:
        side = x.shape[-1] // 2
        x = self.enter(x).flatten(2).transpose(1, 2) + self.positions + self.time(t)[:, None]
        for depth, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            x = x + attention(self.norms[2 * depth](x))
            x = conditions[depth](x, *text)
            x = x + mlp(self.norms[2 * depth + 1](x))
        patches = self.leave(self.norms[-1](x))
        return F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, (side, side)), 2)


BODIES: dict[str, type[Body]] = {'MLP': MLP, 'U-Net': UNet, 'transformer': Transformer}
TINY: dict[str, dict[str, int]] = {
    'MLP': {'dim': 16, 'rows': 4},
    'U-Net': {'dim': 8, 'side': 8},
    'transformer': {'dim': 16, 'depth': 2, 'heads': 2, 'side': 4},
}


@torch.no_grad()
def fill_zeros(network: nn.Module) -> None:
    """Small random numbers in place of weights that start at zero, where conditioning would do nothing."""
    for weight in network.parameters():
        if not weight.any():
            weight.normal_(std=0.05)


def noisy(
    network: Any, batch: int, device: torch.device | str = 'cpu', dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """A batch of noisy samples, and their times."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, *network.shape, generator=generator)
    return x.to(device, dtype), torch.linspace(0.1, 0.9, batch).to(device, dtype)
