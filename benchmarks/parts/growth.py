"""How the time of a guided step grows with batch and tokens, and what prompts and steps leave behind."""

from __future__ import annotations

import gc
from typing import Any

import torch

from benchmarks import by_hand
from benchmarks.bodies import noisy
from benchmarks.encoders import WordEncoder, texts
from benchmarks.networks import pair
from benchmarks.results import Figure, assert_equal, counted, timed
from benchmarks.settings import Settings
from benchmarks.timing import in_turn, seconds

AGAINST = 'two passes by hand'


def step_figures(case: str, kind: str, batch: int, words: int | None, settings: Settings) -> list[Figure]:
    """A guided step of the MLP on texts of a length, against the same by hand."""
    ours, theirs = pair('MLP', kind, WordEncoder(16 if settings.tiny else 768), settings.tiny)
    settings.place(ours, theirs)
    x, t = noisy(ours, batch, settings.device, settings.dtype)
    captions = texts(batch, words)
    encodings, prepared = ours.encode_texts(captions), ours.prepare(captions)
    calls = {
        AGAINST: lambda: by_hand.guided(theirs, x, t, encodings, 3.0),
        'texts': lambda: ours(x, t, texts=captions, cond_scale=3.0),
        'prepared': lambda: ours(x, t, text_condition=prepared, cond_scale=3.0),
    }
    for way, call in calls.items():
        assert_equal(call(), calls[AGAINST](), f'{case}, {way}', **settings.tolerance)
    found = in_turn(calls, settings.pace)
    return [timed(case, way, AGAINST, found[way], found[AGAINST]) for way in ('texts', 'prepared')]


def bytes_alive() -> int:
    """Bytes of all storages that Python still reaches."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter):  # the type alone: asking some modules of torch warns
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def left_behind(settings: Settings) -> list[Figure]:
    """What is allocated after many prompts, and after many steps, against the first few; it must not grow."""
    ours, _ = pair('MLP', 'film', WordEncoder(16 if settings.tiny else 768), settings.tiny)
    settings.place(ours)
    x, t = noisy(ours, 2, settings.device, settings.dtype)

    def sample(number: int) -> Any:
        return ours(x, t, texts=[f'prompt {number}', 'another'], cond_scale=3.0)

    figures = []
    few, many = (8, 16) if settings.tiny else (20, 200)
    for what, numbers in (('prompts', range(many)), ('steps', [0] * many)):
        alive, spent = [], []
        for done, number in enumerate(numbers, start=1):
            spent.append(seconds(lambda number=number: sample(number)))
            if done in (few, many):
                alive.append(bytes_alive())
        figures.append(counted(f'{many} {what}', 'texts', f'{few} {what}', alive[1], alive[0], 'bytes alive'))
        half = len(spent) // 2
        figures.append(timed(f'{what} {half} to {many}', 'texts', f'{what} 0 to {half}', spent[half : 2 * half], spent[:half]))
    return figures


@torch.inference_mode()
def measure(settings: Settings) -> list[Figure]:
    """Batch under FiLM, tokens under attention, prompts and steps."""
    sizes = [('batch', 'film', size, None) for size in ((1, 2) if settings.tiny else (1, 4, 16, 64))]
    sizes += [('tokens', 'attention', 4, size) for size in ((2, 5) if settings.tiny else (8, 77, 256))]
    figures = []
    for what, kind, batch, words in settings.progress(sizes, 'growth'):
        figures += step_figures(f'MLP, {kind}, {what} {words or batch}', kind, batch, words, settings)
    return [*figures, *left_behind(settings)]
