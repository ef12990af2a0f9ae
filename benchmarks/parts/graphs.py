"""Guided steps recorded as CUDA graphs: what is left of the library beside the kernels. Without a GPU the calls as they are."""

from __future__ import annotations

import torch

from benchmarks.encoders import WordEncoder
from benchmarks.networks import pair
from benchmarks.parts.dispatch import AGAINST as BARE
from benchmarks.parts.dispatch import calls_of
from benchmarks.parts.steps import AGAINST, BATCH, Ways, ways
from benchmarks.recorded import recorded
from benchmarks.results import Bar, Figure, assert_equal, timed
from benchmarks.settings import Settings
from benchmarks.timing import in_turn

CASES = (('MLP', 'film'), ('MLP', 'attention'), ('U-Net', 'film'), ('transformer', 'film'), ('transformer', 'attention'))
WAYS = ('prepared', 'batched')


def cases(settings: Settings) -> dict[str, Ways]:
    """The step by hand, and the library's: of networks, and of one that costs nothing."""
    found: dict[str, Ways] = {'a network that costs nothing': {**calls_of(settings)}}
    found['a network that costs nothing'].pop('texts')
    for name, kind in CASES:
        made = ways(*pair(name, kind, WordEncoder(16 if settings.tiny else 768), settings.tiny), BATCH[name], settings)
        found[f'{name}, {kind}'] = {way: made[way] for way in (AGAINST, *WAYS)}
    return found


@torch.no_grad()
def measure(settings: Settings) -> list[Figure]:
    """Both sides recorded, and the library's recording against its own step in Python."""
    figures = []
    for case, eager in settings.progress(cases(settings).items(), 'graphs'):
        against = BARE if BARE in eager else AGAINST
        replays = {way: recorded(call, settings) for way, call in eager.items()}
        expected = eager[against]()
        for way, replay in replays.items():
            assert_equal(replay(), expected, f'{case}, {way}', **settings.tolerance)
        found = in_turn({**{f'{way}, recorded': replay for way, replay in replays.items()}, **eager}, settings.pace)
        by_them = found[f'{against}, recorded']
        bar = Bar('at most', 1.05) if settings.device.type == 'cuda' else None
        for way in eager:
            if way != against:
                ours = found[f'{way}, recorded']
                figures.append(
                    timed(case, f'{way}, recorded', f'{against}, recorded', ours, by_them, bar if way == 'prepared' else None)
                )
                figures.append(timed(case, f'{way}, recorded', f'{way} in Python', ours, found[way]))
    return figures
