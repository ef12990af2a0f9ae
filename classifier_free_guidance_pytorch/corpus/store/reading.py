"""Reading the files of a store: mapped into memory, proven as they are read.

opened     the file has its size, the head (header, offsets, checksums) its sha256, and the tensors their shapes and dtypes
read       the bytes of every row have their CRC-32

Together with the checksum that the manifest carries of itself these make a chain without a gap: what was changed by a disk, by a
network or by hand, or belongs to another store, is found when it is touched and named, at a cost that grows with what is read and
not with the store. A whole file is hashed by `EmbeddingStore.verify` alone. What a mapping cannot survive is a file
that is cut short while it is open (the system then ends the process), so files of a store are never changed in place.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.corpus.store.files import DTYPES, FileRecord, bytes_of, sha256_of
from classifier_free_guidance_pytorch.corpus.store.manifest import STORED_DTYPES, EncoderRecord, Plan, check_size, remedy
from classifier_free_guidance_pytorch.corpus.store.shards import BLOCK
from classifier_free_guidance_pytorch.errors import StoreError


@dataclass(frozen=True)
class Column:
    """One tensor of a file, in rows that are proven one by one.

    Attributes:
        path: the file, and `name` the tensor in it, for errors.
        tensor: the mapped tensor.
        raw: its bytes.
        checks: the CRC-32 of every row, an array of int64; None if rows are not to be proven.
        offsets: where every row starts and the last ends, in entries of the tensor; None for `step` entries a row.
        step: entries in a row.
    """

    path: Path
    name: str
    tensor: Tensor
    raw: memoryview
    checks: Any
    offsets: Any
    step: int

    def span(self, row: int) -> tuple[int, int]:
        """Where a row starts and ends."""
        if self.offsets is not None:
            return int(self.offsets[row]), int(self.offsets[row + 1])
        return row * self.step, min((row + 1) * self.step, len(self.tensor))

    def read(self, row: int) -> Tensor:
        """The entries of a row: a view of the mapped file, proven.

        Raises:
            StoreError: they are not what was written.
        """
        start, end = self.span(row)
        entry = self.tensor[start:end]
        if self.checks is not None:
            size = len(self.raw) // max(len(self.tensor), 1)
            if zlib.crc32(self.raw[start * size : end * size]) != self.checks[row]:
                raise StoreError(
                    f'{self.path} is damaged: row {row:,} of {self.name!r} does not match its checksum; {remedy(self.path)}'
                )
        return entry


Layout = dict[str, tuple[torch.dtype, tuple[int | None, ...]]]  # None for a size that only the file knows


@dataclass(frozen=True)
class Expected:
    """What a kind of file holds.

    Attributes:
        tensors: dtype and shape of each; the table `<name>_checks` belongs to the column `<name>`.
        ragged: the column whose rows are cut by the table `offsets`, if there is one.
        step: entries in a row of the other columns.
    """

    tensors: Layout
    ragged: str = ''
    step: int = 1


def expected_captions(rows: int) -> Expected:
    """Of a file of captions."""
    tensors: Layout = {'offsets': (torch.int64, (rows + 1,)), 'captions_checks': (torch.int64, (rows,))}
    return Expected({**tensors, 'captions': (torch.uint8, (None,))}, ragged='captions')


def expected_encodings(encoder: EncoderRecord, rows: int) -> Expected:
    """Of a file of encodings."""
    dtype = DTYPES[STORED_DTYPES[encoder.dtype]]
    tensors: Layout = {}
    if encoder.tokens:
        tensors['offsets'], tensors['tokens_checks'] = (torch.int64, (rows + 1,)), (torch.int64, (rows,))
        tensors['tokens'] = dtype, (None, encoder.dim_tokens)
    if encoder.pooled:
        tensors['pooled_checks'] = torch.int64, (rows,)
        tensors['pooled'] = dtype, (rows, encoder.dim_pooled)
    return Expected(tensors, ragged='tokens' if encoder.tokens else '')


def expected_index(plan: Plan) -> Expected:
    """Of the index."""
    lengths = {'rows': plan.captions, 'positions': plan.captions, 'hashes': plan.unique, 'hash_rows': plan.unique}
    tensors: Layout = {'fences': (torch.int64, (-(-plan.unique // BLOCK),))}
    for name, length in lengths.items():
        tensors[name], tensors[f'{name}_checks'] = (torch.int64, (length,)), (torch.int64, (-(-length // BLOCK),))
    return Expected(tensors, step=BLOCK)


def open_columns(
    path: Path, record: FileRecord, files: Mapping[str, FileRecord], expected: Expected, prove: bool
) -> dict[str, Column]:
    """Map a file, prove its head, and return its columns by name.

    Args:
        path: the file.
        record: what the manifest says of it.
        files: what it says of all files, to tell a file that stands in the place of another.
        expected: the tensors of such a file.
        prove: whether its rows are to be proven when they are read.

    Raises:
        StoreError: it is missing, truncated, damaged, of another store, or in another's place.
    """
    check_size(path, record)
    if _hashed(path, record.head_bytes) != record.head_sha256:
        raise StoreError(f'{path} {_who(path, files)}')
    tensors = _mapped(path)
    if not _fits(tensors, expected.tensors):
        found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
        raise StoreError(f'{path} does not fit the manifest: it holds {found}, expected was {expected.tensors}')
    offsets = tensors['offsets'] if expected.ragged else None
    if offsets is not None and (int(offsets[0]), int(offsets[-1])) != (0, len(tensors[expected.ragged])):
        raise StoreError(f'{path} is damaged: its offsets do not span its {expected.ragged}')
    columns = {}
    for name in tensors.keys() - {'offsets', *(f'{name}_checks' for name in tensors)}:
        checks = tensors[f'{name}_checks'].numpy() if prove and f'{name}_checks' in tensors else None
        cut = offsets.numpy() if offsets is not None and name == expected.ragged else None
        columns[name] = Column(path, name, tensors[name], bytes_of(tensors[name]), checks, cut, expected.step)
    return columns


def _fits(tensors: Mapping[str, Tensor], expected: Layout) -> bool:
    """Whether every tensor is there, and no other, with its dtype and the sizes that are known."""
    return tensors.keys() == expected.keys() and all(
        tensors[name].dtype == dtype
        and tensors[name].ndim == len(shape)
        and all(wanted in (None, size) for size, wanted in zip(tensors[name].shape, shape, strict=True))
        for name, (dtype, shape) in expected.items()
    )


def _mapped(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file as views of its mapping."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, 'pt') as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise StoreError(f'{path} is damaged: it is no safetensors file ({error})') from error


def _hashed(path: Path, length: int | None = None) -> str:
    """The checksum of a file or of its head."""
    try:
        return sha256_of(path, length)
    except OSError as error:
        raise StoreError(f'{path} cannot be read ({error.strerror})') from error


def _who(path: Path, files: Mapping[str, FileRecord]) -> str:
    """What is wrong with a file whose head is not as it was written."""
    whole = _hashed(path)
    others = [record.name for record in files.values() if record.sha256 == whole]
    if others:
        return f'holds what belongs into {others[0]}: files of the store were exchanged'
    return (
        'is damaged, or was written by another run: its header and tables do not match the checksum in manifest.json; '
        + remedy(path)
    )


def check_whole(path: Path, record: FileRecord, files: Mapping[str, FileRecord]) -> None:
    """Hash a whole file.

    Raises:
        StoreError: it is not as it was written.
    """
    check_size(path, record)
    if _hashed(path) != record.sha256:
        changed_head = _hashed(path, record.head_bytes) != record.head_sha256
        raise StoreError(
            f'{path} {_who(path, files)}'
            if changed_head
            else f'{path} is damaged: its data do not match its sha256; {remedy(path)}'
        )
