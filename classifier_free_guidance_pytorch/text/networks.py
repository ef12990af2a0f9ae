"""Networks shared in memory: one per model, device and dtype, however many encoders use it.

The bank holds weak references, so a network is freed with the last encoder that uses it. A network with one user moves with
that user; a network with several users never moves. A change of dtype always loads the weights again: weights that went through
half precision are no longer those of the checkpoint, and some models keep a few layers in float32 when they are loaded in half
precision (T5 overflows otherwise).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import RLock
from typing import TypeAlias
from weakref import WeakSet, WeakValueDictionary

import torch
from torch import nn

Device: TypeAlias = torch.device | str | int  # all that torch accepts as a device


@dataclass(eq=False)
class SharedNetwork:
    """A frozen network.

    Attributes:
        module: What runs.
        device: Where it is.
        dtype: In which precision.
        users: The encoders that use it.
        is_known: Whether somebody else may have it, as `encoder.model`, and so may write to its weights.
    """

    module: nn.Module
    device: torch.device
    dtype: torch.dtype
    users: WeakSet[object] = field(default_factory=WeakSet)
    is_known: bool = False


class NetworkBank:
    """All networks that the encoders of this process use."""

    def __init__(self) -> None:
        self._networks: WeakValueDictionary[Hashable, SharedNetwork] = WeakValueDictionary()
        self._lock = RLock()  # held while loading: two threads that want one model load it once

    def place(
        self,
        user: object,
        current: SharedNetwork | None,
        model: Hashable,
        device: torch.device,
        dtype: torch.dtype,
        load: Callable[[torch.dtype], nn.Module],
    ) -> SharedNetwork:
        """Return the network of `model` on `device` in `dtype`: the current one, another encoder's, a moved or a loaded one.

        Args:
            user: The encoder that asks. It is counted as a user of the result.
            current: The network it used until now.
            model: What identifies the weights.
            device: Where the network is needed.
            dtype: In which precision.
            load: Reads the weights in a dtype, on the CPU.
        """
        with self._lock:
            if current is not None and (current.device, current.dtype) == (device, dtype):
                return current
            network = self._networks.get((model, device, dtype))
            if network is None and current is not None and current.dtype == dtype and set(current.users) == {user}:
                network = current  # it has no other user, so it can move
                self._networks.pop((model, current.device, dtype), None)
                network.module.to(device)
                network.device = device
            elif network is None:
                network = SharedNetwork(load(dtype).to(device).requires_grad_(False).eval(), device, dtype)
            self._networks[model, device, dtype] = network
            if current is not None and current is not network:
                current.users.discard(user)
            network.users.add(user)
            return network


bank = NetworkBank()
