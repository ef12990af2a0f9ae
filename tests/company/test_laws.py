"""Laws that whatever wraps a layer or a model relies on."""

import copy
import pickle

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import guidance
from tests.company.models import GUIDED, SETTINGS, TEXTS, build, inputs, linears

settings = pytest.mark.parametrize(('kind', 'null'), SETTINGS)


class Watched(nn.Linear):
    """A linear layer whose weight nobody reads but itself, as that of a quantised, an adapted or an offloaded one."""

    calls = 0
    inside = False

    def forward(self, x):
        self.calls, self.inside = self.calls + 1, True
        try:
            return super().forward(x)
        finally:
            self.inside = False

    def __getattr__(self, name):
        assert name not in ('weight', 'bias') or self.inside, f'{name} was read around the layer'
        return super().__getattr__(name)


def watched(model):
    for layer in linears(model).values():
        layer.__class__ = Watched
    return model


def embeds_of(model, kind):
    """Every form in which texts that were embedded earlier are accepted."""
    model.eval()
    with torch.no_grad():
        embedded, encodings = model.embed_texts(TEXTS), model.encode_texts(TEXTS)
    forms = {'encodings': encodings, 'one encoding': encodings[0], 'embedded': embedded}
    if kind in ('attention', 'raw'):
        forms |= {'a pair': tuple(embedded), 'embedded, a tensor': embedded.embed, 'tokens, a tensor': encodings[0].tokens}
    else:
        forms['pooled, a tensor'] = encodings[0].pooled
    return forms


def calls_of(model, kind):
    """Calls of every kind, by name."""
    x = inputs()
    yield 'guided', lambda: model(x, **GUIDED)
    yield 'prepared', lambda: model(x, text_condition=model.prepare(TEXTS), cond_scale=3.0)
    yield 'null', lambda: model(x)
    yield 'batched', lambda: model(x, **GUIDED, cfg_batched=True)
    yield 'one text', lambda: model(x, texts=TEXTS[:1], cond_scale=3.0)
    if kind == 'attention':
        yield 'inside attention', lambda: model(x, texts=TEXTS, guidance=guidance.NAG(), cond_scale=3.0)
    yield 'training', lambda: model.train()(x, texts=TEXTS)
    yield 'training without texts', lambda: model.train()(x, cond_drop_prob=1.0)


@settings
def test_every_linear_layer_is_called_and_no_weight_is_read_around_it(kind, null):
    plain, model = build(kind, null=null), watched(build(kind, null=null))
    for (name, expected), (_, call) in zip(calls_of(plain, kind), calls_of(model, kind), strict=True):
        for module in (plain, model):
            module.eval()
        torch.testing.assert_close(call(), expected(), rtol=0, atol=0, msg=name)
    unused = [name for name, layer in linears(model).items() if layer.calls == 0]
    assert unused == []


@settings
def test_a_hook_sees_every_linear_layer_of_a_training_step(kind, null):
    model, seen = build(kind, null=null).train(), set()
    for name, layer in linears(model).items():
        layer.register_forward_hook(lambda *_, name=name: seen.add(name))
        layer.register_full_backward_hook(lambda *_: None)  # which forbids writing into what the layer returned
    model(inputs(), texts=TEXTS).sum().backward()
    assert seen == set(linears(model))


@settings
def test_every_parameter_has_a_gradient_for_every_form_of_text_embeds(kind, null):
    width = {'dim_latent': 9} if kind in ('attention', 'raw') else {}  # other than the encoder's, so that a tensor can be either
    model, x = build(kind, null=null, **width), inputs()
    for drop_prob in (0.0, 0.5, 1.0):
        for form, embeds in embeds_of(model, kind).items():
            model.train().zero_grad()
            model(x, text_embeds=embeds, cond_drop_prob=drop_prob).sum().backward()
            assert [name for name, p in model.named_parameters() if p.grad is None] == [], (form, drop_prob)
            assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('kind', ['attention', 'raw'])
def test_the_projection_has_a_zero_gradient_from_what_it_has_made(kind):
    model, x = build(kind), inputs()
    embedded = embeds_of(model, kind)['embedded']
    expected = model(x, text_embeds=embedded)
    torch.testing.assert_close(model.train()(x, text_embeds=embedded, cond_drop_prob=0.0), expected)
    model(x, text_embeds=embedded).sum().backward()
    assert not model.text_conditioner.to_latent_dims[0].weight.grad.any()


@settings
def test_nothing_is_kept_but_parameters(kind, null):
    """What is neither a parameter nor a persistent buffer is garbage in a model that was made on `meta`."""
    model, x = build(kind, null=null), inputs()
    assert list(model.buffers()) == []
    with torch.device('meta'):
        other = build(kind, null=null)
    other.to_empty(device='cpu').load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(other(x, **GUIDED), model(x, **GUIDED), rtol=0, atol=0)


def test_a_conditioner_without_weights_knows_where_it_was_moved():
    model = build('pooled', null='zeros', dim_latent=None)
    assert list(model.text_conditioner.parameters()) == []
    expected = model(inputs(), **GUIDED)
    assert model.to('meta').text_conditioner.place == (torch.device('cpu'), torch.float32)
    assert model.to_empty(device='cpu').to(torch.bfloat16).text_conditioner.place.dtype is torch.bfloat16
    other = copy.deepcopy(model.float())
    assert pickle.loads(pickle.dumps(other)).text_conditioner.place.dtype is torch.float32
    with torch.device('meta'):
        other = build('pooled', null='zeros', dim_latent=None)
    other.load_state_dict(build('pooled', null='zeros', dim_latent=None).state_dict(), assign=True)
    torch.testing.assert_close(other(inputs(), **GUIDED), expected, rtol=0, atol=0)


def test_a_model_without_conditioner_keeps_nothing_either():
    model = build('null')
    assert list(model.text_conditioner.state_dict()) == list(model.text_conditioner.buffers()) == []
    assert model.text_conditioner.device == torch.device('cpu')
