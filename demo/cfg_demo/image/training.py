"""Training a text-to-image model: noise, predict, compare, with captions dropped now and then.

A step depends on the seed and its number alone, so a run that is resumed goes on exactly as it would have gone on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cfg_demo.image import checkpoint
from cfg_demo.image.diffusion import Diffusion
from cfg_demo.image.models import build_model
from cfg_demo.image.settings import (
    MODEL_FILE,
    TRAINING_FILE,
    ModelSettings,
    TrainSettings,
)
from cfg_demo.muon import muon_and_adam
from cfg_demo.progress import progress_bar
from classifier_free_guidance_pytorch.errors import ConfigError

Watcher = Callable[['Trainer', float], None]
Encodings = Callable[[list[str]], Any]  # captions to what a model takes as `text_embeds=`


class Trainer:
    """A model, the moving average of its weights, and its optimizers.

    Args:
        model_settings: what to train.
        settings: how.
        encodings: where the encodings of captions are kept; by default the model's encoder makes them in every step.

    Attributes:
        model: the network in training.
        step: steps taken.
        losses: of each step.
    """

    def __init__(self, model_settings: ModelSettings, settings: TrainSettings, encodings: Encodings | None = None) -> None:
        self.model_settings, self.settings, self._encodings = model_settings, settings, encodings
        self.diffusion = Diffusion(model_settings.prediction)
        torch.manual_seed(settings.seed)
        self.model = self._build().to(settings.device).train()
        self._average = AveragedModel(self.model, multi_avg_fn=_moving_average(settings.ema_decay))
        self._optimizers = _optimizers(self.model, settings)
        self._scaler = torch.amp.GradScaler(torch.device(settings.device).type, enabled=settings.precision == 'float16')
        self.step = 0
        self.losses: list[float] = []

    @property
    def average(self) -> Any:
        """The averaged model in eval mode: the one to sample and to keep."""
        return self._average.module.eval()

    def learn(self, images: Tensor, captions: Sequence[str]) -> float:
        """One step on images `(b, c, h, w)` from 0 to 1 and their captions; returns the loss."""
        generator = self._generator()
        drop = self._drop(len(images), generator)
        noisy, times, target = self._noised(images, generator)
        with self.settings.autocast():
            prediction = self.model(noisy, times, **self._texts(list(captions)), cond_drop_prob=drop)
        return self._take_step(F.mse_loss(prediction.float(), target))

    def _build(self) -> Any:
        return build_model(self.model_settings)

    def _noised(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy images, the time of each, and what the network should predict, for images from 0 to 1."""
        settings = self.settings
        images = images.to(settings.device) * 2 - 1
        noise = torch.randn(images.shape, generator=generator).to(images)
        times = self.diffusion.draw_times(len(images), generator, settings.time_mean, settings.time_spread).to(images)
        noisy, target = self.diffusion.noised(images, noise, times)
        return noisy, times, target

    def _take_step(self, loss: Tensor) -> float:
        self._update(loss)
        self.step += 1
        self.losses.append(loss.item())
        return self.losses[-1]

    def _texts(self, captions: list[str]) -> dict[str, Any]:
        return {'texts': captions} if self._encodings is None else {'text_embeds': self._encodings(captions)}

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step)

    def _drop(self, count: int, generator: torch.Generator) -> Tensor:
        """For each sample 1 to lose its caption, or 0, as a probability: so the draw is ours, and reproducible."""
        draws = 1 if self.settings.dropout == 'batch' else count
        return (torch.rand(draws, generator=generator) < self.settings.cond_drop_prob).float().expand(count)

    def _update(self, loss: Tensor) -> None:
        share = _learning_rate(self.step, self.settings)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        for optimizer in self._optimizers:
            self._scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group['lr'] = group['initial_lr'] * share
            self._scaler.step(optimizer)
            optimizer.zero_grad()
        self._scaler.update()
        self._average.update_parameters(self.model)

    def save(self, folder: Path) -> None:
        """The averaged model and everything needed to go on."""
        tensors = {f'model.{name}': tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f'average.{name}': tensor for name, tensor in self._average.state_dict().items()}
        tensors |= checkpoint.pack_optimizers(self._optimizers)
        notes = {'settings': self._identity(), 'step': self.step, 'losses': self.losses, 'scale': self._scaler.state_dict()}
        checkpoint.write(folder / TRAINING_FILE, tensors, notes)
        checkpoint.save_model(self.average, self.model_settings, folder / MODEL_FILE, about={'step': self.step})

    def start_from(self, path: Path) -> list[str]:
        """Begin with the weights of a trained model instead of fresh ones.

        Layers that it lacks, and those that read another encoder, stay fresh.

        Returns:
            The names of the weights that stay fresh.

        Raises:
            ConfigError: no model there, or one that has what this one has not.
        """
        weights, _ = checkpoint.read(path)
        checkpoint.load_what_fits(self.model, weights, path)
        return checkpoint.load_what_fits(self._average.module, weights, path)

    def resume(self, folder: Path) -> None:
        """Go on where the run in a folder stopped.

        Raises:
            ConfigError: there is none, or it was made with other settings.
        """
        path = folder / TRAINING_FILE
        tensors, notes = checkpoint.read(path)
        before, now = notes.get('settings', {}), self._identity()
        if changed := [name for name in now if before.get(name) != now[name]]:
            told = ', '.join(f'{name} was {before.get(name)!r} and is {now[name]!r}' for name in changed)
            raise ConfigError(f'{str(path)!r} cannot be resumed with other settings: {told}. Pass the same, or another folder')
        checkpoint.load_weights(self.model, _within(tensors, 'model.'), path)
        self._average.load_state_dict(_within(tensors, 'average.'))
        checkpoint.unpack_optimizers(self._optimizers, tensors)
        self._scaler.load_state_dict(notes['scale'])
        self.step, self.losses = notes['step'], notes['losses']

    def _identity(self) -> dict[str, Any]:
        """The settings that a resumed run must share, as JSON gives them back."""
        settings = {**asdict(self.model_settings), **asdict(self.settings)}
        settings.pop('device')
        return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def train(
    trainer: Trainer, loader: Iterable[tuple[Tensor, list[str]]], watchers: Sequence[Watcher] = (), *, progress: bool = True
) -> None:
    """Take the remaining steps, and tell the watchers after each.

    Args:
        trainer: fresh, or resumed.
        loader: a batch for each step from `trainer.step` on.
        watchers: called with the trainer and the loss after every step: to save, to draw, to log.
        progress: show a progress bar.
    """
    smooth = math.nan
    with progress_bar(total=trainer.settings.steps, initial=trainer.step, desc='train', unit='step', show=progress) as bar:
        for images, captions in loader:
            loss = trainer.learn(images, captions)
            smooth = loss if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss
            bar.set_postfix(loss=f'{smooth:.4f}', refresh=False)
            bar.update()
            for watch in watchers:
                watch(trainer, loss)


def _learning_rate(step: int, settings: TrainSettings) -> float:
    """A share of the peak: up along a line, down along a cosine."""
    rising = min(1.0, (step + 1) / max(1, settings.warm_up))
    return rising * (1 + math.cos(math.pi * step / settings.steps)) / 2


def _optimizers(model: nn.Module, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    rate = settings.learning_rate
    if settings.optimizer == 'muon':
        rates = {} if rate is None else {'lr': rate, 'adam_lr': rate * 0.15}
        return muon_and_adam(model, **rates)
    adam = torch.optim.AdamW(model.parameters(), lr=rate or 1e-3, betas=(0.9, 0.99), weight_decay=0.01)
    for group in adam.param_groups:
        group['initial_lr'] = group['lr']
    return [adam]


def _moving_average(decay: float) -> Callable[[Any, Any, Tensor | int], None]:
    """An exponential moving average that starts fast, so that early samples are not those of the first weights."""

    @torch.no_grad()
    def update(averages: Any, currents: Any, count: Tensor | int) -> None:
        seen = int(count)
        weight = 1 - min(decay, (1 + seen) / (10 + seen))
        for average, current in zip(averages, currents, strict=True):
            average.lerp_(current, weight)

    return update


def _within(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
