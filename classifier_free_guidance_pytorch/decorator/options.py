"""The guidance keywords of one call, checked and read into a rule, a scale and a state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, TypeAlias

import torch
from torch import Tensor

from classifier_free_guidance_pytorch import guidance as rules
from classifier_free_guidance_pytorch.decorator.outputs import Guide
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError

Scale: TypeAlias = float | Tensor

# Every keyword that the decorators add for guidance, with its default.
GUIDANCE_KEYWORDS: dict[str, Any] = {
    'cond_scale': 1.0,
    'guidance': None,
    'guidance_state': None,
    'guidance_kwargs': None,
    'rescale_phi': 0.0,
    'remove_parallel_component': False,
    'keep_parallel_frac': 0.0,
    'return_unconditioned': False,
    'cfg_routed_kwargs': None,
    'cfg_batched': False,
    'weak': None,
    'guide': None,
}

_CFG = rules.CFG()


@dataclass
class Options:
    """How one call is guided. The fields are the keywords of the decorated function.

    Attributes:
        cond_scale: guidance scale, a number or a tensor with one value per sample; 1 is off and 0 unconditional.
        guidance: a rule of the `guidance` module; classifier-free guidance by default.
        guidance_state: what `rule.init_state()` returned, for rules that remember between steps.
        guidance_kwargs: what else the rule takes: `x`, `sigma`, `alpha`, `progress`.
        rescale_phi: share of the prediction rescaled to the conditional's standard deviation (arXiv 2305.08891).
        remove_parallel_component: drop the part of the update along the conditional prediction (arXiv 2410.02416).
        keep_parallel_frac: how much of that part to keep all the same.
        return_unconditioned: return the pair (guided, null) in place of the guided prediction.
        cfg_routed_kwargs: keywords with a value of its own for each branch, in the order (cond, null) or by branch name.
        cfg_batched: run the branches in one forward of the joined batch; a sequence names the arguments that stay shared.
        weak: how the weak pass of a rule that asks for one is made: keywords of the forward, a second model, or
            `perturbed_attention(...)` and `skip_layers(...)`.
        guide: which entry of the output is guided, the first by default.
    """

    cond_scale: Scale = 1.0
    guidance: rules.Rule | None = None
    guidance_state: Any = None
    guidance_kwargs: Mapping[str, Any] | None = None
    rescale_phi: float = 0.0
    remove_parallel_component: bool = False
    keep_parallel_frac: float = 0.0
    return_unconditioned: bool = False
    cfg_routed_kwargs: Mapping[str, Any] | None = None
    cfg_batched: bool | Sequence[str] = False
    weak: Any = None
    guide: Guide = None
    rule: rules.Rule = field(init=False)

    def __post_init__(self) -> None:
        check_scale(self.cond_scale)
        for name, values in (self.cfg_routed_kwargs or {}).items():
            if not isinstance(values, Mapping) and not (isinstance(values, (tuple, list)) and len(values) == 2):
                raise ConfigError(
                    f'cfg_routed_kwargs[{name!r}] is a pair (for the conditional pass, for the null pass) or a mapping by '
                    f'branch, but got {values!r}'
                )
        self.rule = self._rule()

    def _rule(self) -> rules.Rule:
        """The rule that the keywords spell."""
        if self.guidance is None and not self.remove_parallel_component and not self.rescale_phi and not self.keep_parallel_frac:
            return _CFG
        rule = self.guidance
        if rule is not None and not isinstance(rule, rules.Rule):
            raise ConfigError(f'guidance is a rule of the guidance module, such as guidance.APG(), but got {rule!r}')
        if self.keep_parallel_frac and not self.remove_parallel_component:
            raise ConfigError('keep_parallel_frac has an effect only with remove_parallel_component=True')
        if self.remove_parallel_component:
            if rule is not None:
                raise ConfigError(
                    'remove_parallel_component is a rule of its own and cannot be combined with guidance=: pass '
                    'guidance=guidance.APG(eta=keep_parallel_frac), or add rules with +'
                )
            rule = rules.APG(eta=float(self.keep_parallel_frac))
        if not 0.0 <= self.rescale_phi <= 1.0:
            raise ConfigError(f'rescale_phi is a share in [0, 1], but got {self.rescale_phi!r}')
        rule = rule or _CFG
        return rule.then(rules.rescale_to_cond(float(self.rescale_phi))) if self.rescale_phi else rule

    @property
    def is_off(self) -> bool:
        """Whether nothing was asked for beyond the conditional prediction."""
        scale_is_one = not isinstance(self.cond_scale, Tensor) and self.cond_scale == 1
        return scale_is_one and self.rule is _CFG and not self.return_unconditioned

    def refuse_in_training(self) -> None:
        """Raise where guidance is asked for in training mode.

        Raises:
            UsageError: guided predictions are for sampling.
        """
        if not self.is_off:
            raise UsageError(
                f'guidance (cond_scale={self.cond_scale!r}) is for sampling, but the model is in training mode: call '
                'model.eval() first; in training, cond_drop_prob alone decides what the model sees of the text'
            )


def check_scale(scale: Any) -> None:
    """Refuse a scale that is no number, or that is not finite.

    Raises:
        ConfigError: with what was passed.
    """
    if isinstance(scale, Tensor):
        # looking into a traced tensor breaks the graph, and into one on an accelerator waits for it
        if scale.device.type == 'cpu' and not torch.compiler.is_compiling() and not bool(scale.isfinite().all()):
            raise ConfigError(f'cond_scale must be finite, but got {scale}')
        return
    if callable(scale):
        raise ConfigError(
            f'cond_scale is the scale of this step: call the schedule for it, as in schedule(sigma=sigma), got {scale!r}'
        )
    if isinstance(scale, bool) or not isinstance(scale, Real):
        raise ConfigError(f'cond_scale is a number, or a tensor with one value per sample, but got {scale!r}')
    if not math.isfinite(scale):
        raise ConfigError(f'cond_scale must be finite, but got {scale!r}')
