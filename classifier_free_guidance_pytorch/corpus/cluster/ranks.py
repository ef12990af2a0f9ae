"""Several processes on one store: which shards each takes, and when it waits. All they share is the folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from classifier_free_guidance_pytorch.corpus.scan.first_pass import scratch_path
from classifier_free_guidance_pytorch.corpus.store.layout import CAPTIONS, manifest_path, plan_path
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError, warn

_PATIENCE = 900.0  # seconds without a sign of life from the process that reads the captions


@dataclass(frozen=True)
class Rank:
    """One of `count` processes; numbers start at 0.

    Raises:
        ConfigError: The number is not that of one of the processes.

    Example:
        >>> list(Rank(1, 3).share(range(8)))
        [1, 4, 7]
    """

    number: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise ConfigError(f'a rank is at least 0 and below the number of processes, but RANK={self.number} of {self.count}')

    @staticmethod
    def from_environment() -> Rank:
        """Return the rank that `torchrun` and most other launchers state in RANK and WORLD_SIZE; else the only process.

        Raises:
            ConfigError: The variables are not numbers, or do not fit together.
        """
        given = {name: os.environ.get(name, default) for name, default in (('RANK', '0'), ('WORLD_SIZE', '1'))}
        try:
            return Rank(int(given['RANK']), int(given['WORLD_SIZE']))
        except ValueError:
            raise ConfigError(
                f'RANK and WORLD_SIZE are whole numbers, RANK below WORLD_SIZE, but the environment has {given}'
            ) from None

    def title(self, what: str) -> str:
        """Return a title for a progress bar, with the rank if there are several."""
        return what if self.count == 1 else f'{what}, rank {self.number} of {self.count}'

    @property
    def is_leader(self) -> bool:
        """Whether this process reads the captions, and prints for all."""
        return self.number == 0

    def share(self, shards: range) -> range:
        """Return the shards of this process."""
        return shards[self.number :: self.count]


@contextmanager
def lock_folder(directory: Path, rank: Rank) -> Iterator[None]:
    """Keep other runs out of a folder while a process, or the ranks of one run, use it. A killed process holds no lock.

    All ranks share the lock of the folder itself. Rank 0 also locks the folder of the captions: there is one rank 0 at a time.
    Where the disk keeps no locks, a warning says so.

    Raises:
        UsageError: Another run is using the folder.
    """
    captions = directory / CAPTIONS
    with ExitStack() as stack:
        if os.name == 'posix':  # no other system can open folders
            _lock_or_refuse(stack, directory, directory, exclusive=rank.count == 1)
            if rank.is_leader:
                captions.mkdir(exist_ok=True)
                _lock_or_refuse(stack, captions, directory, exclusive=True)
        yield


def _lock_or_refuse(stack: ExitStack, folder: Path, directory: Path, exclusive: bool) -> None:
    """Lock a folder until the stack is closed; messages name `directory`."""
    descriptor = os.open(folder, os.O_RDONLY)
    stack.callback(os.close, descriptor)
    if not _lock(descriptor, exclusive, wait=False):
        raise UsageError(f'another run is using {directory}: wait for it, or pass a different folder')
    if folder == directory and not _is_kept(folder):
        warn(
            f'the disk of {directory} keeps no locks, as some disks of a network do not, so a second run in this folder would '
            'not be noticed: take care that there is none'
        )


def _is_kept(folder: Path) -> bool:
    """Return whether a folder that is locked is locked: a second lock, of the whole of it, has to be refused."""
    second = os.open(folder, os.O_RDONLY)
    try:
        return not _lock(second, exclusive=True, wait=False)
    finally:
        os.close(second)


@contextmanager
def lock_plan(directory: Path) -> Iterator[None]:
    """Let ranks that end at the same time finish the store one after the other."""
    with plan_path(directory).open('rb') as plan:
        _lock(plan.fileno(), exclusive=True, wait=True)
        yield


def _lock(descriptor: int, exclusive: bool, wait: bool) -> bool:
    """Lock an open file for as long as it is open; return False if another process holds it, True on a system without locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    with suppress(OSError):  # a file system without locks
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
    return True


def wait_for_plan(directory: Path, patience: float = _PATIENCE) -> None:
    """Wait until rank 0 has read the captions, for as long as it shows a sign of life.

    Raises:
        UsageError: There was none for `patience` seconds.
    """
    since = time.time()
    while not (plan_path(directory).exists() or manifest_path(directory).exists()):
        with suppress(OSError):
            since = max([since, *(file.stat().st_mtime for file in scratch_path(directory).iterdir())])
        if time.time() - since > patience:
            raise UsageError(
                f'rank 0 has not written a plan to {directory}, and has done nothing there for {patience:.0f} seconds: read '
                'its output; all ranks need the same folder'
            )
        time.sleep(0.2)
