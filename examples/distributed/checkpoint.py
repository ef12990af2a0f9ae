"""What a run is made of besides its settings, and where it is kept: `torch.distributed.checkpoint`, one folder per checkpoint.

Every process writes its own share, and the names of the weights are the model's own. A checkpoint is therefore read by any
number of processes and by any strategy, whoever wrote it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.stateful import Stateful
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from classifier_free_guidance_pytorch.errors import ConfigError

SETTINGS = 'run.json'  # the settings that a run was begun with, beside its checkpoints


class EMA:
    """The exponential moving average of the weights: of each process's share, where they are sharded."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.average = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After an optimizer step; the first steps weigh more than the decay lets them, since the start is no estimate."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, weight in self.model.named_parameters():
            self.average[name].lerp_(weight, 1 - decay)

    def gathered(self) -> dict[str, Tensor]:
        """The whole average on the CPU, for `load_state_dict` of a model in one process. Every process has to call it."""
        whole = {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in self.average.items()}
        return {name: t.cpu().contiguous() for name, t in whole.items()}


class Run(Stateful):
    """Weights, optimizer, average, learning rate and the number of steps done.

    The random state has no place in it: every micro-batch of a step seeds itself (`train.py`). Nor have the text encoders.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler, ema: EMA) -> None:
        self.model, self.optimizer, self.schedule, self.ema = model, optimizer, schedule, ema
        self.steps_done = 0

    def state_dict(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {
            'model': model,
            'optimizer': optimizer,
            'ema': self.ema.average,
            'schedule': self.schedule.state_dict(),
            'steps_done': self.steps_done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_state_dict(self.model, self.optimizer, model_state_dict=state['model'], optim_state_dict=state['optimizer'])
        self.ema.average = state['ema']
        self.schedule.load_state_dict(state['schedule'])
        self.steps_done = state['steps_done']

    def save(self, out: Path) -> None:
        dcp.save({'run': self}, checkpoint_id=out / f'step-{self.steps_done:07d}')

    def load(self, checkpoint: Path) -> None:
        dcp.load({'run': self}, checkpoint_id=checkpoint)


def latest(out: Path) -> Path | None:
    """The newest complete checkpoint: its list of contents, `.metadata`, is written last."""
    return max((found.parent for found in out.glob('step-*/.metadata')), default=None)


def claim(out: Path, settings: dict[str, Any], resume: bool) -> Path | None:
    """The checkpoint to go on from, or None for a new run.

    Raises:
        ConfigError: the folder holds a run and `resume` does not say to go on with it, or the run in it was begun with other
            settings, which would give another curve.
    """
    written = out / SETTINGS
    if not written.exists():  # it is written with the first checkpoint
        return None
    if not resume:
        raise ConfigError(f'{out} holds a run already: pass --resume to go on with it, or another --out')
    before = json.loads(written.read_text())
    other = {name: (before.get(name), value) for name, value in settings.items() if before.get(name) != value}
    if other:
        told = ', '.join(f'--{name.replace("_", "-")} {old} (now {new})' for name, (old, new) in other.items())
        raise ConfigError(f'the run in {out} was begun with {told}: pass the same, or another --out')
    return latest(out)
