"""A finished store that lacks encodings becomes an unfinished one again, which the run that is called completes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from classifier_free_guidance_pytorch.corpus.cluster.ranks import Rank
from classifier_free_guidance_pytorch.corpus.store.files import write_json
from classifier_free_guidance_pytorch.corpus.store.manifest import Manifest, check_size, is_made_again, manifest_path, record_path
from classifier_free_guidance_pytorch.errors import UsageError


def reopen_if_incomplete(directory: Path, rank: Rank) -> None:
    """Look whether a finished store has all its files; if encodings are gone, take its manifest apart into records.

    A kill on the way does no harm: as long as the manifest is there, all of it is done again.

    Raises:
        StoreError: a file is of another size than was written, or gone and not made again.
        UsageError: one of several ranks is asked to do this.
    """
    files = Manifest.read(directory).files
    gone = [name for name in files if not (directory / name).exists()]
    for name, record in files.items():
        if name not in gone or not is_made_again(directory / name):
            check_size(directory / name, record)
    if not gone:
        return
    if rank.count > 1:
        raise UsageError(
            f'{directory} was finished, and {len(gone):,} of its files are gone since, first {gone[0]}: one process makes them '
            'again, or Ray; run the same command without torchrun'
        )
    for name in files.keys() - set(gone):
        write_json(record_path(directory / name), asdict(files[name]))
    manifest_path(directory).unlink()
