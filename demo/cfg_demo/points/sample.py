"""Sampling: the flow's ordinary differential equation from noise to points, in Euler steps, under guidance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from cfg_demo.points.settings import RULES, Settings
from cfg_demo.points.train import UNIT
from cfg_demo.progress import progress_bar
from classifier_free_guidance_pytorch import guidance


def rule_of(settings: Settings) -> guidance.Rule:
    """The rule of the settings."""
    rule: guidance.Rule = getattr(guidance, RULES[settings.rule])()
    return rule


@torch.no_grad()
def draw(
    model: Any, texts: Sequence[str], settings: Settings, *, one_pass: bool = False, progress: bool = True
) -> dict[float, Tensor]:
    """Points for each text at every guidance scale, from the same noise at all of them.

    Args:
        model: a trained denoiser in eval mode.
        texts: the prompts, `b` of them.
        settings: scales, rule, steps, number of points and seed.
        one_pass: the model has learned to guide by itself, so no rule is needed.
        progress: show a progress bar.

    Returns:
        For each scale, points `(b, settings.samples, 2)` on the CPU.
    """
    negative = None if settings.negative is None else [settings.negative] * len(texts)
    prepared = model.prepare(list(texts), negative)  # all that depends on the text alone, once for all scales and steps
    generator = torch.Generator().manual_seed(settings.seed + 1)
    noise = torch.randn(len(texts), settings.samples, 2, generator=generator).to(settings.device)
    rule = None if one_pass else rule_of(settings)
    times = torch.linspace(1, 0, settings.sample_steps + 1).tolist()

    clouds = {}
    with progress_bar(total=len(settings.scales) * settings.sample_steps, desc='sample', unit='step', show=progress) as bar:
        for scale in settings.scales:
            bar.set_postfix(cond_scale=f'{scale:g}')
            clouds[scale] = integrate(model, prepared, noise, times, scale, rule, settings, bar).cpu() * UNIT
    return clouds


def integrate(
    model: Any,
    prepared: Any,
    points: Tensor,
    times: Sequence[float],
    scale: float,
    rule: guidance.Rule | None,
    settings: Settings,
    bar: Any,
) -> Tensor:
    """Euler steps of `dx = velocity(x, t) dt` along the given times."""
    state = None if rule is None else rule.init_state()
    learned = rule is None or scale <= 1  # a model that has learned an interval knows where it ends
    schedule = guidance.constant(scale) if learned else guidance.interval(scale, sigma=settings.interval)
    for time, next_time in pairwise(times):
        velocity = model(
            points,
            points.new_full(points.shape[:-1], time),
            text_condition=prepared,
            cond_scale=schedule(sigma=time),
            guidance=rule,
            guidance_state=state,
            rescale_phi=settings.rescale_phi,
        )
        points = points + (next_time - time) * velocity
        bar.update()
    return points
