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


def read_model_files(what: str, name: str, read: Callable[[bool], T], how_local: str = 'model_names="/path/to/the/model"') -> T:
    """Call `read(local_files_only)`, first with True and, where that finds nothing and a hub answers, with False.

    Args:
        what: who needs the files, for the error.
        name: a model name on the hub, or a local folder.
        read: reads the files.
        how_local: how to point to local files instead, for the error.

    Raises:
        MissingDependencyError: they cannot be read; it says why and how to point to a local folder.
    """
    try:
        return read(True)
    except Exception as error:
        not_cached = error  # the clients' errors have no common base: missing files, missing packages, damaged files
    if looks_local(name):
        raise unreadable(what, name, f'({_cause(not_cached)})', how_local) from not_cached
    try:
        ask_hub(name)
        return read(False)
    except Exception as error:
        # Both causes: what looks like a missing network may be a missing package, or the other way round.
        raise unreadable(what, name, f'(cache: {_cause(not_cached)}; hub: {_cause(error)})', how_local) from error


def looks_local(name: str) -> bool:
    """Whether the name can only be a path: it exists, or it is written as one."""
    return Path(name).exists() or name.startswith(('.', '/', '~')) or '\\' in name or name.count('/') > 1


def ask_hub(name: str) -> None:
    """Ask once whether the hub has this model; unlike a file request, this call is not repeated for half a minute."""
    from huggingface_hub import HfApi

    HfApi().model_info(name, timeout=10)


def unreadable(what: str, name: str, causes: str, how_local: str) -> MissingDependencyError:
    """The error for files that cannot be read: the cause, and the ways out."""
    if looks_local(name):
        seen = 'exists' if Path(name).exists() else 'does not exist'
        return MissingDependencyError(
            f'{what} could not read a model from the local path {name!r}, which {seen} {causes}; '
            'pass a folder written by save_pretrained, or a model name of the hub'
        )
    return MissingDependencyError(
        f'{what} could not read {name!r}, neither from the cache nor from the Hugging Face hub {causes}. '
        f'Without a network, point to local files, {how_local}, or copy a filled cache and point HF_HOME to it; '
        'HF_HUB_OFFLINE=1 then skips every request'
    )


def _cause(error: BaseException) -> str:
    """An error in one line; clients' messages go on for many."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), '')
    return f'{type(error).__name__}: {first[:200].rstrip(".")}'
