"""How much of a card's bandwidth a guidance rule uses: bytes that it cannot do without, over its time, over those of a copy.

A rule reads every prediction once and writes one. Small predictions would be read from the cache of a large card, so each call
takes the next of several sets, which together are larger than any cache, and all of them are recorded as one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmarks.parts.rules import SCALE
from benchmarks.recorded import recorded
from benchmarks.results import Bar, Figure, assert_equal, counted
from benchmarks.settings import Settings
from benchmarks.timing import Spread, in_turn
from classifier_free_guidance_pytorch import guidance

SHAPES, TINY_SHAPES = ((8, 16, 128, 128), (64, 16, 128, 128)), ((2, 3, 16, 8),)
BEYOND_A_CACHE = 2**28  # bytes
PLAIN = 'torch.lerp'

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def elementwise(scales: Tensor) -> dict[str, tuple[Rule, int]]:
    """Rules that compute every element from those in its place, and how many predictions each reads."""
    both, in_x0 = guidance.CFG() + guidance.Weak(2.0), guidance.CFG().in_x0('v')  # torch 2.9 does not trace how they are built
    return {
        PLAIN: (lambda c, u, k, x: torch.lerp(u, c, SCALE), 2),
        'CFG': (lambda c, u, k, x: guidance.CFG()(c, u, SCALE), 2),
        'CFG, scale per sample': (lambda c, u, k, x: guidance.CFG()(c, u, scales), 2),
        'Compose': (lambda c, u, k, x: guidance.Compose((SCALE, -2.0))(c, u, 1.0, conds=(k,)), 3),
        'Chain': (lambda c, u, k, x: guidance.Chain((1.5, SCALE))(c, u, SCALE, conds=(k,)), 3),
        'CFG + Weak': (lambda c, u, k, x: both(c, u, SCALE, weak=k), 3),
        'CFG in x0': (lambda c, u, k, x: in_x0(c, u, SCALE, x=x, sigma=0.5), 3),
    }


def reducing() -> dict[str, tuple[Rule, int]]:
    """Rules that take sums over a sample first: they read it more than once, unless it stays in the cache."""
    rescaled, renormed = guidance.CFG().then(guidance.rescale_to_cond()), guidance.CFG().then(guidance.renorm_to_cond())
    return {
        'APG': (lambda c, u, k, x: guidance.APG(norm=15.0)(c, u, SCALE), 2),
        'CFG-Zero*': (lambda c, u, k, x: guidance.CFGZeroStar()(c, u, SCALE), 2),
        'TCFG': (lambda c, u, k, x: guidance.TCFG()(c, u, SCALE), 2),
        'RAAG': (lambda c, u, k, x: guidance.RAAG()(c, u, SCALE), 2),
        'FDG': (lambda c, u, k, x: guidance.FDG((SCALE, 5.0))(c, u, SCALE), 2),
        'Perp-Neg': (lambda c, u, k, x: guidance.PerpNeg()(c, u, SCALE, negatives=(k,)), 3),
        'CFG, then rescale': (lambda c, u, k, x: rescaled(c, u, SCALE), 2),
        'CFG, then renorm': (lambda c, u, k, x: renormed(c, u, SCALE), 2),
        'Logits': (lambda c, u, k, x: guidance.Logits()(c, u, SCALE), 2),
    }


def sets_of(shape: tuple[int, ...], settings: Settings) -> list[tuple[Tensor, ...]]:
    """As many sets of four related predictions as lie beyond a cache."""
    one = torch.empty(shape, dtype=settings.dtype).nbytes
    count = 1 if settings.tiny else max(4, BEYOND_A_CACHE // (2 * one))
    common = torch.randn(shape, device=settings.device)
    return [
        tuple((common + 0.5 * torch.randn(shape, device=settings.device)).to(settings.dtype) for _ in range(4))
        for _ in range(count)
    ]  # fmt: skip


def over_all(rule: Rule, sets: list[tuple[Tensor, ...]]) -> Callable[[], list[Tensor]]:
    """One call for all sets."""
    return lambda: [rule(*one) for one in sets]


def gigabytes(rules: Mapping[str, tuple[Rule, int]], sets: list[tuple[Tensor, ...]], settings: Settings) -> dict[str, float]:
    """GB/s of every rule, of the bytes that it cannot do without."""
    found = in_turn({name: recorded(over_all(rule, sets), settings) for name, (rule, _) in rules.items()}, settings.pace)
    one = sets[0][0].nbytes * len(sets)
    return {name: (reads + 1) * one / Spread.of(found[name]).median / 1e9 for name, (_, reads) in rules.items()}


def copy_speed(settings: Settings) -> float:
    """GB/s of a large copy, of the bytes read and written."""
    source = torch.empty(2**16 if settings.tiny else 2**31, dtype=torch.uint8, device=settings.device)
    target = torch.empty_like(source)
    found = in_turn({'copy': lambda: target.copy_(source)}, settings.pace)
    return 2 * source.nbytes / Spread.of(found['copy']).median / 1e9


def compiled(rules: Mapping[str, tuple[Rule, int]], settings: Settings) -> dict[str, tuple[Rule, int]]:
    """The same, compiled."""
    backend = 'eager' if settings.tiny else 'inductor'
    torch._dynamo.reset()
    return {name: (torch.compile(rule, fullgraph=True, backend=backend), reads) for name, (rule, reads) in rules.items()}


@torch.no_grad()
def measure(settings: Settings) -> list[Figure]:
    """All rules as they are, and those that work element by element compiled too."""
    copied, figures = copy_speed(settings), []
    for shape in TINY_SHAPES if settings.tiny else SHAPES:
        sets = sets_of(shape, settings)
        by_element = elementwise(torch.full((shape[0],), SCALE, device=settings.device))
        fused = compiled(by_element, settings)
        for name, (rule, _) in fused.items():
            assert_equal(rule(*sets[0]), by_element[name][0](*sets[0]), f'{name}, compiled', **settings.tolerance)
        ways = {'': {**by_element, **reducing()}, ', compiled': fused}
        for way, rules in ways.items():
            for name, speed in gigabytes(rules, sets, settings).items():
                bar = Bar('at least', 0.8) if way and settings.device.type == 'cuda' and name != PLAIN else None
                figures.append(counted(str(shape), f'{name}{way}', 'a large copy', speed, copied, 'GB/s', bar))
    return figures
