"""Reading the files of a store: mapped into memory, and checked as they are read.

when a file is opened     its size, the sha256 of its head (header, offsets, checksums), the shapes and dtypes of its tensors
when a block is read      the CRC-32 of its bytes

The manifest carries its own checksum, so this chain has no gap. What a disk, a network or a hand has changed, or what belongs to
a different store, is found when it is read, and named. The cost grows with what is read, not with the store. Only
`EmbeddingStore.verify` hashes whole files. A mapped file must not be cut short while it is open, because the system would end the
process; so files of a store are never changed in place.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.corpus.store.files import STORED_DTYPES, FileRecord, bytes_of, sha256_of
from classifier_free_guidance_pytorch.corpus.store.layout import check_size, remedy
from classifier_free_guidance_pytorch.corpus.store.manifest import EncoderRecord, Plan
from classifier_free_guidance_pytorch.corpus.store.shards import BLOCK
from classifier_free_guidance_pytorch.errors import StoreError


@dataclass(frozen=True)
class Column:
    """One tensor of a file, in blocks that are checked one by one: the rows of a shard, or `BLOCK` entries of the index.

    Attributes:
        path: The file, for errors.
        name: The name of the tensor in it, for errors.
        tensor: The mapped tensor.
        raw: Its bytes.
        checks: The CRC-32 of every block, an array of int64; None if blocks are not checked.
        offsets: Where every block starts and the last ends, in entries of the tensor; None for `step` entries per block.
        step: The number of entries in a block.
    """

    path: Path
    name: str
    tensor: Tensor
    raw: memoryview
    checks: Any
    offsets: Any
    step: int

    def read(self, block: int) -> Tensor:
        """Return the entries of a block: a view of the mapped file, checked.

        Raises:
            StoreError: The entries are not what was written.
        """
        if self.offsets is not None:
            start, end = int(self.offsets[block]), int(self.offsets[block + 1])
        else:
            start, end = block * self.step, min((block + 1) * self.step, len(self.tensor))
        if self.checks is not None:
            size = len(self.raw) // max(len(self.tensor), 1)
            if zlib.crc32(self.raw[start * size : end * size]) != self.checks[block]:
                raise StoreError(
                    f'{self.path} is damaged: block {block:,} of {self.name!r} does not match its checksum; {remedy(self.path)}'
                )
        return self.tensor[start:end]


Layout: TypeAlias = dict[str, tuple[torch.dtype, tuple[int | None, ...]]]  # None for a size that only the file knows


@dataclass(frozen=True)
class Expected:
    """What a kind of file holds.

    Attributes:
        tensors: The dtype and shape of each; the table `<name>_checks` belongs to the column `<name>`.
        ragged: The column whose blocks the table `offsets` delimits, if there is one.
        step: The number of entries in a block of the other columns.
    """

    tensors: Layout
    ragged: str = ''
    step: int = 1


def expected_captions(rows: int) -> Expected:
    """Return what a file of captions holds."""
    tensors: Layout = {'offsets': (torch.int64, (rows + 1,)), 'captions_checks': (torch.int64, (rows,))}
    return Expected({**tensors, 'captions': (torch.uint8, (None,))}, ragged='captions')


def expected_encodings(encoder: EncoderRecord, rows: int) -> Expected:
    """Return what a file of encodings holds."""
    dtype = STORED_DTYPES[encoder.dtype]
    tensors: Layout = {}
    if encoder.tokens:
        tensors['offsets'], tensors['tokens_checks'] = (torch.int64, (rows + 1,)), (torch.int64, (rows,))
        tensors['tokens'] = dtype, (None, encoder.dim_tokens)
    if encoder.pooled:
        tensors['pooled_checks'] = torch.int64, (rows,)
        tensors['pooled'] = dtype, (rows, encoder.dim_pooled)
    return Expected(tensors, ragged='tokens' if encoder.tokens else '')


def expected_index(plan: Plan) -> Expected:
    """Return what the index holds."""
    lengths = {'rows': plan.captions, 'positions': plan.captions, 'hashes': plan.unique, 'hash_rows': plan.unique}
    tensors: Layout = {'fences': (torch.int64, (-(-plan.unique // BLOCK),))}
    for name, length in lengths.items():
        tensors[name], tensors[f'{name}_checks'] = (torch.int64, (length,)), (torch.int64, (-(-length // BLOCK),))
    return Expected(tensors, step=BLOCK)


def open_columns(
    path: Path, record: FileRecord, files: Mapping[str, FileRecord], expected: Expected, check_blocks: bool
) -> dict[str, Column]:
    """Map a file, check its head, and return its columns by name.

    Args:
        path: The file.
        record: Its record in the manifest.
        files: The records of all files, to recognise a file that was exchanged with another.
        expected: The tensors of such a file.
        check_blocks: Check its blocks when they are read.

    Raises:
        StoreError: The file is missing, truncated, damaged, of a different store, or exchanged with another.
    """
    check_size(path, record)
    if _hashed(path, record.head_bytes) != record.head_sha256:
        raise StoreError(f'{path} {_damage(path, files)}')
    tensors = _mapped(path)
    if not _fits(tensors, expected.tensors):
        found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
        raise StoreError(f'{path} does not fit the manifest: it holds {found}, expected was {expected.tensors}')
    offsets = tensors['offsets'] if expected.ragged else None
    if offsets is not None and (int(offsets[0]), int(offsets[-1])) != (0, len(tensors[expected.ragged])):
        raise StoreError(f'{path} is damaged: its offsets do not span its {expected.ragged}')
    columns = {}
    for name in tensors.keys() - {'offsets', *(f'{name}_checks' for name in tensors)}:
        checks = tensors[f'{name}_checks'].numpy() if check_blocks and f'{name}_checks' in tensors else None
        cut = offsets.numpy() if offsets is not None and name == expected.ragged else None
        columns[name] = Column(path, name, tensors[name], bytes_of(tensors[name]), checks, cut, expected.step)
    return columns


def _fits(tensors: Mapping[str, Tensor], expected: Layout) -> bool:
    """Return whether these tensors are the expected ones, with their dtypes and the sizes that are known."""
    return tensors.keys() == expected.keys() and all(
        tensors[name].dtype == dtype
        and tensors[name].ndim == len(shape)
        and all(wanted in (None, size) for size, wanted in zip(tensors[name].shape, shape, strict=True))
        for name, (dtype, shape) in expected.items()
    )


def _mapped(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file as views of its mapping."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, 'pt') as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise StoreError(f'{path} is damaged: it is not a safetensors file ({error})') from error


def _hashed(path: Path, length: int | None = None) -> str:
    """Return the checksum of a file or of its head."""
    try:
        return sha256_of(path, length)
    except OSError as error:
        raise StoreError(f'{path} cannot be read ({error.strerror})') from error


def _damage(path: Path, files: Mapping[str, FileRecord]) -> str:
    """Return what is wrong with a file whose head is not as it was written."""
    whole = _hashed(path)
    others = [record.name for record in files.values() if record.sha256 == whole]
    if others:
        return f'holds what belongs into {others[0]}: files of the store were exchanged'
    return (
        'is damaged, or was written by a different run: its header and tables do not match the checksum in manifest.json; '
        + remedy(path)
    )


def check_whole(path: Path, record: FileRecord, files: Mapping[str, FileRecord]) -> None:
    """Hash a whole file.

    Args:
        path: The file.
        record: Its record in the manifest.
        files: The records of all files.

    Raises:
        StoreError: The file is not as it was written.
    """
    check_size(path, record)
    if _hashed(path) != record.sha256:
        changed_head = _hashed(path, record.head_bytes) != record.head_sha256
        raise StoreError(
            f'{path} {_damage(path, files)}'
            if changed_head
            else f'{path} is damaged: its data do not match its sha256; {remedy(path)}'
        )
