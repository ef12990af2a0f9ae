"""`EmbeddingStore`: what encoders said of a corpus, read back as training asks for it."""

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

from classifier_free_guidance_pytorch.corpus.store.files import DTYPES, bytes_of
from classifier_free_guidance_pytorch.corpus.store.index import Index
from classifier_free_guidance_pytorch.corpus.store.manifest import (
    INDEX,
    STORED_DTYPES,
    EncoderRecord,
    Manifest,
    Plan,
    captions_name,
    check_size,
    encodings_name,
    manifest_path,
    plan_path,
)
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
from classifier_free_guidance_pytorch.text import TextEncoding, shorten

Encodings: TypeAlias = TextEncoding | tuple[TextEncoding, ...]

OPEN_FILES = 4096  # mapped at once; Linux allows a process 65,530 mappings, and safetensors makes up to two for a file


class EmbeddingStore:
    r"""The encodings of a corpus of captions, as `cfg-embed` wrote them: a map-style dataset over memory-mapped shards.

    `store[i]` is the encoding of the i-th caption; `store[2:5]`, `store[[7, 1]]`, `store['a dog']` and
    `store[['a dog', 'a cat']]` find them by place or by caption. The result is always a batch, padded to its longest text: a
    `TextEncoding` of a store of one encoder, a tuple with one each of a store of several, as a conditioner takes it for
    `text_embeds`. It remembers which encoder made it, and a conditioner that was built for another refuses it.

    **Memory** is constant: files are mapped, only the rows asked for are copied, and pages of the mapping belong to the
    system. A store may be pickled and forked, so any number of `DataLoader` workers can share one.

    **Nothing wrong is ever returned.** Opening reads the manifest, which carries its own checksum, and looks at the size of every
    file. The first touch of a file, in every process, proves its header, offsets and checksums by a sha256 of the manifest; every
    row that is read is proven by its CRC-32. `verify()` hashes everything. What is damaged raises a `StoreError` that names the
    file. The cost grows with what is read, not with the store: a batch takes 1.0 to 1.7 times as long as with slices of the same
    files by hand, and 0.5 to 0.7 times without `check_rows` (`python -m benchmarks.corpus_read`).

    Args:
        directory: the folder of a finished store.
        encoders: labels of the encoders to read, in this order; all of them by default.
        pooled: read pooled features, where they are stored.
        tokens: read tokens, where they are stored; False saves most of the reading for conditioners on pooled features.
        check_rows: prove every row that is read; without it only the heads of files are proven.
        check_encoders: tell conditioners which encoder made this, so that those for another refuse it.

    Attributes:
        directory: the folder, absolute.
        manifest: what the store is made of.
        encoders: the records of the encoders that are read.
        captions: the captions, in the order of the input.

    Raises:
        StoreError: there is no store, it is unfinished, or its manifest or a file's size is not as it was written.
        ConfigError: a label that the store does not have, or nothing left to read.

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
        self.manifest = _manifest(self.directory)
        self.encoders = _chosen(self.manifest.plan, encoders, pooled, tokens)
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
    def captions(self) -> Captions:
        """The captions, in the order of the input."""
        return Captions(self)

    def __len__(self) -> int:
        return self.plan.captions

    def __repr__(self) -> str:
        made_by = ', '.join(str(encoder.identity) for encoder in self.encoders)
        return f'EmbeddingStore({str(self.directory)!r}: {len(self):,} captions by {made_by})'

    def __contains__(self, caption: object) -> bool:
        return isinstance(caption, str) and self._find(caption) is not None

    def __getitem__(self, index: SupportsIndex | slice | str | Sequence[int] | Sequence[str] | Tensor) -> Encodings:
        """The encodings of some captions, always as a batch.

        Raises:
            IndexError: there is no such place.
            UnknownCaptionError: there is no such caption.
            ConfigError: an index of another kind, or an empty one.
            StoreError: a file is not as it was written.
        """
        rows = [self._row(entry) for entry in self._entries(index)]
        encodings = tuple(self._encoding(encoder, rows) for encoder in self.encoders)
        return encodings[0] if len(encodings) == 1 else encodings

    def input_position(self, index: int) -> int:
        """Where in the input a caption stood, counted from 0: differs from `index` where captions before it were skipped."""
        return self._index.position(self._place(index))

    @staticmethod
    def collate(items: Sequence[Encodings]) -> Encodings:
        """Join what `store[...]` returned into one batch: the `collate_fn` of a `DataLoader`."""
        if not items or isinstance(items[0], TextEncoding):
            return TextEncoding.collate(items)  # type: ignore[arg-type]
        return tuple(TextEncoding.collate(encodings) for encodings in zip(*items, strict=True))

    def verify(self, progress: bool = False) -> None:
        """Hash every file of the store, and hold the plan against the manifest.

        Args:
            progress: show a progress bar.

        Raises:
            StoreError: it names all files that are not as they were written.
        """
        from tqdm import tqdm

        files = self.manifest.files
        wrong = []
        try:
            if differences := Plan.read(self.directory).differences(self.plan):
                wrong.append(f'{plan_path(self.directory)} is of another run than the manifest: {"; ".join(differences)}')
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
        """The single places or captions of an index."""
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
        """The row, among the different captions, of a place or a caption."""
        if not isinstance(entry, str):
            return self._index.row(self._place(entry))
        row = self._find(entry)
        if row is None:
            raise UnknownCaptionError(
                f'{shorten(entry, 80)} is not among the {self.plan.unique:,} different captions of {self.directory}'
            )
        return row

    def _place(self, entry: SupportsIndex) -> int:
        """A place counted from the start."""
        place = operator.index(entry)
        if not -len(self) <= place < len(self):
            raise IndexError(f'caption {place} of a store of {len(self)} captions')
        return place % len(self)

    def _find(self, caption: str) -> int | None:
        """The row of a caption; among equal hashes the text decides."""
        try:
            return next((row for row in self._index.candidates(caption) if self._caption(row) == caption), None)
        except UnicodeEncodeError:  # a lone surrogate: no caption of a store has one
            return None

    def _caption(self, row: int) -> str:
        """A caption, by its row among the different ones."""
        shard, row = divmod(row, self.plan.shard_rows)
        return bytes(bytes_of(self._columns(captions_name(shard))['captions'].read(row))).decode()

    def _encoding(self, encoder: EncoderRecord, rows: Sequence[int]) -> TextEncoding:
        """What one encoder made of some rows: tokens `(b, n, dim_tokens)` and pooled `(b, dim_pooled)`, if they are read."""
        places = [divmod(row, self.plan.shard_rows) for row in rows]
        files = {shard: self._columns(encodings_name(encoder.label, shard)) for shard, _ in places}
        dtype = DTYPES[STORED_DTYPES[encoder.dtype]]
        pooled = torch.empty(len(rows), 0, dtype=dtype)
        if self.pooled and encoder.pooled:
            pooled = torch.cat([files[shard]['pooled'].read(row) for shard, row in places])
        tokens = torch.empty(len(rows), 0, encoder.dim_tokens, dtype=dtype)
        lengths = torch.zeros(len(rows), 1)
        if self.tokens and encoder.tokens:
            features = [files[shard]['tokens'].read(row) for shard, row in places]
            tokens, lengths = pad_sequence(features, batch_first=True), torch.tensor([[len(feature)] for feature in features])
        mask = torch.arange(tokens.shape[1]) < lengths
        return TextEncoding(tokens, mask, pooled, encoder.identity if self.check_encoders else None)

    # files

    @property
    def _index(self) -> Index:
        return Index(self._columns(INDEX), self.plan.unique)

    def _opener(self) -> Callable[[str], dict[str, Column]]:
        """Opens files by name and keeps the last ones open; one per process."""
        return lru_cache(OPEN_FILES)(self._open)

    def _open(self, name: str) -> dict[str, Column]:
        files = self.manifest.files
        return open_columns(self.directory / name, files[name], files, self._expected(name), self.check_rows)

    def _expected(self, name: str) -> Expected:
        """What the tensors of a file must be."""
        if name == INDEX:
            return expected_index(self.plan)
        kind, *label, shard = Path(name).with_suffix('').parts
        rows = self.plan.rows_of(int(shard))
        if kind == 'captions':
            return expected_captions(rows)
        (encoder,) = (encoder for encoder in self.plan.encoders if encoder.label == label[0])
        return expected_encodings(encoder, rows)

    def __getstate__(self) -> dict[str, Any]:
        """All but the open files."""
        return {key: value for key, value in self.__dict__.items() if key != '_columns'}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._columns = self._opener()


class Captions(Sequence[str]):
    """The captions of a store in the order of the input, read from disk as they are asked for."""

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
    """What an entry of an index is."""
    if isinstance(entry, str):
        return 'caption'
    return 'place' if hasattr(entry, '__index__') and not isinstance(entry, bool) else 'neither'


def _manifest(directory: Path) -> Manifest:
    """The manifest of a finished store."""
    if not manifest_path(directory).exists():
        if plan_path(directory).exists():
            raise StoreError(
                f'{directory} is unfinished: run the command that started it once more, and it goes on where it stopped'
            )
        raise StoreError(f'{directory} is no store: it has no manifest.json; cfg-embed writes one')
    return Manifest.read(directory)


def _chosen(plan: Plan, labels: Sequence[str] | None, pooled: bool, tokens: bool) -> tuple[EncoderRecord, ...]:
    """The encoders to read, each with something to read."""
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
