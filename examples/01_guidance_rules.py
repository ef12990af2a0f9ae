"""Every rule on one picture: a 2-D mixture whose scores are exact, sampled at the same scale under each rule.

    python examples/01_guidance_rules.py --out docs/pictures/guidance_rules.png

The data are two interleaved arcs of Gaussians; the condition asks for the upper one. The model is the exact denoiser of these
mixtures, blurred a little, as an imperfect network would be: so without guidance many samples miss. Under each panel stand
fidelity (how many samples lie where 95% of the wanted data lie) and diversity (how much of the wanted data has a sample
nearby), both measured, and the passes of the model per step.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from classifier_free_guidance_pytorch import guidance

SCALE = 2.0
SIGMAS = (8.0, 0.01)  # first and last noise level
SPREAD = 0.12  # of every Gaussian of the data
BLUR, WEAK_BLUR = 0.15, 0.45  # what the model, and the weakened model, add to it


@dataclass(frozen=True)
class Mixture:
    """Equally likely Gaussians of one width in the plane, and what follows from them in closed form."""

    means: Tensor  # (k, 2)
    spread: float

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw points, (count, 2)."""
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
    """One half moon of Gaussians; two of them interleave."""
    angle = torch.linspace(0, math.pi, count)
    upper = torch.stack((angle.cos(), angle.sin()), dim=1)
    return Mixture(torch.tensor([1.0, 0.35]) - upper if lower else upper, SPREAD)


WANTED, OTHER = arc(7, lower=False), arc(7, lower=True)
EVERYTHING = Mixture(torch.cat((WANTED.means, OTHER.means)), SPREAD)
LEFT_OR_WANTED = Mixture(torch.cat((WANTED.means, OTHER.means[3:])), SPREAD)  # a weaker condition, for the chain

BRANCHES = {
    'cond': WANTED.blurred(BLUR),
    'null': EVERYTHING.blurred(BLUR),
    'weak': WANTED.blurred(WEAK_BLUR),
    'conds': (OTHER.blurred(BLUR),),
    'negatives': (OTHER.blurred(BLUR),),
}

Panel = tuple[str, guidance.Rule, float | guidance.Schedule]


def panels() -> list[Panel]:
    """Title, rule and scale of every panel."""
    middle = guidance.interval(SCALE, sigma=(0.15, 2.0))
    return [
        ('no guidance', guidance.CFG(), 1.0),
        ('CFG', guidance.CFG(), SCALE),
        ('CFG in 0.15 < sigma <= 2', guidance.CFG(), middle),
        ('CFG, then rescale', guidance.CFG().then(guidance.rescale_to_cond(0.7)), SCALE),
        ('CFG, then renorm', guidance.CFG().then(guidance.renorm_to_cond()), SCALE),
        ('APG', guidance.APG(), SCALE),
        ('APG, norm 0.5, momentum -0.5', guidance.APG(norm=0.5, momentum=-0.5), SCALE),
        ('CFG-Zero*', guidance.CFGZeroStar(), SCALE),
        ('TCFG', guidance.TCFG(), SCALE),
        ('RAAG, alpha 0.5', guidance.RAAG(alpha=0.5), SCALE),
        ('Perp-Neg, lower arc negative', guidance.PerpNeg(), SCALE),
        ('Compose: upper AND NOT lower', guidance.Compose((1.0, -0.2)), SCALE),
        ('Chain: null, weaker, upper', guidance.Chain((1.5, SCALE)), SCALE),
        ('Weak model', guidance.Weak(SCALE - 1), SCALE),
        ('CFG + weak model', guidance.CFG() + guidance.Weak(1.0), SCALE),
        ('Adaptive guidance', guidance.Adaptive(guidance.CFG(), threshold=0.9999), SCALE),
        ('Delta reuse, every 2', guidance.ReuseDelta(guidance.CFG(), every=2), SCALE),
        ('FDG, the axes as a signal', guidance.FDG((SCALE, 1.5)), SCALE),
    ]


def predictions(rule: guidance.Rule, names: tuple[str, ...], x: Tensor, sigma: float) -> dict[str, Tensor | tuple[Tensor, ...]]:
    """Make the passes that a rule asks for, and no others."""
    made: dict[str, Tensor | tuple[Tensor, ...]] = {}
    for name in names:
        branch = (LEFT_OR_WANTED.blurred(BLUR),) if name == 'conds' and isinstance(rule, guidance.Chain) else BRANCHES[name]
        made[name] = tuple(m.denoise(x, sigma) for m in branch) if isinstance(branch, tuple) else branch.denoise(x, sigma)
    return made


