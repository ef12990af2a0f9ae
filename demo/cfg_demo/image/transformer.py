"""A diffusion transformer (Peebles & Xie, 2022, arXiv 2212.09748) whose tokens, patches of an image, follow a text.

Every block runs two branches between a norm and a gate, and the time brings their scale, shift and gate:

    hiddens <- hiddens + gate(time) * branch(norm(hiddens) * (scale(time) + 1) + shift(time))     self-attention
    hiddens <- hiddens + gate(time) * branch(norm(hiddens) * (scale(time) + 1) + shift(time))     feed-forward

All gates start at zero, so that every block starts as the identity. Where the text enters depends on how it enters:

    film                 norm <- condition(norm)            instead of the scale and shift that a norm has of its own
    attention, concat    hiddens <- condition(hiddens)      between the two branches; norm and residual are the condition's
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from cfg_demo.image.unet import wave_features
from classifier_free_guidance_pytorch.decorator import classifier_free_guidance_class_decorator
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError

CondFn = Callable[[Tensor], Tensor]

DIM_WAVES = 256  # of the time, as in the paper


@dataclass(frozen=True)
class Size:
    """How large a transformer is: the width of its tokens, the number of its blocks and of the heads in each."""

    dim: int
    depth: int
    heads: int


# With the embedded encoder: 0.2 to 0.3, 2.5 to 3.9 and 12.7 to 18.8 million parameters; attention has the fewest, film the most.
SIZES = {'tiny': Size(64, 2, 2), 'mini': Size(128, 4, 4), 'small': Size(160, 6, 5), 'base': Size(320, 8, 5)}


def sin_cos_positions(height: int, width: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Fixed positions `(height * width, dim)` of a grid, row by row: waves of the row, then waves of the column.

    For a coordinate `p`, half of the width is `sin(p w_i)`, `cos(p w_i)` with `w_i = 10000^(-i / (dim / 4))`.

    Example:
        >>> sin_cos_positions(1, 2, 4)
        tensor([[0.0000, 1.0000, 0.0000, 1.0000],
                [0.0000, 1.0000, 0.8415, 0.5403]])
    """
    rates = 10_000.0 ** -(torch.arange(dim // 4, device=device) / (dim // 4))
    rows, columns = (torch.outer(torch.arange(length, device=device), rates) for length in (height, width))
    rows, columns = rows.repeat_interleave(width, dim=0), columns.repeat(height, 1)
    return torch.cat((rows.sin(), rows.cos(), columns.sin(), columns.cos()), dim=-1)


def identity(hiddens: Tensor) -> Tensor:
    """What stands at the place where the text does not enter."""
    return hiddens


class SelfAttention(nn.Module):
    """Every patch looks at every other."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, dim * 3, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, hiddens: Tensor) -> Tensor:
        q, k, v = rearrange(self.to_qkv(hiddens), 'b n (three m d) -> three b m n d', three=3, m=self.heads)
        attended: Tensor = self.to_out(rearrange(F.scaled_dot_product_attention(q, k, v), 'b m n d -> b n (m d)'))
        return attended


class Block(nn.Module):
    """Self-attention, text and a feed-forward network; see the top of the file.

    The modulation by the time is the network's for all blocks together, plus a constant of this block (PixArt-alpha, Chen et
    al., 2023, arXiv 2310.00426, section 2.3): one projection per block would be a third of all parameters.
    """

    def __init__(self, dim: int, heads: int, text_in_norms: bool) -> None:
        super().__init__()
        self.text_in_norms = text_in_norms
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)  # time and text bring scale and shift: both branches share it
        self.modulation = nn.Parameter(torch.zeros(6 * dim))
        self.attention = SelfAttention(dim, heads)
        self.feed_forward = nn.Sequential(nn.Linear(dim, dim * 4), nn.GELU(approximate='tanh'), nn.Linear(dim * 4, dim))

    def forward(self, hiddens: Tensor, time: Tensor, condition: CondFn) -> Tensor:
        """Hiddens `(b, n, d)` under the modulation `(b, 6 * d)` of their time and the condition of their text."""
        in_norm, on_hiddens = (condition, identity) if self.text_in_norms else (identity, condition)
        to_attention, to_feed_forward = rearrange(time + self.modulation, 'b (two d) -> two b 1 d', two=2)
        hiddens = self._branch(self.attention, hiddens, to_attention, in_norm)
        hiddens = on_hiddens(hiddens)
        return self._branch(self.feed_forward, hiddens, to_feed_forward, in_norm)

    def _branch(self, branch: nn.Module, hiddens: Tensor, modulation: Tensor, in_norm: CondFn) -> Tensor:
        scale, shift, gate = modulation.chunk(3, dim=-1)
        normed = torch.addcmul(shift, in_norm(self.norm(hiddens)), scale + 1)
        return torch.addcmul(hiddens, gate, branch(normed))


@classifier_free_guidance_class_decorator
class ImageTransformer(nn.Module):
    """Predicts noise, `v` or velocity of images from their noisy versions; starts by predicting zero.

    Args:
        channels: of the images.
        patch: a token stands for `patch` x `patch` pixels.
        dim: width of the tokens, a multiple of four for the positions and of `heads`.
        depth: number of blocks; each takes one callable on hiddens `(b, n, dim)`, channel last.
        heads: of the self-attention.
        text_in_norms: let the callables meet the normed hiddens instead of the hiddens; see the top of `transformer.py`.

    Raises:
        ConfigError: a size below 1, or a width that cannot be divided.

    Example:
        >>> model = build_transformer(size='tiny', condition='film').eval()
        >>> model(torch.randn(2, 3, 16, 16), torch.rand(2), texts=['a red circle', 'a blue square'], cond_scale=3.).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        patch: int = 2,
        dim: int = 160,
        depth: int = 6,
        heads: int = 5,
        text_in_norms: bool = False,
    ) -> None:
        super().__init__()
        if min(channels, patch, dim, depth, heads) < 1:
            raise ConfigError(
                f'channels, patch, dim, depth and heads count from 1, but got {channels}, {patch}, {dim}, {depth} and {heads}'
            )
        if dim % 4 or dim % heads:
            raise ConfigError(f'dim is a multiple of 4 (for the positions) and of heads={heads}, but got {dim}')
        self.channels, self.patch, self.dim = channels, patch, dim
        self.embed_time = nn.Sequential(nn.Linear(DIM_WAVES, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())
        self.modulate = nn.Linear(dim, 6 * dim)
        self.read = nn.Linear(channels * patch**2, dim)
        self.blocks = nn.ModuleList(Block(dim, heads, text_in_norms) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulate_last = nn.Linear(dim, 2 * dim)
        self.write = nn.Linear(dim, channels * patch**2)
        for layer in (self.modulate, self.modulate_last, self.write):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor, times: Tensor, cond_fns: Sequence[CondFn]) -> Tensor:
        """The prediction for noisy images.

        Args:
            images: `(b, channels, h, w)`, around [-1, 1]; `h` and `w` are multiples of the patch.
            times: `(b,)` in [0, 1].
            cond_fns: one callable per block.

        Returns:
            `(b, channels, h, w)`.

        Raises:
            ShapeError: images that cannot be cut into patches, or another number of times.
        """
        self._check(images, times)
        height, width = images.shape[-2] // self.patch, images.shape[-1] // self.patch
        patches = rearrange(images, 'b c (h p) (w q) -> b (h w) (c p q)', p=self.patch, q=self.patch)
        weight = self.read.weight
        # under autocast the weights stay in float32, and the positions keep the residual stream there
        hiddens = self.read(patches) + sin_cos_positions(height, width, self.dim, images.device).to(weight.dtype)
        time = self.embed_time(wave_features(times, DIM_WAVES).to(weight.dtype))
        modulation = self.modulate(time)
        for block, condition in zip(self.blocks, cond_fns, strict=True):
            hiddens = block(hiddens, modulation, condition)
        scale, shift = rearrange(self.modulate_last(time), 'b (two d) -> two b 1 d', two=2)
        written: Tensor = self.write(torch.addcmul(shift, self.norm(hiddens), scale + 1))
        return rearrange(written, 'b (h w) (c p q) -> b c (h p) (w q)', h=height, w=width, p=self.patch, q=self.patch)

    def _check(self, images: Tensor, times: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != self.channels or images.shape[2] % self.patch or images.shape[3] % self.patch:
            raise ShapeError(
                f'images are (b, {self.channels}, h, w) with h and w multiples of the patch, {self.patch}, but got '
                f'{tuple(images.shape)}: resize them, or build the model with other channels= or patch='
            )
        if times.shape != images.shape[:1]:
            raise ShapeError(f'times hold one value per image, ({images.shape[0]},), but got {tuple(times.shape)}')


def build_transformer(
    *,
    size: str = 'small',
    channels: int = 3,
    patch: int = 2,
    condition: str = 'attention',
    model_types: Sequence[Any] = ('mini',),
    model_names: Sequence[str | None] | None = None,
    model_kwargs: Sequence[Any] | None = None,
    cond_drop_prob: float | Sequence[float] = 0.1,
    null: str = 'learned',
    reads_scale: bool = False,
) -> Any:
    """A transformer of a named size, conditioned on text; its weights follow torch's global seed.

    Args:
        size: a key of `SIZES`.
        channels: of the images.
        patch: a token stands for `patch` x `patch` pixels; 2 for images of 32 pixels, 4 for 64.
        condition: how the text enters: 'film', 'attention', 'concat', or 'null' for none.
        model_types: text encoders, by name or as objects.
        model_names: a name or local path per encoder; None for the defaults.
        model_kwargs: options per encoder.
        cond_drop_prob: probability in training that a sample loses its text; one per encoder drops them independently.
        null: what a dropped text becomes: 'learned', 'zeros' or 'empty'.
        reads_scale: whether it can learn to guide in one pass.

    Returns:
        An `ImageTransformer`, in training mode.

    Raises:
        ConfigError: an unknown size, condition, encoder or null.
    """
    if size not in SIZES:
        raise ConfigError(f'size is one of {", ".join(SIZES)}, but got {size!r}')
    chosen = SIZES[size]
    of_kind = {
        'attention': {'attn_heads': chosen.heads, 'attn_dim_head': chosen.dim // chosen.heads},
        'film': {'text_embed_stem_dim_mult': 1},  # every block has a network of its own behind the stem
    }
    transformer: Any = ImageTransformer  # the decorator adds the text_condition_* arguments, which its type does not show
    return transformer(
        channels=channels,
        patch=patch,
        dim=chosen.dim,
        depth=chosen.depth,
        heads=chosen.heads,
        text_in_norms=condition == 'film',
        text_condition_type=condition,
        text_condition_model_types=tuple(model_types),
        text_condition_model_names=model_names and tuple(model_names),
        text_condition_model_kwargs=model_kwargs and tuple(model_kwargs),
        text_condition_hidden_dims=(chosen.dim,) * chosen.depth,
        text_condition_hiddens_channel_first=False,
        text_condition_cond_drop_prob=cond_drop_prob,
        text_condition_null=null,
        text_condition_reads_scale=reads_scale,
        **{f'text_condition_{name}': value for name, value in of_kind.get(condition, {}).items()},
    )
