"""What one prepared guided step runs that the step by hand does not: operators, or on a GPU the kernels themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.bodies import BODIES
from benchmarks.encoders import WordEncoder
from benchmarks.networks import KINDS, pair
from benchmarks.parts.steps import AGAINST, BATCH, assert_same, ways
from benchmarks.results import Bar, Figure, counted
from benchmarks.settings import Settings


class Operators(TorchDispatchMode):
    """Counts the operators that are run; those that only look at memory in another way cost nothing and are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: Counter[str] = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not operator.is_view:
            self.ran[operator.name()] += 1
        return operator(*args, **(kwargs or {}))


def operators(call: Callable[[], Any]) -> Counter[str]:
    """The operators of a call, by name."""
    with Operators() as counted_operators:
        call()
    return counted_operators.ran


def gpu_kernels(call: Callable[[], Any]) -> Counter[str]:
    """The kernels of a call, by name."""
    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        call()
        torch.cuda.synchronize()
    on_device = (event for event in recorded.events() if event.device_type == torch.autograd.DeviceType.CUDA)
    return Counter(event.name for event in on_device)


@torch.no_grad()
def measure(settings: Settings) -> list[Figure]:
    """All networks under all conditionings; the note names what is run more often than by hand."""
    on_gpu = settings.device.type == 'cuda'
    profiled, unit = (gpu_kernels, 'kernels') if on_gpu else (operators, 'operators')
    figures = []
    for name, kind in settings.progress(product(BODIES, KINDS), 'kernels'):
        calls = ways(*pair(name, kind, WordEncoder(16 if settings.tiny else 768), settings.tiny), BATCH[name], settings)
        case = f'{name}, {kind}'
        assert_same(calls, case, settings)
        by_them = profiled(calls[AGAINST])
        for way in ('prepared', 'embeddings', 'texts'):
            by_us = profiled(calls[way])
            more = ', '.join(f'{kernel} ({count} more)' for kernel, count in sorted((by_us - by_them).items()))
            note = f'more than by hand: {more}' if more else f'no {unit[:-1]} that the step by hand does not have'
            bar = Bar('at most', 1.0) if on_gpu and way == 'prepared' else None
            figures.append(counted(case, way, AGAINST, by_us.total(), by_them.total(), unit, bar, note))
    return figures
