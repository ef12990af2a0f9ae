"""Distillation: a denoiser that answers any scale in one pass, from one that takes two, on the described points."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cfg_demo.learning import TRAINED, drawn_scales, train_only
from cfg_demo.points.measure import Prompt, Scores
from cfg_demo.points.model import build_model
from cfg_demo.points.sample import draw, rule_of
from cfg_demo.points.settings import Settings
from cfg_demo.points.train import noised, noised_alike, train
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text import TextEncoding
from classifier_free_guidance_pytorch.training import distillation_loss, guidance_free_loss


@dataclass(frozen=True)
class Lessons:
    """How a student learns.

    Args:
        steps: of its training.
        part: what of it learns, a key of `learning.TRAINED`.
        from_data: from the data (model guidance), with the teacher for the null prediction, instead of from the teacher.

    Raises:
        ConfigError: a value that cannot work, by name.
    """

    steps: int
    part: str = 'all'
    from_data: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f'--student-steps counts from 1, but got {self.steps}')
        if self.part not in TRAINED:
            raise ConfigError(f'--train is one of {", ".join(TRAINED)}, but got {self.part!r}')


def taught(teacher: Any, settings: Settings, lessons: Lessons, *, progress: bool = True) -> Any:
    """A student that begins as its teacher, after its lessons: it answers the rule and the interval of the settings."""
    student = build_model(settings, reads_scale=True)
    student.load_state_dict(teacher.state_dict())
    student.text_conditioner.learn_scales(float(max(settings.scales)))  # no draw is quite the end of its range
    loss_of = _loss_from_data if lessons.from_data else _loss_from_teacher
    return train(
        train_only(student, lessons.part),
        replace(settings, steps=lessons.steps),
        loss_of=partial(loss_of, teacher, settings),
        desc='learn ' if lessons.from_data else 'distil',
        progress=progress,
    )


def _loss_from_teacher(
    teacher: Any, settings: Settings, student: Any, points: Tensor, texts: Sequence[TextEncoding], generator: torch.Generator
) -> Tensor:
    """Rules that measure predictions measure those of a cloud, so its points have the same time then, as in sampling."""
    noisy, times = noised(points, generator)[:2] if settings.rule == 'cfg' else noised_alike(points, generator)
    scale = drawn_scales(len(points), max(settings.scales), generator).to(points)  # (b,)
    low, high = settings.interval
    inside = (times > low) & (times <= high)  # (b, n)
    at_time = torch.where(inside, scale.unsqueeze(-1), 1.0).unsqueeze(-1)  # (b, n, 1)
    return distillation_loss(
        student,
        teacher,
        noisy,
        times,
        text_embeds=texts,
        cond_scale=scale,
        teacher_scale=None if (low, high) == (0.0, 1.0) else at_time,
        guidance=rule_of(settings),
    )


def _loss_from_data(
    teacher: Any, settings: Settings, student: Any, points: Tensor, texts: Sequence[TextEncoding], generator: torch.Generator
) -> Tensor:
    noisy, times, velocity = noised(points, generator)
    scale = drawn_scales(len(points), max(settings.scales), generator).to(points)  # (b,)
    own = {'text_embeds': texts, 'ema': teacher, 'generator': generator, 'weighting': 'mg'}
    return guidance_free_loss(student, noisy, times, target=velocity, cond_scale=scale, **own)


class Compared:
    """A teacher to sample, which notes at every step how far the guided prediction of a student is from its own.

    Args:
        teacher: takes two passes.
        student: takes one.
        scale: what the student reads; the teacher is guided as its caller says.
    """

    def __init__(self, teacher: Any, student: Any, scale: float) -> None:
        self.teacher, self.student, self.scale = teacher, student, scale
        self._gap, self._term = 0.0, 0.0

    def prepare(self, texts: list[str], negative_texts: list[str] | None) -> tuple[Any, Any]:
        """What both know of the texts."""
        return self.teacher.prepare(texts, negative_texts), self.student.prepare(texts)

    def __call__(self, points: Tensor, times: Tensor, *, text_condition: tuple[Any, Any], **how: Any) -> Tensor:
        of_teacher, of_student = text_condition
        guided: Tensor = self.teacher(points, times, text_condition=of_teacher, **how)
        cond = self.teacher(points, times, text_condition=of_teacher)
        answer = self.student(points, times, text_condition=of_student, cond_scale=self.scale)
        self._gap += (answer - guided).square().sum().item()
        self._term += (guided - cond).square().sum().item()
        return guided

    @property
    def error(self) -> float:
        """`|student - guided| / |guided - cond|` over all steps."""
        return (self._gap / self._term) ** 0.5


def term_error(teacher: Any, student: Any, texts: Sequence[str], settings: Settings, scale: float) -> float | None:
    """The error of the guidance term on the teacher's path; None at the scale 1, where there is no such term."""
    if scale == 1:
        return None
    compared = Compared(teacher, student, scale)
    draw(compared, texts, replace(settings, scales=(scale,), samples=min(settings.samples, 32)), progress=False)
    return round(compared.error, 4)


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


def as_rows(models: dict[str, Drawn], errors: dict[float, float | None]) -> list[dict[str, Any]]:
    """The scores on held-out prompts, the passes and the seconds of every model at every scale, ready for JSON.

    Args:
        models: what the teacher and the student drew, by their names.
        errors: of the guidance term, by scale; see `term_error`.
    """
    first = next(iter(models.values()))
    return [
        {
            'cond_scale': scale,
            'model': name,
            **{what: asdict(one.scores.estimate(what, 'held_out', scale)) for what in ('adherence', 'coverage')},
            'passes': one.passes[scale],
            'seconds': round(one.seconds[scale], 2),
            'term_error': errors[scale] if name == 'one pass' else None,
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
