"""The modules of the example, and two processes to run things in."""

from __future__ import annotations

import importlib
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as mp
from packaging.version import Version

if Version(torch.__version__) < Version('2.6'):
    collect_ignore_glob = ['test_*.py']  # there is no public fully_shard

EXAMPLE = Path(__file__).parents[2] / 'examples' / 'distributed'
MODULES = ('data', 'denoiser', 'strategies', 'checkpoint', 'train')


def load_example() -> SimpleNamespace:
    """The modules of the example; their short names stay free for others."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        return SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope='session')
def example():
    return load_example()


@contextmanager
def one_thread() -> Iterator[None]:
    before = os.environ.get('OMP_NUM_THREADS')
    os.environ['OMP_NUM_THREADS'] = '1'
    try:
        yield
    finally:
        os.environ.pop('OMP_NUM_THREADS') if before is None else os.environ.update(OMP_NUM_THREADS=before)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(('127.0.0.1', 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def in_two_processes(work, *args) -> list:
    """What `work(rank, *args)` returned on each of two ranks."""
    with tempfile.TemporaryDirectory() as folder, one_thread():
        mp.spawn(_worker, (folder, work, args), nprocs=2)
        return [torch.load(f'{folder}/{rank}.pt', weights_only=False) for rank in range(2)]


def _worker(rank: int, folder: str, work, args) -> None:
    torch.save(work(rank, *args), f'{folder}/{rank}.pt')
