"""Where captions come from: a file, a folder of files of one kind, or a Hugging Face dataset."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Protocol

from classifier_free_guidance_pytorch.corpus.read.entries import Entry
from classifier_free_guidance_pytorch.corpus.read.formats import FORMATS, Format, choose_column, digest_of
from classifier_free_guidance_pytorch.corpus.read.streams import COMPRESSED, suffixes
from classifier_free_guidance_pytorch.errors import ConfigError

_LOOKED_AT = 10_000  # files below a folder without captions, for a hint


class Source(Protocol):
    """Captions in a fixed order."""

    @property
    def unit(self) -> str:
        """The name of an entry in messages: a line, a row, a sample."""

    def entries(self) -> Iterator[Entry]:
        """Yield every entry with its place, from the start; see `formats.py`."""

    def fingerprint(self, digest: str | None = None) -> dict[str, Any]:
        """Return what identifies the input, in JSON: the same for the same captions in any folder.

        Args:
            digest: What is known to be the digest of its content, which then is not read.
        """


@dataclass(frozen=True)
class FileSource:
    """One file or several of one format, one after the other."""

    paths: tuple[Path, ...]
    format: Format
    column: str

    @property
    def unit(self) -> str:
        """What an entry is called."""
        return self.format.unit

    def entries(self) -> Iterator[Entry]:
        """Yield the entries of all files; if there are several, places name the file."""
        for path in self.paths:
            for place, value in self.format.entries(path, self.column):
                yield place if len(self.paths) == 1 else f'{path.name}:{place}', value

    def fingerprint(self, digest: str | None = None) -> dict[str, Any]:
        """Return names, sizes and a digest of all that decides the captions, in all files."""
        try:
            size = sum(path.stat().st_size for path in self.paths)
        except OSError as error:
            raise ConfigError(f'{error.filename} cannot be read any more ({error.strerror})') from error
        described = {'kind': self.format.kind, 'column': self.column}
        digest = digest or digest_of(self.paths, lambda path: self.format.content(path, self.column))
        return {**described, 'files': len(self.paths), 'bytes': size, 'digest': digest}


@dataclass(frozen=True)
class LimitedSource:
    """The first entries of another source."""

    source: Source
    limit: int

    @property
    def unit(self) -> str:
        """What an entry is called."""
        return self.source.unit

    def entries(self) -> Iterator[Entry]:
        """Yield the first entries; bad ones count too."""
        return islice(self.source.entries(), min(self.limit, sys.maxsize))

    def fingerprint(self, digest: str | None = None) -> dict[str, Any]:
        """Return that of the source, and the limit."""
        return {**self.source.fingerprint(digest), 'limit': self.limit}


def open_source(
    source: str | PathLike[str], column: str | None = None, split: str | None = None, limit: int | None = None
) -> Source:
    """Open an input, and check as much of it as is possible without reading it all.

    Args:
        source: A `.txt`, `.jsonl`, `.csv`, `.tsv`, `.parquet` or WebDataset `.tar` file, all but Parquet also compressed
            (`.txt.gz`, `.bz2`, `.xz`, `.zst`); a folder of such files of one kind, hidden ones left out; a folder written by
            `datasets.save_to_disk`; or the name of a dataset on the Hugging Face hub (`'name'` or `'name:config'`).
        column: The column of the captions; None for `caption`, `text`, `prompt` or the only column. Of a WebDataset, the suffix
            of the members that are captions, by default `txt`.
        split: The split of a dataset; None for `train`, or for the only one of a folder.
        limit: Read at most this many entries.

    Raises:
        ConfigError: There is no such input, it is empty, it has no such column, or its format is unknown.
        MissingDependencyError: Its format needs the extra `[corpus]`, or the hub cannot be read.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f'limit counts captions and is at least 1, but got {limit}')
    if not fspath(source).strip() or '\0' in fspath(source):
        raise ConfigError(f'the input is a file, a folder or the name of a dataset, but got the name {fspath(source)!r}')
    path = Path(source)
    try:
        _check_regular(path)
        of_files = path.is_file() or (path.is_dir() and not _is_saved_dataset(path))
        if of_files and split is not None:
            raise ConfigError(f'split={split!r} chooses from a dataset of Hugging Face, but {source} is not one')
        found: Source | None = _files(path, column) if of_files else None
    except OSError as error:  # a name that no disk takes, or a folder that is closed
        raise ConfigError(f'{source} cannot be read ({error.strerror})') from error
    if found is None:
        from classifier_free_guidance_pytorch.corpus.read.hub import open_dataset

        if not path.is_dir() and (suffixes(path)[0] in FORMATS or str(source).startswith(('.', '/', '~'))):
            raise ConfigError(f'{source} does not exist: pass a file, a folder or the name of a dataset')
        found = open_dataset(source, column, split)
    if next(found.entries(), None) is None:
        raise ConfigError(f'{source} is empty: it holds no captions')
    return found if limit is None else LimitedSource(found, limit)


