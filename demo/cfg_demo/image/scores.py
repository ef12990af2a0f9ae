"""Scores of a model at a guidance scale: does it draw what it is told, how much do its pictures differ, how real are they.

    adherence    the share of prompts of which the checker finds every part, or one part, in the picture
    readable     the share of pictures that the checker can read at all
    diversity    mean distance |f(x) - f(y)| between pictures of one prompt from different seeds
    fidelity     Frechet distance |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) between pictures of the prompts and the renderer's

where `f` are the features of mini's image tower and `m`, `C` their mean and covariance (Heusel et al., 2017, arXiv 1706.08500).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cfg_demo.image.drawing import Request, sample_guided
from cfg_demo.image.settings import ModelSettings
from cfg_demo.shapes import ShapesDataset, Verdict, check_all

# Held-out prompts of each kind; 544 in all.
PROMPTS: dict[str, int] = {'single': 256, 'relation': 128, 'count': 96, 'list': 64}
DIVERSE_PROMPTS, DIVERSE_SEEDS = 24, 6
SEEN_AT = 32  # the pixels that mini's image tower was trained on


@dataclass(frozen=True)
class Share:
    """A share of `count` cases, with Wilson's 95% interval."""

    held: int
    count: int

    @property
    def value(self) -> float:
        return self.held / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Bounds of the true share (Wilson, 1927): `(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`, z = 1.96.

        >>> low, high = Share(50, 100).interval
        >>> round(low, 3), round(high, 3)
        (0.404, 0.596)
        """
        z, n, p = 1.96, self.count, self.value
        middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {'share': self.value, 'interval': list(self.interval), 'count': self.count}


@dataclass(frozen=True)
class Prompts:
    """Captions with the renderer's own pictures `(n, 3, s, s)` of them, and the kind of each."""

    captions: Sequence[str]
    kinds: Sequence[str]
    pictures: Tensor


@dataclass(frozen=True)
class Scores:
    """What was measured of one rule at one scale."""

    rule: str
    scale: float
    whole: Mapping[str, Share]
    parts: Mapping[str, Share]
    readable: Share
    diversity: float
    fidelity: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            'rule': self.rule,
            'scale': self.scale,
            'whole': {kind: share.as_dict() for kind, share in self.whole.items()},
            'parts': {part: share.as_dict() for part, share in self.parts.items()},
            'readable': self.readable.as_dict(),
            'diversity': self.diversity,
            'fidelity': self.fidelity,
        }


def held_out_prompts(size: int, counts: Mapping[str, int] = PROMPTS, seed: int = 1, **scenes: float) -> Prompts:
    """Captions that name pairs of colour and shape never seen in training, of each kind as many as `counts` says.

    Args:
        size: of the pictures, in pixels.
        counts: how many of each kind.
        seed: another is another set.
        scenes: `told` and `zoom` of `ShapesDataset`.
    """
    captions: list[str] = []
    kinds: list[str] = []
    pictures = []
    for kind, count in counts.items():
        drawn = ShapesDataset('held_out', size=size, length=count, seed=seed, kinds=(kind,), **scenes)
        for item in drawn.__getitems__(range(count)):
            captions.append(item.caption)
            kinds.append(kind)
            pictures.append(item.image)
    return Prompts(captions, kinds, torch.stack(pictures))


