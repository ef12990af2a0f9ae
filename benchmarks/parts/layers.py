"""Single layers and rules against the plain operation that does the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks import by_hand
from benchmarks.bodies import fill_zeros
from benchmarks.results import Bar, Figure, assert_equal, timed
from benchmarks.settings import Settings
from benchmarks.timing import in_turn
from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.layers import Concat, CrossAttention, FiLM

Case = tuple[str, str, Callable[[], torch.Tensor], Callable[[], torch.Tensor], Bar | None]


def pictures(settings: Settings) -> dict[str, torch.Tensor]:
    """The same hiddens in both memory formats."""
    shape = (2, 16, 8, 8) if settings.tiny else (8, 256, 64, 64)
    hiddens = torch.randn(shape, device=settings.device, dtype=settings.dtype)
    return {'contiguous': hiddens, 'channels last': hiddens.to(memory_format=torch.channels_last)}


def film_cases(settings: Settings) -> list[Case]:
    """FiLM on hiddens of a U-Net against one `torch.addcmul`."""
    cases: list[Case] = []
    for layout, hiddens in pictures(settings).items():
        batch, dim = hiddens.shape[:2]
        layer = FiLM(64, dim)
        settings.place(layer)
        fill_zeros(layer)
        condition = layer.condition(torch.randn(batch, 64, device=settings.device, dtype=settings.dtype))
        factor, shift = condition.factor[..., None, None], condition.shift[..., None, None]
        cases.append(
            (f'FiLM {tuple(hiddens.shape)} {layout}', 'one torch.addcmul',
             lambda layer=layer, hiddens=hiddens, condition=condition: layer(hiddens, condition, True),
             lambda hiddens=hiddens, factor=factor, shift=shift: torch.addcmul(shift, hiddens, factor), Bar('at most', 1.1))
        )  # fmt: skip
    return cases


def attention_case(settings: Settings) -> Case:
    """Cross-attention with keys made ahead of time, against heads, keys and values written out."""
    batch, length, words, dim, width = (2, 8, 3, 16, 16) if settings.tiny else (4, 1024, 16, 256, 768)
    x, tokens = (
        torch.randn(batch, n, d, device=settings.device, dtype=settings.dtype) for n, d in ((length, dim), (words, width))
    )
    mask = torch.arange(words, device=settings.device) < torch.arange(1, batch + 1, device=settings.device)[:, None]
    ours, theirs = CrossAttention(width, dim), by_hand.CrossAttention(width, dim, False)
    fill_zeros(ours)
    theirs.load_state_dict(ours.state_dict())
    settings.place(ours, theirs)
    condition = ours.condition(tokens, mask)
    name = f'cross-attention, {length} positions, {words} tokens'
    return name, 'the layer by hand', lambda: ours(x, condition, False), lambda: theirs(x, tokens, mask), Bar('below', 1.0)


def concat_case(settings: Settings) -> Case:
    """Concatenation against `torch.cat` and a linear layer."""
    batch, length, dim, width = (2, 8, 16, 16) if settings.tiny else (4, 1024, 256, 1536)
    x = torch.randn(batch, length, dim, device=settings.device, dtype=settings.dtype)
    feature = torch.randn(batch, width, device=settings.device, dtype=settings.dtype)
    ours, theirs = Concat(width, dim), by_hand.Concat(width, dim, False)
    fill_zeros(ours)
    theirs.load_state_dict(ours.state_dict())
    settings.place(ours, theirs)
    condition = ours.condition(feature)
    name = f'concatenation, {length} positions'
    return name, 'the layer by hand', lambda: ours(x, condition, False), lambda: theirs(x, feature), Bar('below', 1.0)


def rule_cases(settings: Settings) -> list[Case]:
    """Guidance itself, on the predictions of a latent model and a pixel model, against one `torch.lerp`."""
    cases: list[Case] = []
    for shape in ((2, 4, 8, 8),) if settings.tiny else ((4, 4, 64, 64), (8, 3, 256, 256)):
        cond, null = torch.randn(2, *shape, device=settings.device, dtype=settings.dtype)
        rule: Any = guidance.CFG()
        cases.append(
            (f'CFG {shape}', 'one torch.lerp', lambda rule=rule, c=cond, u=null: rule(c, u, 3.0),
             lambda c=cond, u=null: torch.lerp(u, c, 3.0), None)
        )  # fmt: skip
    return cases


@torch.inference_mode()
def measure(settings: Settings) -> list[Figure]:
    """Every layer by itself."""
    cases = [*film_cases(settings), attention_case(settings), concat_case(settings), *rule_cases(settings)]
    figures = []
    for name, against, ours, theirs, bar in cases:
        assert_equal(ours(), theirs(), name, **settings.tolerance)
        found = in_turn({'ours': ours, 'theirs': theirs}, settings.pace)
        figures.append(timed(name, 'layer', against, found['ours'], found['theirs'], bar))
    return figures