def sample(rule: guidance.Rule, scale: float | guidance.Schedule, count: int, steps: int, seed: int = 0) -> tuple[Tensor, float]:
    """Sample under a rule with Euler steps; return the points (count, 2) and the passes per step."""
    generator = torch.Generator().manual_seed(seed)
    sigmas = [*torch.logspace(math.log10(SIGMAS[0]), math.log10(SIGMAS[1]), steps).tolist(), 0.0]
    x = SIGMAS[0] * torch.randn(count, 2, generator=generator)
    state, passes = rule.init_state(), Counter[str]()
    for step, (sigma, next_sigma) in enumerate(itertools.pairwise(sigmas)):
        progress = step / steps
        now = scale(progress, sigma=sigma) if isinstance(scale, guidance.Schedule) else scale
        made = predictions(rule, rule.branches(now, state, progress), x, sigma)
        passes.update({name: len(value) if isinstance(value, tuple) else 1 for name, value in made.items()})
        clean = rule(**made, scale=now, state=state, x=x, sigma=sigma, progress=progress)
        x = clean + next_sigma / sigma * (x - clean)
    return x, passes.total() / steps


def measure(samples: Tensor, seed: int = 1) -> tuple[float, float]:
    """Return fidelity and diversity of samples, each in [0, 1]."""
    wanted = WANTED.sample(len(samples), torch.Generator().manual_seed(seed))
    lowest = WANTED.log_density(wanted).quantile(0.05)  # 95% of the wanted data lie above this density
    fidelity = (WANTED.log_density(samples) >= lowest).float().mean()
    diversity = (torch.cdist(wanted, samples).amin(dim=1) < SPREAD / 2).float().mean()
    return float(fidelity), float(diversity)


def draw(found: list[tuple[str, Tensor, float, float, float]], out: Path) -> None:
    """Draw all panels over the data."""
    import matplotlib as mpl

    mpl.use('Agg')
    import matplotlib.pyplot as plt

    generator = torch.Generator().manual_seed(2)
    figure, axes = plt.subplots(3, 6, figsize=(15, 7.8), layout='constrained')
    for axis, (title, samples, fidelity, diversity, passes) in zip(axes.flat, found, strict=True):
        for mixture, colour in ((OTHER, '#e8d5c4'), (WANTED, '#c9dff2')):
            axis.scatter(*mixture.sample(1500, generator).T, s=6, c=colour, linewidths=0)
        axis.scatter(*samples.T, s=2.5, c='#123a6b', alpha=0.55, linewidths=0)
        axis.set(xlim=(-1.9, 2.5), ylim=(-1.3, 1.9), xticks=[], yticks=[], aspect='equal')
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(f'fidelity {fidelity:.0%}   diversity {diversity:.0%}\n{passes:.1f} passes per step', fontsize=9)
    figure.suptitle(
        f'Scale {SCALE:g} everywhere but in the first panel.  Blue: the data asked for.  Brown: the rest.  Dots: samples.',
        fontsize=12,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def main(
    steps: int = 60, samples: int = 1500, out: str | Path | None = 'guidance_rules.png'
) -> dict[str, tuple[float, float, float]]:
    """Sample under every rule, print and draw.

    Args:
        steps: Sampling steps.
        samples: Points per panel.
        out: Where the picture goes, or None for none.

    Returns:
        By title: fidelity, diversity, and passes of the model per step.
    """
    found = []
    for title, rule, scale in panels():
        points, passes = sample(rule, scale, samples, steps)
        fidelity, diversity = measure(points)
        found.append((title, points, fidelity, diversity, passes))
        print(f'{title:32} fidelity {fidelity:6.1%}   diversity {diversity:6.1%}   {passes:.2f} passes per step')
    if out is not None:
        draw(found, Path(out))
    return {title: (fidelity, diversity, passes) for title, _, fidelity, diversity, passes in found}


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=60)
    parser.add_argument('--samples', type=int, default=1500)
    parser.add_argument('--out', default='guidance_rules.png')
    main(**vars(parser.parse_args()))
