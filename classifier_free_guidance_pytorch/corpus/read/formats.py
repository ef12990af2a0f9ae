"""The captions in a file, one reader per format.

A reader yields the place of every entry of the file (a line, a row, the key of a sample) and its value: a string, bytes that
should be UTF-8, a list of those, a value of any other type, or a `Bad` entry with the reason. It never raises because of one
entry; a file that cannot be read at all is a `ConfigError`. Files are read as streams: memory does not grow with them.
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
_PEEKED = 1000  # lines or members that are read to find the columns
_CELL = 1 << 24  # characters in a cell of CSV: without a limit, an unclosed quote would read the rest of the file into memory


@dataclass(frozen=True)
class Bad:
    """An entry without a caption, and the reason, in words that can be counted."""

    reason: str


@dataclass(frozen=True)
class Format:
    """How files of one kind are read.

    Attributes:
        kind: The name of the format.
        unit: The name of an entry.
        entries: A function from path and column to the entries of a file.
        columns: A function from a path to the columns of the file; None for a format without columns.
        column: The description of a column for errors, with {} for its name.
    """

    kind: str
    unit: str
    entries: Callable[[Path, str], Iterator[Entry]]
    columns: Callable[[Path], list[str]] | None = None
    column: str = 'column {} of strings'


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a text file, numbered from 1, as bytes: one that is not UTF-8 spoils no other.

    Only a line feed ends a line: the other separators of Unicode are part of a caption.

    Raises:
        ConfigError: The file is UTF-16.
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
    """Yield one caption per line."""
    return read_lines(path)


def read_jsonl(path: Path, column: str) -> Iterator[Entry]:
    """Yield the captions in a file of one JSON object per line."""
    for number, line in read_lines(path):
        parsed = _parse_json(line)
        if isinstance(parsed, dict):
            yield number, parsed.get(column)
        else:
            yield number, parsed if isinstance(parsed, Bad) else Bad('not a JSON object')


def jsonl_columns(path: Path) -> list[str]:
    """Return the keys of the first objects, without those whose values are neither strings nor lists of strings."""
    kinds: dict[str, set[type]] = {}
    for _, line in islice(read_lines(path), _PEEKED):
        parsed = _parse_json(line)
        for key, value in parsed.items() if isinstance(parsed, dict) else ():
            kinds.setdefault(key, set()).update(map(type, value) if isinstance(value, list) else [type(value)])
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
    """Yield the captions below a header, by the line on which each record starts."""
    records = _csv_records(path)
    _, header = next(records)
    position = header.index(column)
    for number, cells in records:
        if isinstance(cells, Bad) or not cells:  # an empty line is no entry
            if cells:
                yield number, cells
        elif len(cells) != len(header):
            yield number, Bad('not as many cells as the header')
        else:
            yield number, cells[position]


def csv_columns(path: Path) -> list[str]:
    """Return the cells of the header.

    Raises:
        ConfigError: The file has none.
    """
    _, header = next(_csv_records(path), (1, []))
    if isinstance(header, Bad):
        raise ConfigError(f'{path} has no header: its first line is {header.reason}')
    return list(header)


class _Lines(Iterator[str]):
    """The lines of a file, counted; all lines of a record but its first can be read again."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.number = 0  # of the last line
        self.record: list[str] = []
        self._again: deque[str] = deque()

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self.file)
        self.record.append(line)
        self.number += 1
        return line

    def start_record(self) -> int:
        """Start a record with the next line, and return the number of that line."""
        self.record = []
        return self.number + 1

    def rewind(self) -> None:
        """Go back to the second line of the record."""
        self._again.extendleft(reversed(self.record[1:]))
        self.number -= len(self.record) - 1


def _csv_records(path: Path) -> Iterator[tuple[Place, Any]]:
    """Yield lists of cells, and the line on which each starts. Bytes that are not UTF-8 become lone surrogates, found later.

    An unclosed quote spoils only its own line.
    """
    next(read_lines(path), None)  # refuses UTF-16
    with path.open(encoding='utf-8-sig', errors='surrogateescape', newline='') as file:
        lines = _Lines(file)
        reader = csv.reader(lines, delimiter='\t' if path.suffix.lower() == '.tsv' else ',', strict=True)
        while True:
            number = lines.start_record()
            try:
                yield number, _next_record(reader)
            except StopIteration:
                return
            except csv.Error as error:
                unclosed = _UNCLOSED_QUOTE.get(str(error).partition(' (')[0])
                if unclosed is None:
                    yield number if lines.number == number else f'{number} to {lines.number}', Bad('not CSV')
                else:
                    lines.rewind()
                    yield number, Bad(unclosed)


