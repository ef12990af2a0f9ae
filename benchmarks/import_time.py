"""What importing the package costs beside importing torch: pairs of fresh processes, in turn.

    python -m benchmarks.import_time

Asserts that no model library was loaded before a time counts. Both clocks are reported: that of the wall is what a user waits
for, and that of the processor stays when other work shares the machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import torch

from benchmarks.results import ROOT, Bar, Result, environment, timed

PACKAGE = 'classifier_free_guidance_pytorch'
MODEL_LIBRARIES = ('transformers', 'open_clip', 'diffusers', 'torchvision')
BAR = Bar('at most', 1.1)
MEASURE = """
import sys, time
wall, processor = time.perf_counter(), time.process_time()
import {module}
print(time.perf_counter() - wall, time.process_time() - processor, *sys.modules)
"""


def seconds_to_import(module: str) -> tuple[float, float]:
    """Seconds of the wall and of the processor that the first import of a module takes, in a process of its own."""
    # bytecode is kept, as it is for a user
    with_bytecode = {**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONDONTWRITEBYTECODE': ''}
    command = [sys.executable, '-c', MEASURE.format(module=module)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=with_bytecode)
    wall, processor, *loaded = run.stdout.split()
    heavy = set(MODEL_LIBRARIES) & set(loaded)
    assert not heavy, f'importing {module} loaded {heavy}'
    return float(wall), float(processor)


def main(pairs: int = 24) -> Result:
    """Time the pairs and write the result."""
    for module in ('torch', PACKAGE):  # fills the disk cache, and writes the bytecode
        seconds_to_import(module)
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for number in range(pairs):
        for module in ('torch', PACKAGE) if number % 2 else (PACKAGE, 'torch'):
            (ours if module == PACKAGE else theirs).append(seconds_to_import(module))
    figures = []
    for position, clock in enumerate(('wall', 'processor')):
        seconds = [[one[position] for one in measured] for measured in (ours, theirs)]
        figures.append(timed(f'{clock} time of a fresh process', f'import {PACKAGE}', 'import torch', *seconds, bar=BAR))
    command = f'python -m benchmarks.import_time --pairs {pairs}'
    result = Result('import_time', command, figures, {'pairs': pairs}, environment(torch.device('cpu')))
    for figure in figures:
        spread = f'{figure.ratio.lower_quartile:.3f} to {figure.ratio.upper_quartile:.3f}'
        print(f'{figure.case}: {figure.ratio.median:.3f} x {figure.against} (quartiles {spread}) {figure.verdict}')
    print(result.write())
    return result


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--pairs', type=int, default=24, help='pairs of processes (default: %(default)s)')
    main(parser.parse_args().pairs)
