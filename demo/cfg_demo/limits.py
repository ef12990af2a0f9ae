"""What the options that many demos share may be, checked before any of them works."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

from classifier_free_guidance_pytorch.errors import ConfigError

LARGEST_SEED = 2**32 - 1  # which every generator takes, with the seeds that count on from it
LARGEST_SCALE = 1000.0  # larger ones overflow on their way, and draw nothing
MOST_ROWS = 200  # of a picture; more are too high for its file
MOST_THREADS = 1024
MOST_WORKERS = 256
COUNTS = {  # by option, where it starts
    **dict.fromkeys(('train_steps', 'student_steps', 'batch_size', 'pictures', 'save_every', 'draw_every'), 1),
    **dict.fromkeys(('more_steps', 'sets'), 0),
}


def check_options(arguments: argparse.Namespace) -> None:
    """Refuse values that no demo can use.

    Args:
        arguments: The parsed command line.

    Raises:
        ConfigError: A seed, a count or a guidance scale out of range, by the name of its option.
    """
    rows = getattr(arguments, 'seeds', None)  # a number of rows, or the seeds themselves
    seeds = [(option, seed) for option in ('seed', 'split_seed') for seed in _several(getattr(arguments, option, None))]
    if isinstance(rows, int):
        _check_whole('seeds', rows, 1, MOST_ROWS)
    else:
        seeds += [('seeds', seed) for seed in _several(rows)]
    for option, seed in seeds:
        _check_whole(option, seed, 0, LARGEST_SEED)
    for option in ('scales', 'other_scales', 'cond_scale'):
        for scale in _several(getattr(arguments, option, None)):
            _check_scale(option, scale)
    for option, low in COUNTS.items():
        value = getattr(arguments, option, None)
        if value is not None and value < low:
            raise ConfigError(f'--{option.replace("_", "-")} counts from {low}, but got {value}')
    rate = getattr(arguments, 'learning_rate', None)
    if rate is not None and not 0.0 < rate < math.inf:
        raise ConfigError(f'learning_rate is a finite number above 0, but got {rate}')
    _check_whole('workers', getattr(arguments, 'workers', None) or 0, 0, MOST_WORKERS)
    threads = getattr(arguments, 'threads', None)
    if threads is not None and threads > MOST_THREADS:
        raise ConfigError(f'threads is at most {MOST_THREADS}, but got {threads}')


def _several(value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    return value if isinstance(value, Sequence) else (value,)


def _check_whole(option: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f'{option} is a whole number from {low} to {high}, but got {value}')


def _check_scale(option: str, scale: float) -> None:
    if not math.isfinite(scale):
        raise ConfigError(f'a guidance scale is a finite number, but {option} has {scale}')
    if abs(scale) > LARGEST_SCALE:
        raise ConfigError(f'a guidance scale is at most {LARGEST_SCALE:g}, but {option} has {scale:g}')
