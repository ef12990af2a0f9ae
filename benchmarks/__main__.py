"""`python -m benchmarks`: run parts of the suite, and make the report."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch

from benchmarks.parts import ON_GPU, PARTS, load
from benchmarks.report import report
from benchmarks.results import RESULTS, Result, environment
from benchmarks.settings import Settings
from benchmarks.timing import Pace

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    listed, more = ('\n'.join(f'  {name:13} {what}' for name, what in parts.items()) for parts in (PARTS, ON_GPU))
    arguments = argparse.ArgumentParser(
        'python -m benchmarks',
        description='What guidance costs, as ratios against code written by hand. Parts:\n'
        f'{listed}\n  report        the chart, the tables of docs/performance.md and the bars, from the results\n'
        f'and for a GPU, where they are asked for by name:\n{more}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument('parts', nargs='*', metavar='part', help='what to run (default: every part, and the report)')
    arguments.add_argument('--out', type=Path, default=RESULTS, help='folder of cpu/ and cuda/ (default: benchmarks/results)')
    arguments.add_argument(
        '--rounds', type=int, default=24, help='rounds in which every call is timed once (default: %(default)s)'
    )
    arguments.add_argument('--threads', type=int, help="threads of torch (default: torch's choice)")
    arguments.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='default: %(default)s')
    arguments.add_argument('--dtype', choices=DTYPES, help='default: bfloat16 on a GPU, else float32')
    arguments.add_argument('--baseline', type=Path, help='a folder with the 0.7.1 release, in place of installing it from PyPI')
    arguments.add_argument('--tiny', action='store_true', help='tiny networks: does the suite run? The figures mean nothing')
    arguments.add_argument('--quiet', action='store_true', help='no progress bars')
    return arguments


def settings_of(chosen: argparse.Namespace) -> Settings:
    """The settings that the command line spells."""
    device = torch.device(chosen.device)
    dtype = DTYPES[chosen.dtype or ('bfloat16' if device.type == 'cuda' else 'float32')]
    pace = Pace(2, 1e-4, 1) if chosen.tiny else Pace(chosen.rounds)
    return Settings(pace, chosen.tiny, device, dtype, chosen.baseline, chosen.quiet)


def run(part: str, settings: Settings, command: str) -> Result:
    """Measure one part."""
    start, figures = time.perf_counter(), []
    try:
        for figure in load(part).measure(settings):
            figures.append(figure)  # one by one: what was measured before an interruption is kept
    except KeyboardInterrupt:
        print(f'{part}: interrupted after {len(figures)} figures')
    minutes = round((time.perf_counter() - start) / 60, 2)
    stated = {'rounds': settings.pace.rounds, 'dtype': str(settings.dtype), 'tiny': settings.tiny, 'minutes': minutes}
    return Result(part, command, figures, stated, environment(settings.device))


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for."""
    chosen = parser().parse_args(arguments)
    unknown = [part for part in chosen.parts if part not in (*PARTS, *ON_GPU, 'report')]
    if unknown:
        parser().error(f'no part is called {", ".join(unknown)}: choose out of {", ".join((*PARTS, *ON_GPU, "report"))}')
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    settings = settings_of(chosen)
    command = shlex.join(('python', '-m', 'benchmarks', *(sys.argv[1:] if arguments is None else arguments)))
    for part in [part for part in chosen.parts or PARTS if part != 'report']:
        result = run(part, settings, command)
        print(f'{part}: {result.settings["minutes"]} minutes, {result.write(chosen.out / settings.device.type)}')
    if not chosen.parts or 'report' in chosen.parts:
        report(chosen.out)


if __name__ == '__main__':
    main()
