"""Two interleaved arcs of Gaussians in the plane: a world in which every score is exact.

The condition asks for the upper arc. The model is the exact denoiser of these mixtures, blurred a little, as an imperfect network
would be: so without guidance many samples miss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from classifier_free_guidance_pytorch import guidance

SIGMAS = (8.0, 0.01)  # first and last noise level
SPREAD = 0.12  # of every Gaussian of the data
BLUR, WEAK_BLUR = 0.15, 0.45  # what the model, and the weakened model, add to it
Prediction = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Mixture:
    """Equally likely Gaussians of one width in the plane, and what follows from them in closed form."""

    means: Tensor  # (k, 2)
    spread: float

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return points drawn from it, (count, 2)."""
        chosen = torch.randint(len(self.means), (count,), generator=generator)
        return self.means[chosen] + self.spread * torch.randn(count, 2, generator=generator)

    def log_density(self, x: Tensor) -> Tensor:
        """Return `log p(x)`, (n,)."""
        squared = torch.cdist(x, self.means).square()
        peak = math.log(2 * math.pi * self.spread**2 * len(self.means))
        return torch.logsumexp(-squared / (2 * self.spread**2), dim=1) - peak

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """Return the exact `E[x0 | x0 + sigma * eps = x]`, (n, 2)."""
        total = self.spread**2 + sigma**2
        nearest = torch.softmax(-torch.cdist(x, self.means).square() / (2 * total), dim=1) @ self.means  # E[mean | x]
        return nearest + self.spread**2 / total * (x - nearest)

    def blurred(self, by: float) -> Mixture:
        """Return the mixture of points with noise added."""
        return Mixture(self.means, math.hypot(self.spread, by))


def arc(count: int, lower: bool) -> Mixture:
    """Return one half moon of Gaussians; two of them interleave."""
    angle = torch.linspace(0, math.pi, count)
    upper = torch.stack((angle.cos(), angle.sin()), dim=1)
    return Mixture(torch.tensor([1.0, 0.35]) - upper if lower else upper, SPREAD)


WANTED, OTHER = arc(7, lower=False), arc(7, lower=True)
EVERYTHING = Mixture(torch.cat((WANTED.means, OTHER.means)), SPREAD)
LEFT_OR_WANTED = Mixture(torch.cat((WANTED.means, OTHER.means[3:])), SPREAD)  # a weaker condition, for the chain

BRANCHES: dict[str, Mixture | tuple[Mixture, ...]] = {
    'cond': WANTED.blurred(BLUR),
    'null': EVERYTHING.blurred(BLUR),
    'weak': WANTED.blurred(WEAK_BLUR),
    'conds': (OTHER.blurred(BLUR),),
    'negatives': (OTHER.blurred(BLUR),),
}


class Panel(NamedTuple):
    """What was sampled under one rule: points `(n, 2)`, how good they are, and the passes of the model per step."""

    title: str
    points: Tensor
    fidelity: float
    diversity: float
    passes: float


def start(count: int, seed: int = 0) -> Tensor:
    """Return pure noise `(count, 2)` at the first noise level."""
    return SIGMAS[0] * torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))


def noise_levels(steps: int) -> list[float]:
    """Return `steps` noise levels, evenly spaced on a logarithmic scale, and 0."""
    return [*torch.logspace(math.log10(SIGMAS[0]), math.log10(SIGMAS[1]), steps).tolist(), 0.0]


def predictions(rule: guidance.Rule, names: Sequence[str], x: Tensor, sigma: float) -> dict[str, Prediction]:
    """Return what the blurred model predicts of points `(n, 2)` in every branch that a rule names, and in no other."""
    made: dict[str, Prediction] = {}
    for name in names:
        branch = (LEFT_OR_WANTED.blurred(BLUR),) if name == 'conds' and isinstance(rule, guidance.Chain) else BRANCHES[name]
        made[name] = tuple(m.denoise(x, sigma) for m in branch) if isinstance(branch, tuple) else branch.denoise(x, sigma)
    return made


def measure(samples: Tensor, seed: int = 1) -> tuple[float, float]:
    """Return fidelity and diversity of samples, each in [0, 1]."""
    wanted = WANTED.sample(len(samples), torch.Generator().manual_seed(seed))
    lowest = WANTED.log_density(wanted).quantile(0.05)  # 95% of the wanted data lie above this density
    fidelity = (WANTED.log_density(samples) >= lowest).float().mean()
    diversity = (torch.cdist(wanted, samples).amin(dim=1) < SPREAD / 2).float().mean()
    return float(fidelity), float(diversity)


def save_panels(path: Path, panels: Sequence[Panel], scale: float) -> None:
    """Write a PNG of all panels over the data."""
    import matplotlib as mpl

    mpl.use('Agg')
    import matplotlib.pyplot as plt

    generator = torch.Generator().manual_seed(2)
    figure, axes = plt.subplots(len(panels) // 6, 6, figsize=(15, 2.6 * len(panels) / 6), layout='constrained')
    for axis, (title, samples, fidelity, diversity, passes) in zip(axes.flat, panels, strict=True):
        for mixture, colour in ((OTHER, '#e8d5c4'), (WANTED, '#c9dff2')):
            axis.scatter(*mixture.sample(1500, generator).T, s=6, c=colour, linewidths=0)
        axis.scatter(*samples.T, s=2.5, c='#123a6b', alpha=0.55, linewidths=0)
        axis.set(xlim=(-1.9, 2.5), ylim=(-1.3, 1.9), xticks=[], yticks=[], aspect='equal')
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(f'fidelity {fidelity:.0%}   diversity {diversity:.0%}\n{passes:.1f} passes per step', fontsize=9)
    figure.suptitle(
        f'Scale {scale:g} everywhere but in the first panel.  Blue: the data asked for.  Brown: the rest.  Dots: samples.',
        fontsize=12,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
