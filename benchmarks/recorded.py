"""A call recorded as a CUDA graph: its kernels, without the Python that launches them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.settings import Settings


def recorded(call: Callable[[], Any], settings: Settings) -> Callable[[], Any]:
    """Return a call that replays another's kernels on the same memory; without a GPU, the call itself.

    What the call returns is written anew by every replay.
    """
    if settings.device.type != 'cuda':
        return call
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries allocate their workspaces before they are recorded
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call()

    def replay() -> Any:
        graph.replay()
        return output

    return replay
