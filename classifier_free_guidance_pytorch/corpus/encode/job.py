"""Encoding the shards of a plan: the tokenizer works ahead of the network, and the disk behind it.

While the network encodes one shard, one thread makes the token ids of the next and another writes the last. At most two shards
are in memory on either side. The content of a file depends only on its captions, its encoder and the batch size: not on the
process that writes it, nor on what that wrote before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from classifier_free_guidance_pytorch.corpus.encode.embedder import Embedded, TextEmbedder, Tokenized
from classifier_free_guidance_pytorch.corpus.encode.progress import SharedBar, progress_bar
from classifier_free_guidance_pytorch.corpus.store.files import FileRecord, sha256_of
from classifier_free_guidance_pytorch.corpus.store.layout import captions_name, encodings_name, read_record, record_path
from classifier_free_guidance_pytorch.corpus.store.manifest import Plan, names
from classifier_free_guidance_pytorch.corpus.store.shards import write_encodings
from classifier_free_guidance_pytorch.errors import StoreError, UsageError


class Item(NamedTuple):
    """One file to write: the encodings of a shard by one encoder."""

    shard: int
    encoder: int


@dataclass(frozen=True)
class Job:
    """What is to be encoded, into which folder; small and picklable, for workers elsewhere."""

    directory: Path
    plan: Plan
    embedder: TextEmbedder

    def items(self, shards: Iterable[int]) -> Iterator[Item]:
        """Return the files of some shards."""
        return (Item(shard, encoder) for shard in shards for encoder in range(len(self.plan.encoders)))

    def is_done(self, item: Item) -> bool:
        """Return whether a file is complete; one that was complete and is now missing is written again.

        Raises:
            StoreError: The file is not as it was written.
        """
        name = encodings_name(self.plan.encoders[item.encoder].label, item.shard)
        return (self.directory / name).exists() and read_record(self.directory, name) is not None

    def missing(self) -> int:
        """Return how many files of the store are yet to be written, by this process or others."""
        return sum(not record_path(self.directory / name).exists() for name in names(self.plan))

    def encode(self, shards: range, what: str, quiet: bool) -> None:
        """Encode some shards, behind a progress bar; files that are complete are left alone.

        Args:
            shards: The numbers of the shards.
            what: The title of the bar.
            quiet: Show no bar.

        Raises:
            UsageError: The disk is full, or a feature cannot be stored. The message says how far the run got.
        """
        everything = list(self.items(shards))
        todo = [item for item in everything if not self.is_done(item)]
        rows, left = (sum(self.plan.rows_of(item.shard) for item in items) for items in (everything, todo))
        count = len(self.plan.encoders)
        with progress_bar(what, rows // count, quiet, (rows - left) // count) as bar:
            self.encode_items(todo, SharedBar(bar, count))

    def encode_items(self, todo: list[Item], progress: SharedBar) -> None:
        """Write files, in this order.

        Raises:
            UsageError: The disk is full, or a feature cannot be stored.
        """
        with ThreadPoolExecutor(1, 'tokenizer') as tokenizer, ThreadPoolExecutor(1, 'writer') as writer:
            ahead = [tokenizer.submit(self._tokenize, item) for item in todo[:1]]
            behind: list[Future[FileRecord]] = []
            for number, item in enumerate(todo):
                tokenized = ahead.pop().result()
                ahead += [tokenizer.submit(self._tokenize, following) for following in todo[number + 1 : number + 2]]
                embedded = self.embedder.encode(self.embedder.encoders[item.encoder], tokenized, progress)
                self._wait(behind, number - 1, len(todo))
                behind = [writer.submit(self._write, item, embedded)]
            self._wait(behind, len(todo) - 1, len(todo))

    def _tokenize(self, item: Item) -> Tokenized:
        return self.embedder.tokenize(self.embedder.encoders[item.encoder], captions_of(self.directory, item.shard))

    def _write(self, item: Item, embedded: Embedded) -> FileRecord:
        label = self.plan.encoders[item.encoder].label
        return write_encodings(self.directory, label, item.shard, pooled=embedded.pooled, tokens=embedded.tokens)

    def _wait(self, written: list[Future[FileRecord]], done: int, total: int) -> None:
        """Wait for the file that is being written."""
        for one in written:
            try:
                one.result()
            except UsageError as error:
                raise UsageError(f'{done:,} of {total:,} files of this run were written, then {error}') from error


def captions_of(directory: Path, shard: int) -> list[str]:
    """Return the captions of a shard of an unfinished store.

    Raises:
        StoreError: The file is not as it was written.
    """
    from safetensors.torch import load_file

    path, record = directory / captions_name(shard), read_record(directory, captions_name(shard))
    if record is None or sha256_of(path) != record.sha256:
        raise StoreError(f'{path} is damaged: its content is not what was written; remove {directory} and start again')
    tensors = load_file(path)
    text, bounds = tensors['captions'].numpy().tobytes(), tensors['offsets'].tolist()
    return [text[start:stop].decode() for start, stop in pairwise(bounds)]
