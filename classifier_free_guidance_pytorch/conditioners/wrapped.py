"""A conditioner inside what other libraries wrap around it."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from classifier_free_guidance_pytorch.conditioners.base import Conditioner
from classifier_free_guidance_pytorch.errors import UsageError


def unwrapped(module: Any) -> Conditioner | None:
    """Return a conditioner, or the one in a wrapper such as `torch.compile`'s or PEFT's; None where there is none.

    The conditioner runs as it is, without what its wrapper does around a call of it.

    Raises:
        UsageError: A wrapper without which it would compute something else: it sums gradients, or gathers weights.
    """
    if isinstance(module, Conditioner):
        if hasattr(type(module), 'unshard'):  # FSDP2 changes the class of what it shards
            _refuse_wrapper('fully_shard(text_conditioner)', 'fully_shard(model)')
        return module
    if not isinstance(module, nn.Module):
        return None
    kind = type(module).__name__
    if kind == 'FullyShardedDataParallel' or (isinstance(module, DistributedDataParallel) and module.training):
        _refuse_wrapper(f'{kind}(text_conditioner)', f'{kind}(model)')
    found = getattr(module, 'unwrapped', None)  # a wrapper that hands attributes on knows which adapter is active
    return found if isinstance(found, Conditioner) else unwrapped(getattr(module, 'module', None))


def _refuse_wrapper(wrapper: str, instead: str) -> None:
    """Raise `UsageError` for a wrapper of the conditioner alone."""
    raise UsageError(
        f'the forward of a model reads its text conditioner in several steps, but {wrapper} does its work around one call of it: '
        f'wrap the whole model, {instead}'
    )
