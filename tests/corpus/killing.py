"""Runs `cfg-embed` and kills it, again and again, and compares what it leaves in the end with a run that was left in peace.

    python -m tests.corpus.killing steps FOLDER 1       # at its first step towards the disk, its second, its third ...
    python -m tests.corpus.killing random FOLDER 50     # fifty times at a random moment, a store until it is complete
    python -m tests.corpus.killing ranks FOLDER 1       # one of two ranks at each of its steps, and starts it again

A process of its own: libraries are imported once, before anything runs in them, and every run is a fork. Prints a JSON object.
"""

from __future__ import annotations

import json
import os
import pathlib
import random
import shutil
import signal
import sys
import threading
import time
from itertools import count
from pathlib import Path

# before the libraries that read them are imported
os.environ.update(OMP_NUM_THREADS='1', TOKENIZERS_PARALLELISM='false', HF_HUB_OFFLINE='1')

SIZES, COLOURS, SHAPES = ('small', 'large'), ('red', 'green', 'blue'), ('circle', 'square')
CAPTIONS = [
    f'a {size} {colour} {shape}{end}' for size in SIZES for colour in COLOURS for shape in SHAPES for end in ('', ' above a star')
]
STEPS = ('fsync', 'replace', 'unlink', 'mkdir', 'rmdir')


def kill_at(step: int) -> None:
    """Kill this process when it is about to take its so-many-th step towards the disk."""
    steps = count(1)

    def counted(function):
        def call(*args, **kwargs):
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    accessor = getattr(pathlib, '_normal_accessor', None)  # in Python 3.10, paths call what it took from `os` at import
    for name in STEPS:
        call = counted(getattr(os, name))
        for owner in (os, accessor):
            if hasattr(owner, name):
                setattr(owner, name, call)


def started(out: Path, step: int | None = None) -> int:
    """Start `cfg-embed` in a fork, which is killed at a step, and return its process."""
    from classifier_free_guidance_pytorch.corpus.command import main

    process = os.fork()
    if process == 0:
        code = 99
        try:
            if step is not None:
                kill_at(step)
            options = ['--model-types', 'mini', '--shard-rows', '7', '--batch-size', '4', '--quiet']
            code = main([str(out.parent / 'captions.txt'), '--out', str(out), *options])
        finally:
            os._exit(code)
    return process


def ended(process: int) -> bool:
    """Wait for a process; whether it was killed."""
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status != 0


def was_killed(out: Path, step: int | None = None, seconds: float | None = None) -> bool:
    """Run `cfg-embed` in a fork, killed at a step or after some seconds if it is not done by then; whether it was killed."""
    process = started(out, step)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)
    return ended(process)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def at_steps(folder: Path, stride: int) -> dict[str, int]:
    """One store per step: killed there, resumed, compared."""
    reference = files_of(folder / 'reference')
    for kills in count():
        step, out = 1 + kills * stride, folder / 'killed'
        if not was_killed(out, step=step):
            return {'kills': kills, 'stores': kills}
        assert not was_killed(out)
        assert files_of(out) == reference, f'another store after a kill at step {step}'
        shutil.rmtree(out)
    raise AssertionError


def at_random(folder: Path, kills: int) -> dict[str, int]:
    """Stores that are killed until they are complete, at moments of up to the time that a whole run takes."""
    reference = files_of(folder / 'reference')
    started = time.perf_counter()
    assert not was_killed(folder / 'timed')
    whole = time.perf_counter() - started
    generator, done, stores = random.Random(0), 0, 0
    while done < kills:
        out = folder / f'random-{stores}'
        while done < kills and was_killed(out, seconds=generator.uniform(0, whole)):
            done += 1
        assert not was_killed(out)
        assert files_of(out) == reference, f'another store, {stores}, after kills at random'
        stores += 1
    return {'kills': done, 'stores': stores}


def started_rank(out: Path, rank: int, step: int | None = None) -> int:
    """Start one of two ranks, killed at a step, and return its process."""
    os.environ.update(RANK=str(rank), WORLD_SIZE='2')
    process = started(out, step)
    del os.environ['RANK'], os.environ['WORLD_SIZE']
    return process


def at_steps_of_a_rank(folder: Path, stride: int) -> dict[str, int]:
    """One store per step: a rank is killed there beside the other, is started again by itself, and the store is compared."""
    reference = files_of(folder / 'reference')
    kills = {0: 0, 1: 0}
    for victim in kills:
        while True:
            out = folder / f'rank-{victim}-{kills[victim]}'
            other = started_rank(out, 1 - victim)
            if not ended(started_rank(out, victim, 1 + kills[victim] * stride)):
                assert not ended(other)
                break
            assert not ended(started_rank(out, victim)), 'the rank that was killed, started again'
            assert not ended(other), 'the other one'
            assert files_of(out) == reference, f'another store after a kill of rank {victim}, the {kills[victim]}th'
            kills[victim] += 1
    return {'kills': sum(kills.values()), 'stores': sum(kills.values())}


def run(mode: str, folder: Path, number: int) -> dict[str, int]:
    from tqdm import tqdm

    from classifier_free_guidance_pytorch.corpus import TextEmbedder

    tqdm.set_lock(threading.RLock())  # its own is shared by forks, and one that is killed may hold it
    embedder = TextEmbedder('mini')
    embedder.embed(['a circle'])  # libraries and weights are loaded once: a fork finds them
    (folder / 'captions.txt').write_text('\n'.join(CAPTIONS), encoding='utf-8')
    assert not was_killed(folder / 'reference')
    return {'steps': at_steps, 'random': at_random, 'ranks': at_steps_of_a_rank}[mode](folder, number)


if __name__ == '__main__':
    print(json.dumps(run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
