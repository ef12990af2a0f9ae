"""The smallest models, and one that knows the picture it is asked for."""

from __future__ import annotations

import math
from dataclasses import asdict

import torch
from torch import nn

from cfg_demo.image.diffusion import Diffusion
from cfg_demo.image.models import build_model
from cfg_demo.image.rules import guided
from cfg_demo.image.sampling import sample
from cfg_demo.image.settings import ModelSettings, TrainSettings

TEXTS = ['a red circle', 'two blue squares', 'a small green star on a dark background']


def tiny_settings(**options) -> ModelSettings:
    return ModelSettings(**{'network_size': 'tiny', 'image_size': 16, **options})


def short_training(**options) -> TrainSettings:
    return TrainSettings(**{'steps': 4, 'batch_size': 4, 'warm_up': 0, **options})


def tiny_model(*, trained: bool = True, **options):
    """A tiny model in eval mode; `trained` gives it weights that no initialisation has left at zero."""
    torch.manual_seed(0)
    model = build_model(tiny_settings(**options))
    if trained:
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def pictures(count: int, size: int = 16, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def drawn(model, texts=TEXTS, *, rule='cfg', scale=3.0, prediction='flow', seeds=None, steps=2, **options):
    """`sample` with what it takes for a tiny model."""
    how = guided(rule, scale, prediction)
    options = {'size': 16, 'seeds': range(len(texts)) if seeds is None else seeds, 'steps': steps, 'progress': False, **options}
    return sample(model, Diffusion(prediction), texts, how=how, **options)


def kept_shares(count: int = 1000) -> list[float]:
    """`alphas_cumprod` of the squared cosine (Nichol & Dhariwal, 2021, arXiv 2102.09672, equation 17), by a loop."""

    def remaining(share: float) -> float:
        return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

    kept, product = [], 1.0
    for step in range(count):
        product *= 1 - min(0.999, 1 - remaining((step + 1) / count) / remaining(step / count))
        kept.append(product)
    return kept


class Knowing(nn.Module):
    """Predicts as a perfect model of one image `(3, s, s)` in [-1, 1] would, from where the noisy image stands."""

    def __init__(self, image: torch.Tensor, prediction: str) -> None:
        super().__init__()
        self.image, self.prediction = nn.Parameter(image, requires_grad=False), prediction
        self.kept = kept_shares()

    def prepare(self, texts, negative_texts=None):
        return None

    def forward(self, x, times, **ignored):
        time = float(times[0])
        if self.prediction == 'flow':
            return (x - self.image) / time
        alpha, sigma = (math.sqrt(share) for share in (self.kept[round(time * 999)], 1 - self.kept[round(time * 999)]))
        noise = (x - alpha * self.image) / sigma
        return noise if self.prediction == 'epsilon' else alpha * noise - sigma * self.image


def same_state(first, second) -> bool:
    """Bit for bit."""
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def settings_dict(settings) -> dict:
    return asdict(settings)
