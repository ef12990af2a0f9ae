"""What each guidance rule costs on a latent-sized tensor, beside one `torch.lerp` and beside diffusers' functions.

    python -m benchmarks rules

Every rule is first compared with something written by somebody else, or with its formula in float64; only then is it timed.
Times are ratios within one round (see `timing.py`). Extra memory is the peak of what was allocated during a call beyond its
inputs, counted in bytes of live tensors, so it does not depend on the machine.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.results import Bar, Figure, assert_equal, counted, timed
from benchmarks.settings import Settings
from benchmarks.timing import in_turn
from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision

SHAPE, TINY_SHAPE = (4, 16, 128, 128), (2, 3, 16, 8)  # on a GPU twice as many samples
SCALE = 7.5
Call = Callable[[], Tensor]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors made while active that are still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self._watch(tensor, args)
        return out

    def _watch(self, tensor: Tensor, args: Any) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        of_inputs = {arg.untyped_storage()._cdata for arg in args if isinstance(arg, Tensor)}
        if key in self.known or key in of_inputs:  # a view, or written in place
            return
        self.known.add(key)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key, storage.nbytes())

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def extra_bytes(call: Call) -> int:
    """Peak of the bytes that a call allocates, its result included."""
    with LiveBytes() as watched:
        call()
    return watched.peak


def predictions(settings: Settings) -> tuple[Tensor, ...]:
    """Four predictions of one model: related, not equal."""
    generator = torch.Generator().manual_seed(0)
    large = (2 * SHAPE[0], *SHAPE[1:]) if settings.device.type == 'cuda' else SHAPE
    shape = TINY_SHAPE if settings.tiny else large
    common = torch.randn(shape, generator=generator)
    made = (common + 0.5 * torch.randn(shape, generator=generator) for _ in range(4))
    return tuple(one.to(settings.device, settings.dtype) for one in made)


def rules(cond: Tensor, null: Tensor, third: Tensor, fourth: Tensor) -> dict[str, Call]:
    """Every rule as a call."""
    scales = torch.full((len(cond),), SCALE)  # on the CPU, as a schedule makes them
    momentum = guidance.APG(norm=15.0, momentum=-0.5)
    state = momentum.init_state(cond)
    rescaled, renormed = (guidance.CFG().then(post) for post in (guidance.rescale_to_cond(), guidance.renorm_to_cond()))
    return {
        'cfg (function)': lambda: guidance.cfg(cond, null, SCALE),
        'CFG': lambda: guidance.CFG()(cond, null, SCALE),
        'CFG, scale per sample': lambda: guidance.CFG()(cond, null, scales),
        'APG': lambda: guidance.APG(norm=15.0)(cond, null, SCALE),
        'APG with momentum': lambda: momentum(cond, null, SCALE, state=state),
        'CFG-Zero*': lambda: guidance.CFGZeroStar()(cond, null, SCALE),
        'TCFG': lambda: guidance.TCFG()(cond, null, SCALE),
        'RAAG': lambda: guidance.RAAG()(cond, null, SCALE),
        'FDG': lambda: guidance.FDG((SCALE, 5.0))(cond, null, SCALE),
        'Perp-Neg': lambda: guidance.PerpNeg()(cond, null, SCALE, negatives=(third,)),
        'Compose': lambda: guidance.Compose((SCALE, -2.0))(cond, null, 1.0, conds=(third,)),
        'Chain': lambda: guidance.Chain((1.5, SCALE))(cond, null, SCALE, conds=(third,)),
        'CFG + Weak': lambda: (guidance.CFG() + guidance.Weak(2.0))(cond, null, SCALE, weak=third),
        'CFG, then rescale': lambda: rescaled(cond, null, SCALE),
        'CFG, then renorm': lambda: renormed(cond, null, SCALE),
        'CFG in x0': lambda: guidance.CFG().in_x0('v')(cond, null, SCALE, x=fourth, sigma=0.5),
        'Logits': lambda: guidance.Logits()(cond, null, SCALE),
        'Discrete': lambda: guidance.Discrete()(cond, null, SCALE),
        'NAG': lambda: guidance.NAG()(cond, null, SCALE),
    }


def theirs(cond: Tensor, null: Tensor) -> dict[str, Call]:
    """The same by diffusers, where it is comparable."""
    repair_torchvision()
    from diffusers.guiders import adaptive_projected_guidance as apg
    from diffusers.guiders import tangential_classifier_free_guidance as tcfg

    return {
        'APG': lambda: apg.normalized_guidance(cond, null, SCALE - 1, None, 0.0, 15.0, use_original_formulation=True),
        'TCFG': lambda: tcfg.normalized_guidance(cond, null, SCALE),
    }


def assert_right(ours: dict[str, Call], diffusers: dict[str, Call], given: tuple[Tensor, ...]) -> None:
    """Compare before anything is timed: with diffusers, and every rule with itself in float64."""
    half = given[0].dtype in (torch.float16, torch.bfloat16)
    tolerance = 3e-2 if half else 2e-4
    assert_equal(ours['CFG'](), torch.lerp(given[1], given[0], SCALE), 'CFG', tolerance, tolerance)
    assert_equal(ours['APG'](), diffusers['APG'](), 'APG', tolerance, tolerance)
    # diffusers takes singular vectors in float32; it is compared loosely, and the float64 rule below tightly
    error = (ours['TCFG']().float() - diffusers['TCFG']().float()).norm() / ours['TCFG']().float().norm()
    assert error < 5e-2, f'TCFG is {error:.3f} away from that of diffusers'
    exact = rules(*(tensor.double() for tensor in given))
    for name, call in ours.items():
        assert_equal(call(), exact[name](), name, 10 * tolerance if half else tolerance, 10 * tolerance if half else tolerance)


def measure(settings: Settings) -> list[Figure]:
    """Assert, then time every rule."""
    given = predictions(settings)
    cond, null = given[0], given[1]
    ours, diffusers = rules(*given), theirs(cond, null)
    assert_right(ours, diffusers, given)
    lerp: Call = lambda: torch.lerp(null, cond, SCALE)  # noqa: E731
    compared = {f'diffusers {name}': call for name, call in diffusers.items()}
    seconds = in_turn({'torch.lerp': lerp, **ours, **compared}, settings.pace)
    case, plain = f'{tuple(cond.shape)}', 'one torch.lerp'
    figures: list[Figure] = []
    for name, call in ours.items():
        bar = Bar('at most', 1.1) if name in ('cfg (function)', 'CFG') else None
        figures.append(timed(case, name, plain, seconds[name], seconds['torch.lerp'], bar))
        figures.append(counted(case, f'{name}: extra memory', 'one prediction', extra_bytes(call), cond.nbytes, 'bytes'))
    for name, call in compared.items():
        rule = name.removeprefix('diffusers ')
        figures.append(timed(case, rule, name, seconds[rule], seconds[name], Bar('below', 1.0)))
        figures.append(counted(case, f'{rule}: extra memory', name, extra_bytes(ours[rule]), extra_bytes(call), 'bytes'))
    return figures
