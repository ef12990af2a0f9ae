"""`EmbeddingStore`: the encodings of a corpus, read from disk as training needs them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, SupportsIndex, TypeAlias, overload

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from classifier_free_guidance_pytorch.corpus.store.files import STORED_DTYPES, bytes_of
from classifier_free_guidance_pytorch.corpus.store.index import Index
from classifier_free_guidance_pytorch.corpus.store.layout import (
    INDEX,
    captions_name,
    check_size,
    encodings_name,
    manifest_path,
    plan_path,
)
from classifier_free_guidance_pytorch.corpus.store.manifest import EncoderRecord, Manifest, Plan
from classifier_free_guidance_pytorch.corpus.store.reading import (
    Column,
    Expected,
    check_whole,
    expected_captions,
    expected_encodings,
    expected_index,
    open_columns,
)
from classifier_free_guidance_pytorch.errors import ConfigError, StoreError, UnknownCaptionError, checked
from classifier_free_guidance_pytorch.text import Precomputed, TextEncoding, shorten

StoreItem: TypeAlias = TextEncoding | tuple[TextEncoding, ...]  # what `store[...]` returns

_OPEN_FILES = 4096  # mapped at once; Linux allows a process 65,530 mappings, and safetensors makes up to two per file


class EmbeddingStore:
    r"""The encodings of a corpus of captions, as `cfg-embed` wrote them: a map-style dataset over memory-mapped shards.

    `store[i]` is the encoding of the i-th caption. `store[2:5]`, `store[[7, 1]]`, `store['a dog']` and
    `store[['a dog', 'a cat']]` find encodings by place or by caption. The result is always a batch, padded to its longest text: a
    `TextEncoding` if the store has one encoder, a tuple of them if it has several, as conditioners take it for
    `text_embeds`. It carries the identity of its encoder, and a conditioner that was built for a different one refuses it.

    **Memory** is constant: files are mapped, only the requested rows are copied, and pages of the mapping belong to the
    system. A store may be pickled and forked, so any number of `DataLoader` workers can share one.

    **Damaged data is never returned.** Opening a store reads the manifest, which carries its own checksum, and checks the size of
    every file. The first read from a file, in every process, checks its header, offsets and checksums by a sha256 in the
    manifest, and every row that is read is checked by its CRC-32. `verify()` hashes everything. Damage raises a `StoreError` that
    names the file. The cost grows with what is read, not with the store: a batch takes 1.0 to 1.7 times as long as slices of the
    same files by hand, and 0.5 to 0.7 times without `check_rows` (`python -m benchmarks.corpus_read`).

    Args:
        directory: The folder of a finished store.
        encoders: Labels of the encoders to read, in this order; all of them by default.
        pooled: Read pooled features, where they are stored.
        tokens: Read tokens, where they are stored; False saves most of the reading for conditioners on pooled features.
        check_rows: Check every row that is read; False checks only the heads of files.
        check_encoders: Give encodings the identity of their encoder, so that conditioners for a different one refuse them.

    Attributes:
        directory: The folder, absolute.
        manifest: What the store consists of.
        encoders: What stands for the encoders that are read, as `model_types` of a conditioner that trains on this store: no
            encoder and none of its files are needed.
        captions: The captions, in the order of the input.

    Raises:
        StoreError: There is no store, it is unfinished, or its manifest or a file's size is not as it was written.
        ConfigError: A label that the store does not have, or nothing left to read.

    Example:
        >>> import tempfile
        >>> from classifier_free_guidance_pytorch.corpus import TextEmbedder, embed_corpus
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / 'captions.txt').write_text('a red circle\na small blue square\na red circle\n')
        >>> _ = embed_corpus(folder / 'captions.txt', folder / 'store', TextEmbedder('mini'), quiet=True)
        >>> store = EmbeddingStore(folder / 'store')
        >>> len(store), store.captions[1], store[0:2].mask.sum(dim=1).tolist()
        (3, 'a small blue square', [5, 6])
    """

    @checked
    def __init__(
        self,
        directory: str | PathLike[str],
        encoders: Sequence[str] | None = None,
        *,
        pooled: bool = True,
        tokens: bool = True,
        check_rows: bool = True,
        check_encoders: bool = True,
    ) -> None:
        self.directory = Path(directory).absolute()
        self.manifest = _read_manifest(self.directory)
        self._records = _choose_encoders(self.manifest.plan, encoders, pooled, tokens)
        self.pooled, self.tokens = pooled, tokens
        self.check_rows, self.check_encoders = check_rows, check_encoders
        for record in self.manifest.files.values():
            check_size(self.directory / record.name, record)
        self._columns = self._opener()

    @property
    def plan(self) -> Plan:
        """What was embedded, and how."""
        return self.manifest.plan

    @property
    def encoders(self) -> tuple[Precomputed, ...]:
        """What stands for the encoders that are read, in a conditioner without them."""
        return tuple(
            Precomputed(
                dim_latent=record.dim_tokens,
                dim_pooled=record.dim_pooled,
                origin=record.identity if self.check_encoders else None,
            )
            for record in self._records
        )

    @property
    def captions(self) -> Captions:
        """The captions, in the order of the input."""
        return Captions(self)

    def __len__(self) -> int:
        return self.plan.captions

    def __repr__(self) -> str:
        made_by = ', '.join(str(record.identity) for record in self._records)
        return f'EmbeddingStore({str(self.directory)!r}: {len(self):,} captions by {made_by})'

    def __contains__(self, caption: object) -> bool:
        return isinstance(caption, str) and self._find(caption) is not None

    def __getitem__(self, index: SupportsIndex | slice | str | Sequence[int] | Sequence[str] | Tensor) -> StoreItem:
        """Return the encodings of some captions, always as a batch.

        Raises:
            IndexError: There is no such place.
            UnknownCaptionError: There is no such caption.
            ConfigError: The index is empty or of a wrong kind.
            StoreError: A file is not as it was written.
        """
        rows = [self._row(entry) for entry in self._entries(index)]
        encodings = tuple(self._encoding(record, rows) for record in self._records)
        return encodings[0] if len(encodings) == 1 else encodings

    def input_position(self, index: int) -> int:
        """Return a caption's position in the input, from 0. It differs from `index` where entries before it were skipped."""
        return self._index.position(self._place(index))

    @staticmethod
    def collate(items: Sequence[StoreItem]) -> StoreItem:
        """Join what `store[...]` returned into one batch: the `collate_fn` of a `DataLoader`."""
        if not items or isinstance(items[0], TextEncoding):
            return TextEncoding.collate(items)  # type: ignore[arg-type]
        return tuple(TextEncoding.collate(encodings) for encodings in zip(*items, strict=True))

    def verify(self, progress: bool = False) -> None:
        """Hash every file of the store, and compare the plan with the manifest.

        Args:
            progress: Show a progress bar.

        Raises:
            StoreError: The message names all files that are not as they were written.
        """
        from tqdm import tqdm

        files = self.manifest.files
        wrong = []
        try:
            if differences := Plan.read(self.directory).differences(self.plan):
                wrong.append(f'{plan_path(self.directory)} is of a different run than the manifest: {"; ".join(differences)}')
        except StoreError as error:
            wrong.append(str(error))
        total = sum(record.bytes for record in files.values())
        with tqdm(total=total, unit='B', unit_scale=True, desc='verify', disable=not progress) as bar:
            for record in files.values():
                try:
                    check_whole(self.directory / record.name, record, files)
                except StoreError as error:
                    wrong.append(str(error))
                bar.update(record.bytes)
        if wrong:
            raise StoreError(f'{len(wrong)} of {len(files) + 1} files are not as they were written:\n' + '\n'.join(wrong))

    # rows

    def _entries(self, index: Any) -> Sequence[Any]:
        """Return the single places or captions of an index."""
        if isinstance(index, str) or (hasattr(index, '__index__') and not getattr(index, 'ndim', 0)):
            return [index]
        if isinstance(index, slice):
            entries: Any = range(*index.indices(len(self)))
        else:
            entries = index.tolist() if hasattr(index, 'tolist') else index
        kinds = {_kind(entry) for entry in entries} if isinstance(entries, list | tuple | range) else set()
        if kinds not in ({'place'}, {'caption'}):
            raise ConfigError(
                'a store is indexed by a place, a slice, a caption, or a list of places or of captions that is not empty, but '
                f'got {type(index).__name__}: {str(index)[:80]}'
            )
        return list(entries)

    def _row(self, entry: Any) -> int:
        """Return the row of a place or a caption."""
        if not isinstance(entry, str):
            return self._index.row(self._place(entry))
        row = self._find(entry)
        if row is None:
            raise UnknownCaptionError(
                f'{shorten(entry, 80)} is not among the {self.plan.unique:,} different captions of {self.directory}'
            )
        return row

    def _place(self, entry: SupportsIndex) -> int:
        """Return a place counted from the start."""
        place = operator.index(entry)
        if not -len(self) <= place < len(self):
            raise IndexError(f'caption {place} of a store of {len(self)} captions')
        return place % len(self)

    def _find(self, caption: str) -> int | None:
        """Return the row of a caption; among equal hashes the text decides."""
        try:
            return next((row for row in self._index.candidates(caption) if self._caption(row) == caption), None)
        except UnicodeEncodeError:  # a lone surrogate: no caption of a store has one
            return None

    def _caption(self, row: int) -> str:
        """Return the caption of a row."""
        shard, row = divmod(row, self.plan.shard_rows)
        return bytes(bytes_of(self._columns(captions_name(shard))['captions'].read(row))).decode(errors='replace')

    def _encoding(self, encoder: EncoderRecord, rows: Sequence[int]) -> TextEncoding:
        """Return one encoder's features of some rows, of width 0 or length 0 where they are not read."""
        shards = [divmod(row, self.plan.shard_rows) for row in rows]
        files = {shard: self._columns(encodings_name(encoder.label, shard)) for shard, _ in shards}
        dtype = STORED_DTYPES[encoder.dtype]
        pooled = torch.empty(len(rows), 0, dtype=dtype)
        if self.pooled and encoder.pooled:
            pooled = torch.cat([files[shard]['pooled'].read(row) for shard, row in shards])  # (b, d)
        tokens = torch.empty(len(rows), 0, encoder.dim_tokens, dtype=dtype)
        lengths = torch.zeros(len(rows), 1)
        if self.tokens and encoder.tokens:
            features = [files[shard]['tokens'].read(row) for shard, row in shards]
            tokens = pad_sequence(features, batch_first=True)  # (b, n, d)
            lengths = torch.tensor([[len(feature)] for feature in features])  # (b, 1)
        mask = torch.arange(tokens.shape[1]) < lengths  # (b, n)
        return TextEncoding(tokens, mask, pooled, encoder.identity if self.check_encoders else None)

    # files

    @property
    def _index(self) -> Index:
        return Index(self._columns(INDEX), self.plan.unique)

    def _opener(self) -> Callable[[str], dict[str, Column]]:
        """Return a function that opens files by name, and keeps the last ones open in this process."""
        return lru_cache(_OPEN_FILES)(self._open)

    def _open(self, name: str) -> dict[str, Column]:
        files = self.manifest.files
        return open_columns(self.directory / name, files[name], files, self._expected(name), self.check_rows)

    def _expected(self, name: str) -> Expected:
        """Return what a file must hold."""
        if name == INDEX:
            return expected_index(self.plan)
        kind, *label, shard = Path(name).with_suffix('').parts
        rows = self.plan.rows_of(int(shard))
        if kind == 'captions':
            return expected_captions(rows)
        (encoder,) = (encoder for encoder in self.plan.encoders if encoder.label == label[0])
        return expected_encodings(encoder, rows)

    def __getstate__(self) -> dict[str, Any]:
        """Return everything but the open files."""
        return {key: value for key, value in self.__dict__.items() if key != '_columns'}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._columns = self._opener()


