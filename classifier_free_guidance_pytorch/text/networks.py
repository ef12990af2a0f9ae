"""Networks shared in memory: one per model, device and dtype, however many encoders use it.

The bank holds its networks weakly, so a network is freed with the last encoder that uses it. A network used by one
encoder moves with that encoder; a network used by several never moves under the feet of the others. A change of dtype
always loads anew: a network that went through half precision is not the network of the checkpoint any more, and some
models keep a few layers in float32 when they are loaded in half precision (T5 overflows otherwise).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import RLock
from weakref import WeakSet, WeakValueDictionary

import torch
from torch import nn


class SharedNetwork:
    """A frozen network, where it is, and the encoders that use it."""

    def __init__(self, module: nn.Module, model: Hashable, device: torch.device, dtype: torch.dtype) -> None:
        self.module = module.requires_grad_(False).eval()
        self.model = model
        self.device = device
        self.dtype = dtype
        self.users: WeakSet[object] = WeakSet()

    def is_only_used_by(self, user: object) -> bool:
        """Whether moving the network disturbs nobody else."""
        return len(self.users) == 1 and user in self.users


class NetworkBank:
    """Every network that some encoder of this process uses."""

    def __init__(self) -> None:
        self._networks: WeakValueDictionary[Hashable, SharedNetwork] = WeakValueDictionary()
        self._lock = RLock()  # loading under the lock: two threads that want one model load it once

    def place(
        self,
        user: object,
        current: SharedNetwork | None,
        model: Hashable,
        device: torch.device,
        dtype: torch.dtype,
        load: Callable[[torch.dtype], nn.Module],
    ) -> SharedNetwork:
        """The network of `model` on `device` in `dtype`: the one at hand, one of another encoder, moved, or loaded.

        Args:
            user: the encoder that asks; it is counted as a user of the result.
            current: the network it used until now.
            model: what identifies the weights.
            device: where the network is needed.
            dtype: in which precision.
            load: reads the weights in a dtype, on the CPU.
        """
        with self._lock:
            if current is not None and (current.device, current.dtype) == (device, dtype):
                return current
            network = self._networks.get((model, device, dtype))
            if network is None and current is not None and current.dtype == dtype and current.is_only_used_by(user):
                network = self._move(current, device)
            if network is None:
                network = SharedNetwork(load(dtype).to(device), model, device, dtype)
                self._networks[model, device, dtype] = network
            if current is not None and current is not network:
                current.users.discard(user)
            network.users.add(user)
            return network

    def _move(self, network: SharedNetwork, device: torch.device) -> SharedNetwork:
        """Move a network in place and remember where it went."""
        self._networks.pop((network.model, network.device, network.dtype), None)
        network.module.to(device)
        network.device = device
        self._networks[network.model, device, network.dtype] = network
        return network


bank = NetworkBank()
