"""Writing the files of a store: captions, encodings and the index, each with the checksums by which a reader checks it.

A shard has one row per caption (the caption, its pooled feature, its tokens), and a CRC-32 of every row in a table at the head of
the file. The columns of the index are cut into blocks of `BLOCK` entries, with one CRC-32 each.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.corpus.store.files import FileRecord, bytes_of, write_tensors
from classifier_free_guidance_pytorch.corpus.store.layout import INDEX, captions_name, encodings_name, write_record

BLOCK = 512  # entries of the index under one checksum: 4 KiB, about what a disk reads anyway


def write_captions(directory: Path, shard: int, captions: Sequence[str]) -> FileRecord:
    """Write the captions of a shard, each of which occurs once.

    Args:
        directory: The store.
        shard: The shard's number.
        captions: The captions, in the order of their rows.

    Raises:
        UsageError: The disk is full.
        ConfigError: The folder cannot be written to.
    """
    encoded = [caption.encode() for caption in captions]
    tables = {'offsets': offsets_of(map(len, encoded)), 'captions_checks': checks_of(encoded)}
    data = {
        'captions': torch.frombuffer(bytearray(b''.join(encoded)) or bytearray(1), dtype=torch.uint8)[: sum(map(len, encoded))]
    }
    name = captions_name(shard)
    return write_record(directory, name, write_tensors(directory / name, tables, data, len(captions)))


def write_encodings(
    directory: Path, label: str, shard: int, *, pooled: Tensor | None = None, tokens: Sequence[Tensor] | None = None
) -> FileRecord:
    """Write one encoder's features of a shard's captions, in the order of their rows and the dtype they are stored in.

    Args:
        directory: The store.
        label: The encoder's label.
        shard: The shard's number.
        pooled: `(n, dim_pooled)`, or None if they are not stored.
        tokens: For each caption `(length, dim_tokens)`, without padding, or None if they are not stored.

    Raises:
        UsageError: The disk is full.
        ConfigError: The folder cannot be written to.
    """
    tables: dict[str, Tensor] = {}
    data: dict[str, Tensor | Sequence[Tensor]] = {}
    if tokens is not None:
        tables['offsets'] = offsets_of(map(len, tokens))
        tables['tokens_checks'] = checks_of(map(bytes_of, tokens))
        data['tokens'] = tokens
    if pooled is not None:
        tables['pooled_checks'] = checks_of(map(bytes_of, pooled))
        data['pooled'] = pooled
    name = encodings_name(label, shard)
    rows = len(pooled) if pooled is not None else len(tokens or ())
    return write_record(directory, name, write_tensors(directory / name, tables, data, rows))


def write_index(directory: Path, rows: Tensor, positions: Tensor, hashes: Tensor, hash_rows: Tensor) -> FileRecord:
    """Write the index. All columns are int64 and may be memory-mapped: they are read in blocks.

    Args:
        directory: The store.
        rows: `(captions,)`, the row of every caption of the store; equal captions share a row.
        positions: `(captions,)`, never decreasing, the caption's position in the input, counted from 0 with the skipped entries.
        hashes: `(unique,)`, `caption_hash` of the different captions, sorted.
        hash_rows: `(unique,)`, the row of the caption with that hash.

    Raises:
        UsageError: The disk is full.
        ConfigError: The folder cannot be written to.
    """
    data = {'rows': rows, 'positions': positions, 'hashes': hashes, 'hash_rows': hash_rows}
    tables = {f'{name}_checks': checks_of(map(bytes_of, torch.split(column, BLOCK))) for name, column in data.items()}
    tables['fences'] = hashes[::BLOCK].clone()  # the first hash of every block
    return write_record(directory, INDEX, write_tensors(directory / INDEX, tables, data, len(rows)))


def caption_hash(caption: str) -> int:
    """Return the signed 64-bit number by which a caption is looked up; where two are equal, the captions decide.

    Example:
        >>> -(2**63) <= caption_hash('a dog') < 2**63
        True
    """
    return int.from_bytes(caption_digest(caption.encode())[:8], 'little', signed=True)


def caption_digest(caption: bytes) -> bytes:
    """Return the 16 bytes by which equal captions are found: of a billion different ones, two collide once in 10^20 corpora."""
    return hashlib.blake2b(caption, digest_size=16).digest()


def offsets_of(lengths: Iterable[int]) -> Tensor:
    """Return where every row starts, and where the last one ends."""
    return torch.tensor([0, *accumulate(lengths)])


def checks_of(rows: Iterable[bytes | memoryview]) -> Tensor:
    """Return the CRC-32 of the bytes of every row."""
    return torch.tensor([zlib.crc32(row) for row in rows])
