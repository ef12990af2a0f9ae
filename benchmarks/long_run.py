"""Whether a process that guides for long grows: its private memory after many calls, against that after a tenth of them.

    python -m benchmarks.long_run calls       20,000 guided calls, every one with texts of its own
    python -m benchmarks.long_run cycles      2,000 times: copy the model, prepare texts on both, copy these, call, delete

The first tenth fills the caches. What follows must add nothing: the bar is one percent. The texts are read by an encoder that
comes with the library, so its tokenizer, its warnings and its cache are part of what is measured.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.bodies import noisy
from benchmarks.corpus_memory import status
from benchmarks.networks import pair
from benchmarks.results import RESULTS, Bar, Figure, Result, counted, environment
from benchmarks.settings import Settings
from benchmarks.timing import Pace

COUNTS = {'calls': 20_000, 'cycles': 2_000}
FLAT = Bar('at most', 1.01)
KIND = {'calls': 'attention', 'cycles': 'film'}


def call(model: Any, number: int) -> None:
    """A guided call with texts that no other call has."""
    x, t = noisy(model, 2, torch.device('cpu'), torch.float32)
    model(x, t, texts=[f'a red circle above {number} stars', f'{number} small blue squares'], cond_scale=3.0)


def cycle(model: Any, number: int) -> None:
    """Copy the model, prepare texts on both, use what was prepared and a copy of it, and let go of everything."""
    x, t = noisy(model, 2, torch.device('cpu'), torch.float32)
    results = []
    for one in (model, copy.deepcopy(model)):
        prepared = one.prepare([f'a red circle above {number} stars', f'{number} small blue squares'])
        results += [one(x, t, text_condition=each, cond_scale=3.0) for each in (prepared, copy.deepcopy(prepared))]
    assert all(torch.equal(results[0], other) for other in results[1:])


RUNS: dict[str, Callable[[Any, int], None]] = {'calls': call, 'cycles': cycle}


@torch.inference_mode()
def measure(what: str, settings: Settings) -> list[Figure]:
    """The private memory of this process after all rounds, and the bytes of its tensors, against a tenth of the rounds."""
    from benchmarks.parts.growth import bytes_alive

    model, _ = pair('MLP', KIND[what], 'mini', tiny=True)  # a small network, so that a little is seen
    model.eval()
    many = 20 if settings.tiny else COUNTS[what]
    few = many // 10
    private, alive = [], []
    for number in settings.progress(range(1, many + 1), what):
        RUNS[what](model, number)
        if number in (few, many):
            alive.append(bytes_alive())
            private.append(status('RssAnon'))
    case, way = f'{many:,} {what}', {'calls': 'texts', 'cycles': 'prepare, deepcopy, del'}[what]
    return [
        counted(case, way, f'{few:,} {what}', private[1], private[0], 'bytes of private memory', FLAT),
        counted(case, way, f'{few:,} {what}', alive[1], alive[0], 'bytes alive', FLAT),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser('python -m benchmarks.long_run', description='Does a process that guides for long grow?')
    parser.add_argument('what', choices=COUNTS)
    parser.add_argument('--tiny', action='store_true', help='does it run? The figures mean nothing')
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    parser.add_argument('--out', type=Path, default=RESULTS / 'cpu', help='folder of the results')
    chosen = parser.parse_args(arguments)
    settings = Settings(Pace(1), chosen.tiny, quiet=chosen.quiet)
    start = time.perf_counter()
    figures = measure(chosen.what, settings)
    minutes = round((time.perf_counter() - start) / 60, 2)
    stated = {'dtype': 'torch.float32', 'tiny': chosen.tiny, 'minutes': minutes}
    command = f'python -m benchmarks.long_run {chosen.what}'
    result = Result(f'long_run_{chosen.what}', command, figures, stated, environment(settings.device))
    for one in figures:
        print(f'{one.case}: {one.ratio.median:.4f} x {one.against}, {one.value / 2**20:,.1f} MiB {one.unit} ({one.verdict})')
    print(result.write(chosen.out))


if __name__ == '__main__':
    main()
