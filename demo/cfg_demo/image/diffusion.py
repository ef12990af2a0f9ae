"""The way from images to noise and back, on the schedulers of diffusers.

    prediction   noisy image                                     target                   scheduler
    flow         (1 - t) * image + t * noise                     noise - image            FlowMatchEulerDiscreteScheduler
    v, epsilon   sqrt(a_t) * image + sqrt(1 - a_t) * noise       v, or the noise          DDPMScheduler, squared cosine

Times run from 0 (data) to 1 (noise) for the network, and up to 1000 for the schedulers. Images are in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cfg_demo.folders import needs
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision

TIMES = 1000
# What can sample each prediction, the default first.
SAMPLERS: dict[str, tuple[str, ...]] = {
    'flow': ('euler', 'dpm++'),
    'v': ('ddim', 'ddpm', 'dpm++'),
    'epsilon': ('ddim', 'ddpm', 'dpm++'),
}


@dataclass(frozen=True)
class Diffusion:
    """A diffusion process, by what its network predicts.

    Args:
        prediction: 'flow', 'v' or 'epsilon'.

    Example:
        >>> import torch
        >>> noisy, target = Diffusion('flow').noised(torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), torch.tensor([0.25]))
        >>> noisy[0, 0, 0, 0].item(), target[0, 0, 0, 0].item()
        (0.75, -1.0)
    """

    prediction: str

    def __post_init__(self) -> None:
        if self.prediction not in SAMPLERS:
            raise ConfigError(f'prediction is one of {", ".join(SAMPLERS)}, but got {self.prediction!r}')

    def draw_times(self, count: int, generator: torch.Generator, mean: float = 0.0, spread: float = 1.0) -> Tensor:
        """Training times `(count,)`, logit-normal: `sigmoid(mean + spread * n)` (arXiv 2403.03206, section 3.1)."""
        return torch.sigmoid(mean + spread * torch.randn(count, generator=generator))

    def noised(self, images: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy images at `times` `(b,)` and what the network should predict for them, each `(b, c, h, w)`."""
        if self.prediction == 'flow':
            return torch.lerp(images, noise, times[:, None, None, None]), noise - images
        scheduler = self.scheduler('ddpm')
        steps = (times * (TIMES - 1)).long()
        noisy = scheduler.add_noise(images, noise, steps)
        return noisy, noise if self.prediction == 'epsilon' else scheduler.get_velocity(images, noise, steps)

    def network_time(self, timestep: Tensor | float) -> float:
        """The network's time, 0 to 1, of a scheduler's timestep."""
        return float(timestep) / (TIMES if self.prediction == 'flow' else TIMES - 1)

    def levels(self, time: float) -> tuple[float, float]:
        """`(sigma, alpha)` of `x = alpha * image + sigma * noise` at a time, as guidance rules in other spaces ask for."""
        if self.prediction == 'flow':
            return time, 1 - time
        kept = float(self.scheduler('ddpm').alphas_cumprod[round(time * (TIMES - 1))])
        return (1 - kept) ** 0.5, kept**0.5

    def scheduler(self, sampler: str | None = None) -> Any:
        """A scheduler of diffusers that samples this process.

        Args:
            sampler: one of `SAMPLERS[prediction]`; the first of them by default.

        Raises:
            ConfigError: a sampler that does not fit the prediction.
            MissingDependencyError: diffusers is not installed.
        """
        fitting = SAMPLERS[self.prediction]
        if sampler is not None and sampler not in fitting:
            raise ConfigError(
                f'a model that predicts {self.prediction} is sampled by {" or ".join(fitting)}, but got {sampler!r}'
            )
        needs('diffusers', 'images are sampled')
        repair_torchvision()  # which diffusers imports where it is installed
        import diffusers

        chosen = sampler or fitting[0]
        if self.prediction == 'flow':
            if chosen == 'euler':
                return diffusers.FlowMatchEulerDiscreteScheduler()
            return diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type='flow_prediction', flow_shift=1.0)
        kind = {'ddim': diffusers.DDIMScheduler, 'ddpm': diffusers.DDPMScheduler, 'dpm++': diffusers.DPMSolverMultistepScheduler}
        clips = {} if chosen == 'dpm++' else {'clip_sample': True}
        return kind[chosen](
            beta_schedule='squaredcos_cap_v2',
            prediction_type='v_prediction' if self.prediction == 'v' else 'epsilon',
            timestep_spacing='trailing',
            **clips,
        )
