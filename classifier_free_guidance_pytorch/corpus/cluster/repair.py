"""Make a finished store that lacks encodings an unfinished one again, which the current run completes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from classifier_free_guidance_pytorch.corpus.cluster.ranks import Rank
from classifier_free_guidance_pytorch.corpus.store.files import write_json
from classifier_free_guidance_pytorch.corpus.store.layout import check_size, is_rebuildable, manifest_path, record_path
from classifier_free_guidance_pytorch.corpus.store.manifest import Manifest
from classifier_free_guidance_pytorch.errors import UsageError


def reopen_if_incomplete(directory: Path, rank: Rank) -> None:
    """Check that a finished store has all its files; if encodings are missing, split its manifest into records.

    This may be killed at any point: as long as the manifest is there, all of it is done again.

    Raises:
        StoreError: A file has a different size than was written, or is missing and cannot be made again.
        UsageError: Encodings are missing, and this is one of several ranks.
    """
    files = Manifest.read(directory).files
    missing = [name for name in files if not (directory / name).exists()]
    for name, record in files.items():
        if name not in missing or not is_rebuildable(directory / name):
            check_size(directory / name, record)
    if not missing:
        return
    if rank.count > 1:
        raise UsageError(
            f'{directory} was finished, and {len(missing):,} of its files are now missing, first {missing[0]}: one process or '
            'Ray can make them again; run the same command without torchrun'
        )
    for name in files.keys() - set(missing):
        write_json(record_path(directory / name), asdict(files[name]))
    manifest_path(directory).unlink()
