"""Reading a store of embeddings against raw safetensors, on the same files.

    python -m benchmarks.corpus_read          # writes benchmarks/results/<device>/corpus_read.json

Both sides make batches of random captions, padded and with their masks, from files that the system holds in memory, so that what
is timed is the work and not a disk. By hand that is `safe_open`, a slice per caption and `pad_sequence`, with nothing
checked and the place of every caption known. Opening is counted apart: it happens once per file and process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.results import RESULTS, Figure, Result, assert_equal, environment, timed
from benchmarks.settings import Settings
from benchmarks.timing import Pace, in_turn
from classifier_free_guidance_pytorch.corpus import EmbeddingStore
from classifier_free_guidance_pytorch.corpus.store import shards
from classifier_free_guidance_pytorch.corpus.store.layout import encodings_name
from classifier_free_guidance_pytorch.corpus.store.manifest import EncoderRecord, Plan, finish

AGAINST = 'raw safetensors'
DIM = 768  # of T5-base
BATCH = 64


def write_store(directory: Path, captions: int, shard_rows: int, dim: int) -> None:
    """A store of random features, 5 to 60 tokens a caption, in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    encoder = EncoderRecord('t5', 'Random', '', None, {}, 'bfloat16', True, True, dim, dim)
    plan = Plan({'path': 'random'}, (encoder,), shard_rows, captions, captions, {}, BATCH)
    plan.write(directory)
    for shard in range(plan.shards):
        rows = plan.rows_of(shard)
        shards.write_captions(directory, shard, [f'caption {shard * shard_rows + row}' for row in range(rows)])
        lengths = torch.randint(5, 61, (rows,), generator=generator).tolist()
        features = torch.randn(sum(lengths), dim, generator=generator).bfloat16()
        pooled = torch.randn(rows, dim, generator=generator).bfloat16()
        shards.write_encodings(directory, 't5', shard, pooled=pooled, tokens=features.split(lengths))
    hashes = torch.tensor(sorted((shards.caption_hash(f'caption {row}'), row) for row in range(captions)))
    rows = torch.arange(captions)
    shards.write_index(directory, rows, rows, hashes[:, 0], hashes[:, 1])
    finish(directory, plan)


