"""Guided sampling: a scheduler of diffusers asks, the decorated network answers with guided predictions."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from cfg_demo.image.diffusion import Diffusion
from cfg_demo.image.rules import Guided
from cfg_demo.image.settings import autocast
from cfg_demo.progress import progress_bar
from classifier_free_guidance_pytorch import guidance

T = TypeVar('T')


def result_of(steps: Generator[Any, None, T]) -> T:
    """Run a generator to its end, and return what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def sample(model: Any, diffusion: Diffusion, texts: Sequence[str], **options: Any) -> Tensor:
    """Images for texts, each from its own seed; see `sample_steps` for the options."""
    return result_of(sample_steps(model, diffusion, texts, **options))


@torch.no_grad()
def sample_steps(
    model: Any,
    diffusion: Diffusion,
    texts: Sequence[str],
    *,
    size: int,
    how: Guided,
    seeds: Sequence[int],
    negative: str | None = None,
    sampler: str | None = None,
    steps: int = 25,
    title: str = 'sample',
    progress: bool = True,
) -> Generator[None, None, Tensor]:
    """Images for texts, a step at a time: whoever closes the generator stops the drawing there.

    Each image is drawn from its own seed, and does not depend on the batch it is drawn in.

    Args:
        model: a trained model in eval mode.
        diffusion: the process it was trained for.
        texts: `b` prompts.
        size: width and height in pixels.
        how: the guidance rule and its scale.
        seeds: `b` of them.
        negative: a text to steer away from, instead of the null condition.
        sampler: see `diffusion.SAMPLERS`.
        steps: of the sampler.
        title: of the progress bar.
        progress: show it.

    Yields:
        Nothing, after each step.

    Returns:
        Images `(b, 3, size, size)` from 0 to 1.
    """
    scheduler = diffusion.scheduler(sampler)
    scheduler.set_timesteps(steps)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = torch.cat([torch.randn(1, 3, size, size, generator=generator) for generator in generators])
    x = noise.to(next(model.parameters()).device)
    prepared = model.prepare(list(texts), None if negative is None else [negative] * len(texts))
    state = None if how.rule is None else how.rule.init_state()
    ancestral = {'generator': generators} if sampler == 'ddpm' else {}  # the only sampler that draws noise on its way
    for number, timestep in enumerate(progress_bar(scheduler.timesteps, desc=title, unit='step', show=progress)):
        time = diffusion.network_time(timestep)
        sigma, alpha = diffusion.levels(time)
        done = number / steps
        scale = how.scale(done, sigma=sigma) if isinstance(how.scale, guidance.Schedule) else how.scale
        with autocast(x.device):
            prediction = model(
                x,
                x.new_full((len(x),), time),
                text_condition=prepared,
                cond_scale=scale,
                guidance=how.rule,
                guidance_state=state,
                guidance_kwargs={'sigma': sigma, 'alpha': alpha, 'progress': done},
                weak=how.weak,
            )
        x = scheduler.step(prediction.float(), timestep, x, **ancestral).prev_sample
        yield
    return ((x + 1) / 2).clamp(0, 1)
