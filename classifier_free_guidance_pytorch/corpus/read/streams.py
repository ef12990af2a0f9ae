"""Files as streams of bytes, compressed or not.

A compressed file is recognised by its first bytes, and read to its end: that is where its checksum is. Damage is a `ConfigError`
that names the file and the place.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError

COMPRESSED = {'.gz': b'\x1f\x8b', '.bz2': b'BZh', '.xz': b'\xfd7zXZ\0', '.zst': b'\x28\xb5\x2f\xfd'}  # and how such files begin
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError)  # what reading a damaged file raises
_SHORT = {'.tgz': '.tar.gz', '.tbz2': '.tar.bz2', '.txz': '.tar.xz', '.tzst': '.tar.zst'}
_BUFFER = 1 << 16
_ORDER_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # the longer ones first


def suffixes(path: Path) -> tuple[str, str]:
    """Return the suffix of the format and that of the compression, in small letters; the latter is often empty.

    Example:
        >>> suffixes(Path('a.JSONL.gz')), suffixes(Path('a.tgz')), suffixes(Path('a.txt'))
        (('.jsonl', '.gz'), ('.tar', '.gz'), ('.txt', ''))
    """
    last = path.suffix.lower()
    path = path.with_suffix(_SHORT[last]) if last in _SHORT else path
    compression = path.suffix.lower()
    return (path.with_suffix('').suffix.lower(), compression) if compression in COMPRESSED else (compression, '')


@contextmanager
def open_stream(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file and, if it is compressed, what is compressed in it.

    Raises:
        ConfigError: The file cannot be read, or is damaged. What is read in the `with` block counts.
        MissingDependencyError: The library for its compression is not installed.
    """
    stream: io.BufferedReader | None = None
    try:
        with path.open('rb', buffering=_BUFFER) as file:
            stream = _decompressed(path, file)
            yield stream
    except DAMAGE as error:
        place = '' if stream is None or stream.closed else f' at byte {_tell(stream):,} of its content'
        raise ConfigError(f'{path} is damaged or cannot be read{place} ({error})') from error


def _decompressed(path: Path, file: Any) -> io.BufferedReader:
    """Return the stream of what is compressed in a file, or the file."""
    head = file.peek(8)
    found = next((suffix for suffix, magic in COMPRESSED.items() if head.startswith(magic)), '')
    _, named = suffixes(path)
    if named and found != named:
        raise ConfigError(
            f'{path} is damaged, or was unpacked: its name ends in {named}, but it does not begin as such a file does'
        )
    if found == '.bz2' and not named and suffixes(path)[0] != '.tar':
        return file  # three letters are a possible beginning of a text
    raw: Any = file
    if found == '.gz':
        raw = gzip.GzipFile(fileobj=file)
    elif found in ('.bz2', '.xz'):
        raw = _Forward(_Streams(file, bz2.BZ2Decompressor if found == '.bz2' else lzma.LZMADecompressor))
    elif found == '.zst':
        raw = _Forward(import_pyarrow('files in .zst').CompressedInputStream(file, 'zstd'))
    return io.BufferedReader(raw, _BUFFER) if found else file


class _Streams:
    """The content of compressed streams, one after the other, to the end of a file, as `pbzip2` and `xz` write it in parts.

    `BZ2File` and `LZMAFile` take a stream that does not begin as one, and all after it, for nothing.
    """

    def __init__(self, file: Any, start: Callable[[], Any]) -> None:
        self.file = file
        self.start = start
        self.stream = start()

    def read(self, size: int) -> bytes:
        """Return some bytes, at most `size`; none at the end."""
        content = b''
        while not content:
            more = b''
            if self.stream.eof:
                more = self.stream.unused_data.lstrip(b'\0')  # streams may be padded
                while not more:
                    if not (chunk := self.file.read(_BUFFER)):
                        return b''
                    more = chunk.lstrip(b'\0')
                self.stream = self.start()
            elif self.stream.needs_input and not (more := self.file.read(_BUFFER)):
                raise EOFError('it ends before its end-of-stream marker')
            content = self.stream.decompress(more, size)
        return content


class _Forward(io.RawIOBase):
    """A stream that can only be read, as one in which places ahead can be sought, at most the end."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self.source.read(len(buffer))
        buffer[: len(content)] = content
        self.place += len(content)
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET and offset < self.place:
            raise io.UnsupportedOperation('only places ahead')
        while whence == io.SEEK_SET and offset > self.place and self.read(min(offset - self.place, _BUFFER)):
            pass
        return self.place

    def tell(self) -> int:
        return self.place


def _tell(stream: io.BufferedReader) -> int:
    try:
        return stream.tell()
    except (OSError, ValueError):
        return 0


@contextmanager
def open_text(path: Path) -> Iterator[BinaryIO]:
    """Open a text file behind its byte order mark, which is no part of the first caption.

    Raises:
        ConfigError: The file is damaged, or is UTF-16, UTF-32 or no text.
    """
    with open_stream(path) as file:
        head = file.peek(_BUFFER)[:_BUFFER]
        mark = next((mark for mark in _ORDER_MARKS if head.startswith(mark)), None)
        if mark is not None:
            name = f'UTF-{8 * len(mark)}'
            raise ConfigError(f'{path} is {name}, but captions are UTF-8: iconv -f {name} -t UTF-8 converts it')
        lines = head.split(b'\n')
        if 2 * sum(b'\0' in line for line in lines) > len(lines):  # a line that is damaged spoils no other
            raise ConfigError(
                f'{path} has NUL bytes in most of its lines, as UTF-16 and UTF-32 without a byte order mark have, or files that '
                'are no text: captions are UTF-8; iconv -f UTF-16LE -t UTF-8 converts UTF-16'
            )
        if head.startswith(codecs.BOM_UTF8):
            file.read(len(codecs.BOM_UTF8))
        yield file


def import_pyarrow(what: str = 'Parquet files and datasets') -> Any:
    """Import pyarrow.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise MissingDependencyError(
            f"{what} are read with pyarrow ({error}): pip install 'classifier-free-guidance-pytorch[corpus]'"
        ) from error
    return pyarrow
