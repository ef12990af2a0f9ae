"""Scores of a model of emoji at one scale, by how far prompts are from what training showed.

    right       the share of pictures that the judge takes for the concept asked for, among 100
    style       the share that it takes for the style asked for
    diversity   mean distance |f(x) - f(y)| between pictures of one prompt from different seeds
    fidelity    Frechet distance between pictures of the prompts and real ones (Heusel et al., 2017, arXiv 1706.08500)
    near copies the share of pictures whose nearest training picture is nearer than `COPY` times the distance at which training
                pictures have their own nearest neighbour, in the median

where `f` are features of the judge's image tower. Of held-out styles, a near copy of a picture of another style is no answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cfg_demo.emoji.data import SEEN
from cfg_demo.emoji.judge import Judge, judge_pictures
from cfg_demo.emoji.prompts import GROUPS, Prompts
from cfg_demo.emoji.reading import Pictures
from cfg_demo.image.drawing import Request, sample_guided
from cfg_demo.image.scores import Share, diversity, frechet_distance, percent
from cfg_demo.image.settings import ModelSettings

COPY = 0.5
DIVERSE_PROMPTS, DIVERSE_SEEDS = 16, 4


@dataclass(frozen=True)
class Gallery:
    """Real pictures, to compare drawn ones with.

    Args:
        pixels: Those of training, `(n, 3 * s * s)` from 0 to 1.
        features: Of all pictures, `(m, d)`.
        spacing: The median distance, in pixels, of a training picture to its nearest neighbour.
    """

    pixels: Tensor
    features: Tensor
    spacing: float


@torch.no_grad()
def open_gallery(pictures: Pictures, judge: Judge) -> Gallery:
    """Return what drawn pictures are compared with."""
    pixels = pictures.floats(pictures.of_groups(SEEN)).flatten(1)
    sample = pixels[:: max(1, len(pixels) // 1000)]
    nearest = torch.cdist(sample, pixels).topk(2, largest=False).values[:, 1]  # the first is itself
    everything = pictures.floats(torch.arange(len(pictures.images)))
    features = torch.cat([judge.see(batch) for batch in torch.split(everything, 256)])
    return Gallery(pixels, features.double(), float(nearest.median()))


@torch.no_grad()
def measure(
    model: Any, settings: ModelSettings, prompts: Prompts, judge: Judge, gallery: Gallery, request: Request, scale: float,
    *, progress: bool = True,
) -> tuple[dict[str, Any], Tensor]:  # fmt: skip
    """Return the scores of a model at one scale, for JSON, and the pictures `(n, 3, s, s)` of the prompts.

    Args:
        model: Trained, in eval mode.
        settings: Its settings.
        prompts: What to draw, one picture each.
        judge: Trained.
        gallery: Of real pictures.
        request: Rule, steps and sampler; its prompt, scales and seeds are not used.
        scale: The guidance scale.
        progress: Show progress bars.
    """
    first = replace(request, seeds=range(1000, 1000 + len(prompts)))
    images = sample_guided(model, settings, prompts.texts, first, scale, progress=progress).cpu()
    verdict = judge_pictures(judge, images, prompts.concept, prompts.style)
    nearest = torch.cdist(images.flatten(1), gallery.pixels).min(1).values
    copied = nearest < COPY * gallery.spacing
    chosen = prompts.texts[:: max(1, len(prompts) // DIVERSE_PROMPTS)][:DIVERSE_PROMPTS]
    again = replace(request, seeds=range(len(chosen) * DIVERSE_SEEDS))
    alike = sample_guided(model, settings, [c for c in chosen for _ in range(DIVERSE_SEEDS)], again, scale, progress=progress)
    scores = {
        'rule': request.rule,
        'scale': scale,
        'right': _by_group(verdict.right, prompts.groups),
        'style': _by_group(verdict.style, prompts.groups),
        'near copies': _by_group(copied, prompts.groups),
        'diversity': diversity(judge.see(alike.cpu()).reshape(len(chosen), DIVERSE_SEEDS, -1).double()),
        'fidelity': frechet_distance(judge.see(images).double(), gallery.features),
    }
    return scores, images


def as_table(scores: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of scores, a row per rule and scale; shares in percent with their 95% intervals."""
    groups = [group for group in GROUPS if group in scores[0]['right']]
    copied = 'held-out style'
    names = [
        'rule',
        'scale',
        *(f'{group}: right' for group in groups),
        'style',
        f'{copied}: near copies',
        'diversity',
        'fidelity',
    ]
    lines = [names, ['---'] * len(names)]
    for one in scores:
        right = [percent(one['right'][group], interval=True) for group in groups]
        others = [percent(one['style']['all']), percent(one['near copies'].get(copied, one['near copies']['all']))]
        lines.append([one['rule'], f'{one["scale"]:g}', *right, *others, f'{one["diversity"]:.1f}', f'{one["fidelity"]:.1f}'])
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _by_group(held: Tensor, groups: Sequence[str]) -> dict[str, Any]:
    shares = {'all': Share(int(held.sum()), len(held))}
    for group in dict.fromkeys(groups):
        own = held[torch.tensor([each == group for each in groups])]
        shares[group] = Share(int(own.sum()), len(own))
    return {group: share.as_dict() for group, share in shares.items()}
