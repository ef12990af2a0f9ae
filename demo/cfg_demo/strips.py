"""Guidance scales side by side: a strip of pictures for every prompt and scale, and the share that is right."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cfg_demo.shapes import ShapesDataset, check_all

PROMPTS = (
    'a large red circle in the center on a dark background',
    'a large yellow square in the center on a navy background',
    'a large green ring in the center on a light background',
    'a large purple cross in the center on a gray background',
)
ZOOM = 1.5  # small networks learn close-ups sooner


def close_ups(size: int, length: int) -> ShapesDataset:
    """Return captioned pictures of one shape each, close up; the captions say everything, which is learned soonest.

    Args:
        size: Width and height in pixels.
        length: How many.
    """
    return ShapesDataset(size=size, length=length, kinds=('single',), told=1.0, zoom=ZOOM)


def save_strips(path: str | Path, prompts: Sequence[str], drawn: Mapping[float, Tensor], shown: int = 6) -> None:
    """Write a PNG whose rows are prompts and whose columns are scales.

    Args:
        path: A file; its folder is made if need be.
        prompts: `p` of them.
        drawn: By guidance scale, pictures `(p * n, 3, h, w)` from 0 to 1, those of a prompt one after the other.
        shown: How many pictures of each prompt are shown.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(drawn) + 2.5, 0.55 * len(prompts) + 0.5), dpi=80, layout='constrained')
    axes = figure.subplots(len(prompts), len(drawn), squeeze=False)
    for column, (scale, pictures) in zip(axes.T, drawn.items(), strict=True):
        column[0].set_title(f'cond_scale {scale:g}')
        for axis, strip in zip(column, pictures.chunk(len(prompts)), strict=True):
            axis.imshow(torch.cat(list(strip[:shown].permute(0, 2, 3, 1)), dim=1).numpy())
            axis.set(xticks=[], yticks=[])
    for axis, prompt in zip(axes[:, 0], prompts, strict=True):
        axis.set_ylabel(textwrap.fill(prompt, 26), rotation=0, ha='right', va='center')
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def compare_scales(
    sample: Callable[[list[str], float], Tensor], scales: Sequence[float], path: str | Path, each: int = 32
) -> dict[float, float]:
    """Draw the `PROMPTS` at every scale, print how many pictures have colour and background as asked, and write the strips.

    Args:
        sample: Pictures `(b, 3, h, w)` from 0 to 1 for `b` texts at a scale.
        scales: Guidance scales.
        path: Where the strips go.
        each: Pictures of each prompt at each scale.

    Returns:
        By scale: the share of pictures with colour and background as asked, as the checker of the drawn world reads them.
    """
    texts = [prompt for prompt in PROMPTS for _ in range(each)]
    drawn = {scale: sample(texts, scale) for scale in scales}
    shares = {}
    for scale, pictures in drawn.items():
        right = [bool(verdict.colour and verdict.background) for verdict in check_all(pictures, texts, ZOOM)]
        shares[scale] = sum(right) / len(right)
        print(f'cond_scale {scale:g}: {shares[scale]:6.1%} of {len(texts)} pictures have colour and background as asked')
    save_strips(path, PROMPTS, drawn)
    return shares
