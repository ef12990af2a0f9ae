"""What importing the package costs beside importing torch: pairs of fresh processes, in turn.

Processor time is what the bar is about, since other work on the machine moves the wall clock; both are reported.
"""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.results import ROOT, Bar, Figure, timed
from benchmarks.settings import Settings

PACKAGE = 'classifier_free_guidance_pytorch'
MEASURE = """
import sys, time
wall, cpu = time.perf_counter(), time.process_time()
import {module}
print(time.perf_counter() - wall, time.process_time() - cpu, 'transformers' in sys.modules or 'open_clip' in sys.modules)
"""


def seconds_to_import(module: str) -> tuple[float, float]:
    """Wall and processor seconds of importing a module in a fresh process, which loads no model library."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONDONTWRITEBYTECODE': ''}  # bytecode is kept, as for a user
    run = subprocess.run(
        [sys.executable, '-c', MEASURE.format(module=module)], capture_output=True, text=True, check=True, env=environment
    )
    wall, cpu, heavy = run.stdout.split()
    assert heavy == 'False', f'importing {module} loaded a model library'
    return float(wall), float(cpu)


def measure(settings: Settings) -> list[Figure]:
    """Both clocks."""
    for module in ('torch', PACKAGE):  # fill the disk cache, and write the bytecode
        seconds_to_import(module)
    rounds = min(settings.pace.rounds, 12)
    found: dict[str, list[tuple[float, float]]] = {'torch': [], PACKAGE: []}
    for number in settings.progress(range(rounds), 'imports'):
        for module in ('torch', PACKAGE) if number % 2 else (PACKAGE, 'torch'):
            found[module].append(seconds_to_import(module))
    return [
        timed(
            f'import {PACKAGE}', clock, 'import torch', [one[position] for one in found[PACKAGE]],
            [one[position] for one in found['torch']], Bar('at most', 1.1) if clock == 'processor time' else None,
        )
        for position, clock in enumerate(('wall clock', 'processor time'))
    ]  # fmt: skip
