"""`torch.compile`, `torch.export` and `torch.func`."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator, guidance
from classifier_free_guidance_pytorch.errors import UsageError
from tests.conditioners.making import noise, randomised
from tests.decorator.models import TEXTS
from tests.releases import NO_PREPARED_RAW, OLDER_TORCH
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
    if (kind, form) == ('raw', 'prepared') and OLDER_TORCH:
        pytest.skip(NO_PREPARED_RAW)
    model = net(kind)
    text = text_of(model, kind, form)
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for step, scale in enumerate(SCALES):
        x = noise(3, 6, seed=step)
        guided = compiled(x, **text, cond_scale=scale, rescale_phi=0.5)
        torch.testing.assert_close(guided, model(x, **text, cond_scale=scale, rescale_phi=0.5))
    assert counter.frame_count == 1


SEQUENCE = ((2, 3, 2.0), (3, 5, 3.5), (4, 2, 1.7), (5, 7, 4.1))  # samples, words of a text, scale


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat', 'raw'])
@pytest.mark.parametrize(
    ('form', 'scale_of', 'more'),
    [
        ('embeddings', lambda scale, rows: scale, {}),
        ('embeddings', lambda scale, rows: torch.tensor(scale), {'guidance': guidance.APG(norm=2.0)}),
        ('prepared', lambda scale, rows: scale, {'guidance': guidance.APG(norm=2.0)}),
        ('prepared', lambda scale, rows: torch.linspace(1.5, scale, rows), {}),
    ],
    ids=['a number', 'a tensor, APG', 'prepared, a number, APG', 'prepared, one per sample'],
)
def test_two_graphs_serve_every_batch_length_and_scale(kind, form, scale_of, more):
    if (kind, form) == ('raw', 'prepared') and OLDER_TORCH:
        pytest.skip(NO_PREPARED_RAW)
    model, counter = net(kind), CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for step, (rows, words, scale) in enumerate(SEQUENCE):
        texts = [' '.join(['red'] * (words - row % 2)) for row in range(rows)]
        text = {'text_embeds': model.encode_texts(texts)} if form == 'embeddings' else {'text_condition': model.prepare(texts)}
        call = {**text, **more, 'cond_scale': scale_of(scale, rows)}
        x = noise(rows, 6, seed=step)
        torch.testing.assert_close(compiled(x, **call), model(x, **call))
    assert counter.frame_count <= 2


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


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat', 'raw'])
def test_export_for_any_batch(kind):
    model, step = net(kind), Exported(net(kind)).eval()
    few, many = model.embed_texts(TEXTS), model.embed_texts(TEXTS * 2)
    rows = {0: torch.export.Dim('b', min=2, max=64)}
    of_text = rows
    if kind in ('attention', 'raw'):
        few, many, of_text = tuple(few), tuple(many), (rows, rows)
    with torch.no_grad():
        program = torch.export.export(step, (noise(3, 6), few, SCALES[0]), dynamic_shapes=(rows, of_text, rows))
        x, scale = noise(6, 6), torch.linspace(0, 5, 6)
        torch.testing.assert_close(program.module()(x, many, scale), step(x, many, scale))


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat', 'raw'])
@pytest.mark.parametrize('more', [{}, {'guidance': guidance.APG()}, {'cfg_batched': True}], ids=['plain', 'projected', 'batched'])
def test_vmap_over_scales(kind, more):
    model, x = net(kind), noise(3, 6)
    call = {'text_condition': model.prepare(TEXTS), **more}
    scales = torch.linspace(0, 5, 4)
    together = torch.func.vmap(lambda scale: model(x, **call, cond_scale=scale))(scales)
    torch.testing.assert_close(together, torch.stack([model(x, **call, cond_scale=float(scale)) for scale in scales]))


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat', 'raw'])
def test_vmap_over_samples(kind):
    model, x = net(kind), noise(3, 6)
    model.encode_texts(TEXTS[:1])  # the encoder of this test draws random numbers, which vmap does not allow
    one = torch.func.vmap(lambda row: model(row[None], texts=TEXTS[:1], cond_scale=3.0)[0])(x)
    torch.testing.assert_close(one, model(x, texts=TEXTS[:1], cond_scale=3.0))


def difference(fn, x, along, step=1e-5):
    """The derivative of `fn` along a direction, by central differences in float64."""
    return (fn(x + step * along) - fn(x - step * along)) / (2 * step)


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat', 'raw'])
def test_jvp(kind):
    model = net(kind, **({'text_condition_flash': False} if kind == 'attention' else {})).double()
    prepared, x, along = model.prepare(TEXTS), noise(3, 6).double(), noise(3, 6, seed=1).double()

    def step(x):
        return model(x, text_condition=prepared, cond_scale=3.0)

    value, derivative = torch.func.jvp(step, (x,), (along,))
    torch.testing.assert_close(value, step(x))
    torch.testing.assert_close(derivative, difference(step, x, along), rtol=1e-6, atol=1e-7)


def test_the_fused_kernels_say_that_they_have_no_forward_derivative():
    model, x = net('attention'), noise(3, 6)
    prepared = model.prepare(TEXTS)
    with pytest.raises(UsageError, match=r'no forward-mode derivative: build the conditioner with flash=False'):
        torch.func.jvp(lambda x: model(x, text_condition=prepared, cond_scale=3.0), (x,), (x,))


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat', 'raw'])
def test_functional_call_is_never_answered_from_the_cache_of_other_weights(kind):
    model, x = net(kind), noise(3, 6)
    call = {'texts': TEXTS, 'cond_scale': 3.0}
    before = model(x, **call)
    weights = {name: 2 * weight.detach() for name, weight in model.named_parameters()}
    with torch.no_grad():
        other = torch.func.functional_call(model, weights, (x,), call)
    again = model(x, **call)
    model.load_state_dict(weights, strict=False)
    torch.testing.assert_close(other, model(x, **call))
    torch.testing.assert_close(again, before)


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat', 'raw'])
def test_an_ensemble_is_one_vmap_over_its_weights(kind):
    models, x = [net(kind), net(kind)], noise(3, 6)
    models[1].load_state_dict({name: 1.5 * weight for name, weight in models[0].state_dict().items()})
    stacked, buffers = torch.func.stack_module_state(models)
    call = {'text_embeds': models[0].encode_texts(TEXTS), 'cond_scale': 3.0}

    def one(weights, constants):
        return torch.func.functional_call(models[0], (weights, constants), (x,), call)

    with torch.no_grad():
        together = torch.func.vmap(one)(stacked, buffers)
    torch.testing.assert_close(together, torch.stack([model(x, **call) for model in models]))
