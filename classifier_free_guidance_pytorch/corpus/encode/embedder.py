"""`TextEmbedder`: captions in, encodings without padding out; a callable for every engine that maps batches of data.

Captions are grouped by token length into batches for the encoder, so that a short caption is not padded to a long one. The other
captions in a batch change a caption's features only by rounding.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.corpus.store.files import DTYPES
from classifier_free_guidance_pytorch.corpus.store.manifest import EncoderRecord
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError, checked
from classifier_free_guidance_pytorch.text import Encoder, TextEncoder, TextEncoding, as_texts, build_encoders, encode_with

Progress: TypeAlias = Callable[[int], object]


@dataclass(frozen=True)
class Tokenized:
    """Captions, ready for the network of one encoder.

    Attributes:
        captions: The captions, in their own order.
        order: Their indices, longest caption first.
        ids: Token ids, mask and perhaps weights, `(n, length)`; None for an encoder without a tokenizer that we know.
    """

    captions: Sequence[str]
    order: Tensor
    ids: tuple[Tensor, ...] | None


@dataclass(frozen=True)
class Embedded:
    """One encoder's features of some captions, in their order, on the CPU.

    Attributes:
        pooled: `(n, dim_pooled)`, or None if they are not wanted.
        tokens: For each caption `(length, dim_latent)`, or None.
    """

    pooled: Tensor | None
    tokens: list[Tensor] | None


class TextEmbedder:
    """Frozen text encoders as a function of a batch of captions.

    It is small and picklable: it builds the encoders and reads their weights where it is first used. As a callable it maps a
    batch of data, `{column: captions, ...}`, to the same batch with the columns `<label>_pooled` and `<label>_tokens` of every
    encoder, as NumPy arrays (bfloat16, which NumPy lacks, as float32). So it fits `datasets.map(embedder, batched=True)`, and
    `map_batches` of Ray Data, as an object or as the class.

    Args:
        model_types: `'t5'`, `'clip'`, `'bge'`, `'hf'`, `'english'`, `'mini'`, an encoder object, or a sequence of these.
        model_names: A name or a local path per type; None for the type's default.
        model_kwargs: A dict of adapter arguments per type.
        dtype: The dtype of the encodings, `'bf16'`, `'fp16'` or `'fp32'`.
        precision: The precision of the encoders; None for `dtype` on an accelerator and `'fp32'` on a CPU.
        pooled: Give one feature per caption.
        tokens: Give one feature per token.
        batch_size: The number of captions in a batch of the encoder.
        device: Where the encoders run; None for the GPU of this process, or the CPU if there is none.
        column: The column of the captions, for use as a callable.

    Attributes:
        labels: The names of the encoders in a store: the type, with the model's name where the type is not unique.

    Raises:
        ConfigError: An argument that cannot work, or two encoders with one label.

    Example:
        >>> embedder = TextEmbedder('mini', dtype='fp32')
        >>> batch = embedder({'caption': ['a red circle', 'a blue square'], 'id': [7, 8]})
        >>> sorted(batch), batch['mini_pooled'].shape, batch['mini_tokens'][0].shape
        (['caption', 'id', 'mini_pooled', 'mini_tokens'], (2, 128), (5, 128))
    """

    @checked
    def __init__(
        self,
        model_types: Any = 't5',
        model_names: str | PathLike[str] | Sequence[str | PathLike[str] | None] | None = None,
        model_kwargs: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
        *,
        dtype: str = 'bf16',
        precision: str | None = None,
        pooled: bool = True,
        tokens: bool = True,
        batch_size: int = 64,
        device: torch.device | str | int | None = None,
        column: str = 'caption',
    ) -> None:
        for name, value in (('dtype', dtype), ('precision', precision)):
            if value is not None and value not in DTYPES:
                raise ConfigError(f'{name} is one of {", ".join(map(repr, DTYPES))}, but got {value!r}')
        if batch_size < 1:
            raise ConfigError(f'batch_size counts captions and is at least 1, but got {batch_size}')
        if device is not None:
            _parse_device(device)
        if not (pooled or tokens):
            raise ConfigError('nothing would be embedded: choose pooled=True, tokens=True or both')
        self.model_types, self.model_names, self.model_kwargs = model_types, model_names, model_kwargs
        self.dtype, self.pooled, self.tokens = dtype, pooled, tokens
        self.batch_size, self.column = batch_size, column
        self._precision, self._device = precision, device

    @cached_property
    def encoders(self) -> tuple[Encoder, ...]:
        """The encoders, built at first use; their weights load at the first `embed`."""
        return build_encoders(self.model_types, self.model_names, self.model_kwargs)

    @property
    def device(self) -> torch.device:
        """Where the encoders run: as asked, else the GPU that belongs to this process, else the CPU."""
        if self._device is not None:
            return _parse_device(self._device)
        if not torch.cuda.is_available():
            return torch.device('cpu')
        return torch.device('cuda', int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count())

    @property
    def precision(self) -> str:
        """The precision of the encoders."""
        return self._precision or ('fp32' if self.device.type == 'cpu' else self.dtype)

    def pinned(self) -> TextEmbedder:
        """Return the same embedder, with the precision that it has on this machine fixed for all machines."""
        pinned = copy(self)
        pinned._precision = self.precision
        return pinned

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """One label per encoder, which also names a folder.

        Raises:
            ConfigError: Two encoders have one label.
        """
        given = self.model_types if isinstance(self.model_types, list | tuple) else [self.model_types]
        kinds = [kind if isinstance(kind, str) else type(kind).__name__ for kind in given]
        names = [str(getattr(encoder, 'name', '')) for encoder in self.encoders]
        alike = Counter(kinds)
        labels = [kind if alike[kind] == 1 else f'{kind}-{Path(name).name}' for kind, name in zip(kinds, names, strict=True)]
        twice = [label for label, count in Counter(label.casefold() for label in labels).items() if count > 1]
        if twice:
            raise ConfigError(
                f'two encoders have one name, {twice[0]!r}: each is embedded once and has a folder of that name; pass models '
                'with different names, or embed them into two stores'
            )
        return tuple(''.join(letter if letter.isalnum() or letter in '._+-' else '-' for letter in label) for label in labels)

    def records(self) -> tuple[EncoderRecord, ...]:
        """Return the records of the encoders for a store."""
        stored = str(DTYPES[self.dtype]).removeprefix('torch.')
        return tuple(
            EncoderRecord.of(encoder, label, stored, pooled=self.pooled, tokens=self.tokens)
            for encoder, label in zip(self.encoders, self.labels, strict=True)
        )

    def tokenize(self, encoder: Encoder, captions: Sequence[str]) -> Tokenized:
        """Do all work that comes before the network; it can run in a thread beside it."""
        captions = as_texts(list(captions), 'captions')
        if isinstance(encoder, TextEncoder):
            ids = encoder.tokenize(captions)
            return Tokenized(captions, ids[1].sum(dim=1).argsort(descending=True, stable=True), ids)
        # an object that does not show its tokens: long captions have many
        return Tokenized(captions, torch.tensor([len(text) for text in captions]).argsort(descending=True, stable=True), None)

    def encode(self, encoder: Encoder, tokenized: Tokenized, progress: Progress = lambda _: None) -> Embedded:
        """Run the network over batches of captions of similar length, the longest first.

        Args:
            encoder: One of the encoders.
            tokenized: What `tokenize` returned for it.
            progress: Called with the number of captions after every batch.

        Raises:
            ConfigError: This machine does not have the device.
            UsageError: A feature is not finite in the dtype in which it is stored.
        """
        check_device(self.device)
        pooled: list[Tensor | None] = [None] * len(tokenized.captions)
        tokens = list(pooled)
        for batch in torch.split(tokenized.order, min(self.batch_size, len(tokenized.order))):
            encoding = self._encode_batch(encoder, tokenized, batch)
            indices = batch.tolist()
            if self.pooled:
                for i, feature in zip(indices, self._to_stored_dtype(encoding.pooled), strict=True):
                    pooled[i] = feature
            if self.tokens:
                real = self._to_stored_dtype(encoding.tokens[encoding.mask])  # (real tokens of the batch, d)
                for i, features in zip(indices, torch.split(real, encoding.mask.sum(dim=1).tolist()), strict=True):
                    tokens[i] = features
            progress(len(indices))
        # every caption is in exactly one batch
        return Embedded(
            torch.stack([feature for feature in pooled if feature is not None]) if self.pooled else None,
            [features for features in tokens if features is not None] if self.tokens else None,
        )

    def _encode_batch(self, encoder: Encoder, tokenized: Tokenized, batch: Tensor) -> TextEncoding:
        place: Any = {'device': self.device, 'dtype': DTYPES[self.precision]}
        if tokenized.ids is None:
            return encode_with(encoder, [tokenized.captions[i] for i in batch], **place)
        assert isinstance(encoder, TextEncoder)
        return encoder.encode_ids(*(one[batch] for one in tokenized.ids), **place)

    def _to_stored_dtype(self, features: Tensor) -> Tensor:
        """Return features in the dtype in which they are stored, on the CPU."""
        stored = features.to(DTYPES[self.dtype])
        if not stored.isfinite().all():
            raise UsageError(
                f'a feature is not finite in {self.dtype}, computed in {self.precision}: store and compute in bf16 or fp32, '
                'whose range is wider'
            )
        return stored.cpu()

    def embed(self, captions: Sequence[str], progress: Progress = lambda _: None) -> dict[str, Embedded]:
        """Return every encoder's features of some captions, by label.

        Raises:
            ConfigError: The captions are not a batch of strings.
            MissingDependencyError: The weights of an encoder cannot be read.
        """
        named = zip(self.labels, self.encoders, strict=True)
        return {label: self.encode(encoder, self.tokenize(encoder, captions), progress) for label, encoder in named}

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return a batch of data with the columns of every encoder added.

        Raises:
            ConfigError: The batch does not have the column of the captions.
        """
        if self.column not in batch:
            raise ConfigError(f'a batch has no column {self.column!r}: it has {", ".join(map(repr, batch))}; pass column')
        result: dict[str, Any] = dict(batch)
        for label, embedded in self.embed(batch[self.column]).items():
            if embedded.pooled is not None:
                result[f'{label}_pooled'] = _array(embedded.pooled)
            if embedded.tokens is not None:
                result[f'{label}_tokens'] = [_array(features) for features in embedded.tokens]
        return result

    def __getstate__(self) -> dict[str, Any]:
        """Return the arguments alone: each process builds the encoders for itself."""
        return {key: value for key, value in self.__dict__.items() if key not in ('encoders', 'labels')}

    def __repr__(self) -> str:
        return f'TextEmbedder({self.model_types!r}, {self.model_names!r}, dtype={self.dtype!r}, batch_size={self.batch_size})'


def _parse_device(device: torch.device | str | int) -> torch.device:
    """Return the device of a name."""
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device is a name such as 'cpu', 'cuda' or 'cuda:1', but got {device!r} ({error})") from error


def check_device(device: torch.device) -> None:
    """Refuse a device that this machine does not have, or that holds no numbers.

    Raises:
        ConfigError: The message names the device.
    """
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # the latter where a package brings the device
        cause = str(error).partition('\n')[0]
        raise ConfigError(
            f"device={str(device)!r} cannot be used on this machine ({cause}): pass another, such as 'cpu'"
        ) from error


def _array(features: Tensor) -> Any:
    """Return features as a NumPy array."""
    return (features.float() if features.dtype == torch.bfloat16 else features).numpy()
