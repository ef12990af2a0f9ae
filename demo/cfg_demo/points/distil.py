"""Distillation: a denoiser that answers any scale in one pass, from one that takes two, on the described points."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cfg_demo.points.measure import Prompt, Scores
from cfg_demo.points.model import build_model
from cfg_demo.points.sample import draw
from cfg_demo.points.settings import RULES, Settings
from cfg_demo.points.train import noised, train
from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.text import TextEncoding
from classifier_free_guidance_pytorch.training import distillation_loss, guidance_free_loss


def distilled(teacher: Any, settings: Settings, steps: int, *, progress: bool = True) -> Any:
    """A student that begins as its teacher, after that many steps of distilling the rule of the settings."""
    rule, top = getattr(guidance, RULES[settings.rule])(), max(settings.scales)

    def loss_of(student: Any, points: Tensor, texts: Sequence[TextEncoding], generator: torch.Generator) -> Tensor:
        noisy, times, _ = noised(points, generator)
        scale = _scales(points, top, generator)
        return distillation_loss(student, teacher, noisy, times, text_embeds=texts, cond_scale=scale, guidance=rule)

    return _trained(teacher, settings, steps, loss_of, 'distil', progress)


def guidance_free(teacher: Any, settings: Settings, steps: int, *, progress: bool = True) -> Any:
    """A student that begins as its teacher, and learns to guide from the data."""
    top = max(settings.scales)

    def loss_of(student: Any, points: Tensor, texts: Sequence[TextEncoding], generator: torch.Generator) -> Tensor:
        noisy, times, velocity = noised(points, generator)
        scale = _scales(points, top, generator)
        own = {'text_embeds': texts, 'ema': teacher, 'generator': generator, 'weighting': 'mg'}
        return guidance_free_loss(student, noisy, times, target=velocity, cond_scale=scale, **own)

    return _trained(teacher, settings, steps, loss_of, 'learn ', progress)


def _scales(points: Tensor, top: float, generator: torch.Generator) -> Tensor:
    """A scale from 1 to `top` for each caption, `(b,)`."""
    return (1 + (top - 1) * torch.rand(len(points), generator=generator)).to(points)


def _trained(teacher: Any, settings: Settings, steps: int, loss_of: Any, desc: str, progress: bool) -> Any:
    student = build_model(settings, reads_scale=True)
    student.load_state_dict(teacher.state_dict())
    own = replace(settings, steps=steps)
    return train(student, own, loss_of=loss_of, desc=desc, progress=progress)


@dataclass(frozen=True)
class Drawn:
    """What one model drew: its points and scores by scale, the passes of one prompt at one scale, and the seconds of all."""

    clouds: dict[float, Tensor]
    scores: Scores
    passes: dict[float, int]
    seconds: dict[float, float]


def drawn(model: Any, asked: Sequence[Prompt], settings: Settings, *, one_pass: bool, progress: bool = True) -> Drawn:
    """Draw all prompts at every scale, and count the passes and the seconds of each."""
    ran: list[int] = []
    counter = model.read.register_forward_hook(lambda *_: ran.append(1))  # the first layer, once in every pass
    clouds: dict[float, Tensor] = {}
    passes, seconds = {}, {}
    for scale in settings.scales:
        ran.clear()
        start = time.perf_counter()
        own = replace(settings, scales=(scale,))
        clouds |= draw(model, [prompt.text for prompt in asked], own, one_pass=one_pass, progress=progress)
        passes[scale], seconds[scale] = len(ran), time.perf_counter() - start
    counter.remove()
    return Drawn(clouds, Scores.of(asked, clouds), passes, seconds)


def as_rows(models: dict[str, Drawn]) -> list[dict[str, Any]]:
    """The scores on held-out prompts, the passes and the seconds of every model at every scale, ready for JSON."""
    first = next(iter(models.values()))
    return [
        {
            'cond_scale': scale,
            'model': name,
            **{what: asdict(one.scores.estimate(what, 'held_out', scale)) for what in ('adherence', 'coverage')},
            'passes': one.passes[scale],
            'seconds': round(one.seconds[scale], 2),
        }
        for scale in first.scores.scales
        for name, one in models.items()
    ]


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table for the terminal, in percent."""
    lines = [f'{"cond_scale":>10}  {"model":<22}{"satisfied %":>14}{"filled %":>14}{"passes":>8}{"seconds":>9}']
    for row in rows:
        cells = [
            f'{100 * row[what]["mean"]:.1f} ± {100 * (row[what]["high"] - row[what]["mean"]):.1f}'
            for what in ('adherence', 'coverage')
        ]
        words = ''.join(f'{cell:>14}' for cell in cells)
        lines.append(f'{row["cond_scale"]:>10g}  {row["model"]:<22}{words}{row["passes"]:>8}{row["seconds"]:>9.2f}')
    return '\n'.join(lines)
