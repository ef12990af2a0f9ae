"""Post-steps: what is done to a guided prediction, with the conditional one as the measure.

A post-step is any callable `(guided, cond) -> Tensor`. Those here are frozen and hashable, like rules, and are chained with
`rule.then(step)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.guidance.checks import check_alike, check_dim, check_number, check_numbers
from classifier_free_guidance_pytorch.guidance.reductions import Dims, norm, ratio, spread, widened


def rescale(guided: Tensor, cond: Tensor, phi: float) -> Tensor:
    """Give the guided prediction back the contrast of `cond`: `phi * g * std(c)/std(g) + (1-phi) * g`.

    Args:
        guided: Guided prediction `g`, `(b, ...)`.
        cond: Conditional prediction `c`, same shape.
        phi: 0 changes nothing, 1 restores the standard deviation fully; the paper uses 0.7.

    Returns:
        The rescaled prediction, in the shape and dtype of `guided`. A sample without spread is returned unchanged.

    Raises:
        ShapeError, ConfigError: As for `guidance.apg`.

    Common Diffusion Noise Schedules and Sample Steps are Flawed, arXiv 2305.08891, eq. 15 and 16. Oracle: `rescale_noise_cfg` of
    diffusers.

    >>> import torch
    >>> rescale(torch.tensor([[0., 8.]]), torch.tensor([[0., 2.]]), 0.5)
    tensor([[0., 5.]])
    """
    check_number('rescale', 'phi', phi)
    check_alike('rescale', {'guided': guided, 'cond': cond})
    factor = 1 + phi * (ratio(spread(cond), spread(guided), otherwise=1.0) - 1)  # (b, 1, ...)
    return (widened(guided) * factor).to(guided.dtype)


def renorm(
    guided: Tensor,
    cond: Tensor,
    r: float = 1.0,
    lo: float = 0.0,
    dim: Dims = None,
    hi: float = 1.0,
    *,
    percentiles: tuple[float, float] | None = None,
) -> Tensor:
    """Keep the guided prediction as long as `cond`: `g * clamp(r * |c| / |g|, lo, hi)`.

    Args:
        guided: Guided prediction `g`, `(b, ...)`.
        cond: Conditional prediction `c`, same shape.
        r: How many times as long as `cond` it may be.
        lo: The smallest factor allowed, in [0, 1]; 1 switches shortening off.
        dim: Dimensions of a vector: all but the batch, or -1 for the tokens of `(b, n, d)`, as the pipelines cited below do.
        hi: The largest factor allowed, at least 1: 1 (LongCat-Image) only shortens, `math.inf` (Lumina-Image 2.0, Qwen-Image)
            also lengthens.
        percentiles: Measure lengths by the squares between these percentiles of each sample alone, such as `(45, 55)` (EP-CFG);
            then over all but the batch.

    Returns:
        The renormalised prediction, in the shape and dtype of `guided`.

    Raises:
        ShapeError, ConfigError: As for `guidance.apg`.

    CFG renormalisation: Lumina-Image 2.0, arXiv 2503.21758; Qwen-Image, arXiv 2508.02324; by robust energy, EP-CFG, arXiv
    2412.09966, section 3.2, with `hi=math.inf`. Oracle: a loop in float64.

    >>> import torch
    >>> renorm(torch.tensor([[6., 8.]]), torch.tensor([[3., 4.]]))
    tensor([[3., 4.]])
    """
    _check_renorm('renorm', r, lo, dim, hi, percentiles)
    check_alike('renorm', {'guided': guided, 'cond': cond})
    lengths = (norm(cond, dim), norm(guided, dim)) if percentiles is None else _robust_lengths(cond, guided, percentiles)
    factor = (r * ratio(*lengths, otherwise=1.0)).clamp(lo, hi)  # (b, 1, ...)
    return (widened(guided) * factor).to(guided.dtype)


def _check_renorm(owner: str, r: float, lo: float, dim: Dims, hi: float, percentiles: tuple[float, float] | None) -> None:
    """Raise `ConfigError` unless these are parameters of `renorm`."""
    check_number(owner, 'r', r, 0)
    check_number(owner, 'lo', lo, 0, 1)
    if hi != math.inf:
        check_number(owner, 'hi', hi, 1)
    check_dim(owner, dim)
    if percentiles is not None:
        check_numbers(owner, 'percentiles', percentiles)
        if len(percentiles) != 2 or not 0 <= percentiles[0] <= percentiles[1] <= 100 or dim is not None:
            raise ConfigError(
                f'{owner}: percentiles must be (low, high) in [0, 100], without dim; got {percentiles} and dim={dim}'
            )


def _robust_lengths(cond: Tensor, guided: Tensor, percentiles: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Return the roots of the squares of each prediction that lie between two percentiles of its own."""
    lengths = []
    for x in (cond, guided):
        squares = widened(x).flatten(1).square()  # (b, n)
        ordered = squares.detach().sort(1).values
        low, high = (ordered[:, [round(at / 100 * (squares.shape[1] - 1))]] for at in percentiles)  # (b, 1)
        kept = torch.where((squares >= low) & (squares <= high), widened(x).flatten(1), 0.0)
        lengths.append(norm(kept).view(-1, *[1] * (x.ndim - 1)))  # (b, 1, ...)
    return lengths[0], lengths[1]


@dataclass(frozen=True)
class Rescale:
    """The post-step that restores the contrast of the conditional prediction: see `guidance.rescale`; `phi` is in [0, 1].

    >>> rescale_to_cond(0.5)
    Rescale(phi=0.5)
    """

    phi: float = 0.7

    keeps_cond = True
    """A guided prediction equal to `cond` passes unchanged."""

    def __post_init__(self) -> None:
        check_number('Rescale', 'phi', self.phi, 0, 1)

    def __call__(self, guided: Tensor, cond: Tensor) -> Tensor:
        return rescale(guided, cond, self.phi)


@dataclass(frozen=True)
class Renorm:
    """The post-step that keeps the guided prediction as long as the conditional one: see `guidance.renorm`.

    `lo` is in [0, 1], and `hi` at least 1.

    >>> renorm_to_cond(dim=-1)
    Renorm(r=1.0, lo=0.0, dim=-1, hi=1.0, percentiles=None)
    """

    r: float = 1.0
    lo: float = 0.0
    dim: Dims = None
    hi: float = 1.0
    percentiles: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _check_renorm('Renorm', self.r, self.lo, self.dim, self.hi, self.percentiles)

    @property
    def keeps_cond(self) -> bool:
        """Whether a guided prediction equal to `cond` passes unchanged."""
        return max(self.lo, min(self.r, self.hi)) == 1

    def __call__(self, guided: Tensor, cond: Tensor) -> Tensor:
        return renorm(guided, cond, self.r, self.lo, self.dim, self.hi, percentiles=self.percentiles)


# how a rule is written: rule.then(rescale_to_cond(0.7))
rescale_to_cond, renorm_to_cond = Rescale, Renorm
