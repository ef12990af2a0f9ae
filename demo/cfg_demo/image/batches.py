"""Which items of a data set each training step sees: known from the seed and the step alone, so a run resumes in mid-epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler


class StepSampler(Sampler[list[int]]):
    """Lists of indices, one per step, in an order shuffled anew for every epoch.

    Args:
        length: items in the data set.
        batch_size: indices per step; a last batch that would be smaller is made full from the next epoch.
        steps: the step after the last.
        start: the first step.
        seed: of the order.

    Example:
        >>> whole = list(StepSampler(5, batch_size=2, steps=5, seed=1))
        >>> whole[3:] == list(StepSampler(5, batch_size=2, steps=5, start=3, seed=1))
        True
    """

    def __init__(self, length: int, *, batch_size: int, steps: int, start: int = 0, seed: int = 0) -> None:
        self.length, self.batch_size, self.steps, self.start, self.seed = length, batch_size, steps, start, seed

    def __len__(self) -> int:
        return max(0, self.steps - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, torch.empty(0, dtype=torch.long)
        for step in range(self.start, self.steps):
            indices = []
            for position in range(step * self.batch_size, (step + 1) * self.batch_size):
                if position // self.length != epoch:
                    epoch = position // self.length
                    order = torch.randperm(self.length, generator=torch.Generator().manual_seed(self.seed * 100_003 + epoch))
                indices.append(int(order[position % self.length]))
            yield indices


def batches(dataset: Any, collate: Any, sampler: StepSampler, workers: int = 0) -> DataLoader[Any]:
    """A loader of `(images, captions)` for the steps of a sampler."""
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=workers, persistent_workers=workers > 0)
