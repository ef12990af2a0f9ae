"""Fifty guided steps with T5-base and ViT-B-32, at random weights, against loops by hand and the 0.7.1 release.

Every run gets texts that no run had before, so each pays for encoding them. The release encodes both texts of both branches at
every step, so a few of its steps are enough to know the cost of one; the ratio is that of the time per step, and its encoding is
counted as often as it happens.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TextIO

import torch

from benchmarks.encoders import save_clip, save_t5, texts
from benchmarks.results import ROOT, Bar, Figure, assert_equal, timed
from benchmarks.settings import Settings

RELEASE = 'classifier-free-guidance-pytorch==0.7.1'
BESIDE = ('environs', 'marshmallow', 'python-dotenv')  # what it needs that this version does not
OLD = 'the 0.7.1 release'
HAND = 'a diffusers-style loop by hand'
BATCH = {'MLP': 4, 'U-Net': 1}
_numbers = count()


def install_release(folder: Path) -> Path:
    """The release and what it lacks, in a folder of its own, without what is installed already."""
    pip = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--disable-pip-version-check', '--target', str(folder)]
    subprocess.run([*pip, RELEASE, *BESIDE], check=True)
    return folder


class Worker:
    """A process that samples on request; the file takes what it prints, which is shown if it fails."""

    def __init__(self, setup: dict[str, Any], log: TextIO) -> None:
        command = [sys.executable, '-m', 'benchmarks.sampling_worker', json.dumps(setup)]
        self.log = log
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        self.package = self._answer()['package']

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise RuntimeError(f'the worker stopped:\n{self.log.read()[-3000:]}')
        return json.loads(line)

    def sample(self, network: str, way: str, steps: int, batch: int, save: Path | None = None, number: int = -1) -> float:
        """Seconds from texts to sample, on texts that are new unless a number says otherwise."""
        number = next(_numbers) if number < 0 else number
        captions = [f'{text}, number {number}' for text in texts(batch)]
        request = {'network': network, 'way': way, 'steps': steps, 'texts': captions}
        assert self.process.stdin is not None
        print(json.dumps(request | ({'save': str(save)} if save else {})), file=self.process.stdin, flush=True)
        spent: float = self._answer()['seconds']
        return spent

    def stop(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def assert_same_samples(new: Worker, old: Worker, network: str, ways: list[str], folder: Path) -> None:
    """Both releases and the loop by hand draw the same samples from the same noise, texts and weights."""
    found = {}
    for worker, way in [(old, 'texts'), *((new, way) for way in ways)]:
        path = folder / 'sample.pt'
        worker.sample(network, way, 3, BATCH[network], path, number=0)
        found[way if worker is new else OLD] = torch.load(path)
    for way, output in found.items():
        assert_equal(output, found[OLD], f'{network}, {way}', rtol=1e-3, atol=1e-3 * float(found[OLD].abs().max()))


def measure(settings: Settings) -> list[Figure]:
    """Both networks; the bar is about the README's MLP, whose own time is small beside the encoders'."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        baseline = settings.baseline.resolve() if settings.baseline else install_release(folder / 'release')
        setup = {
            't5': str(save_t5(folder / 't5', settings.tiny)), 'clip': str(save_clip(folder / 'clip', settings.tiny)),
            'weights': str(folder), 'networks': list(BATCH), 'tiny': settings.tiny, 'device': str(settings.device),
            'threads': torch.get_num_threads(),
        }  # fmt: skip
        with workers(setup, baseline, folder) as (new, old):
            return [figure for network in BATCH for figure in figures_of(network, new, old, folder, settings)]


@contextmanager
def workers(setup: dict[str, Any], baseline: Path, folder: Path) -> Iterator[tuple[Worker, Worker]]:
    """One process with this version, and one with the release."""
    with ExitStack() as stack:
        found = []
        for name, where in (('new', None), ('old', str(baseline))):
            log = stack.enter_context(open(folder / f'{name}.log', 'w+', encoding='utf-8'))
            found.append(Worker(setup | {'baseline': where}, log))
            stack.callback(found[-1].stop)
        new, old = found
        assert Path(old.package).is_relative_to(baseline), f'the release was not found: {old.package}'
        yield new, old


def figures_of(network: str, new: Worker, old: Worker, folder: Path, settings: Settings) -> list[Figure]:
    """One network, all ways in turn."""
    large = network == 'U-Net'
    ways = ['texts', 'batched', 'by hand'] if large else ['texts', 'prepared', 'batched', 'by hand']
    assert_same_samples(new, old, network, ways, folder)
    steps, old_steps = (4, 2) if settings.tiny else (50, 3)
    rounds = min(settings.pace.rounds, 5 if large else 20)
    batch = BATCH[network]
    found: dict[str, list[float]] = {way: [] for way in (*ways, OLD)}
    for number in settings.progress(range(rounds), f'sampling, {network}'):
        order = list(found)[number % len(found) :] + list(found)[: number % len(found)]
        for way in order:
            if way == OLD:
                found[OLD].append(old.sample(network, 'texts', old_steps, batch) / old_steps * steps)
            else:
                found[way].append(new.sample(network, way, steps, batch))
    case = f'{network}, film, {steps} steps, batch {batch}'
    note = f'the release: {old_steps} steps measured, time per step compared'
    bar = None if large else Bar('at most', 0.1)
    against_old = [timed(case, way, OLD, found[way], found[OLD], bar if way == 'texts' else None, note) for way in ways[:-1]]
    return against_old + [timed(case, way, HAND, found[way], found['by hand']) for way in ways[:-1]]
