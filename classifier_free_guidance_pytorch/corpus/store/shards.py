"""Writing the files of a store: captions, encodings, and the index; each with the checksums that a reader proves rows by.

Every row of a shard (a caption, a pooled feature, the tokens of a text) has a CRC-32 of its bytes in a table at the head of the
file. The columns of the index are cut into blocks of `BLOCK` entries with one CRC-32 each.
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
from classifier_free_guidance_pytorch.corpus.store.manifest import captions_path, encodings_path, index_path, note

BLOCK = 512  # entries of the index under one checksum: 4 KiB, about what a disk reads anyway


def write_captions(directory: Path, shard: int, captions: Sequence[str]) -> FileRecord:
    """Write the different captions of a shard.

    Raises:
        UsageError: the disk is full.
        ConfigError: the folder cannot be written to.
    """
    encoded = [caption.encode() for caption in captions]
    tables = {'offsets': offsets_of(map(len, encoded)), 'captions_checks': checks_of(encoded)}
    data = {
        'captions': torch.frombuffer(bytearray(b''.join(encoded)) or bytearray(1), dtype=torch.uint8)[: sum(map(len, encoded))]
    }
    path = captions_path(directory, shard)
    return note(directory, path, write_tensors(path, tables, data, len(captions)))


def write_encodings(
    directory: Path, label: str, shard: int, *, pooled: Tensor | None = None, tokens: Sequence[Tensor] | None = None
) -> FileRecord:
    """Write what one encoder made of a shard's captions, in their order and in the dtype they are stored in.

    Args:
        directory: the store.
        label: the encoder's label.
        shard: the shard's number.
        pooled: `(n, dim_pooled)`, or None if they are not stored.
        tokens: per caption `(length, dim_tokens)`, without padding, or None if they are not stored.

    Raises:
        UsageError: the disk is full.
        ConfigError: the folder cannot be written to.
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
    path = encodings_path(directory, label, shard)
    rows = len(pooled) if pooled is not None else len(tokens or ())
    return note(directory, path, write_tensors(path, tables, data, rows))


def write_index(directory: Path, rows: Tensor, positions: Tensor, hashes: Tensor, hash_rows: Tensor) -> FileRecord:
    """Write the index. All columns are int64 and may be memory-mapped: they are read in blocks.

    Args:
        directory: the store.
        rows: `(captions,)`, for every caption of the input that is part of the store, the number of the equal one among the
            different captions.
        positions: `(captions,)`, increasing: where in the input it stood, counted from 0 with what was skipped.
        hashes: `(unique,)`, `caption_hash` of the different captions, sorted.
        hash_rows: `(unique,)`, the number of the caption with that hash.

    Raises:
        UsageError: the disk is full.
        ConfigError: the folder cannot be written to.
    """
    data = {'rows': rows, 'positions': positions, 'hashes': hashes, 'hash_rows': hash_rows}
    tables = {f'{name}_checks': checks_of(map(bytes_of, torch.split(column, BLOCK))) for name, column in data.items()}
    tables['fences'] = hashes[::BLOCK].clone()  # the first hash of every block
    path = index_path(directory)
    return note(directory, path, write_tensors(path, tables, data, len(rows)))


def caption_hash(caption: str) -> int:
    """The signed 64-bit number that a caption is looked up by; equal ones are told apart by the captions themselves.

    Example:
        >>> -(2**63) <= caption_hash('a dog') < 2**63
        True
    """
    return int.from_bytes(caption_digest(caption.encode())[:8], 'little', signed=True)


def caption_digest(caption: bytes) -> bytes:
    """The 16 bytes by which equal captions are found: of a billion different ones, two agree once in 10^20 corpora."""
    return hashlib.blake2b(caption, digest_size=16).digest()


def offsets_of(lengths: Iterable[int]) -> Tensor:
    """Where every row starts, and where the last one ends."""
    return torch.tensor([0, *accumulate(lengths)])


def checks_of(rows: Iterable[bytes | memoryview]) -> Tensor:
    """The CRC-32 of the bytes of every row."""
    return torch.tensor([zlib.crc32(row) for row in rows])
