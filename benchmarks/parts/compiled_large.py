"""The large networks under `torch.compile`: a prepared guided step against two passes by hand, both compiled."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.parts.compiled import AGAINST as COMPILED
from benchmarks.parts.large import MADE, ways
from benchmarks.parts.steps import AGAINST, assert_same
from benchmarks.results import Bar, Figure, timed
from benchmarks.settings import Settings
from benchmarks.timing import in_turn


@torch.no_grad()
def measure(settings: Settings) -> Iterator[Figure]:
    """The smaller first: compiling the other takes minutes."""
    backend = 'eager' if settings.tiny else 'inductor'
    for case, make in MADE.items():
        torch._dynamo.reset()
        eager = ways(make, settings)
        calls = {AGAINST: eager[AGAINST]}
        for way, name in ((AGAINST, COMPILED), ('prepared', 'prepared, compiled')):
            calls[name] = torch.compile(eager[way], fullgraph=True, backend=backend)
        assert_same(calls, case, settings)
        found = in_turn(calls, settings.pace)
        bar = Bar('at most', 1.0) if settings.device.type == 'cuda' else None
        yield timed(case, 'prepared, compiled', COMPILED, found['prepared, compiled'], found[COMPILED], bar)
        yield timed(case, 'prepared, compiled', AGAINST, found['prepared, compiled'], found[AGAINST])
