"""A training step (forward, loss, backward, Adam) of a decorated network against the same network conditioned by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.bodies import noisy
from benchmarks.encoders import WordEncoder, texts
from benchmarks.networks import pair
from benchmarks.results import Bar, Figure, assert_equal, timed
from benchmarks.settings import Settings
from benchmarks.timing import in_turn

DROP = 0.2
BATCH = {'MLP': 16, 'U-Net': 4, 'transformer': 8}
CASES = (('MLP', 'film'), ('MLP', 'attention'), ('U-Net', 'film'), ('U-Net', 'attention'), ('transformer', 'film'))
AGAINST = 'the step by hand'


def trainer(network: Any, predict: Callable[[], torch.Tensor], target: torch.Tensor) -> Callable[[], torch.Tensor]:
    """One training step, which returns its loss."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-6)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(predict(), target)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def steps(name: str, kind: str, settings: Settings) -> tuple[dict[str, Callable[[], torch.Tensor]], Any, Any]:
    """Both training steps, on the same batch, and the two networks."""
    encoder = WordEncoder(16 if settings.tiny else 768)
    ours, theirs = pair(name, kind, encoder, settings.tiny, cond_drop_prob=DROP)
    settings.place(ours, theirs)
    batch = 2 if settings.tiny else BATCH[name]
    x, t = noisy(ours, batch, settings.device, settings.dtype)
    encodings = ours.encode_texts(texts(batch))
    ours.train()
    theirs.train()

    def drawn() -> torch.Tensor:
        return torch.rand(batch, 1, device=settings.device) < DROP

    calls = {
        'decorated': trainer(ours, lambda: ours(x, t, text_embeds=encodings), x.flip(0)),
        AGAINST: trainer(theirs, lambda: theirs(x, t, encodings, drawn()), x.flip(0)),
    }
    return calls, ours, theirs


def assert_same_step(calls: dict[str, Callable[[], torch.Tensor]], ours: Any, theirs: Any, settings: Settings) -> None:
    """The same losses and gradients, for the same draw of dropped texts."""
    losses = []
    for call in calls.values():
        torch.manual_seed(5)
        losses.append(call())
    assert_equal(*losses, 'the loss', **settings.tolerance)
    gradients = [{n: w.grad for n, w in network.named_parameters() if w.grad is not None} for network in (ours, theirs)]
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert_equal(gradient, gradients[1][name], f'the gradient of {name}', **settings.tolerance)


def measure(settings: Settings) -> list[Figure]:
    """Networks that cost little, where overhead would show, and some that cost more."""
    figures = []
    for name, kind in settings.progress(CASES, 'training'):
        calls, ours, theirs = steps(name, kind, settings)
        assert_same_step(calls, ours, theirs, settings)
        found = in_turn(calls, settings.pace)
        figures.append(timed(f'{name}, {kind}', 'decorated', AGAINST, found['decorated'], found[AGAINST], Bar('at most', 1.03)))
    return figures
