"""Annealed conditions: noise on what a text says, early in sampling, for more varied samples (CADS, arXiv 2310.17347)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError


def kept(progress: float, start: float, stop: float) -> float:
    """Return how much of a condition is kept: 0 up to `start`, 1 from `stop` on, a straight line between."""
    return min(1.0, max(0.0, (progress - start) / (stop - start)))


def annealed(condition: Tensor, share: float, scale: float, mix: float, generator: torch.Generator | None) -> Tensor:
    """Return `z = sqrt(share) * y + scale * sqrt(1 - share) * n`, of which `mix` gets back the mean and std of `y`.

    `y` is measured per sample, and `n` is as large as `y` varies, so that parts of every size are treated alike. Masks, and what
    does not vary, stay as they are.

    Args:
        condition: `y`, `(b, ...)`.
        share: How much of it is kept.
        scale: How large the noise is.
        mix: How much of the result gets back the mean and the standard deviation of `y`.
        generator: Where the noise comes from.
    """
    if share == 1 or not condition.is_floating_point():
        return condition
    y = condition.float()
    dims = tuple(range(1, y.ndim))
    mean, spread = y.mean(dims, keepdim=True), y.std(dims, correction=0, keepdim=True)  # (b, 1, ...)
    device = y.device if generator is None else generator.device
    noise = torch.randn(y.shape, generator=generator, device=device).to(y.device)
    z = math.sqrt(share) * y + scale * math.sqrt(1 - share) * spread * noise
    varies = z.std(dims, correction=0, keepdim=True)
    restored = (z - z.mean(dims, keepdim=True)) / torch.where(varies > 0, varies, 1.0) * spread + mean
    return torch.where(spread > 0, mix * restored + (1 - mix) * z, y).to(condition.dtype)


def check_annealing(progress: object, scale: object, mix: object, between: object, generator: object, samples: object) -> None:
    """Raise `ConfigError` for numbers that say no annealing."""
    for name, value, high in (('progress', progress, 1.0), ('scale', scale, math.inf), ('mix', mix, 1.0)):
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= high:
            what = f'a number in [0, {high:g}]' if high == 1 else 'a number of at least 0'
            raise ConfigError(f'annealed: {name} must be {what}, got {value!r}')
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ConfigError(f'annealed: generator must be a torch.Generator, got {generator!r}')
    if samples is not None and (isinstance(samples, bool) or not isinstance(samples, int) or samples < 1):
        raise ConfigError(f'annealed: samples counts the samples of a single text, at least 1, got {samples!r}')
    if not isinstance(between, tuple) or len(between) != 2 or not 0 <= between[0] < between[1] <= 1:
        raise ConfigError(f'annealed: between must be (start, stop) with 0 <= start < stop <= 1, got {between!r}')
