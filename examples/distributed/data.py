"""Captioned pictures, and the micro-batches that the processes share out among themselves.

    python examples/distributed/data.py --items 1024 > captions.txt

prints the captions of the pictures, one a line, in order.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cfg_demo.shapes import Sample, ShapesDataset
from cfg_demo.shapes import collate as as_batch
from classifier_free_guidance_pytorch.corpus import EmbeddingStore


def seed_of(*numbers: int) -> int:
    """One seed made of several numbers. Sums would not do: seed 0 on rank 1 would be seed 1 on rank 0.

    Example:
        >>> len({seed_of(seed, step, part) for seed in range(3) for step in range(3) for part in range(3)})
        27
    """
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=4).digest(), 'big')


def shapes(items: int) -> ShapesDataset:
    """The pictures: one coloured shape each, 16 x 16."""
    return ShapesDataset(size=16, length=items, kinds=('single',))


def collate(samples: Sequence[Sample], store: EmbeddingStore | None = None) -> tuple[Tensor, dict[str, Any]]:
    """Images `(b, 3, h, w)` from -1 to 1, and the keyword that the decorated model takes for their texts.

    With a store, that is what the encoders made of the captions beforehand; a caption that it lacks is an error that names it.
    """
    images, captions = as_batch(samples)
    return images * 2 - 1, {'texts': captions} if store is None else {'text_embeds': store[captions]}


@dataclass(frozen=True)
class MicroBatches:
    """Which items this process trains on: a batch sampler that needs no memory of what it has done.

    A batch of the run is `parts` micro-batches. Rank `r` of `world` takes the parts r, r + world, ... of every step, so the
    batch is the same on any number of processes, and a resumed run starts anywhere.

    Args:
        items: size of the dataset; every epoch is a new permutation of it.
        size: samples in a micro-batch.
        parts: micro-batches in a batch, a multiple of `world`.
        steps: the first step, and the one after the last.
    """

    items: int
    size: int
    parts: int
    steps: range
    rank: int
    world: int
    seed: int

    def __len__(self) -> int:
        return len(self.steps) * (self.parts // self.world)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            for part in range(self.rank, self.parts, self.world):
                first = (step * self.parts + part) * self.size
                yield [self.item(position) for position in range(first, first + self.size)]

    def item(self, position: int) -> int:
        """The item at a position of the endless sequence of epochs."""
        epoch, place = divmod(position, self.items)
        return permutation(self.items, seed_of(self.seed, epoch))[place]


@lru_cache(maxsize=2)  # a batch may lie across two epochs
def permutation(items: int, seed: int) -> list[int]:
    return torch.randperm(items, generator=torch.Generator().manual_seed(seed)).tolist()


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--items', type=int, default=1024, help='number of pictures')
    for sample in shapes(parser.parse_args().items):
        print(sample.caption)
