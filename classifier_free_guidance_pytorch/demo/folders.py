"""What every demo asks before it works: is the folder writable, is the library there."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError


def writable(folder: Path) -> Path:
    """The folder, made if need be, once a file has been written into it.

    Raises:
        ConfigError: it cannot be made, or nothing can be written there.
    """
    probe = folder / '.cfg-demo'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text('')
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f'nothing can be written to {str(folder)!r} ({error.strerror}): pass another folder as --out'
        ) from error
    return folder


def needs(library: str, why: str) -> None:
    """Refuse to go on without a library of the `[demo]` extra.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if find_spec(library) is None:
        raise MissingDependencyError(
            f"{why} by {library}, which is not installed: pip install 'classifier-free-guidance-pytorch[demo]'"
        )
