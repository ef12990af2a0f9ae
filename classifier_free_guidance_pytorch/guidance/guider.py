"""A rule as a guider of diffusers' modular pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError, UsageError
from classifier_free_guidance_pytorch.guidance.checks import check_number
from classifier_free_guidance_pytorch.guidance.combine import Combined, InSpace, Rule
from classifier_free_guidance_pytorch.guidance.configs import from_config, to_config
from classifier_free_guidance_pytorch.guidance.presets import Preset
from classifier_free_guidance_pytorch.guidance.schedule import Schedule
from classifier_free_guidance_pytorch.guidance.step import Predictions, Step, is_weak

if TYPE_CHECKING:
    from diffusers.guiders.guider_utils import BaseGuidance

NAMES = {'cond': 'pred_cond', 'null': 'pred_uncond'}
"""How diffusers calls the predictions of these branches; those of weak passes are `pred_cond_` and their name."""


def diffusers_guider(
    rule: Rule | Preset, scale: float | Schedule | None = None, *, weak: Any = None, **options: Any
) -> BaseGuidance:
    """Make a guider of diffusers' modular pipelines from a rule: a subclass of its base class, with `save_pretrained`.

        pipe.update_components(guider=guidance.diffusers_guider(guidance.APG(norm=15.), 7.5))

    Args:
        rule: A rule of a prompt and a negative prompt, or a preset. In a space that its model does not predict in it is for flow
            models.
        scale: The guidance scale, or a schedule of it; its progress is the share of steps that were made. By default that of the
            preset, or of the rule where it has scales of its own, else 1.
        weak: What weakens the passes of `guidance.Weak`: a perturbation, or a mapping by name. It is not saved: set
            `guider.weak` again after loading.
        options: `start`, `stop` and `enabled`, as every guider of diffusers has them.

    Returns:
        The guider. Its class is `RuleGuidance` of this module, for `RuleGuidance.from_pretrained(folder)`.

    Raises:
        MissingDependencyError: diffusers is not installed.
        ConfigError: A rule of several prompts, or one that cannot be written as a config; a scale that is none.
    """
    if isinstance(rule, Preset):
        scale, rule = rule.scale if scale is None else scale, rule.rule
    elif not isinstance(rule, Rule):
        raise ConfigError(f'diffusers_guider: expected a rule or a preset, got {rule!r}')
    if scale is None:
        scale = 1.0 if rule.default_scale is None else rule.default_scale
    if not isinstance(scale, Schedule):
        check_number('diffusers_guider', 'scale', scale)
    guider: BaseGuidance = guider_class()(to_config(rule), to_config(scale) if isinstance(scale, Schedule) else scale, **options)
    guider.weak = weak
    return guider


@cache
def guider_class() -> Any:
    """Return the class of these guiders, a subclass of the base class that the blocks of diffusers accept."""
    try:
        from diffusers.configuration_utils import register_to_config
        from diffusers.guiders.guider_utils import BaseGuidance
    except ImportError as error:
        raise MissingDependencyError('guidance.diffusers_guider needs diffusers: pip install diffusers') from error

    def init(
        self: Any,
        rule: dict[str, Any],
        scale: float | dict[str, Any] = 1.0,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
    ) -> None:
        BaseGuidance.__init__(self, start, stop, enabled)
        self.guide_by(from_config(rule), from_config(scale) if isinstance(scale, Mapping) else scale)

    names = {'__init__': register_to_config(init), '_input_predictions': [*NAMES.values()], '__module__': __name__}
    return type('RuleGuidance', (RuleGuider, BaseGuidance), names)


def __getattr__(name: str) -> Any:
    if name == 'RuleGuidance':
        return guider_class()
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


class RuleGuider:
    """What a guider of diffusers does, with a rule; `guider_class` puts it before diffusers' base class."""

    rule: Rule
    scale: float | Schedule
    weak: Any

    # of the base class
    _step: int | None
    _num_inference_steps: int | None
    _timestep: Tensor | None
    _count_prepared: int
    _enabled: bool
    _start: float
    _stop: float
    _prepare_batch: Any
    _prepare_batch_from_block_state: Any

    def guide_by(self, rule: Rule, scale: float | Schedule) -> None:
        """Settle the rule, and begin a run.

        Raises:
            ConfigError: Diffusers has no predictions for such a rule.
        """
        others = sorted(branch for branch in rule.needs_of_parts() - {'cond', 'null'} if not is_weak(branch))
        if others:
            raise ConfigError(
                f'diffusers_guider: {rule!r} needs {", ".join(others)}, but diffusers has one prompt and a negative'
            )
        if rule.inside_attention:
            raise ConfigError(f'diffusers_guider: {rule!r} guides inside attention; use perturb.guided_attention')
        self.rule, self.scale, self.weak, self.memory = rule, scale, None, rule.init_state()
        self._moves = _moves(rule)
        self._x: Tensor | None = None
        self._branches: tuple[str, ...] = ('cond',)
        self._opened = ExitStack()

    def prepare_inputs(self, data: dict[str, Any]) -> list[Any]:
        self._start_step(data.get('hidden_states', data.get('latents')))
        return [self._prepare_batch(data, int(branch == 'null'), _name(branch)) for branch in self._branches]

    def prepare_inputs_from_block_state(self, data: Any, input_fields: dict[str, Any]) -> list[Any]:
        self._start_step(getattr(data, 'latents', None))
        prepare = self._prepare_batch_from_block_state
        return [prepare(input_fields, data, int(branch == 'null'), _name(branch)) for branch in self._branches]

    def prepare_models(self, denoiser: Any) -> None:
        self._count_prepared += 1
        branch = self._branches[self._count_prepared - 1]
        if not is_weak(branch):
            return
        weak = self.weak.get(branch) if isinstance(self.weak, Mapping) else self.weak
        if weak is None:
            raise UsageError(f'{self.rule!r} has a weak pass {branch!r}: set guider.weak to a perturbation, as skip_layers(...)')
        self._opened.enter_context(weak.applied(denoiser))

    def cleanup_models(self, denoiser: Any) -> None:
        self._opened.close()

    def forward(self, **predictions: Tensor) -> Any:
        from diffusers.guiders.guider_utils import GuiderOutput

        made = {branch: predictions[_name(branch)] for branch in self._branches}
        step, scale = self._where(), self._scale_here()
        if not self._is_on():
            guided = made['cond']
        elif self.rule.wanted(scale, step):
            guided = self.rule.guide(Predictions.by_branch(made), scale, step)
        else:
            guided = self.rule.zero(made['cond'], step)
        return GuiderOutput(pred=guided, pred_cond=made.get('cond'), pred_uncond=made.get('null'))

    @property
    def is_conditional(self) -> bool:
        return self._branches[max(self._count_prepared, 1) - 1] != 'null'

    @property
    def num_conditions(self) -> int:
        return len(self._branches)

    def _start_step(self, x: Any) -> None:
        """Settle the passes of a step; the first one begins a new run."""
        if not self._step:
            self.memory = self.rule.init_state()
        self._x = x[0] if isinstance(x, tuple) else x
        wanted = self.rule.wanted(self._scale_here(), self._where()) if self._is_on() else ()
        self._branches = wanted or ('cond',)

    def _is_on(self) -> bool:
        """Return whether this step is guided."""
        steps, step = self._num_inference_steps or 1, self._step or 0
        return self._enabled and int(self._start * steps) <= step < max(int(self._stop * steps), 1)

    def _scale_here(self) -> float | Tensor:
        """Return the scale of this step."""
        step = self._where()
        return self.scale(step.progress, sigma=step.sigma) if isinstance(self.scale, Schedule) else self.scale

    def _where(self) -> Step:
        """Return where sampling stands: pipelines say the number of the step and its time, which is the noise level of a flow."""
        progress = (self._step or 0) / (self._num_inference_steps or 1)
        sigma = None if self._timestep is None else self._timestep / 1000
        if self._moves and (self._x is None or sigma is None):
            raise UsageError(f'{self.rule!r} needs the noisy sample, which this pipeline does not tell its guider')
        return Step(self.memory, self._x if self._moves else None, sigma, progress=progress)


def _name(branch: str) -> str:
    """Return what diffusers calls the prediction of a branch."""
    return NAMES.get(branch, f'pred_cond_{branch}')


def _moves(rule: Rule) -> bool:
    """Return whether a rule works in a space that its model does not predict in.

    Raises:
        ConfigError: It is for a model that is no flow.
    """
    if isinstance(rule, InSpace) and rule.space != rule.model:
        if rule.model != 'flow':
            raise ConfigError(f'diffusers_guider: {rule!r} needs sigma and alpha, which pipelines say of flow models only')
        return True
    return isinstance(rule, Combined) and any(map(_moves, rule.parts))