class Captions(Sequence[str]):
    """The captions of a store in the order of the input, read from disk on demand."""

    def __init__(self, store: EmbeddingStore) -> None:
        self._store = store

    def __len__(self) -> int:
        return len(self._store)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        store = self._store
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return store._caption(store._index.row(store._place(index)))

    def __contains__(self, caption: object) -> bool:
        return caption in self._store

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))


def _kind(entry: Any) -> str:
    """Return what an entry of an index is."""
    if isinstance(entry, str):
        return 'caption'
    return 'place' if hasattr(entry, '__index__') and not isinstance(entry, bool) else 'neither'


def _read_manifest(directory: Path) -> Manifest:
    """Read the manifest of a finished store."""
    try:
        is_finished, is_begun = manifest_path(directory).exists(), plan_path(directory).exists()
    except OSError as error:  # a name that no disk takes, or a folder that is closed
        raise StoreError(f'{directory} cannot be read ({error.strerror})') from error
    if not is_finished:
        if is_begun:
            raise StoreError(
                f'{directory} is unfinished: run the command that started it again, and it continues where it stopped'
            )
        raise StoreError(f'{directory} is not a store: it has no manifest.json; cfg-embed writes a store')
    return Manifest.read(directory)


def _choose_encoders(plan: Plan, labels: Sequence[str] | None, pooled: bool, tokens: bool) -> tuple[EncoderRecord, ...]:
    """Return the encoders to read, each of which has something to read."""
    by_label = {encoder.label: encoder for encoder in plan.encoders}
    unknown = [label for label in labels or () if label not in by_label]
    if unknown or (labels is not None and not labels) or isinstance(labels, str):
        raise ConfigError(f'encoders lists labels out of {", ".join(map(repr, by_label))}, but got {labels!r}')
    chosen = tuple(by_label[label] for label in labels or by_label)
    for encoder in chosen:
        if not ((pooled and encoder.pooled) or (tokens and encoder.tokens)):
            stored = 'pooled features' if encoder.pooled else 'tokens'
            raise ConfigError(f'of encoder {encoder.label!r} only {stored} are stored: nothing is left to read')
    return chosen
