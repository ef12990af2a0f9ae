"""What importing the package costs beside importing torch: pairs of fresh processes, in turn, and the medians.

    python benchmarks/import_time.py --pairs 15

Asserts that nothing heavy was loaded before it times anything; writes `benchmarks/results/import_time.json`. Processor time
is what the bar is about, since other work on the machine moves the wall clock; both are reported.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
PACKAGE = 'classifier_free_guidance_pytorch'
BAR = 1.1
MEASURE = """
import sys, time
wall, cpu = time.perf_counter(), time.process_time()
import {module}
print(time.perf_counter() - wall, time.process_time() - cpu, 'transformers' in sys.modules or 'open_clip' in sys.modules)
"""


def seconds_to_import(module: str) -> tuple[float, float]:
    """Wall and processor seconds of importing a module in a fresh process."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONDONTWRITEBYTECODE': ''}  # bytecode is kept, as for a user
    run = subprocess.run(
        [sys.executable, '-c', MEASURE.format(module=module)], capture_output=True, text=True, check=True, env=environment
    )
    wall, cpu, heavy = run.stdout.split()
    assert heavy == 'False', f'importing {module} loaded a model library'
    return float(wall), float(cpu)


def summary(pairs: list[tuple[tuple[float, float], tuple[float, float]]]) -> dict[str, dict[str, float]]:
    """Medians and spread of both clocks, and the median of the ratios within a pair."""
    found = {}
    for position, clock in enumerate(('wall', 'processor')):
        torch_seconds = [pair[0][position] for pair in pairs]
        our_seconds = [pair[1][position] for pair in pairs]
        ratios = [ours / theirs for ours, theirs in zip(our_seconds, torch_seconds, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        found[clock] = {
            'torch_seconds': round(statistics.median(torch_seconds), 3),
            'package_seconds': round(statistics.median(our_seconds), 3),
            'ratio': round(statistics.median(ratios), 3),
            'ratio_lower_quartile': round(low, 3),
            'ratio_upper_quartile': round(high, 3),
        }
    return found


def main(arguments: list[str] | None = None) -> dict[str, object]:
    """Run the benchmark and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--pairs', type=int, default=15, help='pairs of processes (default: %(default)s)')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results' / 'import_time.json')
    parsed = parser.parse_args(arguments)
    for module in ('torch', PACKAGE):  # fill the disk cache, and write the bytecode
        seconds_to_import(module)
    measured = summary([(seconds_to_import('torch'), seconds_to_import(PACKAGE)) for _ in range(parsed.pairs)])
    report: dict[str, object] = {
        'command': f'python benchmarks/import_time.py --pairs {parsed.pairs}',
        'date': datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        'machine': f'{platform.machine()}, {os.cpu_count()} CPUs',
        'python': platform.python_version(),
        'torch': torch.__version__,
        'bar': BAR,
        **measured,
    }
    parsed.out.parent.mkdir(parents=True, exist_ok=True)
    parsed.out.write_text(json.dumps(report, indent=1) + '\n', encoding='utf-8')
    print(json.dumps(report, indent=1))
    return report


if __name__ == '__main__':
    main()
