"""The rules of one condition: each holds the parameters of one function of `guidance`, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError, UsageError

from .attention_features import nag
from .checks import Scale, aligned, check_number, check_numbers, uniform_value
from .distributions import discrete, logits
from .frequencies import fdg
from .lines import cfg
from .many_rules import proportioned
from .projections import apg, cfg_zero_star, raag, tcfg
from .reductions import Dims
from .rule import Predictions, Rule, Step
from .state import MomentumState, State


@dataclass(frozen=True)
class CFG(Rule):
    """Classifier-free guidance, `u + s * (c - u)`: see `guidance.cfg`. Two passes.

    >>> import torch
    >>> CFG()(torch.tensor([[1., 2.]]), torch.tensor([[0., 1.]]), 3.)
    tensor([[3., 4.]])
    """

    affine: ClassVar[bool] = True
    null_at_zero: ClassVar[bool] = True

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        return cfg(given.main(), given.unguided(), scale)


@dataclass(frozen=True)
class APG(Rule):
    """Adaptive projected guidance, `c + (s-1) * (d_across + eta * d_along)`: see `guidance.apg`. Two passes.

    Args:
        eta: Share of the part of `d` parallel to `c` that stays.
        norm: The longest `d` allowed, or None.
        momentum: `beta` of the running average `d <- d + beta * average`; the paper uses negative values. Needs a state.
        rms: Measure `d` by its root mean square, so that `norm` does not depend on the resolution.
        dim: Dimensions of a vector: all but the batch by default.

    A sample at scale 1 leaves its running average as it is, whether or not the null pass was made.

    >>> rule = APG(eta=0., norm=15., momentum=-0.5)
    >>> state = rule.init_state()       # hand it in at every step: rule(cond, null, scale, state=state)
    """

    eta: float = 0.0
    norm: float | None = None
    momentum: float = 0.0
    rms: bool = False
    dim: Dims = None

    def __post_init__(self) -> None:
        check_number('APG', 'eta', self.eta)
        check_number('APG', 'momentum', self.momentum, -1, 1)
        if self.norm is not None:
            check_number('APG', 'norm', self.norm, 0)
            if self.norm == 0:
                raise ConfigError('APG: norm is 0, which removes all guidance; give a positive length, or None for no limit')

    @property
    def remembers(self) -> bool:
        return self.momentum != 0

    def init_state(self, like: Tensor | None = None) -> State | None:
        if not self.remembers:
            return None
        return MomentumState(self, average=None if like is None else torch.zeros_like(like))

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        cond, null = given.main(), given.unguided()
        delta = None
        if isinstance(step.state, MomentumState):
            step.state.check(cond)
            delta = cond - null
            average = step.state.average
            if average is not None:
                delta = delta + self.momentum * average
            step.state.average = _where_guided(scale, delta, average).detach()
        return apg(cond, null, scale, self.eta, self.norm, rms=self.rms, dim=self.dim, delta=delta)


def _where_guided(scale: Scale, new: Tensor, old: Tensor | None) -> Tensor:
    """Take the new average except where the scale is 1, so that no sample depends on what its batch-mates need."""
    if not isinstance(scale, Tensor):
        return new
    return torch.where(torch.as_tensor(aligned(scale, new)) == 1, torch.zeros_like(new) if old is None else old, new)


@dataclass(frozen=True)
class CFGZeroStar(Rule):
    """CFG-Zero*, `a*u + s * (c - a*u)` with `a = <c, u> / |u|^2`: see `guidance.cfg_zero_star`. Two passes.

    Args:
        zero_init: Fraction of the way, from pure noise, on which the output is zero and no pass is made; the call then takes
            `progress`. The paper uses 0.04 for flow models.

    >>> CFGZeroStar(zero_init=0.04).branches(4., progress=0.), CFGZeroStar(zero_init=0.04).branches(4., progress=0.5)
    ((), ('cond', 'null'))
    """

    zero_init: float = 0.0

    def __post_init__(self) -> None:
        check_number('CFGZeroStar', 'zero_init', self.zero_init, 0, 1)

    def branches(self, scale: Scale = 1.0, state: State | None = None, progress: float | None = None) -> tuple[str, ...]:
        if self.zero_init > 0:
            if progress is None:
                raise UsageError(
                    f'{self!r} needs progress=, from 0 (pure noise) to 1, to know whether this step is still a zero step'
                )
            if progress < self.zero_init:
                return ()
        return super().branches(scale, state, progress)

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        return cfg_zero_star(given.main(), given.unguided(), scale)


@dataclass(frozen=True)
class TCFG(Rule):
    """Tangential damping, `u' + s * (c - u')` with `u'` what `u` shares with `c`: see `guidance.tcfg`. Two passes.

    >>> import torch
    >>> TCFG()(torch.tensor([[2., 0.]]), torch.tensor([[0., 1.]]), 3.)
    tensor([[6., 0.]])
    """

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        return tcfg(given.main(), given.unguided(), scale)


@dataclass(frozen=True)
class RAAG(Rule):
    """Ratio-aware guidance (MAMBO-G), CFG at `1 + (s-1) * exp(-alpha * |d|/|u|)`: see `guidance.raag`. Two passes.

    Args:
        alpha: How fast guidance fades with the ratio.

    >>> import torch
    >>> RAAG(alpha=0.)(torch.tensor([[1., 1.]]), torch.tensor([[1., 0.]]), 3.)
    tensor([[1., 3.]])
    """

    alpha: float = 8.0

    def __post_init__(self) -> None:
        check_number('RAAG', 'alpha', self.alpha, 0)

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        return raag(given.main(), given.unguided(), scale, self.alpha)


@dataclass(frozen=True)
class FDG(Rule):
    """Frequency-decoupled guidance, a scale for each level of a Laplacian pyramid: see `guidance.fdg`. Two passes.

    Args:
        scales: One per level, finest first. They give the proportions: the scale of the call is that of the strongest
            level, so `FDG((10., 5.))` called at 10 guides at exactly `(10, 5)`, and at 1 returns `cond`.

    >>> import torch
    >>> FDG()(torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), 10.).unique()
    tensor([5.])
    """

    scales: tuple[float, ...] = (10.0, 5.0)
    affine: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_numbers('FDG', 'scales', self.scales)
        if all(value == 1 for value in self.scales):
            raise ConfigError(f'FDG: every one of scales {self.scales} is 1, so nothing is guided')

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        return fdg(given.main(), given.unguided(), proportioned(scale, self.scales))


@dataclass(frozen=True)
class Logits(Rule):
    """CFG on log-probabilities, for language models: see `guidance.logits`. Two passes. At scale 1: `log_softmax(c)`.

    Args:
        dim: The dimension of the classes.

    >>> import torch
    >>> Logits()(torch.zeros(1, 2), torch.zeros(1, 2), 2.).exp()
    tensor([[0.5000, 0.5000]])
    """

    dim: int = -1
    null_at_zero: ClassVar[bool] = True

    @property
    def anchored(self) -> bool:
        return False

    def branches(self, scale: Scale = 1.0, state: State | None = None, progress: float | None = None) -> tuple[str, ...]:
        return ('cond',) if uniform_value(scale) == 1 else super().branches(scale, state, progress)

    def _alone(self, prediction: Tensor) -> Tensor:
        return torch.log_softmax(prediction, self.dim)

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        return logits(given.main(), given.unguided(), scale, self.dim)


@dataclass(frozen=True)
class Discrete(Logits):
    """CFG on categorical distributions, for discrete diffusion: see `guidance.discrete`. Two passes. Returns probabilities.

    Args:
        dim: The dimension of the classes.

    >>> import torch
    >>> Discrete()(torch.zeros(1, 2), torch.zeros(1, 2), 2.)
    tensor([[0.5000, 0.5000]])
    """

    def _alone(self, prediction: Tensor) -> Tensor:
        return torch.softmax(prediction, self.dim)

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        return discrete(given.main(), given.unguided(), scale, self.dim)


@dataclass(frozen=True)
class NAG(Rule):
    """Normalized attention guidance, inside cross-attention: see `guidance.nag`. One pass of the model.

    Its `cond` and `null` are the outputs of a cross-attention layer on the text and on the negative or null text.

    Args:
        tau: How much longer than `cond` a guided feature vector may be.
        alpha: How much of the guided vector is mixed in.

    >>> import torch
    >>> NAG(alpha=1.)(torch.tensor([[1., 1.]]), torch.tensor([[1., 0.]]), 3.)
    tensor([[1., 3.]])
    """

    tau: float = 2.5
    alpha: float = 0.25
    inside_attention: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number('NAG', 'tau', self.tau, 1)
        check_number('NAG', 'alpha', self.alpha, 0, 1)

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        return nag(given.main(), given.unguided(), scale, self.tau, self.alpha)
