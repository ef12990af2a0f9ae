"""What a guided call costs beside its forward passes: time on a network that costs nothing, and the Python that is run.

The counts do not depend on the machine: calls of Python functions of the library in one guided call, the files they stand in, and
how often the next call is in a different file than the last.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

import classifier_free_guidance_pytorch
from benchmarks.bodies import fill_zeros
from benchmarks.encoders import texts
from benchmarks.results import Bar, Figure, assert_equal, counted, timed
from benchmarks.settings import Settings
from benchmarks.timing import in_turn
from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator

AGAINST = 'two bare forwards and a lerp'
LIBRARY = str(Path(classifier_free_guidance_pytorch.__file__).parent)
RATIOS = {'prepared': 1.7, 'texts': 2.2}
MOST = {'prepared': {'files': 12, 'moves': 25}, 'texts': {'files': 16, 'moves': 40}}


class Bare(nn.Module):
    """Two small layers, one of them conditioned: next to nothing."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, cond_fns: Any) -> Tensor:
        (condition,) = cond_fns
        return self.last(condition(self.first(x)))


Guided = classifier_free_guidance_class_decorator(type('Guided', (Bare,), {'forward': Bare.forward}))


@dataclass
class Counted:
    """The Python of one call."""

    calls: int
    files: int
    moves: int


def count(call: Callable[[], Any]) -> Counted:
    """Count the calls of the library's Python functions in one call."""
    visited: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == 'call' and frame.f_code.co_filename.startswith(LIBRARY):
            visited.append(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    moves = sum(here != there for here, there in pairwise(visited))
    return Counted(len(visited), len(set(visited)), moves)


def calls_of(settings: Settings) -> dict[str, Callable[[], Tensor]]:
    """A guided call of a network that costs nothing, and its passes by hand."""
    torch.manual_seed(0)
    model: Any = Guided(
        text_condition_model_types='mini',
        text_condition_hidden_dims=(8,),
        text_condition_hiddens_channel_first=False,
    )
    fill_zeros(model)
    bare = Bare()
    bare.load_state_dict({name: weight for name, weight in model.state_dict().items() if 'text_conditioner' not in name})
    settings.place(model, bare)
    prompts, x = texts(2), torch.randn(2, 8, device=settings.device, dtype=settings.dtype)
    prepared = model.prepare(prompts)
    cond, null = (model.text_conditioner.bind(branch) for branch in (prepared.cond, prepared.null))
    return {
        AGAINST: lambda: torch.lerp(bare(x, null), bare(x, cond), 3.0),
        'prepared': lambda: model(x, text_condition=prepared, cond_scale=3.0),
        'texts': lambda: model(x, texts=prompts, cond_scale=3.0),
    }


@torch.no_grad()
def measure(settings: Settings) -> list[Figure]:
    """Time and count a guided call with prepared conditions, and with texts that come again."""
    calls = calls_of(settings)
    for way in RATIOS:
        assert_equal(calls[way](), calls[AGAINST](), way, **settings.tolerance)
    samples = in_turn(calls, settings.pace)
    figures = []
    for way, most in RATIOS.items():
        figures.append(timed('a network that costs nothing', way, AGAINST, samples[way], samples[AGAINST], Bar('at most', most)))
    for way, most in MOST.items():
        calls[way]()
        found = count(calls[way])
        figures.append(counted('a guided call', f'{way}: calls', 'one', found.calls, 1, 'Python calls'))
        figures.append(counted('a guided call', f'{way}: files', 'one', found.files, 1, 'files', Bar('at most', most['files'])))
        figures.append(counted('a guided call', f'{way}: moves', 'one', found.moves, 1, 'moves', Bar('at most', most['moves'])))
    return figures
