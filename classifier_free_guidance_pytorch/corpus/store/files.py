"""Files that are whole or absent: each is written under a temporary name, synced, and renamed; JSON carries its own checksum.

A safetensors file is hashed while it is written, in one pass and without a second copy of its tensors, so a shard needs no memory
beyond its own. Its small `tables` (offsets and checksums) come first. With the header they make up the *head*, which has a
checksum of its own in the record: a reader checks the head when it opens the file and, by the tables in it, every row it reads.
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
from types import UnionType
from typing import Any, BinaryIO, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError, StoreError, UsageError

Record = TypeVar('Record')
Content: TypeAlias = Tensor | Sequence[Tensor]  # a sequence is written as the concatenation of its tensors

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}  # of encodings, by the names that users give them
STORED_DTYPES = {str(dtype).removeprefix('torch.'): dtype for dtype in DTYPES.values()}  # and by their names in plan.json
_SAFETENSORS_NAMES = {
    torch.int64: 'I64',
    torch.uint8: 'U8',
    torch.float32: 'F32',
    torch.bfloat16: 'BF16',
    torch.float16: 'F16',
}  # the only dtypes in a store
_CHUNK = 1 << 24
_SEAL = 'checksum'


@dataclass(frozen=True)
class FileRecord:
    """What is known of a finished file.

    Attributes:
        name: The path in its store, with forward slashes.
        bytes: The size.
        rows: How many captions (or entries of the index) it describes.
        sha256: The checksum of the whole file.
        head_bytes: The size of the head: the header and the tables.
        head_sha256: The checksum of the head.
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
        path: The file.
        tables: Tensors of int64, small beside the data, that a reader checks together.
        data: Tensors, or sequences of tensors, which are written as their concatenation.
        rows: How many captions the file describes.
        metadata: Strings for the header.

    Returns:
        The record of the file, with the last part of its path as the name.

    Raises:
        UsageError: The disk is full. The message says how far the file got.
        ConfigError: The folder cannot be written to.
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
    """Return the header of a safetensors file, and the size of the whole file."""
    described: dict[str, Any] = {'__metadata__': dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name, content in entries.items():
        pieces = _pieces(content)
        shape = [sum(len(piece) for piece in pieces), *pieces[0].shape[1:]]
        start, end = end, end + sum(piece.nbytes for piece in pieces)
        described[name] = {'dtype': _SAFETENSORS_NAMES[pieces[0].dtype], 'shape': shape, 'data_offsets': [start, end]}
    text = json.dumps(described, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)  # tensors start at a multiple of 8, as in the library's own files
    return len(text).to_bytes(8, 'little') + text, 8 + len(text) + end


def _pieces(content: Content) -> Sequence[Tensor]:
    """Return the tensors of one entry, which share their dtype and their shape after the first dimension."""
    pieces = [content] if isinstance(content, Tensor) else content
    assert pieces, 'an entry has at least one tensor'
    assert len({(piece.dtype, piece.shape[1:]) for piece in pieces}) == 1, 'pieces of one tensor are alike'
    return pieces


def _chunks(header: bytes, contents: Iterable[Content]) -> Iterator[memoryview]:
    """Yield the bytes of the file in order, at most `_CHUNK` at a time."""
    yield memoryview(header)
    for content in contents:
        for piece in _pieces(content):
            raw = bytes_of(piece)
            for start in range(0, len(raw), _CHUNK):
                yield raw[start : start + _CHUNK]


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor, without a copy if it is contiguous and on the CPU."""
    flat = tensor.detach().cpu().contiguous().flatten()
    # a tensor of one element counts as contiguous with any stride, but can be viewed as bytes only with stride 1
    raw: Any = flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy()
    return memoryview(raw)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object atomically as JSON, with a checksum of its content under the key `checksum`.

    Raises:
        UsageError: The disk is full.
        ConfigError: The folder cannot be written to.
    """
    text = json.dumps({**content, _SEAL: _seal(content)}, indent=1, allow_nan=False).encode() + b'\n'
    with _atomically(path, len(text)) as file:
        file.write(text)


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote, without the checksum.

    Raises:
        StoreError: The file is missing, is not JSON, or is not as it was written.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise StoreError(f'{path} cannot be read: it is not a file')
        content = json.loads(path.read_bytes())
        stated = content.pop(_SEAL, None) if isinstance(content, dict) else None
        sealed = _seal(content)
    except FileNotFoundError:
        raise StoreError(f'{path} is missing') from None
    except OSError as error:
        raise StoreError(f'{path} cannot be read ({error})') from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f'{path} is damaged: it is not JSON ({error})') from error
    if stated is None:
        raise StoreError(f'{path} is not a file of a store: it carries no checksum of its content')
    if stated != sealed:
        raise StoreError(f'{path} is damaged or was edited: its content does not match the checksum that it carries')
    return content


def from_json(record: type[Record], content: Mapping[str, Any]) -> Record:
    """Return a dataclass made from a JSON object.

    Raises:
        TypeError: A field is missing, unknown, or not of exactly the type that the dataclass declares.
        ConfigError: The dataclass refuses a value.
    """
    for name, hint in get_type_hints(record).items():
        if name in content and not _is_of(content[name], hint):
            raise TypeError(f'{name} is {content[name]!r:.80}')
    return record(**content)


def _is_of(value: Any, hint: Any) -> bool:
    """Return whether a value is of exactly the type of a hint; of the values in a dict, which are plain, too."""
    allowed = get_args(hint) if isinstance(hint, UnionType) else (get_origin(hint) or hint,)
    if type(value) is not dict:
        return type(value) in allowed
    _, inner = get_args(hint) or (str, Any)
    return dict in allowed and all(_is_plain(one) if inner is Any else type(one) is inner for one in value.values())


def _is_plain(value: Any) -> bool:
    """Return whether a setting is a number, a string or the like, or a list of those: it can be compared and shown."""
    return all(isinstance(one, str | int | float | None) for one in (value if isinstance(value, list) else [value]))


def _seal(content: Mapping[str, Any]) -> str:
    """Return the checksum of an object; its layout in the file does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(',', ':')).encode()).hexdigest()


def sha256_of(path: Path, length: int | None = None) -> str:
    """Return the checksum of a file, or of its first `length` bytes."""
    digest, left = hashlib.sha256(), length if length is not None else path.stat().st_size
    with path.open('rb') as file:
        while left > 0 and (chunk := file.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


@contextmanager
def _atomically(path: Path, size: int) -> Iterator[BinaryIO]:
    """Open a file that gets its name when it is complete and on the disk; `size` is for the message about a full disk."""
    unfinished = path.with_name(f'.{path.name}.unfinished')  # always the same name, so that killed runs leave one file at most
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
        raise _write_error(error, path, reached, size) from error


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, and sync them, so that they survive a crash as the files in them do."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Sync the names in a folder to the disk; only POSIX systems can open folders."""
    if os.name == 'posix':
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_error(error: OSError, path: Path, reached: int, size: int) -> ConfigError | UsageError:
    """Return our error for a failed write."""
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
