"""Guided steps under `torch.compile(fullgraph=True)`: one graph for all steps with a changing scale, and its speed.

On a GPU in the mode 'reduce-overhead', which records CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks import by_hand
from benchmarks.bodies import noisy
from benchmarks.encoders import WordEncoder, texts
from benchmarks.networks import pair
from benchmarks.results import Bar, Figure, assert_equal, counted, timed
from benchmarks.settings import Settings
from benchmarks.timing import in_turn

CASES = (('MLP', 'film'), ('MLP', 'attention'), ('MLP', 'concat'), ('transformer', 'film'))
AGAINST = 'two passes by hand, compiled'
EAGER = 'two passes by hand'


class Graphs:
    """A backend that counts the graphs it is given, and compiles them as usual."""

    def __init__(self, settings: Settings) -> None:
        self.count, self.tiny = 0, settings.tiny
        self.options = {'triton.cudagraphs': True} if settings.device.type == 'cuda' else {}

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.count += 1
        if self.tiny:  # the graph as it is: tests ask whether there is one, not how fast it is
            return graph.forward
        from torch._inductor.compile_fx import compile_fx

        return compile_fx(graph, inputs, config_patches=self.options)


def cases_of(name: str, kind: str, settings: Settings) -> tuple[dict[str, Callable[[], Any]], dict[str, Graphs]]:
    """The step by hand, compiled and not, and the library's compiled steps; with the graphs of the latter."""
    batch = 4
    ours, theirs = pair(name, kind, WordEncoder(16 if settings.tiny else 768), settings.tiny)
    settings.place(ours, theirs)
    x, t = noisy(ours, batch, settings.device, settings.dtype)
    captions = texts(batch)
    encodings, prepared = ours.encode_texts(captions), ours.prepare(captions)
    scales = [torch.full((), 1.5 + step, device=settings.device, dtype=settings.dtype) for step in range(5)]
    graphs = {way: Graphs(settings) for way in ('prepared', 'embeddings', AGAINST)}
    steps = {
        'prepared': torch.compile(ours, fullgraph=True, backend=graphs['prepared']),
        'embeddings': torch.compile(ours, fullgraph=True, backend=graphs['embeddings']),
        AGAINST: torch.compile(lambda s: by_hand.guided(theirs, x, t, encodings, s), fullgraph=True, backend=graphs[AGAINST]),
    }
    text: dict[str, dict[str, Any]] = {'prepared': {'text_condition': prepared}, 'embeddings': {'text_embeds': encodings}}

    def all_scales(step: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], list[torch.Tensor]]:
        def run() -> list[torch.Tensor]:
            outputs = []
            for scale in scales:
                torch.compiler.cudagraph_mark_step_begin()
                outputs.append(step(scale).clone())  # CUDA graphs write the next step over this one
            return outputs

        return run

    calls = {EAGER: all_scales(lambda s: by_hand.guided(theirs, x, t, encodings, s)), AGAINST: all_scales(steps[AGAINST])}
    for way, keywords in text.items():
        calls[way] = all_scales(lambda s, step=steps[way], keywords=keywords: step(x, t, cond_scale=s, **keywords))
    return calls, graphs


@torch.no_grad()
def measure(settings: Settings) -> list[Figure]:
    """Every kind of conditioning; one call is five steps with five scales."""
    figures = []
    for name, kind in settings.progress(CASES[:2] if settings.tiny else CASES, 'compile'):
        torch._dynamo.reset()
        calls, graphs = cases_of(name, kind, settings)
        case = f'{name}, {kind}'
        expected = calls[EAGER]()
        for way, call in calls.items():
            assert_equal(call(), expected, f'{case}, {way}, compiled', **settings.tolerance)
        found = in_turn(calls, settings.pace)
        for way in ('prepared', 'embeddings'):
            assert graphs[way].count == 1, f'{case}, {way}: {graphs[way].count} graphs'
            figures.append(counted(case, f'compiled, {way}', 'one graph', graphs[way].count, 1, 'graphs', Bar('at most', 1)))
            for other in (AGAINST, EAGER):
                bar = Bar('at most', 1.0) if (way, other) == ('prepared', AGAINST) and settings.device.type == 'cuda' else None
                figures.append(timed(case, f'compiled, {way}', other, found[way], found[other], bar))
    return figures
