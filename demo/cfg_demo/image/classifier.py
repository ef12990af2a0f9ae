"""Classifier guidance beside classifier-free guidance: one model, the same noise, two ways to follow a text.

Bayes' rule, for a picture x at noise level t and what it should show, y:

    grad log p(x | y)  =  grad log p(x)  +  grad log p(y | x)

Classifier guidance (Dhariwal & Nichol, 2021, arXiv 2105.05233) trains a classifier of noisy pictures for the last term and adds s
times it to a model that knows nothing of y. Classifier-free guidance (Ho & Salimans, 2022, arXiv 2207.12598) trains none: a model
with and without its text holds both other terms, and their difference is the gradient of an implicit classifier. Here the
unconditional model is the null branch (`cond_scale=0`) of a text-to-image model, and y is "one thing, of this colour and shape".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from cfg_demo.image.checkpoint import load_weights, read, write
from cfg_demo.image.diffusion import Diffusion
from cfg_demo.image.settings import autocast
from cfg_demo.image.unet import Block, wave_features
from cfg_demo.muon import muon_and_adam
from cfg_demo.progress import progress_bar
from cfg_demo.shapes import Layout, ShapesDataset
from cfg_demo.shapes.words import COLOURS, SHAPES
from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.errors import ConfigError

COLOUR_NAMES, SHAPE_NAMES = list(COLOURS), list(SHAPES)
CLASSES = (3, len(COLOUR_NAMES), len(SHAPE_NAMES))  # how many things there are, and the colour and shape of all of them
UNKNOWN = -100  # the label of what is not the same for all; `cross_entropy` passes over it
NOISIEST = 0.999  # at t = 1 the noise is x itself, and says nothing of the velocity
Predict = Callable[[Tensor, Tensor], Tensor]  # from noisy pictures (b, c, h, w) and times (b,) to velocities (b, c, h, w)


class NoisyClassifier(nn.Module):
    """Logits of count, colour and shape, side by side `(b, 3 + 8 + 8)`, of noisy pictures `(b, 3, h, w)` at times `(b,)`.

    The way down of the demo's U-Net, then the mean and the largest value over positions. The evidence is scaled by 1 - t, the
    share of a picture that is left at time t: of pure noise only the prior can be said.
    """

    def __init__(self, fine: int = 64, coarse: int = 96, dim_time: int = 64) -> None:
        super().__init__()
        self.dim_time = dim_time
        self.embed_time = nn.Sequential(nn.Linear(dim_time, dim_time), nn.SiLU(), nn.Linear(dim_time, dim_time))
        self.read, self.fine = nn.Conv2d(3 * 4, fine, 3, padding=1), Block(fine, fine, dim_time)
        self.shrink, self.coarse = nn.Conv2d(fine, coarse, 3, stride=2, padding=1), Block(coarse, coarse, dim_time)
        self.norm = nn.GroupNorm(8, coarse)
        self.evidence = nn.Linear(2 * coarse, sum(CLASSES), bias=False)
        self.prior = nn.Parameter(torch.zeros(sum(CLASSES)))

    def forward(self, noisy: Tensor, times: Tensor) -> Tensor:
        time = self.embed_time(wave_features(times, self.dim_time))
        x = self.fine(self.read(rearrange(noisy, 'b c (h p) (w q) -> b (c p q) h w', p=2, q=2)), time)
        x = F.silu(self.norm(self.coarse(self.shrink(x), time)))
        evidence: Tensor = self.evidence(torch.cat((x.mean(dim=(2, 3)), x.amax(dim=(2, 3))), dim=1))
        return self.prior + (1 - times[:, None]) * evidence

    def log_likelihood(self, noisy: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        """`log p(y | x)`, `(b,)`, of counts, colours and shapes `(b, 3)`; what is unknown adds nothing."""
        heads = self(noisy, times).float().split(CLASSES, dim=1)
        losses = [F.cross_entropy(*pair, reduction='none') for pair in zip(heads, labels.unbind(1), strict=True)]
        return -torch.stack(losses).sum(0)


def labels_of(layout: Layout) -> tuple[int, int, int]:
    """What the classifier should see: how many things, and the colour and the shape that they share."""
    colours, shapes = {str(body.colour) for body in layout.bodies}, {str(body.shape) for body in layout.bodies}
    colour = COLOUR_NAMES.index(min(colours)) if len(colours) == 1 else UNKNOWN
    return len(layout.bodies) - 1, colour, SHAPE_NAMES.index(min(shapes)) if len(shapes) == 1 else UNKNOWN


def train(steps: int, seed: int, size: int, batch: int = 32) -> NoisyClassifier:
    """A classifier of pictures of one to three things that are alike, at the noise levels that the model was trained at."""
    torch.manual_seed(seed)
    generator, diffusion = torch.Generator().manual_seed(seed), Diffusion('flow')
    classifier, dataset = NoisyClassifier(), ShapesDataset(size=size, seed=seed, length=steps * batch, kinds=('single', 'count'))
    optimizers = muon_and_adam(classifier)
    for step in (bar := progress_bar(range(steps), desc='train the classifier', unit='step')):
        samples = dataset.__getitems__(range(step * batch, (step + 1) * batch))
        images, labels = torch.stack([s.image for s in samples]) * 2 - 1, torch.tensor([labels_of(s.layout) for s in samples])
        times = diffusion.draw_times(batch, generator)
        noisy, _ = diffusion.noised(images, torch.randn(images.shape, generator=generator), times)
        with autocast(images.device):
            loss = -classifier.log_likelihood(noisy, times, labels).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group['lr'] = group['initial_lr'] * min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.step()
            optimizer.zero_grad()
        bar.set_postfix(loss=f'{loss.item():.3f}', refresh=False)
    return classifier


def load_or_train(path: Path, **asked: int) -> NoisyClassifier:
    """The classifier of a file, trained and written first if there is none; refuses a file with another one."""
    if not path.is_file():
        write(path, train(**asked).state_dict(), {'classifier': asked})
    weights, notes = read(path)
    if notes.get('classifier') != asked:
        raise ConfigError(f'{str(path)!r} holds {notes}, but asked for is a classifier of {asked}: pass another --classifier')
    load_weights(classifier := NoisyClassifier(), weights, path)
    return classifier.eval()


def classifier_guided(model: Any, classifier: NoisyClassifier, labels: Tensor, scale: float) -> Predict:
    """The null branch of a model, steered by a classifier.

    Dhariwal & Nichol, algorithm 2, is guidance by the energy `-log p(y | x)`. With the exact classifier it is classifier-free
    guidance, `u + s * (c - u)` of the velocities c with y and u without.
    """
    unread = model.prepare([''] * len(labels))

    def predict(x: Tensor, times: Tensor) -> Tensor:
        velocity = model(x, times, text_condition=unread, cond_scale=0.0)

        def energy(noisy: Tensor) -> Tensor:
            return -classifier.log_likelihood(noisy, times, labels)

        return guidance.energy_guided(velocity, energy, scale, model='flow', x=x, sigma=times, of='x')

    return predict


def classifier_free(model: Any, texts: Sequence[str], scale: float) -> Predict:
    """A model with and without its texts; at scale 0 the null branch alone."""
    prepared = model.prepare(list(texts))
    return lambda x, times: model(x, times, text_condition=prepared, cond_scale=scale)


@torch.no_grad()
def sample(predict: Predict, noise: Tensor, steps: int, title: str) -> Tensor:
    """Pictures `(b, 3, h, w)` from 0 to 1, by Euler steps from noise to data."""
    x, diffusion = noise, Diffusion('flow')
    scheduler = diffusion.scheduler('euler')
    scheduler.set_timesteps(steps)
    for timestep in progress_bar(scheduler.timesteps, desc=title, unit='step'):
        with autocast(x.device):
            velocity = predict(x, x.new_full((len(x),), min(diffusion.network_time(timestep), NOISIEST)))
        x = scheduler.step(velocity.float(), timestep, x).prev_sample
    return ((x + 1) / 2).clamp(0, 1)