class Raw:
    """What one would write with safetensors alone: slices of open files, offsets in memory, and no checks."""

    def __init__(self, directory: Path, plan: Plan, stack: ExitStack) -> None:
        files = [stack.enter_context(safe_open(directory / encodings_name('t5', k), 'pt')) for k in range(plan.shards)]
        self.shard_rows = plan.shard_rows
        self.pooled = [file.get_slice('pooled') for file in files]
        self.tokens = [file.get_slice('tokens') for file in files]
        self.offsets = [file.get_tensor('offsets').tolist() for file in files]

    def pooled_of(self, rows: list[int]) -> Tensor:
        """`(b, d)`."""
        return torch.stack([self.pooled[row // self.shard_rows][row % self.shard_rows] for row in rows])

    def tokens_of(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        """`(b, n, d)` and `(b, n)`."""
        found = []
        for row in rows:
            shard, row = divmod(row, self.shard_rows)  # noqa: PLW2901
            found.append(self.tokens[shard][self.offsets[shard][row] : self.offsets[shard][row + 1]])
        lengths = torch.tensor([len(one) for one in found])
        tokens = pad_sequence(found, batch_first=True)
        return tokens, torch.arange(tokens.shape[1]) < lengths[:, None]


def ways(directory: Path, what: str, raw: Raw) -> dict[str, Callable[[list[int]], Any]]:
    """The ways to read a batch, by hand and with the store."""
    stored = {'pooled': {'tokens': False}, 'tokens': {'pooled': False}, 'both': {}}[what]
    proven, unproven = (EmbeddingStore(directory, check_rows=check, **stored) for check in (True, False))
    by_hand: dict[str, Callable[[list[int]], Any]] = {
        'pooled': lambda rows: (raw.pooled_of(rows),),
        'tokens': raw.tokens_of,
        'both': lambda rows: (*raw.tokens_of(rows), raw.pooled_of(rows)),
    }
    return {AGAINST: by_hand[what], 'store[rows]': proven.__getitem__, 'check_rows=False': unproven.__getitem__}


def measure(settings: Settings) -> list[Figure]:
    """Batches of random captions: pooled features, tokens, and both."""
    captions, shard_rows, dim = (200, 50, 16) if settings.tiny else (8192, 2048, DIM)
    figures = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        directory = Path(folder, 'store')
        write_store(directory, captions, shard_rows, dim)
        store = EmbeddingStore(directory)
        raw = Raw(directory, store.plan, stack)
        rows = torch.randperm(captions, generator=torch.Generator().manual_seed(1))[:BATCH].tolist()
        for (what,) in settings.progress(product(('pooled', 'tokens', 'both')), 'corpus_read'):
            readers = ways(directory, what, raw)
            assert_same(readers, rows, what)
            found = in_turn({name: lambda read=read: read(rows) for name, read in readers.items()}, settings.pace)
            mib = size_of(readers[AGAINST](rows)) / 2**20
            for way in list(readers)[1:]:
                rate = f'{BATCH / min(found[way]):,.0f} captions/s, {mib / min(found[way]):,.0f} MiB/s'
                figures.append(timed(f'{BATCH} captions, {what}', way, AGAINST, found[way], found[AGAINST], note=rate))
        figures.append(first_touch(directory, raw, settings.pace))
    return figures


def first_touch(directory: Path, raw: Raw, pace: Pace) -> Figure:
    """Opening a store and reading one caption of every shard, against opening the same files with safetensors."""
    plan = EmbeddingStore(directory).plan
    places = list(range(0, plan.unique, plan.shard_rows))

    def by_hand() -> None:
        with ExitStack() as stack:
            Raw(directory, plan, stack).tokens_of(places)

    calls = {'opening': lambda: EmbeddingStore(directory, pooled=False)[places], AGAINST: by_hand}
    found = in_turn(calls, pace)
    note = f'{plan.shards} shards of {plan.shard_rows:,} captions, one caption of each'
    return timed('first touch', 'opening', AGAINST, found['opening'], found[AGAINST], note=note)


def size_of(tensors: tuple[Tensor, ...]) -> int:
    """Bytes of what was read, padding included."""
    return sum(tensor.nbytes for tensor in tensors)


def assert_same(readers: dict[str, Callable[[list[int]], Any]], rows: list[int], what: str) -> None:
    """The store reads what the files hold."""
    expected = readers[AGAINST](rows)
    for way in list(readers)[1:]:
        found = readers[way](rows)
        parts = {
            'pooled': (found.pooled,),
            'tokens': (found.tokens, found.mask),
            'both': (found.tokens, found.mask, found.pooled),
        }
        assert_equal(parts[what], expected, f'{what}, {way}', 0.0, 0.0)


def main() -> None:
    """Measure, print, and write the results."""
    arguments = argparse.ArgumentParser('python -m benchmarks.corpus_read', description='A store against raw safetensors.')
    arguments.add_argument('--rounds', type=int, default=24, help='rounds in which every call is timed once (default: 24)')
    arguments.add_argument('--tiny', action='store_true', help='does it run? The figures mean nothing')
    arguments.add_argument('--out', type=Path, default=RESULTS / 'cpu', help='folder of the results')
    chosen = arguments.parse_args()
    settings = Settings(Pace(chosen.rounds), chosen.tiny)
    start = time.perf_counter()
    figures = measure(settings)
    took = time.perf_counter() - start
    stated = {'rounds': chosen.rounds, 'dtype': 'torch.bfloat16', 'tiny': chosen.tiny, 'minutes': round(took / 60, 2)}
    result = Result('corpus_read', 'python -m benchmarks.corpus_read', figures, stated, environment(settings.device))
    for one in figures:
        print(f'{one.case:22} {one.way:18} {one.ratio.median:6.2f} x {one.against}  {one.note}')
    print(result.write(chosen.out))


if __name__ == '__main__':
    main()
