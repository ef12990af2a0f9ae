"""The records of CSV, in which an unclosed quote spoils no more than its own line."""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from classifier_free_guidance_pytorch.corpus.read.entries import Bad, Place
from classifier_free_guidance_pytorch.corpus.read.streams import open_text, suffixes

_CELL = 1 << 24  # characters in a cell of CSV: without a limit, an unclosed quote would read the rest of the file into memory


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


def csv_records(path: Path) -> Iterator[tuple[Place, Any]]:
    """Yield lists of cells, and the line on which each starts. Bytes that are not UTF-8 become lone surrogates, found later.

    An unclosed quote spoils only its own line.
    """
    with open_text(path) as file:
        lines = _Lines(io.TextIOWrapper(file, 'utf-8', 'surrogateescape', newline=''))
        reader = csv.reader(lines, delimiter='\t' if suffixes(path)[0] == '.tsv' else ',', strict=True)
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
