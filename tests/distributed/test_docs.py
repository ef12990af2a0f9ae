"""The training page: its code runs, in one process, and its files are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.distributed.conftest import free_ports
from tests.releases import OLDER_TORCH

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'training.md').read_text(encoding='utf-8')


@pytest.fixture
def one_rank(monkeypatch):
    """What torchrun tells the only process of a group."""
    told = {'RANK': 0, 'WORLD_SIZE': 1, 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': free_ports(1)[0]}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_every_block_runs_in_order(one_rank):
    blocks = re.findall(r'^```python\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    names: dict[str, object] = {'__name__': 'training_page'}
    if OLDER_TORCH:  # the page says that it fails there
        blocks = [block for block in blocks if 'fully_shard(layer)' not in block]
    for block in blocks:
        exec(compile(block, 'docs/training.md', 'exec'), names)
    assert not dist.is_initialized()


def test_files_and_options_that_are_named_exist(example):
    files = set(re.findall(r'((?:examples|tests)/[\w/]+(?:\.py)?)', PAGE))
    assert len(files) >= 6
    assert [name for name in files if not (ROOT / name).exists()] == []
    options = example.train.arguments()._option_string_actions
    ours = set(re.findall(r'train\.py ([^\n`]*)', PAGE))
    assert [flag for line in ours for flag in re.findall(r'--[\w-]+', line) if flag not in options] == []
