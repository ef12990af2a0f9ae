"""The first pass over the input: every entry is checked, and equal captions become one.

It needs memory for a few thousand captions, however many there are, and about the size of the input on the disk until it ends.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import torch

from classifier_free_guidance_pytorch.corpus.read.entries import Bad, Place, captions_of
from classifier_free_guidance_pytorch.corpus.read.sources import Source
from classifier_free_guidance_pytorch.corpus.scan.merging import Merged, merge_equal
from classifier_free_guidance_pytorch.corpus.store.layout import CAPTIONS
from classifier_free_guidance_pytorch.corpus.store.shards import caption_digest, write_captions, write_index
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError

_NAMED = 5  # places that are named per reason
_BLOCK = 1 << 16  # captions that are numbered at once


@dataclass
class Skipped:
    """Entries that are not in the store: how many for each reason, and the places of the first of them.

    Example:
        >>> skipped = Skipped('line')
        >>> for line in (3, 9, 4):
        ...     skipped.add('empty', line)
        >>> print(skipped)
        3 empty (line 3, 9, 4)
    """

    unit: str
    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[Place]] = field(default_factory=dict)

    def add(self, reason: str, place: Place) -> None:
        """Count one more entry."""
        self.counts[reason] += 1
        places = self.places.setdefault(reason, [])
        if len(places) < _NAMED:
            places.append(place)

    def __str__(self) -> str:
        return '; '.join(
            f'{count:,} {reason} ({self.unit} {", ".join(map(str, self.places[reason]))}{", ..." if count > _NAMED else ""})'
            for reason, count in self.counts.items()
        )


@dataclass(frozen=True)
class Scanned:
    """What a scan found, besides the files that it wrote."""

    captions: int
    unique: int
    skipped: Skipped


def scratch_path(directory: Path) -> Path:
    """Return the folder of a scan's temporary files; a store with this folder and no plan is a scan that did not end."""
    return directory / '.scan'


def scan(
    source: Source, directory: Path, shard_rows: int, keep_empty: bool = False, progress: Callable[[int], object] = lambda _: None
) -> Scanned:
    """Read a whole source, and write the shards of captions and the index.

    Args:
        source: The captions.
        directory: The store; what an earlier scan left there is overwritten.
        shard_rows: The number of different captions in a shard.
        keep_empty: Keep captions without a visible character; else they are skipped and counted.
        progress: Called with 1 for every entry.

    Returns:
        The counts. The caller removes the folder of temporary files once the plan is written.

    Raises:
        ConfigError: No entry has a caption, or the source turns out to be damaged.
        UsageError: The disk is full.
    """
    scratch = scratch_path(directory)
    scratch.mkdir(parents=True, exist_ok=True)
    for leftover in (directory / CAPTIONS).glob('*'):  # of a scan that did not end, perhaps with other shards
        leftover.unlink()
    try:
        skipped = _spool(source, scratch, keep_empty, progress)
        captions = (scratch / 'positions').stat().st_size // 8
        if captions == 0:
            raise ConfigError(f'the input holds no caption that can be encoded, only {skipped}')
        merged = merge_equal(scratch / 'digests', scratch)
    except OSError as error:
        raise UsageError(
            f'reading the captions stopped ({error}); {directory} has {shutil.disk_usage(directory).free:,} bytes free, and '
            'needs about the size of the input while the captions are read: fix this, and run the same command again'
        ) from error
    for shard, batch in enumerate(_shards_of(_new_captions(scratch / 'captions', merged), shard_rows)):
        write_captions(directory, shard, batch)
    positions = torch.from_file(str(scratch / 'positions'), shared=True, size=captions, dtype=torch.int64)
    rows, hashes, hash_rows = map(torch.from_numpy, (merged.rows, merged.hashes, merged.hash_rows))
    write_index(directory, rows, positions, hashes, hash_rows)
    return Scanned(captions, len(merged.hashes), skipped)


def _spool(source: Source, scratch: Path, keep_empty: bool, progress: Callable[[int], object]) -> Skipped:
    """Write the captions, their digests and their positions in the input to files; count the entries without a caption."""
    skipped = Skipped(source.unit)
    with (
        (scratch / 'captions').open('wb') as texts,
        (scratch / 'digests').open('wb') as digests,
        (scratch / 'positions').open('wb') as positions,
    ):
        for position, (place, value) in enumerate(source.entries()):
            progress(1)
            for caption in captions_of(value, keep_empty):
                if isinstance(caption, Bad):
                    skipped.add(caption.reason, place)
                    continue
                text = caption.encode()
                texts.write(len(text).to_bytes(4, 'little'))
                texts.write(text)
                digests.write(caption_digest(text))
                positions.write(position.to_bytes(8, 'little'))
    return skipped


def _new_captions(spooled: Path, merged: Merged) -> Iterator[str]:
    """Yield the different captions, in order of first appearance."""
    unique = 0
    with spooled.open('rb') as file:
        for row in _rows(merged):
            text = _next_text(file)
            if row == unique:
                unique += 1
                yield text.decode()


def _rows(merged: Merged) -> Iterator[int]:
    """Yield the rows of all captions as Python's integers, converted a block at a time."""
    for start in range(0, len(merged.rows), _BLOCK):
        yield from merged.rows[start : start + _BLOCK].tolist()


def _next_text(file: BinaryIO) -> bytes:
    return file.read(int.from_bytes(file.read(4), 'little'))


def _shards_of(captions: Iterator[str], shard_rows: int) -> Iterator[list[str]]:
    while shard := list(islice(captions, min(shard_rows, sys.maxsize))):
        yield shard
