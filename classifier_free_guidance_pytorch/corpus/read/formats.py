"""The captions in a file, one reader per format.

A reader yields, for every entry of the file, its place (a line, a row, the key of a sample) and its value: a string, bytes that
are meant to be UTF-8, whatever else stands there, or a `Bad` entry with the reason. It never raises because of one entry; what
makes the whole file unreadable is a `ConfigError`. Files are read as streams: memory does not grow with them.
"""

from __future__ import annotations

import csv
import json
import tarfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError

Place: TypeAlias = int | str
Entry: TypeAlias = tuple[Place, Any]

_BATCH_ROWS = 4096
_PEEKED = 1000  # lines or members that are looked at to know the columns
_CELL = 1 << 24  # characters in a cell of CSV: a quote that is never closed would else take the rest of the file into memory


@dataclass(frozen=True)
class Bad:
    """An entry without a caption, and why, in words that can be counted."""

    reason: str


@dataclass(frozen=True)
class Format:
    """How files of one kind are read.

    Attributes:
        kind: its name.
        unit: what an entry is called.
        entries: `(path, column)` to the entries of a file.
        columns: the columns that a file states, or None for a format without columns.
        column: what one of them is, for errors, with {} for its name.
    """

    kind: str
    unit: str
    entries: Callable[[Path, str], Iterator[Entry]]
    columns: Callable[[Path], list[str]] | None = None
    column: str = 'column {} of strings'


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a text file, numbered from 1, as bytes: one that is not UTF-8 spoils no other.

    Only a line feed ends a line: the other separators of Unicode are part of a caption.
    """
    with path.open('rb') as file:
        start = file.read(3)
        if start.startswith((b'\xff\xfe', b'\xfe\xff')):
            raise ConfigError(f'{path} is UTF-16, but captions are UTF-8: iconv -f UTF-16 -t UTF-8 converts it')
        if start != b'\xef\xbb\xbf':  # a byte order mark is no part of the first caption
            file.seek(0)
        for number, line in enumerate(file, start=1):
            yield number, line.removesuffix(b'\n').removesuffix(b'\r')


def read_txt(path: Path, column: str) -> Iterator[Entry]:
    """One caption per line."""
    return read_lines(path)


def read_jsonl(path: Path, column: str) -> Iterator[Entry]:
    """One JSON object per line."""
    for number, line in read_lines(path):
        parsed = _parse_json(line)
        if isinstance(parsed, dict):
            yield number, parsed.get(column)
        else:
            yield number, parsed if isinstance(parsed, Bad) else Bad('not a JSON object')


def jsonl_columns(path: Path) -> list[str]:
    """The keys of the first objects, but for those that hold something other than strings there."""
    kinds: dict[str, set[type]] = {}
    for _, line in islice(read_lines(path), _PEEKED):
        parsed = _parse_json(line)
        for key, value in parsed.items() if isinstance(parsed, dict) else ():
            kinds.setdefault(key, set()).add(type(value))
    return [key for key, found in kinds.items() if str in found or found == {type(None)}]


def _parse_json(line: bytes) -> Any:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return Bad('not UTF-8')
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return Bad('not a JSON object')


def read_csv(path: Path, column: str) -> Iterator[Entry]:
    """The rows below a header, by the line on which each begins; captions that hold a separator are quoted."""
    records = _csv_records(path)
    _, header = next(records)
    position = header.index(column)
    for number, cells in records:
        if isinstance(cells, Bad) or not cells:  # an empty line is no row
            if cells:
                yield number, cells
        elif len(cells) != len(header):
            yield number, Bad('not as many cells as the header')
        else:
            yield number, cells[position]


def csv_columns(path: Path) -> list[str]:
    """The cells of the header."""
    _, header = next(_csv_records(path), (1, []))
    if isinstance(header, Bad):
        raise ConfigError(f'{path} has no header: its first line is {header.reason}')
    return list(header)


class _Lines(Iterator[str]):
    """The lines of a file, counted; those of a record after its first can be read again."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.number = 0  # of the last line that was read
        self.record: list[str] = []
        self._again: deque[str] = deque()

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self.file)
        self.record.append(line)
        self.number += 1
        return line

    def begin(self) -> int:
        """A record begins with the next line, whose number this is."""
        self.record = []
        return self.number + 1

    def step_back(self) -> None:
        """The next line is the second of the record."""
        self._again.extendleft(reversed(self.record[1:]))
        self.number -= len(self.record) - 1


def _csv_records(path: Path) -> Iterator[tuple[Place, Any]]:
    """Lists of cells, and the line on which each begins. What is not UTF-8 becomes lone surrogates, which are found later.

    A quote that is never closed spoils its line alone, not all that follow.
    """
    next(read_lines(path), None)  # refuses UTF-16
    with path.open(encoding='utf-8-sig', errors='surrogateescape', newline='') as file:
        lines = _Lines(file)
        reader = csv.reader(lines, delimiter='\t' if path.suffix.lower() == '.tsv' else ',', strict=True)
        while True:
            number = lines.begin()
            try:
                yield number, _next_record(reader)
            except StopIteration:
                return
            except csv.Error as error:
                endless = _ENDLESS.get(str(error).partition(' (')[0])
                if endless is None:
                    yield number if lines.number == number else f'{number} to {lines.number}', Bad('not CSV')
                else:
                    lines.step_back()
                    yield number, Bad(endless)


