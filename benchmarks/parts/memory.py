"""Peak memory of a guided step, beyond what is allocated before it, against the same step by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, product
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.encoders import WordEncoder
from benchmarks.networks import KINDS, pair
from benchmarks.parts.steps import AGAINST, BATCH, assert_same, ways
from benchmarks.results import Figure, counted
from benchmarks.settings import Settings

WAYS = ('texts', 'prepared', 'batched')


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """The most bytes that were allocated at once during a call, counted from its start."""
    call()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    trace: Any = recorded.profiler.kineto_results
    events = sorted((event.start_ns(), event.nbytes()) for event in trace.events() if event.name() == '[memory]')
    return max(accumulate(size for _, size in events), default=0)


@torch.inference_mode()
def measure(settings: Settings) -> list[Figure]:
    """All networks under all conditionings. Exact and the same in every run, so there is no spread."""
    figures = []
    for name, kind in settings.progress(product(BATCH, KINDS), 'memory'):
        calls = ways(*pair(name, kind, WordEncoder(16 if settings.tiny else 768), settings.tiny), BATCH[name], settings)
        case = f'{name}, {kind}'
        assert_same(calls, case, settings)
        by_them = peak_bytes(calls[AGAINST], settings.device)
        for way in WAYS:
            figures.append(counted(case, way, AGAINST, peak_bytes(calls[way], settings.device), by_them, 'bytes'))
    return figures
