"""Every rule, ready to be called: what the laws are tested on.

`test_laws.py` fails for a rule class of the package that has no case here, so no rule escapes the laws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.guidance.combine import Combined, Rule, Wrapper
from classifier_free_guidance_pytorch.guidance.skip_null import SkipNull

ABSTRACT = {Rule, Combined, Wrapper, SkipNull}

CASES: dict[str, Rule] = {
    'CFG': guidance.CFG(),
    'Learned': guidance.Learned(0.0, 30.0),
    'APG': guidance.APG(eta=0.3, norm=0.9),
    'APG momentum': guidance.APG(norm=0.9, momentum=-0.5),
    'APG rms, last dim': guidance.APG(eta=0.1, norm=0.4, rms=True, dim=-1),
    'CFGZeroStar': guidance.CFGZeroStar(),
    'CFGZeroStar zero init': guidance.CFGZeroStar(zero_init=0.1),
    'TCFG': guidance.TCFG(),
    'RAAG': guidance.RAAG(alpha=1.5),
    'FDG': guidance.FDG((8.0, 3.0)),
    'FDG of tokens': guidance.FDG((8.0, 3.0), grid=(2, 2)),
    'FDG of three levels': guidance.FDG((8.0, 1.0, 3.0)),
    'PerpNeg': guidance.PerpNeg((0.7, 0.4)),
    'Compose': guidance.Compose((2.0, -1.5)),
    'Chain': guidance.Chain((1.5, 7.5)),
    'Chain, nested': guidance.Chain((1.5, 7.5), guidance.renorm_to_cond(dim=-1)),
    'ADG': guidance.ADG(),
    'Mahiro': guidance.Mahiro(),
    'SMCCFG': guidance.SMCCFG(lam=2.0, k=0.1),
    'HiGS': guidance.HiGS(guidance.CFG(), weight=0.8, low=0.2),
    'HiGS with memory': guidance.HiGS(guidance.APG(momentum=-0.5), weight=0.8, eta=0.5, cutoff=0.0),
    'Weak': guidance.Weak(1.8),
    'Weak, scheduled': guidance.Weak(guidance.interval(1.8, progress=(0.2, 1.0), outside=0.0)),
    'Weak, named': guidance.CFG() + guidance.Weak(0.8, name='stg') + guidance.Weak(-0.4, name='modality'),
    'Logits': guidance.Logits(),
    'Discrete': guidance.Discrete(),
    'NAG': guidance.NAG(),
    'Sum': guidance.CFG() + guidance.Weak(0.8),
    'Sum of one kind': guidance.CFG() + guidance.CFG(),
    'Sum with memory': guidance.APG(momentum=0.3) + guidance.CFG() + guidance.APG(momentum=-0.5),
    'Then rescale': guidance.APG(norm=0.9).then(guidance.rescale_to_cond(0.7)),
    'Then renorm': guidance.CFG().then(guidance.renorm_to_cond(0.8, lo=0.1)),
    'Then robust energy': guidance.CFG().then(guidance.renorm_to_cond(hi=float('inf'), percentiles=(20, 80))),
    'Then set length': guidance.CFG().then(guidance.renorm_to_cond(dim=-1, hi=float('inf'))),
    'Then, chained': guidance.CFG().then(guidance.renorm_to_cond(dim=-1)).then(guidance.rescale_to_cond(0.5)),
    'InSpace': guidance.APG(norm=0.9).in_space('x0', model='v'),
    'InSpace zero init': guidance.CFGZeroStar(zero_init=0.1).in_space('flow', model='eps'),
    'OnChannels': guidance.CFG().on_channels(0, 1),
    'Adaptive': guidance.Adaptive(guidance.CFG(), threshold=0.67),
    'Adaptive with memory': guidance.Adaptive(guidance.APG(momentum=-0.5).then(guidance.rescale_to_cond(0.7)), threshold=0.7),
    'ReuseDelta': guidance.ReuseDelta(guidance.CFG(), every=2),
    'Everything': (guidance.APG(momentum=-0.5) + guidance.Weak(0.8)).then(guidance.rescale_to_cond(0.7)).in_x0('flow'),
}

NOT_ANCHORED = {
    'Compose': 'the weights alone are the guidance scales',
    'PerpNeg': 'negatives act at every scale',
    'Weak': 'has a weight of its own',
    'Weak, scheduled': 'as Weak',
    'Weak, named': 'holds Weak',
    'Sum': 'holds Weak',
    'Everything': 'holds Weak',
    'HiGS': 'adds to what it has seen before',
    'HiGS with memory': 'as HiGS',
    'Logits': 'returns log_softmax(cond)',
    'Discrete': 'returns softmax(cond)',
    'Then renorm': 'shortens cond itself, for r < 1',
}
"""The rules of which a scale of 1 does not return the conditional prediction, each with its reason."""

AFFINE = {
    'CFG', 'FDG', 'FDG of three levels', 'FDG of tokens', 'Weak, scheduled', 'Weak, named', 'Compose', 'Chain',
    'PerpNeg', 'Weak', 'Sum', 'Sum of one kind', 'OnChannels',
}  # fmt: skip
"""The rules that give the same answer whatever the model predicts."""

HALF, SINGLE = 0.75, 4.0
SINGLE_IN_HALF = 12 * 2**-13
"""The error allowed, in steps (eps) of the precision: half precision is rounded once, float32 also inside a rule."""

ROUNDING: dict[str, tuple[float, float, str]] = {
    'APG rms, last dim': (HALF, 5, 'lengths of few values are small divisors'),
    'CFGZeroStar': (HALF, 8, 'the best length is a ratio that a nearly orthogonal pair makes small'),
    'CFGZeroStar zero init': (HALF, 8, 'as CFGZeroStar'),
    'TCFG': (HALF, 20, '|c|^2 - |u|^2 cancels where the predictions are as long as each other'),
    'PerpNeg': (HALF, 20, 'the part of a negative along the positive cancels, and is divided by a short positive'),
    'Compose': (11, 14, 'each weighted difference is rounded, and they cancel'),
    'Chain': (1.5, SINGLE, 'each weighted step is rounded'),
    'Logits': (SINGLE_IN_HALF, 12, 'returned in float32'),
    'Discrete': (SINGLE_IN_HALF, SINGLE, 'as Logits'),
    'Sum': (1.5, SINGLE, 'each rule of a sum is rounded'),
    'Weak, named': (4, SINGLE, 'as Sum, of three rules'),
    'Sum of one kind': (1.5, SINGLE, 'as Sum'),
    'Sum with memory': (4, 12, 'as Sum, of three rules'),
    'Then rescale': (1, SINGLE, 'rounded before and after the post-step'),
    'Then renorm': (1, SINGLE, 'as Then rescale'),
    'Then robust energy': (200, 400, 'of few values: a square at a percentile is in or out by a rounding'),
    'Chain, nested': (4, 12, 'each prediction of the chain is rounded'),
    'Then set length': (1, SINGLE, 'as Then rescale'),
    'Then, chained': (1.2, SINGLE, 'as Then rescale, three times'),
    'InSpace': (HALF, 27, 'the way back from x0 divides by the noise level, which is small'),
    'Adaptive with memory': (1.2, 6, 'as Then rescale'),
    'Everything': (HALF, 40, 'as InSpace, of a sum'),
}
"""The rules that round more than once, or that cancel or divide: the error in half precision, in float32, and why."""


def rounding(name: str, dtype: torch.dtype) -> float:
    """The error that a rule may make in a precision, absolute and relative."""
    half, single, _ = ROUNDING.get(name, (HALF, SINGLE, ''))
    return (single if dtype == torch.float32 else half) * torch.finfo(dtype).eps


FLOAT32 = {'Logits', 'Discrete'}
"""The rules that return float32 for half precision: distributions over many classes."""

ONE_RANK = {'FDG': (2, 4, 5), 'FDG of three levels': (2, 4, 5), 'FDG of tokens': (3,)}
"""The rules that are for some ranks only: three dimensions are tokens, which lie on a grid."""

RANKS = {2: (3, 7), 3: (3, 4, 6), 4: (3, 4, 6, 5), 5: (3, 2, 3, 5, 4)}


PREDICTIONS = (*guidance.BRANCHES, 'stg', 'modality')
"""Every branch that a case asks for."""


def shape_of(name: str, rank: int = 4) -> tuple[int, ...]:
    """Return a shape that a rule is for, of this rank where it can be."""
    ranks = ONE_RANK.get(name, tuple(RANKS))
    return RANKS[rank if rank in ranks else ranks[0]]


@dataclass
class Inputs:
    """The keyword arguments of a call; every tensor is batch first."""

    kwargs: dict[str, Any]

    def map(self, fn: Any) -> Inputs:
        """Apply a function to every tensor."""
        return Inputs(
            {
                key: tuple(map(fn, value)) if isinstance(value, tuple) else fn(value) if isinstance(value, Tensor) else value
                for key, value in self.kwargs.items()
            }
        )

    def predictions(self) -> list[Tensor]:
        """All predictions in one list."""
        flat: list[Tensor] = []
        for name in PREDICTIONS:
            value = self.kwargs.get(name, ())
            flat.extend(value if isinstance(value, tuple) else (value,))
        return flat

    def only(self, branches: tuple[str, ...]) -> Inputs:
        """Leave out the predictions that are not in `branches`."""
        return Inputs({k: v for k, v in self.kwargs.items() if k not in PREDICTIONS or k in branches})


def inputs(rule: Rule, shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> Inputs:
    """Random inputs for a rule: every branch it may ask for, related as predictions of one model are."""
    generator = torch.Generator().manual_seed(seed)

    def random() -> Tensor:
        return torch.randn(shape, generator=generator)

    common = random()
    made: dict[str, Any] = {name: common + 0.7 * random() for name in ('cond', 'null', 'weak', 'stg', 'modality')}
    made |= {'conds': (common + 0.7 * random(),), 'negatives': (common + random(), random())}
    needed = rule.needs_of_parts()
    kept: dict[str, Any] = {name: made[name] for name in PREDICTIONS if name in needed}
    kept |= {'x': random() + common, 'sigma': 0.1 + 0.8 * torch.rand(shape[0], generator=generator), 'progress': 0.5}
    return Inputs(kept).map(lambda tensor: tensor.to(dtype))


def call(rule: Rule, given: Inputs, scale: Any, state: Any = None) -> Tensor:
    """Call a rule, with a fresh state where it needs one and none is given."""
    if state is None and rule.remembers:
        state = rule.init_state()
    return rule(**given.kwargs, scale=scale, state=state)


def hidden(values: list[float]) -> Tensor:
    """A scale that rules cannot look into, because it requires a gradient: no pass is skipped for its value."""
    return torch.tensor(values, requires_grad=True)
