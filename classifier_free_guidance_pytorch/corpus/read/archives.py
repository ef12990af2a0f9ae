"""The members of a tar archive, read as a stream, to the block that ends it.

The library `tarfile` takes a damaged header, or a file that stops, for the end of an archive. Here only the block of zeros that
ends an archive is its end.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from classifier_free_guidance_pytorch.corpus.read.streams import DAMAGE, open_stream
from classifier_free_guidance_pytorch.errors import ConfigError

_LARGEST = 1 << 60  # bytes in a member
_EXTENSION = 1 << 20  # bytes in a header that extends the next one: they are read into memory
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_CHUNK = 1 << 20


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        key: Its path up to the first dot of its name, which the members of a sample share.
        suffix: The rest.
        content: The content, at most `limit` bytes and one of it; empty if it has a different suffix than the wanted one.
    """

    key: str
    suffix: str
    content: bytes


def members(path: Path, wanted: str | None, limit: int) -> Iterator[Member]:
    """Yield the files of an archive, without hidden ones and those whose names have no suffix, as WebDataset does.

    Args:
        path: The archive.
        wanted: The suffix of the members whose content is read.
        limit: The number of bytes in a member that are read at most; one more shows that it has more.

    Raises:
        ConfigError: The archive is damaged, or stops before its end. The message names the place.
    """
    key, archive = None, None
    with open_stream(path) as stream:
        try:
            archive = tarfile.TarFile(fileobj=stream, tarinfo=_Header)
            while (member := archive.next()) is not None:
                vars(archive)['members'] = []  # or they would grow with the archive
                split = _split(member.name)
                if member.isfile() and split is not None:
                    key, suffix = split
                    content: Any = archive.extractfile(member) if suffix == wanted else None
                    yield Member(key, suffix, content.read(limit + 1) if content else b'')
            rest: Any = archive.fileobj
            while chunk := rest.read(_CHUNK):  # to the checksum of a compressed archive
                if chunk.strip(b'\0'):
                    raise tarfile.ReadError('data follow the end of the archive, as where archives were joined')
        except (tarfile.TarError, ValueError, OverflowError, *DAMAGE) as error:
            place = '' if archive is None else f' at byte {archive.offset:,}'
            raise ConfigError(
                f'{path} is not a tar archive, or is damaged: it breaks off{place} after {key!r} ({error})'
            ) from error


class _Header(tarfile.TarInfo):
    """A header, of which only a block of zeros is the end of the archive, and whose sizes are possible."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str | None, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)  # type: ignore[arg-type]
        if not 0 <= header.size <= (_EXTENSION if header.type in _EXTENSIONS else _LARGEST):
            raise tarfile.ReadError(f'a header states {header.size:,} bytes')
        return header

    @classmethod
    def fromtarfile(cls, archive: Any) -> _Header:
        start = archive.fileobj.tell()
        try:
            header = super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if type(error).__name__ == 'EOFHeaderError':  # the block of zeros
                raise
            raise tarfile.ReadError(str(error)) from error
        if header.size < 0 or archive.offset <= start:  # from an extension
            raise tarfile.ReadError(f'a header states {header.size:,} bytes')
        return header


def _split(name: str) -> tuple[str, str] | None:
    """Split `'00/cat.seg.png'` into `('00/cat', 'seg.png')`, as WebDataset does; None for a hidden file or one without suffix."""
    folder, slash, file = name.rpartition('/')
    stem, dot, suffix = file.partition('.')
    return (f'{folder}{slash}{stem}', suffix) if stem and dot else None