def measure(
    model: Any, settings: ModelSettings, prompts: Prompts, request: Request, scale: float, *, progress: bool = True
) -> Scores:
    """Score a model at one scale.

    Args:
        model: trained, in eval mode.
        settings: its settings.
        prompts: what to draw, one picture each.
        request: rule, steps and sampler; its prompt, scales and seeds are not used.
        scale: the guidance scale.
        progress: show progress bars.
    """
    count = len(prompts.captions)
    first = replace(request, seeds=range(1000, 1000 + count))
    images = sample_guided(model, settings, prompts.captions, first, scale, progress=progress)
    verdicts = check_all(images, prompts.captions, settings.zoom)
    chosen = prompts.captions[:: max(1, count // DIVERSE_PROMPTS)][:DIVERSE_PROMPTS]
    again = replace(request, seeds=range(len(chosen) * DIVERSE_SEEDS))
    alike = sample_guided(model, settings, [c for c in chosen for _ in range(DIVERSE_SEEDS)], again, scale, progress=progress)
    return Scores(
        request.rule,
        scale,
        whole_shares(verdicts, prompts.kinds),
        part_shares(verdicts),
        Share(sum(verdict.readable for verdict in verdicts), count),
        diversity(features(alike).reshape(len(chosen), DIVERSE_SEEDS, -1)),
        frechet_distance(features(images), features(prompts.pictures)),
    )


def whole_shares(verdicts: Sequence[Verdict], kinds: Sequence[str]) -> dict[str, Share]:
    """For each kind, and for 'all', the share of prompts that hold as a whole."""
    shares = {'all': Share(sum(verdict.holds for verdict in verdicts), len(verdicts))}
    for kind in dict.fromkeys(kinds):
        held = [verdict.holds for verdict, own in zip(verdicts, kinds, strict=True) if own == kind]
        shares[kind] = Share(sum(held), len(held))
    return shares


def part_shares(verdicts: Sequence[Verdict]) -> dict[str, Share]:
    """For each part the share of the prompts speaking of it of which it holds."""
    spoken: dict[str, list[bool]] = {}
    for verdict in verdicts:
        for part, held in verdict.parts.items():
            spoken.setdefault(part, []).append(held)
    return {part: Share(sum(held), len(held)) for part, held in spoken.items()}


@torch.no_grad()
def features(images: Tensor) -> Tensor:
    """Features `(b, 128)` of images `(b, 3, s, s)` from 0 to 1, by mini's image tower."""
    from cfg_demo.mini.towers import load_joint_space

    tower = load_joint_space().image_tower
    images = images.cpu()  # where the tower is
    if images.shape[-1] != SEEN_AT:
        images = F.interpolate(images, size=(SEEN_AT, SEEN_AT), mode='bilinear')
    return torch.cat([tower(batch) for batch in torch.split(images, 128)]).double()


def diversity(grouped: Tensor) -> float:
    """The mean distance between the features `(prompts, seeds, d)` of different seeds of one prompt."""
    distances = torch.cdist(grouped, grouped)
    seeds = grouped.shape[1]
    return float(distances.sum() / (grouped.shape[0] * seeds * (seeds - 1)))


def frechet_distance(drawn: Tensor, real: Tensor) -> float:
    """The Frechet distance between normal distributions fitted to features `(n, d)` and `(m, d)`; 0 for equal ones.

    `tr (C C')^(1/2)` is the sum of the square roots of the eigenvalues of `C C'`, which are those of a product of two positive
    semidefinite matrices: real and not negative.
    """
    mean_gap = (drawn.mean(0) - real.mean(0)).square().sum()
    first, second = drawn.T.cov(), real.T.cov()
    shared = torch.linalg.eigvals(first @ second).real.clamp(min=0).sqrt().sum()
    return float((mean_gap + first.trace() + second.trace() - 2 * shared).clamp(min=0))


def as_table(scores: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of scores, as `Scores.as_dict` gives them: a row per rule and scale; shares in percent."""
    kinds, parts = list(scores[0]['whole']), list(scores[0]['parts'])
    names = ['rule', 'scale', *(f'whole caption, {kind}' for kind in kinds), *parts, 'readable', 'diversity', 'fidelity']
    lines = [names, ['---'] * len(names)]
    for one in scores:
        whole = [percent(one['whole'][kind], interval=True) for kind in kinds]
        shares = [percent(share) for share in (*(one['parts'][part] for part in parts), one['readable'])]
        lines.append([one['rule'], f'{one["scale"]:g}', *whole, *shares, f'{one["diversity"]:.1f}', f'{one["fidelity"]:.1f}'])
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def percent(share: Mapping[str, Any], interval: bool = False) -> str:
    """A share in percent, with its 95% interval if asked for."""
    low, high = share['interval']
    return f'{100 * share["share"]:.0f}' + (f' [{100 * low:.0f}, {100 * high:.0f}]' if interval else '')
