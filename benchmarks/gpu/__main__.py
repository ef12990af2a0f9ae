"""`bash scripts/gpu`: everything that only a GPU can answer."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu import results, wheels
from benchmarks.gpu.running import FAILED, STOPPED, Outcome, run_all
from benchmarks.gpu.steps import all_steps

ROOT = wheels.ROOT
HAS_GPU = 'import sys, torch; sys.exit(not torch.cuda.is_available())'
EPILOG = """\
On the machine with a network:
  bash scripts/gpu --pack                       fills .wheels with what a bare machine may lack
On the machine with the GPU, to which the working tree and .wheels were copied:
  bash scripts/gpu --minutes 9                  every step, the most important first
  bash scripts/gpu --only train-shapes          one of them
Anywhere:
  bash scripts/gpu --dry-run                    every step on the CPU, at tiny sizes

Logs, JSON and pictures of every step go to runs/gpu; what to take home goes to --out: the summary, all of that in
one archive, and the models that were trained, at most eight files of 16 MiB.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    arguments = argparse.ArgumentParser(
        'bash scripts/gpu', description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [step.name for step in all_steps('cuda', False)]
    arguments.add_argument('--only', nargs='+', choices=names, metavar='STEP', help=f'some of: {", ".join(names)}')
    arguments.add_argument('--tests', default='', metavar='EXPRESSION', help="which of tests/gpu, as pytest's -k (default: all)")
    arguments.add_argument('--minutes', type=float, default=9.0, help='for all steps together (default: %(default)s)')
    arguments.add_argument('--dry-run', action='store_true', help='on the CPU, at tiny sizes')
    arguments.add_argument('--out', type=Path, default=ROOT / 'out' / 'gpu', help='what to take home (default: out/gpu)')
    arguments.add_argument('--work', type=Path, default=ROOT / 'runs' / 'gpu', help='of all steps (default: runs/gpu)')
    arguments.add_argument('--wheels', type=Path, default=wheels.FOLDER, help='folder of wheels (default: .wheels)')
    arguments.add_argument('--pack', action='store_true', help='fill the folder of wheels, and nothing else')
    arguments.add_argument('--python', nargs='+', default=wheels.PYTHONS, help='for which to pack (default: %(default)s)')
    return arguments


def pack(folder: Path, pythons: Sequence[str]) -> None:
    """Fill the folder of wheels, and say what does not fit."""
    left_out = wheels.pack(folder, pythons)
    packed = sum(wheel.stat().st_size for wheel in folder.glob('*.whl'))
    count, tree = len(list(folder.glob('*.whl'))), wheels.tree_bytes()
    print(f'{count} wheels, {packed / 2**20:.1f} MiB, beside a working tree of {tree / 2**20:.1f} MiB')
    if left_out:
        print(f'no room for {", ".join(left_out)}; --python names fewer versions')


def environment_with(target: Path, compiled: Path) -> dict[str, str]:
    """Return the environment of the steps: this repository first, and nothing of a network."""
    paths = [str(ROOT), str(ROOT / 'demo'), str(target.resolve())]
    given = [path for path in os.environ.get('PYTHONPATH', '').split(os.pathsep) if path and path not in paths]
    return {
        **os.environ, 'PYTHONPATH': os.pathsep.join([*paths, *given]), 'PYTHONUNBUFFERED': '1', 'HF_HUB_OFFLINE': '1',
        'TOKENIZERS_PARALLELISM': 'false', 'TORCHINDUCTOR_CACHE_DIR': str(compiled.resolve()),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return 1 if a step failed."""
    chosen = parser().parse_args(arguments)
    if chosen.pack:
        pack(chosen.wheels, chosen.python)
        return 0
    if not chosen.dry_run and subprocess.run([sys.executable, '-c', HAS_GPU], check=False).returncode:
        print('this Python has no torch that sees a GPU: try --dry-run, which runs on the CPU', file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the step that is running is ended as well
    work, outcomes = chosen.work, []
    target = work.parent / f'{work.name}-installed'
    shutil.rmtree(work, ignore_errors=True)  # what an earlier run found is not part of this one
    installed = wheels.install(chosen.wheels, target)
    environment = environment_with(target, work.parent / f'{work.name}-compiled')
    if chosen.dry_run:
        environment |= {'GPU_TESTS_DEVICE': 'cpu', 'CUDA_VISIBLE_DEVICES': ''}
    facts = {'dry run': chosen.dry_run, 'installed for this run': installed}

    def done(outcome: Outcome) -> None:
        outcomes.append(outcome)
        print(f'{outcome.name:20} {outcome.status:20} {outcome.seconds:6.1f} s  {outcome.last[:100]}', flush=True)
        results.write(outcomes, facts, work, chosen.out)

    steps = all_steps('cpu' if chosen.dry_run else 'cuda', chosen.dry_run, chosen.tests)
    steps = [step for step in steps if step.name in (chosen.only or step.name)]
    run_all(steps, work, ROOT, chosen.minutes * 60, environment, done)
    print(f'\n{(chosen.out / "summary.md").read_text(encoding="utf-8")}')
    return int(any(outcome.status in (FAILED, STOPPED) for outcome in outcomes))


if __name__ == '__main__':
    sys.exit(main())
