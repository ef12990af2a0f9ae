"""The captions in a file, one reader per format.

A reader yields the place of every entry of the file (a line, a row, the key of a sample) and its value: a string, bytes that
should be UTF-8, a list of those, a value of any other type, or a `Bad` entry with the reason. It never raises because of one
entry; a file that cannot be read at all is a `ConfigError`. Files are read as streams: memory does not grow with them.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from classifier_free_guidance_pytorch.corpus.read.archives import members
from classifier_free_guidance_pytorch.corpus.read.entries import Bad, Entry
from classifier_free_guidance_pytorch.corpus.read.streams import import_pyarrow, open_text
from classifier_free_guidance_pytorch.corpus.read.tables import csv_records
from classifier_free_guidance_pytorch.errors import ConfigError

_BATCH_ROWS = 4096
_PEEKED = 1000  # lines or members that are read to find the columns
_ENTRY = 1 << 26  # bytes in a line or a member, without a limit: a compressed megabyte may be a line of a gigabyte
_CHUNK = 1 << 20


TOO_LONG = Bad(f'longer than {_ENTRY:,} bytes')


@dataclass(frozen=True)
class Format:
    """How files of one kind are read.

    Attributes:
        kind: The name of the format.
        unit: The name of an entry.
        entries: A function from path and column to the entries of a file.
        columns: A function from a path to the columns of the file; None for a format without columns.
        column: The description of a column for errors, with {} for its name.
        content: A function from path and column to the bytes that decide which captions the file has.
    """

    kind: str
    unit: str
    entries: Callable[[Path, str], Iterator[Entry]]
    columns: Callable[[Path], list[str]] | None = None
    column: str = 'column {} of strings'
    content: Callable[[Path, str], Iterator[bytes]] = lambda path, column: read_bytes(path)


def read_bytes(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file as they are on the disk.

    Raises:
        ConfigError: They cannot be read.
    """
    try:
        with path.open('rb') as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except OSError as error:
        raise ConfigError(f'{path} cannot be read ({error.strerror})') from error


def digest_of(paths: Iterable[Path], content: Callable[[Path], Iterable[bytes]] = read_bytes) -> str:
    """Return a digest of the names and the content of files.

    Args:
        paths: The files.
        content: What is hashed of a file; all of it by default.
    """
    whole = hashlib.sha256()
    for path in paths:
        one = hashlib.sha256()
        for chunk in content(path):
            one.update(chunk)
        whole.update(f'{path.name}\0{one.hexdigest()}\0'.encode('utf-8', 'surrogateescape'))
    return whole.hexdigest()


def read_lines(path: Path) -> Iterator[tuple[int, bytes | Bad]]:
    """Yield the lines of a text file, numbered from 1, as bytes: one that is not UTF-8 spoils no other.

    Only a line feed ends a line: the other separators of Unicode are part of a caption.

    Raises:
        ConfigError: The file is damaged, or is not UTF-8 at all.
    """
    number = 0
    with open_text(path) as file:
        while line := file.readline(_ENTRY):
            number += 1
            if len(line) < _ENTRY or line.endswith(b'\n'):
                yield number, line.removesuffix(b'\n').removesuffix(b'\r')
            else:
                while line and not line.endswith(b'\n'):
                    line = file.readline(_ENTRY)
                yield number, TOO_LONG


def read_txt(path: Path, column: str) -> Iterator[Entry]:
    """Yield one caption per line."""
    return read_lines(path)


def read_jsonl(path: Path, column: str) -> Iterator[Entry]:
    """Yield the captions in a file of one JSON object per line."""
    key = json.dumps(column).encode()
    for number, line in read_lines(path):
        parsed = _parse_json(line)
        if not isinstance(parsed, dict):
            yield number, parsed if isinstance(parsed, Bad) else Bad('not a JSON object')
        elif isinstance(line, bytes) and line.count(key) > 1 and _has_twice(line, column):
            yield number, Bad(f'the key {column!r} twice')
        else:
            yield number, parsed.get(column)


def _has_twice(line: bytes, column: str) -> bool:
    """Return whether the object in a line, not one inside it, has a key twice."""
    outer: list[tuple[str, Any]] = []

    def keep(pairs: list[tuple[str, Any]]) -> None:
        outer[:] = pairs  # the outer object ends last

    json.loads(line, object_pairs_hook=keep)
    return sum(key == column for key, _ in outer) > 1