_UNCLOSED_QUOTE = {  # by the library's messages, at the end of the file or before
    'unexpected end of data': 'not CSV, a quote is not closed',
    'field larger than field limit': f'not CSV, a quote is not closed within {_CELL:,} characters',
}


def _next_record(reader: Any) -> list[str]:
    """Return the next record. The limit of a cell belongs to the process, so it is restored."""
    before = csv.field_size_limit(_CELL)
    try:
        return next(reader)
    finally:
        csv.field_size_limit(before)


def read_parquet(path: Path, column: str) -> Iterator[Entry]:
    """Yield the captions of a Parquet file, by rows counted from 0."""
    number = 0
    for batch in _parquet(path).iter_batches(batch_size=_BATCH_ROWS, columns=[column]):
        for value in arrow_values(batch.column(0)):
            yield number, value
            number += 1


def parquet_columns(path: Path) -> list[str]:
    """Return the columns of strings and of lists of strings; no other can hold captions."""
    return [field.name for field in _parquet(path).schema_arrow if is_text(field.type)]


def _parquet(path: Path) -> Any:
    pyarrow = import_pyarrow()
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f'{path} is not a Parquet file, or is damaged ({error})') from error


def import_pyarrow() -> Any:
    """Import pyarrow.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise MissingDependencyError(
            f"Parquet files and datasets are read with pyarrow ({error}): pip install 'classifier-free-guidance-pytorch[corpus]'"
        ) from error
    return pyarrow


def is_text(kind: Any) -> bool:
    """Return whether an Arrow type holds strings, plainly, as a dictionary or in lists."""
    types = import_pyarrow().types
    if types.is_dictionary(kind) or _is_list(kind):
        return is_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_list(kind: Any) -> bool:
    """Return whether an Arrow type holds lists."""
    types = import_pyarrow().types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def arrow_values(array: Any) -> list[Any]:
    """Return the strings of an Arrow array, or its lists of strings, as bytes: Arrow does not guarantee that they are UTF-8."""
    pyarrow = import_pyarrow()
    if _is_list(array.type):
        return array.cast(pyarrow.large_list(pyarrow.large_binary())).to_pylist()
    if pyarrow.types.is_dictionary(array.type):
        array = array.dictionary_decode() if hasattr(array, 'dictionary_decode') else array.cast(array.type.value_type)
    return array.cast(pyarrow.large_binary()).to_pylist()


def read_tar(path: Path, column: str) -> Iterator[Entry]:
    """Yield the captions of a WebDataset. Neighbouring members with one key are a sample; `column` is the caption's suffix."""
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
    """Return the suffixes of the first members."""
    return list(dict.fromkeys(suffix for _, suffix, _ in islice(_members(path), _PEEKED)))


def _members(path: Path, wanted: str | None = None) -> Iterator[tuple[str, str, bytes]]:
    """Yield key and suffix of every file in an archive, and its content if it has the wanted suffix."""
    key = None
    try:
        with tarfile.open(path) as archive:
            while (member := archive.next()) is not None:
                vars(archive)['members'] = []  # or they would grow with the archive
                if member.isfile():
                    key, suffix = _key_of(member.name)
                    file: Any = archive.extractfile(member)
                    yield key, suffix, file.read() if suffix == wanted else b''
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ConfigError(f'{path} is not a tar archive, or is damaged: it ends after {key!r} ({error})') from error


def _key_of(name: str) -> tuple[str, str]:
    """Split `'00/cat.seg.png'` into `('00/cat', 'seg.png')`, as WebDataset does."""
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
    """Return the column that holds the captions.

    Args:
        where: The input, for errors.
        columns: Its columns.
        asked: The column that the user passed; None for one of the usual names.
        option: The option with which users pass it, for errors.
        what: The description of a column, for errors.

    Raises:
        ConfigError: There is no such column, or none was passed and no choice is clear. The message names the columns.
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
