"""Where the files of a store are, and the record that each has beside it until the store is finished.

DIR/plan.json                              what is being encoded, and how; decides whether a run can be resumed
DIR/captions/00000.safetensors             the different captions of shard 0, in order of first appearance, one row each
DIR/encodings/<label>/00000.safetensors    their features by the encoder of that label, in the same rows
DIR/index.safetensors                      place of a caption -> its row and its position in the input; hash of a caption -> row
DIR/manifest.json                          the plan, and the record of every file; a store without it is unfinished

A row is one of the different captions. Places count the captions of a store, repeated ones too. Positions count the entries of
the input, skipped ones too.
"""

from __future__ import annotations

import stat
from dataclasses import asdict, replace
from pathlib import Path

from classifier_free_guidance_pytorch.corpus.store.files import FileRecord, from_json, read_json, write_json
from classifier_free_guidance_pytorch.errors import StoreError

INDEX, CAPTIONS, ENCODINGS = 'index.safetensors', 'captions', 'encodings'  # a file and two folders


def plan_path(directory: Path) -> Path:
    """Return the path of the plan."""
    return directory / 'plan.json'


def manifest_path(directory: Path) -> Path:
    """Return the path of the manifest."""
    return directory / 'manifest.json'


def captions_name(shard: int) -> str:
    """Return the name in the store of a shard's captions."""
    return f'{CAPTIONS}/{shard:05}.safetensors'


def encodings_name(label: str, shard: int) -> str:
    """Return the name in the store of a shard's encodings."""
    return f'{ENCODINGS}/{label}/{shard:05}.safetensors'


def record_path(file: Path) -> Path:
    """Return the path of a file's record, which says that the file is complete; it exists while the store is unfinished."""
    return file.with_suffix('.json')


def write_record(directory: Path, name: str, record: FileRecord) -> FileRecord:
    """Record that a file is complete.

    Args:
        directory: The store.
        name: The file's name in the store.
        record: What is known of the file.

    Returns:
        The record with that name.
    """
    record = replace(record, name=name)
    write_json(record_path(directory / name), asdict(record))
    return record


def read_record(directory: Path, name: str) -> FileRecord | None:
    """Return the record of a file that is complete, None for a file that is yet to be written.

    Raises:
        StoreError: The record is damaged or of a different file, or the file is missing or has a different size.
    """
    path = directory / name
    if not record_path(path).exists():
        return None
    try:
        record = from_json(FileRecord, read_json(record_path(path)))
    except TypeError as error:
        raise StoreError(f'{record_path(path)} is not a record of a file ({error})') from error
    if record.name != name:
        raise StoreError(f'{record_path(path)} is the record of {record.name}, not of {name}')
    check_size(path, record)
    return record


def is_rebuildable(path: Path) -> bool:
    """Return whether a run can make a missing file of its store again, as it can for encodings: they follow from the captions."""
    return path.parent.parent.name == ENCODINGS


def remedy(path: Path) -> str:
    """Return what to do about a file that is not as it was written, for a message."""
    if is_rebuildable(path):
        return 'restore it, or remove it and run the command that wrote the store again, which makes a new one'
    return 'restore it, or embed the corpus into a different folder'


def check_size(path: Path, record: FileRecord) -> None:
    """Refuse a file that is missing or of a different size.

    Raises:
        StoreError: The message names the file.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise StoreError(f'{path} is missing or cannot be read ({error.strerror}): {remedy(path)}') from error
    size = found.st_size
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f'{path} is not a file: {remedy(path)}')
    if size != record.bytes:
        cut = 'truncated' if size < record.bytes else 'damaged'
        raise StoreError(f'{path} is {cut}: it has {size:,} bytes, and {record.bytes:,} were written; {remedy(path)}')
