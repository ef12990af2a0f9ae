"""Where a module computes and in which precision: the one place that decides it.

Both are those of its weights, as long as the weights are at work where they are stored. They are not where accelerate offloads
them (they are on `meta` between calls), where diffusers stores them in float8, or where they are packed in int8 or 4 bits.
Features are then made for the device and the precision that the weights are brought to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from classifier_free_guidance_pytorch.errors import UsageError

COMPUTE_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


class Place(NamedTuple):
    """The device and the floating dtype in which a module computes."""

    device: torch.device
    dtype: torch.dtype

    def put(self, tensor: Tensor) -> Tensor:
        """Return features on this device and in this dtype."""
        return tensor.to(self.device, self.dtype)

    def zeros(self, *shape: int) -> Tensor:
        """Return zeros: a constant is made where it is used, since a model that was made on `meta` keeps none."""
        return torch.zeros(shape, device=self.device, dtype=self.dtype)


def place_of(*modules: nn.Module) -> Place:
    """Return where modules compute, by the first weight that tells; the CPU in the default dtype where there is none.

    Raises:
        UsageError: All weights are on `meta`, and nothing says where they are brought to.
    """
    first = modules[0]._parameters.get('weight')  # the common case, asked at every step
    if first is not None and first.dtype in COMPUTE_DTYPES and not first.is_meta and not comes_and_goes(modules[0]):
        return Place(first.device, first.dtype)
    device: torch.device | None = None
    dtype: torch.dtype | None = None
    weight: Tensor | None = None
    for module, weight in _weights(modules):
        to_device, to_dtype = _brought_to(module)
        to_device, to_dtype = to_device or weight.device, to_dtype or weight.dtype
        device = to_device if device is None and to_device.type != 'meta' else device
        dtype = to_dtype if dtype is None and to_dtype in COMPUTE_DTYPES else dtype
        if device is not None and dtype is not None:
            return Place(device, dtype)
    if device is None and weight is not None:
        raise UsageError(
            f'the weights of {type(modules[-1]).__name__} are on the device meta, so there is nothing to compute with: load them '
            'first (to_empty(device=...), then load_state_dict), or offload them with a library that brings them back, such as '
            'accelerate'
        )
    return Place(device or torch.device('cpu'), dtype or torch.get_default_dtype())


def _weights(modules: Sequence[nn.Module]) -> Iterator[tuple[nn.Module, Tensor]]:
    """Yield the weights of modules, each with the module that owns it."""
    owned = [pair for module in modules for pair in owned_weights(module)]
    yield from owned
    if owned:
        return
    for module in modules:  # replicas of `DataParallel` and flattened weights are tensors, and no parameters
        for one in with_children(module):
            for value in one.__dict__.values():
                if isinstance(value, Tensor):
                    yield one, value


def with_children(module: nn.Module) -> list[nn.Module]:
    """Return a module and all modules in it, those that are there twice too."""
    found = [module]
    for one in found:
        found += [child for child in one._modules.values() if child is not None]
    return found


def owned_weights(module: nn.Module) -> Iterator[tuple[nn.Module, Tensor]]:
    """Yield the parameters of a module and of all modules in it, each with the module that owns it."""
    for one in with_children(module):
        for weight in one._parameters.values():
            if weight is not None:
                yield one, weight


def comes_and_goes(module: nn.Module) -> bool:
    """Whether accelerate or diffusers, who keep here what they do around a forward, may move or cast the weights."""
    return '_hf_hook' in module.__dict__ or '_diffusers_hook' in module.__dict__


def _brought_to(module: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
    """Return the device (accelerate) and the dtype (diffusers) to which the weights of a module are brought for a call."""
    device, dtype = None, None
    offloading = module.__dict__.get('_hf_hook')
    for hook in getattr(offloading, 'hooks', (offloading,)):  # several, in sequence
        target = getattr(hook, 'execution_device', None)
        device = device if target is None else torch.device(target)
    for hook in getattr(module.__dict__.get('_diffusers_hook'), 'hooks', {}).values():
        dtype = getattr(hook, 'compute_dtype', dtype)
    return device, dtype
