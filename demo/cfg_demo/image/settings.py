"""What a text-to-image model is, and how it is trained; checked before any work is done, and kept in every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cfg_demo.folders import check_device
from classifier_free_guidance_pytorch.errors import ConfigError

if TYPE_CHECKING:
    import torch

KINDS = ('single', 'relation', 'count', 'list')  # of drawn scenes, as in cfg_demo.shapes, which loads torch
CONDITIONS = ('film', 'attention', 'concat')
NETWORKS = ('unet', 'transformer')
NETWORK_SIZES = ('tiny', 'mini', 'small', 'base')
MODEL_FILE, TRAINING_FILE = 'model.safetensors', 'training.safetensors'
PREDICTIONS = ('flow', 'v', 'epsilon')
NULLS = ('learned', 'zeros')
DROPOUTS = ('sample', 'batch')
OPTIMIZERS = ('muon', 'adamw')
LARGEST_IMAGE = 1024  # pixels
PRECISIONS = ('auto', 'float32', 'bfloat16', 'float16')


@dataclass(frozen=True)
class ModelSettings:
    """Everything that is needed to build a model: its checkpoint holds these and the weights, and nothing else.

    Args:
        network: 'unet' or 'transformer'.
        network_size: 'tiny' (for tests), 'mini' (for a few minutes on a CPU), 'small' (for an hour) or 'base' (15 million
            parameters, for a GPU).
        image_size: width and height in pixels.
        condition: how the text enters: 'film', 'attention' or 'concat'.
        model_types: text encoders: 'mini', 'english', 't5', 'clip', 'bge', 'hf'.
        model_names: a name or local path per encoder; None for the defaults.
        null: what stands for no text: 'learned' or 'zeros'.
        prediction: 'flow' (velocity, arXiv 2210.02747), 'v' (arXiv 2202.00512) or 'epsilon' (arXiv 2006.11239).
        zoom: how many times larger than usual the drawn world's bodies are in its pictures, by which their sizes are read.
        reads_scale: whether it can learn to guide in one pass.

    Raises:
        ConfigError: a value that cannot work, by name.
    """

    network: str = 'unet'
    network_size: str = 'small'
    image_size: int = 32
    condition: str = 'attention'
    model_types: Sequence[str] = ('mini',)
    model_names: Sequence[str | None] | None = None
    null: str = 'learned'
    prediction: str = 'flow'
    zoom: float = 1.0
    reads_scale: bool = False

    def __post_init__(self) -> None:
        one_of('network', self.network, NETWORKS)
        one_of('network_size', self.network_size, NETWORK_SIZES)
        one_of('condition', self.condition, CONDITIONS)
        one_of('null', self.null, NULLS)
        one_of('prediction', self.prediction, PREDICTIONS)
        from cfg_demo.shapes.layout import check_zoom  # loads torch

        check_zoom(self.zoom)
        if not 16 <= self.image_size <= LARGEST_IMAGE or self.image_size % 8:
            raise ConfigError(f'image_size is a multiple of 8 from 16 to {LARGEST_IMAGE}, but got {self.image_size}')
        if self.network == 'transformer' and self.image_size % 16:
            raise ConfigError(f'a transformer sees 16 x 16 patches, so image_size is a multiple of 16, but got {self.image_size}')
        for name in ('model_types', 'model_names'):  # lists come back from JSON; settings compare as tuples
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))


@dataclass(frozen=True)
class TrainSettings:
    """How a model is trained.

    Args:
        steps: optimizer steps.
        batch_size: captioned images per step.
        cond_drop_prob: share of captions that training replaces by the null condition; 0 leaves the null branch untrained.
        dropout: drop captions one by one ('sample') or those of a whole batch together ('batch').
        optimizer: 'muon' (matrices by Muon, the rest by AdamW) or 'adamw'.
        learning_rate: its peak, after `warm_up` steps and before the cosine; None for the optimizer's own.
        warm_up: steps.
        time_mean: of the logit of training times, which are logit-normal (arXiv 2403.03206): above 0 they dwell at high noise,
            where places, counts and backgrounds are decided, below at low noise, where edges are.
        time_spread: their standard deviation.
        ema_decay: of the moving average of the weights, which is what is sampled and saved.
        clip: the largest norm of a step's gradient.
        precision: 'float32', 'bfloat16' or 'float16' under autocast, or 'auto': bfloat16 where the device multiplies in it.
        device: where to train.
        seed: of the weights, the data and the noise.

    Raises:
        ConfigError: a value that cannot work, by name.
    """

    steps: int = 2000
    batch_size: int = 64
    cond_drop_prob: float = 0.15
    dropout: str = 'sample'
    optimizer: str = 'muon'
    learning_rate: float | None = None
    warm_up: int = 100
    time_mean: float = 0.5
    time_spread: float = 1.4
    ema_decay: float = 0.998
    clip: float = 1.0
    precision: str = 'auto'
    device: str = 'cpu'
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ('steps', 'batch_size'):
            if getattr(self, name) < 1:
                raise ConfigError(f'{name} counts from 1, but got {getattr(self, name)}')
        if self.warm_up < 0:
            raise ConfigError(f'warm_up is a number of steps, 0 or more, but got {self.warm_up}')
        for name in ('cond_drop_prob', 'ema_decay'):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f'{name} is between 0 and 1, but got {getattr(self, name)}')
        if not math.isfinite(self.time_mean):
            raise ConfigError(f'time_mean is a finite number, but got {self.time_mean}')
        for name in ('clip', 'learning_rate', 'time_spread'):
            if getattr(self, name) is not None and not 0.0 < getattr(self, name) < math.inf:
                raise ConfigError(f'{name} is a finite number above 0, but got {getattr(self, name)}')
        one_of('dropout', self.dropout, DROPOUTS)
        one_of('optimizer', self.optimizer, OPTIMIZERS)
        one_of('precision', self.precision, PRECISIONS)
        check_device(self.device)

    def autocast(self) -> torch.autocast:
        """The context that a forward pass trains in."""
        import torch  # here, so that --help does without it

        return autocast(torch.device(self.device), self.precision)


def autocast(device: torch.device, precision: str = 'auto') -> torch.autocast:
    """The context of a forward pass in a precision, one of `PRECISIONS`."""
    import torch

    name = precision
    if name == 'auto':
        name = 'bfloat16' if multiplies_bfloat16(device.type) else 'float32'
    return torch.autocast(device.type, getattr(torch, name) if name != 'float32' else None, enabled=name != 'float32')


def multiplies_bfloat16(device_type: str) -> bool:
    """Whether a device multiplies matrices of bfloat16 in hardware, several times faster than float32."""
    import torch

    if device_type == 'cuda':
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: Any = getattr(torch.cpu, 'get_capabilities', dict)  # newer than the oldest torch this library supports
    has = capabilities() if device_type == 'cpu' else {}
    return bool(has.get('amx_bf16', False) or has.get('avx512_bf16', False))


def one_of(name: str, value: str, known: Sequence[str]) -> None:
    """Refuse a value that is not among those known.

    Raises:
        ConfigError: with the list of those that are.
    """
    if value not in known:
        raise ConfigError(f'{name} is one of {", ".join(known)}, but got {value!r}')
