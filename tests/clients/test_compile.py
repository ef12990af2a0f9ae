"""`torch.compile` and `torch.export`."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator, guidance
from tests.conditioners.making import noise, randomised
from tests.decorator.models import TEXTS
from tests.tiny_models import TinyEncoder

KINDS = ('film', 'attention', 'concat', 'raw', 'null')
kinds = pytest.mark.parametrize('kind', KINDS)
SCALES = (torch.full((3,), 2.0), torch.tensor([0.0, 1.0, 5.0]), torch.ones(3))


@pytest.fixture(autouse=True)
def _fresh_graphs():
    torch._dynamo.reset()


@classifier_free_guidance_class_decorator
class Net(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.inner = nn.Linear(dim, dim)
        self.read = nn.Linear(12, dim)

    def forward(self, x, cond_fns, raw_text_cond):
        h = cond_fns[0](self.inner(x))
        embed, mask = raw_text_cond
        if mask is not None:
            h = h + self.read((embed * mask.unsqueeze(-1)).sum(dim=1))
        return h


def net(kind, **arguments):
    encoders = {'text_condition_model_types': [TinyEncoder()], 'text_condition_hidden_dims': (6,), **arguments}
    return randomised(Net(text_condition_type=kind, **encoders)).eval()


def text_of(model, kind, form):
    if kind == 'null':
        return {}
    return {'text_embeds': model.encode_texts(TEXTS)} if form == 'embeddings' else {'text_condition': model.prepare(TEXTS)}


@kinds
@pytest.mark.parametrize('form', ['embeddings', 'prepared'])
def test_sampling_is_one_graph_over_all_steps(kind, form):
    model = net(kind)
    text = text_of(model, kind, form)
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for step, scale in enumerate(SCALES):
        x = noise(3, 6, seed=step)
        guided = compiled(x, **text, cond_scale=scale, rescale_phi=0.5)
        torch.testing.assert_close(guided, model(x, **text, cond_scale=scale, rescale_phi=0.5))
    assert counter.frame_count == 1


@pytest.mark.parametrize('call', [{'cfg_batched': True}, {'guidance': guidance.APG(norm=2.0)}, {'cond_scale': 3.0}],
                         ids=['batched', 'projected', 'a number'])  # fmt: skip
def test_other_calls_are_one_graph_too(call):
    model, x = net('attention'), noise(3, 6)
    call = {'cond_scale': SCALES[1], 'text_condition': model.prepare(TEXTS, ['grey']), **call}
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    torch.testing.assert_close(compiled(x, **call), model(x, **call))


@kinds
def test_a_training_step_is_one_graph(kind):
    model = net(kind, text_condition_cond_drop_prob=0.5)
    text = text_of(model, kind, 'embeddings')
    model.train()
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(3):
        x = noise(3, 6, seed=step)
        torch.manual_seed(step)
        loss = compiled(x, **text).square().mean()
        torch.manual_seed(step)
        torch.testing.assert_close(loss, model(x, **text).square().mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert counter.frame_count == 1


def test_texts_may_break_the_graph_but_work():
    model, x = net('attention'), noise(3, 6)
    compiled = torch.compile(model, backend='eager')
    for texts in (TEXTS, TEXTS[::-1]):
        torch.testing.assert_close(compiled(x, texts=texts, cond_scale=3.0), model(x, texts=texts, cond_scale=3.0))
    assert model.text_conditioner.text_models[0].calls == 2


def test_a_compiled_model_refuses_stale_conditions_once_it_is_told():
    model, x = net('film'), noise(3, 6)
    compiled = torch.compile(model, backend='eager')
    prepared = model.prepare(TEXTS)
    compiled(x, text_condition=prepared, cond_scale=3.0)
    model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()})
    with pytest.raises(Exception, match='the weights have changed since this text_condition was prepared'):
        compiled(x, text_condition=prepared, cond_scale=3.0)


def test_inductor():
    model, x = net('film'), noise(3, 6)
    prepared = model.prepare(TEXTS)
    compiled = torch.compile(model, fullgraph=True)
    for scale in SCALES[:2]:
        guided = compiled(x, text_condition=prepared, cond_scale=scale)
        torch.testing.assert_close(guided, model(x, text_condition=prepared, cond_scale=scale), rtol=1e-4, atol=1e-4)


class Exported(nn.Module):
    """What leaves for deployment: a step at a fixed signature."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, embeds, scale):
        return self.model(x, text_embeds=embeds, cond_scale=scale)


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat', 'raw'])
def test_export(kind):
    model = net(kind)
    embeds = tuple(model.embed_texts(TEXTS)) if kind in ('attention', 'raw') else model.embed_texts(TEXTS)
    step = Exported(model).eval()
    with torch.no_grad():
        program = torch.export.export(step, (noise(3, 6), embeds, SCALES[0]))
        for seed, scale in enumerate(SCALES):
            x = noise(3, 6, seed=seed)
            torch.testing.assert_close(program.module()(x, embeds, scale), step(x, embeds, scale))
