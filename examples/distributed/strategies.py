"""Three ways to train one model on many processes, with the same methods.

    ddp          every process holds all weights                     torch.nn.parallel.DistributedDataParallel
    fsdp         every process holds a share of every weight         torch.distributed.fsdp.fully_shard (FSDP2)
    accelerate   as `accelerate config` or `accelerate launch` say   accelerate.Accelerator

The text encoders are no part of the model's parameters: each process has its own, frozen, and none is ever sharded or saved.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


class DDP:
    """Every process holds all weights and averages its gradients with the others'."""

    def __init__(self, bf16: bool) -> None:
        self.bf16 = bf16
        if torch.cuda.is_available():
            self.device, backend = torch.device('cuda', int(os.environ.get('LOCAL_RANK', '0'))), 'cpu:gloo,cuda:nccl'
            torch.cuda.set_device(self.device)
        else:
            self.device, backend = torch.device('cpu'), 'gloo'
        if 'WORLD_SIZE' in os.environ:  # started by torchrun, or by accelerate launch
            dist.init_process_group(backend)
        else:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> tuple[nn.Module, Optimizer]:
        """The model to call, and the optimizer of its weights."""
        parallel = nn.parallel.DistributedDataParallel(model.to(self.device))
        return parallel, make_optimizer(parallel.parameters())

    def precision(self) -> AbstractContextManager:
        """Around the forward pass. Encoders take no part in autocast: their precision is their own."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def accumulating(self, model: Any, last: bool) -> AbstractContextManager:
        """Around forward and backward of a micro-batch: gradients are averaged with the other processes' at the last one only."""
        return nullcontext() if last else model.no_sync()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a number over all processes."""
        if dist.is_initialized():
            dist.all_reduce(value)
        return value / self.world

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


class FSDP(DDP):
    """Every process holds a share of every weight in float32, and gathers the weights of a group when it needs them."""

    def prepare(self, model: Any, make_optimizer: MakeOptimizer) -> tuple[nn.Module, Optimizer]:
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        model.to(self.device)
        # inputs are not cast: the model casts the images itself and keeps the times in float32
        policy = (
            MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
            if self.bf16
            else MixedPrecisionPolicy()
        )
        for block in model.blocks:
            fully_shard(block, mp_policy=policy)
        fully_shard(model, mp_policy=policy)  # everything else, the text conditioner among it: docs/training.md says why
        return model, make_optimizer(model.parameters())

    def precision(self) -> AbstractContextManager:
        return nullcontext()  # the policy's

    @contextmanager
    def accumulating(self, model: Any, last: bool):
        model.set_requires_gradient_sync(last)
        yield


class Accelerated(DDP):
    """Whatever Hugging Face Accelerate was told to do."""

    def __init__(self, bf16: bool) -> None:
        from accelerate import Accelerator

        self.accelerator = Accelerator(mixed_precision='bf16' if bf16 else 'no', cpu=not torch.cuda.is_available())
        self.device, self.rank, self.world = (
            self.accelerator.device,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> tuple[nn.Module, Optimizer]:
        optimizer = make_optimizer(model.parameters())
        model, _ = self.accelerator.prepare(model, optimizer)  # together: Accelerate may shard what both of them hold
        return model, optimizer  # the wrapper round the optimizer is for the loss scaler, which bfloat16 does not need

    def precision(self) -> AbstractContextManager:
        return nullcontext()  # in the prepared model's forward

    def accumulating(self, model: Any, last: bool) -> AbstractContextManager:
        return nullcontext() if last else self.accelerator.no_sync(model)

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def close(self) -> None:
        self.accelerator.free_memory()
        super().close()


STRATEGIES = {'ddp': DDP, 'fsdp': FSDP, 'accelerate': Accelerated}
