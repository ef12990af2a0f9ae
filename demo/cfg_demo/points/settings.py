"""Everything that can be chosen about a run of `cfg-demo points`, checked before any work is done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cfg_demo.folders import check_device
from classifier_free_guidance_pytorch.errors import ConfigError

CONDITIONS = ('film', 'attention', 'concat')

# The rules of `guidance` that need a conditional and a null prediction and nothing else, by their names on the command line.
RULES = {'cfg': 'CFG', 'apg': 'APG', 'cfg-zero-star': 'CFGZeroStar', 'tcfg': 'TCFG', 'raag': 'RAAG'}


@dataclass(frozen=True)
class Settings:
    """One run: what the model is conditioned by, how it is trained, how it is sampled.

    Args:
        model_types: text encoders: `'mini'`, `'english'`, `'t5'`, `'clip'`, `'bge'`, `'hf'`, or encoder objects.
        model_names: a name or local path per encoder; None for the defaults.
        condition: how the text enters the denoiser: `'film'`, `'attention'` or `'concat'`.
        cond_drop_prob: share of training captions replaced by the null condition; 0 leaves the null branch untrained.
        caption_noise: share of training clouds whose caption belongs to another cloud, as captions from the web do.
        steps: training steps.
        batch_size: captions per training step.
        scales: guidance scales to sample at; 1 is off and 0 unconditional.
        rule: a key of `RULES`.
        rescale_phi: share of the guided prediction rescaled to the conditional's standard deviation.
        interval: `(lo, hi)`: scales above 1 act only at flow times in `(lo, hi]`, where 1 is pure noise (Kynkäänniemi et al.,
            2024, arXiv 2404.07724). Early on, large scales push points out of every shape; `(0, 1)` guides at all times.
        negative: a text to steer away from, instead of the null condition.
        samples: points drawn per prompt and scale.
        sample_steps: Euler steps per sample.
        device: where to train and sample.
        seed: seed of everything random.
        threads: CPU threads; fixed, since the last digits depend on it. Steps this small gain little from more, and wait for
            one another far too long when the machine is busy.

    Raises:
        ConfigError: a value that cannot work, by name.
    """

    model_types: Sequence[Any] = ('mini',)
    model_names: Sequence[str | None] | None = None
    condition: str = 'film'
    cond_drop_prob: float = 0.2
    caption_noise: float = 0.1
    steps: int = 2000
    batch_size: int = 128
    scales: Sequence[float] = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)
    rule: str = 'cfg'
    rescale_phi: float = 0.0
    interval: tuple[float, float] = (0.0, 0.5)
    negative: str | None = None
    samples: int = 128
    sample_steps: int = 25
    device: str = 'cpu'
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ('steps', 'batch_size', 'samples', 'sample_steps', 'threads'):
            if getattr(self, name) < 1:
                raise ConfigError(f'{name} counts from 1, but got {getattr(self, name)}')
        for name in ('cond_drop_prob', 'caption_noise', 'rescale_phi'):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f'{name} is a share between 0 and 1, but got {getattr(self, name)}')
        _one_of('condition', self.condition, CONDITIONS)
        _one_of('guidance', self.rule, RULES)
        self._check_scales()
        if not 0.0 <= self.interval[0] < self.interval[1] <= 1.0:
            raise ConfigError(f'interval is two flow times LO HI with 0 <= LO < HI <= 1, but got {self.interval}')
        check_device(self.device)

    def _check_scales(self) -> None:
        if not self.scales:
            raise ConfigError('scales is empty: pass at least one guidance scale, such as 1')
        for scale in self.scales:
            if not math.isfinite(scale):
                raise ConfigError(f'a guidance scale is a finite number, but scales has {scale}')
        if len(set(self.scales)) < len(self.scales):
            raise ConfigError(f'every guidance scale is sampled once, but scales repeats one: {list(self.scales)}')


def _one_of(name: str, value: str, known: Sequence[str] | dict[str, Any]) -> None:
    if value not in known:
        raise ConfigError(f'{name} is one of {", ".join(known)}, but got {value!r}')
