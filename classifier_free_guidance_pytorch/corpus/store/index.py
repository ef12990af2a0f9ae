"""From a caption of the input to the one it equals among the different captions, by its place or by its text."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from classifier_free_guidance_pytorch.corpus.store.reading import Column
from classifier_free_guidance_pytorch.corpus.store.shards import BLOCK, caption_hash
from classifier_free_guidance_pytorch.errors import StoreError


class Index:
    """The index of a store. It touches one block of a column per question, and holds nothing in memory.

    Args:
        columns: of the index's file.
        unique: how many different captions there are.
    """

    def __init__(self, columns: dict[str, Column], unique: int) -> None:
        self.columns = columns
        self.unique = unique

    def row(self, caption: int) -> int:
        """The row, among the different captions, of a caption of the store."""
        return self._checked_row('rows', caption)

    def position(self, caption: int) -> int:
        """Where in the input a caption of the store stood."""
        return self._entry('positions', caption)

    def candidates(self, caption: str) -> Iterator[int]:
        """The rows whose caption has the hash of this one: almost always one, or none."""
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
