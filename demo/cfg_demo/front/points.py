"""The described points as a world: one model for each seed, trained once and kept."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cfg_demo.front.plans import Plan
from cfg_demo.front.worlds import Measured, counted, energy_distances
from cfg_demo.points import world
from cfg_demo.points.measure import Scores, prompts
from cfg_demo.points.model import build_model
from cfg_demo.points.settings import Settings
from cfg_demo.points.train import UNIT, train

TRUE_POINTS = 400


class PointsWorld:
    """Held-out and seen descriptions, and models that were trained with one seed each.

    Args:
        settings: Of the training, and the number of points per prompt.
        count: Prompts of a split, at most all there are.
        folder: Where the models are kept.
    """

    images = False

    def __init__(self, settings: Settings, count: int, folder: Path) -> None:
        self.settings, self.count, self.folder = settings, count, folder
        self._models: dict[int, Any] = {}

    def model(self, seed: int) -> Any:
        """The model of a seed: trained, or read from the file of an earlier run."""
        if seed not in self._models:
            own = replace(self.settings, seed=seed)
            file = self.folder / f'points-{own.steps}-steps-seed-{seed}.pt'
            torch.manual_seed(seed)
            model = build_model(own)
            if file.exists():
                model.load_state_dict(torch.load(file, map_location=own.device, weights_only=True))
            else:
                model = train(model, own, desc=f'train seed {seed}')
                torch.save(model.state_dict(), file)
            self._models[seed] = model.eval()
        return self._models[seed]

    def measure(self, plan: Plan, seed: int, split: str) -> Measured:
        """Draw and score; fidelity is the energy distance to true points."""
        asked = [prompt for prompt in prompts() if prompt.split == split][: self.count]
        model = self.model(seed)
        cloud, rows = counted(model, lambda: self.draw(model, plan, [prompt.text for prompt in asked], seed))
        scores = Scores.of(asked, {1.0: cloud})
        generator = torch.Generator().manual_seed(seed + 2)
        true = world.sample([prompt.scene for prompt in asked], TRUE_POINTS, generator=generator)
        values = {
            'adherence': scores.adherence[:, 0],
            'diversity': scores.coverage[:, 0],
            'distance': energy_distances(cloud, true),
        }
        return Measured(rows / len(asked), values)

    @torch.no_grad()
    def draw(self, model: Any, plan: Plan, texts: list[str], seed: int) -> Tensor:
        """Points `(p, n, 2)` by Euler steps from the noise of a seed, the same for all plans."""
        prepared = model.prepare(texts)
        generator = torch.Generator().manual_seed(seed + 1)
        points = torch.randn(len(texts), self.settings.samples, 2, generator=generator).to(self.settings.device)
        state = plan.rule.init_state()
        for step, (time, next_time) in enumerate(pairwise(torch.linspace(1, 0, plan.steps + 1, dtype=torch.float64).tolist())):
            velocity = model(
                points,
                points.new_full(points.shape[:-1], time),
                text_condition=prepared,
                cond_scale=plan.at(step, time, next_time, 1 - time, 1 - next_time),
                guidance=plan.rule,
                guidance_state=state,
                guidance_kwargs={'sigma': time, 'progress': step / plan.steps},
                cfg_batched=True,  # so that the null pass is made for those samples that need it
            )
            points = points + (next_time - time) * velocity
        return points.cpu() * UNIT
