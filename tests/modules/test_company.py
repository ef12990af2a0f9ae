"""Under gradient checkpointing, in threads, compiled and exported."""

import threading

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from classifier_free_guidance_pytorch.errors import UsageError
from tests.conditioners.making import noise
from tests.modules.networks import TEXTS, following, kinds, of_kind, seeded_net
from tests.releases import OLDER_TORCH

CALL = {'texts': TEXTS, 'cond_scale': 3.0}


@pytest.mark.parametrize('parts', ['blocks.*', 'blocks.*.linear'], ids=['outside', 'inside'])
def test_gradient_checkpointing(parts):
    """Parts inside a checkpoint run again in the backward pass, which may go through several forward passes at once."""
    gradients = []
    for checkpointed in (None, False):
        model, x = following(parts, seeded_net(checkpointed=checkpointed)).train(), noise(3, 5, 6)
        loss = model(x, texts=TEXTS).sum() + model(2 * x, texts=TEXTS[::-1]).square().sum() + model(x, cond_drop_prob=1.0).sum()
        model(3 * x, texts=TEXTS).sum().backward()
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(*gradients)


def test_a_reentrant_checkpoint_is_refused():
    model = following(net=seeded_net(checkpointed=True)).train()
    with pytest.raises(UsageError, match=r"'blocks.0' is called under no_grad, or in a reentrant checkpoint"):
        model(noise(3, 5, 6).requires_grad_(), texts=TEXTS)


def test_threads_see_their_own_text():
    model, x = following(), noise(3, 5, 6)
    calls = [CALL, {'texts': TEXTS[::-1]}, {}]
    expected = [model(x, **call) for call in calls]
    wrong = []

    def work(call, answer):
        for _ in range(60):
            if not torch.equal(model(x, **call), answer):
                wrong.append(call)

    with torch.no_grad():
        threads = [threading.Thread(target=work, args=pair) for pair in zip(calls, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@kinds
def test_sampling_is_one_graph(kind):
    torch._dynamo.reset()
    model, counter = of_kind(kind), CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    prepared = model.prepare(TEXTS)
    for seed, scale in enumerate((torch.full((3,), 2.0), torch.tensor([0.0, 1.0, 5.0]))):
        call = {'text_condition': prepared, 'cond_scale': scale}
        torch.testing.assert_close(compiled(noise(3, 5, 6, seed=seed), **call), model(noise(3, 5, 6, seed=seed), **call))
    assert counter.frame_count == 1
    for batch in (2, 5, 4):
        call = {'text_condition': model.prepare(TEXTS[:1] * batch), 'cond_scale': torch.full((batch,), 3.0)}
        torch.testing.assert_close(compiled(noise(batch, 5, 6), **call), model(noise(batch, 5, 6), **call))
    assert counter.frame_count == 2


@kinds
def test_a_compiled_training_step(kind):
    if kind == 'mixed' and OLDER_TORCH:
        pytest.skip('torch 2.9 does not trace how several kinds find their device in training')
    torch._dynamo.reset()
    gradients = []
    for compiled in (False, True):
        model = of_kind(kind, seeded_net(checkpointed=False)).train()
        run = torch.compile(model, fullgraph=True, backend='aot_eager') if compiled else model
        run(noise(3, 5, 6), text_embeds=model.encode_texts(TEXTS)).square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(*gradients)


class Exported(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, embeds, scale):
        return self.model(x, text_embeds=embeds, cond_scale=scale)


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat'])
def test_export(kind):
    model = of_kind(kind)
    embeds = tuple(model.embed_texts(TEXTS)) if kind == 'attention' else model.embed_texts(TEXTS)
    with torch.no_grad():
        program = torch.export.export(Exported(model).eval(), (noise(3, 5, 6), embeds, torch.ones(3)))
        x, scale = noise(3, 5, 6, seed=4), torch.tensor([0.0, 1.0, 5.0])
        torch.testing.assert_close(program.module()(x, embeds, scale), model(x, text_embeds=embeds, cond_scale=scale))


@pytest.mark.parametrize('train', [False, True], ids=['sampling', 'training'])
def test_parts_that_are_compiled_by_themselves(train):
    """As `compile_repeated_blocks` of diffusers does: a part that is traced alone still follows the text of its module."""
    torch._dynamo.reset()
    model, compiled = following().train(train), following().train(train)
    for block in compiled.blocks:
        block.compile(backend='eager')
    for texts in (TEXTS, TEXTS[::-1], None):
        call = {'texts': texts, 'cond_drop_prob': 0.0 if texts else 1.0} | ({} if train else {'cond_scale': 3.0})
        torch.testing.assert_close(compiled(noise(3, 5, 6), **call), model(noise(3, 5, 6), **call), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(compiled.blocks[0](noise(3, 5, 6)), seeded_net().blocks[0](noise(3, 5, 6)))
    torch._dynamo.reset()
    compiled.blocks[0].compile(backend='eager', fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match='compile the whole model, or its parts without fullgraph=True'):
        compiled(noise(3, 5, 6), texts=TEXTS)


class Breaks(nn.Module):
    """Tokens in, tokens out, by a part that no graph can hold."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)])

    def forward(self, x):
        x = self.blocks[0](x)
        x = torch._dynamo.disable(self.blocks[1].__call__)(x)
        return self.blocks[2](x)


def test_a_part_outside_of_the_graphs_of_its_module():
    torch._dynamo.reset()
    model = following(net=seeded_net(Breaks))
    expected, compiled = model(noise(3, 5, 6), **CALL), torch.compile(model, backend='eager')
    torch.testing.assert_close(compiled(noise(3, 5, 6), **CALL), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        compiled(noise(3, 5, 6), text_condition=model.prepare(TEXTS), cond_scale=3.0), expected, rtol=1e-4, atol=1e-4
    )
    assert model._text_current.traced is None
