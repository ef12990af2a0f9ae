"""A run that is killed loses nothing: resumed, it ends with the bytes of a run that was left in peace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='the runs are forks')


def kill(mode: str, folder: Path, number: int) -> dict[str, int]:
    command = [sys.executable, '-m', 'tests.corpus.killing', mode, str(folder), str(number)]
    environment = {name: value for name, value in os.environ.items() if name not in ('RANK', 'WORLD_SIZE')}
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


def test_killed_at_steps_towards_the_disk(tmp_path):
    """Every eleventh of them; `python -m tests.corpus.killing steps FOLDER 1` takes them all."""
    done = kill('steps', tmp_path, 11)
    assert done['kills'] >= 8


def test_a_rank_that_is_killed_and_started_again(tmp_path):
    """At every twentieth of its steps, beside the other; `python -m tests.corpus.killing ranks FOLDER 1` takes them all."""
    done = kill('ranks', tmp_path, 20)
    assert done['kills'] >= 4


def test_killed_at_random_moments(tmp_path):
    """A few; `python -m tests.corpus.killing random FOLDER 50` does more."""
    done = kill('random', tmp_path, 5)
    assert done['kills'] == 5
    assert done['stores'] >= 1
