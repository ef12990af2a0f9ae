"""A chain of ever stronger conditions, as in InstructPix2Pix (arXiv 2211.09800)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.guidance.checks import Scale, aligned, check_alike, check_numbers
from classifier_free_guidance_pytorch.guidance.combine import PostStep, Rule
from classifier_free_guidance_pytorch.guidance.scales import proportioned, strongest
from classifier_free_guidance_pytorch.guidance.step import Predictions, Step


def chain(predictions: Sequence[Tensor], scales: Sequence[Scale], inner: PostStep | None = None) -> Tensor:
    """Guide along a chain of ever stronger conditions: `p_0 + sum_i s_i * (p_i - p_(i-1))`.

    Args:
        predictions: `p_0` (nothing given), then one more condition at a time; the last has all. Each `(b, ...)`; `(b,)` and
            complex predictions work as well.
        scales: One per step of the chain; with every scale 1 the last prediction is returned.
        inner: A post-step, such as `guidance.renorm_to_cond(dim=-1)`, of every guided prediction but the outermost. The chain is
            then nested, from the last prediction `g = p_n` outwards: `g <- p_(i-1) + s_i * (g - p_(i-1))`, `g <- inner(g, p_n)`.

    Returns:
        The guided prediction, in the shape and dtype of the predictions.

    Raises:
        ShapeError, ConfigError: As for `guidance.cfg`; or fewer than two predictions, or not one scale per step.

    InstructPix2Pix, arXiv 2211.09800, eq. 3: nothing, image, image and text, with scales `(1.5, 7.5)`. Nested: BAGEL, arXiv
    2505.14683, `cfg_renorm_type='text_channel'` of `modeling/bagel/bagel.py`. Oracle: both written out in float64.

    >>> import torch
    >>> nothing, image, both = torch.tensor([[0., 0.]]), torch.tensor([[1., 0.]]), torch.tensor([[1., 1.]])
    >>> chain((nothing, image, both), (1.5, 7.5))
    tensor([[1.5000, 7.5000]])
    """
    if len(predictions) < 2 or len(scales) != len(predictions) - 1:
        raise ConfigError(
            f'chain: got {len(predictions)} predictions and {len(scales)} scales; '
            'expected at least two predictions and one scale for each step between neighbours'
        )
    last = predictions[-1]
    check_alike('chain', {f'predictions[{i}]': prediction for i, prediction in enumerate(predictions)}, linear=True)
    every = [aligned(scale, last, f'chain: scales[{i}]') for i, scale in enumerate(scales)]
    if inner is not None:
        guided = last
        for i in range(len(every) - 1, -1, -1):
            guided = torch.lerp(predictions[i], guided, every[i])
            guided = inner(guided, last) if i > 0 else guided
        return guided
    # Written from the last prediction backwards, p_n + sum_i (s_i - 1) * step_i, so that scales of 1 return it exactly.
    guided = torch.lerp(predictions[-2], last, every[-1])
    for i, scale in enumerate(every[:-1]):
        guided = guided + (scale - 1) * (predictions[i + 1] - predictions[i])
    return guided


@dataclass(frozen=True)
class Chain(Rule):
    """Guidance along a chain of conditions: see `guidance.chain`. One pass per prediction.

    The chain is null, then `conds` in their order (each with one condition more), then `cond`, which has all.

    Args:
        scales: One per step of the chain. They give the proportions: the scale of the call is that of the strongest step, so
            `Chain((1.5, 7.5))` called at 7.5 guides at exactly `(1.5, 7.5)`, and at 1 returns `cond`.
        inner: A post-step of every guided prediction but the outermost, as in `guidance.chain`.
    """

    scales: tuple[float, ...] = (1.5, 7.5)
    inner: PostStep | None = None
    needs: ClassVar[tuple[str, ...]] = ('cond', 'null', 'conds')

    def __post_init__(self) -> None:
        check_numbers('Chain', 'scales', self.scales)
        if len(self.scales) < 2 or all(value == 1 for value in self.scales):
            raise ConfigError(f'Chain: expected at least two scales, not all 1, got {self.scales}')

    @property
    def anchored(self) -> bool:
        return self.inner is None or bool(getattr(self.inner, 'keeps_cond', False))

    @property
    def default_scale(self) -> float:
        return strongest(self.scales)

    def _guide(self, given: Predictions, scale: Scale, step: Step) -> Tensor:
        cond, null = given.pair()
        return chain((null, *given.conds, cond), proportioned(aligned(scale, cond, wide=True), self.scales), self.inner)
