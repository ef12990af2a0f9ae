"""Reading a model's files: from the cache if they are there, from the hub if not, and a clear error otherwise.

Cached files are used as they are, without asking the hub for news: a frozen encoder should not change between two runs,
and a machine without a network should not wait for retries (hub clients repeat every request for many seconds).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from classifier_free_guidance_pytorch.errors import MissingDependencyError

T = TypeVar('T')

# What a hub client raises for a missing file, a folder that is no model, a missing package or a damaged file
# (`SafetensorError` and the client's own connection errors are known only by their base).
READING_ERRORS = (OSError, ValueError, ImportError, KeyError, AttributeError, RuntimeError)


def read_model_files(what: str, name: str, read: Callable[[bool], T]) -> T:
    """Call `read(local_files_only)`, first with True and, where that finds nothing and a hub answers, with False.

    Args:
        what: who needs the files, for the error.
        name: a model name on the hub, or a local folder.
        read: reads the files.

    Raises:
        MissingDependencyError: they cannot be read; it says why and how to point to a local folder.
    """
    try:
        return read(True)
    except READING_ERRORS as error:
        if looks_local(name):
            raise unreadable(what, name, error) from error
        not_cached = error
    try:
        ask_hub(name)
        return read(False)
    except MissingDependencyError:
        raise
    except READING_ERRORS as error:
        # A package that is missing shows in both attempts, and the first is the clearer one.
        raise unreadable(what, name, not_cached if isinstance(not_cached, ImportError) else error) from error


def looks_local(name: str) -> bool:
    """Whether the name can only be a path: it exists, or it is written as one."""
    return Path(name).exists() or name.startswith(('.', '/', '~')) or '\\' in name or name.count('/') > 1


def ask_hub(name: str) -> None:
    """Ask once whether the hub has this model; unlike a file request, this call is not repeated for half a minute."""
    from huggingface_hub import HfApi

    HfApi().model_info(name, timeout=10)


def unreadable(what: str, name: str, error: BaseException) -> MissingDependencyError:
    """The error for files that cannot be read: the cause, and the ways out."""
    cause = next((line.strip() for line in str(error).splitlines() if line.strip()), '')
    cause = f'{type(error).__name__}: {cause}'
    if looks_local(name):
        seen = 'exists' if Path(name).exists() else 'does not exist'
        return MissingDependencyError(
            f'{what} could not read a model from the local path {name!r}, which {seen} ({cause}); '
            'pass a folder written by save_pretrained, or a model name of the hub'
        )
    return MissingDependencyError(
        f'{what} could not read {name!r}, neither from the cache nor from the Hugging Face hub ({cause}). '
        f'Without a network, point to a local folder, model_names="/path/to/{name.split("/")[-1]}", or copy a filled cache and '
        'point HF_HOME to it; HF_HUB_OFFLINE=1 then skips every request'
    )
