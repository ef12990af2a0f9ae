"""Files that are whole or absent: every one is written under another name, synced, and renamed; JSON carries its own checksum.

A safetensors file is written as it is hashed, in one pass and without a second copy of its tensors, so a shard of any size needs
no memory beyond its own. Its small `tables` (offsets and checksums) come first and make up, with the header, its *head*, with a
checksum of its own in the record: a reader proves the head at first touch and, by the tables in it, every row that it reads.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError, StoreError, UsageError

Content: TypeAlias = Tensor | Sequence[Tensor]  # a sequence is written as the concatenation of its tensors

DTYPES = {
    'I64': torch.int64,
    'F32': torch.float32,
    'BF16': torch.bfloat16,
    'F16': torch.float16,
    'U8': torch.uint8,
}  # the only ones in a store, by their names in safetensors
_SPELLED = {dtype: name for name, dtype in DTYPES.items()}
_CHUNK = 1 << 24
_SEAL = 'checksum'


@dataclass(frozen=True)
class FileRecord:
    """What is known of a finished file.

    Attributes:
        name: path in its store with forward slashes.
        bytes: its size.
        rows: how many captions (or entries of the index) it describes.
        sha256: checksum of the whole file.
        head_bytes: size of its head, the header and the tables.
        head_sha256: checksum of the head.
    """

    name: str
    bytes: int
    rows: int
    sha256: str
    head_bytes: int
    head_sha256: str


def write_tensors(
    path: Path,
    tables: Mapping[str, Tensor],
    data: Mapping[str, Content],
    rows: int,
    metadata: Mapping[str, str] | None = None,
) -> FileRecord:
    """Write a safetensors file atomically: the tables first, then the data, each in the order given.

    Args:
        path: the file.
        tables: int64 tensors, small beside the data, that a reader verifies as one.
        data: tensors, or sequences of tensors to be written behind one another.
        rows: how many rows the file describes.
        metadata: strings for the header.

    Returns:
        The record of the file, named by its last part.

    Raises:
        UsageError: the disk is full; it says how far the file got.
        ConfigError: the folder cannot be written to.
    """
    entries: dict[str, Content] = {**tables, **data}
    header, size = _header(entries, metadata)
    head_bytes = len(header) + sum(table.nbytes for table in tables.values())
    whole, head = hashlib.sha256(), None
    with _atomically(path, size) as file:
        written = 0
        for chunk in _chunks(header, entries.values()):
            if written == head_bytes and head is None:
                head = whole.copy()
            file.write(chunk)
            whole.update(chunk)
            written += len(chunk)
    assert written == size, (written, size)
    return FileRecord(path.name, size, rows, whole.hexdigest(), head_bytes, (head or whole).hexdigest())


def _header(entries: Mapping[str, Content], metadata: Mapping[str, str] | None) -> tuple[bytes, int]:
    """The header of a safetensors file, and the size of the whole file."""
    described: dict[str, Any] = {'__metadata__': dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name, content in entries.items():
        pieces = _pieces(content)
        shape = [sum(len(piece) for piece in pieces), *pieces[0].shape[1:]]
        start, end = end, end + sum(piece.nbytes for piece in pieces)
        described[name] = {'dtype': _SPELLED[pieces[0].dtype], 'shape': shape, 'data_offsets': [start, end]}
    text = json.dumps(described, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)  # tensors start at a multiple of 8, as in the library's own files
    return len(text).to_bytes(8, 'little') + text, 8 + len(text) + end


def _pieces(content: Content) -> Sequence[Tensor]:
    """The tensors of one entry, of one dtype and one shape beyond the first dimension."""
    pieces = [content] if isinstance(content, Tensor) else content
    assert pieces, 'an entry has at least one tensor'
    assert len({(piece.dtype, piece.shape[1:]) for piece in pieces}) == 1, 'pieces of one tensor are alike'
    return pieces


def _chunks(header: bytes, contents: Iterable[Content]) -> Iterator[memoryview]:
    """The bytes of the file in order, a piece or a part of one at a time."""
    yield memoryview(header)
    for content in contents:
        for piece in _pieces(content):
            raw = bytes_of(piece)
            for start in range(0, len(raw), _CHUNK):
                yield raw[start : start + _CHUNK]


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, without a copy where it is contiguous and on the CPU."""
    flat = tensor.detach().cpu().contiguous().flatten()
    # a tensor of one element counts as contiguous whatever its stride, but is seen as bytes only with stride 1
    raw: Any = flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy()
    return memoryview(raw)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object atomically as JSON, with a checksum of its content under the key `checksum`.

    Raises:
        UsageError: the disk is full.
        ConfigError: the folder cannot be written to.
    """
    text = json.dumps({**content, _SEAL: _seal(content)}, indent=1, allow_nan=False).encode() + b'\n'
    with _atomically(path, len(text)) as file:
        file.write(text)


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote, without the checksum.

    Raises:
        StoreError: the file is missing, is no JSON, or is not as it was written.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise StoreError(f'{path} is missing') from None
    except OSError as error:
        raise StoreError(f'{path} cannot be read ({error})') from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f'{path} is damaged: it is no JSON ({error})') from error
    if not isinstance(content, dict) or _SEAL not in content:
        raise StoreError(f'{path} is no file of a store: it carries no checksum of its content')
    stated = content.pop(_SEAL)
    if stated != _seal(content):
        raise StoreError(f'{path} is damaged or was edited: its content does not match the checksum that it carries')
    return content


def _seal(content: Mapping[str, Any]) -> str:
    """The checksum of an object, whatever its layout in the file."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(',', ':')).encode()).hexdigest()


def sha256_of(path: Path, length: int | None = None) -> str:
    """The checksum of a file, or of its first `length` bytes."""
    digest, left = hashlib.sha256(), length if length is not None else path.stat().st_size
    with path.open('rb') as file:
        while left > 0 and (chunk := file.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


@contextmanager
def _atomically(path: Path, size: int) -> Iterator[BinaryIO]:
    """A file that takes its name when it is complete and on the disk; `size` is for the message of a full disk."""
    unfinished = path.with_name(f'.{path.name}.unfinished')  # the same at every try, so that a killed run leaves no litter
    reached = 0
    try:
        _make_folder(path.parent)
        try:
            with unfinished.open('wb') as file:
                try:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                finally:
                    reached = file.tell() if not file.closed else 0
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise _explained(error, path, reached, size) from error


def _make_folder(folder: Path) -> None:
    """A folder, and those above it, that last as a file in it does."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Make what was named in a folder last; only POSIX systems open folders."""
    if os.name == 'posix':
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _explained(error: OSError, path: Path, reached: int, size: int) -> ConfigError | UsageError:
    """A failed write in words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        existing = next(folder for folder in path.absolute().parents if folder.exists())
        free = shutil.disk_usage(existing).free
        return UsageError(
            f'the disk is full ({error.strerror}): {path} got as far as {reached:,} of {size:,} bytes, and {free:,} bytes are '
            'free. The unfinished file was removed, and every file before it is complete: make room, and run the same again'
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return ConfigError(f'{path} cannot be written ({error.strerror}): pass a folder that you may write to')
    return UsageError(f'{path} could not be written ({error}): every file before it is complete')
