"""What a server or a training run does: streams, threads, thousands of steps, one process of many."""

import contextlib
import gc
import threading

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.parts.growth import bytes_alive
from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.layers import CrossAttention
from tests.conditioners.making import noise, randomised
from tests.decorator.models import KINDS, TEXTS, build

THREADS, ROUNDS = 4, 50


@pytest.mark.parametrize('kind', KINDS)
@torch.no_grad()
def test_threads_with_streams_of_their_own(kind, device):
    model = build(kind).to(device)
    texts = [[f'{text} number {number}' for text in TEXTS] for number in range(THREADS)]
    inputs = [noise(3, 6, seed=number).to(device) for number in range(THREADS)]
    text_of = [{} if kind == 'null' else {'texts': one} for one in texts]
    expected = [model(x, **text, cond_scale=3.0) for x, text in zip(inputs, text_of, strict=True)]
    wrong, start = [], threading.Barrier(THREADS)

    def sample(number):
        own = torch.cuda.Stream() if device.type == 'cuda' else None
        start.wait()
        with torch.no_grad(), torch.cuda.stream(own) if own else contextlib.nullcontext():
            for _ in range(ROUNDS):
                guided = model(inputs[number], **text_of[number], cond_scale=3.0)
                if not torch.allclose(guided, expected[number], rtol=1e-5, atol=1e-5):
                    wrong.append(number)

    threads = [threading.Thread(target=sample, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@torch.no_grad()
def test_texts_that_another_stream_has_read(device, on_gpu):
    """What is remembered was written by one stream, and the next step may run on another."""
    model, x = build('film').to(device), noise(3, 6).to(device)
    for number in range(20):
        texts = [f'{text} {number}' for text in TEXTS]
        streams = [torch.cuda.Stream() for _ in range(2)]
        torch.cuda.synchronize()
        found = []
        for stream in streams:
            with torch.cuda.stream(stream):
                found.append(model(x, texts=texts, cond_scale=3.0))
            torch.cuda.current_stream().wait_stream(stream)
        torch.testing.assert_close(*found)


@pytest.mark.parametrize('kind', ['film', 'attention'])
@torch.no_grad()
def test_memory_is_flat(kind, device):
    model, x = build(kind).to(device), noise(3, 6).to(device)
    rule = guidance.APG(momentum=-0.5).then(guidance.rescale_to_cond(0.7))

    def alive():
        gc.collect()
        if device.type != 'cuda':
            return bytes_alive()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    state, taken = rule.init_state(), []
    for _ in range(3):
        for step in range(500 if device.type == 'cuda' else 5):
            model(x, texts=TEXTS, cond_scale=3.0, guidance=rule, guidance_state=state)
            model(x, texts=[f'{text} {step % 7}' for text in TEXTS], cond_scale=3.0)
        taken.append(alive())
    assert taken[1] == taken[2]


class Attentions(TorchDispatchMode):
    """Which attention kernels were run."""

    def __init__(self):
        super().__init__()
        self.ran = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if 'scaled_dot_product' in func.name():
            self.ran.add(func.name().removeprefix('aten::'))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('grad', [False, True])
def test_attention_with_a_mask_is_fused(dtype, grad, device):
    layer = randomised(CrossAttention(16, 32)).to(device, dtype)
    tokens, mask = noise(2, 77, 16).to(device, dtype), torch.arange(77, device=device) < torch.tensor([[5], [77]], device=device)
    x = noise(2, 256, 32).to(device, dtype).requires_grad_(grad)
    with torch.set_grad_enabled(grad):
        condition = layer.condition(tokens, mask)
        with Attentions() as attentions:
            layer(x, condition, False)
    assert attentions.ran
    fused = ('flash', 'efficient', 'cudnn')
    assert all(any(name in kernel for name in fused) for kernel in attentions.ran), attentions.ran


@pytest.mark.parametrize('kind', KINDS)
def test_one_process_of_many(kind, device, tmp_path):
    """NCCL on a GPU: a decorated model trains and samples inside DistributedDataParallel."""
    backend = 'nccl' if device.type == 'cuda' else 'gloo'
    dist.init_process_group(backend, init_method=f'file://{tmp_path}/rendezvous', rank=0, world_size=1)
    try:
        model = build(kind, training=True, text_condition_cond_drop_prob=0.3).to(device)
        model.read_text.requires_grad_(kind in ('attention', 'raw'))  # only these hand it tokens to read
        parallel = DistributedDataParallel(model, device_ids=[0] if device.type == 'cuda' else None)
        x, text = noise(3, 6).to(device), {} if kind == 'null' else {'texts': TEXTS}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            parallel(x, **text).square().mean().backward()
            optimizer.step()
        parallel.eval()
        with torch.no_grad():
            torch.testing.assert_close(parallel(x, **text, cond_scale=3.0), model(x, **text, cond_scale=3.0))
    finally:
        dist.destroy_process_group()
