"""What every demo asks before it works: is the folder writable, is the library there, is the device."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    import torch


def writable(folder: Path, option: str = '--out') -> Path:
    """The folder that an option names, made if need be, once a file has been written into it.

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
            f'nothing can be written to {str(folder)!r} ({error.strerror}): pass another folder as {option}'
        ) from error
    return folder


def writable_file(file: Path, option: str) -> Path:
    """Return the file that an option names, once its folder can be written to.

    Raises:
        ConfigError: It is a folder, or nothing can be written there.
    """
    writable(file.parent, option)
    if file.is_dir():
        raise ConfigError(f'{str(file)!r} is a folder: pass a file as {option}')
    return file


def unused(path: Path) -> Path:
    """Return the path of a file that is not there yet: `image.png`, or else `image-2.png`, `image-3.png`, ..."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f'{path.stem}-{number}')
    return free


def needs(library: str, why: str) -> None:
    """Refuse to go on without a library.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if find_spec(library) is None:
        raise MissingDependencyError(f'{why} by {library}, which is not installed: pip install {library}')


def check_device(name: str) -> torch.device:
    """The device of that name, if this machine has it.

    Raises:
        ConfigError: an unknown name, or a device that is not there.
    """
    import torch  # here, so that --help does without it

    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # `meta` makes tensors, and holds no numbers
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:  # or a package that brings it
        reason = str(error).partition('\n')[0]
        raise ConfigError(
            f'device {name!r} cannot be used here ({reason}): pass cpu, or a device that torch can reach'
        ) from error
    return device


def use_threads(count: int | None) -> None:
    """Let torch use that many CPU threads, if a number is given.

    Raises:
        ConfigError: it is below 1.
    """
    if count is not None:
        if count < 1:
            raise ConfigError(f'threads counts from 1, but got {count}')
        import torch

        torch.set_num_threads(count)
