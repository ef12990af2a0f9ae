"""The guidance rules of the image demo, by name: each turns a guidance scale into what the model is called with.

A rule that measures lengths or directions does so in the space of clean images, where its paper does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cfg_demo.image.settings import one_of
from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.perturb import perturbed_attention

SPACE = {'flow': 'flow', 'v': 'v', 'epsilon': 'eps'}
MIDDLE = (0.1, 0.8)  # the noise levels at which 'interval' guides
SELF_ATTENTION = '[mb]*.attention'  # of the U-Net's `middle`, where alone it has any, or of the transformer's `blocks`


@dataclass(frozen=True)
class Guided:
    """How a model is guided at one scale.

    Args:
        rule: what combines the predictions; None where the model has learned to guide in one pass.
        scale: the scale of every step, or a schedule of it.
        weak: how the weak pass is made, for a rule that asks for one.
    """

    rule: guidance.Rule | None
    scale: float | guidance.Schedule
    weak: Any = None


def _rule(make: Callable[[str], guidance.Rule]) -> Callable[[float, str], Guided]:
    return lambda scale, space: Guided(make(space), scale)


# Each takes the scale and the prediction space.
RULES: dict[str, Callable[[float, str], Guided]] = {
    'cfg': _rule(lambda space: guidance.CFG()),
    'rescale': _rule(lambda space: guidance.CFG().then(guidance.rescale_to_cond(0.7)).in_x0(space)),
    'renorm': _rule(lambda space: guidance.CFG().then(guidance.renorm_to_cond()).in_x0(space)),
    'apg': _rule(lambda space: guidance.APG(norm=8.0, momentum=-0.5).in_x0(space)),
    'interval': lambda scale, space: Guided(guidance.CFG(), guidance.interval(scale, sigma=MIDDLE) if scale > 1 else scale),
    'fdg': _rule(lambda space: guidance.FDG((1.0, 2.0)).in_x0(space)),
    'cfg-zero-star': _rule(lambda space: guidance.CFGZeroStar()),
    'tcfg': _rule(lambda space: guidance.TCFG()),
    'raag': _rule(lambda space: guidance.RAAG(alpha=1.0)),
    'pag': lambda scale, space: Guided(guidance.CFG() + guidance.Weak(1.0), scale, perturbed_attention(SELF_ATTENTION)),
    'nag': lambda scale, space: Guided(guidance.NAG(), scale),
}


def guided(name: str, scale: float, prediction: str) -> Guided:
    """The rule of that name at a scale, for a model that predicts `prediction`.

    Raises:
        ConfigError: an unknown rule.
    """
    one_of('guidance', name, tuple(RULES))
    return RULES[name](scale, SPACE[prediction])
