"""Reading a model's files: from the cache if they are there, else from the hub, else a clear error.

Cached files are used as they are, without asking the hub for updates: a frozen encoder should not change between two runs,
and a machine without a network should not wait for retries (hub clients repeat every request for many seconds).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError

T = TypeVar('T')


def read_model_files(
    adapter: str, name: str, read: Callable[[bool], T], how_local: str = 'model_names="/path/to/the/model"'
) -> T:
    """Return `read(local_files_only)`: called with True and, if that fails and the hub answers, with False.

    Args:
        adapter: The class that needs the files, for the error.
        name: A model name on the hub, or a local folder.
        read: Reads the files.
        how_local: How to use local files instead, for the error.

    Raises:
        MissingDependencyError: The files cannot be read. The message says why, and how to use a local folder.
        ConfigError: They can be read only by code that comes with them.
    """
    try:
        return read(True)
    except Exception as error:
        _refuse_remote_code(name, error)
        not_cached = error  # the clients' errors have no common base: missing files, missing packages, damaged files
    if looks_local(name):
        found = 'exists' if os.path.exists(name) else 'does not exist'
        raise MissingDependencyError(
            f'{adapter} could not read a model from the local path {name!r}, which {found} ({_first_line(not_cached)}); '
            'pass a folder written by save_pretrained, or a model name of the hub'
        ) from not_cached
    try:
        ask_hub(name)
        return read(False)
    except Exception as error:
        _refuse_remote_code(name, error)
        # Both causes: what looks like a missing network may be a missing package, or the other way round.
        raise MissingDependencyError(
            f'{adapter} could not read {name!r}, neither from the cache nor from the Hugging Face hub '
            f'(cache: {_first_line(not_cached)}; hub: {_first_line(error)}). '
            f'Without a network, point to local files, {how_local}, or copy a filled cache and point HF_HOME to it; '
            'HF_HUB_OFFLINE=1 then skips every request'
        ) from error


def looks_local(name: str) -> bool:
    """Return whether the name can only be a path: it exists, or it is written as one."""
    # unlike `Path.exists`, this says no to a name that no disk takes, and in a folder that is closed
    return os.path.exists(name) or name.startswith(('.', '/', '~')) or '\\' in name or name.count('/') > 1


def ask_hub(name: str) -> None:
    """Ask the hub once whether it has this model. Unlike a request for a file, this one is not retried for half a minute."""
    from huggingface_hub import HfApi

    HfApi().model_info(name, timeout=10)


def _refuse_remote_code(name: str, error: Exception) -> None:
    """Raise `ConfigError` where transformers asked for permission to run code from the model's repository."""
    if 'trust_remote_code' in str(error):
        raise ConfigError(
            f'{name!r} cannot be read without code from its own repository, and this library never runs such code'
        ) from error


def _first_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its message: clients' messages have many."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), '')
    return f'{type(error).__name__}: {first[:200].rstrip(".")}'
