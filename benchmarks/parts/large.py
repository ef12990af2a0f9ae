"""A guided step of a DiT of 130 million and of a U-Net of 860 million parameters, at random weights, over two passes by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from benchmarks import by_hand, latent
from benchmarks.bodies import noisy
from benchmarks.encoders import WordEncoder, texts
from benchmarks.networks import pair
from benchmarks.parts.steps import AGAINST, SCALE, Ways, assert_same
from benchmarks.recorded import recorded
from benchmarks.results import Bar, Figure, timed
from benchmarks.settings import Settings
from benchmarks.timing import in_turn

DIT = {'dim': 768, 'depth': 16, 'heads': 12, 'side': 32}  # 130 million with its cross-attention
BATCH = 4
MADE = {
    'DiT, 130 million': lambda settings: pair('transformer', 'attention', encoder(settings), settings.tiny, DIT),
    'latent U-Net, 860 million': latent.pair,
}


def encoder(settings: Settings) -> WordEncoder:
    """Tokens as wide as those of CLIP and T5-base."""
    return WordEncoder(16 if settings.tiny else 768)


def ways(make: Callable[[Settings], tuple], settings: Settings) -> Ways:
    """The step by hand, and the library's."""
    ours, theirs = make(settings)
    settings.place(*(one for one in (ours, theirs) if isinstance(one, torch.nn.Module)))
    x, t = noisy(ours, BATCH, settings.device, settings.dtype)
    captions = texts(BATCH)
    encodings, prepared = ours.encode_texts(captions), ours.prepare(captions)
    return {
        AGAINST: lambda: by_hand.guided(theirs, x, t, encodings, SCALE),
        'texts': lambda: ours(x, t, texts=captions, cond_scale=SCALE),
        'prepared': lambda: ours(x, t, text_condition=prepared, cond_scale=SCALE),
        'batched': lambda: ours(x, t, text_condition=prepared, cond_scale=SCALE, cfg_batched=True),
        'batched by hand': lambda: by_hand.guided_batched(theirs, x, t, encodings, SCALE),
    }


@torch.no_grad()
def measure(settings: Settings) -> Iterator[Figure]:
    """One network after the other: launched from Python, and recorded as CUDA graphs."""
    for case, make in MADE.items():
        calls = ways(make, settings)
        assert_same(calls, case, settings)
        calls |= {f'{way}, recorded': recorded(calls[way], settings) for way in (AGAINST, 'prepared')}
        found = in_turn(calls, settings.pace)
        bars = {'prepared': Bar('at most', 1.02)}
        for way in ('texts', 'prepared', 'batched'):
            yield timed(case, way, AGAINST, found[way], found[AGAINST], bars.get(way))
        yield timed(case, 'batched', 'one doubled pass by hand', found['batched'], found['batched by hand'])
        by_them = f'{AGAINST}, recorded'
        yield timed(case, 'prepared, recorded', by_them, found['prepared, recorded'], found[by_them])
