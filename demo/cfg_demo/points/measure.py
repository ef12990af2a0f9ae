"""Numbers: how many points do what their prompt says, how much of the shape they fill, and how sure we are of it.

Prompts are the unit of all intervals: the points of one prompt succeed and fail together, so counting points as independent
would claim far more certainty than there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cfg_demo.intervals import Estimate
from cfg_demo.points import world
from cfg_demo.points.world import Scene

SPLITS = ('seen', 'held_out')


@dataclass(frozen=True)
class Prompt:
    """A scene in one of its phrasings."""

    scene: Scene
    text: str

    @property
    def split(self) -> str:
        """Which side of the split the scene is on."""
        return 'held_out' if self.scene.held_out else 'seen'


def prompts() -> list[Prompt]:
    """The prompts that are measured: as many random seen scenes as there are held-out ones, then these; all phrasings in turn."""
    held_out, seen = world.split(held_out=True), world.split(held_out=False)
    chosen = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))[: len(held_out)].sort().values
    return [
        Prompt(scene, scene.caption(i % world.PHRASINGS))
        for scenes in ([seen[i] for i in chosen.tolist()], held_out)
        for i, scene in enumerate(scenes)
    ]


@dataclass(frozen=True)
class Scores:
    """One value per prompt and scale.

    Attributes:
        prompts: the prompts, `p` of them.
        scales: the guidance scales, `s` of them.
        adherence: share of the points that satisfy the prompt, `(p, s)`; see `world.satisfies`.
        coverage: share of the described shape that the points reach, `(p, s)`; see `world.coverage`.
    """

    prompts: Sequence[Prompt]
    scales: Sequence[float]
    adherence: Tensor
    coverage: Tensor

    @staticmethod
    def of(asked: Sequence[Prompt], clouds: Mapping[float, Tensor]) -> Scores:
        """Score the points `(p, n, 2)` drawn at each scale."""
        pairs = [
            [(prompt.scene, cloud) for cloud in by_prompt] for prompt, *by_prompt in zip(asked, *clouds.values(), strict=True)
        ]
        adherence = [[world.satisfies(scene, cloud).float().mean().item() for scene, cloud in row] for row in pairs]
        coverage = [[world.coverage(scene, cloud) for scene, cloud in row] for row in pairs]
        return Scores(asked, list(clouds), torch.tensor(adherence), torch.tensor(coverage))

    def rows(self, split: str) -> Tensor:
        """Which prompts are on one side of the split: booleans `(p,)`."""
        return torch.tensor([prompt.split == split for prompt in self.prompts])

    def estimate(self, what: str, split: str, scale: float) -> Estimate:
        """The mean of `'adherence'` or `'coverage'` over the prompts of a split."""
        values: Tensor = getattr(self, what)
        return Estimate.of(values[self.rows(split), self.scales.index(scale)])

    @property
    def best_scale(self) -> float:
        """The scale of highest adherence on *seen* prompts: chosen there, so that held-out prompts judge the choice fairly."""
        return self.scales[int(self.adherence[self.rows('seen')].mean(dim=0).argmax())]

    def gain(self, split: str, start: float, end: float) -> Estimate:
        """How much adherence changes from one scale to another, prompt by prompt."""
        change = self.adherence[:, self.scales.index(end)] - self.adherence[:, self.scales.index(start)]
        return Estimate.of(change[self.rows(split)])
