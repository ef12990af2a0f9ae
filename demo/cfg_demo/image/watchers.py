"""What looks on while a model trains: it saves, draws, and logs."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cfg_demo.image.diffusion import Diffusion
from cfg_demo.image.grid import save_samples
from cfg_demo.image.rules import guided
from cfg_demo.image.sampling import sample
from cfg_demo.image.training import Trainer
from classifier_free_guidance_pytorch.errors import MissingDependencyError


class SaveCheckpoint:
    """Saves a run every so many steps, and at its end.

    Args:
        folder: where to.
        every: steps.
    """

    def __init__(self, folder: Path, every: int = 500) -> None:
        self.folder, self.every = folder, every

    def __call__(self, trainer: Trainer, loss: float) -> None:
        """Save, if it is time."""
        if trainer.step % self.every == 0 or trainer.step == trainer.settings.steps:
            trainer.save(self.folder)


class DrawSamples:
    """Draws the same captions from the same noise every so many steps, and at the end: `samples.png` sharpens.

    Args:
        folder: where to.
        captions: what to draw.
        every: steps.
        cond_scale: guidance scale.
        steps: of the sampler.
    """

    def __init__(self, folder: Path, captions: Sequence[str], every: int = 250, cond_scale: float = 3.0, steps: int = 12) -> None:
        self.folder, self.captions, self.every, self.cond_scale, self.steps = folder, list(captions), every, cond_scale, steps

    def __call__(self, trainer: Trainer, loss: float) -> None:
        """Draw, if it is time."""
        if trainer.step % self.every and trainer.step != trainer.settings.steps:
            return
        settings = trainer.model_settings
        images = sample(
            trainer.average,
            Diffusion(settings.prediction),
            self.captions,
            size=settings.image_size,
            how=guided('cfg', self.cond_scale, settings.prediction),
            seeds=range(len(self.captions)),
            steps=self.steps,
            progress=False,
        )
        title = f'step {trainer.step} of {trainer.settings.steps}, guidance scale {self.cond_scale:g}'
        save_samples(self.folder / 'samples.png', images, self.captions, title)


class LogToTensorBoard:
    """Writes losses to TensorBoard.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if find_spec('tensorboard') is None:
            raise MissingDependencyError('--tensorboard writes for TensorBoard, which is not installed: pip install tensorboard')
        from torch.utils.tensorboard import SummaryWriter

        writer: Any = SummaryWriter
        self.writer = writer(folder)
        atexit.register(self.writer.close)  # it writes from time to time, and would leave the last losses unwritten

    def __call__(self, trainer: Trainer, loss: float) -> None:
        """Log a step."""
        self.writer.add_scalar('loss', loss, trainer.step)
