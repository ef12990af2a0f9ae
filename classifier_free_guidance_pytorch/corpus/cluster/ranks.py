"""Several processes on one store: which shards are whose, and who waits for whom. All they share is the folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from classifier_free_guidance_pytorch.corpus.scan.first_pass import scratch_path
from classifier_free_guidance_pytorch.corpus.store.manifest import captions_path, manifest_path, plan_path
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError

_PATIENCE = 900.0  # seconds without a sign of life of the process that reads the captions


@dataclass(frozen=True)
class Rank:
    """One of `count` processes, from 0.

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
    def of_environment() -> Rank:
        """What `torchrun`, and most other launchers, say in RANK and WORLD_SIZE; else the only process."""
        given = {name: os.environ.get(name, default) for name, default in (('RANK', '0'), ('WORLD_SIZE', '1'))}
        try:
            return Rank(int(given['RANK']), int(given['WORLD_SIZE']))
        except ValueError:
            raise ConfigError(
                f'RANK and WORLD_SIZE are whole numbers, RANK below WORLD_SIZE, but the environment has {given}'
            ) from None

    def title(self, what: str) -> str:
        """What this process is doing, and which of several it is."""
        return what if self.count == 1 else f'{what}, rank {self.number} of {self.count}'

    @property
    def leads(self) -> bool:
        """Whether this process reads the captions and speaks for all."""
        return self.number == 0

    def share(self, shards: range) -> range:
        """The shards of this process."""
        return shards[self.number :: self.count]


@contextmanager
def at_work(directory: Path, rank: Rank) -> Iterator[None]:
    """Keep other runs out of a folder while one process, or several ranks that share it, are at work; the dead hold nothing.

    The ranks share the folder itself, and rank 0 has that of the captions for itself: there is one rank 0 at a time.

    Raises:
        UsageError: another run is at work there.
    """
    captions = captions_path(directory, 0).parent
    with ExitStack() as held:
        if os.name == 'posix':  # which alone opens folders
            _hold(held, directory, directory, exclusive=rank.count == 1)
            if rank.leads:
                captions.mkdir(exist_ok=True)
                _hold(held, captions, directory, exclusive=True)
        yield


def _hold(held: ExitStack, folder: Path, directory: Path, exclusive: bool) -> None:
    """Lock a folder until `held` is left."""
    descriptor = os.open(folder, os.O_RDONLY)
    held.callback(os.close, descriptor)
    if not _lock(descriptor, exclusive, wait=False):
        raise UsageError(f'another run is at work in {directory}: wait for it, or pass another folder')


@contextmanager
def one_at_a_time(directory: Path) -> Iterator[None]:
    """Ranks that end at the same moment finish the store one after the other."""
    with plan_path(directory).open('rb') as plan:
        _lock(plan.fileno(), exclusive=True, wait=True)
        yield


def _lock(descriptor: int, exclusive: bool, wait: bool) -> bool:
    """Lock an open file for as long as it is open; False if another process holds it. A system without locks says True."""
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
    """Wait until rank 0 has read the captions, for as long as it gives a sign of life.

    Raises:
        UsageError: it gives none.
    """
    since = time.time()
    while not (plan_path(directory).exists() or manifest_path(directory).exists()):
        with suppress(OSError):
            since = max([since, *(file.stat().st_mtime for file in scratch_path(directory).iterdir())])
        if time.time() - since > patience:
            raise UsageError(
                f'rank 0 has not written a plan to {directory}, and has done nothing there for {patience:.0f} seconds: look at '
                'what it says; all ranks need the same folder'
            )
        time.sleep(0.2)
