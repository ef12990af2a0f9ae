"""A guided step against two forward passes of the same network conditioned by hand, and `torch.lerp`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch

from benchmarks import by_hand
from benchmarks.bodies import BODIES, noisy
from benchmarks.encoders import WordEncoder, texts
from benchmarks.networks import KINDS, pair
from benchmarks.results import Bar, Figure, assert_equal, timed
from benchmarks.settings import Settings
from benchmarks.timing import in_turn

SCALE = 3.0
BATCH = {'MLP': 4, 'U-Net': 2, 'transformer': 2}
AGAINST = 'two passes by hand'

Ways = dict[str, Callable[[], torch.Tensor]]


def ways(ours: Any, theirs: Any, batch: int, settings: Settings) -> Ways:
    """Every way to make a guided step with the library, and, first, the step by hand."""
    settings.place(ours, theirs)
    x, t = noisy(ours, batch, settings.device, settings.dtype)
    captions = texts(batch)
    encodings, prepared = ours.encode_texts(captions), ours.prepare(captions)
    return {
        AGAINST: lambda: by_hand.guided(theirs, x, t, encodings, SCALE),
        'texts': lambda: ours(x, t, texts=captions, cond_scale=SCALE),
        'embeddings': lambda: ours(x, t, text_embeds=encodings, cond_scale=SCALE),
        'prepared': lambda: ours(x, t, text_condition=prepared, cond_scale=SCALE),
        'batched': lambda: ours(x, t, text_condition=prepared, cond_scale=SCALE, cfg_batched=True),
        'batched by hand': lambda: by_hand.guided_batched(theirs, x, t, encodings, SCALE),
    }


def bar_of(way: str, kind: str, settings: Settings) -> Bar | None:
    """What a way is held against."""
    if way == 'batched' and settings.device.type == 'cuda':  # these networks are too small to fill a card
        return Bar('at most', 0.75)
    if way == 'prepared':
        return Bar('below', 1.0) if kind == 'attention' else Bar('at most', 1.02)
    return Bar('at most', 1.05) if way == 'texts' else None


def assert_same(calls: Ways, case: str, settings: Settings) -> None:
    """Every way gives what the first gives."""
    expected = next(iter(calls.values()))()
    for way, call in calls.items():
        assert_equal(call(), expected, f'{case}, {way}', **settings.tolerance)


@torch.inference_mode()
def measure(settings: Settings) -> list[Figure]:
    """All networks under all conditionings."""
    figures = []
    for name, kind in settings.progress(product(BODIES, KINDS), 'steps'):
        calls = ways(*pair(name, kind, WordEncoder(16 if settings.tiny else 768), settings.tiny), BATCH[name], settings)
        case = f'{name}, {kind}'
        assert_same(calls, case, settings)
        found = in_turn(calls, settings.pace)
        by_them, batched_by_them = found.pop(AGAINST), found.pop('batched by hand')
        figures += [timed(case, way, AGAINST, ours, by_them, bar_of(way, kind, settings)) for way, ours in found.items()]
        figures.append(timed(case, 'batched', 'one doubled pass by hand', found['batched'], batched_by_them))
    return figures
