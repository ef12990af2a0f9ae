"""Which captions of a corpus are equal, found by sorting their digests on the disk: memory does not grow with the corpus.

Equal captions have equal digests, so they meet in one bucket when digests are split by their first bits. A bucket fits in
memory and is sorted there, and the sorted buckets one after the other are sorted as a whole. The result per caption is where an
equal one occurs first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHUNK = 1 << 17  # records in memory at once
_BUCKET = 1 << 18  # records in a bucket, approximately
_MAX_BUCKETS = 512  # open files


@dataclass(frozen=True)
class Merged:
    """The result, in memory-mapped arrays of int64.

    Attributes:
        rows: `(captions,)`, the row of every caption: different captions are numbered in order of first appearance.
        hashes: `(unique,)`, the first half of the digest of every different caption, sorted.
        hash_rows: `(unique,)`, the row of the caption with that digest.
    """

    rows: Any
    hashes: Any
    hash_rows: Any


def merge_equal(digests: Path, scratch: Path) -> Merged:
    """Return the row of every caption, and the different captions by hash.

    Args:
        digests: A file of 16 bytes per caption, for at least one caption.
        scratch: A folder for intermediate files and for the files that the result maps; it must outlive the result.

    Returns:
        The rows. A caption is the first of its kind exactly where its row is the number of different captions before it.
    """
    import numpy as np

    count = digests.stat().st_size // 16
    first = np.memmap(scratch / 'rows', np.int64, 'w+', shape=(count,))
    with (scratch / 'hashes').open('wb') as hashes, (scratch / 'hash_rows').open('wb') as hash_firsts:
        for bucket in _split(digests, count, scratch):
            records = np.fromfile(bucket, np.int64).reshape(-1, 3)
            bucket.unlink()
            # by digest, and equal ones by place
            records = records[np.lexsort((records[:, 2], records[:, 1], records[:, 0]))]
            new = np.ones(len(records), bool)
            new[1:] = (records[1:, :2] != records[:-1, :2]).any(axis=1)
            firsts = records[new, 2]
            first[records[:, 2]] = firsts[np.cumsum(new) - 1]
            records[new, 0].tofile(hashes)
            firsts.tofile(hash_firsts)
    _number(first)
    hash_rows = np.memmap(scratch / 'hash_rows', np.int64, 'r+')
    for chunk in _chunks(len(hash_rows)):
        hash_rows[chunk] = first[hash_rows[chunk]]
    return Merged(first, np.memmap(scratch / 'hashes', np.int64, 'r+'), hash_rows)


def _split(digests: Path, count: int, scratch: Path) -> Iterator[Path]:
    """Yield buckets of records (first half, second half, place), each with the digests between two bounds, in ascending order."""
    import numpy as np

    bits = min(max(1, (count // _BUCKET).bit_length()), _MAX_BUCKETS.bit_length() - 1)
    paths = [scratch / f'bucket-{number}' for number in range(1 << bits)]
    with ExitStack() as stack, digests.open('rb') as file:
        buckets = [stack.enter_context(path.open('wb')) for path in paths]
        for chunk in _chunks(count):
            halves = np.fromfile(file, np.int64, 2 * (chunk.stop - chunk.start)).reshape(-1, 2)
            records = np.column_stack([halves, np.arange(chunk.start, chunk.stop)])
            numbers = (records[:, 0] >> (64 - bits)) + (1 << (bits - 1))  # the sign comes first, as in the order of the numbers
            order = np.argsort(numbers, kind='stable')
            bounds = np.searchsorted(numbers[order], np.arange(len(paths) + 1))
            for bucket, start, stop in zip(buckets, bounds[:-1], bounds[1:], strict=True):
                records[order[start:stop]].tofile(bucket)
    yield from paths


def _number(first: Any) -> None:
    """Replace, in place, the place where an equal caption occurs first by that caption's row."""
    import numpy as np

    unique = 0
    for chunk in _chunks(len(first)):
        values = np.array(first[chunk])
        new = values == np.arange(chunk.start, chunk.stop)
        first[chunk][new] = unique + np.arange(new.sum())
        first[chunk][~new] = first[values[~new]]  # whose first comes before it and already has its row
        unique += int(new.sum())


def _chunks(count: int) -> Iterator[slice]:
    """Yield slices that cover the numbers below `count`."""
    for start in range(0, count, _CHUNK):
        yield slice(start, min(start + _CHUNK, count))