def jsonl_columns(path: Path) -> list[str]:
    """Return the keys of the first objects, without those whose values are neither strings nor lists of strings."""
    kinds: dict[str, set[type]] = {}
    for _, line in islice(read_lines(path), _PEEKED):
        parsed = _parse_json(line)
        for key, value in parsed.items() if isinstance(parsed, dict) else ():
            kinds.setdefault(key, set()).update(map(type, value) if isinstance(value, list) else [type(value)])
    return [key for key, found in kinds.items() if str in found or found == {type(None)}]


def _parse_json(line: bytes | Bad) -> Any:
    try:
        text = line if isinstance(line, Bad) else line.decode()
    except UnicodeDecodeError:
        return Bad('not UTF-8')
    if isinstance(text, Bad):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return Bad('not a JSON object')


def read_csv(path: Path, column: str) -> Iterator[Entry]:
    """Yield the captions below a header, by the line on which each record starts."""
    records = csv_records(path)
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
    _, header = next(csv_records(path), (1, []))
    if isinstance(header, Bad):
        raise ConfigError(f'{path} has no header: its first line is {header.reason}')
    return list(header)


def read_parquet(path: Path, column: str) -> Iterator[Entry]:
    """Yield the captions of a Parquet file, by rows counted from 0."""
    number = 0
    batches = _parquet(path).iter_batches(batch_size=_BATCH_ROWS, columns=[column])
    while True:
        try:
            batch = next(batches, None)
            # by its name: the column 'a.b' comes with the field b of the column 'a'
            values = None if batch is None else arrow_values(batch.column(batch.schema.get_field_index(column)))
        except (import_pyarrow().ArrowException, OSError) as error:
            raise ConfigError(
                f'{path} is damaged: its column {column!r} cannot be read after row {number:,} ({error})'
            ) from error
        if values is None:
            return
        for value in values:
            yield number, value
            number += 1


def parquet_columns(path: Path) -> list[str]:
    """Return the columns of strings and of lists of strings; no other can hold captions."""
    return [field.name for field in _parquet(path).schema_arrow if is_text(field.type)]


def _parquet(path: Path) -> Any:
    pyarrow = import_pyarrow()
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path, page_checksum_verification=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f'{path} is not a Parquet file, or is damaged ({error})') from error


def is_text(kind: Any) -> bool:
    """Return whether an Arrow type holds strings, plainly, as a dictionary or in lists."""
    types = import_pyarrow().types
    if _is_list(kind):
        return not _is_list(kind.value_type) and is_text(kind.value_type)
    if types.is_dictionary(kind):
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
    for key, sample in groupby(members(path, column, _ENTRY), key=lambda member: member.key):
        found = list(islice((member.content for member in sample if member.suffix == column), 2))
        if len(found) != 1:
            yield key, Bad(f'several .{column} members' if found else f'no .{column} member')
        elif len(found[0]) > _ENTRY:
            yield key, TOO_LONG
        else:  # the ends of a text file are no part of the caption
            yield key, found[0].removeprefix(codecs.BOM_UTF8).removesuffix(b'\n').removesuffix(b'\r')


def tar_columns(path: Path) -> list[str]:
    """Return the suffixes of the first members."""
    return list(dict.fromkeys(member.suffix for member in islice(members(path, None, 0), _PEEKED)))


def tar_content(path: Path, column: str) -> Iterator[bytes]:
    """Yield the names of the members and the captions; the pictures beside them are none of a store's business."""
    for key, suffix, content in members(path, column, _ENTRY):
        yield f'{key}\0{suffix}\0{len(content)}\0'.encode('utf-8', 'surrogateescape') + content


CSV = Format('csv', 'line', read_csv, csv_columns)
FORMATS = {
    '.txt': Format('txt', 'line', read_txt),
    '.jsonl': Format('jsonl', 'line', read_jsonl, jsonl_columns),
    '.csv': CSV,
    '.tsv': CSV,
    '.parquet': Format('parquet', 'row', read_parquet, parquet_columns),
    '.tar': Format('webdataset', 'sample', read_tar, tar_columns, 'member with the suffix {} (column says which)', tar_content),
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
        return _only(where, columns, asked)
    usual = [name for name in _USUAL_COLUMNS if name in columns]
    if not usual and len(columns) != 1:
        raise ConfigError(
            f'{where} has several columns, or none, that could be the captions: choose with {option}; it has {listed}'
        )
    return _only(where, columns, (usual or list(columns))[0])


def _only(where: object, columns: Sequence[str], chosen: str) -> str:
    """Return the chosen column, which nothing else is called."""
    if columns.count(chosen) > 1:
        raise ConfigError(f'{where} has {columns.count(chosen)} columns {chosen!r}: rename all but the one with the captions')
    return chosen
