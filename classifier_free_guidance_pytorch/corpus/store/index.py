"""From a caption's place or text to its row: the number of the caption it equals among the different captions."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from classifier_free_guidance_pytorch.corpus.store.reading import Column
from classifier_free_guidance_pytorch.corpus.store.shards import BLOCK, caption_hash
from classifier_free_guidance_pytorch.errors import StoreError


class Index:
    """The index of a store. A lookup reads one block of a column, and keeps nothing in memory.

    Args:
        columns: The columns of the index's file.
        unique: The number of different captions.
    """

    def __init__(self, columns: dict[str, Column], unique: int) -> None:
        self.columns = columns
        self.unique = unique

    def row(self, caption: int) -> int:
        """Return the row of a caption of the store."""
        return self._checked_row('rows', caption)

    def position(self, caption: int) -> int:
        """Return the position in the input of a caption of the store."""
        return self._entry('positions', caption)

    def candidates(self, caption: str) -> Iterator[int]:
        """Yield the rows of the captions that have the hash of this one: almost always one, or none."""
        wanted = caption_hash(caption)
        fences = self.columns['fences'].tensor
        # equal hashes may begin in the block before the first one that starts with them
        block = max(int(torch.searchsorted(fences, wanted)) - 1, 0)
        while block < len(fences) and int(fences[block]) <= wanted:
            hashes = self.columns['hashes'].read(block)
            for place in (hashes == wanted).nonzero().flatten().tolist():
                yield self._checked_row('hash_rows', block * BLOCK + place)
            block += 1

    def _checked_row(self, column: str, entry: int) -> int:
        row = self._entry(column, entry)
        if not 0 <= row < self.unique:
            raise StoreError(f'{self.columns[column].path} is damaged: {column} has {row} for one of {self.unique} captions')
        return row

    def _entry(self, column: str, entry: int) -> int:
        block, place = divmod(entry, BLOCK)
        return int(self.columns[column].read(block)[place])
