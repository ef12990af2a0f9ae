"""The part of training that has nothing to do with text."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from cfg_demo.muon import muon_and_adam
from cfg_demo.progress import progress_bar


def fit(model: nn.Module, loss: Callable[[], Tensor], steps: int, *, lr: float | None = 2e-3) -> None:
    """Minimise a loss, and leave the model in eval mode.

    The learning rate rises over a tenth of the steps and falls along a cosine; gradients are clipped to norm 1.

    Args:
        model: What learns.
        loss: Called once per step, with the model in training mode.
        steps: Optimizer steps.
        lr: Peak learning rate of AdamW, or None for Muon and AdamW at their own rates.
    """

    def share(step: int) -> float:
        return min(1.0, (step + 1) / (0.1 * steps)) * (1 + math.cos(math.pi * step / steps)) / 2

    adam = lr is not None and torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99))
    optimizers = [adam] if adam else muon_and_adam(model)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, share) for optimizer in optimizers]
    model.train()
    for _ in (bar := progress_bar(range(steps), desc='train', unit='step')):
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        bar.set_postfix(loss=f'{value.item():.3f}', refresh=False)
    model.eval()
