"""What a store is made of: the plan, written before anything is encoded, and the manifest, written when all of it is there.

DIR/plan.json                              what is being encoded, and how; decides whether a run can be resumed
DIR/captions/00000.safetensors             the different captions of shard 0, in order of first appearance
DIR/encodings/<label>/00000.safetensors    what the encoder of that label made of them
DIR/index.safetensors                      input row -> different caption, and hash of a caption -> caption
DIR/manifest.json                          the plan, and the record of every file; a store without it is unfinished
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from classifier_free_guidance_pytorch.corpus.store.files import FileRecord, read_json, write_json
from classifier_free_guidance_pytorch.errors import ConfigError, StoreError
from classifier_free_guidance_pytorch.text import Encoder, EncoderIdentity, identity_of

Record = TypeVar('Record')

VERSION = 1
INDEX = 'index.safetensors'
STORED_DTYPES = {'float32': 'F32', 'bfloat16': 'BF16', 'float16': 'F16'}


@dataclass(frozen=True)
class EncoderRecord:
    """One encoder of a store.

    Attributes:
        label: what the store calls it, and the name of its folder.
        type: the adapter's class.
        name: the model.
        revision: the commit of the model's files or a digest of its weights, where it is known.
        settings: what else decides its features, such as the pooling.
        dtype: 'float32', 'bfloat16' or 'float16', as stored.
        pooled: whether one feature per text is stored.
        tokens: whether one feature per token is stored.
        dim_pooled: width of the encoder's pooled feature, stored or not.
        dim_tokens: width of the encoder's token features, stored or not.

    Raises:
        ConfigError: a label that is no plain folder name, an unknown dtype, or nothing to store.
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
        if not (self.pooled or self.tokens):
            raise ConfigError(f'of encoder {self.label!r} nothing would be stored: choose pooled features, tokens or both')

    @staticmethod
    def of(encoder: Encoder, label: str, dtype: str, *, pooled: bool = True, tokens: bool = True) -> EncoderRecord:
        """The record of an encoder."""
        who = identity_of(encoder)
        return EncoderRecord(
            label, who.type, who.name, who.revision, dict(who.settings), dtype, pooled, tokens,
            encoder.dim_pooled, encoder.dim_latent,
        )  # fmt: skip

    @property
    def identity(self) -> EncoderIdentity:
        """What tells its features from another encoder's."""
        return EncoderIdentity(self.type, self.name, self.revision, tuple(sorted(self.settings.items())))


@dataclass(frozen=True)
class Plan:
    """What is being encoded, and how: enough to tell whether a folder holds this run or another.

    Attributes:
        source: what the captions were read from, as the reader describes it.
        encoders: one record per encoder, in the order of `model_types`.
        shard_rows: different captions in a shard; the last one has the rest.
        captions: captions of the input that are part of the store, repeated ones counted each time.
        unique: different captions.
        skipped: captions of the input that are no part of it, counted by reason.
        batch_size: captions in a batch of the encoder; a shard's bytes may depend on it.
        precision: 'fp32', 'bf16' or 'fp16', what the encoders compute in; likewise.
        version: of this format.
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
        """How many shards there are."""
        return -(-self.unique // self.shard_rows)

    def rows_of(self, shard: int) -> int:
        """How many captions a shard holds."""
        return min(self.shard_rows, self.unique - shard * self.shard_rows)

    def differences(self, other: Plan) -> list[str]:
        """What another plan has otherwise, one line for each entry."""
        mine, its = _flat(asdict(self)), _flat(asdict(other))
        keys = sorted(key for key in mine.keys() | its.keys() if mine.get(key) != its.get(key))
        return [f'{key}: {mine.get(key)!r}, there {its.get(key)!r}' for key in keys]

    def write(self, directory: Path) -> None:
        """Write the plan's file."""
        write_json(plan_path(directory), asdict(self))

    @staticmethod
    def read(directory: Path) -> Plan:
        """Read the plan's file.

        Raises:
            StoreError: it is missing, damaged, or of another format.
        """
        return _plan_of(read_json(plan_path(directory)), plan_path(directory))


@dataclass(frozen=True)
class Manifest:
    """The plan of a finished store, and the record of each of its files by name."""

    plan: Plan
    files: dict[str, FileRecord]

    def write(self, directory: Path) -> None:
        """Write the manifest's file, which makes the store finished."""
        files = [asdict(record) for record in self.files.values()]
        write_json(manifest_path(directory), {**asdict(self.plan), 'files': files})

    @staticmethod
    def read(directory: Path) -> Manifest:
        """Read the manifest of a store, and hold its list of files against the plan in it.

        Raises:
            StoreError: it is missing, damaged, of another format, or lists other files than the plan needs.
        """
        path = manifest_path(directory)
        content = read_json(path)
        listed = content.pop('files', None)
        plan = _plan_of(content, path)
        try:
            files = {record['name']: _typed(FileRecord, record) for record in listed or ()}
        except (TypeError, KeyError) as error:
            raise StoreError(f'{path} is damaged: its list of files cannot be read ({error})') from error
        if files.keys() != set(names(plan)):
            differing = sorted(files.keys() ^ set(names(plan)))
            raise StoreError(f'{path} is damaged: its plan and its list of files disagree about {", ".join(differing[:3])}')
        return Manifest(plan, files)


