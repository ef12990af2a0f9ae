"""What a store consists of: the plan, written before anything is encoded, and the manifest, written when all files are there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from classifier_free_guidance_pytorch.corpus.store.files import STORED_DTYPES, FileRecord, from_json, read_json, write_json
from classifier_free_guidance_pytorch.corpus.store.layout import (
    INDEX,
    captions_name,
    encodings_name,
    manifest_path,
    plan_path,
    read_record,
    record_path,
)
from classifier_free_guidance_pytorch.errors import ConfigError, StoreError
from classifier_free_guidance_pytorch.text import Encoder, EncoderIdentity, identity_of

VERSION = 1


@dataclass(frozen=True)
class EncoderRecord:
    """One encoder of a store.

    Attributes:
        label: Its name in the store, and that of its folder.
        type: The adapter's class.
        name: The model.
        revision: The commit of the model's files or a digest of its weights, where it is known.
        settings: What else decides its features, such as the pooling.
        dtype: The dtype of what is stored, 'float32', 'bfloat16' or 'float16'.
        pooled: Whether one feature per text is stored.
        tokens: Whether one feature per token is stored.
        dim_pooled: The width of the encoder's pooled feature, stored or not.
        dim_tokens: The width of the encoder's token features, stored or not.

    Raises:
        ConfigError: A label that is no plain folder name, an unknown dtype, or nothing to store.
    """

    label: str
    type: str
    name: str
    revision: str | None
    settings: dict[str, Any]
    dtype: str
    pooled: bool
    tokens: bool
    dim_pooled: int
    dim_tokens: int

    def __post_init__(self) -> None:
        if not re.fullmatch(r'\w[\w.+-]{0,99}', self.label, re.ASCII):
            raise ConfigError(
                f'the label of an encoder names its folder: letters, digits and "._+-", starting with a letter or a digit, '
                f'but got {self.label!r}'
            )
        if self.dtype not in STORED_DTYPES:
            raise ConfigError(f'encodings are stored as {", ".join(STORED_DTYPES)}, but got dtype {self.dtype!r}')
        if not all(0 <= dim < 2**31 for dim in (self.dim_pooled, self.dim_tokens)):
            raise ConfigError(
                f'encoder {self.label!r} has features of width {self.dim_pooled} and {self.dim_tokens}: no such widths'
            )
        if not (self.pooled or self.tokens):
            raise ConfigError(f'of encoder {self.label!r} nothing would be stored: choose pooled features, tokens or both')

    @staticmethod
    def of(encoder: Encoder, label: str, dtype: str, *, pooled: bool = True, tokens: bool = True) -> EncoderRecord:
        """Return the record of an encoder.

        Args:
            encoder: The encoder.
            label: Its name in the store.
            dtype: The dtype of what is stored.
            pooled: Store one feature per text.
            tokens: Store one feature per token.
        """
        made_by = identity_of(encoder)
        return EncoderRecord(
            label=label,
            type=made_by.type,
            name=made_by.name,
            revision=made_by.revision,
            settings=dict(made_by.settings),
            dtype=dtype,
            pooled=pooled,
            tokens=tokens,
            dim_pooled=encoder.dim_pooled,
            dim_tokens=encoder.dim_latent,
        )

    @property
    def identity(self) -> EncoderIdentity:
        """What distinguishes its features from those of other encoders."""
        return EncoderIdentity.from_json(vars(self))


@dataclass(frozen=True)
class Plan:
    """What is being encoded, and how: enough to decide whether a folder holds this run or a different one.

    Attributes:
        source: What the captions were read from, as the reader describes it.
        encoders: One record per encoder, in the order of `model_types`.
        shard_rows: The number of different captions in a shard; the last one has the rest.
        captions: The number of captions in the store, with repetitions.
        unique: The number of different captions.
        skipped: The number of entries of the input that are not in the store, by reason.
        batch_size: The number of captions in a batch of the encoder; a shard's bytes may depend on it.
        precision: The precision of the encoders, 'fp32', 'bf16' or 'fp16'; a shard's bytes depend on it.
        version: The version of this format.
        library: The version of the library that began the store; empty where that is not stated.

    Raises:
        ConfigError: Counts that cannot be, no encoder, or two with one label.
    """

    source: dict[str, Any]
    encoders: tuple[EncoderRecord, ...]
    shard_rows: int
    captions: int
    unique: int
    skipped: dict[str, int]
    batch_size: int
    precision: str = 'fp32'
    version: int = VERSION
    library: str = ''

    def __post_init__(self) -> None:
        labels = [encoder.label for encoder in self.encoders]
        if not labels or len({label.casefold() for label in labels}) < len(labels):
            raise ConfigError(f'a store needs one encoder or more, each with a label of its own, but got {labels}')
        if self.shard_rows < 1 or self.batch_size < 1 or not 1 <= self.unique <= self.captions:
            raise ConfigError(
                f'a store holds at least one caption and one per shard and batch, but got {self.captions} captions, '
                f'{self.unique} different ones, {self.shard_rows} per shard and {self.batch_size} per batch'
            )

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.unique // self.shard_rows)

    def rows_of(self, shard: int) -> int:
        """Return how many captions a shard holds."""
        return min(self.shard_rows, self.unique - shard * self.shard_rows)

    def differences(self, other: Plan) -> list[str]:
        """Return one line for each entry that differs in another plan; which version of the library began it is none of them."""
        mine, its = (_leaves({**asdict(plan), 'library': ''}) for plan in (self, other))
        keys = sorted(key for key in mine.keys() | its.keys() if mine.get(key) != its.get(key))
        return [f'{key}: {mine.get(key)!r}, there {its.get(key)!r}' for key in keys]

    def write(self, directory: Path) -> None:
        """Write the plan's file."""
        write_json(plan_path(directory), asdict(self))

    @staticmethod
    def read(directory: Path) -> Plan:
        """Read the plan's file.

        Raises:
            StoreError: The file is missing, damaged, or of a different format.
        """
        return _plan_from_json(read_json(plan_path(directory)), plan_path(directory))


