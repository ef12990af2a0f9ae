"""The judge of pictures: an image tower that places a picture beside its name, and tells its style.

It learns against the text features of the names by all-MiniLM-L6-v2, the teacher of the encoder and not the encoder that a model
draws with: a picture is right if its name is nearer to it than those of 99 other concepts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfg_demo.image import checkpoint
from cfg_demo.mini.towers import WIDTH, ImageTower

CANDIDATES = 100
SHIPPED = Path(__file__).parent / 'weights' / 'judge.safetensors'


class Judge(nn.Module):
    """Places pictures and the names of concepts in one space.

    Args:
        names: Text features `(c, d)` of the names of all concepts.
        styles: How many styles there are.
    """

    names: Tensor

    def __init__(self, names: Tensor, styles: int) -> None:
        super().__init__()
        self.register_buffer('names', names.float())
        self.tower = ImageTower()
        self.place_name = nn.Linear(names.shape[1], WIDTH, bias=False)
        self.tell_style = nn.Linear(WIDTH, styles)
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(14.0)))

    def see(self, images: Tensor) -> Tensor:
        """Return features `(b, WIDTH)` of pictures `(b, 3, s, s)` from 0 to 1."""
        features: Tensor = self.tower(images)
        return features

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return how well each name `(b, c)` and each style `(b, styles)` fits pictures `(b, 3, s, s)`, as logits."""
        features = self.see(images)
        names = F.normalize(self.place_name(self.names), dim=-1)  # (c, WIDTH)
        match = F.normalize(features, dim=-1) @ names.T
        return self.log_sharpness.exp().clamp(max=100) * match, self.tell_style(features)


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures moved by up to 2 pixels, scaled, turned a little, with other brightness and contrast, and with noise.

    What a model draws is a little off in all of these; a judge must not mind.
    """
    count, size = len(images), images.shape[-1]

    def draw(spread: float, *shape: int) -> Tensor:
        return (torch.rand(count, *shape, generator=generator) * 2 - 1) * spread

    zoom, angle, move = 1 + draw(0.12), draw(0.15), draw(4 / size, 2)
    cosine, sine = angle.cos() * zoom, angle.sin() * zoom
    grid = torch.stack((cosine, -sine, move[:, 0], sine, cosine, move[:, 1]), dim=1).view(count, 2, 3)
    turned = F.grid_sample(1 - images, F.affine_grid(grid, list(images.shape), align_corners=False), align_corners=False)
    coloured = (1 - turned - 0.5) * (1 + draw(0.2, 1, 1, 1)) + 0.5 + draw(0.08, 3, 1, 1)
    noise = torch.randn(images.shape, generator=generator) * torch.rand(count, 1, 1, 1, generator=generator) * 0.06
    return (coloured + noise).clamp(0, 1)


def right_among(scores: Tensor, truth: Tensor, generator: torch.Generator, candidates: int = CANDIDATES) -> Tensor:
    """Return for each row of scores `(b, c)` whether the true concept wins among itself and `candidates - 1` others.

    Args:
        scores: Logits over all concepts.
        truth: The right one `(b,)`.
        generator: Of the others.
        candidates: How many, the right one included.
    """
    others = torch.rand(scores.shape, generator=generator)
    others[torch.arange(len(truth)), truth] = 2.0  # the true one is always among them
    chosen = others.topk(min(candidates, scores.shape[1]), dim=1).indices  # (b, candidates)
    best = chosen.gather(1, scores.gather(1, chosen).argmax(1, keepdim=True)).squeeze(1)
    return best == truth


@dataclass(frozen=True)
class Verdict:
    """What the judge says of pictures, one entry each.

    Args:
        right: Whether the concept is right among 100.
        style: Whether the style is.
    """

    right: Tensor
    style: Tensor


@torch.no_grad()
def judge_pictures(judge: Judge, images: Tensor, concept: Tensor, style: Tensor, seed: int = 0) -> Verdict:
    """Judge pictures `(n, 3, s, s)` from 0 to 1 of concepts `(n,)` in styles `(n,)`."""
    generator = torch.Generator().manual_seed(seed)
    judge.eval()
    parts = [judge(batch) for batch in torch.split(images, 256)]
    names, styles = (torch.cat(each) for each in zip(*parts, strict=True))
    return Verdict(right_among(names, concept, generator), styles.argmax(1) == style)


def save_judge(judge: Judge, path: Path, about: dict[str, Any]) -> None:
    """Write a judge in half precision with what it knows."""
    tensors = {name: value.half() if value.is_floating_point() else value for name, value in judge.state_dict().items()}
    checkpoint.write(path, tensors, about)


def load_judge(path: Path = SHIPPED) -> tuple[Judge, dict[str, Any]]:
    """Return a trained judge in eval mode, and what was written about it: the names of its concepts and styles, its accuracy.

    Raises:
        ConfigError: There is none.
    """
    tensors, about = checkpoint.read(path)
    judge = Judge(tensors['names'], tensors['tell_style.bias'].shape[0])
    judge.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in tensors.items()})
    return judge.eval().requires_grad_(False), about