_ENDLESS = {  # what the library says of a quote without an end, at the end of the file or before
    'unexpected end of data': 'not CSV, a quote is not closed',
    'field larger than field limit': f'not CSV, a quote is not closed within {_CELL:,} characters',
}


def _next_record(reader: Any) -> list[str]:
    """The next record; the limit of a cell is one of the whole process, and is left as it was."""
    before = csv.field_size_limit(_CELL)
    try:
        record: list[str] = next(reader)
    finally:
        csv.field_size_limit(before)
    return record


def read_parquet(path: Path, column: str) -> Iterator[Entry]:
    """The rows of a Parquet file, counted from 0."""
    number = 0
    for batch in _parquet(path).iter_batches(batch_size=_BATCH_ROWS, columns=[column]):
        for value in arrow_values(batch.column(0)):
            yield number, value
            number += 1


def parquet_columns(path: Path) -> list[str]:
    """The columns of strings; any other cannot hold captions."""
    return [field.name for field in _parquet(path).schema_arrow if is_text(field.type)]


def _parquet(path: Path) -> Any:
    pyarrow = import_pyarrow()
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f'{path} is no Parquet file, or a damaged one ({error})') from error


def import_pyarrow() -> Any:
    """The library, or how to install it."""
    try:
        import pyarrow
    except ImportError as error:
        raise MissingDependencyError(
            f"Parquet files and datasets are read with pyarrow ({error}): pip install 'classifier-free-guidance-pytorch[corpus]'"
        ) from error
    return pyarrow


def is_text(kind: Any) -> bool:
    """Whether an Arrow type holds strings, plainly or as a dictionary."""
    types = import_pyarrow().types
    if types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def arrow_values(array: Any) -> list[bytes | None]:
    """The strings of an Arrow array as bytes: Arrow does not promise that they are UTF-8."""
    pyarrow = import_pyarrow()
    if pyarrow.types.is_dictionary(array.type):
        array = array.dictionary_decode() if hasattr(array, 'dictionary_decode') else array.cast(array.type.value_type)
    values: list[bytes | None] = array.cast(pyarrow.large_binary()).to_pylist()
    return values


def read_tar(path: Path, column: str) -> Iterator[Entry]:
    """The samples of a WebDataset: neighbouring members with one key; the one with the suffix `column` is the caption."""
    key, caption = None, None
    for found, suffix, content in _members(path, column):
        if key is not None and found != key:
            yield key, Bad(f'no .{column} member') if caption is None else caption
            caption = None
        key = found
        caption = content if suffix == column else caption
    if key is not None:
        yield key, Bad(f'no .{column} member') if caption is None else caption


def tar_columns(path: Path) -> list[str]:
    """The suffixes of the first members."""
    return list(dict.fromkeys(suffix for _, suffix, _ in islice(_members(path), _PEEKED)))


def _members(path: Path, wanted: str | None = None) -> Iterator[tuple[str, str, bytes]]:
    """Key, suffix and, if the suffix is the wanted one, content of every file in an archive."""
    key = None
    try:
        with tarfile.open(path) as archive:
            while (member := archive.next()) is not None:
                vars(archive)['members'] = []  # which else grow with the archive
                if member.isfile():
                    key, suffix = _key_of(member.name)
                    file: Any = archive.extractfile(member)
                    yield key, suffix, file.read() if suffix == wanted else b''
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ConfigError(f'{path} is no tar archive, or a damaged one: it ends after {key!r} ({error})') from error


def _key_of(name: str) -> tuple[str, str]:
    """`'00/cat.seg.png'` to `('00/cat', 'seg.png')`, as WebDataset has it."""
    folder, slash, file = name.rpartition('/')
    stem, _, suffix = file.partition('.')
    return f'{folder}{slash}{stem}', suffix


CSV = Format('csv', 'line', read_csv, csv_columns)
FORMATS = {
    '.txt': Format('txt', 'line', read_txt),
    '.jsonl': Format('jsonl', 'line', read_jsonl, jsonl_columns),
    '.csv': CSV,
    '.tsv': CSV,
    '.parquet': Format('parquet', 'row', read_parquet, parquet_columns),
    '.tar': Format('webdataset', 'sample', read_tar, tar_columns, 'member with the suffix {} (column says which)'),
}


_USUAL_COLUMNS = ('caption', 'text', 'prompt')


def choose_column(
    where: object, columns: Sequence[str], asked: str | None, option: str = 'column', what: str = 'column {} of strings'
) -> str:
    """The column that holds the captions.

    Args:
        where: the input, for errors.
        columns: those that it has.
        asked: the one that was asked for; None for a usual one.
        option: what one asks with, for errors.
        what: what such a column is, for errors.

    Raises:
        ConfigError: there is no such column, or none was asked for and it is not clear which it is; the columns are named.
    """
    listed = ', '.join(map(repr, columns)) or 'none'
    if asked is not None:
        if asked not in columns:
            raise ConfigError(f'{where} has no {what.format(repr(asked))}: it has {listed}')
        return asked
    usual = [name for name in _USUAL_COLUMNS if name in columns]
    if not usual and len(columns) != 1:
        raise ConfigError(
            f'{where} has several columns, or none, that could be the captions: choose with {option}; it has {listed}'
        )
    return (usual or list(columns))[0]
