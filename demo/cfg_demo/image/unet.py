"""A U-Net (Ronneberger et al., 2015, arXiv 1505.04597) for small images whose hiddens follow a text.

Where the text enters depends on how it enters:

    film                 time <- time * (scale(text) + 1) + shift(text)     the time embedding of every block
    attention, concat    x <- condition(x)                                  the feature map after each block of the coarsest level

The time embedding modulates every feature map in turn, so with 'film' text and time take the same way in. With 'attention' the
mean of the tokens joins the time too: a scale per channel moves things to their place sooner than attention learns to. What is
to be seen where is decided at the coarsest level; the finer ones draw it, and are spared attention at many more positions.

    prediction = carry(time) * image + network(image, time, text)

What is predicted is at most times nearly a multiple of the noisy image itself, which a learned gain per channel and time
carries past the network (the skip scaling of Karras et al., 2022, arXiv 2206.00364, learned).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from classifier_free_guidance_pytorch.conditioners import TextCondReturn
from classifier_free_guidance_pytorch.decorator import classifier_free_guidance_class_decorator

CondFn = Callable[[Tensor], Tensor]
PLACE_FEATURES = 14

# Parameters with the embedded encoder and cross-attention are in `docs/text_to_image.md`. 'mini' reads single pixels, for the
# smallest pictures: a shape is learned the sooner, the more positions of the feature maps it covers.
SIZES: dict[str, dict[str, Any]] = {
    'tiny': {'widths': (32, 48), 'depths': (1, 1), 'dim_time': 64},
    'mini': {'widths': (32, 96), 'depths': (1, 3), 'dim_time': 128, 'patch': 1},
    'small': {'widths': (64, 192), 'depths': (2, 4), 'dim_time': 192},
    'base': {'widths': (96, 192, 288), 'depths': (2, 2, 4), 'dim_time': 192},
}


def wave_features(times: Tensor, dim: int, slowest: float = 1e-3) -> Tensor:
    """Sines and cosines `(b, dim)` of times `(b,)` in [0, 1], at `dim / 2` frequencies from 1000 down to `1000 * slowest`."""
    rates = 1000 * slowest ** torch.linspace(0, 1, dim // 2, device=times.device)
    angles = times.float().unsqueeze(-1) * rates
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def place_features(x: Tensor) -> Tensor:
    """Where each position of a feature map `(b, c, h, w)` is, as `(1, 2 + 4 * 3, h, w)`.

    These are its row and column, from -1 to 1, and sines and cosines of them over one, two and four halves of the picture.

    Convolutions and attention see no place otherwise, and captions speak of places (CoordConv: Liu et al., 2018, 1807.03247).
    """
    rows, columns = (torch.linspace(-1, 1, length, device=x.device, dtype=x.dtype) for length in x.shape[-2:])
    place = torch.stack(torch.meshgrid(rows, columns, indexing='ij'))
    angles = torch.cat([place * (torch.pi * halves / 2) for halves in (1, 2, 4)])
    return torch.cat((place, angles.sin(), angles.cos())).unsqueeze(0)


def mean_token(text: TextCondReturn) -> Tensor:
    """The mean `(b, d)` of the tokens that the mask keeps; zero for a text that is masked out."""
    assert text.embed is not None
    assert text.mask is not None
    kept = text.mask.unsqueeze(-1).to(text.embed.dtype)
    return (text.embed * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)


class Block(nn.Module):
    """Two convolutions around a residual, modulated by the time: `x + conv(SiLU(norm(conv(SiLU(norm(x)))) * (s + 1) + t))`.

    Starts as the identity (or a 1x1 convolution where the width changes): the last convolution is zero.
    """

    def __init__(self, dim_in: int, dim_out: int, dim_time: int) -> None:
        super().__init__()
        self.before = nn.GroupNorm(8, dim_in)
        self.first = nn.Conv2d(dim_in, dim_out, 3, padding=1)
        self.between = nn.GroupNorm(8, dim_out, affine=False)  # the time brings scale and shift
        self.modulate = nn.Linear(dim_time, dim_out * 2)
        self.second = nn.Conv2d(dim_out, dim_out, 3, padding=1)
        self.skip = nn.Identity() if dim_in == dim_out else nn.Conv2d(dim_in, dim_out, 1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = rearrange(self.modulate(F.silu(time)), 'b c -> b c 1 1').chunk(2, dim=1)
        hiddens = self.between(self.first(F.silu(self.before(x))))
        residual: Tensor = self.second(F.silu(torch.addcmul(shift, hiddens, scale + 1)))
        skipped: Tensor = self.skip(x)
        return skipped + residual


class SelfAttention(nn.Module):
    """Every position looks at every other, so that things can keep their distance and their number."""

    def __init__(self, dim: int, dim_head: int = 32) -> None:
        super().__init__()
        self.heads = dim // dim_head
        self.norm = nn.GroupNorm(8, dim)
        self.to_qkv = nn.Conv2d(dim, dim * 3, 1, bias=False)
        self.to_out = nn.Conv2d(dim, dim, 1, bias=False)
        nn.init.zeros_(self.to_out.weight)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.to_qkv(self.norm(x)), 'b (three m d) h w -> three b m (h w) d', three=3, m=self.heads)
        attended = F.scaled_dot_product_attention(q, k, v)
        residual: Tensor = self.to_out(rearrange(attended, 'b m (h w) d -> b (m d) h w', h=x.shape[2]))
        return x + residual


class Stage(nn.Module):
    """A block; at the coarsest level the feature map then meets its text, unless time has brought it, and itself."""

    def __init__(self, dim_in: int, dim_out: int, dim_time: int, coarsest: bool = False) -> None:
        super().__init__()
        self.block = Block(dim_in, dim_out, dim_time)
        self.attention = SelfAttention(dim_out) if coarsest else nn.Identity()

    def forward(self, x: Tensor, time: Tensor, condition: CondFn | None) -> Tensor:
        x = self.block(x, time)
        if condition is not None:
            x = condition(x)
        attended: Tensor = self.attention(x)
        return attended


@classifier_free_guidance_class_decorator
class UNet(nn.Module):
    """Predicts noise, `v` or velocity of images from their noisy versions.

    Args:
        channels: of the images.
        widths: of the feature maps, finest level first; each level after the first has half the resolution.
        depths: blocks at each level on the way down and again on the way up; the coarsest level has them once.
        dim_time: width of the time embedding.
        patch: the finest feature map has one position per `patch` x `patch` pixels.
        text_in_time: let the callables meet the time embedding instead of the feature maps; see the top of `unet.py`.
        dim_text: width of text tokens whose mean is added to the time embedding; None adds nothing.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        widths: Sequence[int] = (96, 160),
        depths: Sequence[int] = (1, 4),
        dim_time: int = 192,
        patch: int = 2,
        text_in_time: bool = False,
        dim_text: int | None = None,
    ) -> None:
        super().__init__()
        self.patch, self.text_in_time, self.dim_time = patch, text_in_time, dim_time
        self.embed_time = nn.Sequential(nn.Linear(dim_time, dim_time), nn.SiLU(), nn.Linear(dim_time, dim_time))
        self.embed_text = None if dim_text is None else nn.Linear(dim_text, dim_time)
        self.read = nn.Conv2d(channels * patch**2 + 2, widths[0], 3, padding=1)
        finer = tuple(zip(widths, depths, strict=True))[:-1]
        self.down = nn.ModuleList(nn.ModuleList(Stage(width, width, dim_time) for _ in range(depth)) for width, depth in finer)
        self.shrink = nn.ModuleList(nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(widths))
        self.middle = nn.ModuleList(Stage(widths[-1], widths[-1], dim_time, coarsest=True) for _ in range(depths[-1]))
        self.place = nn.Conv2d(PLACE_FEATURES, widths[-1], 1)
        self.grow = nn.ModuleList(nn.Conv2d(coarse, fine, 3, padding=1) for fine, coarse in pairwise(widths))
        self.up = nn.ModuleList(
            nn.ModuleList(Stage(width * (2 if at == 0 else 1), width, dim_time) for at in range(depth)) for width, depth in finer
        )
        self.norm = nn.GroupNorm(8, widths[0])
        self.write = nn.Conv2d(widths[0], channels * patch**2, 3, padding=1)
        self.carry = nn.Linear(dim_time, channels)
        for last in (self.place, self.write, self.embed_text, self.carry):
            if last is not None:
                nn.init.zeros_(last.weight)
        nn.init.zeros_(self.carry.bias)

    @staticmethod
    def hidden_dims(widths: Sequence[int], depths: Sequence[int], dim_time: int, text_in_time: bool) -> tuple[int, ...]:
        """The width of what each callable meets, in the order in which `forward` calls them."""
        return (dim_time,) * (sum(depths) + sum(depths[:-1])) if text_in_time else (widths[-1],) * depths[-1]

    def forward(
        self, images: Tensor, times: Tensor, cond_fns: Sequence[CondFn], raw_text_cond: TextCondReturn | None = None
    ) -> Tensor:
        """The prediction for noisy images `(b, c, h, w)` at times `(b,)`, 0 for data and 1 for noise; `h`, `w` divide by
        `patch` times 2 per coarser level."""
        time = self.embed_time(wave_features(times, self.dim_time).to(images.dtype))
        carried: Tensor = rearrange(self.carry(F.silu(time)), 'b c -> b c 1 1') * images
        if self.embed_text is not None and raw_text_cond is not None:
            time = time + self.embed_text(mean_token(raw_text_cond))
        texts = iter(cond_fns)
        x = rearrange(images, 'b c (h p) (w q) -> b (c p q) h w', p=self.patch, q=self.patch)
        x = self.read(torch.cat((x, place_features(x)[:, :2].expand(len(x), -1, -1, -1)), dim=1))
        skips = []
        for stages, shrink in zip(self.down, self.shrink, strict=True):
            x = self._through(stages, x, time, texts)
            skips.append(x)
            x = shrink(x)
        x = self._through(self.middle, x + self.place(place_features(x)), time, texts, coarsest=True)
        for stages, grow in zip(reversed(self.up), reversed(self.grow), strict=True):
            x = torch.cat((grow(F.interpolate(x, scale_factor=2.0)), skips.pop()), dim=1)
            x = self._through(stages, x, time, texts)
        written: Tensor = self.write(F.silu(self.norm(x)))
        return carried + rearrange(written, 'b (c p q) h w -> b c (h p) (w q)', p=self.patch, q=self.patch)

    def _through(self, stages: Any, x: Tensor, time: Tensor, texts: Iterator[CondFn], coarsest: bool = False) -> Tensor:
        for stage in stages:
            meets_text = None if self.text_in_time or not coarsest else next(texts)
            x = stage(x, next(texts)(time) if self.text_in_time else time, meets_text)
        return x
