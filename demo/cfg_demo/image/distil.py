"""Distillation of a text-to-image model: a network that answers any scale in one pass, from one that takes two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cfg_demo.image.models import build_model
from cfg_demo.image.settings import ModelSettings, TrainSettings, one_of
from cfg_demo.image.training import Trainer
from cfg_demo.learning import TRAINED, counted, drawn_scales, train_only
from classifier_free_guidance_pytorch.training import distillation_loss, guided_target


class Distiller(Trainer):
    """A student that begins as its teacher, and learns to predict what the teacher's two passes are combined into.

    Args:
        teacher: a trained model in eval mode.
        model_settings: its settings.
        settings: how the student is trained.
        top: scales are drawn from 1 to this one, by their logarithm; in every step one is the highest.
        part: what learns, a key of `TRAINED`.
    """

    def __init__(
        self, teacher: Any, model_settings: ModelSettings, settings: TrainSettings, *, top: float, part: str = 'all'
    ) -> None:
        one_of('train', part, TRAINED)
        self.teacher, self.top, self.part = teacher, top, part
        super().__init__(replace(model_settings, reads_scale=True), settings)

    def _build(self) -> Any:
        student = build_model(self.model_settings)
        student.load_state_dict(self.teacher.state_dict())
        return train_only(student, self.part)

    def learn(self, images: Tensor, captions: Sequence[str]) -> float:
        """One step on images `(b, c, h, w)` from 0 to 1 and their captions, of which none is dropped; returns the loss."""
        generator = self._generator()
        noisy, times, _ = self._noised(images, generator)
        scale = drawn_scales(len(images), self.top, generator).to(times)
        scale[0] = self.top  # the end of the range is learned as well as its middle, and counts as learned from the first step on
        encoded = self.teacher.text_conditioner.encode_texts(list(captions))  # once for both
        with self.settings.autocast():
            loss = distillation_loss(
                self.model, self.teacher, noisy, times, text_embeds=encoded, cond_scale=scale, sample_weight=counted(scale)
            )
        return self._take_step(loss)

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), 'top': self.top, 'part': self.part}


class TermError:
    """Follows the error of the guidance term on noisy images that are kept for it, `|student - teacher| / |teacher - cond|`.

    Args:
        images: `(b, 3, s, s)` from 0 to 1.
        captions: `b` of them.
        every: steps.

    Attributes:
        errors: by the step, root mean squares.
    """

    def __init__(self, images: Tensor, captions: Sequence[str], every: int = 50) -> None:
        self.images, self.captions, self.every = images, list(captions), every
        self.errors: dict[int, float] = {}

    @torch.no_grad()
    def __call__(self, distiller: Any, loss: float) -> None:
        """Measure, if it is time."""
        if distiller.step % self.every and distiller.step != distiller.settings.steps:
            return
        generator = torch.Generator().manual_seed(0)
        noisy, times, _ = distiller._noised(self.images, generator)
        scale = (1.5 + (distiller.top - 1.5) * torch.rand(len(times), generator=generator)).to(times)
        encoded = distiller.teacher.text_conditioner.encode_texts(self.captions)
        target = guided_target(distiller.teacher, noisy, times, text_embeds=encoded, cond_scale=scale)
        term = target - distiller.teacher(noisy, times, text_embeds=encoded)
        gap = distiller.average(noisy, times, text_embeds=encoded, cond_scale=scale) - target
        self.errors[distiller.step] = float(gap.square().mean().sqrt() / term.square().mean().sqrt())
