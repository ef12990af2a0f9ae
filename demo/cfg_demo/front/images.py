"""The drawn world of the image demo: pictures of captions, read by a checker."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cfg_demo.front.plans import Plan
from cfg_demo.front.worlds import Measured, counted
from cfg_demo.image.checkpoint import load_model
from cfg_demo.image.diffusion import Diffusion
from cfg_demo.image.rules import Guided
from cfg_demo.image.sampling import sample
from cfg_demo.image.scores import features
from cfg_demo.shapes import ShapesDataset, check_all
from classifier_free_guidance_pytorch.errors import ConfigError

EACH = 4  # pictures of a prompt, which must differ for diversity


class ImageWorld:
    """Captions of the drawn world, and a trained model; a seed is that of the noise.

    Args:
        path: A model.safetensors.
        count: Prompts.
        device: Where to draw.

    Raises:
        ConfigError: A model that does not predict the velocity of a flow, for which the plans are.
    """

    images = True

    def __init__(self, path: Path, count: int, device: str) -> None:
        self.model, self.settings = load_model(path, device)
        self.count = count
        if self.settings.prediction != 'flow':
            raise ConfigError(
                f'the front is of models that predict the velocity of a flow, but {str(path)!r} predicts '
                f'{self.settings.prediction}: pass another --model'
            )

    def measure(self, plan: Plan, seed: int, split: str) -> Measured:
        """Draw each prompt several times; fidelity is the energy distance to the renderer's pictures, in features of mini's."""
        drawn = ShapesDataset(
            'held_out' if split == 'held_out' else 'train',
            size=self.settings.image_size,
            length=self.count,
            seed=1,
            zoom=self.settings.zoom,
        )
        items = drawn.__getitems__(range(self.count))
        texts = [item.caption for item in items for _ in range(EACH)]
        first = 100_000 * seed
        how = Guided(plan.rule, plan.scale)
        pictures, rows = counted(
            self.model,
            lambda: sample(
                self.model,
                Diffusion('flow'),
                texts,
                size=self.settings.image_size,
                how=how,
                seeds=range(first, first + len(texts)),
                steps=plan.steps,
                title=plan.name,
                progress=False,
            ),
        )
        held = torch.tensor([verdict.holds for verdict in check_all(pictures, texts, self.settings.zoom)])
        seen = features(pictures).reshape(self.count, EACH, -1)
        values = {
            'adherence': held.float().reshape(self.count, EACH).mean(1),
            'diversity': torch.cdist(seen, seen).sum((1, 2)).float() / (EACH * (EACH - 1)),
            'distance': energy_parts(seen, features(torch.stack([item.image for item in items]))).float(),
        }
        return Measured(rows / len(texts), values)


def energy_parts(drawn: Tensor, real: Tensor) -> Tensor:
    """The energy distance between the pictures of all prompts and the renderer's, as one part per prompt, whose mean it is.

    Pictures of one prompt are kept apart: of pairs of prompts `i != j` it is the mean of
    `|x_i - y_j| + |x_j - y_i| - |x_i - x_j| - |y_i - y_j|`. A part is the jackknife's pseudo-value of its prompt
    (Tukey, 1958), so the standard error of their mean is that of the distance.

    Args:
        drawn: Features `(p, n, d)` of `n` pictures of each prompt.
        real: Features `(p, d)`.

    Returns:
        Parts `(p,)`.
    """
    count = len(real)
    cross = torch.cdist(drawn, real.expand(count, -1, -1)).mean(1)  # (p, p), of the pictures of i to the real one of j
    own = torch.stack([torch.cdist(one, drawn).mean((1, 2)) for one in drawn])
    pairs = cross + cross.T - own - torch.cdist(real, real)
    pairs.fill_diagonal_(0)
    total = pairs.sum()
    without = (total - 2 * pairs.sum(1)) / ((count - 1) * (count - 2))  # the distance of all prompts but one
    return count * total / (count * (count - 1)) - (count - 1) * without