def _is_saved_dataset(folder: Path) -> bool:
    """Return whether `datasets.save_to_disk` wrote a folder."""
    return any((folder / name).is_file() for name in ('dataset_dict.json', 'state.json'))


def _files(path: Path, column: str | None) -> FileSource:
    """Return the files of an input that exists."""
    paths = [path] if path.is_file() else sorted(file for file in path.iterdir() if _is_known(file))
    known = f'{", ".join(FORMATS)} (or compressed: {", ".join(COMPRESSED)})'
    if not paths:
        below = next((file.parent for file in islice(path.rglob('*'), _LOOKED_AT) if _is_known(file)), None)
        hint = '' if below is None else f'; the folder {below} has one, so pass that'
        raise ConfigError(f'the folder {path} holds no captions: it has no file with one of the suffixes {known}{hint}')
    if suffixes(paths[0])[0] not in FORMATS:
        raise ConfigError(f'{path} is of an unknown kind: captions are read from files with one of the suffixes {known}')
    formats = {suffix: FORMATS[suffix] for suffix, _ in map(suffixes, paths)}
    if len(formats) > 1:
        raise ConfigError(
            f'the folder {path} holds files of several kinds, {", ".join(formats)}: pass one, or a folder of one kind'
        )
    (one,) = formats.values()
    _check_readable(paths)
    return FileSource(tuple(paths), one, _column(paths, one, column))


def _is_known(path: Path) -> bool:
    """Return whether a path in a folder is a file of a known format that is not hidden."""
    return suffixes(path)[0] in FORMATS and not path.name.startswith('.') and not path.is_dir()


def _check_regular(path: Path) -> None:
    """Refuse what exists and can be read once at most, or never ends, and a link to nothing."""
    if (path.exists() and not path.is_file() and not path.is_dir()) or (path.is_symlink() and not path.exists()):
        raise ConfigError(
            f'{path} is a pipe, a device or a broken link: captions are read more than once, so pass a file or a folder'
        )


def _column(paths: Sequence[Path], one: Format, asked: str | None) -> str:
    """Return the column of the captions in files of one format.

    Raises:
        ConfigError: One of the files does not have it.
    """
    if one.columns is None:
        if asked is not None:
            raise ConfigError(f'column={asked!r} was passed, but {paths[0]} is text, one caption per line, and has no columns')
        return ''
    if one.kind == 'webdataset':
        asked = (asked or 'txt').lstrip('.')
    chosen = choose_column(paths[0], one.columns(paths[0]), asked, what=one.column)
    if one.kind in ('csv', 'parquet'):  # the entries of other formats may differ
        for file in paths[1:]:
            choose_column(file, one.columns(file), chosen)
    return chosen


def _check_readable(paths: Sequence[Path]) -> None:
    """Refuse files that are empty or cannot be opened, before anything reads them."""
    for path in paths:
        _check_regular(path)
        try:
            with path.open('rb') as file:
                if not file.read(1) and len(paths) == 1:
                    raise ConfigError(f'{path} is empty: it holds no captions')
        except OSError as error:
            raise ConfigError(f'{path} cannot be read ({error.strerror})') from error
