"""The steps of a run, the most important first."""

from __future__ import annotations

import sys

from benchmarks.gpu.running import Step
from benchmarks.gpu.wheels import there

SHIPPED = 'demo/cfg_demo/image/weights/shapes.safetensors'  # of 32 pixels; its layers fit pictures of any size


def all_steps(device: str, tiny: bool, tests: str = '') -> list[Step]:
    """Return every step.

    Args:
        device: `cuda`, or `cpu` for a dry run.
        tiny: Networks and sizes that say whether everything runs, and nothing else.
        tests: Which tests of `tests/gpu` to run, as an expression for pytest's `-k`.
    """
    python, place = (sys.executable, '-m'), ('--device', device, '--out', '{folder}', *(('--tiny',) if tiny else ()))

    def speed(part: str, what: str, limit: float, *more: str) -> Step:
        return Step(f'speed-{part}', what, (*python, 'benchmarks', part, *place, '--quiet', *more), limit)

    def train(model: str, limit: float, *more: str) -> Step:
        command = (*python, 'benchmarks.gpu.train', model, *place, '--seconds', '{seconds}', *more)
        return Step(f'train-{model}', f'the {model} model, in the time that is left', command, limit, 5 if tiny else 60)

    pytest = ['pytest', 'tests/gpu', '-q', '-p', 'no:cacheprovider', '--durations=8', '--junitxml={folder}/tests.xml']
    if device == 'cuda' and there('xdist'):
        pytest += ['-n', '8']  # most of the time is a compiler's, which takes one core of many
    return [
        Step('facts', 'the machine, its versions and its ceilings', (*python, 'benchmarks.gpu.facts', *place), 60),
        Step('correctness', 'every law on the device', (*python, *pytest, '-k', tests), 200),
        speed('steps', 'a guided step over two passes by hand', 60, '--rounds', '12'),
        speed('dispatch', 'what a call costs beside its passes', 30),
        speed('graphs', 'the same with CUDA graphs', 60, '--rounds', '12'),
        speed('kernels', 'the kernels of a step beside those by hand', 60),
        speed('bandwidth', 'every rule against the bandwidth', 100, '--rounds', '8'),
        speed('rules', 'every rule against diffusers', 40, '--rounds', '8'),
        speed('large', 'a DiT of 130 million and a U-Net of 860 million parameters', 80, '--rounds', '8'),
        speed('compile', 'compiled steps', 120, '--rounds', '8'),
        speed('embed', 'captions per second', 80, '--rounds', '3'),
        speed('training', 'a training step over the same by hand', 40, '--rounds', '8'),
        speed('memory', 'the peak of a step over the same by hand', 40),
        speed('compile_large', 'the large networks, compiled', 120, '--rounds', '6'),
        train('shapes', 480, *(() if tiny else ('--start-from', SHIPPED))),
        train('emoji', 480),
    ]
