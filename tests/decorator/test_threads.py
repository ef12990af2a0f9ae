"""One model in two threads: a weak pass belongs to the call that makes it."""

import asyncio
import sys
import threading

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator, guidance
from classifier_free_guidance_pytorch.perturb import perturbed_attention, skip_layers
from tests.conditioners.making import noise
from tests.decorator.models import TEXTS, build

RULE = guidance.CFG() + guidance.Weak(2.0)


@classifier_free_guidance_class_decorator
class Blocks(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.attn = nn.MultiheadAttention(dim, 2, batch_first=True)
        self.mlp = nn.Linear(dim, dim)

    def forward(self, x, cond_fns):
        h = cond_fns[0](x)
        h = h + self.attn(h, h, h, need_weights=False)[0]
        return self.mlp(h)


@pytest.fixture
def switching_often():
    """Let threads take turns after every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize('spec', [skip_layers('mlp'), perturbed_attention('attn')], ids=['skipped', 'perturbed'])
def test_a_weak_pass_is_not_seen_by_another_thread(spec, switching_often):
    model, x = build(cls=Blocks, text_condition_hiddens_channel_first=False), noise(3, 4, 6)
    calls = [{'cond_scale': 3.0, 'guidance': RULE, 'weak': spec}, {'cond_scale': 3.0}]
    with torch.no_grad():
        expected = [model(x, texts=TEXTS, **call) for call in calls]
    assert not torch.allclose(*expected)
    wrong, start = [], threading.Barrier(2)

    def sample(which):
        start.wait()
        for _ in range(300):
            with torch.no_grad():
                if not torch.equal(model(x, texts=TEXTS, **calls[which]), expected[which]):
                    wrong.append(which)

    threads = [threading.Thread(target=sample, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 0, f'{len(wrong)} wrong of 600'
    assert not any('forward' in module.__dict__ for module in model.modules()), 'a layer stays changed'


def test_a_block_in_one_task_is_not_seen_by_another():
    model, x = build(cls=Blocks, text_condition_hiddens_channel_first=False), noise(3, 4, 6)
    with torch.no_grad(), skip_layers('mlp').applied(model):
        weak = model(x, texts=TEXTS)
    strong = model(x, texts=TEXTS).detach()

    async def weakened(entered, left):
        with torch.no_grad(), skip_layers('mlp').applied(model):
            entered.set()
            await left.wait()
            return model(x, texts=TEXTS)

    async def both():
        entered, left = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(weakened(entered, left))
        await entered.wait()
        with torch.no_grad():
            here = model(x, texts=TEXTS)
        left.set()
        return here, await task

    here, there = asyncio.run(both())
    torch.testing.assert_close(here, strong)
    torch.testing.assert_close(there, weak)