def plan_path(directory: Path) -> Path:
    """The plan."""
    return directory / 'plan.json'


def manifest_path(directory: Path) -> Path:
    """The manifest."""
    return directory / 'manifest.json'


def index_path(directory: Path) -> Path:
    """The index."""
    return directory / INDEX


def captions_path(directory: Path, shard: int) -> Path:
    """The captions of a shard."""
    return directory / captions_name(shard)


def encodings_path(directory: Path, label: str, shard: int) -> Path:
    """What an encoder made of a shard."""
    return directory / encodings_name(label, shard)


def captions_name(shard: int) -> str:
    """The captions of a shard, as the manifest calls them."""
    return f'captions/{shard:05}.safetensors'


def encodings_name(label: str, shard: int) -> str:
    """What an encoder made of a shard, as the manifest calls it."""
    return f'encodings/{label}/{shard:05}.safetensors'


def names(plan: Plan) -> Iterator[str]:
    """Every file of a finished store beside the two JSON files."""
    yield INDEX
    for shard in range(plan.shards):
        yield captions_name(shard)
        for encoder in plan.encoders:
            yield encodings_name(encoder.label, shard)


def record_path(file: Path) -> Path:
    """Beside a file, while its store is unfinished: its record, which says that it is complete."""
    return file.with_suffix('.json')


def note(directory: Path, file: Path, record: FileRecord) -> FileRecord:
    """Note that a file is complete; returns its record under its name in the store."""
    record = replace(record, name=file.relative_to(directory).as_posix())
    write_json(record_path(file), asdict(record))
    return record


def noted(directory: Path, name: str) -> FileRecord | None:
    """The record of a file if it is complete, None if it has yet to be written.

    Raises:
        StoreError: the file is not the one that was noted: its size is another, or it is gone.
    """
    path = directory / name
    if not record_path(path).exists():
        return None
    try:
        record = _typed(FileRecord, read_json(record_path(path)))
    except TypeError as error:
        raise StoreError(f'{record_path(path)} is no record of a file ({error})') from error
    if record.name != name:
        raise StoreError(f'{record_path(path)} is the record of {record.name}, not of {name}')
    check_size(path, record)
    return record


def is_made_again(path: Path) -> bool:
    """Whether a run makes a file of its store again if it is gone: encodings follow from the captions."""
    return path.parent.parent.name == 'encodings'


def remedy(path: Path) -> str:
    """What to do about a file that is not as it was written."""
    if is_made_again(path):
        return 'restore it, or remove it and give the command that wrote the store again, which makes it anew'
    return 'restore it, or embed the corpus into another folder'


def check_size(path: Path, record: FileRecord) -> None:
    """Refuse a file that is gone or of another size.

    Raises:
        StoreError: it names the file.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise StoreError(f'{path} is missing or cannot be read ({error.strerror}): {remedy(path)}') from error
    if size != record.bytes:
        cut = 'truncated' if size < record.bytes else 'damaged'
        raise StoreError(f'{path} is {cut}: it has {size:,} bytes, and {record.bytes:,} were written; {remedy(path)}')


def finish(directory: Path, plan: Plan) -> Manifest:
    """Collect the records of all files, write the manifest, and remove the single records.

    Doing it again, after a run that was killed in between, ends the same.

    Raises:
        StoreError: files are missing or of another size than was noted; the manifest of another plan is there.
    """
    if manifest_path(directory).exists():
        manifest = Manifest.read(directory)
        if differences := plan.differences(manifest.plan):
            raise StoreError(f'{directory} holds another finished store: {"; ".join(differences)}')
    else:
        found = {name: noted(directory, name) for name in names(plan)}
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


def _plan_of(content: dict[str, Any], path: Path) -> Plan:
    """A plan from JSON."""
    version = content.get('version')
    if version != VERSION:
        raise StoreError(f'{path} is of format version {version!r}, and this release reads version {VERSION}')
    try:
        encoders = tuple(_typed(EncoderRecord, encoder) for encoder in content.pop('encoders'))
        return _typed(Plan, {**content, 'encoders': encoders})
    except (TypeError, KeyError, AttributeError, ConfigError) as error:
        raise StoreError(f'{path} is no plan of a store ({error})') from error


def _typed(record: type[Record], content: Mapping[str, Any]) -> Record:
    """A dataclass from JSON, whose fields are of exactly the types that it declares.

    Raises:
        TypeError: they are not.
    """
    made = record(**content)
    for name, hint in get_type_hints(record).items():
        allowed = get_args(hint) if isinstance(hint, UnionType) else (get_origin(hint) or hint,)
        if type(getattr(made, name)) not in allowed:
            raise TypeError(f'{name} is {getattr(made, name)!r}')
    return made


def _flat(nested: Any, prefix: str = '') -> dict[str, Any]:
    """The leaves of nested dicts and lists under their dotted paths, for naming a difference."""
    if isinstance(nested, list | tuple):
        nested = dict(enumerate(nested))
    if not isinstance(nested, Mapping):
        return {prefix: nested}
    items = nested.items()
    return {key: leaf for name, value in items for key, leaf in _flat(value, f'{prefix}.{name}'.lstrip('.')).items()}
