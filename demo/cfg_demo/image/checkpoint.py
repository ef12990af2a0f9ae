"""Checkpoints: safetensors with the settings as JSON in their header, and nothing that runs code when it is read.

model.safetensors      the averaged weights and the settings of the model: what is sampled and shipped
training.safetensors   what a run needs to go on: weights, average, optimizers, settings, step and losses
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cfg_demo.folders import check_device
from cfg_demo.image.models import build_model
from cfg_demo.image.settings import MODEL_FILE, ModelSettings
from classifier_free_guidance_pytorch.errors import ConfigError


def write(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Tensors and notes to a file, which is moved into place when it is whole: an interruption leaves the old one."""
    part = path.with_suffix('.part')
    save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, part, {'notes': json.dumps(notes)})
    part.replace(path)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` wrote.

    Raises:
        ConfigError: no such file, or one that `write` did not write.
    """
    if not os.path.isfile(path):  # `Path.is_file` raises for a name that no disk takes
        wanted = path.name if path.suffix == '.safetensors' else MODEL_FILE
        raise ConfigError(f'there is no checkpoint {str(path)!r}: pass the {wanted} that a training run has written')
    try:
        with safe_open(path, framework='pt') as file:
            notes = dict(json.loads((file.metadata() or {})['notes']))
            return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f'{str(path)!r} cannot be read as a checkpoint ({type(error).__name__}: {error}): pass the file of a training run'
        ) from error


def save_model(
    model: Any, settings: ModelSettings, path: Path, *, half: bool = False, about: Mapping[str, Any] | None = None
) -> None:
    """A model to a file, in half precision to ship it; `about` is kept beside the settings."""
    weights = {
        name: tensor.half() if half and tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()
    }
    write(path, weights, {'model': asdict(settings), 'about': dict(about or {})})


def load_model(path: str | Path, device: str = 'cpu') -> tuple[Any, ModelSettings]:
    """A trained model in float32 and eval mode, and its settings.

    Raises:
        ConfigError: no checkpoint there, one of another configuration, or no such device.
    """
    check_device(device)
    weights, notes = read(Path(path))
    if 'model' not in notes:
        raise ConfigError(f'{str(path)!r} is the state of a training run and not a model: pass the {MODEL_FILE} beside it')
    try:
        settings = ModelSettings(**notes['model'])
    except (TypeError, ConfigError) as error:
        raise ConfigError(f'{str(path)!r} was written with settings that this version does not know: {error}') from error
    model = build_model(settings)
    load_weights(model, weights, path)
    return model.to(device).eval(), settings


def load_weights(model: Any, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Weights into a model.

    Args:
        model: what takes them.
        weights: by name.
        source: where they are from, for the error.

    Raises:
        ConfigError: they belong to a model of another configuration.
    """
    own = model.state_dict()
    odd = sorted(weights.keys() ^ own.keys())
    odd += [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    if odd:
        raise ConfigError(
            f'{str(source)!r} belongs to a model of another configuration: {len(odd)} of its {len(weights)} weights do not fit, '
            f'such as {odd[0]}'
        )
    model.load_state_dict(_in_float32(weights))


def load_what_fits(model: Any, weights: Mapping[str, Tensor], source: str | Path) -> list[str]:
    """Weights of a related model into a model; what it has in addition, or in another shape, stays as it is.

    Args:
        model: what takes them.
        weights: by name.
        source: where they are from, for the error.

    Returns:
        The names of what stayed as it is.

    Raises:
        ConfigError: most of them belong elsewhere.
    """
    own = model.state_dict()
    fitting = {name: weights[name] for name in own.keys() & weights.keys() if own[name].shape == weights[name].shape}
    if 2 * len(fitting) < len(own) or weights.keys() - own.keys():
        elsewhere = sorted(weights.keys() - fitting.keys())
        raise ConfigError(
            f'{str(source)!r} belongs to a model of another configuration: {len(elsewhere)} of its {len(weights)} weights do not '
            f'fit, such as {elsewhere[0]}'
        )
    model.load_state_dict({**own, **_in_float32(fitting)})
    return [name for name in own if name not in fitting]


def _in_float32(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


def pack_optimizers(optimizers: Iterable[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The moments of optimizers as named tensors."""
    return {
        f'optimizer.{which}.{index}.{name}': torch.as_tensor(value)
        for which, optimizer in enumerate(optimizers)
        for index, state in optimizer.state_dict()['state'].items()
        for name, value in state.items()
    }


def unpack_optimizers(optimizers: Iterable[torch.optim.Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """What `pack_optimizers` made, back into optimizers of the same parameters."""
    states: dict[int, dict[int, dict[str, Tensor]]] = {}
    for key, tensor in tensors.items():
        if key.startswith('optimizer.'):
            _, which, index, name = key.split('.')
            states.setdefault(int(which), {}).setdefault(int(index), {})[name] = tensor
    for number, optimizer in enumerate(optimizers):
        optimizer.load_state_dict({**optimizer.state_dict(), 'state': states.get(number, {})})
