"""Calls timed in turn, and the spread of their ratios.

A machine that slows down, or that other work shares, slows both calls of a round: the ratio within the round stays. So every
round runs every call once, each round in another order, and what is reported is the median of the ratios of all rounds.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

Call = Callable[[], Any]


@dataclass(frozen=True)
class Spread:
    """The order statistics of a sample."""

    median: float
    min: float
    lower_quartile: float
    upper_quartile: float
    max: float
    count: int

    @staticmethod
    def of(values: list[float]) -> Spread:
        """The spread of one value or more."""
        lower, _, upper = statistics.quantiles(values, n=4, method='inclusive') if len(values) > 1 else values * 3
        return Spread(statistics.median(values), min(values), lower, upper, max(values), len(values))


@dataclass(frozen=True)
class Pace:
    """How long to measure.

    Attributes:
        rounds: how often every call is timed; at least 20 for a figure that is held against a bar.
        sample_seconds: a call shorter than this is repeated until one sample takes about as long.
        warm_up: untimed calls of each before the first round.
    """

    rounds: int = 24
    sample_seconds: float = 0.02
    warm_up: int = 2


def wait_for_device() -> None:
    """Wait for what an accelerator still has to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(call: Call, times: int = 1) -> float:
    """Seconds that one call takes, averaged over `times` in a row."""
    wait_for_device()
    start = time.perf_counter()
    for _ in range(times):
        call()
    wait_for_device()
    return (time.perf_counter() - start) / times


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """No collector that runs in the middle of one of two calls."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def in_turn(calls: Mapping[str, Call], pace: Pace) -> dict[str, list[float]]:
    """Seconds of every call in every round. The order rotates, and turns around every time it has rotated once."""
    names = list(calls)
    repeats = {}
    for name, call in calls.items():
        for _ in range(max(pace.warm_up, 1)):
            once = seconds(call)
        repeats[name] = max(1, round(pace.sample_seconds / once))
    found: dict[str, list[float]] = {name: [] for name in names}
    with without_garbage_collection():
        for number in range(pace.rounds):
            turns, shift = divmod(number, len(names))
            order = names[shift:] + names[:shift]
            for name in reversed(order) if turns % 2 else order:
                found[name].append(seconds(calls[name], repeats[name]))
            gc.collect(0)
    return found


def ratios(measured: list[float], against: list[float]) -> Spread:
    """The spread of the ratios within the rounds."""
    return Spread.of([one / other for one, other in zip(measured, against, strict=True)])