@dataclass(frozen=True)
class Manifest:
    """The plan of a finished store, and the record of each of its files by name."""

    plan: Plan
    files: dict[str, FileRecord]

    def write(self, directory: Path) -> None:
        """Write the manifest's file, which makes the store a finished one."""
        files = [asdict(record) for record in self.files.values()]
        write_json(manifest_path(directory), {**asdict(self.plan), 'files': files})

    @staticmethod
    def read(directory: Path) -> Manifest:
        """Read the manifest of a store, and compare its list of files with the plan in it.

        Raises:
            StoreError: The manifest is missing, damaged, of a different format, or lists files that the plan does not need.
        """
        path = manifest_path(directory)
        content = read_json(path)
        listed = content.pop('files', None)
        plan = _plan_from_json(content, path)
        try:
            files = {record['name']: from_json(FileRecord, record) for record in listed or ()}
        except (TypeError, KeyError, AttributeError) as error:
            raise StoreError(f'{path} is damaged: its list of files cannot be read ({error})') from error
        needed = set(islice(names(plan), len(files) + 1))  # a plan may need more files than fit into memory
        if files.keys() != needed:
            differing = sorted(files.keys() ^ needed)
            raise StoreError(f'{path} is damaged: its plan and its list of files disagree about {", ".join(differing[:3])}')
        if 16 * plan.captions > files[INDEX].bytes:  # a row and a position for each
            raise StoreError(f'{path} is damaged: its index is too small for {plan.captions:,} captions')
        return Manifest(plan, files)


def names(plan: Plan) -> Iterator[str]:
    """Yield the names of all files of a finished store, except for the two JSON files."""
    yield INDEX
    for shard in range(plan.shards):
        yield captions_name(shard)
        for encoder in plan.encoders:
            yield encodings_name(encoder.label, shard)


def finish(directory: Path, plan: Plan) -> Manifest:
    """Collect the records of all files, write the manifest, and remove the single records.

    To do it again, after a run was killed on the way, gives the same result.

    Raises:
        StoreError: Files are missing or not of the recorded size, or the folder has the manifest of a different plan.
    """
    if manifest_path(directory).exists():
        manifest = Manifest.read(directory)
        if differences := plan.differences(manifest.plan):
            raise StoreError(f'{directory} holds a different store, which is finished: {"; ".join(differences)}')
    else:
        found = {name: read_record(directory, name) for name in names(plan)}
        missing = [name for name, record in found.items() if record is None]
        if missing:
            raise StoreError(
                f'{directory} is unfinished: {len(missing):,} of {len(found):,} files are missing, first {missing[0]}'
            )
        manifest = Manifest(plan, {name: record for name, record in found.items() if record is not None})
        manifest.write(directory)
    for name in names(plan):
        record_path(directory / name).unlink(missing_ok=True)
    return manifest


def _plan_from_json(content: dict[str, Any], path: Path) -> Plan:
    """Return the plan in a JSON object that was read from `path`."""
    version = content.get('version')
    if version != VERSION:
        raise StoreError(f'{path} is of format version {version!r}, and this release reads version {VERSION}')
    try:
        encoders = tuple(from_json(EncoderRecord, encoder) for encoder in content.pop('encoders'))
        return from_json(Plan, {**content, 'encoders': encoders})
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
        raise StoreError(f'{path} is not a plan of a store ({error})') from error


def _leaves(nested: Any, prefix: str = '') -> dict[str, Any]:
    """Return the leaves of nested dicts and lists by their dotted paths, to name differences."""
    if isinstance(nested, list | tuple):
        nested = dict(enumerate(nested))
    if not isinstance(nested, Mapping):
        return {prefix: nested}
    items = nested.items()
    return {key: leaf for name, value in items for key, leaf in _leaves(value, f'{prefix}.{name}'.lstrip('.')).items()}
