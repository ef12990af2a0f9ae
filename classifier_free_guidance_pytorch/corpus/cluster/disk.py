"""What a run needs of the disk that it writes to: that a file can be renamed over another, whole, in one step.

A disk of a network, or a store of objects that is mounted as one, may do something else under the same name. Some of that shows
when it is tried once; that a disk does it right in every case cannot be found out.
"""

from __future__ import annotations

import os
from pathlib import Path

from classifier_free_guidance_pytorch.errors import ConfigError, warn


def check_renames(folder: Path, directory: Path) -> None:
    """Rename a file over another in a folder, which is made and left empty, and look at what comes of it.

    Args:
        folder: Where to try it.
        directory: The folder of the store, for messages.

    Raises:
        ConfigError: The new file is not under the old name, or not whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    old, new = folder / 'renamed', folder / 'renamed.unfinished'
    try:
        old.write_bytes(b'old')
        new.write_bytes(b'new')
        before = new.stat().st_ino
        os.replace(new, old)
        found, is_gone, is_same = old.read_bytes(), not new.exists(), old.stat().st_ino == before
    except OSError as error:
        raise ConfigError(
            f'files cannot be renamed on the disk of {directory} ({error.strerror}), which a run needs to leave only whole '
            'files: pass a folder on a different disk'
        ) from error
    finally:
        for path in (old, new):
            path.unlink(missing_ok=True)
    if found != b'new' or not is_gone:
        raise ConfigError(
            f'the disk of {directory} does not replace a file by another that is renamed, which a run needs to leave only whole '
            'files: pass a folder on a different disk'
        )
    if not is_same:
        warn(
            f'the disk of {directory} copies a file to rename it, as mounted stores of objects do, so a run that is killed may '
            'leave a part of a file. Parts are found by their checksums, and named; a disk that renames in one step leaves none'
        )
